"""Ratios of two series of the same rounds, and what their spread allows to say."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import msgspec


class Ratio(msgspec.Struct, frozen=True):
    """Ratios ours / theirs within rounds: median, first and third quartile, and the lower bound of the median's 95 % confidence
    interval (percentile bootstrap). `stalled`: rounds in which the other did not come to an end, which count for none of these."""

    median: float
    low: float
    high: float
    bound: float
    stalled: int = 0

    def __str__(self) -> str:
        more = f"; stalled {self.stalled} times" if self.stalled else ""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}; bound {self.bound:.2f}{more})"


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Ratio | None:
    """The paired ratios of two series of the same rounds; None where no round has both.

    A measurement that did not come to an end is None in its series.
    """
    values = [a / b for a, b in zip(ours, theirs, strict=True) if a is not None and b]
    if not values:
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return Ratio(median, low, high, medians[len(medians) // 40], sum(b is None for b in theirs))


def middle(values: Sequence[float | None]) -> float | None:
    """The median of what came to an end."""
    return statistics.median(found) if (found := [value for value in values if value is not None]) else None
