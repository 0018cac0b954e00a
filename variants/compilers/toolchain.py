"""Compilers: zig from the package index (the default, for every platform), or the gcc or clang of this system."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import msgspec

from .. import platforms
from ..errors import ToolchainError
from ..platforms import Platform
from ..terminal import disk, process

KINDS = ("zig", "system")

# The CPU plugins for Alder Lake and Sapphire Rapids need -mavxvnni and -mamx-int8: gcc 11, clang 12.
_MINIMUM = {"gcc": (11, 0), "clang": (12, 0)}


class Toolchain(msgspec.Struct, frozen=True):
    """What compiles: `kind` (of :data:`KINDS`), a `name` with every version that shapes the bytes, the platform that it compiles
    for, how CMake gets it, the wheel platform that it promises (None: whatever the repair tool finds), the compiler cache in use,
    and the files whose licences the wheel must carry because it links them statically (name -> licence file)."""

    kind: str
    name: str
    platform: Platform
    cmake: tuple[str, ...]
    environment: dict[str, str]
    tag: str | None
    cache: str | None
    linked: dict[str, Path]

    @property
    def cxx(self) -> str:
        """Path of the C++ compiler."""
        return next(argument.partition("=")[2] for argument in self.cmake if argument.startswith("-DCMAKE_CXX_COMPILER="))

    @property
    def folder(self) -> Path:
        """Where zig's wrapper scripts are, in a folder for each platform."""
        return Path(self.cxx).parent.parent

    @property
    def launcher(self) -> str | None:
        """Path of the compiler cache, where one is used."""
        found = (argument.partition("=")[2] for argument in self.cmake if argument.startswith("-DCMAKE_CXX_COMPILER_LAUNCHER="))
        return next(found, None)


def find(kind: str, build_dir: Path, platform: Platform, write: bool = True) -> Toolchain:
    """The toolchain of this kind for `platform`, with its wrapper scripts below `build_dir` (unless `write` is false).

    Raises:
        ToolchainError: it is not on this machine, is too old, or does not compile for that platform.
    """
    launcher = _compiler_cache()
    if kind == "zig":
        return _zig(build_dir, platform, launcher, write)
    here = platforms.here()
    if platform != here:
        raise ToolchainError(
            f"The system's compiler makes wheels for {here.name}, not for {platform.name}.",
            "Leave out --toolchain: zig compiles the CPU core for every platform; a plugin is compiled on its own.",
        )
    return _system(platform, launcher)


def for_glibc(toolchain: Toolchain, glibc: str, write: bool = True) -> Toolchain:
    """The same zig for a newer glibc (``2.28``) than that of its platform: it compiles and links a whole plugin.

    `toolchain`: zig's for a Linux with glibc.
    """
    target = re.sub(r"\.\d+\.\d+$", f".{glibc}", toolchain.platform.zig)
    platform = msgspec.structs.replace(toolchain.platform, zig=target)
    found = find("zig", toolchain.folder, platform, write)
    return msgspec.structs.replace(found, environment=toolchain.environment | found.environment)  # the cache counts for both


def linker(toolchain: Toolchain, glibc: str, write: bool = True) -> Path:
    """A C compiler of zig's for a newer glibc (``2.28``), that links what gcc has compiled: without gcc's own libraries, which
    CMake adds for its languages. One C++ runtime is enough, and the caller names it.

    `toolchain`: zig's for a Linux with glibc.
    """
    compiler = Path(toolchain.cxx).parent / "cc"
    script = compiler.with_name(f"cc-{glibc}")
    if write:
        text = compiler.read_text(encoding="utf-8")
        target = re.sub(r"\.\d+\.\d+$", f".{glibc}", toolchain.platform.zig)
        text = text.replace(f"-target {toolchain.platform.zig}", f"-target {target}").replace("exec ", f"{_ONE_RUNTIME}exec ")
        _keep(script, text, 0o755)
    return script


