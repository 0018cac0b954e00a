"""What a plugin needs beside a compiler: found on this machine, told piece by piece, with the command that brings the rest."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from ..compilers import import_library
from ..compilers import toolchain as toolchains
from ..compilers.toolchain import Toolchain
from ..errors import ToolchainError
from ..terminal import process
from ..terminal.console import console, styled


class Request(msgspec.Struct, frozen=True):
    """What is asked of a finder: the `variant` by name, the backend's own `table` of it (:class:`.Lists`), the `toolchain` of the
    core, the `system`'s own (None: there is none, and `no_system` says why), upstream's unpacked `tree` (for its feature tests),
    the `platform` it is for, the newest `glibc` that the wheel may want, the `source` that the user named (``index``, ``machine``,
    a folder; None: the variant's own order), whether what is missing may be fetched, and the log for that."""

    variant: str
    table: object
    toolchain: Toolchain
    system: Toolchain | None
    tree: Path
    platform: str
    glibc: str = "2.17"
    source: str | None = None
    fetch: bool = False
    log: Path = Path("toolkit.log")
    no_system: str = "nothing"


class Piece(msgspec.Struct, frozen=True):
    """One thing that a plugin needs: `what`, the version or property `wanted`, what was `found` (None: nothing that fits), and what
    was `seen` that does not fit."""

    what: str
    wanted: str
    found: str | None
    seen: str = "nothing"


class Toolkit(msgspec.Struct, frozen=True):
    """All pieces of a plugin's toolkit, the CMake arguments that make use of them, `facts` for the wheel's report (JSON), the
    toolkit's folder, where it is one, the `identity` of the compiler in it, by which compiler caches know it, what a published
    wheel must have and one that is built with it `lacks`, and the C++ `compiler` of the plugin, where that is not the core's."""

    plugin: str
    pieces: tuple[Piece, ...]
    remedy: str
    cmake: tuple[str, ...] = ()
    facts: dict[str, str | list[str]] = {}
    home: Path | None = None
    identity: str = ""
    lacks: tuple[str, ...] = ()
    compiler: Toolchain | None = None

    @property
    def missing(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.found is None]


def require(kit: Toolkit) -> Toolkit:
    """The same toolkit, if it is complete.

    Raises:
        ToolchainError: naming what is missing, what was found and the command that helps.
    """
    if kit.missing:
        rows = "\n".join(f"  {one.what}: wanted {one.wanted}, found {one.found or one.seen}" for one in kit.pieces)
        raise ToolchainError(f"The plugin `{kit.plugin}` cannot be built on this machine as it is:\n{rows}", kit.remedy)
    return kit


class Linked(msgspec.Struct, frozen=True):
    """How a plugin whose units another compiler has compiled is linked: the `pieces` that it takes, and the CMake arguments."""

    pieces: tuple[Piece, ...]
    cmake: tuple[str, ...]


def linked(request: Request, language: str) -> Linked:
    """A plugin in CMake's `language` (``CUDA``, ``HIP``), whose units are compiled with the C++ library of the system's gcc.

    With zig's core, zig links it, for a glibc older than this machine's, and gcc's C++ library goes in statically; with the
    system's own, its compiler does.
    """
    by_language = f"-DLLAMA_CPP_PLUGIN_LANGUAGE={language}"
    if request.toolchain.kind == "system":
        return Linked((), (by_language,))
    if request.system is None:
        return Linked((Piece("static C++ library", "libstdc++.a of gcc", None, request.no_system),), (by_language,))
    said = process.output([request.system.cxx, "-print-file-name=libstdc++.a"]).strip()
    library = said if Path(said).is_absolute() and Path(said).is_file() else None
    piece = Piece("static C++ library", f"libstdc++.a of {request.system.name}", library)
    linker = toolchains.linker(request.toolchain, request.glibc, request.fetch)
    return Linked((piece,), (by_language, f"-DLLAMA_CPP_PLUGIN_RUNTIME={library}", f"-DCMAKE_C_COMPILER={linker}"))


def told(facts: Mapping[str, object]) -> list[str]:
    """A toolkit's facts for people, one line each: ``shader features: none``."""
    return [f"{name.replace('_', ' ')} {', '.join(v) or 'none' if isinstance(v, list) else v}" for name, v in facts.items()]


def show(kit: Toolkit) -> None:
    """Print what was wanted and found, and what will be used."""
    table = Table.grid(padding=(0, 2))
    for piece in kit.pieces:
        mark = styled("[green]✓[/]" if piece.found else "[red]✗[/]")
        table.add_row(mark, piece.what, piece.wanted, piece.found or f"found {piece.seen}")
    console.print(styled(f"[bold]{kit.plugin}[/]"))
    console.print(table, width=None if console.is_terminal else 160)
    for text in told(kit.facts):
        console.print(f"   {text}")
    if kit.missing:
        console.print(kit.remedy)


def library(name: str) -> str | None:
    """Where the system has this library to link with (``libvulkan.so``); None where it has not."""
    folders = [Path(folder) for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib")]
    return next((str(path) for folder in folders for path in sorted(folder.glob(f"**/{name}"))), None)


def stub(toolchain: Toolchain, soname: str, names: Sequence[str], error: int, folder: Path) -> Path:
    """A library in `folder` with these functions, each of which returns `error`, to link with and never to ship.

    Its file is `soname` without the number: libcuda.so for libcuda.so.1. For Windows it is an import library, vulkan-1.lib for
    vulkan-1.dll.

    Raises:
        ToolchainError: there is no function, or the compiler cannot make it.
    """
    if toolchain.platform.system == "Windows":
        return import_library.make(soname, names, toolchain.platform, (folder / soname).with_suffix(".lib"))
    library = folder / f"{soname.partition('.so')[0]}.so"
    source = library.with_suffix(".c")
    source.write_text("".join(f"int {name}(void) {{ return {error}; }}\n" for name in sorted(set(names))))
    flags = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}"]
    said = process.output([toolchain.cxx, "-x", "c", *flags, source, "-o", library])
    if not names or not library.exists():
        raise ToolchainError(f"No stub of {soname} could be made in {folder}: {said[-500:]}", "Is the compiler whole?")
    return library


#: Where a system keeps headers that no compiler of its own is asked for.
INCLUDE = (Path("/usr/include"), Path("/usr/local/include"))


def defined(file: Path, name: str) -> str | None:
    """What `name` is defined as in this header, as its text has it; None where it is not, or there is no such file."""
    return _definition(file.read_text(encoding="utf-8", errors="replace"), name) if file.is_file() else None


def _definition(text: str, name: str) -> str | None:
    found = re.search(rf"^#define {name} (.+)$", text, re.MULTILINE)
    return found[1] if found else None


def macro(toolchain: Toolchain, header: str, name: str) -> str | None:
    """What `name` is defined as in the system's `header`: by its own preprocessor, or as the text of the file has it, where zig
    compiles. None where there is no such header."""
    if toolchain.kind == "zig":
        file = next((folder / header for folder in INCLUDE if (folder / header).is_file()), None)
        return defined(file, name) if file else None
    command = [toolchain.cxx, "-x", "c++", "-E", "-dM", "-include", header, "-"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    return None if done.returncode else _definition(done.stdout, name)
