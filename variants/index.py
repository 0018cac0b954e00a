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
from collections.abc import Iterable, Mapping, Sequence
from email.parser import BytesParser
from pathlib import Path
from urllib.parse import quote

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import Version
from variantlib.errors import ValidationError
from variantlib.models.variant import VariantDescription
from variantlib.variants_json import VariantsJson

from . import archive, metadata, run
from .errors import UsageError, WheelError

_STATE = ".state.json"
_API = "1.1"  # of the simple repository, PEP 700: sizes and versions


class File(msgspec.Struct, frozen=True):
    """One wheel as the index needs it. Sizes in bytes, `mtime` in nanoseconds since 1970, `tags` as in its name; for a variant
    wheel its `label` and the text of its variant.json."""

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
    label: str | None = None
    variant: str | None = None
    yanked: str | None = None


class Options(msgspec.Struct, frozen=True):
    """`base_url`: where the wheels lie, instead of being hard-linked or copied into the site. `allow_no_fallback`: list a version
    that has labelled wheels alone, which installers that know no variants then cannot install."""

    base_url: str | None = None
    allow_no_fallback: bool = False


def build_index(dist: Path, site: Path, options: Options | None = None) -> list[File]:
    """Bring the site up to date with the wheels in `dist` and return what it lists.

    Only wheels that are new since the last time are opened; of each, the archive's directory and its dist-info are read, and
    the whole file once for its hash.

    Raises:
        UsageError: there is no wheel.
        WheelError: a file is not a wheel, or differs from the one that the site has under its name; a label stands for two sets of
            properties, or two labels for one; a version has no plain wheel.
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
    merged = _merge(dist, files, options)
    for folder in (site, site / "simple", *(site / "simple").glob("*/")):
        run.remove_leftovers(folder)
    for project in sorted({file.project for file in files}):
        folder = site / "simple" / project
        mine = sorted((file for file in files if file.project == project), key=_order)
        for file in mine:
            _publish(dist / file.name, file, folder, options)
        extra = {name: content for (of, name), content in merged.items() if of == project}
        for name, content in extra.items():
            _write(folder / name, content.decode())
        _write(folder / "index.json", json.dumps(_json(project, mine, extra, options), indent=1) + "\n")
        _write(folder / "index.html", _html(project, mine, extra, options))
    projects = sorted({file.project for file in files})
    root = site / "simple"
    page = {"meta": {"api-version": _API}, "projects": [{"name": name} for name in projects]}
    _write(root / "index.json", json.dumps(page, indent=1) + "\n")
    _write(root / "index.html", _page("Simple index", (f'<a href="{name}/">{name}</a><br>' for name in projects)))
    _write(site / _STATE, msgspec.json.encode(files).decode())
    _remove_unlisted(site, {file.name for file in files} | {name for _, name in merged})
    return files


def _merge(dist: Path, files: Sequence[File], options: Options) -> dict[tuple[str, str], bytes]:
    """For each version with labelled wheels, ``{name}-{version}-variants.json`` (PEP 825): the union of their metadata, by project
    and file name.

    Raises:
        WheelError: naming both files that contradict each other.
    """
    merged: dict[tuple[str, str], bytes] = {}
    for project, version in sorted({(file.project, file.version) for file in files if file.label}):
        mine = [file for file in files if (file.project, file.version) == (project, version)]
        if not options.allow_no_fallback and not any(file.label is None for file in mine):
            raise WheelError(
                f"{project} {version} has labelled wheels in {dist}, {mine[0].name} for one, but no plain wheel.",
                "Build it (`nox -s build_variant -- cpu`), or pass --allow-no-fallback: pip then finds nothing.",
            )
        union: VariantsJson | None = None
        by_label: dict[str, tuple[File, VariantDescription]] = {}
        for file in (file for file in mine if file.label):
            info = metadata.read_wheel((file.variant or "").encode(), file.label or "")
            for label, (other, properties) in by_label.items():
                if (label == file.label) != (set(properties.properties) == set(info.variant_desc.properties)):
                    what = "the same label with other properties" if label == file.label else "the same properties under two labels"
                    raise WheelError(
                        f"{dist / other.name} and {dist / file.name} have {what}.",
                        "One of them is from another matrix: build it again.",
                    )
            by_label.setdefault(file.label or "", (file, info.variant_desc))
            try:
                if union is None:
                    union = VariantsJson(info)
                union.merge(info)
            except ValidationError as error:
                raise WheelError(
                    f"{dist / file.name} does not go with the other wheels of {version}: {error}.",
                    "Its providers are from another pyproject.toml: build it again.",
                ) from error
        assert union is not None
        merged[project, f"{project.replace('-', '_')}-{version}-variants.json"] = metadata.to_bytes(union)
    return merged


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
    plain, label = archive.split_label(path.name)
    name, version, build, tags = archive.parse_name(path.with_name(plain))
    content = _metadata(path)
    header = BytesParser().parsebytes(content, headersonly=True)
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
        metadata_sha256=hashlib.sha256(content).hexdigest(),
        requires_python=header["Requires-Python"],
        label=label,
        variant=_variant(path, label),
        yanked=yanked,
    )


def _metadata(path: Path) -> bytes:
    try:
        with archive.open_wheel(path) as opened:
            return opened.read(f"{archive.dist_info(opened)}/METADATA")
    except (KeyError, zipfile.BadZipFile) as error:
        raise WheelError(f"{path} has no readable METADATA ({error}).", "Build it again, or remove it.") from error


def _variant(path: Path, label: str | None) -> str | None:
    """The text of a wheel's variant.json, which goes with the label in its name.

    Raises:
        WheelError: the one without the other, or another label.
    """
    with archive.open_wheel(path) as opened:
        name = f"{archive.dist_info(opened)}/variant.json"
        content = opened.read(name) if name in opened.namelist() else None
    if content is None and label is None:
        return None
    try:
        if content is None or label is None:
            raise ValueError("the name has a label, the wheel none" if label else "the wheel has one, the name has no label")
        metadata.read_wheel(content, label)
    except ValueError as error:
        raise WheelError(
            f"{path}: its variant.json does not go with its name ({error}).", "Build it again, or remove it."
        ) from error
    return content.decode()


def _order(file: File) -> tuple[Version, str, str]:
    return Version(file.version), file.build, file.name


def _publish(wheel: Path, file: File, folder: Path, options: Options) -> None:
    """The wheel's metadata file, and the wheel itself (a hard link where the disks allow it) unless it lies elsewhere."""
    beside = folder / f"{file.name}.metadata"
    if not beside.exists() or hashlib.sha256(beside.read_bytes()).hexdigest() != file.metadata_sha256:
        with run.replacing(beside) as part:
            part.write_bytes(_metadata(wheel))
    target = folder / file.name
    if options.base_url is None and not (target.exists() and target.stat().st_size == file.size):
        with run.replacing(target) as part:
            try:
                os.link(wheel, part)
            except OSError:
                shutil.copyfile(wheel, part)


def _remove_unlisted(site: Path, listed: set[str]) -> None:
    """Remove wheels and metadata that no page links any more."""
    for pattern in ("*.whl", "*.whl.metadata", "*-variants.json"):
        for path in (site / "simple").glob(f"*/{pattern}"):
            if path.name.removesuffix(".metadata") not in listed:
                path.unlink()


def _url(file: File, options: Options) -> str:
    return (options.base_url.rstrip("/") + "/" if options.base_url else "") + quote(file.name)


def _json(project: str, files: Sequence[File], extra: Mapping[str, bytes], options: Options) -> dict[str, object]:
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
    for name, content in extra.items():
        rows.append(
            {"filename": name, "url": name, "hashes": {"sha256": hashlib.sha256(content).hexdigest()}, "size": len(content)}
        )
    versions = sorted({file.version for file in files}, key=Version)
    return {"meta": {"api-version": _API}, "name": project, "versions": versions, "files": rows}


def _html(project: str, files: Sequence[File], extra: Mapping[str, bytes], options: Options) -> str:
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
    for name, content in extra.items():
        links.append(f'<a href="{name}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a><br>')
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
