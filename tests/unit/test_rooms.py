"""The rooms of ``variants/``: who may import whom. Everybody imports from rooms below the own one, or from the same room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from variants.backends.registry import BACKENDS
from variants.release.imports import FLOORS, VARIANTS, imported

ROOT = VARIANTS.parent
FLOOR = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
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


def test_the_command_line_is_declared_group_by_group() -> None:
    """No function declares everything: none is longer than 60 lines."""
    for file in [VARIANTS / "__main__.py", *sorted((VARIANTS / "commands").glob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file.name}: {node.name}"


def test_backends_are_known_to_their_modules_alone() -> None:
    """No code outside of backends/ has the name of one in it, but for AMD's ROCm, which is a fact of a machine (choice/)."""
    names = {*BACKENDS, "rocm"}
    for file in FILES:
        if room(file) == "backends":
            continue
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            texts = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            texts += [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
            found |= names.intersection(texts)
        assert found <= ({"rocm"} if room(file) == "choice" else set()), f"{file.relative_to(ROOT)}: {found}"
