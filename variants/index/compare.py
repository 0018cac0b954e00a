"""What is about to be published, against what was: nobody's system is left behind, and no wheel grows, unseen."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from .. import platforms
from ..errors import UsageError, WheelError
from ..terminal import disk
from ..wheel import archive, records
from . import ledger
from .ledger import Ledger, Line

#: A wheel may have so many times the bytes of the last one.
_GROWTH = 1.10
#: In a folder of files to upload: the SHA-256 and name of each, as sha256sum prints them.
SUMS = "SHA256SUMS"


def compare(dist: Path, file: Path, allow_newer_tag: bool = False, allow_growth: bool = False) -> list[str]:
    """Compare each new wheel in `dist` with the one of its label and platform that the ledger `file` has of the last release.

    Returns a line for each.

    Raises:
        WheelError: naming both files: the tag asks for a newer system than the last one did, or the wheel is 10 % bigger.
        UsageError: there is no wheel.
    """
    book = ledger.read(file)
    paths = [path for path in sorted(dist.glob("*.whl")) if path.name not in book.wheels]
    if not paths and not book.wheels:
        raise UsageError(f"There is no wheel in {dist}, and none in {file}.", "Build one: `nox -s build_variant -- cpu`.")
    said = []
    wrong: list[tuple[str, str]] = []
    for path in paths:
        old = _last(_line(path), book)
        if old is None:
            said.append(f"{path.name}: the first of its kind")
            continue
        size, newer = path.stat().st_size, _newer(_line(path), old)
        said.append(f"{path.name}: {size / old.size:.2f} times the bytes of {old.name}")
        if newer and not allow_newer_tag:
            wrong.append((f"{path.name} asks for {newer[0]}, and {old.name} for {newer[1]}", "--allow-newer-tag"))
        if size > old.size * _GROWTH and not allow_growth:
            wrong.append((f"{path.name} has {size:,} bytes, and {old.name} has {old.size:,}", "--allow-growth"))
    if wrong:
        raise WheelError(
            "\n".join(f"{fact}." for fact, _ in wrong),
            f"Find out why. If it is on purpose: {' '.join(sorted({option for _, option in wrong}))}.",
        )
    return said


def require_tested(dist: Path, file: Path) -> None:
    """Refuse new wheels in `dist` without a record of a test that passed on exactly that file.

    Raises:
        WheelError: naming them.
    """
    book = ledger.read(file)
    paths = [path for path in sorted(dist.glob("*.whl")) if path.name not in book.wheels]
    if untested := [path.name for path in paths if not any(run.passed for run in records.runs(path))]:
        raise WheelError(
            f"No test of {', '.join(untested)} is recorded.",
            "Test it (`nox -s test_variant`, on a machine of its platform): the record lies beside the wheel, or below --runs.",
        )


def collect(new: Iterable[Path], folder: Path) -> None:
    """Put copies of the files that are to be uploaded into `folder`, with their hashes; what else was there goes."""
    with disk.replacing(folder) as part:
        part.mkdir(parents=True)
        names = sorted(new, key=lambda path: path.name)
        for path in names:
            shutil.copyfile(path, part / path.name)
        sums = "".join(f"{archive.sha256(path)}  {path.name}\n" for path in names)
        (part / SUMS).write_text(sums, encoding="utf-8")
        disk.remove(folder)


def _line(path: Path) -> Line:
    """A file's name as a line of a ledger reads it; nothing else of that line is true."""
    return Line(name=path.name, url="-", size=0, sha256="0" * 64, date="2000-01-01T00:00:00Z", metadata="0" * 64)


def _last(new: Line, book: Ledger) -> Line | None:
    """The newest published wheel of the same label and platform, of the same or an older version, that is not yanked."""
    place = _place(new)
    older = [
        line
        for line in book.wheels.values()
        if line.source is None and line.yanked is None and line.project == new.project
        if _place(line) == place and line.order < new.order
    ]
    return max(older, key=lambda line: line.order, default=None)


def _place(line: Line) -> tuple[str | None, frozenset[str]]:
    return line.label, frozenset(known.name for tag in line.tags if (known := platforms.of_tag(tag.platform)))


def _newer(new: Line, old: Line) -> tuple[str, str] | None:
    """The oldest system that either asks for, as wheel platforms, where the new one's is newer."""
    mine, theirs = (min((platforms.release(tag.platform), tag.platform) for tag in line.tags) for line in (new, old))
    return (mine[1], theirs[1]) if mine[0] > theirs[0] else None
