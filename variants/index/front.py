"""The index's pages for people: HTML files that need nothing else, complete without JavaScript.

The front page asks what a person knows and answers with one command, for the newest version; each older version has a page.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from packaging.requirements import Requirement
from packaging.version import Version

from .. import matrix, platforms
from ..choice import answers
from ..choice.answers import UNKNOWN, Answers, Asked, Outcome
from ..choice.listing import Listing
from .ledger import Line
from .ways import WAYS

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

#: What is right without any answer, where uv is the installer.
ASKS = "Nothing more to choose: uv takes the wheel that fits the machine"
_TEMPLATES = Path(__file__).parent / "page"


def newest(lines: Iterable[Line]) -> str:
    """The version that installers take which are asked for none."""
    by_version = {line.version: False for line in lines}
    by_version |= {line.version: True for line in lines if line.yanked is None}
    ordered = sorted(by_version, key=Version, reverse=True)
    return next((version for version in ordered if by_version[version] and not Version(version).is_prerelease), ordered[0])


def pages(
    project: str, lines: Sequence[Line], listing: Listing, needs: Mapping[str, list[str]], site_url: str, name: str
) -> Iterator[tuple[str, str]]:
    """The pages of one project, by their paths.

    lines: its wheels. listing: those of the newest version, with their labels' metadata. needs: what each requires, by file name.
    site_url: where the site will be; a script puts the page's own address there. name: of the front page.
    """
    url = site_url.rstrip("/") + "/"
    by_version: dict[str, list[Line]] = {}
    for line in sorted(lines, key=_order):
        by_version.setdefault(line.version, []).append(line)
    first = newest(lines)
    older = [version for version in sorted(by_version, key=Version, reverse=True) if version != first]
    for version in older:
        mine = by_version[version]
        shown = _version(project, version, mine, needs, "../../")
        commands = _commands(url, project, tuple(shown["kinds"]), version)
        yield _path(project, version), _render("version.html.jinja", **shown, commands=commands, url=url, front=name, newest=first)
    mine = by_version[first]
    shown = _version(project, first, mine, needs, "")
    found = answers.answers(listing, first)
    more = {
        "asked": found,
        "table": list(_table(found)),
        "offers": _offers(mine, found, shown["kinds"]),
        "data": {"project": project} | _data(found, mine, needs, shown["labels"]),
        "older": [_older(project, version, by_version[version]) for version in older],
    }
    yield name, _render("index.html.jinja", **shown, **more, url=url)


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2  # only here: every command would pay for it

    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["words"] = _words
    return environment


def _words(text: str) -> str:
    """A command whose words are broken only where one alone is wider than the page."""
    from markupsafe import Markup, escape

    return Markup("").join(
        Markup(part) if part.isspace() else Markup(f"<span>{escape(part)}</span>") for part in re.split(r"(\s)", text)
    )


def _render(template: str, **known: object) -> str:
    return _templates().get_template(template).render(known)


def _order(line: Line) -> tuple[object, ...]:
    return line.label is not None, line.label or "", line.name


def _path(project: str, version: str) -> str:
    return f"versions/{project}/{version}.html"


def _older(project: str, version: str, lines: Sequence[Line]) -> dict[str, str]:
    return {"name": version, "href": quote(_path(project, version)), "date": min(line.day for line in lines)}


def _commands(url: str, project: str, kinds: tuple[str, ...], version: str) -> Markup:
    """Each command of a version, which but for the version are those of most others."""
    return _commands_of(url, project, kinds).replace(
        "0+VERSION", version
    )  # a version has no characters that HTML has another use for


@functools.cache
def _commands_of(url: str, project: str, kinds: tuple[str, ...]) -> Markup:
    from markupsafe import Markup

    return Markup(_render("commands.html.jinja", ways=WAYS, kinds=kinds, url=url, project=project, version="0+VERSION"))


# -- the wheels of one version -------------------------------------------------------------------------------------------------


def _version(project: str, version: str, lines: Sequence[Line], needs: Mapping[str, list[str]], root: str) -> dict[str, Any]:
    """What the pages of both kinds show. root: the site's, as seen from the page."""
    labels = sorted({line.label for line in lines if line.label})
    has_plain = any(line.label is None for line in lines)
    return {
        "project": project,
        "version": version,
        "date": min(line.day for line in lines),
        "root": root,
        "labels": labels,
        "kinds": [*(["plain"] if has_plain else []), *labels],
        "ways": WAYS,
        "asks": ASKS,
        "files": [_file(line, needs[line.name], root) for line in lines],
    }


