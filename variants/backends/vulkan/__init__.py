"""The toolkit of ggml's Vulkan plugin: a shader compiler, headers as new as it, and the loader to link with."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ... import platforms
from ...compilers import packages
from ...compilers import toolchain as toolchains
from ...terminal import process
from ..backend import Backend, Software
from ..toolkit import INCLUDE, Piece, Request, Toolkit, defined, library, macro, stub
from . import compiler, headers

#: Headers of ours that go first on the include path: what older packages lack.
_SHIMS = Path(__file__).parent / "include"
_CORE = "vulkan/vulkan_core.h"
#: What ggml's code wants of the headers for a shader feature. A compiler that has the feature, with headers that do not, makes a
#: plugin that computes gibberish on GPUs with it (llama.cpp issue 13044).
_DEFINED_AS = {
    "coopmat": "VK_KHR_cooperative_matrix",
    "coopmat2": "VK_NV_cooperative_matrix2",
    "bfloat16": "VK_KHR_shader_bfloat16",
}


def find(request: Request) -> Toolkit:
    """From the package index, unless the user wants this machine's or names the folder of a Vulkan SDK."""
    if request.source in (None, "index"):
        return _from_index(request)
    named = os.environ.get("VULKAN_SDK") if request.source == "machine" else request.source
    return _from_machine(request, Path(named).absolute() if named else None)


# -- the package index ------------------------------------------------------------------------------------------------------


def _from_index(request: Request) -> Toolkit:
    """Headers of pinned packages, glslc compiled of a pinned source package, and a stub of the loader."""
    include = headers.find(request.fetch, request.log)
    glslc = compiler.find(request.toolchain, request.fetch, request.log)
    if not (include.there and glslc.there):
        return Toolkit(
            "vulkan",
            (
                Piece("glslc", "all shader features", f"{glslc.made_of}{'' if glslc.there else ', to be compiled once'}"),
                Piece("Vulkan headers", "as new as glslc", "there" if include.there else "to be fetched once (75 MB)"),
            ),
            "",
        )
    loader = _loader(request, include.folder)
    features = compiler.features(glslc.path, request.tree)
    spirv = _defined(request, include.folder, "spirv/unified1/spirv.h", "SPV_REVISION")
    pieces = (
        Piece("glslc", "all shader features", f"{compiler.version(glslc.path)}, {glslc.made_of} ({glslc.path})"),
        _headers(request, features, include.version, include.folder),
        Piece("SPIR-V headers", "any", f"revision {spirv}" if spirv else None),
        Piece(loader.name, "a stub to link with", str(loader)),
    )
    return _kit(
        request,
        pieces,
        "Take a newer toolkit of this machine: `--toolkit machine`, or the folder of a Vulkan SDK.",
        glslc.path,
        features,
        include.version,
        (
            f"-DVulkan_INCLUDE_DIR={include.folder}", f"-DSPIRV-Headers_DIR={include.spirv}", f"-DVulkan_LIBRARY={loader}",
            *_generator(request),
        ),
    )  # fmt: skip


def _generator(request: Request) -> tuple[str, ...]:
    """How ggml's generator of shaders, which runs here, is compiled where the plugin is for another platform."""
    if request.toolchain.platform == platforms.here():
        return ()
    file = toolchains.cmake_file(toolchains.find("zig", request.toolchain.folder, platforms.here(), request.fetch), request.fetch)
    return (f"-DGGML_VULKAN_SHADERS_GEN_TOOLCHAIN={file}",)


def _loader(request: Request, include: Path) -> Path:
    """A libvulkan.so (vulkan-1.lib) with the functions that the headers say a loader has, for the plugin's platform, to link
    with and never to ship; made if that may be done.

    A function of an extension is asked of the loader at run time: a plugin that calls one by its name does not link (Vulkan's
    headers, VK_ONLY_EXPORTED_PROTOTYPES).

    Raises:
        ToolchainError: the compiler cannot make it.
    """
    text = (include / _CORE).read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"(?ms)^#ifndef VK_ONLY_EXPORTED_PROTOTYPES$.*?^#endif$", "", text)
    names = sorted(set(re.findall(r"\bVKAPI_CALL (vk\w+)\(", text)))
    digest = hashlib.sha256(f"{request.toolchain.name} {names}".encode()).hexdigest()
    folder = packages.cache() / f"libvulkan-{digest[:8]}"
    soname, file = _LOADERS[request.toolchain.platform.system]
    if request.fetch:
        failed = -3  # VK_ERROR_INITIALIZATION_FAILED
        packages.make(folder, lambda part: stub(request.toolchain, soname, names, failed, part))
    return folder / file


#: The loader's name by system, and of what is linked in its place.
_LOADERS = {"Linux": ("libvulkan.so.1", "libvulkan.so"), "Windows": ("vulkan-1.dll", "vulkan-1.lib")}


# -- this machine -----------------------------------------------------------------------------------------------------------


