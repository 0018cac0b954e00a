"""The site: what a web server serves, made from the ledger and from nothing else.

``simple/`` is a repository with every wheel, ``backends/LABEL/simple/`` one for each backend, whose wheels have plain names and
local versions, for installers that know no labels; ``index.html`` is for people. Whoever reads meanwhile, or after a run that
was killed, finds every link: what is linked comes first, the pages are renamed into place after it, and what no page links goes
last.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import itertools
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import msgspec
from variantlib.variants_json import VariantsJson

from ..choice import metadata
from ..choice.listing import PROJECT, Listing, parse
from ..errors import DiskError, LedgerError
from ..terminal import disk
from ..wheel import archive
from . import entries, front, pages
from .hashes import Hashes
from .ledger import Ledger, Line
from .pages import Row

#: The files that we wrote into a site, by their paths: nothing else there is ever overwritten or removed.
WRITTEN = ".written.json"
#: So long a client or a cache between may hold a page, whose ``*-variants.json`` must still be there.
_HELD = datetime.timedelta(days=14)


def path_of(line: Line) -> str:
    """Where a site that holds the file itself has it, from the site's root."""
    root = f"backends/{line.backend}/simple" if line.source else "simple"
    if line.is_wheel:
        return f"{root}/{line.project}/{line.name}"
    return f"{root}/{line.project}/variants/{line.sha256[:16]}/{line.name}"  # by its content: a page goes on fitting what it links


def url_of(line: Line) -> str:
    """The `url` of a file that the site holds itself."""
    return quote(path_of(line))


def publish(lock: disk.Lock, ledger: Ledger, site: Path, sources: Mapping[str, Path], site_url: str, hashes: Hashes) -> list[Line]:
    """Bring the site in line with the ledger, and return what ``simple/`` lists.

    lock: of the site. sources: where wheels lie that the site is to hold, by name. site_url: where the site will be, for the
    commands on its front page.

    Raises:
        DiskError: the folder holds a file that is not ours.
        LedgerError: the site is to hold a wheel that is neither there nor in `sources`; a text of the ledger is missing.
    """
    held = [line for line in ledger.wheels.values() if line.url == url_of(line)]
    planned = dict(_planned(ledger, held, site_url))
    paths = {path_of(line) for line in held} | planned.keys()
    written = _written(site)
    _refuse_foreign(lock, site, written, planned, held, hashes)
    missing = [line for line in held if not _is_there(site / path_of(line), line, hashes)]
    for line in missing:
        _require(line, ledger, sources, hashes)
    _write(site / WRITTEN, _listed(written | paths))
    for line in missing:
        _copy(sources[line.name], site / path_of(line), line)
    for name, content in planned.items():
        _write(site / name, content)
    for name in sorted(written - paths):
        _remove(site, name)
    _write(site / WRITTEN, _listed(paths))
    return sorted((line for line in ledger.wheels.values() if not line.source), key=lambda line: line.order)


# -- what the site consists of ------------------------------------------------------------------------------------------------


def _planned(ledger: Ledger, held: Iterable[Line], site_url: str) -> Iterator[tuple[str, bytes]]:
    """Every file but the wheels, by its path, in the order in which they are written: what is linked comes before its page."""
    for line in held:
        yield f"{path_of(line)}.metadata", ledger.text(str(line.metadata))  # PEP 658
    main = [line for line in ledger.wheels.values() if not line.source]
    merged = _merged(ledger)
    for line in (line for lines in merged.values() for line in lines):
        yield path_of(line), ledger.text(line.sha256)
    current = {key: lines[-1] for key, lines in merged.items()}
    for line in current.values():
        yield f"simple/{line.project}/{line.name}", ledger.text(line.sha256)
    yield from _repository("simple", ledger, main, list(current.values()))
    for name in sorted({line.backend for line in ledger.wheels.values() if line.backend} | {archive.PLAIN}):
        mine = [line for line in ledger.wheels.values() if line.backend == name]
        yield from _repository(f"backends/{name}/simple", ledger, mine, [])
    yield from _front(ledger, main, {key: ledger.text(line.sha256) for key, line in current.items()}, site_url)


