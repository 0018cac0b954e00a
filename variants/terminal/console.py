"""What a person sees: the terminal, the steps of a build with their seconds, durations in words."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

# What a terminal obeys instead of showing it, but for tab and line end; what turns the order of characters; halves of characters.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""The text with every character that a terminal would obey written out, as in ``\x1b``: names of files come from anywhere."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


class _Console(Console):
    """Shows every text as it is. Only :func:`styled` has colours, so no name of a file is taken for one."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(clean(text), **options)


console = _Console(highlight=False, soft_wrap=True, emoji=False)


def styled(markup: str) -> Text:
    """A text with colours in rich's markup; whatever is not ours in it was escaped."""
    return Text.from_markup(clean(markup), emoji=False)


@dataclass
class Steps:
    """The steps of one build: prints each as it begins and ends, and keeps its seconds for the table at the end."""

    total: int
    done: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        console.print(styled(rf"\[{len(self.done) + 1}/{self.total}] [bold]{name}[/]  {escape(what)}"))
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
