"""What tests need in the place of a driver or of another package's library, compiled by zig for the platform of a wheel."""

from __future__ import annotations

from pathlib import Path

from ..compilers import import_library
from ..compilers.toolchain import Toolchain
from ..matrix import Variant
from ..terminal import process
from ..upstream import source
from ..upstream.source import ROOT

_SOURCES = ROOT / "tests" / "plugins"


def failing_driver(variant: Variant, tools: Toolchain, folder: Path, log: Path) -> Path | None:
    """A driver of the variant's backend that fails on command; None where there is none to stand before.

    Linux preloads it. On Windows it has the name of the driver's own library, and is opened before that.

    Raises:
        CommandError: it does not compile.
    """
    assert variant.backend
    code = _SOURCES / f"failing_{variant.backend.name}.c"
    if not (code.is_file() and variant.backend.software):
        return None
    platform = tools.platform
    windows = platform.system == "Windows"
    name = variant.table.runtime.on(platform).system[0] if windows else f"{code.stem}.so"
    flags = [] if windows else ["-fPIC", f"-Wl,-soname,{name}", "-ldl"]
    return _compile(code, folder / code.stem / name, tools, log, f"-I{variant.backend.software.headers(log)}", *flags)


def cuda(tools: Toolchain, folder: Path, log: Path) -> Path:
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
