"""Platforms that wheels are for: how the matrix, wheel tags, zig and CMake each spell them."""

from __future__ import annotations

import os
import platform as host
import re
import sysconfig

import msgspec

from .errors import UsageError


class Platform(msgspec.Struct, frozen=True):
    """One platform.

    name: in the matrix; a wheel's platform before repair. newest: wheel platform of the newest system that it stands for where
    nothing more is said (PEP 425, PEP 600, PEP 656). zig: zig's target, with the oldest system that its wheels run on. tag: what
    zig's target promises, as a wheel platform. system, processor: CMake's names. prefix, shared, module: of a library's and a
    plugin's file name. tool: what repairs its wheels.
    """

    name: str
    newest: str
    zig: str
    tag: str
    system: str
    processor: str
    prefix: str = "lib"
    shared: str = ".so"
    module: str = ".so"
    tool: str = "auditwheel"

    @property
    def musl(self) -> bool:
        """Is its C library musl?"""
        return self.name.startswith("musllinux")

    @property
    def machine(self) -> str:
        """Its processor as libraries name it (:attr:`.binary.Library.machine`)."""
        return {"amd64": "x86_64", "arm64": "aarch64"}.get(self.processor.lower(), self.processor)

    @property
    def format(self) -> str:
        """What its libraries are: ELF, PE or Mach-O."""
        return {"Linux": "ELF", "Windows": "PE", "Darwin": "Mach-O"}[self.system]

    @property
    def origin(self) -> str:
        """The folder of a library, as its own RPATH names it."""
        return "@loader_path" if self.system == "Darwin" else "$ORIGIN"

    def library(self, name: str) -> str:
        """File name of the shared library `name`: ``libllama.dylib``."""
        return f"{self.prefix}{name}{self.shared}"

    def plugin(self, name: str) -> str:
        """File name of ggml's plugin `name`: ``libggml-vulkan.so``."""
        return f"{self.prefix}ggml-{name}{self.module}"


def _linux(arch: str) -> Platform:
    tag = f"manylinux_2_17_{arch}"
    return Platform(f"linux_{arch}", f"manylinux_2_39_{arch}", f"{arch}-linux-gnu.2.17", tag, "Linux", arch)


def _musl(arch: str) -> Platform:
    tag = f"musllinux_1_2_{arch}"
    return Platform(f"musllinux_{arch}", tag, f"{arch}-linux-musl", tag, "Linux", arch)


def _windows(arch: str, zig: str, processor: str) -> Platform:
    name = f"win_{arch}"
    return Platform(name, name, f"{zig}-windows-gnu", name, "Windows", processor, "", ".dll", ".dll", "delvewheel")


def _macos(arch: str, zig: str) -> Platform:
    names = f"macosx_{arch}", f"macosx_14_0_{arch}", f"{zig}-macos.11.0", f"macosx_11_0_{arch}"
    return Platform(*names, "Darwin", arch, "lib", ".dylib", ".so", "delocate")


_ALL = (
    _linux("x86_64"),
    _linux("aarch64"),
    _musl("x86_64"),
    _musl("aarch64"),
    _windows("amd64", "x86_64", "AMD64"),
    _windows("arm64", "aarch64", "ARM64"),
    _macos("arm64", "aarch64"),
    _macos("x86_64", "x86_64"),
)
#: By the matrix's name.
PLATFORMS = {platform.name: platform for platform in _ALL}


def get(name: str) -> Platform:
    """The platform of this name.

    Raises:
        UsageError: nobody knows it.
    """
    if name not in PLATFORMS:
        raise UsageError(f'Nobody knows the platform "{name}".', f"Known: {', '.join(PLATFORMS)}.")
    return PLATFORMS[name]


def here() -> Platform:
    """This machine's.

    Raises:
        UsageError: nothing is built on such a machine.
    """
    text = sysconfig.get_platform()  # linux-x86_64, win-amd64, macosx-14.0-arm64
    name = re.sub(r"^macosx-[\d.]+-", "macosx-", text).replace("-", "_")
    if text.endswith("universal2"):
        name = f"macosx_{host.machine()}"
    if name.startswith("linux") and "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        name = f"musl{name}"
    if name not in PLATFORMS:
        raise UsageError(f"This machine is {text}.", f"Wheels are built on and for {', '.join(PLATFORMS)}.")
    return PLATFORMS[name]


def of_tag(tag: str) -> Platform | None:
    """The platform that a wheel platform (``manylinux_2_17_x86_64``) belongs to; None where there is none in the matrix."""
    name = re.sub(r"^manylinux(?:_\d+_\d+|\d+)_", "linux_", tag)
    name = re.sub(r"^musllinux_\d+_\d+_", "musllinux_", re.sub(r"^macosx_\d+_\d+_", "macosx_", name))
    return PLATFORMS.get(name)


def libc(tag: str) -> tuple[int, int] | None:
    """The libc version in a wheel platform (PEP 600, PEP 656): (2, 17) for ``manylinux_2_17_x86_64``; None where it has none."""
    match = re.match(r"(?:many|musl)linux_(\d+)_(\d+)_", tag)
    return (int(match[1]), int(match[2])) if match else None


def release(tag: str) -> tuple[int, ...]:
    """The system's version in a wheel platform, glibc's, musl's or macOS's (PEP 425, PEP 600, PEP 656): (2, 17) for
    ``manylinux_2_17_x86_64`` and ``manylinux2014_x86_64``; nothing for Windows."""
    old = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}.get(tag.partition("_")[0])
    match = re.match(r"(?:manylinux|musllinux|macosx)_(\d+)_(\d+)_", tag)
    return old or ((int(match[1]), int(match[2])) if match else ())


def executable(name: str) -> str:
    """A program's file name on this machine."""
    return f"{name}.cmd" if os.name == "nt" else name
