"""What a library says of itself, as far as a wheel must answer for it: ELF (pyelftools), PE (pefile) and Mach-O (macholib).

These are imported where they are used: most steps of the command line read no library.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import itertools
import re
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from . import archive, budget

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

#: Libraries that every system of the wheel's tag has. Linux: PEP 600, PEP 656; the C++ runtime is there for ``--toolchain system``.
SYSTEM: Mapping[str, tuple[str, ...]] = {
    "ELF": tuple(
        "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libstdc++.so.6 libgcc_s.so.1 ld-linux-x86-64.so.2 "
        "ld-linux-aarch64.so.1 libc.so libc.musl-x86_64.so.1 libc.musl-aarch64.so.1".split()
    ),
    "PE": ("kernel32.dll", "advapi32.dll", "ntdll.dll", "ws2_32.dll", "shell32.dll", "ole32.dll", "bcrypt.dll", "api-ms-win-*"),
    "Mach-O": ("/usr/lib/*", "/System/Library/*"),
}
_PE_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x14C: "x86"}
_ELF_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_MACH_MACHINES = {"x86_64": "x86_64", "ARM64": "aarch64"}
_NX_COMPAT, _DYNAMIC_BASE = 0x100, 0x40  # IMAGE_DLLCHARACTERISTICS_*


#: What ggml looks for in a plugin (ggml/src/ggml-backend-reg.cpp).
ENTRY = "ggml_backend_init"


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """One library. `format`: ELF, PE or Mach-O; `machine`: x86_64, aarch64, …; `soname`: its own name (SONAME, name in the export
    table, install name) and `needed`, those of what it needs; `rpath`: RPATH and RUNPATH folders; whether it has text relocations
    (PE: cannot be moved), an executable stack (PE: no NX), and no symbol table; `minimum`: the oldest macOS, as in (11, 0);
    `intact`: whether a Mach-O file is what its code signature says (None: it has no signature). `plugin`: whether it exports what
    ggml calls of a plugin (None: not looked into)."""

    format: str
    machine: str
    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...] = ()
    text_relocations: bool = False
    executable_stack: bool = False
    stripped: bool = True
    minimum: tuple[int, int] | None = None
    intact: bool | None = None
    plugin: bool | None = None

    def lacks(self, names: Collection[str]) -> list[str]:
        """What it needs that is neither one of the file `names` beside it nor part of every system."""
        fold = str.lower if self.format == "PE" else str
        beside = {fold(name) for name in names}
        found = []
        for entry in self.needed:
            name = fold(entry.removeprefix("@rpath/").removeprefix("@loader_path/"))
            if name not in beside and not any(fnmatch.fnmatchcase(name, pattern) for pattern in SYSTEM[self.format]):
                found.append(entry)
        return found


def is_library(content: bytes) -> bool:
    """Does the file begin as an ELF, PE or 64-bit Mach-O file does?"""
    return content[:4] == b"\x7fELF" or content[:2] == b"MZ" or content[:4] in _MACH_MAGIC


_MACH_MAGIC = (b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf")  # MH_MAGIC_64 in a little-endian file, and in a big-endian one


def machine(head: bytes) -> tuple[str, str]:
    """Format and processor by how a library begins (:class:`Library` has them of a whole one).

    Raises:
        ValueError: it begins as no library does.
    """
    try:
        if head[:4] == b"\x7fELF":
            number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
            return "ELF", {62: "x86_64", 183: "aarch64"}.get(number, str(number))  # EM_X86_64, EM_AARCH64
        if head[:2] == b"MZ":
            at = struct.unpack_from("<L", head, 60)[0]
            if head[at : at + 4] == b"PE\0\0":
                number = struct.unpack_from("<H", head, at + 4)[0]
                return "PE", _PE_MACHINES.get(number, hex(number))
        if head[:4] in _MACH_MAGIC:
            number = struct.unpack_from("<L" if head[:4] == _MACH_MAGIC[0] else ">L", head, 4)[0]
            return "Mach-O", {0x1000007: "x86_64", 0x100000C: "aarch64"}.get(number, hex(number))
    except (struct.error, IndexError):
        pass
    raise ValueError("it begins as no library does")


# Of each kind, more than any library of ggml's has. A file may say that it has 2^32.
_MANY = 10_000


def read(source: bytes | Path) -> Library:
    """Read one library. Of a file, only its tables are read: its size does not matter.

    Raises:
        ValueError: it is damaged.
    """
    with _damage_told(), io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        magic = stream.read(4)
        if magic[:2] == b"MZ":
            return _read_pe(source)
        return _read_mach_o(stream, source) if magic in _MACH_MAGIC else _read_elf(budget.Metered(stream))


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Make a ValueError of every error that the readers raise for a damaged library."""
    import pefile
    from elftools.common.exceptions import ELFError

    kinds = (AttributeError, LookupError, StopIteration, ValueError, OSError, OverflowError)
    try:
        yield
    except (ELFError, pefile.PEFormatError, struct.error, *kinds) as error:
        raise ValueError(str(error) or "not readable as a library") from error