def _from_machine(request: Request, sdk: Path | None) -> Toolkit:
    """glslc, headers and loader of a Vulkan SDK, or as the system's packages have them."""
    path = str(sdk / "bin") if sdk else process.environment()["PATH"]
    glslc = shutil.which("glslc", path=path)
    include = sdk / "include" if sdk else None
    version = compiler.version(Path(glslc)) if glslc else "unknown"
    features = compiler.features(Path(glslc), request.tree) if glslc else []
    system = next(map(str, sorted(sdk.glob("lib*/libvulkan.so"))), None) if sdk else library("libvulkan.so")
    spirv = _defined(request, include, "spirv/unified1/spirv.h", "SPV_REVISION")
    release = _release(request, include)
    pieces: tuple[Piece, ...] = (
        Piece("glslc", "any; newer ones give faster shaders", f"{version} ({glslc})" if glslc else None, f"nothing in {path}"),
        _headers(request, features, release, include),
        Piece("SPIR-V headers", "any", f"revision {spirv}" if spirv else None),
    )
    own = include or next((folder for folder in INCLUDE if (folder / _CORE).is_file()), None)
    made = _loader(request, own) if own and request.toolchain.kind == "zig" else None
    loader = str(made) if made else system
    pieces += (Piece("libvulkan.so", "any; it is linked, never shipped", loader),)
    remedy = (
        "Leave out --toolkit: all of it then comes from the package index. Or install them (Debian, Ubuntu:\n"
        "`apt-get install glslc libvulkan-dev spirv-headers`; Fedora: `dnf install glslc vulkan-loader-devel vulkan-headers\n"
        "spirv-headers-devel`). glslc and Vulkan headers go together: both old, or both new."
    )
    found: tuple[str, ...] = ()
    if sdk:
        found = (f"-DVulkan_INCLUDE_DIR={include}", f"-DVulkan_LIBRARY={loader}", f"-DCMAKE_PREFIX_PATH={sdk}")
    elif own and made:  # zig knows nothing of the system's; its own headers stay before those there, which are of another libc
        found = (f"-DVulkan_INCLUDE_DIR={_SHIMS}", f"-DVulkan_LIBRARY={made}", f"-DCMAKE_CXX_FLAGS=-idirafter {own}")
    return _kit(request, pieces, remedy, Path(glslc or "glslc"), features, release or "unknown", found)


def _release(request: Request, include: Path | None) -> str | None:
    """The headers' version, as in ``1.3.239``; None where there are none."""
    complete = _defined(request, include, _CORE, "VK_HEADER_VERSION_COMPLETE")
    number = re.search(r"VK_MAKE_API_VERSION\(\s*\d+,\s*(\d+),\s*(\d+),\s*VK_HEADER_VERSION\)", complete or "")
    return f"{number[1]}.{number[2]}.{_defined(request, include, _CORE, 'VK_HEADER_VERSION')}" if number else None


# -- either -----------------------------------------------------------------------------------------------------------------


def _defined(request: Request, include: Path | None, header: str, name: str) -> str | None:
    """What `name` is defined as in a header of this folder (None: where the compiler finds it)."""
    return macro(request.toolchain, header, name) if include is None else defined(include / header, name)


def _headers(request: Request, features: Sequence[str], release: str | None, include: Path | None) -> Piece:
    """Vulkan's headers, checked against what glslc can do: ggml takes its word for theirs."""
    wanted = "1.3 or newer, and as new as glslc"
    if release is None:
        return Piece("Vulkan headers", wanted, None)
    names = [_DEFINED_AS[feature] for feature in features if feature in _DEFINED_AS]
    lacking = [name for name in names if _defined(request, include, _CORE, name) is None]
    seen = f"{release}, older than glslc: without {', '.join(lacking)}"
    return Piece("Vulkan headers", wanted, None if lacking else release, seen)


def _kit(
    request: Request, pieces: tuple[Piece, ...], remedy: str, glslc: Path, features: list[str], release: str,
    cmake: tuple[str, ...],
) -> Toolkit:  # fmt: skip
    return Toolkit(
        "vulkan",
        pieces,
        remedy,
        (f"-DVulkan_GLSLC_EXECUTABLE={glslc}", f"-DLLAMA_CPP_PLUGIN_INCLUDE={_SHIMS}", *cmake),
        {"glslc": compiler.version(glslc), "vulkan_headers": release, "shader_features": features},
        lacks=tuple(test.stem for test in compiler.tests(request.tree) if test.stem not in features),
    )


#: Mesa's lavapipe. ggml takes a device on the CPU only by its number.
_LAVAPIPE = Software(
    ("libvulkan1", "mesa-vulkan-drivers"),
    ("GGML_VK_VISIBLE_DEVICES=0", "VK_ICD_FILENAMES=/usr/share/vulkan/icd.d/lvp_icd.{machine}.json"),
    lambda log: headers.find(True, log).folder,
)
_PLATFORMS = ("linux_x86_64", "linux_aarch64", "win_amd64", "win_arm64")
BACKEND = Backend(
    "vulkan", find, _PLATFORMS, across=lambda variant: _PLATFORMS, gpus=("nvidia", "amd", "intel"), software=_LAVAPIPE
)
