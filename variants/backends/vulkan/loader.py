"""A stand-in for the Vulkan loader's library, to link with and never to ship: made of names, so that the loader can be missing."""

from __future__ import annotations

from pathlib import Path

from ...compilers.toolchain import Toolchain
from ...errors import ToolchainError
from ...terminal import disk, process

#: The functions that ggml-vulkan.cpp takes from the loader by name; the others it asks for with vkGetInstanceProcAddr.
NAMES = ("vkCmdCopyBuffer", "vkGetDeviceProcAddr", "vkGetInstanceProcAddr", "vkGetPhysicalDeviceFeatures2")


def stub(toolchain: Toolchain) -> Path:
    """``libvulkan.so`` for the toolchain's platform, beside its compilers.

    Raises:
        ToolchainError: the compiler cannot make it.
    """
    library = Path(toolchain.cxx).parent / "libvulkan.so"
    with disk.replacing(library) as part:
        source = part.with_name(f"{part.name}.c")
        try:
            source.write_text("".join(f"void {name}(void) {{}}\n" for name in NAMES), encoding="utf-8")
            said = process.output(
                [Path(toolchain.cxx).with_name("cc"), "-shared", "-fPIC", "-Wl,-soname,libvulkan.so.1", source, "-o", part]
            )
        finally:
            source.unlink(missing_ok=True)
        if not part.is_file():
            raise ToolchainError(f"No library to link Vulkan's loader with could be made: {said[-500:]}", "Is the compiler whole?")
    return library