def _file(line: Line, needs: list[str], root: str) -> dict[str, object]:
    return {
        "label": line.label,
        "platform": ", ".join(line.platforms),
        "href": line.url if "://" in line.url else root + line.url,
        "build": line.build,
        "size": size(line.size),
        "date": line.day,
        "requires": needs,
        "requires_python": line.requires_python,
        "sha256": line.sha256,
        "yanked": line.yanked,
        "runs": line.runs,
    }


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


# -- what each label is, and where ----------------------------------------------------------------------------------------------


def _by_place(lines: Sequence[Line]) -> dict[tuple[str, str], Line]:
    """The wheel of each kind (a label, or ``plain``) for each platform of the matrix: the one that installers prefer."""
    found = {}
    for line in sorted(lines, key=lambda line: line.order):
        for tag in line.platforms:
            if line.yanked is None and (platform := platforms.of_tag(tag)):
                found[line.label or "plain", platform.name] = line
    return found


def _oldest(line: Line) -> str:
    """The oldest system that a wheel is for, as its tag says."""
    kinds = {"manylinux": "glibc", "musllinux": "musl", "macosx": "macOS"}
    for tag in line.platforms:
        if release := platforms.release(tag):
            return f"{kinds[re.split('[_0-9]', tag)[0]]} {'.'.join(map(str, release))}"
    return ""


def _summary(kind: str, platform: str) -> str:
    """For whom it is, if it is of this matrix."""
    found = [variant for variant in _matrix().values() if variant.label == (None if kind == "plain" else kind)]
    own = [variant for variant in found if platform in variant.published]
    return next((variant.table.summary for variant in own or found), "")


@functools.cache
def _matrix() -> dict[str, matrix.Variant]:
    return matrix.load()


def _offers(lines: Sequence[Line], asked: Answers, kinds: Sequence[str]) -> tuple[list[str], list[dict[str, object]]]:
    """The systems with a wheel, and for each kind of wheel one row with a cell for each of them."""
    places = _by_place(lines)
    there = {platform for _, platform in places}
    systems = [system for system in asked.systems if system.platform in there]
    rows: list[dict[str, object]] = []
    for kind in kinds:
        cells = []
        for system in systems:
            line = places.get((kind, system.platform))
            cells.append((size(line.size), _oldest(line)) if line else None)
        summaries = [_summary(kind, system.platform) for system in systems if (kind, system.platform) in places]
        rows.append({"kind": kind, "summary": "; ".join(dict.fromkeys(filter(None, summaries))), "cells": cells})
    return [system.name for system in systems], rows


def _facts(lines: Sequence[Line], asked: Answers, needs: Mapping[str, list[str]]) -> dict[str, dict[int, str]]:
    """A line about each kind of wheel on each system, by the system's number."""
    found: dict[str, dict[int, str]] = {}
    places = _by_place(lines)
    for number, system in enumerate(asked.systems):
        for (kind, platform), line in places.items():
            if platform == system.platform:
                own = [Requirement(text).name for text in needs[line.name]]
                common = (
                    {Requirement(text).name for text in needs[places["plain", platform].name]}
                    if ("plain", platform) in places
                    else set()
                )
                more = [name for name in own if name not in common]
                parts = [
                    size(line.size),
                    f"{_oldest(line)} or newer" if _oldest(line) else "",
                    f"brings {' and '.join(more)}" if more and kind != "plain" else "",
                ]
                text = ", ".join(part for part in parts if part)
                summary = _summary(kind, platform)
                found.setdefault(kind, {})[number] = f"{text}. {summary}." if summary else f"{text}."
    return found


# -- the answers ---------------------------------------------------------------------------------------------------------------


