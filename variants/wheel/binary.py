"""What a library says of itself, as far as a wheel must answer for it: ELF (pyelftools), PE (pefile) and Mach-O (macholib)."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import re
import struct
import tempfile
from collections.abc import Collection, Mapping

import msgspec
import pefile
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection
from macholib.mach_o import (
    CPU_TYPE_NAMES,
    LC_BUILD_VERSION,
    LC_CODE_SIGNATURE,
    LC_ID_DYLIB,
    LC_RPATH,
    LC_VERSION_MIN_MACOSX,
    MH_CIGAM_64,
    MH_MAGIC_64,
)
from macholib.MachO import MachO

#: Libraries that every system of the wheel's tag has. Linux: PEP 600, PEP 656; the C++ runtime is there for ``--toolchain system``.
SYSTEM: Mapping[str, tuple[str, ...]] = {
    "ELF": tuple(
        "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libstdc++.so.6 libgcc_s.so.1 ld-linux-x86-64.so.2 "
        "ld-linux-aarch64.so.1 libc.so libc.musl-x86_64.so.1".split()
    ),
    "PE": ("kernel32.dll", "advapi32.dll", "ntdll.dll", "ws2_32.dll", "shell32.dll", "ole32.dll", "bcrypt.dll", "api-ms-win-*"),
    "Mach-O": ("/usr/lib/*", "/System/Library/*"),
}
_PE_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x14C: "x86"}
_ELF_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_MACH_MACHINES = {"x86_64": "x86_64", "ARM64": "aarch64"}
_UNREADABLE = (ELFError, pefile.PEFormatError, struct.error, AttributeError, LookupError, StopIteration, ValueError, OSError)
_NX_COMPAT, _DYNAMIC_BASE = 0x100, 0x40  # IMAGE_DLLCHARACTERISTICS_*


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """One library. `format`: ELF, PE or Mach-O; `machine`: x86_64, aarch64, …; `soname`: its own name (SONAME, name in the export
    table, install name) and `needed`, those of what it needs; `rpath`: RPATH and RUNPATH folders; whether it has text relocations
    (PE: cannot be moved), an executable stack (PE: no NX), and no symbol table; `minimum`: the oldest macOS, as in (11, 0);
    `intact`: whether a Mach-O file is what its code signature says (None: it has no signature)."""

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


_MACH_MAGIC = (MH_MAGIC_64.to_bytes(4, "little"), MH_CIGAM_64.to_bytes(4, "little"))


def read(content: bytes) -> Library:
    """Read one library.

    Raises:
        ValueError: it is damaged.
    """
    try:
        if content[:2] == b"MZ":
            return _read_pe(content)
        return _read_mach_o(content) if content[:4] in _MACH_MAGIC else _read_elf(content)
    except _UNREADABLE as error:
        raise ValueError(str(error) or "not readable as a library") from error


def _read_elf(content: bytes) -> Library:
    soname: str | None = None
    needed: list[str] = []
    rpath: list[str] = []
    text_relocations = False
    elf = ELFFile(io.BytesIO(content))
    dynamic = next((s for s in elf.iter_segments() if isinstance(s, DynamicSegment)), None)
    for tag in dynamic.iter_tags() if dynamic else ():
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
    )


def newer(content: bytes, glibc: tuple[int, int]) -> dict[str, list[str]]:
    """Versions of glibc beyond `glibc` that an ELF library wants, with the functions of each: ``{"GLIBC_2.34": ["dlopen"]}``.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return _newer(ELFFile(io.BytesIO(content)), glibc)
    except _UNREADABLE as error:
        raise ValueError(str(error) or "not readable as a library") from error


def _newer(elf: ELFFile, glibc: tuple[int, int]) -> dict[str, list[str]]:
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


def _read_pe(content: bytes) -> Library:
    with pefile.PE(data=content, fast_load=True) as pe:
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
        )


def _read_mach_o(content: bytes) -> Library:
    with tempfile.NamedTemporaryFile() as file:  # macholib reads files only
        file.write(content)
        file.flush()
        header = MachO(file.name, allow_unknown_load_commands=True).headers[0]
    soname, minimum, intact, rpath = None, None, None, []
    for load, command, data in header.commands:
        if load.cmd == LC_ID_DYLIB:
            soname = data.rstrip(b"\0").decode()
        elif load.cmd == LC_RPATH:
            rpath.append(data.rstrip(b"\0").decode())
        elif load.cmd in (LC_BUILD_VERSION, LC_VERSION_MIN_MACOSX):
            version = int(command.minos if load.cmd == LC_BUILD_VERSION else command.version)
            minimum = version >> 16, version >> 8 & 0xFF
        elif load.cmd == LC_CODE_SIGNATURE:
            intact = _intact(content, int(command.dataoff))
    name = str(CPU_TYPE_NAMES.get(header.header.cputype, header.header.cputype))
    return Library(
        format="Mach-O",
        machine=_MACH_MACHINES.get(name, name),
        soname=soname,
        needed=tuple(name for _, _, name in header.walkRelocatables()),
        rpath=tuple(rpath),
        minimum=minimum,
        intact=intact,
    )


def _intact(content: bytes, offset: int) -> bool:
    """Has every page the SHA-256 that the code directory of the signature at `offset` has for it? The kernel of Apple silicon ends
    a process whose page has not. Formats: ``cs_blobs.h`` of Apple's XNU."""
    magic, _, count = struct.unpack_from(">3I", content, offset)
    blobs = dict(struct.unpack_from(">2I", content, offset + 12 + 8 * index) for index in range(count))
    if magic != 0xFADE0CC0 or 0 not in blobs:  # CSMAGIC_EMBEDDED_SIGNATURE, CSSLOT_CODEDIRECTORY
        return False
    at = offset + blobs[0]
    fields = struct.unpack_from(">9I4B", content, at)
    hashes, pages, limit, size, kind, page = (fields[index] for index in (4, 7, 8, 9, 10, 12))
    if fields[0] != 0xFADE0C02 or kind != 2:  # CSMAGIC_CODEDIRECTORY, CS_HASHTYPE_SHA256
        return False
    signed = (content[at + hashes + size * index : at + hashes + size * (index + 1)] for index in range(pages))
    starts = range(0, limit, 1 << page)
    found = (hashlib.sha256(content[start : min(start + (1 << page), limit)]).digest()[:size] for start in starts)
    return len(starts) == pages and all(one == other for one, other in zip(signed, found, strict=True))


def wanting(files: Mapping[str, bytes], foreign: Collection[str] = ()) -> dict[str, list[str]]:
    """The libraries among a wheel's `files` that need something which is neither beside them, nor in every system, nor `foreign`.

    Raises:
        ValueError: one of them is damaged.
    """
    found = {}
    for name, content in files.items():
        if is_library(content):
            folder = name.rpartition("/")[0]
            beside = [other.rpartition("/")[2] for other in files if other.rpartition("/")[0] == folder]
            if lacking := read(content).lacks([*beside, *foreign]):
                found[name] = lacking
    return found
