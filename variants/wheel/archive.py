"""Wheels as archives: read their names, and write them so that the same content always gives the same bytes."""

from __future__ import annotations

import base64
import contextlib
import copy
import csv
import functools
import hashlib
import io
import math
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from time import gmtime
from typing import BinaryIO, NamedTuple

from packaging.tags import Tag, parse_tag
from packaging.utils import BuildTag, NormalizedName, parse_wheel_filename
from packaging.version import Version

from ..errors import WheelError
from ..platforms import Platform, of_tag
from ..terminal import disk
from . import budget, directory

_PIECE = 1 << 20  # bytes that are in memory at a time
_ZIP_EPOCH = 315532800  # 1980-01-01: a zip entry cannot be older


class Archive(zipfile.ZipFile):
    """A wheel, opened for reading, whose directory holds nothing that could hurt (:func:`open_wheel`)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        super().__init__(stream)

    def close(self) -> None:
        super().close()
        self._stream.close()

    def read(self, name: str | zipfile.ZipInfo, pwd: bytes | None = None) -> bytes:
        """A text, whole.

        Raises:
            KeyError: there is none of this name.
            WheelError: it is longer than any text of a wheel, or damaged.
        """
        info = self.getinfo(name) if isinstance(name, str) else name
        if info.file_size > budget.TEXT:
            raise WheelError(
                f"{self.filename}: {info.filename} unpacks to {info.file_size / 1e6:.0f} MB; no more than {budget.TEXT / 1e6:g} MB "
                "of a text is read.",
                HOSTILE,
            )
        return b"".join(self.pieces(info))

    def pieces(self, name: str | zipfile.ZipInfo) -> Iterator[bytes]:
        """A member in pieces of up to 1 MB, with its checksum checked at the end.

        Raises:
            KeyError: there is none of this name.
            WheelError: it is damaged.
        """
        info = self.getinfo(name) if isinstance(name, str) else name
        left = info.file_size
        try:
            with self.open(info) as stream:
                while piece := stream.read(_PIECE):
                    left -= len(piece)
                    yield piece
            if left:
                raise EOFError(f"{info.filename} ends too early")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error) as error:
            raise damaged(Path(str(self.filename)), error) from error

    def files(self) -> dict[str, Source]:
        """Every file, by its name, unread."""
        return {info.filename: Member(self, info) for info in self.infolist() if not info.is_dir()}


class Member(NamedTuple):
    """A file in a wheel, unread."""

    archive: Archive
    info: zipfile.ZipInfo


#: What becomes a file of a wheel: its bytes, a file on disk, or a file of another wheel.
Source = bytes | Path | Member


def pieces(source: Source) -> Iterator[bytes]:
    """The content, in pieces of up to 1 MB (bytes: in one)."""
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Member):
        yield from source.archive.pieces(source.info)
    else:
        with source.open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece


def head(source: Source) -> bytes:
    """How the content begins: up to 1 MB."""
    return next(pieces(source), b"")


@contextlib.contextmanager
def on_disk(source: Source) -> Iterator[Path]:
    """The content as a file, for tools and parsers that want one; gone afterwards."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        with path.open("wb") as stream:
            for piece in pieces(source):
                stream.write(piece)
        yield path


_REMEDY = "Check the path; build or download the file again."
HOSTILE = "Do not use this file; find out where it comes from, and get or build it again."


def damaged(wheel: Path, error: Exception) -> WheelError:
    """The error for a wheel whose bytes are not those that were written."""
    return WheelError(f"{wheel} is damaged: {error}.", "Build or download the file again.")


def parse_name(wheel: Path) -> tuple[NormalizedName, Version, BuildTag, frozenset[Tag]]:
    """Name, version, build number and tags in a wheel's file name.

    Raises:
        WheelError: it is no wheel's file name.
    """
    try:
        return _parsed(wheel.name)
    except ValueError as error:  # InvalidWheelFilename, InvalidVersion
        raise WheelError(f"{wheel}: not the name of a wheel ({error}).", "Give it back the name it was built with.") from error


@functools.lru_cache(4096)
def _parsed(name: str) -> tuple[NormalizedName, Version, BuildTag, frozenset[Tag]]:
    if len(name) > budget.NAME or not name.isascii() or not name.isprintable():
        raise ValueError(f"it has more than {budget.NAME} characters, or other ones than ASCII's")
    tags(name.removesuffix(".whl").split("-", 2)[-1])
    return parse_wheel_filename(name)


