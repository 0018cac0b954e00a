"""What a person sees: the terminal, the steps of a build with their seconds, durations in words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False, soft_wrap=True, emoji=False)


@dataclass
class Steps:
    """The steps of one build: prints each as it begins and ends, and keeps its seconds for the table at the end."""

    total: int
    done: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        console.print(rf"\[{len(self.done) + 1}/{self.total}] [bold]{name}[/]  {escape(what)}")
        begin = time.monotonic()
        yield
        self.done.append((name, time.monotonic() - begin))
        console.print(f"      {name} took {duration(self.done[-1][1])}", style="dim")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``0.4 s``, ``59 s``, ``9 min 03 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
