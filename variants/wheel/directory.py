"""The directory of a zip archive, looked through before anything is unpacked (APPNOTE 4.3): a wheel is written by a few programs,
all of them in one way, and what is written in another way is there to deceive one of its readers."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO

from . import budget

_END = struct.Struct("<4s4H2LH")  # end of central directory: 22 bytes, where no comment follows
_LOCATOR = struct.Struct("<4sLQL")  # before it, where it is too small for the numbers
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR = 0x01 | 0x40 | 0x2000, 0x08
_KINDS = {0o000000, 0o100000}  # none told, a regular file
_FOLDER = 0o040000


class HostileError(ValueError):
    """No honest program writes this."""


def check_end(stream: BinaryIO) -> None:
    """The archive's end, before its directory is read as a whole: as long as a directory can be, and where it should be.

    Raises:
        ValueError: it is no zip archive.
        HostileError: bytes before or behind it, or too many members.
    """
    size = stream.seek(0, os.SEEK_END)
    length = _END.size + _LOCATOR.size + _END_64.size
    stream.seek(max(0, size - length))
    tail = stream.read(length)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise ValueError("it does not end as a zip archive does (was it cut off, or is something behind it?)")
    _, disk, first, here, total, bytes_, offset, comment = _END.unpack(tail[-_END.size :])
    start = size - _END.size
    if len(tail) == length and tail[_END_64.size :][:4] == b"PK\6\7":
        _, _, at, _ = _LOCATOR.unpack(tail[_END_64.size :][: _LOCATOR.size])
        mark, _, _, _, disk, first, here, total, bytes_, offset = _END_64.unpack(tail[: _END_64.size])
        start = size - length
        if mark != b"PK\6\6" or at != start:
            raise HostileError("its end is not where it says")
    if disk or first or here != total or comment:
        raise HostileError("it is one part of several, or has a comment")
    if total > budget.MEMBERS:
        raise HostileError(f"it has {total:,} members; no more than {budget.MEMBERS:,} are read")
    if bytes_ > total * (46 + 0xFFFF) or bytes_ > budget.PAGE:
        raise HostileError("its directory is longer than its members need")
    if offset + bytes_ != start:
        raise HostileError("there are bytes before the archive, or between its directory and its end")


def check_members(opened: zipfile.ZipFile, stream: BinaryIO) -> None:
    """Every entry: name, kind, compression, size, and that the members lie one behind the other with nothing between.

    Raises:
        HostileError: naming the member.
    """
    members = sorted(opened.infolist(), key=lambda info: info.header_offset)
    _check_names(members)
    unpacked = 0
    for info in members:
        _check_entry(info)
        unpacked += info.file_size
    size = stream.seek(0, os.SEEK_END)
    if unpacked > min(budget.UNPACKED, budget.FREE + budget.RATIO * size):
        raise HostileError(f"it unpacks to {unpacked / 1e9:.1f} GB, which no wheel of {size / 1e6:.1f} MB does")
    end = 0
    for info in members:
        end = _check_place(info, stream, end)
    if end != opened.start_dir:
        raise HostileError("there are bytes behind its last member that are no member's")


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    """Names that are one file, inside, on every system."""
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for info in members:
        name = info.orig_filename
        shown = repr(name if len(name) < 60 else f"{name[:60]}…")
        if len(name) > budget.NAME:
            raise HostileError(f"a member's name has {len(name)} characters, {shown}; no more than {budget.NAME} are read")
        parts = name.removesuffix("/").split("/")
        if not name.isascii() or not name.isprintable() or set(name) & set('\\:*?"<>|'):
            raise HostileError(f"a member is named {shown}, with characters that a file name cannot have everywhere")
        if any(part in ("", ".", "..") or part.endswith((".", " ")) for part in parts):
            raise HostileError(f"a member is named {shown}, which leads elsewhere")
        if (twin := seen.setdefault(name.removesuffix("/").casefold(), name)) is not name:
            raise HostileError(f"two members are one file: {twin!r} and {name!r}")
        folders.update(str(parent).casefold() for parent in PurePosixPath(name).parents)
    if both := next((name for key, name in seen.items() if key in folders and not name.endswith("/")), None):
        raise HostileError(f"{both!r} is a file and a folder")


def _check_entry(info: zipfile.ZipInfo) -> None:
    """One entry of the directory, by itself."""
    kind, mode = (info.external_attr >> 16) & 0o170000, (info.external_attr >> 16) & 0o7000
    if kind not in (_KINDS | {_FOLDER} if info.is_dir() else _KINDS) or (info.is_dir() and info.file_size):
        raise HostileError(f"{info.filename} is no regular file, but a link or a device")
    if mode:
        raise HostileError(f"{info.filename} is setuid, setgid or sticky")
    if info.flag_bits & _ENCRYPTED:
        raise HostileError(f"{info.filename} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise HostileError(f"{info.filename} is compressed in a way (number {info.compress_type}) that no installer needs to know")
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise HostileError(f"{info.filename} is stored, and has two sizes")
    if info.file_size > 1032 * (info.compress_size + 2):  # deflate's own bound
        raise HostileError(f"{info.filename} cannot unpack to {info.file_size / 1e6:.0f} MB")


def _check_place(info: zipfile.ZipInfo, stream: BinaryIO, end: int) -> int:
    """Where the member ends, which begins at `end`, under the name that the directory has for it."""
    if info.header_offset < end:
        raise HostileError(f"{info.filename} lies in another member")
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"there is no member where {info.filename} should be")
    _, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(header)
    encoding = "utf-8" if flags & 0x800 else "cp437"
    name = stream.read(name_length).decode(encoding, "replace")
    if info.header_offset != end:
        raise HostileError(f"there are bytes before {info.filename} that are no member's")
    if name != info.orig_filename or method != info.compress_type:
        raise HostileError(f"{info.filename} is another file by its own header")
    end += _LOCAL.size + name_length + extra_length + info.compress_size
    if flags & _DESCRIPTOR:  # checksum and sizes behind it, of 4 or 8 bytes, with a mark or without
        stream.seek(end)
        behind = stream.read(24)
        crc = struct.pack("<L", info.CRC)
        mark = 4 if behind[:4] == b"PK\7\x08" and behind[4:8] == crc else 0
        sizes = struct.pack("<2Q", info.compress_size, info.file_size)
        end += mark + (20 if behind[mark + 4 :][:16] == sizes else 12)
    return end
