"""The parts of the documents that are made from the code are what the code gives now."""

from __future__ import annotations

from variants import __main__ as command_line
from variants.release import documents
from variants.upstream.source import ROOT


def test_nothing_is_stale() -> None:
    made = documents.made(command_line.parser())
    assert {file.name for file in made} >= {"variants.md", "reference.md", "machines.md"}
    stale = [file.name for file, text in made.items() if file.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `nox -s docs`"
    assert "| `nox -s build_variant` |" in made[ROOT / "docs" / "reference.md"]
    assert "--toolkit" in made[ROOT / "docs" / "reference.md"]
