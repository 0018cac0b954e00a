"""How far a long command is, from the counters that ninja and pip print, and about how long it will still take."""

from __future__ import annotations

import re

from .console import duration

_COUNTER = re.compile(rb"^\[(\d+)/(\d+)\]|^Progress (\d+) of (\d+)")  # ninja's, and pip's (in bytes)
_HEARTBEAT_SECONDS = 20.0
_MEASURED = 10.0  # seconds after which a rate says something
_FIRST_UNITS = 4  # and so many units, since some take a minute


class Progress:
    """Counters of one command, as lines of text. `begin`: in seconds of the monotonic clock."""

    def __init__(self, begin: float) -> None:
        self._begin = self._last_word = begin
        self._first: tuple[float, int] | None = None

    def read(self, line: bytes, now: float) -> str | None:
        """What to show on a terminal after this line of the command's output; None where it has no counter."""
        counter = _COUNTER.match(line)
        if counter is None:
            return None
        done, whole = (int(group) for group in counter.groups() if group is not None)
        text = f"{done}/{whole}" if counter[1] else f"{done >> 20} of {whole >> 20} MB"
        return f"{text}, {duration(now - self._begin)}{self._left(done, whole, now, bool(counter[1]))}"

    def _left(self, done: int, whole: int, now: float, of_units: bool) -> str:
        """About how long the rest takes, by what the units so far took. The first ones of a command are not counted: a whole
        configuration may come before them."""
        if self._first is None or done < self._first[1]:  # a second counter
            self._first = now, done
        seconds, count = now - self._first[0], done - self._first[1]
        if done >= whole or seconds < _MEASURED or (of_units and count < _FIRST_UNITS):
            return ""
        return f", about {rough(seconds / count * (whole - done))} left"

    def is_due(self, now: float) -> bool:
        """Is it time for a line in a log? One every 20 seconds."""
        if now - self._last_word <= _HEARTBEAT_SECONDS:
            return False
        self._last_word = now
        return True


def rough(seconds: float) -> str:
    """An estimate in words: ``40 s``, ``7 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
