"""The rooms of this library, and which files a module is made of: its imports, and theirs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..upstream.source import ROOT

VARIANTS = ROOT / "variants"
#: The rooms (folders and top modules of ``variants/``), highest floor first, each with what one goes there for. A room imports from
#: floors below its own; rooms of one floor do not import each other (tests/unit/test_rooms.py).
FLOORS: tuple[dict[str, str], ...] = (
    {"__main__": "turn an error into a screen and an exit code"},
    {"commands": "add an option"},
    {
        "release": "change which steps run, where and in which order; the jobs; what `nox -s docs` and `nox -s adopt` write",
        "index": "change the site, or its front page",
        "trial": "change how a wheel is tried and measured",
    },
    {"steps": "change one step: core, plugin, assemble, repair, label, verify"},
    {"matrix": "add a key to the matrix"},
    {"backends": "add a backend, or change where its toolkit is found"},
    {"compilers": "support a compiler, or change how toolkits are fetched"},
    {
        "choice": "follow the standard: what a label means, who takes it, and why",
        "upstream": "follow upstream: the pin and its source",
    },
    {"wheel": "read or write a wheel, its libraries, its records"},
    {"terminal": "change what a person sees, how commands run, how files are replaced", "platforms": "add a platform"},
    {"errors": "see every error, with its exit code"},
)


def imported(file: Path) -> set[Path]:
    """The modules of this library that a module imports, also those inside of functions, as files."""
    package = file.relative_to(ROOT).parent.parts
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple(part for part in (*base, *(node.module or "").split(".")) if part)
            names |= {module, *((*module, alias.name) for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
    return {found for name in names if name[:1] == ("variants",) for found in _files(name)}


def _files(name: Sequence[str]) -> Iterator[Path]:
    path = ROOT.joinpath(*name)
    yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())


def closure(files: Sequence[Path]) -> set[Path]:
    """These modules, and all that they import, directly or not."""
    found: set[Path] = set()
    ahead = list(files)
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += imported(file)
    return found
