"""What the doctor finds: lines with a status, and the facts behind them."""

from __future__ import annotations

from typing import Any, NamedTuple

OK, INFO, WARNING, ERROR = "ok", "info", "warning", "error"


class Finding(NamedTuple):
    """One line. `helps`: the command or the sentence that mends it ("" where nothing must be mended)."""

    section: str
    status: str
    text: str
    helps: str = ""


class Report:
    """Every finding, told to `tell` as it comes, and `facts` for tools."""

    def __init__(self, tell: Any) -> None:
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self.section = ""
        self._tell = tell

    def add(self, status: str, text: str, helps: str = "") -> None:
        finding = Finding(self.section, status, text, helps)
        self.findings.append(finding)
        self._tell(finding)

    def ok(self, text: str) -> None:
        self.add(OK, text)

    def info(self, text: str) -> None:
        self.add(INFO, text)

    def warning(self, text: str, helps: str = "") -> None:
        self.add(WARNING, text, helps)

    def error(self, text: str, helps: str = "") -> None:
        self.add(ERROR, text, helps)

    def first(self, *statuses: str) -> Finding | None:
        """The first finding of these statuses that says what helps, else the first of them."""
        found = [finding for finding in self.findings if finding.status in statuses]
        return next((finding for finding in found if finding.helps), found[0] if found else None)
