"""Put these files into a tree of llama-cpp-python's own repository, which then builds the same wheels (docs/adopting.md)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..errors import SourceError
from ..steps.assemble import known_core
from ..steps.core import RULES
from ..terminal import disk
from ..upstream.source import COMPILED, ROOT

#: What is copied as it is. CMakeLists.txt goes into variants/: upstream has one of its own at the head.
COPIED = (
    "noxfile.py",
    "variants",
    "tests/inference",
    "tests/plugins",
    *known_core().ours,
    *(f"llama_cpp/{name}" for name in COMPILED),
)
#: Tables of our pyproject.toml that upstream's gets.
TABLES = ("project.entry-points.pyinstaller40", "variant", "dependency-groups")

_IMPORT = re.compile(r'^set\(our_import "(.+)\\n"\)$', re.MULTILINE)


def our_import() -> str:
    """The line at the head of upstream's ``__init__.py``, as CMakeLists.txt puts it there."""
    found = _IMPORT.search(RULES.read_text(encoding="utf-8"))
    assert found is not None  # a test says so before anybody else
    return found[1] + "\n"


def adopt(tree: Path) -> list[str]:
    """Put our files into the unpacked `tree` of llama-cpp-python; returns their names. A second time, it brings them up to date.

    Raises:
        SourceError: `tree` is none, or has tables or files of these names that are not ours.
    """
    if tree.resolve() == ROOT.resolve():
        raise SourceError(
            f"{tree} is this very repository.", "Name another tree: a clone of llama-cpp-python's, or an unpacked sdist."
        )
    init, project = tree / "llama_cpp" / "__init__.py", tree / "pyproject.toml"
    if not (init.is_file() and project.is_file() and (tree / "vendor").is_dir()):
        raise SourceError(
            f"{tree} is no tree of llama-cpp-python: it lacks llama_cpp/__init__.py, pyproject.toml or vendor/.",
            "Name a clone of its repository (with its submodule), or an unpacked sdist.",
        )
    adopted = (tree / "variants" / "CMakeLists.txt").is_file()
    ours, theirs = (path.read_text(encoding="utf-8") for path in (ROOT / "pyproject.toml", project))
    taken = [name for name in TABLES if re.search(rf"(?m)^\[{re.escape(name)}[.\]]", theirs)]
    taken += [name for name in COPIED if (tree / name).exists() and name != "tests"]
    if taken and not adopted:
        raise SourceError(f"{tree} has {', '.join(taken)} already.", "Merge these by hand; docs/adopting.md lists what goes where.")
    for name in COPIED:
        source, target = ROOT / name, tree / name
        disk.remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    shutil.copyfile(RULES, tree / "variants" / "CMakeLists.txt")
    (tree / "vendor" / "upstream.toml").write_text('# The wheels are built from this very tree.\npath = "."\n', encoding="utf-8")
    text = init.read_text(encoding="utf-8")
    if not text.startswith(our_import()):
        init.write_text(our_import() + text, encoding="utf-8")
    if not adopted:
        project.write_text(f"{theirs.rstrip()}\n\n{''.join(_table(ours, name) for name in TABLES)}", encoding="utf-8")
    return [*COPIED, "variants/CMakeLists.txt", "vendor/upstream.toml", "llama_cpp/__init__.py", "pyproject.toml"]


def _table(text: str, name: str) -> str:
    """The text of a TOML table and its subtables, with the comments before them."""
    blocks = re.split(r"(?m)^(?=(?:#[^\n]*\n)*\[)", text)
    heads = re.compile(rf"(?:#[^\n]*\n)*\[{re.escape(name)}[.\]]")
    return "".join(block for block in blocks if heads.match(block))
