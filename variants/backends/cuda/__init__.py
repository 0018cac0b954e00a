"""The toolkit of ggml's CUDA plugin: nvcc with its headers and libraries, from the package index or from this machine."""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

import msgspec
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from msgspec import Meta
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from ... import platforms
from ...choice.machine import Machine
from ...compilers import packages
from ...compilers import toolchain as toolchains
from ...compilers.toolchain import Toolchain
from ...errors import ToolchainError
from ...terminal import process
from ...terminal.console import console
from ..backend import Backend, Lists, Properties
from ..toolkit import Linked, Piece, Request, Toolkit, linked, stub

#: Numbers of the recipes that make a toolkit of packages (:func:`_finish_nvcc`, :func:`_finish_clang`).
_RECIPES = {"cuda13": 1, "cuda12": 2}
_USUAL = (Path("/usr/local"), Path("/opt"))  # where NVIDIA's installers and distributions put a toolkit
_NVCC = "nvidia-cuda-nvcc"  # on the index, nvcc itself comes with CUDA 13 and newer
_PTXAS = "nvidia-cuda-nvcc-cu12"  # that of CUDA 12 has ptxas and headers, but no compiler


class Cuda(Lists, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """NVIDIA: the architectures, once, for the compiler and for the property `sm_arch`; `"86"` for compute capability 8.6."""

    nvcc: Annotated[str, Meta(description="the versions of CUDA that build it, as in `>=13.0,<14` (PEP 440)")]
    arm: Annotated[
        list[str],
        Meta(
            description="those of the `architectures` whose GPUs exist beside Arm processors alone: no machine code for them "
            "elsewhere, but the same properties, since a label has one set of properties"
        ),
    ] = []  # noqa: RUF012 - copied by msgspec
    ptx: Annotated[
        str | None,
        Meta(
            description="the one whose PTX goes in too, which drivers compile for GPUs newer than all of them. `M0_virtual` is "
            "added for its major and every newer one that installers know (up to 12)"
        ),
    ] = None

    maker = "NVIDIA"
    spelling = r"[5-9]\d|1[0-2]\d"
    spelt = 'Write compute capability 8.6 as "86", 12.0 as "120".'
    detector = "nvidia-smi"
    example = "86"

    def compiled(self, platform: str) -> list[str]:
        """The architectures that get machine code on `platform` (``linux_aarch64``)."""
        return [one for one in self.architectures if one not in self.arm or platform.endswith(("aarch64", "arm64"))]

    def properties(self) -> Properties:
        """``nvidia :: sm_arch``. A device M.m takes ``M0_virtual`` and no other PTX, so every newer major that this PTX reaches is
        listed too; none beyond 12, which nvidia-variant-provider does not know yet."""
        real = [f"{architecture}_real" for architecture in self.architectures]
        reached = [major for major in range(5, 13) if self.ptx and major * 10 >= int(self.ptx)]
        return {"nvidia": {"sm_arch": real + [f"{major}0_virtual" for major in reached]}}

    def here(self, machine: Machine) -> list[str]:
        """``86`` for a GPU of compute capability 8.6."""
        return [sm.replace(".", "") for sm in machine.sm]

    def mistake(self) -> tuple[str, str] | None:
        """An architecture, `arm`, `ptx` or `nvcc` that cannot be."""
        if self.ptx and not re.fullmatch(self.spelling, self.ptx):
            return f'`ptx`: "{self.ptx}" is no {self.maker} architecture.', self.spelt
        if alone := sorted(set(self.arm) - set(self.architectures)):
            return f"`arm` names {alone[0]}.", "Name what also stands in `architectures`."
        try:
            SpecifierSet(self.nvcc)
        except InvalidSpecifier:
            return f'`nvcc`: "{self.nvcc}" is no version range.', "Write it as in `>=12.8,<13` (PEP 440)."
        return super().mistake()

    def narrowed(self, architectures: Sequence[str]) -> Self:
        """For these architectures alone, on every platform, and without PTX."""
        return msgspec.structs.replace(super().narrowed(architectures), arm=[], ptx=None)

    def as_compiled(self, facts: Mapping[str, str | list[str]]) -> Self:
        """With the PTX that was compiled, too."""
        ptx = str(facts.get("ptx", "none"))
        return msgspec.structs.replace(super().as_compiled(facts), ptx=None if ptx == "none" else ptx)


def find(request: Request) -> Toolkit:
    """The toolkit that the user named; else the one made of packages, where the index has nvcc; else a whole one of this machine;
    else clang.

    Raises:
        ToolchainError: the index has nothing for this variant, and the user wants it from there.
    """
    table = _table(request)
    assembled = _assembled(request)
    if assembled is None:
        if request.source == "index":
            raise ToolchainError(
                f"The package index has no toolkit for {request.variant}.",
                "Leave out --toolkit, or name the folder of a CUDA toolkit.",
            )
        return _from_machine(request, table)
    whole = _NVCC in assembled.versions
    if request.source == "index" or (request.source is None and whole):
        return _nvcc_from_index(request, table, assembled) if whole else _clang_from_index(request, table, assembled)
    found = _from_machine(request, table)
    if request.source is None and found.missing:
        return _clang_from_index(request, table, assembled)
    return found


def _table(request: Request) -> Cuda:
    assert isinstance(request.table, Cuda)  # the matrix refuses the plugin without its table
    return request.table


# -- the package index ------------------------------------------------------------------------------------------------------


def _assembled(request: Request) -> packages.Packages | None:
    """The pinned packages of this variant's toolkit, where there are any."""
    pins = _pins(request)
    return packages.read(pins, _RECIPES.get(request.variant, 1)) if pins.is_file() else None


def _pins(request: Request) -> Path:
    """Where the packages of this variant's toolkit are pinned."""
    return Path(__file__).parent / f"{request.variant}.txt"


def _nvcc_from_index(request: Request, table: Cuda, wanted: packages.Packages) -> Toolkit:
    version = wanted.versions[_NVCC]
    what = f"{len(wanted.versions)} packages of the index"
    if not _assemble(request, wanted, version, _finish_nvcc):
        return Toolkit("cuda", (Piece("nvcc", table.nvcc, _to_come(wanted, version)),), "")
    home = next(wanted.folder.glob("nvidia/cu*"))
    return _kit(request, table, home, version, f"{version} of {what} ({home})")


def _to_come(wanted: packages.Packages, version: str) -> str:
    return f"{version}, to be assembled once from {len(wanted.versions)} packages (0.5 GB to fetch) in {wanted.folder}"


def _assemble(
    request: Request, wanted: packages.Packages, version: str, finish: Callable[[Request, Path, Path, Path], None]
) -> bool:
    """Is the toolkit there? Fetches it where the request allows that."""
    if not wanted.there and request.fetch:
        console.print(f"      CUDA {_to_come(wanted, version)}")
        packages.install(wanted, functools.partial(finish, request), request.log)
    return wanted.there


def _finish_nvcc(request: Request, site: Path, prefix: Path, folder: Path) -> None:
    """Complete what the packages of CUDA 13 leave out: the names that a linker looks for, and a libcuda to link with."""
    (site / "nvidia").rename(folder / "nvidia")
    home = next(folder.glob("nvidia/cu*"))
    (home / "lib64").symlink_to("lib")
    _link_names(home / "lib")
    _driver_stub(home / "include", home / "lib" / "stubs", request)


def _link_names(folder: Path) -> None:
    for name in ("cudart", "cublas", "cublasLt"):
        library = next(folder.glob(f"lib{name}.so.*"))
        (folder / f"lib{name}.so").symlink_to(library.name)


def _driver_stub(include: Path, target: Path, request: Request) -> None:
    """Write `target`/libcuda.so for this machine: the driver's functions by name, from `include`/cuda.h, to link with and never
    to ship.

    Raises:
        ToolchainError: the compiler cannot make it.
    """
    target.mkdir(parents=True, exist_ok=True)
    here = platforms.here()
    tools = request.toolchain
    if tools.platform != here:
        tools = toolchains.find("zig", tools.folder, here)
    text = process.output([tools.cxx, "-x", "c", "-E", "-P", "-I", include, include / "cuda.h"])
    names = re.findall(r"\bCUresult\s+(cu\w+)\s*\(", text)
    stub(tools, "libcuda.so.1", names, 100, target)  # CUDA_ERROR_NO_DEVICE


def _clang_from_index(request: Request, table: Cuda, wanted: packages.Packages) -> Toolkit:
    """clang (the one inside zig) as the CUDA compiler, with NVIDIA's headers, ptxas and fat binary library of CUDA 12.

    The host's side has zig's libc++ and headers of glibc, so zig compiles what is C++ alone, and links. Nothing is the system's.
    """
    version = wanted.versions[_PTXAS]
    own = f"zig {wanted.versions['ziglang']}"
    made = f"of {own} with ptxas {version}; experimental: its kernels have never run"
    if not _assemble(request, wanted, version, _finish_clang):
        return Toolkit("cuda", (Piece("clang", table.nvcc, f"{made}; {_to_come(wanted, version)}"),), "")
    home = wanted.folder / "cuda"
    known = set(re.findall(r"\bsm_(\d+)\b", process.output([home / "bin" / "ptxas", "--help"])))
    across = request.toolchain.platform != platforms.here()
    if across:
        there = packages.cache() / f"{wanted.folder.name}-{request.platform}"
        home = packages.make(there, functools.partial(_across, request, home))
    fits = request.toolchain.name.startswith(f"{own} ")  # one release of libc++ in the plugin, the one that is linked
    glibc = request.toolchain.platform.system == "Linux"
    host = (toolchains.for_glibc(request.toolchain, request.glibc, request.fetch) if glibc else request.toolchain) if fits else None
    pieces = (
        Piece("clang", table.nvcc, f"{made} ({wanted.folder})"),
        _architectures(request, table, known, f"ptxas {version}"),
        Piece("C++ library", f"that of {own}, which compiles the core, too", host.name if host else None, request.toolchain.name),
    )
    flags = ["-Wno-unknown-cuda-version", "-Wno-return-type", *(_headers(wanted.folder / "ziglang" / "zig", host) if host else ())]
    flags += [f"--target={_TRIPLES[request.platform]}"] if across else []
    flags += [] if glibc else ["-I", str(Path(__file__).parent / "windows"), *_WINDOWS]
    return Toolkit(
        "cuda",
        pieces,
        "Leave out --toolchain. Take a toolkit with a newer nvcc (--toolkit FOLDER), or build for your own GPU (`--arch native`).",
        (
            *_cmake(request, table, home, wanted.folder / "bin" / "clang++"),
            f"-DCMAKE_CUDA_FLAGS={shlex.join(flags)}",
            "-DGGML_ALL_WARNINGS=OFF",
        ),
        _facts(request, table, f"clang {made}"),
        home,
        wanted.folder.name,
        compiler=host,
    )


#: NVIDIA's C++ library would define these once more for both sides, as libc++ has for the host's.
_WINDOWS = ("-D__CORRECT_ISO_CPP_STRING_H_PROTO", "-D__CORRECT_ISO_CPP_WCHAR_H_PROTO")
#: clang's names of the platforms for which it compiles on any machine.
_TRIPLES = {
    "linux_x86_64": "x86_64-linux-gnu",
    "linux_aarch64": "aarch64-linux-gnu",
    "win_amd64": "x86_64-w64-windows-gnu",
}


def _everywhere(variant: str) -> tuple[str, ...]:
    """The platforms for which a variant's plugin is compiled on any machine: clang's, where the index has no nvcc."""
    pins = Path(__file__).parent / f"{variant}.txt"
    return tuple(_TRIPLES) if pins.is_file() and _NVCC not in packages.read(pins, 0).versions else ()


def _across(request: Request, home: Path, folder: Path) -> None:
    """The same toolkit for another platform in `folder`: what a plugin is linked with has that platform's form, and no code.

    The functions are those that NVIDIA's libraries for this machine export; a plugin is linked with few of them, by name.

    Raises:
        ToolchainError: the compiler cannot make them.
    """
    windows = request.toolchain.platform.system == "Windows"
    names = {name: _exported(next((home / "lib64").glob(f"lib{name}.so.*"))) for name in ("cudart", "cublas", "cublasLt")}
    names["cuda"] = _exported(home / "lib64" / "stubs" / "libcuda.so")
    for part in ("include", "nvvm", "version"):
        (folder / part).symlink_to(home / part)
    (folder / "bin").mkdir()
    for program in ("nvcc", "ptxas", "fatbinary"):  # no links: by the place of nvcc CMake knows a toolkit
        script = folder / "bin" / program
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(home / "bin" / program))} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    for name, functions in names.items():
        major = (home / "version").read_text(encoding="utf-8").partition(".")[0]
        target = folder / "lib64" / ("stubs" if name == "cuda" else "")  # for Windows too: CMake looks there on Linux
        target.mkdir(parents=True, exist_ok=True)
        dll = "nvcuda.dll" if name == "cuda" else f"{name}64_{major}.dll"
        made = stub(request.toolchain, dll if windows else f"lib{name}.so.{1 if name == 'cuda' else major}", functions, 100, target)
        if windows:
            made.rename(target / f"{name}.lib")  # as CMake looks for it


