"""Publish the wheels in ``dist/``: enter them in the ledger, and bring the site in line with it."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from variantlib.errors import ValidationError
from variantlib.models.variant import VariantDescription
from variantlib.variants_json import VariantsJson

from ..choice import metadata
from ..errors import LedgerError, UsageError, WheelError
from ..steps import label as labels
from ..terminal import disk
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import entries, ledger, site
from .hashes import Hashes
from .ledger import Ledger, Line

#: Ignored by git here: it is for trying out. The one of a project is kept on a branch of its own (docs/publishing.md).
LEDGER = ROOT / "published.jsonl"
_HASHES = ROOT / "build" / "hashes.json"


class Options(msgspec.Struct, frozen=True):
    """`base_url`: where the new wheels lie (or will lie), instead of being copied into the site. `site_url`: where the site
    will be, for the commands on its front page. `allow_no_fallback`: list a version that has labelled wheels alone, which
    installers that know no labels then cannot install."""

    base_url: str | None = None
    site_url: str = "http://127.0.0.1:8000/"
    allow_no_fallback: bool = False


class Published(msgspec.Struct, frozen=True):
    """What ``simple/`` lists, and the files that this run has entered: those that lie elsewhere are to be uploaded."""

    listed: list[Line]
    new: list[Path]


def publish(dist: Path, folder: Path, file: Path, options: Options | None = None) -> Published:
    """Enter what is new in `dist` in the ledger `file`, and bring the site in `folder` in line with it.

    A labelled wheel is entered a second time with a local version (PEP 440), made in ``dist/backends/LABEL/``. Waits for other runs
    that write the same ledger or site.

    Raises:
        UsageError: there is no wheel, nor any in the ledger; an address is none. LedgerError: the ledger cannot be read; a
        wheel has the name of a published file and other bytes. WheelError: a file is not a wheel, or one that installers would
        refuse; a label stands for two sets of properties, or two labels
            for one; a version has no plain wheel.
        DiskError: the site's folder holds a file that is not ours.
    """
    options = options or Options()
    if options.base_url is not None:
        ledger.address(options.base_url)
    with disk.queued(file) as lock, disk.queued(folder) as site_lock:
        book = ledger.read(file)
        paths = sorted(dist.glob("*.whl"))
        if not paths and not book.wheels:
            raise UsageError(f"There is no wheel in {dist}, and none in {file}.", "Build one: `nox -s build_variant -- cpu`.")
        hashes = Hashes(_HASHES)
        sources = {path.name: path for path in paths}
        new = _enter(book, paths, hashes, options.base_url)
        new += _enter_local(lock, book, dist, paths, sources, hashes, options.base_url)
        _check_fallback(book, options)
        _enter_merged(book)
        book.write(lock)
        listed = site.publish(site_lock, book, folder, sources, options.site_url, hashes)
        hashes.write()
    return Published(listed, new)


def _enter(book: Ledger, paths: Sequence[Path], hashes: Hashes, base_url: str | None) -> list[Path]:
    """Enter the wheels that the ledger does not have, and what has run where of those that it has; return the new ones.

    Raises:
        LedgerError: one has other bytes than the published file of its name.
    """
    for path in paths:
        if not path.is_file():
            raise WheelError(f"{path} cannot be read: it is no regular file.", "Move it away: `index` takes every *.whl there.")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter's lock
        digests = list(pool.map(hashes.sha256, paths))
    new = []
    date = ledger.now()
    for path, sha256 in zip(paths, digests, strict=True):
        known = book.wheels.get(path.name)
        if known is None:
            book.add(_line(path, book, date, sha256, base_url))
            new.append(path)
        else:
            _require_same(path, sha256, known, book)
            book.replace(msgspec.structs.replace(known, runs=sorted({*known.runs, *records.runs(path, sha256)})))
    return new


def yank(file: Path, name: str, reason: str | None) -> None:
    """Write into the ledger `file` why the published file `name` should not be taken any more (PEP 592); None takes it back.

    Raises:
        UsageError: it was never published.
    """
    with disk.queued(file) as lock:
        book = ledger.read(file)
        if name not in book.wheels:
            raise UsageError(f"{file} has no {name}.", "Give the name of a published file, as it stands there.")
        book.replace(msgspec.structs.replace(book.wheels[name], yanked=reason))
        book.write(lock)


def _line(path: Path, book: Ledger, date: str, sha256: str, base_url: str | None, source: str | None = None) -> Line:
    line = entries.line(path, book, "-", date, sha256, source)
    url = site.url_of(line) if base_url is None else f"{base_url.rstrip('/')}/{quote(path.name)}"
    return msgspec.structs.replace(line, url=url)


def _require_same(path: Path, sha256: str, known: Line, book: Ledger) -> None:
    size = path.stat().st_size
    if (size, sha256) != (known.size, known.sha256):
        raise LedgerError(
            f"{path} has {size} bytes and sha256 {sha256}; the published file of this name had {known.size} and {known.sha256}.",
            "A published file never changes, installers cache it by name: give the new one a build number (--build-number).\n"
            f"If nobody has installed from there yet, remove its line from {book.file}.",
        )


def _enter_local(
    lock: disk.Lock, book: Ledger, dist: Path, paths: Iterable[Path], sources: dict[str, Path], hashes: Hashes, base_url: str | None
) -> list[Path]:
    """Make each labelled wheel once more, with a plain name and a local version, in ``dist/backends/LABEL/``, and enter it.

    Raises:
        WheelError: a file of that name is there that is another.
        LedgerError: what is made is not the file that was published.
    """
    new = []
    date = ledger.now()
    labelled = [(path, label) for path in paths if (label := archive.split_label(path.name)[1])]
    for label in {label for _, label in labelled}:
        disk.remove_leftovers(lock, dist / "backends" / label)
    for path, label in labelled:
        name = labels.local_name(path.name)
        target = dist / "backends" / label / name
        known = book.wheels.get(name)
        if not (known and target.is_file() and hashes.sha256(target) == known.sha256):
            _make_local(path, target)
        sources[name] = target
        if known is None:
            book.add(_line(target, book, date, hashes.sha256(target), base_url, book.wheels[path.name].sha256))
            new.append(target)
        else:
            _require_same(target, hashes.sha256(target), known, book)
    return new


def _make_local(wheel: Path, target: Path) -> None:
    """Make the wheel with the local version beside `target`, and put it there unless another file is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=".tmp") as scratch:
        made = labels.unlabel(wheel, Path(scratch), local=True)
        if not target.exists():
            made.replace(target)
        elif archive.sha256(target) != archive.sha256(made):
            raise WheelError(f"{target} was not made from {wheel}.", "Move it away: `index` makes it again.")


