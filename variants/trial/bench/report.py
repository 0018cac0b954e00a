"""What a benchmark found: a table for the terminal and for docs/benchmarks.md, the history, and a regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from ...terminal.console import console
from ...upstream.source import ROOT
from .ratios import Ratio, middle, ratio

#: Where what `--record` keeps lies: the measurements, their picture, and a line for each of them in the history.
KEPT = ROOT / "docs" / "benchmarks"
HISTORY = KEPT / "history.jsonl"
_OURS = "wheel"


class Found(msgspec.Struct):
    """A file of measurements. `results`: by contender, by what was measured, each round."""

    date: str
    machine: dict[str, Any]
    wheel: dict[str, Any]
    results: dict[str, dict[str, list[float | None]]]
    rounds: int
    builds: dict[str, dict[str, int]] = {}
    models: dict[str, dict[str, Any]] = {}
    cases: list[str] = []
    generated_tokens: int = 128

    @property
    def others(self) -> list[str]:
        return [name for name in self.results if name != _OURS]

    @property
    def keys(self) -> list[str]:
        """What was measured: the speeds, case by case, the processor time behind them, the rest. Memory: the first case alone."""
        known = self.results[_OURS]
        rank = {case: number for number, case in enumerate(self.cases)}

        def order(key: str) -> tuple[int, int]:
            case = next((case for case in rank if key.endswith(f", {case}")), "")
            kind = 2 if not case or key.startswith("memory") else 1 if "a token" in key else 0
            return kind, rank.get(case, len(rank))

        return [key for key in sorted(known, key=order) if not key.startswith("memory, ") or order(key)[1] == 0]

    def ratios(self, other: str) -> dict[str, Ratio]:
        """What both measured, as ratios ours / theirs."""
        ours, theirs = self.results[_OURS], self.results[other]
        both = {key: ratio(ours[key], theirs[key]) for key in ours if key in theirs and len(ours[key]) == len(theirs[key])}
        return {key: value for key, value in both.items() if value is not None}


def read(file: Path) -> Found:
    """A file of measurements."""
    return msgspec.json.decode(file.read_bytes(), type=Found)


def show(found: Found) -> None:
    """One table: the median of each contender, and the ratio of ours to each with its quartiles."""
    table = Table(box=None)
    for heading in ("", _OURS, *found.others, *(f"wheel / {name}" for name in found.others)):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "" else "right")
    by_other = {name: found.ratios(name) for name in found.others}
    for key in found.keys:
        cells = [shown(key, middle(row[key])) if key in row else "" for row in found.results.values()]
        table.add_row(key, *cells, *(str(by_other[name].get(key, "")) for name in found.others))
    console.print(table, width=max(console.width, 160))


def shown(key: str, value: float | None) -> str:
    """A median with its unit."""
    if value is None:
        return "stalled"
    if "memory" in key:
        return f"{value / 1e6:.0f} MB"
    if "a token" in key:
        return f"{value * 1000:.2f} ms"
    if "seconds" in key:
        return f"{value * 1000:.0f} ms"
    return f"{value:.{0 if value >= 100 else 1}f} tok/s"


def markdown(found: Found) -> Iterator[str]:
    """The table of docs/benchmarks.md: medians, and each ratio as median (lower quartile)."""
    names = [_OURS, *found.others]
    yield "| | " + " | ".join([*names, *(f"wheel / {name}" for name in found.others)]) + " |"
    yield "|---|" + "---|" * (len(names) + len(found.others))
    by_other = {name: found.ratios(name) for name in found.others}
    for key in found.keys:
        cells = [shown(key, middle(found.results[name][key])) if key in found.results[name] else "" for name in names]
        yield f"| {key} | " + " | ".join([*cells, *(_cell(key, by_other[name].get(key)) for name in found.others)]) + " |"


def _cell(key: str, found: Ratio | None) -> str:
    """A speed below 1.0, or whose lower quartile is below 0.98, stands out."""
    if found is None:
        return ""
    text = f"{found.median:.2f} ({found.low:.2f})" + (f", stalled {found.stalled} times" if found.stalled else "")
    is_speed = "a token" not in key and "seconds" not in key and "memory" not in key
    return f"**{text}**" if is_speed and (found.median < 0.995 or found.low < 0.98) else text


# -- the history ---------------------------------------------------------------------------------------------------------------


class Line(msgspec.Struct):
    """One benchmark in the history. `processor`: with the CPU plugin that it got. `ratios`: by the other, by what was measured:
    median, first and third quartile."""

    date: str
    name: str
    wheel: str
    processor: str
    rounds: int
    ratios: dict[str, dict[str, tuple[float, float, float]]]


def line(name: str, found: Found) -> Line:
    """What the history keeps of a benchmark: its ratios, which mean something on another day."""
    rows = {
        other: {key: (round(one.median, 3), round(one.low, 3), round(one.high, 3)) for key, one in found.ratios(other).items()}
        for other in found.others
    }
    sha256 = str(found.wheel["sha256"])
    return Line(found.date, name, sha256, str(found.machine["processor"]), found.rounds, rows)


def history(file: Path = HISTORY) -> list[Line]:
    """Every benchmark that was kept, the oldest first."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(one, type=Line) for one in lines if one.strip()]


def slower(now: Line, before: Sequence[Line]) -> Iterator[str]:
    """What got slower: against the last line of the same name and processor, the quartiles lie apart, by 3 % or more.

    A ratio compares with the same build in the same minutes, so that another day's load is in both its sides.
    """
    same = [one for one in before if (one.name, one.processor) == (now.name, now.processor)]
    if not same:
        return
    last = same[-1]
    for other, rows in now.ratios.items():
        yield from _slower(other, rows, last.ratios.get(other, {}), last.date[:10])


Rows = Mapping[str, tuple[float, float, float]]


def _slower(other: str, rows: Rows, earlier: Rows, day: str) -> Iterator[str]:
    for key, (median, low, high) in rows.items():
        if key in earlier:
            was, was_low, was_high = earlier[key]
            is_cost = "a token" in key or "seconds" in key or "memory" in key
            worse = low > was_high and median > was * 1.03 if is_cost else high < was_low and median < was * 0.97
            if worse:
                yield f"{key}: {median:.2f} of {other}, where it was {was:.2f} on {day}"