def _exported(library: Path) -> list[str]:
    """The names of the functions that an ELF library defines."""
    with library.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".dynsym")
        assert isinstance(symbols, SymbolTableSection)
        functions = (symbol for symbol in symbols.iter_symbols() if symbol.entry.st_info.type == "STT_FUNC")
        return [str(symbol.name) for symbol in functions if symbol.entry.st_shndx != "SHN_UNDEF"]


def _headers(zig: Path, host: Toolchain) -> list[str]:
    """clang's flags for the C++ library and the C library that `zig` compiles with, in zig's order, as its own driver names them.

    Raises:
        ToolchainError: it names none.
    """
    with tempfile.TemporaryDirectory() as cache:
        env = process.environment(ZIG_GLOBAL_CACHE_DIR=cache, ZIG_LOCAL_CACHE_DIR=cache)
        command: list[str | Path] = [zig, "c++", "-target", host.platform.zig, "-###", "-c", "-x", "c++", os.devnull]
        said = process.output(command, env, cache)  # from there, since zig names folders below the current one relatively to it
    words = shlex.split(next((line for line in said.splitlines() if '"-cc1"' in line), ""))
    pairs = list(itertools.pairwise(words))
    defined = [f"-D{value}" for option, value in pairs if option == "-D"]
    folders = [value for option, value in pairs if option == "-isystem"]
    library = zig.parent / "lib"
    of_cxx, of_abi, of_clang = (str(library / name) for name in ("libcxx/include", "libcxxabi/include", "include"))
    if not {of_cxx, of_abi, of_clang} < set(folders) or not defined:
        raise ToolchainError(f"{zig} does not say which headers it compiles C++ with: {said[-500:]}", "Is the compiler whole?")
    of_c = [word for folder in folders if folder not in (of_cxx, of_abi, of_clang) for word in ("-idirafter", folder)]
    flags = ["-nostdlibinc", "-stdlib++-isystem", of_cxx, "-cxx-isystem", of_abi, *of_c, *defined]
    return [*flags, "-D_ALLOW_UNSUPPORTED_LIBCPP"]  # NVIDIA's headers know libc++ on macOS alone


