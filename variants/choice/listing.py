"""What an index offers: its files, and what the labels among them stand for. Read from wheels, from a site, or over HTTP."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import unquote, urldefrag, urljoin

import msgspec
from packaging.utils import BuildTag, canonicalize_name
from packaging.version import Version
from variantlib.errors import ValidationError
from variantlib.variants_json import VariantsJson

from ..errors import UsageError, VariantsError, WheelError
from ..wheel import archive, budget
from . import metadata

if TYPE_CHECKING:
    import requests

_T = TypeVar("_T")
PROJECT = "llama-cpp-python"


class Candidate(msgspec.Struct, frozen=True):
    """A wheel that is offered: what its name says, and what the index says of it."""

    name: str
    version: str
    build: BuildTag
    tags: frozenset[str]
    label: str | None
    yanked: bool = False
    requires_python: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why a version's ``*-variants.json`` cannot be used. `fatal`: installers stop (it does not arrive as it was linked); otherwise
    they pass over the whole version (it arrives, and is not what PEP 850 says)."""

    text: str
    fatal: bool


class Listing(msgspec.Struct, frozen=True, dict=True):
    """Every wheel of one project, and for each version with labels its merged metadata, or in `problems` why there is none."""

    where: str
    wheels: list[Candidate]
    variants: dict[str, VariantsJson]
    problems: dict[str, Problem]

    def versions(self) -> list[str]:
        """Newest first."""
        return sorted(self.by_version, key=Version, reverse=True)

    @functools.cached_property
    def by_version(self) -> dict[str, list[Candidate]]:
        """The wheels of each version."""
        found: dict[str, list[Candidate]] = {}
        for wheel in self.wheels:
            found.setdefault(wheel.version, []).append(wheel)
        return found


def read(where: str, project: str = PROJECT) -> Listing:
    """What `where` offers of `project`: a folder of wheels, a site that `index` made, or the address of an index.

    Raises:
        UsageError: it is none of these, does not answer, or has nothing of this project.
    """
    if where.startswith(("http://", "https://")):
        return _read_url(where, project)
    folder = Path(where)
    if not folder.is_dir():
        raise UsageError(
            f"{where} is no folder.", "Give a folder of wheels, a site that `nox -s index` made, or an index's address."
        )
    for root in (folder / "simple", folder, folder.parent):
        page = root / project / "index.json"
        if page.is_file():
            return _read_site(page, where, project)
    return _read_wheels(folder, project)


def _read_wheels(folder: Path, project: str) -> Listing:
    wheels: list[Candidate] = []
    variants: dict[str, VariantsJson] = {}
    problems: dict[str, Problem] = {}
    for path in sorted(folder.glob("*.whl")):
        candidate = parse(path.name, project)
        if candidate is None:
            continue
        wheels.append(candidate)
        if candidate.label:
            try:
                with archive.open_wheel(path) as opened:
                    content = opened.read(f"{archive.dist_info(opened)}/variant.json")
                info = metadata.read_wheel(content, candidate.label, ours=False)
                variants.setdefault(candidate.version, VariantsJson(info)).merge(info)
            except (KeyError, ValueError, ValidationError, WheelError) as error:
                problems[candidate.version] = Problem(f"{path.name}: {error}", fatal=False)
    if not wheels:
        raise UsageError(f"There is no wheel of {project} in {folder}.", "Build one: `nox -s build_variant -- cpu`.")
    return Listing(str(folder), wheels, variants, problems)


def _read_site(page: Path, where: str, project: str) -> Listing:
    try:
        rows = _rows(budget.json(budget.read(page, budget.PAGE), _Page, budget.PAGE), project)
    except (OSError, ValueError) as error:
        raise UsageError(f"{page} is no project page of PEP 691: {error}.", "Make the site again: `nox -s index`.") from error
    variants: dict[str, VariantsJson] = {}
    problems: dict[str, Problem] = {}
    for row in rows:
        if version := _metadata_version(row.filename, project):
            try:
                path = page.parent / unquote(row.url or row.filename)
                if not path.resolve().is_relative_to(page.parent.resolve()):
                    raise ValueError("it leads out of the site")
                _add(variants, problems, version, budget.read(path), row.hashes.get("sha256"))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                problems[version] = Problem(f"{row.filename} is linked, but not there ({why})", fatal=True)
    return Listing(where, _wheels(rows, project), variants, problems)


