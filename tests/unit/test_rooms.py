"""The rooms of ``variants/``: who may import whom. Everybody imports from rooms below the own one, or from the same room."""

from __future__ import annotations

from pathlib import Path

import pytest

from variants.release.imports import VARIANTS, imported

ROOT = VARIANTS.parent
#: Lowest first. Rooms of one floor do not import each other.
FLOORS = (
    {"errors"},
    {"terminal", "platforms"},
    {"wheel"},
    {"choice", "upstream"},
    {"compilers"},
    {"backends"},
    {"matrix"},
    {"steps"},
    {"trial", "index", "release"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(VARIANTS.rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(VARIANTS).with_suffix("").parts[0]


def test_the_top_holds_the_matrix_and_rooms() -> None:
    modules = {path.stem for path in VARIANTS.glob("*.py")} - {"__init__"}
    assert modules == {"__main__", "errors", "matrix", "platforms"}
    rooms = {path.name for path in VARIANTS.iterdir() if (path / "__init__.py").is_file()}
    assert rooms | modules == set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(VARIANTS).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    mine = room(file)
    if mine == "__init__":
        return
    others = {room(other) for other in imported(file)} - {mine, "__init__"}
    wrong = {other for other in others if FLOOR[other] >= FLOOR[mine]}
    assert not wrong, f"{file.relative_to(ROOT)} is in {mine} and imports from {', '.join(sorted(wrong))}"
