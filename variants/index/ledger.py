"""The ledger: one line of JSON for each file that was ever published. The whole index is made from it (:mod:`.site`).

It only grows. A published file never changes, since installers cache it by its name: a rebuild is a new file with a build
number. What may be edited is `yanked`, and what has run where. Long texts lie once each, by their hash, in the folder
``published.texts`` beside ``published.jsonl``.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from packaging.tags import Tag
from packaging.version import Version

from ..errors import LedgerError, UsageError, VariantsError
from ..terminal import disk
from ..wheel import archive, budget
from ..wheel.records import Record

#: What the index adds to a version's name for the merged metadata of its labels (PEP 825, "Index-level metadata").
VARIANTS = "-variants.json"
#: Bytes of a line: a few hundred, with many runs a few thousand.
_LONGEST_LINE = 1_000_000

_REMEDY = "Correct the line, or take the file from an older commit."
_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """One published file.

    name: of the file: a wheel, or a version's ``*-variants.json``, which has a line for each of its contents (the last one
    counts). url: where it lies: http(s), or a path from the site's root. size: in bytes. date: when it was published (UTC).
    metadata, variant: SHA-256 of its METADATA and variant.json, texts of the ledger. source: of a wheel with a local version,
    the SHA-256 of the labelled wheel that it was made of. yanked: the reason, if it should not be taken any more (PEP 592).
    runs: what has run where.
    """

    name: str
    url: str
    size: Annotated[int, Meta(ge=0)]
    sha256: _Hash
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    requires_python: str | None = None
    metadata: _Hash | None = None
    variant: _Hash | None = None
    source: _Hash | None = None
    yanked: Annotated[str, Meta(max_length=budget.NOTE)] | None = None
    runs: list[Record] = []

    @property
    def is_wheel(self) -> bool:
        """Is it a wheel, and not a version's merged metadata?"""
        return self.name.endswith(".whl")

    @functools.cached_property
    def project(self) -> str:
        """The project's normalized name (PEP 503)."""
        return self._parsed[0]

    @functools.cached_property
    def version(self) -> str:
        """The version, a local one included (PEP 440)."""
        return self._parsed[1]

    @functools.cached_property
    def label(self) -> str | None:
        """The variant label in a wheel's name; a wheel with a local version has none."""
        return archive.split_label(self.name)[1] if self.is_wheel else None

    @functools.cached_property
    def backend(self) -> str | None:
        """Whose classic index lists it: a label for a wheel with that local version, ``cpu`` for a wheel of ours without a
        label."""
        if self.source is not None:
            return Version(self.version).local
        return archive.PLAIN if self.is_wheel and self.label is None else None

    @property
    def tags(self) -> frozenset[Tag]:
        """A wheel's tags."""
        return self._parsed[3]

    @property
    def platforms(self) -> list[str]:
        """The platforms of a wheel's tags."""
        return sorted({tag.platform for tag in self.tags})

    @property
    def build(self) -> str:
        """A wheel's build number, or an empty text."""
        return self._parsed[2]

    @property
    def day(self) -> str:
        """The date alone, as in ``2026-11-25``."""
        return self.date.partition("T")[0]

    @functools.cached_property
    def order(self) -> tuple[object, ...]:
        """Oldest version first, then by build number and name."""
        number = re.match(r"\d+", self.build) if self.is_wheel else None
        return Version(self.version), int(number[0]) if number else -1, self.name

    @functools.cached_property
    def _parsed(self) -> tuple[str, str, str, frozenset[Tag]]:
        if self.is_wheel:
            name, version, build, tags = archive.parse_name(archive.plain_path(Path(self.name)))
            return name, str(version), "".join(map(str, build)), tags
        spelt, _, text = self.name.removesuffix(VARIANTS).partition("-")
        return spelt.replace("_", "-"), str(Version(text)), "", frozenset()


