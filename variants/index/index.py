"""The index: static files that any web server can serve, made from the wheels in ``dist/`` and from nothing else.

``simple/`` is a repository with every wheel, ``backends/LABEL/simple/`` one for each backend, whose wheels have plain names and
local versions, for installers that know no labels; ``index.html`` is for people. Publishing is atomic for whoever reads meanwhile:
what is linked comes first, and the pages that link it are renamed into place last.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from variantlib.errors import ValidationError
from variantlib.models.variant import VariantDescription
from variantlib.variants_json import VariantsJson

from .. import matrix
from ..choice import metadata
from ..choice.listing import PROJECT, Listing, parse
from ..errors import UsageError, WheelError
from ..steps import label as labels
from ..steps import promise, verify
from ..steps.assemble import CORE
from ..terminal import disk
from ..wheel import archive, budget, records
from . import front, pages
from .pages import File

_STATE = ".state.json"


class Options(msgspec.Struct, frozen=True):
    """`base_url`: where the wheels lie, instead of being hard-linked or copied into the site. `site_url`: where the site will be,
    for the commands on its front page. `allow_no_fallback`: list a version that has labelled wheels alone, which installers that
    know no labels then cannot install."""

    base_url: str | None = None
    site_url: str = "http://127.0.0.1:8000/"
    allow_no_fallback: bool = False


def build_index(lock: disk.Lock, dist: Path, site: Path, options: Options | None = None) -> list[File]:
    """Bring the site up to date with the wheels in `dist` and return what ``simple/`` lists.

    Only wheels that are new since the last time are opened; of each, the archive's directory and its dist-info are read, and
    the whole file once for its hash. Wheels with local versions are made once, in ``dist/backends/``.

    Raises:
        UsageError: there is no wheel.
        WheelError: a file is not a wheel, or differs from the one that the site has under its name; its metadata is such that uv
            refuses it; a label stands for two sets of properties, or two labels for one; a version has no plain wheel.
    """
    options = options or Options()
    known = {file.name: file for file in _state(site)}
    paths = sorted(dist.glob("*.whl"))
    if not paths:
        raise UsageError(f"There is no wheel in {dist}.", "Build one: `nox -s build_variant -- cpu`.")
    files = _scan(paths, known)
    for file in files:
        before = known.get(file.name)
        if before and before.sha256 != file.sha256:
            raise WheelError(
                f"{dist / file.name} has sha256 {file.sha256}; the file of this name in {site} had {before.sha256}.",
                "A published file never changes, installers cache it by name: give the new one a build number (--build-number),\n"
                f"or remove {site} if nobody has installed from it yet.",
            )
    merged = _merge(dist, files, options)
    local = _local_versions(lock, dist, files, known)
    disk.remove_leftovers(lock, site)
    simple = site / "simple"
    content = {(project, _merged_name(project, version)): metadata.to_bytes(info) for (project, version), info in merged.items()}
    projects = {name: [file for file in files if file.project == name] for name in sorted({file.project for file in files})}
    for project, mine in projects.items():
        mine.sort(key=pages.order)
        extra = {name: text for (of, name), text in content.items() if of == project}
        _publish(lock, simple, project, mine, extra, lambda file: dist / file.name, options)
    pages.publish_root(simple, list(projects))
    _publish_backends(lock, site, dist, files, local, options)
    front_project = PROJECT if PROJECT in projects else next(iter(projects))
    for project, mine in projects.items():
        mine.reverse()  # newest first
        name = "index.html" if project == front_project else f"{project}.html"
        own = {version: info for (of, version), info in merged.items() if of == project}
        runs = {file.name: records.runs(dist / file.name, file.sha256) for file in mine}
        pages.write(
            site / name, front.render(project, mine, _listing(mine, own), runs, options.site_url, options.base_url).encode()
        )
    pages.write(site / _STATE, msgspec.json.encode([*files, *local]))
    return files


def _publish(
    lock: disk.Lock, root: Path, project: str, files: Sequence[File], extra: dict[str, bytes], where: Callable[[File], Path],
    options: Options,
) -> None:  # fmt: skip
    before = pages.linked_metadata(root / project)
    pages.publish(lock, root, project, files, extra, where, lambda file: _metadata(where(file)), options.base_url)
    pages.remove_unlisted(root, project, {file.name for file in files} | set(extra), before)


def _publish_backends(
    lock: disk.Lock, site: Path, dist: Path, files: Sequence[File], local: Sequence[File], options: Options
) -> None:
    """One classic index for each label, and one for the wheels without a label."""
    backends = {file.label for file in local if file.label}
    groups = {name: [file for file in local if file.label == name] for name in sorted(backends)}
    groups[archive.PLAIN] = [file for file in files if file.label is None]
    for name, group in groups.items():
        root = site / "backends" / name / "simple"
        projects = sorted({file.project for file in group})
        for project in projects:
            mine = sorted((file for file in group if file.project == project), key=pages.order)
            _publish(
                lock, root, project, mine, {}, lambda file: _local_path(dist, file) if file.source else dist / file.name, options
            )
        pages.publish_root(root, projects)
    for path in (site / "backends").glob("*/"):
        if path.name not in groups:
            disk.remove(path)


def _local_versions(lock: disk.Lock, dist: Path, files: Sequence[File], known: dict[str, File]) -> list[File]:
    """Each labelled wheel once more, with a plain name and a local version (PEP 440), in ``dist/backends/LABEL/``."""
    made: list[File] = []
    listed: set[Path] = set()
    for file in (file for file in files if file.label):
        folder = dist / "backends" / str(file.label)
        target = folder / labels.local_name(file.name)
        before = known.get(target.name)
        if not (before and before.source == file.sha256 and target.exists() and target.stat().st_size == before.size):
            disk.remove_leftovers(lock, folder)
            labels.unlabel(dist / file.name, folder, local=True)
            before = None
        new = _file(target, before)
        made.append(msgspec.structs.replace(new, label=file.label, source=file.sha256, yanked=file.yanked))
        listed.add(target)
    for path in (dist / "backends").glob("*/*.whl"):
        if path not in listed:
            path.unlink()
    return made


def _local_path(dist: Path, file: File) -> Path:
    return dist / "backends" / str(file.label) / file.name


def _merge(dist: Path, files: Sequence[File], options: Options) -> dict[tuple[str, str], VariantsJson]:
    """For each version with labelled wheels, the union of their metadata (PEP 825), by project and version.

    Raises:
        WheelError: naming both files that contradict each other.
    """
    merged: dict[tuple[str, str], VariantsJson] = {}
    for project, version in sorted({(file.project, file.version) for file in files if file.label}):
        mine = [file for file in files if (file.project, file.version) == (project, version)]
        if not options.allow_no_fallback and not any(file.label is None for file in mine):
            raise WheelError(
                f"{project} {version} has labelled wheels in {dist}, {mine[0].name} for one, but no plain wheel.",
                "Build it (`nox -s build_variant -- cpu`), or pass --allow-no-fallback: pip then finds nothing.",
            )
        merged[project, version] = _union(dist, version, [file for file in mine if file.label])
    return merged


def _union(dist: Path, version: str, files: Sequence[File]) -> VariantsJson:
    """The merged metadata of one version's labelled wheels."""
    union: VariantsJson | None = None
    first: File = files[0]
    by_label: dict[str, tuple[File, VariantDescription]] = {}
    seen: set[tuple[str, str]] = set()
    for file in files:
        key = (file.label or "", file.variant or "")
        if key in seen:  # the same text on another platform
            continue
        seen.add(key)
        info = metadata.read_wheel((file.variant or "").encode(), file.label or "")
        for label, (other, description) in by_label.items():
            if (label == file.label) != (set(description.properties) == set(info.variant_desc.properties)):
                what = "the same label with other properties" if label == file.label else "the same properties under two labels"
                raise WheelError(
                    f"{dist / other.name} and {dist / file.name} have {what}.",
                    "One of them is from another matrix: build it again.",
                )
        by_label.setdefault(file.label or "", (file, info.variant_desc))
        try:
            if union is None:
                union, first = VariantsJson(info), file
            union.merge(info)
        except ValidationError as error:
            raise WheelError(
                f"{dist / file.name} does not go with {dist / first.name}, of the same version {version}: {error}.",
                "Its providers are from another pyproject.toml: build it again.",
            ) from error
    assert union is not None
    return union


