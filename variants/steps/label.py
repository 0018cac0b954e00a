"""Label a repaired wheel as a variant (PEP 825), and take the label off again. Comes last: no repair tool reads labelled names."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.version import Version

from ..choice import metadata
from ..errors import WheelError
from ..matrix import DESCRIPTION, Variant, as_built
from ..platforms import of_tag
from ..wheel import archive
from . import promise

_FILE = "variant.json"


def label(wheel: Path, variant: Variant, target_dir: Path) -> Path:
    """Write `wheel` into `target_dir` with the label, properties and own requirements of `variant`, and return its path.

    Changes the file name, ``variant.json``, METADATA (only where the variant has requirements) and RECORD, and nothing else.

    Raises:
        WheelError: the wheel is labelled already, is none of ours, for a platform where the variant does not exist, or without
            what the label stands for; the variant is the plain wheel; variantlib or uv would refuse the metadata.
    """
    has = archive.split_label(wheel.name)[1]
    if has is not None:
        raise WheelError(
            f'{wheel} has the label "{has}" already.', "Label the plain wheel, or take the label off: `python -m variants unlabel`."
        )
    name, _, _, tags = archive.parse_name(wheel)
    if name != "llama-cpp-python":
        raise WheelError(f"{wheel} is a wheel of {name}, not ours.", "Give a wheel of llama-cpp-python.")
    if variant.label is None:
        raise WheelError(
            f"{variant.name} is the plain wheel, which has no label.", f"Name a variant with a label; see {variant.file}."
        )
    platforms = {known.name if (known := of_tag(tag.platform)) else tag.platform for tag in tags}
    if not platforms <= set(variant.table.platforms):
        raise WheelError(
            f"{wheel} is for {', '.join(sorted(tag.platform for tag in tags))}, where {variant.name} does not exist.",
            f"{variant.file} names {', '.join(variant.table.platforms)}.",
        )
    if why := promise.broken(wheel, variant):
        raise WheelError(f"{wheel} {why}.", f"Give the wheel that was built as {variant.name}: a label adds nothing to a wheel.")
    with archive.open_wheel(wheel) as opened:
        described = opened.read(DESCRIPTION) if DESCRIPTION in opened.namelist() else None
        info = archive.dist_info(opened)
        if f"{info}/{_FILE}" in opened.namelist():
            raise WheelError(f"{wheel} has a {_FILE} already, but no label in its name.", "Build it again.")
        try:
            header = opened.read(f"{info}/METADATA")
        except KeyError as error:
            raise WheelError(f"{wheel} has no METADATA.", "Build it again.") from error
    try:
        built = as_built(variant, described, platforms)
        content = metadata.to_bytes(metadata.dist_info(variant.label, built.properties))
        metadata.read_wheel(content, variant.label)
    except ValueError as error:
        raise WheelError(
            f"{variant.file} and pyproject.toml give metadata that installers refuse: {error}.",
            "Correct [variant] of pyproject.toml.",
        ) from error
    changed = {f"{info}/{_FILE}": content}
    if variant.table.runtime.requires:
        changed[f"{info}/METADATA"] = _with_requirements(header, variant.table.runtime.requires)
    target = target_dir / f"{wheel.stem}-{variant.label}.whl"
    archive.rewrite(wheel, target, changed)
    return target


def unlabel(wheel: Path, target_dir: Path, local: bool = False) -> Path:
    """Write the labelled `wheel` into `target_dir` as a plain one, and return its path.

    With `local`, its version gets the label as local version (``0.3.36+vulkan``), as indexes of one backend have it.

    Raises:
        WheelError: it has no label, or its name and its ``variant.json`` disagree.
    """
    plain, found = archive.split_label(wheel.name)
    if found is None:
        raise WheelError(f"{wheel} has no label.", "Nothing is to be taken off.")
    with archive.open_wheel(wheel) as opened:
        info = archive.dist_info(opened)
        try:
            metadata.read_wheel(opened.read(f"{info}/{_FILE}"), found)
        except (KeyError, ValueError) as error:
            raise WheelError(f"{wheel}: its {_FILE} does not go with its name ({error}).", "Build it again.") from error
        if not local:
            archive.rewrite(wheel, target_dir / plain, {}, frozenset({f"{info}/{_FILE}"}))
            return target_dir / plain
        inside = {name: opened.read(name) for name in opened.files() if name.startswith(f"{info}/")}
    if f"{info}/METADATA" not in inside:
        raise WheelError(f"{wheel} has no METADATA.", "Build it again.")
    target = target_dir / local_name(wheel.name)
    distribution, new_version, *_ = target.name.split("-")
    new_info = f"{distribution}-{new_version}.dist-info"
    header = re.sub(rb"(?m)^Version: .*$", b"Version: " + new_version.encode(), inside[f"{info}/METADATA"], count=1)
    inside[f"{info}/METADATA"] = header
    moved = {
        new_info + name.removeprefix(info): content
        for name, content in inside.items()
        if not name.endswith((f"/{_FILE}", "/RECORD"))
    }
    archive.rewrite(wheel, target, moved, frozenset(inside), new_info)
    return target


def local_name(name: str) -> str:
    """A labelled wheel's file name with the label moved into the version, as a local version (PEP 440): ``0.3.36+vulkan``."""
    plain, found = archive.split_label(name)
    archive.parse_name(Path(plain))
    distribution, version, *rest = plain.split("-")
    return "-".join([distribution, str(Version(f"{version}+{archive.local_version(found or '')}")), *rest])


def _with_requirements(header: bytes, requirements: list[str]) -> bytes:
    """METADATA with these requirements after the ones that it has (PEP 566: one ``Requires-Dist`` line each)."""
    head, separator, body = header.partition(b"\n\n")
    lines = head.split(b"\n")
    added = [f"Requires-Dist: {requirement}".encode() for requirement in requirements]
    last = max(
        (i for i, line in enumerate(lines) if line.startswith(b"Requires-Dist:") and b"extra ==" not in line),
        default=len(lines) - 1,
    )
    return b"\n".join([*lines[: last + 1], *added, *lines[last + 1 :]]) + separator + body