def _repository(root: str, ledger: Ledger, wheels: Iterable[Line], extra: Iterable[Line]) -> Iterator[tuple[str, bytes]]:
    """The pages of one repository: of each project, and of itself."""
    by_project: dict[str, list[Line]] = {}
    for line in [*sorted(wheels, key=lambda line: line.order), *sorted(extra, key=lambda line: line.order)]:
        by_project.setdefault(line.project, []).append(line)
    by_hash = ledger.by_hash()
    for project, lines in sorted(by_project.items()):
        rows = [_row(line, f"{root}/{project}", by_hash) for line in lines]
        yield f"{root}/{project}/index.json", pages.as_json(project, rows)
        yield f"{root}/{project}/index.html", pages.as_html(project, rows)
    yield f"{root}/index.json", pages.root_json(sorted(by_project))
    yield f"{root}/index.html", pages.root_html(sorted(by_project))


def _row(line: Line, folder: str, by_hash: Mapping[str, Line]) -> Row:
    """One link on the page in `folder`. The metadata file lies beside the wheel (PEP 658), so only where the site holds the
    wheel."""
    here = line.is_wheel and line.url == url_of(line)
    return Row(
        line.name,
        line.version,
        line.url if "://" in line.url else _relative(line.url, folder),
        line.size,
        line.sha256,
        line.date,
        line.requires_python,
        line.metadata if here else None,
        _yanked(line, by_hash),
        line.is_wheel,
    )


def _relative(url: str, folder: str) -> str:
    """A path from the site's root, as seen from `folder`."""
    path = PurePosixPath(url)
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return "../" * (folder.count("/") + 1) + url


def _yanked(line: Line, by_hash: Mapping[str, Line]) -> str | None:
    """Why a wheel should not be taken: by its own line, or by that of the labelled wheel that it was made of."""
    made_of = by_hash.get(line.source) if line.source else None
    return made_of.yanked if line.yanked is None and made_of else line.yanked


def _merged(ledger: Ledger) -> dict[tuple[str, str], list[Line]]:
    """The lines of ``*-variants.json`` that are served, by project and version, the one that counts last."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in ledger.lines:
        if not line.is_wheel:
            found.setdefault((line.project, line.version), []).append(line)
    labelled = {(line.project, line.version) for line in ledger.wheels.values() if line.label}
    newest = max((_time(line) for line in ledger.lines), default=None)
    served: dict[tuple[str, str], list[Line]] = {}
    for key, lines in found.items():
        if key in labelled and newest:
            replaced = itertools.pairwise(lines)
            served[key] = [*(line for line, by in replaced if newest - _time(by) <= _HELD), lines[-1]]
    return served


def _time(line: Line) -> datetime.datetime:
    return datetime.datetime.fromisoformat(line.date)


def _front(ledger: Ledger, main: list[Line], merged: Mapping[tuple[str, str], bytes], site_url: str) -> Iterator[tuple[str, bytes]]:
    """The pages for people; our project's front page is the site's own."""
    projects = sorted({line.project for line in main})
    first = PROJECT if PROJECT in projects else projects[0] if projects else None
    needs = functools.cache(lambda digest: entries.requires(ledger.text(digest)))
    for project in projects:
        mine = sorted((line for line in main if line.project == project), key=lambda line: line.order, reverse=True)
        version = front.newest(mine)
        info = {version: metadata.check(merged[project, version])} if (project, version) in merged else {}
        listing = _listing((line for line in mine if line.version == version), info)
        required = {line.name: needs(str(line.metadata)) for line in mine}
        name = "index.html" if project == first else f"{project}.html"
        for path, text in front.pages(project, mine, listing, required, site_url, name):
            yield path, text.encode()


def _listing(lines: Iterable[Line], merged: dict[str, VariantsJson]) -> Listing:
    """The same as :func:`.listing.read` of the finished site, for these wheels."""
    wheels = [
        msgspec.structs.replace(candidate, yanked=line.yanked is not None, requires_python=line.requires_python)
        for line in lines
        if (candidate := parse(line.name))
    ]
    return Listing("", wheels, merged, {})


# -- the folder ---------------------------------------------------------------------------------------------------------------


def _written(site: Path) -> set[str]:
    """What earlier runs wrote here, or nothing where their note is lost."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return set(msgspec.json.decode((site / WRITTEN).read_bytes(), type=list[str]))
    return set()


