"""Every member that a wheel of ours may have, and its bytes as RECORD and upstream have them. Whatever else is in it is refused."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..matrix import DESCRIPTION
from ..terminal.console import console
from ..upstream import source
from ..upstream.source import Upstream
from ..wheel import archive
from . import assemble
from .assemble import CORE
from .inspected import Finding, Wheel

#: Upstream's, where nothing tells their names.
_MODULE = re.compile(r"llama_cpp/(?:[a-z_][a-z0-9_]*/)*(?:[a-z_][a-z0-9_]*\.py|py\.typed)")
_LICENCE = re.compile(r"(?i)(?:[\w.+-]+/)*[\w.+-]*(?:licen[cs]e|copying|copyright|notice)[\w.+-]*")


def record(wheel: Wheel) -> Iterator[Finding]:
    """RECORD lists every file with its true hash and size (PEP 376, PEP 427)."""
    remedy = "The file was changed after it was built: build it again."
    listed = f"{wheel.info}/RECORD"
    try:
        rows = archive.record(wheel.texts[listed])
    except (KeyError, ValueError) as error:
        yield Finding(wheel.path.name, f"RECORD cannot be read ({error})", remedy)
        return
    seen = set()
    for name, digest, size in rows:
        file = wheel.files.get(name)
        if name in seen or file is None:
            yield Finding(wheel.path.name, f"RECORD mentions {name} {'twice' if file else 'and the wheel has none'}", remedy)
        elif name == listed:
            if digest or size:
                yield Finding(wheel.path.name, "RECORD has a hash of itself", remedy)
        elif (digest, size) != (archive.digest(file.sha256), str(file.size)):
            yield Finding(wheel.path.name, f"{name} has another hash or size than RECORD says", remedy)
        seen.add(name)
    for name in wheel.files:
        if name not in seen:
            yield Finding(wheel.path.name, f"{name} is not mentioned in RECORD", remedy)


def members(wheel: Wheel) -> Iterator[Finding]:
    """Upstream's package and our own modules, the two descriptions beside the libraries, and dist-info with no entry points but
    those of core.toml. (Libraries: :func:`.verify.promised_plugins`.)"""
    version = wheel.header("METADATA")["Version"]
    known = assemble.known_core()
    package = {*known.package, *known.ours} if version == known.release else None
    for name in wheel.files:
        inside = name.removeprefix(f"{wheel.info}/")
        if inside == "entry_points.txt":
            if entry_points(wheel.texts[name]) != known.entry_points:
                remedy = "See what they are for, then write them into variants/steps/core.toml, or find out who put them there."
                yield Finding(name, "has entry points that nobody has looked at", remedy)
        elif inside != name:
            if not _in_dist_info(inside, archive.split_label(wheel.path.name)[1] is not None):
                yield Finding(name, "has no place in dist-info", "No wheel of ours has it: find out who put it there.")
        elif name in wheel.libraries or name in wheel.damaged or name in (CORE, DESCRIPTION, *known.ours):
            continue
        elif not (name in package if package else _MODULE.fullmatch(name)):
            yield Finding(name, "is no file of upstream's package, and none of ours", "Find out who put it there.")


def entry_points(text: bytes) -> dict[str, dict[str, str]] | None:
    """The entry points by group and name, as entry_points.txt spells them; None where it cannot be read."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text.decode())
    except (ValueError, configparser.Error):
        return None
    return {group: dict(parser[group]) for group in parser.sections()}


def _in_dist_info(name: str, labelled: bool) -> bool:
    if name in ("METADATA", "WHEEL", "RECORD") or (name == "variant.json" and labelled):
        return True
    folder, _, rest = name.partition("/")
    return bool(_LICENCE.fullmatch(rest) if folder == "licenses" else folder == "sboms" and re.fullmatch(r"[\w.-]+\.json", rest))


def requirements(wheel: Wheel, upstream: Upstream | None) -> Iterator[Finding]:
    """METADATA requires what upstream does, and what the matrix names for the label; nothing else."""
    header = wheel.header("METADATA")
    own = wheel.variant.table.runtime.requires if wheel.variant else []
    known = assemble.known_core()
    expected: Iterable[str] | None = known.requires if header["Version"] == known.release else None
    if upstream and header["Version"] == upstream.version and (upstream.tree / "PKG-INFO").is_file():
        expected = archive.headers((upstream.tree / "PKG-INFO").read_bytes()).get_all("Requires-Dist") or []
    allowed = {_canonical(text) for text in (*(expected or ()), *own)}
    seen = set()
    for text in header.get_all("Requires-Dist") or []:
        try:
            seen.add(_canonical(text))
            strange = _canonical(text) not in allowed if expected is not None else bool(Requirement(text).url)
        except InvalidRequirement:
            strange = True
        if strange:
            fact = f"requires {text}, which neither upstream nor the matrix names"
            yield Finding(f"{wheel.info}/METADATA", fact, "Find out who added it.")
    for text in sorted(allowed - seen) if expected is not None else ():
        yield Finding(f"{wheel.info}/METADATA", f"does not require {text}", "Build the wheel again.")


def _canonical(text: str) -> str:
    """A requirement as two of them are compared."""
    found = Requirement(text)
    found.name = canonicalize_name(found.name)
    return str(found)


def missing_files(wheel: Wheel, upstream: Upstream) -> Iterator[Finding]:
    """No file of upstream's package is missing or added, and none differs but ``__init__.py`` by its one line."""
    if wheel.header("METADATA")["Version"] != upstream.version:
        console.print(f"{wheel.path.name}: not of the pinned version {upstream.version}, so not compared with upstream's files")
        return
    theirs = {str(path) for path in source.package_files(upstream.tree)}
    for name in sorted(theirs):
        path = upstream.tree / name
        ours = wheel.files.get(name)
        if ours is None:
            yield Finding(wheel.path.name, f"lacks upstream's {name}", "Build the wheel again.")
        elif name == "llama_cpp/__init__.py":
            first, _, rest = wheel.texts[name].partition(b"\n")
            if rest != path.read_bytes().removeprefix(first + b"\n") or b"_backends" not in first:
                yield Finding(name, "is not upstream's with our import before it", "Build the wheel again.")
        elif ours.sha256.hex() != archive.sha256(path):
            yield Finding(name, "differs from upstream's", "Build the wheel again.")
    for name in sorted({name for name in wheel.files if _MODULE.fullmatch(name)} - theirs - {*assemble.known_core().ours}):
        yield Finding(name, "is no file of upstream's", "Find out who put it there.")