def _merged_name(project: str, version: str) -> str:
    """``{name}-{version}-variants.json`` (PEP 825, "Index-level metadata"), the name spelled as in a wheel's."""
    return f"{project.replace('-', '_')}-{version}-variants.json"


def _listing(files: Sequence[File], merged: dict[str, VariantsJson]) -> Listing:
    """The same as :func:`.listing.read` of the finished site."""
    wheels = [
        msgspec.structs.replace(candidate, yanked=file.yanked is not None, requires_python=file.requires_python)
        for file in files
        if (candidate := parse(file.name))
    ]
    return Listing("", wheels, merged, {})


def _state(site: Path) -> list[File]:
    """What the site listed the last time; nothing where its state is missing or of another release of this library."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((site / _STATE).read_bytes(), type=list[File])
    return []


def _scan(paths: Sequence[Path], known: dict[str, File]) -> list[File]:
    """The facts of each wheel. Hashing releases the interpreter's lock, so threads help."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: _file(path, known.get(path.name)), paths))


def _file(path: Path, known: File | None) -> File:
    """The facts of a wheel; those known from the last time where size and time of the file are the same."""
    stat = path.stat()
    note = path.with_name(path.name + ".yanked")
    yanked = _note(note) if note.exists() else None
    if known and (known.size, known.mtime) == (stat.st_size, stat.st_mtime_ns):
        return msgspec.structs.replace(known, yanked=yanked)
    label = archive.split_label(path.name)[1]
    if label is not None and (why := archive.label_mistake(label)):
        raise WheelError(f'{path}: "{label}" is no variant label: {why}.', "Remove the file, or label it again.")
    name, version, build, tags = archive.parse_name(archive.plain_path(path))
    content, variant = _dist_info(path, label)
    _refuse_unpublished(path, label)
    try:
        header = archive.headers(content)
        SpecifierSet(header["Requires-Python"] or "")
        if len(header["Requires-Python"] or "") > budget.NAME:
            raise ValueError(f"Requires-Python has more than {budget.NAME} characters")
        if canonicalize_name(header["Name"] or "") != name or Version(header["Version"] or "0") != version:
            raise ValueError(f"it is {header['Name']} {header['Version']} inside, which its name denies")
    except ValueError as error:
        raise WheelError(f"{path}: METADATA cannot be used: {error}.", "Build it again, or remove it.") from error
    return File(
        name=path.name,
        project=name,
        version=str(version),
        build=build,
        tags=", ".join(sorted(map(str, tags))),
        size=stat.st_size,
        mtime=stat.st_mtime_ns,
        sha256=archive.sha256(path),
        metadata_sha256=hashlib.sha256(content).hexdigest(),
        requires_python=header["Requires-Python"],
        date=datetime.datetime.fromtimestamp(stat.st_mtime, datetime.UTC).date().isoformat(),
        requires=[text for text in header.get_all("Requires-Dist", []) if not _is_extra(path, text)],
        label=label,
        variant=variant,
        yanked=yanked,
    )


