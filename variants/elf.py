"""What an ELF library says of itself, as far as a wheel must answer for it (pyelftools)."""

from __future__ import annotations

import io

import msgspec
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile


class Library(msgspec.Struct, frozen=True):
    """SONAME and NEEDED entries, RPATH and RUNPATH folders, whether there are text relocations or an executable stack, and
    whether it still carries a symbol table."""

    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    text_relocations: bool
    executable_stack: bool
    stripped: bool


def is_elf(content: bytes) -> bool:
    """Does the file begin as an ELF file does?"""
    return content[:4] == b"\x7fELF"


def read(content: bytes) -> Library:
    """Read one library.

    Raises:
        ValueError: it is damaged.
    """
    soname: str | None = None
    needed: list[str] = []
    rpath: list[str] = []
    text_relocations = False
    try:
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
        stripped = elf.get_section_by_name(".symtab") is None
    except (ELFError, AttributeError, UnicodeDecodeError, StopIteration) as error:
        raise ValueError(str(error) or "not readable as ELF") from error
    return Library(
        soname=soname,
        needed=tuple(needed),
        rpath=tuple(rpath),
        text_relocations=text_relocations,
        executable_stack=not stack or bool(stack[0] & 1),  # no such segment: the kernel makes the stack executable
        stripped=stripped,
    )
