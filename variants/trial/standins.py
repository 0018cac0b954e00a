"""What tests need in the place of a driver or of another package's library, compiled by zig for the platform of a wheel."""

from __future__ import annotations

from pathlib import Path

from ..compilers import import_library
from ..compilers.toolchain import Toolchain
from ..matrix import Variant
from ..platforms import Platform
from ..terminal import process
from ..upstream import source
from ..upstream.source import ROOT

_SOURCES = ROOT / "tests" / "plugins"


def failing_driver(variant: Variant, tools: Toolchain, folder: Path, log: Path) -> list[Path]:
    """A driver of the variant's backend that fails on command; nothing where there is none.

    Linux preloads it. On Windows there is one for each library that the plugin gets from elsewhere, by that one's name, and they
    are opened before those.

    Raises:
        CommandError: it does not compile.
    """
    assert variant.backend
    code = _SOURCES / f"failing_{variant.backend.name}.c"
    if not code.is_file():
        return []
    include = includes(variant, log)
    if tools.platform.system != "Windows":
        target = folder / code.stem / f"{code.stem}.so"
        return [_compile(code, target, tools, log, *include, "-fPIC", f"-Wl,-soname,{soname(variant, tools.platform)}", "-ldl")]
    needs = variant.table.runtime.on(tools.platform)
    names = [*(name for names in needs.libraries.values() for name in names), *needs.system]
    return [_compile(code, folder / code.stem / name, tools, log, *include) for name in names]


def includes(variant: Variant, log: Path) -> list[str]:
    """The flags with which the failing driver finds the headers of its backend's interface."""
    return [f"-I{variant.backend.software.headers(log)}"] if variant.backend and variant.backend.software else []


def soname(variant: Variant, platform: Platform) -> str:
    """What the failing driver is called on Linux: the driver, where the loader must take it for that and open no other."""
    assert variant.backend
    system = variant.table.runtime.on(platform).system
    return system[0] if variant.backend.stands_before_driver else f"failing_{variant.backend.name}.so"


def plugin(tools: Toolchain, folder: Path, log: Path) -> Path:
    """The folder of a plugin for Windows that needs a library of another package, of that library, and of an older one (`old.dll`).

    Raises:
        CommandError: they do not compile.
    """
    code, target = _SOURCES / "standin_cuda.c", folder / "standin_cuda"
    runtime = "cudart64_13.dll"
    _compile(code, target / runtime, tools, log)
    _compile(code, target / "old.dll", tools, log, "-DVERSION=12080")
    library = import_library.make(runtime, ["cudaRuntimeGetVersion"], tools.platform, target / "cudart.lib")
    ggml = source.TREE / "vendor" / "llama.cpp" / "ggml"
    include = [f"-I{ggml / name}" for name in ("src", "include")] + [f"-I{ROOT / 'llama_cpp' / 'boundary'}"]
    _compile(code, target / "ggml-standin.dll", tools, log, "-DPLUGIN", *include, library)
    return target


def _compile(code: Path, target: Path, tools: Toolchain, log: Path, *flags: str | Path) -> Path:
    """A shared library of C code."""
    target.parent.mkdir(parents=True, exist_ok=True)
    process.command([Path(tools.cxx).with_name("cc"), "-shared", "-O1", code, "-o", target, *flags], log=log)
    return target