def _finish_clang(request: Request, site: Path, prefix: Path, folder: Path) -> None:
    """Put together what clang and CMake take for a CUDA 12 toolkit, and wrap clang so that it takes the flags ggml has for nvcc."""
    home, nvidia = folder / "cuda", site / "nvidia"
    for name in ("bin", "lib64/stubs"):
        (home / name).mkdir(parents=True)
    for part in ("cuda_nvcc", "cuda_runtime", "cuda_cccl", "cublas"):
        shutil.copytree(nvidia / part / "include", home / "include", dirs_exist_ok=True)
    (home / "include" / "curand_mtgp32_kernel.h").touch()  # clang's own headers include it; cuRAND is not used
    (nvidia / "cuda_nvcc" / "bin" / "ptxas").rename(home / "bin" / "ptxas")
    (nvidia / "cuda_nvcc" / "nvvm").rename(home / "nvvm")
    for library in (nvidia / "nvfatbin" / "lib", nvidia / "cuda_runtime" / "lib", nvidia / "cublas" / "lib"):
        for file in library.glob("lib*.so.*"):
            file.rename(home / "lib64" / file.name)
    _link_names(home / "lib64")
    (home / "lib64" / "libcudadevrt.a").write_bytes(b"!<arch>\n")  # CMake's test program names it, and needs nothing of it
    _driver_stub(home / "include", home / "lib64" / "stubs", request)
    (site / "ziglang").rename(folder / "ziglang")
    shutil.copytree(next(prefix.glob("lib*/clang/*/include")), folder / "clang" / "include")
    shutil.copytree(_pins(request).with_suffix(""), folder, dirs_exist_ok=True)  # programs of ours
    wanted = packages.read(_pins(request), _RECIPES.get(request.variant, 1))
    (home / "version").write_text(f"{wanted.versions[_PTXAS]}\n")
    with (folder / "bin" / "clang++").open("a", encoding="utf-8") as script:  # compiler caches know a compiler by its file
        script.write(f"# {wanted.folder.name}\n")


