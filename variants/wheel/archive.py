"""Wheels as archives: read their names, and write them so that the same content always gives the same bytes."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from time import gmtime
from typing import BinaryIO

from packaging.tags import Tag
from packaging.utils import BuildTag, InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from ..errors import WheelError
from ..platforms import Platform, of_tag
from ..terminal import disk

_ZIP_EPOCH = 315532800  # 1980-01-01: a zip entry cannot be older


def parse_name(wheel: Path) -> tuple[NormalizedName, Version, BuildTag, frozenset[Tag]]:
    """Name, version, build number and tags in a wheel's file name.

    Raises:
        WheelError: it is no wheel's file name.
    """
    try:
        return parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise WheelError(f"{wheel}: not the name of a wheel ({error}).", "Give it back the name it was built with.") from error


def open_wheel(wheel: Path) -> zipfile.ZipFile:
    """A wheel, opened for reading.

    Raises:
        WheelError: it is missing, or no zip archive.
    """
    try:
        return zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise WheelError(
            f"{wheel} cannot be read as a wheel: {error}.", "Check the path; build or download the file again."
        ) from error


def dist_info(archive: zipfile.ZipFile) -> str:
    """Name of the one ``*.dist-info`` folder.

    Raises:
        WheelError: there is none, or more than one.
    """
    folders = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise WheelError(f"{archive.filename} has {len(folders)} dist-info folders, not one.", "Build the wheel again.")
    return folders.pop()


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel, by its name in the archive.

    Raises:
        WheelError: it is damaged.
    """
    try:
        with open_wheel(wheel) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise WheelError(f"{wheel} is damaged: {error}.", "Build or download the file again.") from error


def write(wheel: Path, files: Mapping[str, bytes], epoch: int) -> None:
    """Write `files` as a wheel, with a new RECORD (PEP 427; SHA-256 in urlsafe base64 without padding).

    Deterministic: sorted names with dist-info last, one time for all (`epoch`, seconds since 1970), one compression level.
    """
    folder = next(name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info"))
    record = f"{folder}/RECORD"
    names = sorted((name for name in files if name != record), key=lambda name: (name.startswith(f"{folder}/"), name))
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    for name in names:
        table.writerow((name, _digest(files[name]), len(files[name])))
    table.writerow((record, "", ""))
    date = gmtime(max(epoch, _ZIP_EPOCH))[:6]
    with disk.replacing(wheel) as part, zipfile.ZipFile(part, "w") as archive:
        for name in [*names, record]:
            _add(archive, name, rows.getvalue().encode() if name == record else files[name], date)


def _digest(content: bytes) -> str:
    """A file's hash as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _add(opened: zipfile.ZipFile, name: str, content: bytes, date: tuple[int, ...]) -> None:
    """Add a compressed file; nothing in its entry depends on this machine."""
    year, month, day, hour, minute, second = date
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, on every build machine
    info.external_attr = (0o100755 if name.endswith(".so") or ".so." in name else 0o100644) << 16
    opened.writestr(info, content, compresslevel=9)


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
    with path.open("rb") as stream:
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
            record = f"{info or dist_info(old)}/RECORD"
            gone = {*changed, *dropped, old_record}
            date = old.getinfo(old_record).date_time
            with wheel.open("rb") as raw:
                for member in old.infolist():
                    if member.filename not in gone:
                        _copy_member(raw, member, new)
            table = [row for row in csv.reader(old.read(old_record).decode().splitlines()) if row and row[0] not in gone]
            for name in sorted(changed):
                _add(new, name, changed[name], date)
                table.append([name, _digest(changed[name]), str(len(changed[name]))])
            rows = io.StringIO()
            csv.writer(rows, lineterminator="\n").writerows([*sorted(table), [record, "", ""]])
            _add(new, record, rows.getvalue().encode(), date)
    except (KeyError, zipfile.BadZipFile, struct.error, UnicodeDecodeError) as error:
        raise WheelError(f"{wheel} is damaged: {error}.", "Build or download the file again.") from error


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
