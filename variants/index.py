"""The index: static files that any web server can serve, made from the wheels in ``dist/`` and from nothing else.

``simple/`` is a repository (PEP 503 HTML, PEP 691 JSON, PEP 658 metadata files) with relative links. Publishing is atomic for
whoever reads meanwhile: what is linked comes first, and the pages that link it are renamed into place last.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import quote

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import Version

from . import archive, run
from .errors import UsageError, WheelError

_STATE = ".state.json"
_API = "1.1"  # of the simple repository, PEP 700: sizes and versions


class File(msgspec.Struct, frozen=True):
    """One wheel as the index needs it. Sizes in bytes, `mtime` in nanoseconds since 1970, `tags` as in its name."""

    name: str
    project: str
    version: str
    build: str
    tags: str
    size: int
    mtime: int
    sha256: str
    metadata_sha256: str
    requires_python: str | None
    yanked: str | None = None


class Options(msgspec.Struct, frozen=True):
    """`base_url`: where the wheels lie, instead of being hard-linked or copied into the site."""

    base_url: str | None = None


def build_index(dist: Path, site: Path, options: Options | None = None) -> list[File]:
    """Bring the site up to date with the wheels in `dist` and return what it lists.

    Only wheels that are new since the last time are opened; of each, the archive's directory and its dist-info are read, and
    the whole file once for its hash.

    Raises:
        UsageError: there is no wheel.
        WheelError: a file is not a wheel, or differs from the one that the site has under its name.
    """
    options = options or Options()
    known = {file.name: file for file in _state(site)}
    files = [_file(path, known.get(path.name)) for path in sorted(dist.glob("*.whl"))]
    if not files:
        raise UsageError(f"There is no wheel in {dist}.", "Build one: `nox -s build_variant -- cpu`.")
    for file in files:
        before = known.get(file.name)
        if before and before.sha256 != file.sha256:
            raise WheelError(
                f"{dist / file.name} has sha256 {file.sha256}; the file of this name in {site} had {before.sha256}.",
                "A published file never changes, installers cache it by name: give the new one a build number (--build-number),\n"
                f"or remove {site} if nobody has installed from it yet.",
            )
    for folder in (site, site / "simple", *(site / "simple").glob("*/")):
        run.remove_leftovers(folder)
    for project in sorted({file.project for file in files}):
        folder = site / "simple" / project
        mine = sorted((file for file in files if file.project == project), key=_order)
        for file in mine:
            _publish(dist / file.name, file, folder, options)
        _write(folder / "index.json", json.dumps(_json(project, mine, options), indent=1) + "\n")
        _write(folder / "index.html", _html(project, mine, options))
    projects = sorted({file.project for file in files})
    root = site / "simple"
    page = {"meta": {"api-version": _API}, "projects": [{"name": name} for name in projects]}
    _write(root / "index.json", json.dumps(page, indent=1) + "\n")
    _write(root / "index.html", _page("Simple index", (f'<a href="{name}/">{name}</a><br>' for name in projects)))
    _write(site / _STATE, msgspec.json.encode(files).decode())
    _remove_unlisted(site, files)
    return files


def _state(site: Path) -> list[File]:
    """What the site listed the last time; nothing where its state is missing or of another release of this library."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((site / _STATE).read_bytes(), type=list[File])
    return []


