"""Wheels as archives: read their names, and write them so that the same content always gives the same bytes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from time import gmtime

from packaging.tags import Tag
from packaging.utils import BuildTag, InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from . import run
from .errors import WheelError

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
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        table.writerow((name, f"sha256={digest}", len(files[name])))
    table.writerow((record, "", ""))
    date = gmtime(max(epoch, _ZIP_EPOCH))[:6]
    with run.replacing(wheel) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in [*names, record]:
            info = zipfile.ZipInfo(name, date)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, on every build machine
            info.external_attr = (0o100755 if name.endswith(".so") or ".so." in name else 0o100644) << 16
            archive.writestr(info, rows.getvalue().encode() if name == record else files[name])