# -- this machine -----------------------------------------------------------------------------------------------------------


def _from_machine(request: Request, table: Cuda) -> Toolkit:
    named = request.source if request.source not in (None, "machine") else None
    fits = SpecifierSet(table.nvcc)
    seen: list[str] = []
    incomplete: list[Toolkit] = []
    for nvcc in _candidates(named):
        version = _version(nvcc)
        if version and version in fits:
            kit = _kit(request, table, _home(nvcc), version, f"{version} ({nvcc})")
            if not kit.missing:
                return kit
            incomplete.append(kit)
        seen.append(f"{version or 'unreadable'} ({nvcc})")
    if incomplete:
        return incomplete[0]
    where = named or f"CUDA_HOME, CUDA_PATH, PATH, {', '.join(f'{usual}/cuda*' for usual in _USUAL)}"
    part = Piece("nvcc", table.nvcc, None, f"{', '.join(seen) or 'nothing'} in {where}")
    return Toolkit("cuda", (part,), _remedy(request))


def _remedy(request: Request) -> str:
    wanted = _table(request).nvcc
    return (
        f"Install CUDA {wanted} beside what is there (NVIDIA's package `cuda-toolkit-12-9`, say; the driver may stay),\n"
        "and name its folder: `--toolkit /usr/local/cuda-12.9`, or CUDA_HOME."
    )


