"""Vulkan's and SPIR-V's headers from the package index.

No package there has a current ``vulkan.hpp``. But the C++ headers are a layer over the C headers, and newer shader features want
newer C definitions alone. So here the C headers of one package (datoviz) lie under the C++ headers of another (sapien). The few C++
names that ggml wants beyond those are written in, or stand in the header of ours in ``include/``.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from ...compilers import packages
from ...errors import ToolchainError

_RECIPE = 1  # to be raised when the folder is made otherwise
_PINS = Path(__file__).parent / "vulkan-headers.txt"

#: The files that have the headers, whatever platform and Python asks for them (pip's options).
_FILES_FOR = (
    "--platform", "manylinux_2_34_x86_64", "--platform", "manylinux_2_28_x86_64", "--platform", "any",
    "--python-version", "3.14", "--implementation", "cp", "--abi", "cp314",
)  # fmt: skip

_ENUMS = "vulkan_enums.hpp"
_QUEUE = "VK_DEVICE_QUEUE_CREATE_PROTECTED_BIT"
_PIPELINE = "VK_PIPELINE_CREATE_2_DESCRIPTOR_BUFFER_BIT_EXT"
#: In the C++ headers: the file, a text that it has once, and what takes its place.
_EDITS = (
    # Numbers whose names the C headers have dropped.
    (_ENUMS, "VK_DRIVER_ID_RESERVED_27\n", "27\n"),
    (_ENUMS, "VK_PIPELINE_CREATE_2_RAY_TRACING_DISPLACEMENT_MICROMAP_BIT_NV,\n", "1ULL << 28,\n"),
    # VK_KHR_internally_synchronized_queues
    (
        _ENUMS,
        f"{_QUEUE}\n",
        f"{_QUEUE},\n    eInternallySynchronizedKHR = VK_DEVICE_QUEUE_CREATE_INTERNALLY_SYNCHRONIZED_BIT_KHR\n",
    ),
    # VK_EXT_shader_64bit_indexing; include/vulkan/vulkan.hpp has Vulkan 1.4's names for these types
    (
        _ENUMS,
        f"{_PIPELINE}\n",
        f"{_PIPELINE},\n    eCaptureStatisticsKHR = VK_PIPELINE_CREATE_2_CAPTURE_STATISTICS_BIT_KHR,\n"
        "    e64BitIndexingEXT = VK_PIPELINE_CREATE_2_64_BIT_INDEXING_BIT_EXT\n",
    ),
)


class Headers(msgspec.Struct, frozen=True):
    """The `folder` for the include path, that of the CMake package of the SPIR-V headers, which headers they are (``1.4.350, C++ of
    1.3.290``), and whether they are there."""

    folder: Path
    spirv: Path
    version: str
    there: bool


def find(fetch: bool, log: Path) -> Headers:
    """The headers, fetched and put together if that may be done and was not yet."""
    wanted = packages.read(_PINS, _RECIPE)
    if fetch:
        packages.install(wanted, _finish, log, _FILES_FOR)
    version = (wanted.folder / "version").read_text(encoding="utf-8").strip() if wanted.there else ""
    return Headers(wanted.folder / "include", wanted.folder / "share" / "cmake" / "SPIRV-Headers", version, wanted.there)


def _finish(site: Path, prefix: Path, folder: Path) -> None:
    include = folder / "include"
    shutil.copytree(site / "datoviz" / "include" / "vulkan", include / "vulkan")
    shutil.copytree(site / "datoviz" / "include" / "vk_video", include / "vk_video")
    shutil.copytree(site / "cmeel.prefix" / "include" / "spirv", include / "spirv")
    shutil.copytree(site / "cmeel.prefix" / "share" / "cmake", folder / "share" / "cmake")  # finds the folder above by itself
    older = site / "sapien" / "include" / "vulkan"
    for file in older.glob("*.hpp"):
        shutil.copyfile(file, include / "vulkan" / file.name)
    for name, old, new in _EDITS:
        _replace(include / "vulkan" / name, old, new)
    c, cxx = _version(include / "vulkan"), _version(older)
    # The C++ headers want to be beside C headers of their own version, and ggml asks for it to know the names in them.
    number = "#define VK_HEADER_VERSION "
    _replace(include / "vulkan" / "vulkan_core.h", f"{number}{c.rpartition('.')[2]}\n", f"{number}{cxx.rpartition('.')[2]}\n")
    (folder / "version").write_text(f"{c}, C++ of {cxx}\n", encoding="utf-8")


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ToolchainError(f"{file.name} has {text.count(old)} times {old.strip()!r}, not once.", f"Adapt {__file__} to {_PINS}.")
    file.write_text(text.replace(old, new), encoding="utf-8")


def _version(folder: Path) -> str:
    """As in ``1.4.350``."""
    text = (folder / "vulkan_core.h").read_text(encoding="utf-8")
    release = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    number = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+),", text)
    assert release
    assert number
    return f"{number[1]}.{number[2]}.{release[1]}"