def _wheels(rows: list[_Row], project: str) -> list[Candidate]:
    return [_with(candidate, row) for row in rows if (candidate := parse(row.filename, project))]


class _Row(msgspec.Struct):
    filename: str
    url: str = ""
    hashes: dict[str, str] = {}
    yanked: bool | str = False
    requires_python: str | None = msgspec.field(default=None, name="requires-python")


class _Page(msgspec.Struct):
    files: list[_Row]
    name: str | None = None


def _rows(page: _Page, project: str) -> list[_Row]:
    """The files of a page.

    Raises:
        ValueError: it is another project's, or has more of them than any.
    """
    if page.name is not None and canonicalize_name(page.name) != canonicalize_name(project):
        raise ValueError(f"it is the page of {page.name[:60]!r}")
    if len(page.files) > budget.FILES:
        raise ValueError(f"it has {len(page.files):,} files; no more than {budget.FILES:,} are read")
    return page.files


class _Answer(NamedTuple):
    """What a server answered: its address after redirects, the kind of content, and the content (empty where `status` is bad)."""

    url: str
    status: int
    kind: str
    charset: str
    content: bytes


def _read_url(url: str, project: str) -> Listing:
    import requests  # takes as long to import as all the rest, and few commands need it

    root = url.rstrip("/")
    root = root.removesuffix(f"/{project}")
    try:
        return _within(budget.FETCH_SECONDS, lambda until: _fetch(url, f"{root}/{project}/", project, until))
    except (requests.RequestException, ValueError, OSError) as error:
        raise UsageError(
            f"{url} does not answer as an index: {error}.", "Check the address, and that it can be reached."
        ) from error


def _within(seconds: float, work: Callable[[float], _T]) -> _T:
    """What `work` returns, if it does so in time; it is told when that ends. A server can hold a connection open for ever by a byte
    now and then, so a thread does the work, and is left behind.

    Raises:
        ValueError: it takes longer.
    """
    found: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work(time.monotonic() + seconds))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 0.2)
    if failed:
        raise failed[0]
    if not found:
        raise ValueError(f"it takes longer than {seconds:g} seconds")
    return found[0]


def _fetch(where: str, page: str, project: str, until: float) -> Listing:
    import requests
    from pypi_simple import ACCEPT_ANY

    with requests.Session() as client:
        client.max_redirects = budget.REDIRECTS
        client.headers.update({"Accept": ACCEPT_ANY, "Accept-Encoding": "gzip"})
        answer = _get(client, page, until, budget.PAGE)
        if answer.status == 404:
            raise UsageError(f"{where} has no {project}.", "Is it the address that installers get, the one that ends with simple/?")
        if answer.status != 200:
            raise ValueError(f"it answers {answer.status}")
        rows = list(_parsed(answer, project))
        variants: dict[str, VariantsJson] = {}
        problems: dict[str, Problem] = {}
        for row in rows:
            if version := _metadata_version(row.filename, project):
                linked = _get(client, row.url, until, budget.TEXT)
                if linked.status != 200:
                    what = f"{row.filename} is linked, but the server answers {linked.status}"
                    problems[version] = Problem(what, fatal=True)
                else:
                    _add(variants, problems, version, linked.content, row.hashes.get("sha256"))
    return Listing(where, _wheels(rows, project), variants, problems)


def _get(client: requests.Session, url: str, until: float, limit: int) -> _Answer:
    """One answer, read in pieces so small that none unpacks to more than a few MB.

    Raises:
        ValueError: it is too long, too late, or compressed in another way than was asked for.
    """
    with client.get(url, timeout=10, stream=True) as answer:
        kind, _, rest = answer.headers.get("content-type", "text/html").partition(";")
        charset = re.search(r"charset=[\"']?([\w-]+)", rest)
        if answer.headers.get("content-encoding", "identity").lower() not in ("gzip", "identity"):
            raise ValueError(f"it answers in {answer.headers['content-encoding'][:60]!r}, not asked for")
        content = bytearray()
        for piece in answer.iter_content(4096) if answer.status_code == 200 else ():
            content += piece
            if len(content) > limit:
                raise ValueError(f"it answers with more than {limit / 1e6:g} MB")
            if time.monotonic() > until:
                raise ValueError(f"it takes longer than {budget.FETCH_SECONDS:g} seconds")
        return _Answer(answer.url, answer.status_code, kind.strip().lower(), charset[1] if charset else "utf-8", bytes(content))