def _read_elf(stream: budget.Metered) -> Library:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile

    soname: str | None = None
    needed: list[str] = []
    rpath: list[str] = []
    text_relocations = False
    elf = ELFFile(stream)
    if max(elf.num_segments(), elf.num_sections()) > _MANY:
        raise ValueError("it has more segments or sections than any library")
    dynamic = next((s for s in elf.iter_segments() if isinstance(s, DynamicSegment)), None)
    for tag in itertools.islice(dynamic.iter_tags(), _MANY) if dynamic else ():
        match tag.entry.d_tag:
            case "DT_SONAME":
                soname = str(tag.soname)  # type: ignore[attr-defined]
            case "DT_NEEDED":
                needed.append(str(tag.needed))  # type: ignore[attr-defined]
            case "DT_RPATH":
                rpath += str(tag.rpath).split(":")  # type: ignore[attr-defined]
            case "DT_RUNPATH":
                rpath += str(tag.runpath).split(":")  # type: ignore[attr-defined]
            case "DT_TEXTREL":
                text_relocations = True
            case "DT_FLAGS":
                text_relocations = text_relocations or bool(tag.entry.d_val & 0x4)  # DF_TEXTREL
    stack = [segment.header.p_flags for segment in elf.iter_segments() if segment.header.p_type == "PT_GNU_STACK"]
    return Library(
        format="ELF",
        machine=_ELF_MACHINES.get(elf.header.e_machine, str(elf.header.e_machine)),
        soname=soname,
        needed=tuple(needed),
        rpath=tuple(rpath),
        text_relocations=text_relocations,
        executable_stack=not stack or bool(stack[0] & 1),  # no such segment: the kernel makes the stack executable
        stripped=elf.get_section_by_name(".symtab") is None,
        plugin=_has(elf.get_section_by_name(".dynsym")),
    )


def newer(source: bytes | Path, glibc: tuple[int, int]) -> dict[str, list[str]]:
    """Versions of glibc beyond `glibc` that an ELF library wants, with the functions of each: ``{"GLIBC_2.34": ["dlopen"]}``.

    Raises:
        ValueError: it is damaged.
    """
    from elftools.elf.elffile import ELFFile

    with _damage_told(), io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        return _newer(ELFFile(budget.Metered(stream)), glibc)


def _newer(elf: ELFFile, glibc: tuple[int, int]) -> dict[str, list[str]]:
    from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
    from elftools.elf.sections import SymbolTableSection

    needs, versions, symbols = (elf.get_section_by_name(name) for name in (".gnu.version_r", ".gnu.version", ".dynsym"))
    found: dict[str, list[str]] = {}
    by_index: dict[object, str] = {}
    for _, parts in needs.iter_versions() if isinstance(needs, GNUVerNeedSection) else ():
        for part in parts:
            number = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", str(part.name))
            if number and (int(number[1]), int(number[2])) > glibc:
                by_index[part.entry.vna_other] = str(part.name)
                found.setdefault(str(part.name), [])
    if isinstance(versions, GNUVerSymSection) and isinstance(symbols, SymbolTableSection):
        for symbol, version in zip(symbols.iter_symbols(), versions.iter_symbols(), strict=False):
            if name := by_index.get(version.entry.ndx):
                found[name].append(str(symbol.name))
    return found


def _has(table: object) -> bool:
    """Does this symbol table define ggml's entry (ggml-backend-impl.h, GGML_BACKEND_DL_IMPL)?"""
    from elftools.elf.sections import SymbolTableSection

    if not isinstance(table, SymbolTableSection):
        return False
    if table.num_symbols() > 10 * _MANY:
        raise ValueError("it has more symbols than any library")
    return any(symbol.name == ENTRY and symbol.entry.st_shndx != "SHN_UNDEF" for symbol in table.iter_symbols())


def _read_pe(source: bytes | Path) -> Library:
    import pefile

    given = {"data": source} if isinstance(source, bytes) else {"name": str(source)}
    with pefile.PE(**given, fast_load=True) as pe:
        tables = [pefile.DIRECTORY_ENTRY[f"IMAGE_DIRECTORY_ENTRY_{name}"] for name in ("IMPORT", "EXPORT", "DELAY_IMPORT")]
        pe.parse_data_directories(tables)
        imports = [*getattr(pe, "DIRECTORY_ENTRY_IMPORT", ()), *getattr(pe, "DIRECTORY_ENTRY_DELAY_IMPORT", ())]
        exports = getattr(pe, "DIRECTORY_ENTRY_EXPORT", None)
        symbols = exports.symbols if exports else ()
        forwarded = [symbol.forwarder.decode().rpartition(".")[0] + ".dll" for symbol in symbols if symbol.forwarder]
        flags = pe.OPTIONAL_HEADER.DllCharacteristics
        return Library(
            format="PE",
            machine=_PE_MACHINES.get(pe.FILE_HEADER.Machine, hex(pe.FILE_HEADER.Machine)),
            soname=exports.name.decode() if exports else None,
            needed=tuple(dict.fromkeys([entry.dll.decode() for entry in imports] + forwarded)),
            text_relocations=not flags & _DYNAMIC_BASE,
            executable_stack=not flags & _NX_COMPAT,
            stripped=pe.FILE_HEADER.NumberOfSymbols == 0,
            plugin=any(symbol.name == ENTRY.encode() for symbol in symbols),
        )


