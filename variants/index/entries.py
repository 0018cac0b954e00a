"""From a wheel to its line of the ledger; wheels that no index may list are refused."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from .. import matrix
from ..choice import metadata
from ..errors import WheelError
from ..steps import promise, verify
from ..steps.assemble import CORE
from ..wheel import archive, budget, records
from .ledger import Ledger, Line


def line(path: Path, ledger: Ledger, url: str, date: str, sha256: str, source: str | None = None) -> Line:
    """The line of the wheel at `path`, whose texts go into `ledger`. `url`, `date`, `sha256`, `source`: as in :class:`Line`.

    Raises:
        WheelError: it is no wheel, or one that installers would refuse; or it was built for tests.
    """
    label = archive.split_label(path.name)[1]
    if label is not None and (why := archive.label_mistake(label)):
        raise WheelError(f'{path}: "{label}" is no variant label: {why}.', "Remove the file, or label it again.")
    name, version, *_ = archive.parse_name(archive.plain_path(path))
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
    for text in header.get_all("Requires-Dist", []):
        _check_requirement(path, text)
    return Line(
        name=path.name,
        url=url,
        size=path.stat().st_size,
        sha256=sha256,
        date=date,
        requires_python=header["Requires-Python"],
        metadata=ledger.keep(content),
        variant=ledger.keep(variant.encode()) if variant is not None else None,
        source=source,
        runs=records.runs(path, sha256),
    )


def requires(content: bytes) -> list[str]:
    """The requirements in a METADATA file that belong to no extra (PEP 508 marker ``extra == "…"``)."""
    header = archive.headers(content)
    return [text for text in header.get_all("Requires-Dist", []) if "extra ==" not in str(Requirement(text).marker)]


def _check_requirement(path: Path, requirement: str) -> None:
    try:
        Requirement(requirement)
    except InvalidRequirement as error:  # installers would stop there
        raise WheelError(
            f"{path}: METADATA has a requirement that is none: {requirement}.", "Build the wheel again, or remove it."
        ) from error


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