def _check_fallback(book: Ledger, options: Options) -> None:
    """Raise a WheelError where a version has labelled wheels, and none that every installer takes."""
    if options.allow_no_fallback:
        return
    plain = {(line.project, line.version) for line in book.wheels.values() if line.label is None}
    for line in book.wheels.values():
        if line.label and (line.project, line.version) not in plain:
            raise WheelError(
                f"{line.project} {line.version} has labelled wheels, {line.name} for one, but no plain wheel.",
                "Build it (`nox -s build_variant -- cpu`), or pass --allow-no-fallback: pip then finds nothing.",
            )


def _enter_merged(book: Ledger) -> None:
    """Enter the ``*-variants.json`` of each version with labelled wheels (PEP 825), where it is another than the last one."""
    last = {line.name: line.sha256 for line in book.lines if not line.is_wheel}
    by_version: dict[tuple[str, str], list[Line]] = {}
    for line in book.wheels.values():
        if line.label:
            by_version.setdefault((line.project, line.version), []).append(line)
    made: dict[object, bytes] = {}  # most versions have the labels of another
    for (project, version), lines in sorted(by_version.items()):
        kind = frozenset((line.label, line.variant) for line in lines)
        content = made[kind] = made.get(kind) or metadata.to_bytes(_union(book, version, lines))
        name = f"{project.replace('-', '_')}-{version}{ledger.VARIANTS}"
        digest = book.keep(content)
        if last.get(name) != digest:
            line = Line(name=name, url="-", size=len(content), sha256=digest, date=ledger.now())
            book.add(msgspec.structs.replace(line, url=site.url_of(line)))


def _union(book: Ledger, version: str, lines: Sequence[Line]) -> VariantsJson:
    """The merged metadata of one version's labelled wheels.

    Raises:
        WheelError: naming both files that contradict each other.
    """
    union: VariantsJson | None = None
    first = lines[0]
    by_label: dict[str, tuple[Line, VariantDescription]] = {}
    seen: set[tuple[str, str]] = set()
    for line in lines:
        name, digest = str(line.label), str(line.variant)
        if (name, digest) in seen:  # the same text on another platform
            continue
        seen.add((name, digest))
        info = metadata.read_wheel(book.text(digest), name)
        for known, (other, description) in by_label.items():
            if (known == name) != (set(description.properties) == set(info.variant_desc.properties)):
                what = "the same label with other properties" if known == name else "the same properties under two labels"
                raise WheelError(
                    f"{other.name} and {line.name} have {what}.", "One of them is from another matrix: build it again."
                )
        by_label.setdefault(name, (line, info.variant_desc))
        try:
            if union is None:
                union, first = VariantsJson(info), line
            union.merge(info)
        except ValidationError as error:
            raise WheelError(
                f"{line.name} does not go with {first.name}, of the same version {version}: {error}.",
                "Its providers are from another pyproject.toml: build it again.",
            ) from error
    assert union is not None
    return union
