"""What an index offers: its files, and what the labels among them stand for. Read from wheels, from a site, or over HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec
from packaging.utils import BuildTag
from packaging.version import Version
from variantlib.errors import ValidationError
from variantlib.variants_json import VariantsJson

from ..errors import UsageError, VariantsError, WheelError
from ..wheel import archive
from . import metadata

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, PyPISimple

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


class Listing(msgspec.Struct, frozen=True):
    """Every wheel of one project, and for each version with labels its merged metadata, or in `problems` why there is none."""

    where: str
    wheels: list[Candidate]
    variants: dict[str, VariantsJson]
    problems: dict[str, Problem]

    def versions(self) -> list[str]:
        """Newest first."""
        return sorted({wheel.version for wheel in self.wheels}, key=Version, reverse=True)


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
            return _read_site(page, where)
    return _read_wheels(folder, project)


def _read_wheels(folder: Path, project: str) -> Listing:
    wheels: list[Candidate] = []
    variants: dict[str, VariantsJson] = {}
    problems: dict[str, Problem] = {}
    for path in sorted(folder.glob("*.whl")):
        candidate = parse(path.name)
        if candidate is None or archive.parse_name(archive.plain_path(path))[0] != project:
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


def _read_site(page: Path, where: str) -> Listing:
    try:
        rows = msgspec.json.decode(page.read_bytes(), type=_Page).files
    except msgspec.DecodeError as error:
        raise UsageError(f"{page} is no project page of PEP 691: {error}.", "Make the site again: `nox -s index`.") from error
    wheels = [_with(candidate, row) for row in rows if (candidate := parse(row.filename))]
    variants: dict[str, VariantsJson] = {}
    problems: dict[str, Problem] = {}
    for row in rows:
        if version := _metadata_version(row.filename):
            try:
                _add(
                    variants,
                    problems,
                    version,
                    (page.parent / unquote(row.url or row.filename)).read_bytes(),
                    row.hashes.get("sha256"),
                )
            except OSError as error:
                problems[version] = Problem(f"{row.filename} is linked, but not there ({error.strerror})", fatal=True)
    return Listing(where, wheels, variants, problems)


class _Row(msgspec.Struct):
    filename: str
    url: str = ""
    hashes: dict[str, str] = {}
    yanked: bool | str = False
    requires_python: str | None = msgspec.field(default=None, name="requires-python")


class _Page(msgspec.Struct):
    files: list[_Row]


def _read_url(url: str, project: str) -> Listing:
    import requests  # these two take as long to import as all the rest, and few commands need them
    from pypi_simple import PyPISimple
    from pypi_simple.errors import NoSuchProjectError, UnsupportedContentTypeError, UnsupportedRepoVersionError

    root = url.rstrip("/")
    root = root.removesuffix(f"/{project}")
    try:
        with PyPISimple(root + "/") as client:
            packages = client.get_project_page(project, timeout=20).packages
            wheels = [
                _with(candidate, _Row(package.filename, "", {}, package.is_yanked or False, package.requires_python))
                for package in packages
                if (candidate := parse(package.filename))
            ]
            variants: dict[str, VariantsJson] = {}
            problems: dict[str, Problem] = {}
            for package in packages:
                if version := _metadata_version(package.filename):
                    _fetch(client, package, version, variants, problems)
    except NoSuchProjectError as error:
        raise UsageError(
            f"{url} has no {project}.", "Is it the address that installers get, the one that ends with simple/?"
        ) from error
    except (requests.RequestException, UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
        raise UsageError(
            f"{url} does not answer as an index: {error}.", "Check the address, and that it can be reached."
        ) from error
    return Listing(url, wheels, variants, problems)


def _fetch(
    client: PyPISimple, package: DistributionPackage, version: str, variants: dict[str, VariantsJson], problems: dict[str, Problem]
) -> None:
    answer = client.s.get(package.url, timeout=20)
    if not answer.ok:
        problems[version] = Problem(f"{package.filename} is linked, but the server answers {answer.status_code}", fatal=True)
    else:
        _add(variants, problems, version, answer.content, package.digests.get("sha256"))


def _add(variants: dict[str, VariantsJson], problems: dict[str, Problem], version: str, content: bytes, sha256: str | None) -> None:
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        problems[version] = Problem(f"the *-variants.json of {version} has another hash than its link says", fatal=True)
        return
    try:
        variants[version] = metadata.check(content)
    except ValueError as error:
        problems[version] = Problem(f"the *-variants.json of {version} is not what PEP 850 says: {error}", fatal=False)


def parse(filename: str) -> Candidate | None:
    """A wheel by its file name, or None where it is the name of something else."""
    if not filename.endswith(".whl"):
        return None
    try:
        _, version, build, tags = archive.parse_name(archive.plain_path(Path(filename)))
    except VariantsError:
        return None
    return Candidate(filename, str(version), build, frozenset(map(str, tags)), archive.split_label(filename)[1])


def _with(candidate: Candidate, row: _Row) -> Candidate:
    return msgspec.structs.replace(candidate, yanked=row.yanked is not False, requires_python=row.requires_python)


def _metadata_version(filename: str) -> str | None:
    """The version in ``{name}-{version}-variants.json``, or None."""
    parts = filename.removesuffix("-variants.json").split("-")
    return str(Version(parts[1])) if filename.endswith("-variants.json") and len(parts) == 2 else None
