"""The parts of the documents that are made from the code: each stands between two comments, and is written by `nox -s docs`."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..backends.registry import BACKENDS
from ..choice import known
from ..matrix import SYSTEMS, Libraries, Runtime, Smoke, Table
from ..terminal import disk
from ..upstream.source import ROOT
from . import support
from .imports import FLOORS, VARIANTS


def keys() -> Iterator[str]:
    """Every key that a matrix file may have, from the types that read it."""
    yield from ("| key | type | meaning |", "|---|---|---|")
    yield from _keys("", Table)
    for name, backend in BACKENDS.items():
        if backend.table:
            about = (backend.table.__doc__ or "").split("\n")[0]
            yield f'| `[{name}]` | table, required with `plugin = "{name}"` | {about} |'
            yield from _keys(name, backend.table)
    yield from _keys("runtime", Runtime)
    yield from _keys("|".join(f"runtime.{name}" for name in SYSTEMS.values()), Libraries)
    yield from _keys("smoke", Smoke)


def _keys(where: str, kind: type[msgspec.Struct]) -> Iterator[str]:
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        outer = field.type if isinstance(field.type, msgspec.inspect.Metadata) else None
        text = (outer.extra_json_schema or {}).get("description", "") if outer else ""
        plain = outer.type if outer else field.type
        place = " or ".join(f"`[{one}]`" for one in where.split("|") if one)
        name = f"`{field.name}`" + (f" in {place}" if place else "")
        yield f"| {name} | {_word(plain)}{', required' if field.required else ''} | {text.replace('|', chr(92) + '|')} |"


def _word(kind: msgspec.inspect.Type) -> str:
    """A type in TOML's words."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return " or ".join(_word(one) for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    words = {"StrType": "string", "BoolType": "true or false", "ListType": "list", "DictType": "table", "StructType": "table"}
    return words[type(kind).__name__]


def rooms() -> Iterator[str]:
    """The modules of the task library, by room, with the first line of what each says of itself."""
    yield from ("| module | what it is |", "|---|---|")
    top = [path for path in sorted(VARIANTS.glob("*.py")) if path.stem != "__init__"]
    folders = [path for path in sorted(VARIANTS.iterdir()) if (path / "__init__.py").is_file()]
    for file in [*top, *(file for folder in folders for file in sorted(folder.rglob("*.py")))]:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        if text:
            name = file.relative_to(VARIANTS).as_posix().removesuffix("/__init__.py")
            yield f"| `{name}` | {_line(text)} |"


def tour() -> Iterator[str]:
    """The rooms of the task library, from the top floor down, and what one goes there for."""
    yield from ("| to … | go to |", "|---|---|")
    for floor in FLOORS:
        for room, why in floor.items():
            file = f"{room}.py" if (VARIANTS / f"{room}.py").is_file() else f"{room}/"
            yield f"| {why} | `variants/{file}` |"


def sessions() -> Iterator[str]:
    """The sessions of the noxfile, with their first lines."""
    yield from ("| session | what it does |", "|---|---|")
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and any("session" in ast.dump(one) for one in node.decorator_list):
            yield f"| `nox -s {node.name}` | {_line(ast.get_docstring(node) or '')} |"


def errors() -> Iterator[str]:
    """The errors that the wheels explain (llama_cpp/_errors.py), with the text that people search for."""
    yield from ("| what you see | what it is | what helps |", "|---|---|---|")
    for row in _module(ROOT / "llama_cpp" / "_errors.py").KNOWN:
        yield f"| `{row.see}` | {row.what} | {row.helps} |"


def _module(path: Path) -> Any:
    """A module of the wheels by its file: the package itself opens libraries."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def steps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The steps of the command line, with their options."""
    yield from ("| step | what it does | options |", "|---|---|---|")
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for choice in group._choices_actions:
        inner = group.choices[choice.dest]
        words = [
            f"`{action.option_strings[-1] if action.option_strings else action.metavar or action.dest}`"
            for action in inner._actions
            if action.option_strings[-1:] not in (["--help"], ["--traceback"]) and action.help != argparse.SUPPRESS
        ]
        yield f"| `python -m variants {choice.dest}` | {_line(choice.help or '')} | {' '.join(words)} |"


def _line(text: str) -> str:
    """The first line as a cell of a table, in Markdown's spelling of code."""
    return text.split("\n")[0].replace("``", "`").replace("|", "\\|")


def made(parser: argparse.ArgumentParser, more: Mapping[str, Iterable[str]]) -> dict[Path, str]:
    """Every document of which a part is made, and what it should be. `more`: parts that others make, by name."""
    parts: dict[str, Iterable[str]] = {
        "keys": keys(),
        "rooms": rooms(),
        "tour": tour(),
        "sessions": sessions(),
        "steps": steps(parser),
    }
    parts |= {"support": support.support(), "variants": support.variants()}
    parts |= {"platforms": support.platforms(), "table": support.table(), "errors": errors()} | dict(more)
    texts = {name: "\n".join(rows) for name, rows in parts.items()}
    found = {ROOT / "docs" / "machines.md": known.markdown()}
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = file.read_text(encoding="utf-8")
        new = re.sub(
            r"(<!-- made by `nox -s docs`: (\w+) -->\n).*?(<!-- end -->)",
            lambda match: f"{match[1]}{texts[match[2]]}\n{match[3]}",
            text,
            flags=re.DOTALL,
        )
        if "<!-- made by" in text:
            found[file] = new
    return found


def write(parser: argparse.ArgumentParser, more: Mapping[str, Iterable[str]]) -> list[Path]:
    """Bring them up to date; returns those that were not."""
    stale = [(file, text) for file, text in made(parser, more).items() if file.read_text(encoding="utf-8") != text]
    for file, text in stale:
        with disk.replacing(file) as new:
            new.write_text(text, encoding="utf-8")
    return [file for file, _ in stale]