def tags(text: str) -> frozenset[Tag]:
    """The tags in ``py2.py3-none-any`` (PEP 425); what stands before the last three parts counts for nothing.

    Raises:
        ValueError: these are none, or more than any wheel has.
    """
    parts = text.split("-")[-3:]
    if math.prod(part.count(".") + 1 for part in parts) > budget.TAGS:
        raise ValueError(f"more than {budget.TAGS} tags")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"{text!r} is no tag")
    return parse_tag("-".join(parts))


def open_wheel(wheel: Path) -> Archive:
    """A wheel, opened for reading. Nothing of it is unpacked yet, and its directory was looked through: how many members it has,
    what they unpack to, where they lie, and what they are named.

    Raises:
        WheelError: it is missing, no zip archive, or one that no honest program writes.
    """
    try:
        stream = budget.opened(wheel)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise WheelError(f"{wheel} cannot be read as a wheel: {why}.", _REMEDY) from error
    try:
        directory.check_end(stream)
        opened = Archive(stream)
        try:
            directory.check_members(opened, stream)
        except BaseException:
            opened.close()
            raise
        return opened
    except directory.HostileError as error:
        stream.close()
        raise WheelError(f"{wheel}: {error}.", HOSTILE) from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        stream.close()
        raise WheelError(f"{wheel} cannot be read as a wheel: {error}.", _REMEDY) from error


def dist_info(archive: zipfile.ZipFile) -> str:
    """Name of the one ``*.dist-info`` folder.

    Raises:
        WheelError: there is none, or more than one.
    """
    folders = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise WheelError(f"{archive.filename} has {len(folders)} dist-info folders, not one.", "Build the wheel again.")
    return folders.pop()


def headers(content: bytes) -> Message:
    """METADATA, WHEEL or PKG-INFO: an RFC 822 header of UTF-8, and a description.

    Raises:
        ValueError: it is not UTF-8, or has more lines than any.
    """
    header, _, description = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    if header.count(b"\n") > budget.MEMBERS:
        raise ValueError(f"it has more than {budget.MEMBERS:,} lines before its description")
    message = Parser().parsestr(header.decode() + "\n\n", headersonly=True)
    message.set_payload(description.decode())
    return message


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel, by its name in the archive, in memory: for small ones.

    Raises:
        WheelError: it is damaged.
    """
    with open_wheel(wheel) as archive:
        return {name: b"".join(pieces(source)) for name, source in archive.files().items()}


def record(content: bytes) -> list[list[str]]:
    """The rows of RECORD: name, hash, size.

    Raises:
        ValueError: it is no such table.
    """
    try:
        rows = [row for row in csv.reader(content.decode().splitlines()) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if wrong := next((row for row in rows if len(row) != 3), None):
        raise ValueError(f"a row has {len(wrong)} fields, not 3")
    return rows


def write(wheel: Path, files: Mapping[str, Source], epoch: int) -> None:
    """Write `files` as a wheel, with a new RECORD (PEP 427; SHA-256 in urlsafe base64 without padding). The memory is constant.

    Deterministic: sorted names with dist-info last, one time for all (`epoch`, seconds since 1970), one compression level.
    """
    folder = next(name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info"))
    listed = f"{folder}/RECORD"
    names = sorted((name for name in files if name != listed), key=lambda name: (name.startswith(f"{folder}/"), name))
    date = gmtime(max(epoch, _ZIP_EPOCH))[:6]
    with disk.replacing(wheel) as part, zipfile.ZipFile(part, "w") as archive:
        rows = [_add(archive, name, files[name], date) for name in names]
        _add(archive, listed, _table([*rows, (listed, "", "")]), date)


def _table(rows: Iterable[Sequence[str]]) -> bytes:
    """RECORD of these rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def digest(found: bytes) -> str:
    """A SHA-256 as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def _add(opened: zipfile.ZipFile, name: str, source: Source, date: tuple[int, ...]) -> tuple[str, str, str]:
    """Add a compressed file, and return its row of RECORD; nothing in its entry depends on this machine."""
    year, month, day, hour, minute, second = date
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, on every build machine
    info.external_attr = (0o100755 if name.endswith(".so") or ".so." in name else 0o100644) << 16
    info._compresslevel = 9  # type: ignore[attr-defined]  # as `writestr` does, which wants all bytes at once
    info.file_size = _size(source)  # decides whether its entry has room for more than 4 GB
    found = hashlib.sha256()
    with opened.open(info, "w") as stream:
        for piece in pieces(source):
            found.update(piece)
            stream.write(piece)
    return name, digest(found.digest()), str(info.file_size)


def _size(source: Source) -> int:
    if isinstance(source, Member):
        return source.info.file_size
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def split_label(name: str) -> tuple[str, str | None]:
    """A wheel's file name without its variant label, and the label (PEP 825: one more part at the end), or None.

    A name has five parts, or six with a build number, which begins with a digit; whatever comes after the platform is the label.
    """
    parts = name.removesuffix(".whl").split("-")
    plain = 6 if len(parts) > 5 and parts[2][:1].isdigit() else 5
    if len(parts) == plain + 1:
        return "-".join(parts[:plain]) + ".whl", parts[plain]
    return name, None


#: The classic index of wheels without a label; and what PEP 825 keeps for itself.
PLAIN = "cpu"
_RESERVED = (PLAIN, "null")


def label_mistake(label: str) -> str | None:
    """Why this cannot be a variant label, or None.

    PEP 825, "Variant label": 1 to 16 of ``0-9 a-z _ .``. It is also a folder of the index and a local version (PEP 440), so it
    begins and ends with a letter or digit, and has no two separators beside each other.
    """
    if not re.fullmatch(r"[0-9a-z_.]{1,16}", label):
        return "a label has 1 to 16 of the characters 0-9 a-z _ . (PEP 825)"
    if not re.fullmatch(r"[0-9a-z]+(?:[_.][0-9a-z]+)*", label):
        return "a label begins and ends with a letter or digit, with single _ or . between (it is a local version too, PEP 440)"
    if label in _RESERVED:
        return f"{' and '.join(_RESERVED)} are taken: by the index of plain wheels, and by PEP 825"
    return None


def local_version(label: str) -> str:
    """The label as a local version, in PEP 440's normal form: two labels with the same one would be one file of a classic index."""
    return str(Version(f"0+{label.replace('_', '.')}").local)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read in pieces."""
    with budget.opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def platforms_of(wheel: Path) -> set[Platform]:
    """The platforms of the matrix that a wheel's tags belong to.

    Raises:
        WheelError: it is no wheel's file name.
    """
    return {known for tag in parse_name(plain_path(wheel))[3] if (known := of_tag(tag.platform))}


def plain_path(wheel: Path) -> Path:
    """A wheel's path without the variant label, which no tool but the installers can read yet."""
    return wheel.with_name(split_label(wheel.name)[0])


