"""The index's front page for people: one HTML file that needs nothing else, complete without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.version import Version

from ..choice import explain, known, metadata
from ..choice.listing import Listing
from .ledger import Line

_TEMPLATE = Path(__file__).parent / "index.html.jinja"


def render(project: str, lines: Sequence[Line], listing: Listing, needs: Mapping[str, list[str]], site_url: str) -> str:
    """The page for one project.

    lines: its wheels, newest version first. listing: the same wheels with their labels' metadata, for "who gets which". needs:
    what each requires, by file name. site_url: where the site will be; a script puts the page's own address there.
    """
    import jinja2  # only here: every command would pay for it

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    versions = []
    by_version: dict[str, list[Line]] = {}
    for line in sorted(lines, key=_order):
        by_version.setdefault(line.version, []).append(line)
    same: dict[object, str] = {}  # most versions have the labels and platforms of a newer one, and so its table
    for version in sorted(by_version, key=Version, reverse=True):
        rows = [_file(line, needs[line.name]) for line in by_version[version]]
        kind = _kind(listing, version)
        as_in = same.setdefault(kind, version)
        machines = _machines(listing, version) if as_in == version else []
        versions.append({"name": version, "files": rows, "machines": machines, "as_in": as_in})
    labels = sorted({line.label for line in lines if line.label})
    return template.render(project=project, labels=labels, versions=versions, url=site_url.rstrip("/") + "/") + "\n"


def _order(line: Line) -> tuple[object, ...]:
    return line.label is not None, line.label or "", line.name


def _file(line: Line, needs: list[str]) -> dict[str, object]:
    return {
        "label": line.label,
        "platform": ", ".join(sorted({tag.platform for tag in line.tags})),
        "href": line.url,
        "build": line.build,
        "size": size(line.size),
        "date": line.day,
        "requires": needs,
        "requires_python": line.requires_python,
        "sha256": line.sha256,
        "yanked": line.yanked,
        "runs": line.runs,
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