def _data(asked: Answers, lines: Sequence[Line], needs: Mapping[str, list[str]], labels: Sequence[str]) -> dict[str, object]:
    """All that the script looks up. `grids`: as in :class:`.answers.Answers`, but for each model the number of one of `rows`."""
    rows: dict[tuple[int, ...], int] = {}
    grids = [[[rows.setdefault(tuple(row), len(rows)) for row in cells] for cells in grid] for grid in asked.grids]
    return {
        "labels": labels,
        "grids": grids,
        "rows": list(rows),
        "outcomes": [msgspec.to_builtins(outcome) for outcome in asked.outcomes],
        "words": {
            "system": [system.words for system in asked.systems],
            "maker": [one.maker.words for one in asked.makers],
            "model": [[[], *(model.words for model in one.maker.model)] for one in asked.makers],
        },
        "ways": [msgspec.to_builtins(way) for way in WAYS],
        "facts": _facts(lines, asked, needs),
        "asks": [_asks(asked, grid) for grid in asked.grids],
    }


def _asks(asked: Answers, grid: Sequence[Sequence[Sequence[int]]]) -> str:
    """What uv finds out by itself on one system."""
    outcomes = [asked.outcomes[number] for cells in grid for row in cells for number in row]
    takes = {outcome.label for outcome in outcomes if outcome.uv in ("variants", "plain") and not outcome.asks}
    named = [*(label for label in asked.order if label in takes), *(["the plain wheel"] if "plain" in takes else [])]
    listed = ", ".join(named[:-1]) + (" or " if len(named) > 1 else "") + "".join(named[-1:])
    return f"{ASKS}: {listed}."


class _State(msgspec.Struct, frozen=True):
    """A driver in words, and what `uv pip install` takes there, and what others are to take."""

    name: str
    uv: str
    other: str


class _Row(msgspec.Struct, frozen=True):
    """GPUs that get the same."""

    gpu: str
    states: tuple[_State, ...]


def _table(asked: Answers) -> Iterator[tuple[list[str], list[_Row]]]:
    """The same answers as a table: rows for systems that have the same."""
    same: dict[tuple[_Row, ...], list[str]] = {}
    for system, grid in zip(asked.systems, asked.grids, strict=True):
        named = [[[asked.outcomes[number] for number in row] for row in cells] for cells in grid]
        rows = [row for one, cells in zip(asked.makers, named, strict=True) for row in _maker_rows(one, cells)]
        if len({row.states for row in rows}) == 1:
            rows = [_Row("Any, or none", rows[0].states)]
        same.setdefault(tuple(rows), []).append(system.name)
    for found, names in same.items():
        yield names, list(found)


def _maker_rows(one: Asked, grid: Sequence[Sequence[Outcome]]) -> Iterator[_Row]:
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for model, outcomes in zip(one.models, grid, strict=True):
        groups.setdefault(tuple((_by_uv(outcome), outcome.other) for outcome in outcomes), []).append(model)
    name = "Not known" if one.maker.name == UNKNOWN else one.maker.name
    for cells, models in groups.items():
        known = [model for model in models if model != UNKNOWN]
        more = ["or not known" if known else "model not known"] if UNKNOWN in models else []
        gpu = name if len(groups) == 1 else f"{name}: {'; '.join([*known, *more])}"
        states = [_State("" if len(numbers) == len(cells) else _spelled(one, numbers), *cell) for cell, numbers in _runs(cells)]
        yield _Row(gpu, tuple(states))


def _by_uv(outcome: Outcome) -> str:
    return "what fits" if outcome.asks else outcome.label


def _runs(cells: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], list[int]]]:
    """States that have the same, by their numbers: those that follow each other."""
    order = [*range(2, len(cells)), *range(1, -1, -1)] if len(cells) > 2 else [*range(len(cells) - 1, -1, -1)]
    for cell, numbers in itertools.groupby(order, key=lambda number: cells[number]):
        yield cell, list(numbers)


def _spelled(one: Asked, states: Sequence[int]) -> str:
    """The states of these numbers in words: ``CUDA 12.4 to 12.9``."""
    drivers = [one.maker.drivers[number - 2] for number in states if number > 1]
    first = len(drivers) > 0 and drivers[0] == one.maker.drivers[0]
    last = len(drivers) > 0 and drivers[-1] == one.maker.drivers[-1]
    parts = []
    if drivers:
        parts.append(
            "any CUDA" if first and last
            else f"CUDA {drivers[-1]} or newer" if first
            else f"CUDA {drivers[0]} or older" if last
            else f"CUDA {drivers[-1]} to {drivers[0]}"
        )  # fmt: skip
    if 1 in states:
        parts.append(str(one.maker.enables) if one.maker.enables else "no driver")
    if 0 in states:
        parts.append("otherwise" if one.maker.enables else "not known")
    return ", ".join(parts)