def _candidates(named: str | None) -> Iterator[Path]:
    """Every nvcc of this machine, the likeliest first; of the folder `named` alone, where the user gives one."""
    if named is not None:
        folders = [Path(named)]
    else:
        folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
        on_path = shutil.which("nvcc")
        folders += [Path(on_path).parent.parent] if on_path else []
        folders += [folder for usual in _USUAL for folder in sorted(usual.glob("cuda*"), reverse=True)]
    seen = set()
    for folder in folders:
        nvcc = folder / "bin" / "nvcc"
        if nvcc.is_file() and nvcc.resolve() not in seen:
            seen.add(nvcc.resolve())
            yield nvcc


def _home(nvcc: Path) -> Path:
    """The toolkit's folder, as nvcc itself has it: what is on PATH may be a wrapper or a link."""
    top = re.search(r"TOP=(\S+)", process.output([nvcc, "--dryrun", "-x", "cu", os.devnull]))
    return Path(top[1]).resolve() if top else nvcc.resolve().parent.parent


def _version(nvcc: Path) -> str | None:
    """As in ``12.8.93``, or None where it does not say."""
    found = re.search(r"release [\d.]+, V([\d.]+)", process.output([nvcc, "--version"]))
    return found[1] if found else None


# -- either -----------------------------------------------------------------------------------------------------------------


def _kit(request: Request, table: Cuda, home: Path, version: str, found: str) -> Toolkit:
    """A toolkit around `home`/bin/nvcc, checked against what the variant wants of it."""
    nvcc = home / "bin" / "nvcc"
    known = set(re.findall(r"compute_(\d+)", process.output([nvcc, "--list-gpu-arch"])))
    host, limit = _host(request, home)
    seen = f"{request.system.name}, too new for this nvcc" if request.system else request.no_system
    link = linked(request, "CUDA")
    pieces = (
        Piece("nvcc", table.nvcc, found),
        _architectures(request, table, known, f"nvcc {version}"),
        Piece("host compiler", limit or "gcc or clang", host if host else None, seen),
        *link.pieces,
        Piece("cuBLAS", "headers and library", _first(home, "include/cublas_v2.h", "targets/*/include/cublas_v2.h")),
        Piece("libcuda", "a stub to link with", _first(home, "lib*/stubs/libcuda.so", "targets/*/lib/stubs/libcuda.so")),
    )
    remedies = []
    if pieces[1].found is None:
        remedies.append(
            "Take a newer toolkit (--toolkit FOLDER), or build for your own GPU alone: `--arch native`, or `--arch 86`."
        )
    if not request.system:
        remedies.append(
            "Install a compiler for nvcc (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++ libstdc++-static`);\n"
            "CC and CXX name another one than that on PATH."
        )
    elif not host:
        remedies.append("Install an older compiler beside it and name it: `CC=gcc-13 CXX=g++-13`.")
    if request.system and any(piece.found is None for piece in link.pieces):
        remedies.append("Install gcc's static C++ library (Fedora, RHEL: `dnf install libstdc++-static`; Debian's g++ has it).")
    if absent := [piece.what for piece in pieces[-2:] if piece.found is None]:
        names = "`libcublas-dev` and `cuda-driver-dev` of its version"
        remedies.append(f"{home} lacks {' and '.join(absent)}: install NVIDIA's packages {names}, or name a whole toolkit.")
    return Toolkit(
        "cuda",
        pieces,
        "\n".join(remedies),
        (*_cmake(request, table, home, nvcc), *_packed(version), *_by_host(request, link)),
        _facts(request, table, f"nvcc {version}"),
        home,
        f"nvcc {version} {home} {request.system.name if request.system else ''}",
    )


