"""Keep a benchmark in docs/benchmarks: its measurements, its picture and a line of the history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ...terminal import disk
from ...terminal.console import console
from . import plot, report


def keep(measured: Path, folder: Path = report.KEPT) -> None:
    """Copy the measurements to `folder`, draw them, and add them to the history; says what got slower than the last time.

    Raises:
        UsageError: there is no matplotlib.
    """
    found = report.read(measured)
    name = measured.stem
    with disk.replacing(folder / f"{name}.svg") as part:
        plot.draw(found, part)
    with disk.replacing(folder / measured.name) as part:
        shutil.copyfile(measured, part)
    file = folder / report.HISTORY.name
    before, now = report.history(file), report.line(name, found)
    with disk.replacing(file) as part:
        part.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in [*before, now]))
    worse = list(report.slower(now, before))
    for text in worse:
        console.print(f"slower: {text}", style="yellow")
    if not worse and before:
        console.print("nothing is slower than the last time on such a processor")
    console.print(f"kept in {folder}: {measured.name}, {name}.svg, {file.name}; `nox -s docs` writes the table")


def tables(folder: Path = report.KEPT) -> Iterator[str]:
    """The kept benchmarks for docs/benchmarks.md: the newest of each name, with its picture and its table."""
    for line in {line.name: line for line in report.history(folder / report.HISTORY.name)}.values():
        found = report.read(folder / f"{line.name}.json")
        machine = found.machine
        models = ", ".join(str(model["name"]) for model in found.models.values())
        yield f"**{line.name}**, {found.date[:10]}: {machine['processor']}, {machine['cores']} processors, "
        yield f"{found.rounds} rounds, wheel `{line.wheel[:8]}…`, {models}; load before: {machine['load_before']:.1f}."
        yield from ("", f"![ratios of {line.name}](benchmarks/{line.name}.svg)", "")
        yield from report.markdown(found)
        yield ""
