"""A simple repository as static files: PEP 503 HTML, PEP 691 JSON with sizes and versions (PEP 700), PEP 658 metadata files."""

from __future__ import annotations

import hashlib
import html
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from packaging.version import Version

from ..terminal import disk

_API = "1.1"


class File(msgspec.Struct, frozen=True):
    """One wheel as the index needs it.

    Sizes in bytes, `mtime` in nanoseconds since 1970, `tags` and `build` as in its name, `date` (YYYY-MM-DD, UTC) of `mtime`,
    `requires` without the extras' requirements. For a variant wheel its `label` and the text of its variant.json. `source`: for a
    wheel with a local version, the SHA-256 of the labelled wheel that it was made from.
    """

    name: str
    project: str
    version: str
    build: tuple[int | str, ...]
    tags: str
    size: int
    mtime: int
    sha256: str
    metadata_sha256: str
    requires_python: str | None
    date: str
    requires: list[str]
    label: str | None = None
    variant: str | None = None
    yanked: str | None = None
    source: str | None = None


def order(file: File) -> tuple[object, ...]:
    """Oldest version first, then by build number and name."""
    number = next((part for part in file.build if isinstance(part, int)), -1)
    return Version(file.version), number, file.name


def publish(
    lock: disk.Lock,
    root: Path,
    project: str,
    files: Sequence[File],
    extra: Mapping[str, bytes],
    where: Callable[[File], Path],
    metadata: Callable[[File], bytes],
    base_url: str | None,
) -> None:
    """Write one project into the repository `root`: what is linked first, in one rename each, then the pages that link it.

    files: what to list. extra: ``*-variants.json`` by name; it lies in a folder named for its content too, which is the one linked,
    so that a page that is being read goes on fitting it. where: a wheel's path. base_url: where the wheels lie instead of here.
    """
    folder = root / project
    disk.remove_leftovers(lock, root)
    disk.remove_leftovers(lock, folder)
    for file in files:
        _publish_wheel(folder, file, where(file), metadata, base_url)
    linked = {name: f"variants/{hashlib.sha256(content).hexdigest()[:16]}/{name}" for name, content in extra.items()}
    for name, content in extra.items():
        for path in (folder / linked[name], folder / name):
            write(path, content)
    write(folder / "index.json", (json.dumps(_json(project, files, extra, linked, base_url), indent=1) + "\n").encode())
    write(folder / "index.html", _html(project, files, extra, linked, base_url))


def publish_root(root: Path, projects: Sequence[str]) -> None:
    """The repository's own page: its projects."""
    page = {"meta": {"api-version": _API}, "projects": [{"name": name} for name in projects]}
    write(root / "index.json", (json.dumps(page, indent=1) + "\n").encode())
    write(root / "index.html", _page("Simple index", (f'<a href="{name}/">{name}</a><br>' for name in projects)))


def remove_unlisted(root: Path, project: str, listed: set[str], before: Iterable[str]) -> None:
    """Remove wheels and metadata that no page links any more; of ``*-variants.json``, those that the last page did not link either.

    `before`: the contents' folder names that the page before this one linked.
    """
    folder = root / project
    for pattern in ("*.whl", "*.whl.metadata", "*-variants.json"):
        for path in folder.glob(pattern):
            if path.name.removesuffix(".metadata") not in listed:
                path.unlink()
    kept = set(before) | set(linked_metadata(folder))
    for path in (folder / "variants").glob("*/"):
        if path.name not in kept:
            disk.remove(path)


def linked_metadata(folder: Path) -> list[str]:
    """Folder names of the ``*-variants.json`` that a project's page links now."""
    try:
        rows = json.loads((folder / "index.json").read_bytes())["files"]
        return [row["url"].split("/")[1] for row in rows if row["url"].startswith("variants/")]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _publish_wheel(folder: Path, file: File, wheel: Path, metadata: Callable[[File], bytes], base_url: str | None) -> None:
    """The wheel's metadata file, and the wheel itself (a hard link where the disks allow it) unless it lies elsewhere."""
    target = folder / file.name
    if base_url is not None:
        return
    beside = folder / f"{file.name}.metadata"
    if not beside.exists() or hashlib.sha256(beside.read_bytes()).hexdigest() != file.metadata_sha256:
        with disk.replacing(beside) as part:
            part.write_bytes(metadata(file))
    if not (target.exists() and target.stat().st_size == file.size):
        with disk.replacing(target) as part:
            try:
                os.link(wheel, part)
            except OSError:
                shutil.copyfile(wheel, part)


def _url(file: File, base_url: str | None) -> str:
    return (base_url.rstrip("/") + "/" if base_url else "") + quote(file.name)


def _json(
    project: str, files: Sequence[File], extra: Mapping[str, bytes], linked: Mapping[str, str], base_url: str | None
) -> dict[str, object]:
    """The project page of PEP 691. Metadata lies beside the wheel (PEP 658), so only where the wheel lies here too."""
    rows: list[dict[str, object]] = []
    for file in files:
        row: dict[str, object] = {
            "filename": file.name,
            "url": _url(file, base_url),
            "hashes": {"sha256": file.sha256},
            "size": file.size,
            "yanked": file.yanked or False,
        }
        if file.requires_python:
            row["requires-python"] = file.requires_python
        if base_url is None:
            row["core-metadata"] = {"sha256": file.metadata_sha256}
        rows.append(row)
    for name, content in extra.items():
        digest = hashlib.sha256(content).hexdigest()
        rows.append({"filename": name, "url": linked[name], "hashes": {"sha256": digest}, "size": len(content)})
    versions = sorted({file.version for file in files}, key=Version)
    return {"meta": {"api-version": _API}, "name": project, "versions": versions, "files": rows}


def _html(
    project: str, files: Sequence[File], extra: Mapping[str, bytes], linked: Mapping[str, str], base_url: str | None
) -> bytes:
    """The project page of PEP 503."""
    links = []
    for file in files:
        attributes = ""
        if file.requires_python:
            attributes += f' data-requires-python="{html.escape(file.requires_python)}"'
        if base_url is None:
            # Not under its older name too (PEP 714): pip 22.3 to 23.0 read that, and refuse a wheel whose METADATA spells the name
            # llama_cpp_python. They take the wheel's own.
            attributes += f' data-core-metadata="sha256={file.metadata_sha256}"'
        if file.yanked:
            attributes += f' data-yanked="{html.escape(file.yanked)}"'
        href = html.escape(f"{_url(file, base_url)}#sha256={file.sha256}")
        links.append(f'<a href="{href}"{attributes}>{html.escape(file.name)}</a><br>')
    for name, content in extra.items():
        links.append(f'<a href="{linked[name]}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a><br>')
    return _page(f"Links for {project}", links)


def _page(title: str, lines: Iterable[str]) -> bytes:
    head = f'<meta charset="utf-8"><meta name="pypi:repository-version" content="{_API}"><title>{title}</title>'
    text = f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body><h1>{title}</h1>\n" + "\n".join(lines) + "\n</body></html>\n"
    return text.encode()


def write(path: Path, content: bytes) -> None:
    """Write a page, only if it differs, in one rename."""
    if path.exists() and path.read_bytes() == content:
        return
    with disk.replacing(path) as part:
        part.write_bytes(content)