def _file(path: Path, known: File | None) -> File:
    """The facts of a wheel; those known from the last time where size and time of the file are the same."""
    stat = path.stat()
    note = path.with_name(path.name + ".yanked")
    yanked = note.read_text(encoding="utf-8").strip() or "yanked" if note.exists() else None
    if known and (known.size, known.mtime) == (stat.st_size, stat.st_mtime_ns):
        return msgspec.structs.replace(known, yanked=yanked)
    name, version, build, tags = archive.parse_name(path)
    metadata = _metadata(path)
    header = BytesParser().parsebytes(metadata, headersonly=True)
    if canonicalize_name(header["Name"] or "") != name or Version(header["Version"] or "0") != version:
        raise WheelError(
            f"{path} is {header['Name']} {header['Version']} inside, which its name denies.", "Build it again, or remove it."
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(
        name=path.name,
        project=name,
        version=str(version),
        build="".join(str(part) for part in build),
        tags=", ".join(sorted(map(str, tags))),
        size=stat.st_size,
        mtime=stat.st_mtime_ns,
        sha256=digest,
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        requires_python=header["Requires-Python"],
        yanked=yanked,
    )


def _metadata(path: Path) -> bytes:
    try:
        with archive.open_wheel(path) as opened:
            return opened.read(f"{archive.dist_info(opened)}/METADATA")
    except (KeyError, zipfile.BadZipFile) as error:
        raise WheelError(f"{path} has no readable METADATA ({error}).", "Build it again, or remove it.") from error


def _order(file: File) -> tuple[Version, str, str]:
    return Version(file.version), file.build, file.name


def _publish(wheel: Path, file: File, folder: Path, options: Options) -> None:
    """The wheel's metadata file, and the wheel itself (a hard link where the disks allow it) unless it lies elsewhere."""
    metadata = folder / f"{file.name}.metadata"
    if not metadata.exists() or hashlib.sha256(metadata.read_bytes()).hexdigest() != file.metadata_sha256:
        with run.replacing(metadata) as part:
            part.write_bytes(_metadata(wheel))
    target = folder / file.name
    if options.base_url is None and not (target.exists() and target.stat().st_size == file.size):
        with run.replacing(target) as part:
            try:
                os.link(wheel, part)
            except OSError:
                shutil.copyfile(wheel, part)


def _remove_unlisted(site: Path, files: Iterable[File]) -> None:
    """Remove wheels and metadata that no page links any more."""
    listed = {file.name for file in files}
    for path in (site / "simple").glob("*/*.whl*"):
        if path.name.removesuffix(".metadata") not in listed:
            path.unlink()


def _url(file: File, options: Options) -> str:
    return (options.base_url.rstrip("/") + "/" if options.base_url else "") + quote(file.name)


def _json(project: str, files: Sequence[File], options: Options) -> dict[str, object]:
    """The project page of PEP 691. Metadata lies beside the wheel (PEP 658), so only where the wheel lies here too."""
    rows: list[dict[str, object]] = []
    for file in files:
        row: dict[str, object] = {
            "filename": file.name,
            "url": _url(file, options),
            "hashes": {"sha256": file.sha256},
            "size": file.size,
            "yanked": file.yanked or False,
        }
        if file.requires_python:
            row["requires-python"] = file.requires_python
        if options.base_url is None:
            row["core-metadata"] = {"sha256": file.metadata_sha256}
        rows.append(row)
    versions = sorted({file.version for file in files}, key=Version)
    return {"meta": {"api-version": _API}, "name": project, "versions": versions, "files": rows}


def _html(project: str, files: Sequence[File], options: Options) -> str:
    """The project page of PEP 503."""
    links = []
    for file in files:
        attributes = ""
        if file.requires_python:
            attributes += f' data-requires-python="{html.escape(file.requires_python)}"'
        if options.base_url is None:
            attributes += f' data-core-metadata="sha256={file.metadata_sha256}"'
        if file.yanked:
            attributes += f' data-yanked="{html.escape(file.yanked)}"'
        href = html.escape(f"{_url(file, options)}#sha256={file.sha256}")
        links.append(f'<a href="{href}"{attributes}>{html.escape(file.name)}</a><br>')
    return _page(f"Links for {project}", links)


def _page(title: str, lines: Iterable[str]) -> str:
    head = f'<meta charset="utf-8"><meta name="pypi:repository-version" content="{_API}"><title>{title}</title>'
    return f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body><h1>{title}</h1>\n" + "\n".join(lines) + "\n</body></html>\n"


def _write(path: Path, text: str) -> None:
    """Write a page, only if it differs, in one rename."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with run.replacing(path) as part:
        part.write_text(text, encoding="utf-8")