class Ledger:
    """The lines of a ledger and its texts; in memory until it is written."""

    def __init__(self, file: Path, lines: Iterable[Line] = ()) -> None:
        self.file = file
        self.folder = file.with_suffix(".texts")
        self.lines = list(lines)
        self.wheels = {line.name: line for line in self.lines if line.is_wheel}
        self._texts: dict[str, bytes] = {}

    def by_hash(self) -> dict[str, Line]:
        """The wheels by their SHA-256."""
        return {line.sha256: line for line in self.wheels.values()}

    def add(self, line: Line) -> None:
        """Append a line."""
        self.lines.append(line)
        if line.is_wheel:
            self.wheels[line.name] = line

    def replace(self, line: Line) -> None:
        """Put `line` in the place of the wheel's of the same name."""
        self.lines[self.lines.index(self.wheels[line.name])] = line
        self.wheels[line.name] = line

    def keep(self, content: bytes) -> str:
        """Keep a text with the ledger, and return its SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        self._texts[digest] = content
        return digest

    def text(self, digest: str) -> bytes:
        """A text by its SHA-256.

        Raises:
            LedgerError: it is not there, or was changed.
        """
        if digest not in self._texts:
            path = self.folder / digest
            try:
                content = budget.read(path)
            except (OSError, budget.RefusedError) as error:
                raise LedgerError(
                    f"{path}, a text of {self.file}, cannot be read: {error}.", f"Restore {self.folder} with the ledger."
                ) from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise LedgerError(f"{path} is not what its name says, which is its SHA-256.", "Restore it from an older commit.")
            self._texts[digest] = content
        return self._texts[digest]

    def write(self, lock: disk.Lock) -> None:
        """Write the texts, then the lines, in one rename; nothing where nothing has changed. lock: of the file."""
        disk.remove_leftovers(lock, self.file.parent, self.file.name)
        disk.remove_leftovers(lock, self.folder)
        used = {digest for line in self.lines for digest in (line.metadata, line.variant, None if line.is_wheel else line.sha256)}
        for digest, text in sorted(self._texts.items()):
            path = self.folder / digest
            if digest in used and not path.exists():
                with disk.replacing(path) as part:
                    part.write_bytes(text)
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in self.lines)
        if not (self.file.exists() and self.file.read_bytes() == content):
            with disk.replacing(self.file) as part, part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())


def read(file: Path) -> Ledger:
    """The ledger in `file`; an empty one where there is none.

    Raises:
        LedgerError: a line is none, names a file a second time, or cannot be a published file.
    """
    lines: list[Line] = []
    seen: dict[str, int] = {}
    if not file.exists():
        return Ledger(file)
    try:
        with budget.opened(file) as stream:
            for number, text in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), b""), 1):
                if len(text) == _LONGEST_LINE:
                    raise LedgerError(f"{file}, line {number}: it is longer than any line of ours.", _REMEDY)
                if text.strip():
                    line = _decode(text, file, number)
                    if line.is_wheel and seen.setdefault(line.name, number) != number:
                        raise LedgerError(
                            f"{file}, lines {seen[line.name]} and {number}: both are {line.name}.", "Remove the later one."
                        )
                    lines.append(line)
    except (OSError, budget.RefusedError) as error:
        raise LedgerError(f"{file} cannot be read: {error}.", "Name another ledger: --ledger FILE.") from error
    return Ledger(file, lines)


def _decode(text: bytes, file: Path, number: int) -> Line:
    try:
        line = budget.json(text, Line, _LONGEST_LINE)
        if not (line.is_wheel or line.name.endswith(VARIANTS)) or "/" in line.name or "\\" in line.name:
            raise ValueError(f"{line.name} is the name of no wheel, and of no {VARIANTS}")
        if line.is_wheel != (line.metadata is not None):
            raise ValueError("a wheel has `metadata`, and nothing else has")
        if line.is_wheel and (line.label is None) != (line.variant is None):
            raise ValueError("a wheel with a label has `variant`, and no other has")
        address(line.url)
        _ = line.order
    except (ValueError, VariantsError) as error:
        raise LedgerError(f"{file}, line {number}: {error}", _REMEDY) from error
    return line


def address(url: str) -> str:
    """`url`, where it can be a published file's or folder's address: http(s), or a path from the site's root.

    Raises:
        UsageError: it is neither, or has a query or a fragment, into which a file's name would go.
    """
    remedy = "Give an http(s) URL or a relative path, as in https://example.org/files/ or files/."
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - is checked when it is asked for
    except ValueError as error:
        raise UsageError(f'"{url}" is no address: {error}.', remedy) from error
    if not url or re.search(r"[\s\x00-\x1f\x7f\"<>\\]", url) or parts.query or parts.fragment or "?" in url or "#" in url:
        raise UsageError(f'"{url}" cannot be the address of a file: it has a query, a fragment, or a character of neither.', remedy)
    if parts.scheme or parts.netloc:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f'"{url}" is no address that installers take.', remedy)
    elif url.startswith("/"):
        raise UsageError(f"\"{url}\" begins at the server's root, which is not always the site's.", remedy)
    return url


def now() -> str:
    """The time of publishing, in UTC; SOURCE_DATE_EPOCH where it is set."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