def _listed(paths: Iterable[str]) -> bytes:
    return ("[\n" + ",\n".join(map(json.dumps, sorted(paths))) + "\n]\n").encode()


def _refuse_foreign(
    lock: disk.Lock, site: Path, written: set[str], planned: Mapping[str, bytes], held: Iterable[Line], hashes: Hashes
) -> None:
    """Raise a DiskError where the folder holds what no run of ours wrote: it is neither noted nor what would be written."""
    if site.exists() and not site.is_dir():
        raise DiskError(f"{site} is a file.", "Name a folder for the site (--site FOLDER).")
    wheels = {path_of(line): line for line in held}

    def is_ours(name: str) -> bool:
        if not stat.S_ISREG(os.lstat(os.path.join(site, name)).st_mode):
            return False
        if name in written or name == WRITTEN:
            return True
        path = site / name
        return _is_there(path, wheels[name], hashes) if name in wheels else name in planned and _same(path, planned[name])

    foreign = []
    for folder, below, files in os.walk(site):
        disk.remove_leftovers(lock, Path(folder))
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        root = "" if Path(folder) == site else f"{Path(folder).relative_to(site).as_posix()}/"
        found = [f"{root}{name}" for name in [*links, *files] if not disk.is_leftover(name)]
        foreign += [name for name in found if not is_ours(name)]
    if foreign:
        more = f" and {len(foreign) - 1} other files" if len(foreign) > 1 else ""
        raise DiskError(
            f"{site} holds {sorted(foreign)[0]}{more}, which no run of `index` wrote.",
            "Name another folder (--site FOLDER), or remove this one if you need nothing of it.",
        )


def _is_there(path: Path, line: Line, hashes: Hashes) -> bool:
    return path.is_file() and path.stat().st_size == line.size and hashes.sha256(path) == line.sha256


def _require(line: Line, ledger: Ledger, sources: Mapping[str, Path], hashes: Hashes) -> None:
    source = sources.get(line.name)
    if source is None or hashes.sha256(source) != line.sha256:
        raise LedgerError(
            f"{line.name} lies in the site itself by {ledger.file}, but is neither there nor in the folder of wheels.",
            f"Put it back from the published site, or give its line in {ledger.file} another `url`.",
        )


def _copy(source: Path, target: Path, line: Line) -> None:
    """Copy a wheel; a link would change what is published with the next build."""
    with disk.replacing(target) as part:
        digest = hashlib.sha256()
        with source.open("rb") as old, part.open("wb") as new:
            while piece := old.read(1 << 20):
                digest.update(piece)
                new.write(piece)
        if digest.hexdigest() != line.sha256:
            raise LedgerError(f"{source} has changed while it was copied.", "Run `index` again when its build has ended.")
        shutil.copystat(source, part)


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _write(path: Path, content: bytes) -> None:
    """Write a page, only if it differs, in one rename."""
    if _same(path, content):
        return
    with disk.replacing(path) as part:
        part.write_bytes(content)


def _remove(site: Path, name: str) -> None:
    """Remove a file of ours, and its folders as far as they are empty."""
    path = site / name
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == site:
            break
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
