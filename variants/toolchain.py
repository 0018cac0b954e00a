"""Compilers: zig from the package index (the default), or the gcc or clang of this system."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from . import run
from .errors import ToolchainError
from .source import ROOT

KINDS = ("zig", "system")

# The CPU plugins for Alder Lake and Sapphire Rapids need -mavxvnni and -mamx-int8: gcc 11, clang 12.
_MINIMUM = {"gcc": (11, 0), "clang": (12, 0)}
_GLIBC = "2.17"  # zig's target, hence manylinux_2_17


class Toolchain(msgspec.Struct, frozen=True):
    """What compiles: `kind` (of :data:`KINDS`), a `name` with every version that shapes the bytes, how CMake gets it, the
    manylinux tag it is built for (None: whatever auditwheel finds), the compiler cache in use, and the files whose licences the
    wheel must carry because it links them statically (name -> licence file)."""

    kind: str
    name: str
    cmake: tuple[str, ...]
    environment: dict[str, str]
    manylinux: str | None
    cache: str | None
    linked: dict[str, Path]

    @property
    def cxx(self) -> str:
        """Path of the C++ compiler."""
        return next(argument.partition("=")[2] for argument in self.cmake if argument.startswith("-DCMAKE_CXX_COMPILER="))

    @property
    def launcher(self) -> str | None:
        """Path of the compiler cache, where one is used."""
        found = (argument.partition("=")[2] for argument in self.cmake if argument.startswith("-DCMAKE_CXX_COMPILER_LAUNCHER="))
        return next(found, None)


def find(kind: str, build_dir: Path, write: bool = True) -> Toolchain:
    """The toolchain of this kind, with its wrapper scripts below `build_dir` (unless `write` is false).

    Raises:
        ToolchainError: it is not on this machine, or too old.
    """
    launcher = _compiler_cache()
    return _zig(build_dir, launcher, write) if kind == "zig" else _system(launcher)


def _compiler_cache() -> Path | None:
    """ccache or sccache, where the user has one on PATH."""
    path = run.environment()["PATH"]
    found = shutil.which("ccache", path=path) or shutil.which("sccache", path=path)
    return Path(found) if found else None


def _launcher(cache: Path | None) -> tuple[str, ...]:
    return (f"-DCMAKE_C_COMPILER_LAUNCHER={cache}", f"-DCMAKE_CXX_COMPILER_LAUNCHER={cache}") if cache else ()


def _zig(build_dir: Path, cache: Path | None, write: bool) -> Toolchain:
    try:
        import ziglang
    except ImportError as error:
        raise ToolchainError(
            "The zig toolchain is not in this environment.",
            "Run through nox, or `pip install ziglang`; or pass --toolchain system.",
        ) from error
    home = Path(ziglang.__file__).parent
    version = run.output([sys.executable, "-m", "ziglang", "version"]).strip()
    target = f"x86_64-linux-gnu.{_GLIBC}"
    folder = build_dir / f"zig-{version}-{target}"
    zig = home / "zig"
    # A cache of this checkout's own. Two zig installations that share one rewrite each other's stubs of libc while the other
    # links: the link then takes memcpy and its like from compiler_rt, and the bytes differ (seen with zig 0.17.1).
    zig_cache = shlex.quote(str(build_dir / "zig-cache"))
    cache_lines = f"export ZIG_GLOBAL_CACHE_DIR={zig_cache} ZIG_LOCAL_CACHE_DIR={zig_cache}\n"
    for tool, words in {"cc": f"cc -target {target}", "c++": f"c++ -target {target}", "ar": "ar", "ranlib": "ranlib"}.items():
        text = f'#!/bin/sh\n# zig {version}\n{cache_lines}exec {shlex.quote(str(zig))} {words} "$@"\n'
        script = folder / tool
        if write and (not script.is_file() or script.read_text(encoding="utf-8") != text):
            with run.replacing(script) as part:
                part.write_text(text, encoding="utf-8")
                part.chmod(0o755)
    runtime = {"zig": home / "LICENSE"}
    runtime |= {f"LLVM {name}": home / "lib" / name / "LICENSE.TXT" for name in ("libcxx", "libcxxabi", "libunwind")}
    return Toolchain(
        kind="zig",
        name=f"zig {version} {target}",
        cmake=(
            f"-DCMAKE_C_COMPILER={folder / 'cc'}", f"-DCMAKE_CXX_COMPILER={folder / 'c++'}",
            f"-DCMAKE_AR={folder / 'ar'}", f"-DCMAKE_RANLIB={folder / 'ranlib'}", *_launcher(cache),
        ),
        environment={"CCACHE_COMPILERTYPE": "clang", "CCACHE_COMPILERCHECK": f"string:zig {version} {target}"} if cache else {},
        manylinux=f"manylinux_{_GLIBC.replace('.', '_')}_x86_64",
        cache=cache.name if cache else None,
        linked=runtime,
    )  # fmt: skip


def _system(cache: Path | None) -> Toolchain:
    cc, cxx = _compiler("CC", ("cc", "gcc", "clang")), _compiler("CXX", ("c++", "g++", "clang++"))
    family, version = _version(cxx)
    minimum = _MINIMUM[family]
    if version < minimum:
        raise ToolchainError(
            f"{cxx} is {family} {_dotted(version)}; the newest CPU plugins need {family} {_dotted(minimum)}.",
            "Install a newer one and name it in CC and CXX, or leave out --toolchain: zig needs nothing on the machine.",
        )
    return Toolchain(
        kind="system",
        name=f"{family} {_dotted(version)}",
        cmake=(f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}", *_launcher(cache)),
        environment={},
        manylinux=None,
        cache=cache.name if cache else None,
        linked={},
    )


def _compiler(variable: str, names: tuple[str, ...]) -> str:
    """The compiler that the variable names, or the first of `names` on PATH."""
    named = os.environ.get(variable, "").split()
    for name in named[:1] or names:
        if found := shutil.which(name):
            return found
    looked = f"{variable}={os.environ[variable]}" if named else ", ".join(names)
    raise ToolchainError(
        f"No C++ compiler for --toolchain system: looked for {looked} on PATH.",
        "Install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`), name it in CC and CXX,\n"
        "or leave out --toolchain: zig needs nothing on the machine.",
    )


def _version(compiler: str) -> tuple[str, tuple[int, ...]]:
    text = run.output([compiler, "--version"])
    family = "clang" if "clang" in text else "gcc"
    found = re.search(r"clang version (\d+(?:\.\d+)*)", text) if family == "clang" else None
    number = found[1] if found else run.output([compiler, "-dumpfullversion", "-dumpversion"]).strip()
    if not re.fullmatch(r"\d+(\.\d+)*", number):
        raise ToolchainError(
            f"{compiler} does not say its version: `{compiler} --version` printed {text.strip()[:200]!r}.",
            "Name a working gcc or clang in CC and CXX.",
        )
    return family, tuple(int(part) for part in number.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def configured(environment: Mapping[str, str], toolchain: Toolchain) -> dict[str, str]:
    """`environment` as this toolchain wants it: no flags of the user's that would end up in a published wheel."""
    ignored = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_ARGS", "SKBUILD_CMAKE_ARGS", "CC", "CXX", "CMAKE_GENERATOR")
    # A compiler cache may hit across checkouts: nothing of their paths is in what is compiled (CMakeLists.txt).
    shared = {"CCACHE_BASEDIR": str(ROOT), "CCACHE_NOHASHDIR": "1", "SCCACHE_BASEDIRS": str(ROOT)} if toolchain.cache else {}
    return {k: v for k, v in environment.items() if k not in ignored} | shared | toolchain.environment