def _facts(request: Request, table: Cuda, compiler: str) -> dict[str, str | list[str]]:
    return {"compiler": compiler, "architectures": table.compiled(request.platform), "ptx": table.ptx or "none"}


def _architectures(request: Request, table: Cuda, known: set[str], compiler: str) -> Piece:
    architectures = table.compiled(request.platform)
    lacking = [one for one in [*architectures, *([table.ptx] if table.ptx else [])] if one not in known]
    wanted = f"{', '.join(architectures)}; PTX {table.ptx or 'none'}"
    return Piece("architectures", wanted, None if lacking else "all known", f"{compiler}, which does not know {', '.join(lacking)}")


def _cmake(request: Request, table: Cuda, home: Path, compiler: Path) -> tuple[str, ...]:
    listed = [f"{one}-real" for one in table.compiled(request.platform)] + ([f"{table.ptx}-virtual"] if table.ptx else [])
    arguments = [
        f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DCUDAToolkit_ROOT={home}",
        "-DCMAKE_CUDA_RUNTIME_LIBRARY=None",  # ggml names the shared one itself
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(listed)}",
    ]  # fmt: skip
    if request.toolchain.launcher:  # ccache is told that the C++ compiler is a clang, which has other options than nvcc
        kind = "nvcc" if compiler.name == "nvcc" else "clang"
        launcher = f"cmake;-E;env;CCACHE_COMPILERTYPE={kind};{request.toolchain.launcher}"
        arguments.append(f"-DCMAKE_CUDA_COMPILER_LAUNCHER={launcher}")
    return tuple(arguments)


def _packed(version: str) -> tuple[str, ...]:
    """How nvcc of CUDA 12 packs machine code: in the way that every driver for CUDA 12 unpacks (LZ4).

    ggml asks for `-compress-mode=size` (zstd), which drivers before CUDA 12.4 refuse with "device kernel image is invalid".
    Every driver for CUDA 13 knows that.
    """
    if Version(version).major > 12:
        return ()
    return ("-DGGML_CUDA_COMPRESSION_MODE=speed", "-DCMAKE_CUDA_FLAGS=-Xfatbin=-compress-all")


def _by_host(request: Request, link: Linked) -> tuple[str, ...]:
    """What nvcc compiles the host's side with, and how the plugin is linked."""
    return (f"-DCMAKE_CUDA_HOST_COMPILER={request.system.cxx}", *link.cmake) if request.system else ()


def _host(request: Request, home: Path) -> tuple[str | None, str | None]:
    """The host compiler where this nvcc takes it, and up to which version it does (crt/host_config.h)."""
    if request.system is None:
        return None, None
    header = _first(home, "include/crt/host_config.h", "targets/*/include/crt/host_config.h")
    text = Path(header).read_text(encoding="utf-8", errors="replace") if header else ""
    family, _, version = request.system.name.partition(" ")
    newest = re.search(r"__GNUC__ > (\d+)" if family == "gcc" else r"__clang_major__ >= (\d+)", text)
    if not newest:
        return request.system.name, None
    last = int(newest[1]) - (family != "gcc")
    return (request.system.name if Version(version).major <= last else None), f"{family} {last} or older"


def _first(home: Path, *patterns: str) -> str | None:
    return next((str(path) for pattern in patterns for path in sorted(home.glob(pattern))), None)


BACKEND = Backend(
    "cuda",
    find,
    platforms=("linux_x86_64", "linux_aarch64"),
    across=_everywhere,
    table=Cuda,
    upstream=("-DGGML_CUDA_NCCL=OFF",),
    stands_before_driver=True,
    gpus=("nvidia",),
)
