"""Facts that two languages must both spell: each pair is compared, so that none parts unseen."""

from __future__ import annotations

import re
import tomllib

from variants import matrix
from variants.backends.registry import BACKENDS
from variants.platforms import PLATFORMS
from variants.release import adopt, jobs
from variants.steps import assemble, core
from variants.upstream import source

RULES = core.RULES.read_text(encoding="utf-8")
ROOT = source.ROOT
GUARD = ROOT / "llama_cpp" / "guard"


def test_the_cores_libraries() -> None:
    """Those that CMakeLists.txt names and installs are those that core.toml knows and `verify` expects."""
    known = set(assemble.known_core().libraries)
    named = re.search(r"foreach\(target ([\w -]+)\)\n  set_target_properties\(\$\{target\} PROPERTIES OUTPUT_NAME", RULES)
    installed = re.search(r"install\(TARGETS ([\w -]+) \$\{forwarders\}", RULES)
    assert named is not None
    assert installed is not None
    assert set(named[1].split()) == set(installed[1].split()) == known


def test_the_libraries_that_bindings_open() -> None:
    forwarders = re.search(r"foreach\(name ([\w -]+)\)\n  set_target_properties\(forward-", RULES)
    assert forwarders is not None
    assert set(forwarders[1].split()) == set(source.OPENED)


def test_our_own_modules() -> None:
    """What lies in llama_cpp/ is what CMakeLists.txt installs, and what core.toml lets into a wheel."""
    folder = ROOT / "llama_cpp"
    found = {f"llama_cpp/{file.relative_to(folder).as_posix()}" for file in folder.rglob("*.py")}
    installed = re.search(r"foreach\(file IN ITEMS ([\w\s/-]+)\)\n  get_filename_component", RULES)
    assert installed is not None
    assert {f"llama_cpp/{name}.py" for name in installed[1].split()} == found == set(assemble.known_core().ours)


def test_the_import_line() -> None:
    assert adopt.our_import().startswith("from . import _backends as _backends")


def test_entry_points() -> None:
    """Those of pyproject.toml are the ones that `verify` takes, and lead to a folder of ours that has the hook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = assemble.known_core().entry_points
    assert project["entry-points"]["pyinstaller40"] == known["pyinstaller40"]
    module, _, function = known["pyinstaller40"]["hook-dirs"].partition(":")
    file = ROOT / module.replace(".", "/") / "__init__.py"
    assert f"def {function}()" in file.read_text(encoding="utf-8")
    assert (file.parent / "hook-llama_cpp.py").is_file()


def test_platforms() -> None:
    """Every platform has a runner and a list of CPU plugins; a backend builds for none that nobody knows."""
    assert set(jobs.MACHINES) == set(assemble.known_core().plugins) == set(PLATFORMS)
    for backend in BACKENDS.values():
        assert set(backend.platforms) <= set(PLATFORMS), backend.name
        users = [variant for variant in matrix.load().values() if variant.table.plugin == backend.name]
        assert users, f"{backend.name} is in no matrix file"
        assert set(backend.platforms) <= {name for variant in users for name in variant.table.platforms}, backend.name


def test_one_zig() -> None:
    """The zig whose clang compiles a plugin has the C++ library of the zig that links it."""
    files = [*(ROOT / "variants" / "backends").glob("*/*.txt"), ROOT / "variants" / "pins" / "compilers.txt"]
    found = {file.name: re.findall(r"(?m)^ziglang==(\S+)", file.read_text(encoding="utf-8")) for file in files}
    pinned = {name: versions for name, versions in found.items() if versions}
    assert set(pinned) >= {"cuda12.txt", "compilers.txt"}
    assert len({version for versions in pinned.values() for version in versions}) == 1, pinned


def test_what_is_compiled_is_fingerprinted() -> None:
    """The folders of llama_cpp/ that CMakeLists.txt compiles are those that name the core and stay out of the wheel."""
    assert set(re.findall(r'"\$\{root\}/llama_cpp/(\w+)"', RULES)) == set(source.COMPILED)


def test_functions_that_read_models() -> None:
    """The loader lets the GPU plugins in before those that the guard knows to take a model's parameters, and before no others."""
    text = (ROOT / "llama_cpp" / "_backends.py").read_text(encoding="utf-8")
    rows = [row for name in ("llama", "mtmd") for row in re.findall(r"(?m)^GUARD.+", (GUARD / f"{name}.inc").read_text())]
    reading = {re.findall(r"(\w+), \(", row)[0] for row in rows if re.search(r"\b(llama_model|mtmd_context)_params ", row)}
    hooked = "".join(re.findall(r"_(?:MODEL|PROJECTOR)_FUNCTIONS = \((.*?)\)", text, re.DOTALL))
    assert set(re.findall(r'"(\w+)"', hooked)) == reading


def test_no_function_is_guarded_and_exempt() -> None:
    names = [
        name
        for file in ("llama.inc", "mtmd.inc")
        for name in re.findall(r"(?m)^GUARD\w*\(.*?(\w+), \(", (GUARD / file).read_text())
    ]
    table = tomllib.loads((GUARD / "exempt.toml").read_text(encoding="utf-8"))["exempt"]
    names += [name for row in table for name in row["functions"]]
    assert len(names) == len(set(names))
    assert all(row["why"] for row in table)
