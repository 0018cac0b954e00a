"""The index's front page for people: one HTML file that needs nothing else, complete without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from packaging.version import Version

from ..choice import explain, known, metadata
from ..choice.listing import Listing
from ..wheel.records import Record
from .pages import File

_TEMPLATE = Path(__file__).parent / "index.html.jinja"


def render(
    project: str, files: Sequence[File], listing: Listing, runs: Mapping[str, Sequence[Record]], site_url: str, base_url: str | None
) -> str:
    """The page for one project.

    files: newest version first. listing: the same wheels with their labels' metadata, for "who gets which". runs: what has run
    where, by file name. site_url: where the site will be; a script puts the page's own address there. base_url: as in the index.
    """
    import jinja2  # only here: every command would pay for it

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    versions = []
    same: dict[object, str] = {}  # most versions have the labels and platforms of a newer one, and so its table
    for version in sorted({file.version for file in files}, key=Version, reverse=True):
        mine = [file for file in files if file.version == version]
        rows = [_file(project, file, runs.get(file.name, ()), base_url) for file in sorted(mine, key=_order)]
        kind = _kind(listing, version)
        as_in = same.setdefault(kind, version)
        machines = _machines(listing, version) if as_in == version else []
        versions.append({"name": version, "files": rows, "machines": machines, "as_in": as_in})
    labels = sorted({file.label for file in files if file.label})
    return template.render(project=project, labels=labels, versions=versions, url=site_url.rstrip("/") + "/") + "\n"


def _order(file: File) -> tuple[object, ...]:
    return file.label is not None, file.label or "", file.name


def _file(project: str, file: File, runs: Sequence[Record], base_url: str | None) -> dict[str, object]:
    return {
        "label": file.label,
        "platform": ", ".join(sorted({tag.rsplit("-", 1)[1] for tag in file.tags.split(", ")})),
        "href": f"{base_url.rstrip('/')}/{quote(file.name)}" if base_url else f"simple/{project}/{quote(file.name)}",
        "build": "".join(map(str, file.build)),
        "size": size(file.size),
        "date": file.date,
        "requires": file.requires,
        "requires_python": file.requires_python,
        "sha256": file.sha256,
        "yanked": file.yanked,
        "runs": runs,
    }


def _kind(listing: Listing, version: str) -> object:
    """All that :func:`_machines` depends on."""
    info = listing.variants.get(version)
    wheels = frozenset((w.label, w.tags, w.yanked, w.requires_python) for w in listing.wheels if w.version == version)
    return wheels, info and metadata.to_bytes(info)


def _machines(listing: Listing, version: str) -> list[dict[str, str]]:
    """For each machine of the table, what three kinds of installer take of this version."""
    alone = msgspec.structs.replace(listing, wheels=[wheel for wheel in listing.wheels if wheel.version == version])
    rows = []
    for row in known.table():
        if row.preview:  # the others are the last column
            what = {name: explain.choose(alone, row.machine(), name, version) for name in ("standard", "uv", "pip")}
            rows.append({"name": row.name} | {name: choice.spelled for name, choice in what.items()})
    return rows


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
