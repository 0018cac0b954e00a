"""What ninja has still to do in a build folder, said before it starts: how many units, and how long the earlier ones took."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from . import process
from .console import console
from .progress import rough


def units(tree: Path, target: str = "all") -> tuple[int, int] | None:
    """How many commands ninja has still to run in the build folder `tree` for this target, and how many there are in all; None
    where the folder is not configured."""
    if not (tree / "build.ninja").is_file():
        return None
    env = process.environment()
    ahead = re.findall(r"^\[\d+/(\d+)\]", process.output(["ninja", "-C", str(tree), "-n", target], env=env), re.MULTILINE)
    lines = process.output(["ninja", "-C", str(tree), "-t", "commands", target], env=env).splitlines()
    whole = len([line for line in lines if not line.startswith("ninja: ")])
    left = int(ahead[-1]) if ahead else 0
    return left, max(whole, left)


def seconds(tree: Path) -> float | None:
    """The mean time of the compilations that ninja has finished in `tree`; None where there is none.

    Its log has a line for each: start and end in milliseconds, a date, the output, a hash.
    """
    found: dict[str, float] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (tree / ".ninja_log").read_text(encoding="utf-8").splitlines():
            words = line.split("\t")
            if len(words) == 5 and words[3].endswith((".o", ".obj")):
                found[words[3]] = (int(words[1]) - int(words[0])) / 1000
    return sum(found.values()) / len(found) if found else None


def announce(tree: Path, jobs: int, target: str = "all") -> None:
    """Say how much there is to compile, what of it an earlier run has left, and how long it will take, as far as that is known."""
    found = units(tree, target)
    if found is None or not found[0]:
        return
    left, whole = found
    text = f"{left} units to compile, {jobs} at a time"
    if left < whole:
        text = f"going on: {whole - left} of {whole} units are there from an earlier run; {text}"
    each = seconds(tree)
    text += f", about {rough(each * left / jobs)}" if each else "; how long it takes is said when the first are done"
    console.print(f"      {text}", style="dim")
