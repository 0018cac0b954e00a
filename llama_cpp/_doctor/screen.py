"""The doctor's lines on a terminal: 80 columns, signs and colours where they can be shown, and progress on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import Any

from . import privacy
from .findings import ERROR, INFO, OK, WARNING, Finding

_SIGNS = {OK: "\u2713", INFO: "\u00b7", WARNING: "!", ERROR: "\u2717"}
_ASCII = {OK: "+", INFO: "-", WARNING: "!", ERROR: "x"}
_COLOURS = {OK: "32", INFO: "2", WARNING: "33", ERROR: "31"}
_PATIENCE = 2.0  # seconds without a word


class Screen:
    """Prints findings as they come; `silent` prints nothing but progress (for --json)."""

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.coloured = bool(
            sys.stdout and sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        )
        self.signs = _SIGNS if self._shows("".join(_SIGNS.values()) + "\u2192\u2026") else _ASCII
        self.width = min(80, shutil.get_terminal_size((80, 24)).columns)
        self.section = ""
        self.step, self.steps = 0, 4
        self._told = ""

    def _shows(self, text: str) -> bool:
        try:
            text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
        except (LookupError, UnicodeError):
            return False
        return True

    def colour(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.coloured else text

    def line(self, text: str = "") -> None:
        if not self.silent and sys.stdout:
            encoding = sys.stdout.encoding or "ascii"
            print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def tell(self, finding: Finding) -> None:
        self.clear()
        if finding.section != self.section:
            self.section = finding.section
            self.line(f"\n{self.colour(finding.section, '1')}")
        sign = self.colour(self.signs[finding.status], _COLOURS[finding.status])
        first, *rest = self._wrapped(privacy.clean(finding.text), 4)
        self.line(f"  {sign} {first}")
        for line in rest:
            self.line(f"    {line}")
        if finding.helps and finding.status != OK:
            arrow = "\u2192" if self.signs is _SIGNS else "->"
            for at, line in enumerate(self._wrapped(privacy.clean(finding.helps), 7)):
                self.line(f"    {arrow if not at else ' ' * len(arrow)} {line}")

    def _wrapped(self, text: str, indent: int) -> list[str]:
        return textwrap.wrap(text, self.width - indent, break_long_words=False, break_on_hyphens=False) or [""]

    def verdict(self, code: int, text: str, wrong: str, helps: str) -> None:
        self.clear()
        status = {0: OK, 1: WARNING, 2: ERROR}[code]
        self.line(f"\n{self.colour('Verdict', '1')}")
        first, *rest = self._wrapped(privacy.clean(text), 4)
        self.line(f"  {self.colour(self.signs[status], _COLOURS[status])} {self.colour(first, '1')}")
        for line in rest:
            self.line(f"    {self.colour(line, '1')}")
        if wrong:
            self.line()
            for line in self._wrapped(privacy.clean(f"Mend this first: {wrong}"), 4):
                self.line(f"    {line}")
        if helps:
            self.line(f"\n    {privacy.clean(helps)}")  # not wrapped: it is to be copied
        if "INDEX/" in helps:
            self.line("\n    INDEX is the address that the wheel came from; --index URL puts it in.")

    # -- progress ------------------------------------------------------------------------------------------------------------

    def waiting(self, what: str) -> Any:
        """For a step that may take long: call the result with the seconds so far and the seconds at most."""
        self.step += 1
        head = f"[{self.step}/{max(self.steps, self.step)}] {what}"

        def tell(seconds: float, limit: float) -> None:
            if seconds < _PATIENCE or not sys.stderr:
                return
            terminal = sys.stderr.isatty()
            text = f"{head}: {seconds:.0f} s, at most {limit:.0f}" if terminal else f"{head} (at most {limit:.0f} s)"
            if text != self._told:
                self._told = text
                print(f"\r{text[: self.width]}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

        return tell

    def clear(self) -> None:
        if self._told and sys.stderr and sys.stderr.isatty():
            print(f"\r{' ' * self.width}\r", end="", file=sys.stderr, flush=True)
        self._told = ""