def _read_mach_o(stream: BinaryIO, source: bytes | Path) -> Library:
    from macholib import mach_o
    from macholib.MachO import MachO

    stream.seek(0)
    head = stream.read(32)
    little = head[:4] == _MACH_MAGIC[0]
    if struct.unpack_from("<L" if little else ">L", head, 16)[0] > _MANY:
        raise ValueError("it has more load commands than any library")
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):  # macholib reads files only
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(source)
            file.flush()
        header = MachO(file.name if isinstance(source, bytes) else str(source), allow_unknown_load_commands=True).headers[0]
    soname, minimum, intact, rpath = None, None, None, []
    for load, command, data in header.commands:
        if load.cmd == mach_o.LC_ID_DYLIB:
            soname = data.rstrip(b"\0").decode()
        elif load.cmd == mach_o.LC_RPATH:
            rpath.append(data.rstrip(b"\0").decode())
        elif load.cmd in (mach_o.LC_BUILD_VERSION, mach_o.LC_VERSION_MIN_MACOSX):
            version = int(command.minos if load.cmd == mach_o.LC_BUILD_VERSION else command.version)
            minimum = version >> 16, version >> 8 & 0xFF
        elif load.cmd == mach_o.LC_CODE_SIGNATURE:
            intact = _intact(stream, int(command.dataoff), int(command.datasize))
    name = str(mach_o.CPU_TYPE_NAMES.get(header.header.cputype, header.header.cputype))
    return Library(
        format="Mach-O",
        machine=_MACH_MACHINES.get(name, name),
        soname=soname,
        needed=tuple(name for _, _, name in header.walkRelocatables()),
        rpath=tuple(rpath),
        minimum=minimum,
        intact=intact,
    )


def _intact(stream: BinaryIO, offset: int, length: int) -> bool:
    """Has every page the SHA-256 that the code directory of the signature at `offset` has for it? The kernel of Apple silicon ends
    a process whose page has not. Formats: ``cs_blobs.h`` of Apple's XNU."""
    if length > budget.TABLES:
        return False
    stream.seek(offset)
    content = stream.read(length)
    magic, _, count = struct.unpack_from(">3I", content)
    if magic != 0xFADE0CC0 or count > _MANY:  # CSMAGIC_EMBEDDED_SIGNATURE
        return False
    blobs = dict(struct.unpack_from(">2I", content, 12 + 8 * index) for index in range(count))
    if 0 not in blobs:  # CSSLOT_CODEDIRECTORY
        return False
    at = blobs[0]
    fields = struct.unpack_from(">9I4B", content, at)
    hashes, pages, limit, size, kind, page = (fields[index] for index in (4, 7, 8, 9, 10, 12))
    if fields[0] != 0xFADE0C02 or kind != 2 or page not in (12, 14):  # CSMAGIC_CODEDIRECTORY, CS_HASHTYPE_SHA256, 4 or 16 kB
        return False
    signed = (content[at + hashes + size * index : at + hashes + size * (index + 1)] for index in range(pages))
    starts = range(0, limit, 1 << page)
    found = (one[:size] for one in _page_hashes(stream, limit, 1 << page))
    return len(starts) == pages and all(one == other for one, other in zip(signed, found, strict=True))


def _page_hashes(stream: BinaryIO, limit: int, page: int) -> Iterator[bytes]:
    stream.seek(0)
    for start in range(0, limit, page):
        yield hashlib.sha256(stream.read(min(page, limit - start))).digest()


def wanting(files: Mapping[str, archive.Source], foreign: Collection[str] = ()) -> dict[str, list[str]]:
    """The libraries among a wheel's `files` that need something which is neither beside them, nor in every system, nor `foreign`.

    Raises:
        ValueError: one of them is damaged.
    """
    found = {}
    for name, source in files.items():
        if is_library(archive.head(source)):
            folder = name.rpartition("/")[0]
            beside = [other.rpartition("/")[2] for other in files if other.rpartition("/")[0] == folder]
            with archive.on_disk(source) as path:
                lacking = read(path).lacks([*beside, *foreign])
            if lacking:
                found[name] = lacking
    return found
