"""What changed in llama.cpp between two releases of llama-cpp-python, as far as it concerns the wheels: a report in Markdown."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from ..terminal import disk
from ..upstream import source
from ..upstream.source import ROOT, Upstream

#: CMake files of other projects, which llama.cpp carries or fetches, have options of their own.
_CMAKE = ("CMakeLists.txt", "ggml", "src", "common", "tools/mtmd", "cmake")
#: The modules whose functions the guard knows (tests/inference/test_guarded.py).
_BINDINGS = ("llama_cpp.py", "mtmd_cpp.py")
_GUARD = ROOT / "llama_cpp" / "guard"


class Facts(msgspec.Struct, frozen=True):
    """What concerns the wheels, by name: `libraries` that CMake builds, `backends` of ggml, CPU `plugins` and the features of a
    processor that they want, CMake `options` and their defaults, `functions` that the bindings bind and their arguments."""

    libraries: dict[str, str]
    backends: dict[str, str]
    plugins: dict[str, str]
    options: dict[str, str]
    functions: dict[str, str]


def report(old: str, new: str) -> str:
    """Fetch both releases and compare them.

    Raises:
        SourceError: one cannot be fetched.
    """
    from_, to = _tree(old), _tree(new)
    return markdown(from_, to, read(from_.tree), read(to.tree))


def _tree(version: str) -> Upstream:
    folder = source.release(version)
    return source.vendor(disk.Lock(folder), vendor_dir=folder)


def read(tree: Path) -> Facts:
    """The facts of an unpacked release."""
    llama_cpp = tree / "vendor" / "llama.cpp"
    files = [path for name in _CMAKE for path in _cmake_files(llama_cpp / name)]
    text = "\n".join(re.sub(r"(?m)#.*$", "", path.read_text(encoding="utf-8", errors="replace")) for path in files)
    libraries = dict.fromkeys(re.findall(r"\b(?:add_library|ggml_add_backend_library)\(\s*([\w-]+)(?!\S)(?!\s+ALIAS)", text), "")
    plugins = re.findall(r"\bggml_add_cpu_backend_variant\(\s*(\w[\w.]*)\s*([^)]*)\)", text)
    backends = dict.fromkeys(re.findall(r"\bggml_add_backend\(\s*(\w+)\s*\)", text), "")
    options: dict[str, set[str]] = {}
    for name, default in re.findall(r'\boption\(\s*(\w+)\s+"[^"]*"\s*([^)\s]*)\s*\)', text):
        options.setdefault(name, set()).add(default or "OFF")
    for name, default in re.findall(r"\bset\(\s*((?:GGML|LLAMA)_\w+)\s+(\S+)\s+CACHE\b", text):
        options.setdefault(name, set()).add(default)
    return Facts(
        libraries,
        backends,
        {name: " ".join(features.split()) for name, features in plugins},
        {name: " or ".join(sorted(defaults)) for name, defaults in options.items()},
        dict(_bound(tree / "llama_cpp")),
    )


def _cmake_files(top: Path) -> list[Path]:
    return [top] if top.is_file() else sorted([*top.rglob("CMakeLists.txt"), *top.rglob("*.cmake")])


def _bound(package: Path) -> Iterator[tuple[str, str]]:
    """The C functions that the bindings bind, with the types of their arguments and results."""
    for name in _BINDINGS:
        for node in ast.walk(ast.parse((package / name).read_text(encoding="utf-8"))):
            for one in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(one, ast.Call) and one.args and isinstance(one.args[0], ast.Constant):
                    yield str(one.args[0].value), ", ".join(ast.unparse(argument) for argument in one.args[1:])


def markdown(old: Upstream, new: Upstream, before: Facts, after: Facts) -> str:
    """The report: what was added, dropped and changed, and which new functions nobody has looked at."""
    lines = [f"llama-cpp-python {old.version} → {new.version}, llama.cpp {old.commit[:12]} → {new.commit[:12]}", ""]
    titles = {
        "libraries": "Libraries that CMake builds",
        "backends": "Backends of ggml",
        "plugins": "CPU plugins",
        "functions": "Functions that the bindings bind",
        "options": "CMake options",
    }
    for name, title in titles.items():
        lines += [f"### {title}", "", *(_differences(getattr(before, name), getattr(after, name)) or ["No change."]), ""]
    unseen = sorted(after.functions.keys() - _looked_at())
    if unseen:
        names = ", ".join(f"`{name}`" for name in unseen)
        lines += ["### To look at", "", f"Neither in `llama_cpp/guard/*.inc` nor in `exempt.toml`: {names}", ""]
    return "\n".join(lines)


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    rows = [f"- `{name}` was added{_in_words(after[name])}" for name in sorted(after.keys() - before.keys())]
    rows += [f"- `{name}` was dropped" for name in sorted(before.keys() - after.keys())]
    both = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return rows + [f"- `{name}` changed: `{before[name]}` → `{after[name]}`" for name in both]


def _in_words(value: str) -> str:
    return f": `{value}`" if value else ""


def _looked_at() -> set[str]:
    """The functions that are guarded or exempt."""
    tables = [path.read_text(encoding="utf-8") for path in sorted(_GUARD.glob("*.inc"))]
    names = {name for text in tables for name in re.findall(r"(?m)^GUARD\w*\(.*?(\w+), \(", text)}
    rows = tomllib.loads((_GUARD / "exempt.toml").read_text(encoding="utf-8"))["exempt"]
    return names | {name for row in rows for name in row["functions"]}
