"""glslc: ours, of glslang from a pinned source package, compiled once by zig; and what a glslc can do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from ... import platforms
from ...compilers import packages, toolchain
from ...compilers.environment import for_compiling
from ...errors import ToolchainError
from ...terminal import disk, process
from ...terminal.console import console
from ...upstream import source

_RECIPE = 1  # to be raised when the program is made otherwise
_PIN = Path(__file__).parent / "glslc.toml"
_NAME = "glslc.exe" if os.name == "nt" else "glslc"
_OURS = _PIN.with_suffix("")  # the folder with CMakeLists.txt and glslc.cpp


class Glslc(msgspec.Struct, frozen=True):
    """Our glslc: its path, in words what it is made of, and whether it is there."""

    path: Path
    made_of: str
    there: bool


def find(tools: toolchain.Toolchain, fetch: bool, log: Path) -> Glslc:
    """Our glslc for this machine, compiled if that may be done and was not yet. `tools`: the plugin's toolchain.

    Raises:
        ToolchainError: zig is not in this environment.
        SourceError: the source cannot be fetched.
        CommandError: it does not compile.
    """
    pin = source.read_pin(_PIN)
    zig = _zig(tools, packages.cache(), write=False)
    folder = packages.folder_of(_PIN, f"{_RECIPE} {zig.name}")
    made_of = f"glslang of {pin.name} {pin.version}"
    if fetch and not folder.is_dir():
        console.print(f"      glslc: {made_of}, to be compiled once, for minutes, into {folder}")
        packages.make(folder, lambda part: _compile(pin, tools, part, log))
    path = folder / _NAME
    return Glslc(path, made_of, path.is_file())


def _zig(tools: toolchain.Toolchain, folder: Path, write: bool = True) -> toolchain.Toolchain:
    """zig for this machine: the plugin's, where that is such a one."""
    here = platforms.here()
    own = tools.kind == "zig" and tools.platform == here
    return tools if own else toolchain.find("zig", folder, here, write)


def _compile(pin: source.Pin, tools: toolchain.Toolchain, part: Path, log: Path) -> None:
    disk.remove_leftovers(disk.Lock(part), packages.cache(), "download")
    source.unpack(source.fetch(pin, packages.cache()), part / "source")
    zig = _zig(tools, part)
    build = part / "build"
    env = for_compiling(zig, CCACHE_BASEDIR=str(part))
    remedy = "Report it with the log. `--toolkit machine` takes this machine's glslc instead."
    defines = [f"-DGLSLANG={part / 'source' / 'glslang'}", *zig.cmake, "-DCMAKE_BUILD_TYPE=Release"]
    process.command(["cmake", "-S", _OURS, "-B", build, "-G", "Ninja", *defines], log=log, env=env, remedy=remedy)
    compiling: list[str | Path] = ["cmake", "--build", build, "--target", "glslc", "--parallel"]
    process.with_fewer_jobs(
        process.default_jobs(), lambda jobs: process.command([*compiling, str(jobs)], log=log, env=env, remedy=remedy)
    )
    if not process.output([build / _NAME, "--version"]).startswith("glslang "):
        raise ToolchainError(f"The glslc that was compiled in {build} does not run.", remedy)
    shutil.move(build / _NAME, part / _NAME)
    for folder in [path for path in part.iterdir() if path.is_dir()]:
        disk.remove(folder)


def version(glslc: Path) -> str:
    """What it says of itself, in a word or a few: ``glslang 16.5.0``, ``shaderc v2023.2``."""
    said = process.output([glslc, "--version"]).splitlines()
    return " ".join(said[0].split()[:2]).rstrip(",") if said else "unknown"


def tests(upstream: Path) -> list[Path]:
    """Upstream's own feature tests, by whose names a shader feature is known (``coopmat``, ``integer_dot``, …)."""
    folder = upstream / "vendor" / "llama.cpp" / "ggml" / "src" / "ggml-vulkan" / "vulkan-shaders" / "feature-tests"
    return sorted(folder.glob("*.comp"))


def features(glslc: Path, upstream: Path) -> list[str]:
    """Those of upstream's feature tests that this glslc compiles."""
    found = []
    for test in tests(upstream):
        command = [str(glslc), "-o", "-", "-fshader-stage=compute", "--target-env=vulkan1.3", str(test)]
        done = subprocess.run(command, capture_output=True, check=False)
        if b"extension not supported" not in done.stderr:
            found.append(test.stem)
    return found
