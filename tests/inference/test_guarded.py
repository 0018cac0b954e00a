"""Every function that upstream binds is guarded against a plugin that fails, or exempt for a reason (llama_cpp/guard)."""

from __future__ import annotations

import ast
import ctypes
import pathlib
import re
import sys

import llama_cpp
import pytest

GUARD = pathlib.Path(__file__).parents[2] / "llama_cpp" / "guard"
MODULES = {"llama": "llama_cpp.py", "mtmd": "mtmd_cpp.py"}


def bound(name: str) -> set[str]:
    """The C functions that upstream's module binds: the names in its decorators."""
    package = pathlib.Path(llama_cpp.__file__).parent
    nodes = ast.walk(ast.parse((package / MODULES[name]).read_text(encoding="utf-8")))
    decorators = [one for node in nodes if isinstance(node, ast.FunctionDef) for one in node.decorator_list]
    named = [one.args[0] for one in decorators if isinstance(one, ast.Call)]
    return {str(one.value) for one in named if isinstance(one, ast.Constant)}


def guarded(name: str) -> set[str]:
    text = (GUARD / f"{name}.inc").read_text(encoding="utf-8")
    return set(re.findall(r"^GUARD\w*\(.*?(\w+), \(", text, re.MULTILINE))


def exempt() -> set[str]:
    """The functions in exempt.toml (read by a pattern: this runs on Pythons without tomllib)."""
    return set(re.findall(r'"(\w+)",', (GUARD / "exempt.toml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", MODULES)
def test_every_function_is_looked_at(name: str) -> None:
    """A new function of upstream's: does a backend compute behind it? Then it goes into the .inc, else into exempt.toml."""
    assert len(bound(name)) > 20
    assert not bound(name) - guarded(name) - exempt()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc in which library a function lies")
@pytest.mark.parametrize("name", MODULES)
def test_what_is_guarded_lies_in_front(name: str) -> None:
    """Python gets the guarded function, not the one behind it."""
    lib = pathlib.Path(llama_cpp.__file__).parent / "lib" / f"lib{name}.so"
    library = ctypes.CDLL(str(lib))
    for function in sorted(guarded(name) & bound(name)):
        address = ctypes.cast(getattr(library, function), ctypes.c_void_p).value
        assert address is not None
        assert file_of(address) == str(lib), function


def file_of(address: int) -> str:
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.split(maxsplit=5)[5]
    return ""