def cmake_file(toolchain: Toolchain, write: bool = True) -> Path:
    """CMake's toolchain file of zig's `toolchain`, for a build inside of another that is for another platform."""
    file = Path(toolchain.cxx).with_name("toolchain.cmake")
    pairs = [argument.removeprefix("-D").partition("=") for argument in toolchain.cmake]
    text = "".join(f'set({name} "{value}")\n' for name, _, value in pairs if not name.endswith("_LAUNCHER"))
    if write:
        _keep(file, text, 0o644)
    return file


def _keep(file: Path, text: str, mode: int) -> None:
    """Write `file`, unless it has this text already: a build tool that knows it by its date starts nothing anew."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with disk.replacing(file) as part:
            part.write_text(text, encoding="utf-8")
            part.chmod(mode)


_ONE_RUNTIME = """for argument do
    shift
    case $argument in -lstdc++ | -lgcc | -lgcc_s | -lgcc_eh) ;; *) set -- "$@" "$argument" ;; esac
done
"""


def system_or_why(platform: Platform) -> Toolchain | str:
    """The system's compiler, where it has one that is new enough and compiles for `platform`; else why not, in words."""
    try:
        return _system(platform, _compiler_cache()) if platform == platforms.here() else f"none for {platform.name}"
    except ToolchainError as error:
        return error.what


def _compiler_cache() -> Path | None:
    """ccache or sccache, where the user has one on PATH."""
    path = process.environment()["PATH"]
    found = shutil.which("ccache", path=path) or shutil.which("sccache", path=path)
    return Path(found) if found else None


def _launcher(cache: Path | None) -> tuple[str, ...]:
    return (f"-DCMAKE_C_COMPILER_LAUNCHER={cache}", f"-DCMAKE_CXX_COMPILER_LAUNCHER={cache}") if cache else ()


# zig's driver wants LLVM's names where gcc and clang take Arm's: -march=armv8.2-a+dotprod+fp16 is generic+v8_2a+dotprod+fullfp16.
_TRANSLATE = r"""for argument do
    shift
    case $argument in -march=armv*) argument=$(printf %s "$argument" | sed \
        -e 's/^-march=armv8-a/-mcpu=generic/' -e 's/^-march=armv\([0-9]*\)\.\([0-9]*\)-a/-mcpu=generic+v\1_\2a/' \
        -e 's/+fp16/+fullfp16/' -e 's/+nosve/-sve/') ;;
    esac
    set -- "$@" "$argument"
done
"""


