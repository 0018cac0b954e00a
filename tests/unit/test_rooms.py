"""The rooms of ``variants/``: who may import whom. Everybody imports from rooms below the own one, or from the same room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
VARIANTS = ROOT / "variants"
#: Lowest first. Rooms of one floor do not import each other.
FLOORS = (
    {"errors"},
    {"terminal", "platforms"},
    {"wheel"},
    {"choice", "upstream"},
    {"matrix", "compilers"},
    {"backends"},
    {"steps"},
    {"trial", "index", "release"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(VARIANTS.rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(VARIANTS).with_suffix("").parts[0]


def imported(file: Path) -> set[str]:
    """The rooms that a module imports from, with those imported inside of functions."""
    package = ("variants", *file.relative_to(VARIANTS).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            names = [tuple(part for part in (*module, alias.name) if part) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "variants" and len(name) > 1}
    return found


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
    wrong = {other for other in imported(file) if other != mine and FLOOR[other] >= FLOOR[mine]}
    assert not wrong, f"{file.relative_to(ROOT)} is in {mine} and imports from {', '.join(sorted(wrong))}"
