"""The pages of a simple repository, as bytes: PEP 503 HTML, PEP 691 JSON with sizes, versions and dates (PEP 700)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import msgspec
from packaging.version import Version

_API = "1.1"


class Row(msgspec.Struct, frozen=True):
    """One link: the file's `name` and `version`, its `url` as seen from the page, `size` in bytes, `sha256`, the time of its
    publication (`date`, UTC), Requires-Python, the SHA-256 of the metadata file beside it, why it is `yanked`; and whether it
    is a wheel."""

    name: str
    version: str
    url: str
    size: int
    sha256: str
    date: str
    requires_python: str | None
    metadata: str | None
    yanked: str | None
    is_wheel: bool


def as_json(project: str, rows: Sequence[Row]) -> bytes:
    """The project page of PEP 691."""
    files = [_json_row(row) for row in rows]
    versions = sorted({row.version for row in rows if row.is_wheel}, key=Version)
    return _json({"meta": {"api-version": _API}, "name": project, "versions": versions, "files": files})


def _json_row(row: Row) -> dict[str, object]:
    found: dict[str, object] = {
        "filename": row.name,
        "url": row.url,
        "hashes": {"sha256": row.sha256},
        "size": row.size,
        "upload-time": row.date,
    }
    if row.is_wheel:
        found["yanked"] = row.yanked or False
    if row.requires_python:
        found["requires-python"] = row.requires_python
    if row.metadata:
        found["core-metadata"] = {"sha256": row.metadata}
    return found


def as_html(project: str, rows: Iterable[Row]) -> bytes:
    """The project page of PEP 503."""
    links = []
    for row in rows:
        attributes = ""
        if row.requires_python:
            attributes += f' data-requires-python="{html.escape(row.requires_python)}"'
        if row.metadata:
            # Not under its older name too (PEP 714): pip 22.3 to 23.0 read that, and refuse a wheel whose METADATA spells the name
            # llama_cpp_python. They take the wheel's own.
            attributes += f' data-core-metadata="sha256={row.metadata}"'
        if row.yanked:
            attributes += f' data-yanked="{html.escape(row.yanked)}"'
        href = html.escape(f"{row.url}#sha256={row.sha256}")
        links.append(f'<a href="{href}"{attributes}>{html.escape(row.name)}</a><br>')
    return _html(f"Links for {project}", links)


def root_json(projects: Iterable[str]) -> bytes:
    """The repository's own page: its projects (PEP 691)."""
    return _json({"meta": {"api-version": _API}, "projects": [{"name": name} for name in projects]})


def root_html(projects: Iterable[str]) -> bytes:
    """The repository's own page: its projects (PEP 503)."""
    return _html("Simple index", (f'<a href="{name}/">{name}</a><br>' for name in projects))


def _json(page: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(page), indent=1) + b"\n"


def _html(title: str, lines: Iterable[str]) -> bytes:
    head = f'<meta charset="utf-8"><meta name="pypi:repository-version" content="{_API}"><title>{title}</title>'
    text = f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body><h1>{title}</h1>\n" + "\n".join(lines) + "\n</body></html>\n"
    return text.encode()
