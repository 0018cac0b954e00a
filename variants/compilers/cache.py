"""What a compiler cache (ccache, sccache) found of one build: counted by the cache itself, told in the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from ..terminal import disk, process
from .toolchain import Toolchain


class Count(msgspec.Struct, frozen=True):
    """How many compilations of a build were `found`, and how many had to be done (`missed`)."""

    found: int = 0
    missed: int = 0


class Counter:
    """Counts from its creation on. `toolchain` is the given one, told to keep a record where its cache can (ccache)."""

    def __init__(self, toolchain: Toolchain, log: Path) -> None:
        self.cache = toolchain.cache
        self.log = log.absolute()
        self.toolchain = toolchain
        if self.cache == "ccache":
            disk.remove(self.log)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.toolchain = msgspec.structs.replace(
                toolchain, environment={**toolchain.environment, "CCACHE_STATSLOG": str(self.log)}
            )
        self.before = _sccache() if self.cache == "sccache" else Count()

    def count(self) -> Count:
        """What happened since."""
        if self.cache == "ccache":
            text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
            return Count(
                len(re.findall(r"(?m)^(?:direct|preprocessed)_cache_hit$", text)), len(re.findall(r"(?m)^cache_miss$", text))
            )
        if self.cache == "sccache":
            now = _sccache()
            return Count(now.found - self.before.found, now.missed - self.before.missed)
        return Count()

    def __str__(self) -> str:
        """``ccache: 143 of 144 compilations found``, or that nothing was compiled."""
        counted = self.count()
        total = counted.found + counted.missed
        return f"{self.cache}: {counted.found} of {total} compilations found" if total else f"{self.cache}: nothing was compiled"


def _sccache() -> Count:
    """All that this machine's sccache server has counted so far."""
    text = process.output(["sccache", "--show-stats", "--stats-format=json"], env=process.environment())
    try:
        stats = json.loads(text)["stats"]
        return Count(sum(stats["cache_hits"]["counts"].values()), sum(stats["cache_misses"]["counts"].values()))
    except (ValueError, KeyError, TypeError):
        return Count()