def _note(note: Path) -> str:
    """Why a wheel is yanked.

    Raises:
        WheelError: the file does not say so in UTF-8.
    """
    try:
        return budget.text(note, budget.NOTE).strip() or "yanked"
    except (OSError, ValueError) as error:
        raise WheelError(f"{note} cannot be read: {error}.", "Write one line of UTF-8 into it, or leave it empty.") from error


def _refuse_unpublished(path: Path, label: str | None) -> None:
    """A wheel that is made for tests alone: by its label, or a plain one of our core without the plugin that the plain wheel of its
    platform has (Metal); one for the system that built it alone (``linux_x86_64``: no installer asks which glibc it wants); or one
    whose plugin lacks something.

    Raises:
        WheelError: this is one.
    """
    known = archive.platforms_of(path)
    if any(tag.platform.startswith("linux_") for tag in archive.parse_name(archive.plain_path(path))[3]):
        raise WheelError(
            f"{path} is for systems as new as the one that built it: no manylinux tag is true of it.",
            "Build it on an older distribution; take this one out of the folder (pip and uv install it by its path).",
        )
    labelled = matrix.labelled(label) if label else None
    if labelled and {platform.name for platform in known} & set(labelled.table.unpublished):
        raise WheelError(f"{path} was built for tests: {labelled.file} has its platform as `unpublished`.", "Remove it.")
    with archive.open_wheel(path) as opened:
        description = opened.read(matrix.DESCRIPTION) if matrix.DESCRIPTION in opened.namelist() else None
    if label and (why := promise.of_label(path, label)):
        raise WheelError(f"{path} {why}.", "Take it out of the folder; a label adds nothing to a wheel.")
    if lacks := verify.lacks(description):
        raise WheelError(f"{path} has a plugin that lacks {', '.join(lacks)}.", f"{verify.WHOLE} Take it out of the folder.")
    for platform in known if label is None else ():
        variant = matrix.labelled(None, platform.name)
        plugin = variant.table.plugin if variant else None
        if variant and plugin:
            with archive.open_wheel(path) as opened:
                names = opened.namelist()
            if CORE in names and f"llama_cpp/lib/{platform.plugin(plugin)}" not in names:
                lacking = platform.plugin(plugin)
                raise WheelError(
                    f"{path} has no {lacking}: it was built for tests, and is not the plain wheel of {platform.name}.",
                    f"Remove it, and build `{variant.name}` on a machine of that platform.",
                )


