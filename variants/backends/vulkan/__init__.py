"""The toolkit of ggml's Vulkan plugin: a shader compiler, headers, and the loader to link with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ...terminal import process
from ..backend import Backend
from ..toolkit import Piece, Request, Toolkit, library, macro
from . import loader

#: Headers of ours that go first on the include path: what an older package of the system lacks.
_SHIMS = Path(__file__).parent / "include"


def find(request: Request) -> Toolkit:
    """glslc compiles the shaders; headers and loader as the system's packages have them."""
    glslc = shutil.which("glslc", path=process.environment()["PATH"])
    version = re.search(r"shaderc\s+(\S+)", process.output([glslc, "--version"])) if glslc else None
    headers = macro(request.toolchain, "vulkan/vulkan_core.h", "VK_HEADER_VERSION_COMPLETE")
    spirv = macro(request.toolchain, "spirv/unified1/spirv.h", "SPV_REVISION")
    features = _shader_features(glslc, request.tree) if glslc else []
    number = re.search(r"VK_MAKE_API_VERSION\(\s*\d+,\s*(\d+),\s*(\d+),\s*VK_HEADER_VERSION\)", headers or "")
    release = macro(request.toolchain, "vulkan/vulkan_core.h", "VK_HEADER_VERSION")
    pieces: tuple[Piece, ...] = (
        Piece("glslc", "any; newer ones give faster shaders", f"{version[1] if version else '?'} ({glslc})" if glslc else None),
        Piece("Vulkan headers", "1.3 or newer", f"{number[1]}.{number[2]}.{release}" if number else None),
        Piece("SPIR-V headers", "any", f"revision {spirv}" if spirv else None),
    )
    if request.toolchain.kind == "system":
        pieces += (Piece("libvulkan.so", "any; it is linked, never shipped", library("libvulkan.so")),)
    return Toolkit(
        "vulkan",
        pieces,
        "Install them (Debian, Ubuntu: `apt-get install glslc libvulkan-dev spirv-headers`;\n"
        "Fedora: `dnf install glslc vulkan-loader-devel vulkan-headers spirv-headers-devel`).",
        (f"-DVulkan_GLSLC_EXECUTABLE={glslc}", f"-DLLAMA_CPP_PLUGIN_INCLUDE={_SHIMS}", *_by_zig(request)),
        {"glslc": version[1] if version else "unknown", "shader_features": features},
    )


def _by_zig(request: Request) -> tuple[str, ...]:
    """zig knows neither the system's headers nor its loader. Its own headers stay before the system's, which are other versions."""
    if request.toolchain.kind != "zig":
        return ()
    stub = loader.stub(request.toolchain) if request.fetch else "libvulkan.so"
    return f"-DVulkan_LIBRARY={stub}", f"-DVulkan_INCLUDE_DIR={_SHIMS}", "-DCMAKE_CXX_FLAGS=-idirafter /usr/include"


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


BACKEND = Backend("vulkan", find, platforms=("linux_x86_64", "linux_aarch64"))