def rewrite(
    wheel: Path, target: Path, changed: Mapping[str, bytes], dropped: frozenset[str] = frozenset(), info: str | None = None
) -> None:
    """Write `wheel` again as `target` with some files changed, added or dropped, and RECORD brought up to date.

    All other members are copied as they are, compressed: the time is that of copying the file, the memory constant. The changed
    ones come last, with RECORD's old time, so the same input gives the same bytes. `info`: the dist-info folder's new name.

    Raises:
        WheelError: `wheel` is damaged.
    """
    try:
        with open_wheel(wheel) as old, disk.replacing(target) as part, zipfile.ZipFile(part, "w") as new:
            old_record = f"{dist_info(old)}/RECORD"
            listed = f"{info or dist_info(old)}/RECORD"
            gone = {*changed, *dropped, old_record}
            date = old.getinfo(old_record).date_time
            rows = [tuple(row) for row in record(old.read(old_record)) if row[0] not in gone]
            with budget.opened(wheel) as raw:
                for member in old.infolist():
                    if member.filename not in gone:
                        _copy_member(raw, member, new)
            rows += [_add(new, name, changed[name], date) for name in sorted(changed)]
            _add(new, listed, _table([*sorted(rows), (listed, "", "")]), date)
    except (KeyError, zipfile.BadZipFile, struct.error, ValueError) as error:
        raise damaged(wheel, error) from error


def _copy_member(raw: BinaryIO, info: zipfile.ZipInfo, new: zipfile.ZipFile) -> None:
    """Copy one member's compressed bytes; sizes and checksum go into the local header, where no descriptor need follow."""
    raw.seek(info.header_offset)
    header = raw.read(30)  # APPNOTE 4.3.7, local file header: the lengths of name and extra field are at 26 and 28
    if header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"no local header for {info.filename}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    raw.seek(name_length + extra_length, 1)
    copied = copy.copy(info)
    copied.flag_bits &= ~0x08
    assert new.fp is not None
    copied.header_offset = new.fp.tell()
    new.fp.write(copied.FileHeader())
    left = info.compress_size
    while left:
        piece = raw.read(min(left, 1 << 20))
        if not piece:
            raise zipfile.BadZipFile(f"{info.filename} ends too early")
        new.fp.write(piece)
        left -= len(piece)
    new.filelist.append(copied)
    new.NameToInfo[copied.filename] = copied
    new.start_dir = new.fp.tell()