def _is_extra(path: Path, requirement: str) -> bool:
    """Does this requirement belong to an extra? (PEP 508 marker ``extra == "…"``)

    Raises:
        WheelError: it is no requirement; installers would stop there.
    """
    try:
        return "extra ==" in str(Requirement(requirement).marker)
    except InvalidRequirement as error:
        raise WheelError(
            f"{path}: METADATA has a requirement that is none: {requirement}.", "Build the wheel again, or remove it."
        ) from error


def _metadata(path: Path) -> bytes:
    with archive.open_wheel(path) as opened:
        return opened.read(f"{archive.dist_info(opened)}/METADATA")


def _dist_info(path: Path, label: str | None) -> tuple[bytes, str | None]:
    """METADATA and the text of variant.json (None without a label).

    Raises:
        WheelError: METADATA cannot be read; a label without variant.json, or the other way round; another label than in the name;
            a variant.json that an installer would refuse.
    """
    try:
        with archive.open_wheel(path) as opened:
            info = archive.dist_info(opened)
            header = opened.read(f"{info}/METADATA")
            content = opened.read(f"{info}/variant.json") if f"{info}/variant.json" in opened.namelist() else None
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise WheelError(f"{path} has no readable METADATA ({error}).", "Build it again, or remove it.") from error
    if content is None and label is None:
        return header, None
    try:
        if content is None or label is None:
            raise ValueError("the name has a label, the wheel none" if label else "the wheel has one, the name has no label")
        metadata.read_wheel(content, label)
    except ValueError as error:
        raise WheelError(
            f"{path}: its variant.json does not go with its name ({error}).", "Build it again, or remove it."
        ) from error
    return header, json.dumps(json.loads(content), sort_keys=True)
