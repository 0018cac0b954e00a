"""The picture of a benchmark: for each speed the ratio of our wheel to upstream's build, with its quartiles."""

from __future__ import annotations

import warnings
from pathlib import Path

from ...errors import UsageError
from .report import Found

_SPEEDS = ("prompt of ", "generation")
_COLOURS = ("#2563a8", "#c2571a", "#3d7a3d", "#7a4a9e")
_STYLE = {
    "svg.hashsalt": "llama-cpp-variants",  # the ids of the picture's parts: the same bytes each time
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
}


def speeds(found: Found) -> list[str]:
    """What is drawn, by its name."""
    return [key for key in found.keys if key.startswith(_SPEEDS) and "a token" not in key]


def draw(found: Found, file: Path) -> None:
    """Write an SVG: a row for each speed, in it a dot for each contender: the median, with a line from quartile to quartile.

    The same measurements make the same bytes.

    Raises:
        UsageError: matplotlib is not in this environment.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("There is no matplotlib in this environment.", "Run through nox: `nox -s bench`.") from error
    keys = speeds(found)
    others = [name for name in found.others if name != "baseline"]  # another scale
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(9, 1.2 + 0.32 * len(keys)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(1.0, color="#555", linewidth=1)
        for number, name in enumerate(others):
            ratios = found.ratios(name)
            shift = (number - (len(others) - 1) / 2) * 0.22
            rows = [(index + shift, ratios[key]) for index, key in enumerate(keys) if key in ratios]
            middles = [one.median for _, one in rows]
            spread = [[one.median - one.low for _, one in rows], [one.high - one.median for _, one in rows]]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.errorbar(middles, [y for y, _ in rows], xerr=spread, fmt="o", markersize=4, color=colour, label=f"ours / {name}")
        axes.set_xscale("log", base=2)
        ticks = [tick for tick in (0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16) if _within(tick, axes.get_xlim())]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.xaxis.minorticks_off()
        axes.set_yticks(range(len(keys)), keys)
        axes.invert_yaxis()
        axes.set_xlabel(
            "tokens per second of our wheel by those of the other, median and quartiles within rounds (right: ours is faster)"
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12 if len(keys) < 10 else 1.06), ncols=3, frameon=False)
        axes.grid(axis="x", color="#ddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
