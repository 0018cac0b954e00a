"""What a plugin needs beside a compiler: found on this machine, told part by part, with the command that brings the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.table import Table

from . import run
from .errors import ToolchainError
from .source import ROOT
from .toolchain import Toolchain

#: Headers of ours that go first on the include path: what an older package of the system lacks.
_SHIMS = ROOT / "variants" / "data" / "include"


class Part(msgspec.Struct, frozen=True):
    """One thing that a plugin needs: `what`, the version or property `wanted`, and what was `found` (None: nothing)."""

    what: str
    wanted: str
    found: str | None


class Toolkit(msgspec.Struct, frozen=True):
    """All parts of a plugin's toolkit, the CMake arguments that make use of them, and `facts` for the wheel's report (JSON)."""

    plugin: str
    parts: tuple[Part, ...]
    remedy: str
    cmake: tuple[str, ...] = ()
    facts: dict[str, str | list[str]] = {}

    @property
    def missing(self) -> list[Part]:
        return [part for part in self.parts if part.found is None]


def find(plugin: str, toolchain: Toolchain, upstream: Path) -> Toolkit:
    """The toolkit of `plugin` on this machine, complete or not; `upstream`: the unpacked llama-cpp-python, for its feature tests.

    Raises:
        ToolchainError: nobody knows how to build this plugin yet.
    """
    if plugin not in KITS:
        raise ToolchainError(
            f"ggml's plugin `{plugin}` cannot be built yet.",
            f"Plugins that can: {', '.join(KITS)}. docs/status.md says what there is.",
        )
    return KITS[plugin](toolchain, upstream)


def require(kit: Toolkit) -> Toolkit:
    """The same toolkit, if it is complete.

    Raises:
        ToolchainError: naming what is missing, what was found and the command that helps.
    """
    if kit.missing:
        rows = "\n".join(f"  {part.what}: wanted {part.wanted}, found {part.found or 'nothing'}" for part in kit.parts)
        raise ToolchainError(f"The plugin `{kit.plugin}` cannot be built on this machine as it is:\n{rows}", kit.remedy)
    return kit


def show(kit: Toolkit) -> None:
    """Print what was wanted and found, and what will be used."""
    table = Table.grid(padding=(0, 2))
    for part in kit.parts:
        table.add_row("[green]✓[/]" if part.found else "[red]✗[/]", part.what, part.wanted, part.found or "not found")
    run.console.print(f"[bold]{kit.plugin}[/]")
    run.console.print(table, width=None if run.console.is_terminal else 160)
    for name, value in kit.facts.items():
        run.console.print(f"   {name}: {', '.join(value) or 'none' if isinstance(value, list) else value}", markup=False)
    if kit.missing:
        run.console.print(kit.remedy, markup=False)


def _vulkan(toolchain: Toolchain, upstream: Path) -> Toolkit:
    """glslc compiles the shaders; headers and loader as the system's packages have them."""
    glslc = shutil.which("glslc", path=run.environment()["PATH"])
    version = re.search(r"shaderc\s+(\S+)", run.output([glslc, "--version"])) if glslc else None
    headers = _macro(toolchain, "vulkan/vulkan_core.h", "VK_HEADER_VERSION_COMPLETE")
    spirv = _macro(toolchain, "spirv/unified1/spirv.h", "SPV_REVISION")
    folders = [Path(folder) for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib")]
    loader = next((str(path) for folder in folders for path in sorted(folder.glob("**/libvulkan.so"))), None)
    features = _shader_features(glslc, upstream) if glslc else []
    number = re.search(r"VK_MAKE_API_VERSION\(\s*\d+,\s*(\d+),\s*(\d+),\s*VK_HEADER_VERSION\)", headers or "")
    release = _macro(toolchain, "vulkan/vulkan_core.h", "VK_HEADER_VERSION")
    parts = (
        Part("glslc", "any; newer ones give faster shaders", f"{version[1] if version else '?'} ({glslc})" if glslc else None),
        Part("Vulkan headers", "1.3 or newer", f"{number[1]}.{number[2]}.{release}" if number else None),
        Part("SPIR-V headers", "any", f"revision {spirv}" if spirv else None),
        Part("libvulkan.so", "any; it is linked, never shipped", loader),
    )
    return Toolkit(
        "vulkan",
        parts,
        "Install them (Debian, Ubuntu: `apt-get install glslc libvulkan-dev spirv-headers`;\n"
        "Fedora: `dnf install glslc vulkan-loader-devel vulkan-headers spirv-headers-devel`).",
        (f"-DVulkan_GLSLC_EXECUTABLE={glslc}", f"-DLLAMA_CPP_PLUGIN_INCLUDE={_SHIMS}"),
        {"glslc": version[1] if version else "unknown", "shader_features": features},
    )


def _shader_features(glslc: str, upstream: Path) -> list[str]:
    """What this glslc can compile, by the names of upstream's own feature tests (``coopmat``, ``integer_dot``, …)."""
    folder = upstream / "vendor" / "llama.cpp" / "ggml" / "src" / "ggml-vulkan" / "vulkan-shaders" / "feature-tests"
    found = []
    for test in sorted(folder.glob("*.comp")):
        done = subprocess.run(
            [glslc, "-o", "-", "-fshader-stage=compute", "--target-env=vulkan1.3", str(test)], capture_output=True, check=False
        )
        if b"extension not supported" not in done.stderr:
            found.append(test.stem)
    return found


def _macro(toolchain: Toolchain, header: str, name: str) -> str | None:
    """What `name` is defined as in `header`, by this toolchain's preprocessor; None where the header is not found."""
    compiler = next(
        (argument.partition("=")[2] for argument in toolchain.cmake if argument.startswith("-DCMAKE_CXX_COMPILER=")), "c++"
    )
    done = subprocess.run(
        [compiler, "-x", "c++", "-E", "-dM", "-include", header, "-"], input="", capture_output=True, text=True, check=False
    )
    found = re.search(rf"^#define {name} (.+)$", done.stdout, re.MULTILINE)
    return found[1] if found and not done.returncode else None


#: Plugins that can be built, and what finds their toolkit.
KITS: dict[str, Callable[[Toolchain, Path], Toolkit]] = {"vulkan": _vulkan}