def _zig(build_dir: Path, platform: Platform, cache: Path | None, write: bool) -> Toolchain:
    try:
        import ziglang
    except ImportError as error:
        raise ToolchainError(
            "The zig toolchain is not in this environment.",
            "Run through nox, or `pip install --require-hashes -r variants/pins/compilers.txt`; or pass --toolchain system.",
        ) from error
    home = Path(ziglang.__file__).parent
    version = process.output([sys.executable, "-m", "ziglang", "version"]).strip()
    name = f"zig {version} {platform.zig}"
    folder = build_dir / f"zig-{version}-{platform.zig}"
    # A cache of this checkout's own. Two zig installations that share one rewrite each other's stubs of libc while the other
    # links: the link then takes memcpy and its like from compiler_rt, and the bytes differ (seen with zig 0.17.1).
    zig_cache = build_dir / "zig-cache"
    compiling = _TRANSLATE if platform.processor == "aarch64" or platform.name == "macosx_arm64" else ""
    tools = {"cc": f"cc -target {platform.zig}", "c++": f"c++ -target {platform.zig}", "ar": "ar", "ranlib": "ranlib"}
    tools |= {"rc": "rc"} if platform.system == "Windows" else {}
    if platform.system == "Darwin":  # CMake wants one, and does not call it: install names are right from the start
        tools["install_name_tool"] = "install_name_tool is not a tool of"
    for tool, words in tools.items():
        text = _script(f"zig {version}", home, zig_cache, words, compiling if tool in ("cc", "c++") else "")
        script = folder / platforms.executable(tool)
        if write:
            _keep(script, text, 0o755)
    linked = {"zig": home / "LICENSE"}
    linked |= {f"LLVM {part}": home / "lib" / part / "LICENSE.TXT" for part in ("libcxx", "libcxxabi", "libunwind")}
    linked |= {"mingw-w64": home / "lib" / "libc" / "mingw" / "COPYING"} if platform.system == "Windows" else {}
    across = platform.name != platforms.here().name
    target = (f"-DCMAKE_SYSTEM_NAME={platform.system}", f"-DCMAKE_SYSTEM_PROCESSOR={platform.processor}") if across else ()
    variables = {"C_COMPILER": "cc", "CXX_COMPILER": "c++", "AR": "ar", "RANLIB": "ranlib"}
    variables |= {"RC_COMPILER": "rc"} if "rc" in tools else {}
    variables |= {"INSTALL_NAME_TOOL": "install_name_tool"} if platform.system == "Darwin" else {}
    same = f"string:{name}{hashlib.sha256(compiling.encode()).hexdigest()[:8] if compiling else ''}"
    return Toolchain(
        kind="zig",
        name=name,
        platform=platform,
        cmake=(
            *(f"-DCMAKE_{variable}={folder / platforms.executable(tool)}" for variable, tool in variables.items()), *target,
            *_launcher(cache),
        ),
        environment={"CCACHE_COMPILERTYPE": "clang", "CCACHE_COMPILERCHECK": same} if cache else {},
        tag=platform.tag,
        cache=cache.name if cache else None,
        linked=linked,
    )  # fmt: skip


def _script(comment: str, home: Path, cache: Path, words: str, before: str) -> str:
    """A wrapper that calls zig: CMake wants compilers that are one word."""
    if os.name == "nt":
        lines = [f"@rem {comment}", *(f"@set {name}={cache}" for name in _CACHES), f'@"{home / "zig.exe"}" {words} %*']
        return "\r\n".join([*lines, ""])
    exports = " ".join(f"{name}={shlex.quote(str(cache))}" for name in _CACHES)
    return f'#!/bin/sh\n# {comment}\nexport {exports}\n{before}exec {shlex.quote(str(home / "zig"))} {words} "$@"\n'


_CACHES = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


def _system(platform: Platform, cache: Path | None) -> Toolchain:
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
        platform=platform,
        cmake=(f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}", *_launcher(cache)),
        environment={},
        tag=None,
        cache=cache.name if cache else None,
        linked={},
    )


#: What a user may have put before the compiler in CC or CXX. One that is on PATH is found by itself.
_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc", "buildcache")


def _compiler(variable: str, names: tuple[str, ...]) -> str:
    """The compiler that the variable names, or the first of `names` on PATH."""
    named = shlex.split(os.environ.get(variable, ""))
    compilers = [word for word in named if Path(word).stem not in _LAUNCHERS]  # CXX="ccache g++"
    for name in compilers[:1] or names:
        if found := shutil.which(name):
            return found
    looked = f"{variable}={os.environ[variable]}" if named else ", ".join(names)
    raise ToolchainError(
        f"No C++ compiler: looked for {looked} on PATH.",
        "Install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`), name it in CC and CXX,\n"
        "or leave out --toolchain: zig needs nothing on the machine.",
    )


def _version(compiler: str) -> tuple[str, tuple[int, ...]]:
    text = process.output([compiler, "--version"])
    family = "clang" if "clang" in text else "gcc"
    found = re.search(r"clang version (\d+(?:\.\d+)*)", text) if family == "clang" else None
    number = found[1] if found else process.output([compiler, "-dumpfullversion", "-dumpversion"]).strip()
    if not re.fullmatch(r"\d+(\.\d+)*", number):
        raise ToolchainError(
            f"{compiler} does not say its version: `{compiler} --version` printed {text.strip()[:200]!r}.",
            "Name a working gcc or clang in CC and CXX.",
        )
    return family, tuple(int(part) for part in number.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