def _parsed(answer: _Answer, project: str) -> Iterator[_Row]:
    """The files of a project page in JSON (PEP 691) or HTML (PEP 503), with whole addresses.

    Raises:
        ValueError: it is neither, or another project's.
    """
    if answer.kind == "application/vnd.pypi.simple.v1+json":
        for row in _rows(budget.json(answer.content, _Page, budget.PAGE), project):
            yield msgspec.structs.replace(row, url=urljoin(answer.url, row.url))
    elif answer.kind in ("application/vnd.pypi.simple.v1+html", "text/html"):
        yield from _rows(_Page(list(_links(answer))), project)
    else:
        raise ValueError(f"it answers with {answer.kind[:60]!r}")


_TAG = re.compile(r"<(?=(?:a|base|meta)\s)", re.IGNORECASE)
_LINK = 10_000  # characters of one link: address, hash and text


def _links(answer: _Answer) -> Iterator[_Row]:
    """The links of a page in HTML. Each is parsed by itself: parsers of HTML take a long time for a long page that is none."""
    from pypi_simple.errors import UnsupportedRepoVersionError
    from pypi_simple.html_stream import parse_links_stream

    base = answer.url
    try:
        text = answer.content.decode(answer.charset, "replace")
    except LookupError as error:
        raise ValueError(str(error)) from error
    for part in _TAG.split(text)[1 : budget.FILES + 100]:
        if len(part) > _LINK:
            part = part[: max(part.find("</a", 0, _LINK), 0)]
        if part[:4].lower() == "base":
            found = re.search(r"(?i)href\s*=\s*[\"']?([^\"'\s>]+)", part)
            base = urljoin(base, found[1]) if found else base
            continue
        try:
            for link in parse_links_stream([f"<{part}"], base_url=base):
                address, fragment = urldefrag(link.url)
                kind, _, value = fragment.partition("=")
                yanked = link.get_str_attrib("data-yanked") is not None
                yield _Row(link.text, address, {kind: value}, yanked, link.get_str_attrib("data-requires-python"))
        except UnsupportedRepoVersionError as error:
            raise ValueError(str(error)) from error


def _add(variants: dict[str, VariantsJson], problems: dict[str, Problem], version: str, content: bytes, sha256: str | None) -> None:
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        problems[version] = Problem(f"the *-variants.json of {version} has another hash than its link says", fatal=True)
        return
    try:
        variants[version] = metadata.check(content)
    except ValueError as error:
        problems[version] = Problem(f"the *-variants.json of {version} is not what PEP 850 says: {error}", fatal=False)


def parse(filename: str, project: str | None = None) -> Candidate | None:
    """A wheel by its file name, or None where it is the name of something else, or of a wheel of another `project`."""
    if not filename.endswith(".whl"):
        return None
    try:
        name, version, build, tags = archive.parse_name(archive.plain_path(Path(filename)))
    except VariantsError:
        return None
    if project is not None and name != canonicalize_name(project):
        return None
    return Candidate(filename, str(version), build, frozenset(map(str, tags)), archive.split_label(filename)[1])


def _with(candidate: Candidate, row: _Row) -> Candidate:
    return msgspec.structs.replace(candidate, yanked=row.yanked is not False, requires_python=row.requires_python)


def _metadata_version(filename: str, project: str) -> str | None:
    """The version in ``{name}-{version}-variants.json`` of this project, or None."""
    parts = filename.removesuffix("-variants.json").split("-")
    if not filename.endswith("-variants.json") or len(parts) != 2 or len(filename) > budget.NAME:
        return None
    try:
        return str(Version(parts[1])) if canonicalize_name(parts[0]) == canonicalize_name(project) else None
    except ValueError:
        return None
