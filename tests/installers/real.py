"""The real wheels that dist/ holds, for tests that install them from an index."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest

from tests.installers.tools import ROOT, publish, stand_in
from variants import matrix
from variants.choice import listing
from variants.steps import label
from variants.steps.assemble import CORE
from variants.upstream import source
from variants.wheel import archive

DIST = ROOT / "dist"
VERSION = source.read_pin().version


def for_everybody(path: Path) -> bool:
    """Is this a wheel of ours, and not one for its builder's own GPU (`--arch`), which has no place in an index?"""
    name, *_, tags = archive.parse_name(archive.plain_path(path))
    variant = matrix.labelled(archive.split_label(path.name)[1])
    if name != listing.PROJECT or variant is None:
        return False
    described = archive.contents(path).get(matrix.DESCRIPTION)
    return matrix.as_built(variant, described, [tag.platform for tag in tags]) is variant


REAL = [path for path in sorted(DIST.glob("*.whl")) if for_everybody(path)]
NEEDS_REAL = pytest.mark.skipif(not REAL, reason="dist/ has no wheel: `nox -s build_variant -- cpu` makes one")


def offer(folder: Path) -> tuple[Path, Path]:
    """dist/ and site/ in `folder`: the real wheels, and the plain one with each label (without CUDA's packages: 400 MB each)."""
    dist = folder / "dist"
    dist.mkdir()
    for path in REAL:
        shutil.copy(path, dist)
    for path in REAL:
        if archive.split_label(path.name)[1] is None:
            for variant in matrix.load().values():
                labelled = dist / f"{path.stem}-{variant.label}.whl"
                there = {platform.name for platform in archive.platforms_of(path)} <= set(variant.published)
                if variant.label and there and not labelled.exists():
                    bare = msgspec.structs.replace(variant, table=msgspec.structs.replace(variant.table, runtime=matrix.Runtime()))
                    labelled_with(path, bare, dist)
    publish(dist, folder / "site")
    return dist, folder / "site"


def labelled_with(plain: Path, variant: matrix.Variant, dist: Path) -> None:
    """The real wheel with a label, and with a plugin of its core that cannot be loaded."""
    (platform,) = {known.name for known in archive.platforms_of(plain)}
    files = archive.contents(plain)
    extra = stand_in(variant, platform, str(json.loads(files[CORE])["fingerprint"]))
    with tempfile.TemporaryDirectory() as folder:
        archive.write(Path(folder) / plain.name, extra | files, 1_700_000_000)
        label.label(Path(folder) / plain.name, variant, dist)
