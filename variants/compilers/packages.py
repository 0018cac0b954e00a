"""Toolkits assembled from the package index: hash-pinned packages in a folder of the user's cache, made once for every checkout.

The folder's path depends on the packages alone, so that a compiler cache hits again (ccache looks at the compiler's file).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import platformdirs
from filelock import FileLock

from ..terminal import disk, process

CACHE_VARIABLE = "LLAMA_CPP_VARIANTS_CACHE"


class Packages(msgspec.Struct, frozen=True):
    """The packages of a requirement file (name -> version) and the `folder` where they are, or will be."""

    pins: Path
    versions: dict[str, str]
    folder: Path

    @property
    def there(self) -> bool:
        return self.folder.is_dir()


def cache() -> Path:
    """Where assembled toolkits are kept: ``LLAMA_CPP_VARIANTS_CACHE``, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("llama-cpp-variants")).absolute()


def read(pins: Path, rules: int) -> Packages:
    """The packages of the requirement file `pins`, which has a hash for each platform's file (`nox -s pins`).

    `rules`: number of the recipe that makes the folder, so that a new recipe makes a new one. A folder of the same name beside the
    file holds programs of ours that go into it.
    """
    versions = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", pins.read_text(encoding="utf-8")))
    return Packages(pins, versions, folder_of(pins, rules))


def folder_of(pins: Path, rules: object) -> Path:
    """Where the toolkit goes that is made of what `pins` names, by `rules`, with the files of ours in the folder beside it."""
    digest = hashlib.sha256(f"{rules}\n{pins.read_text(encoding='utf-8')}".encode())
    for file in sorted(pins.with_suffix("").rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return cache() / f"{pins.stem}-{digest.hexdigest()[:8]}"


def make(folder: Path, fill: Callable[[Path], object]) -> Path:
    """The folder, made and filled by `fill` if it is not there yet.

    Everything happens beside the final folder, which is renamed into its place at the end: what is interrupted leaves nothing that
    looks complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(folder.name + ".lock")
    with FileLock(file):  # another checkout may be at it
        if not folder.is_dir():
            disk.remove_leftovers(disk.Lock(file), folder.parent, folder.name)
            with disk.replacing(folder) as part:
                part.mkdir()
                fill(part)
    return folder


def install(packages: Packages, finish: Callable[[Path, Path, Path], None], log: Path, files_for: Sequence[str] = ()) -> Path:
    """Fetch the packages if they are not there yet, let `finish` make the folder of them, and return it.

    `finish` gets the packages' site-packages, the prefix that this is part of (where their programs and data are), and the folder
    to fill, into which it may move things. `files_for`: pip's options for the files of another Python or platform than this one.

    Raises:
        CommandError: pip cannot fetch them, or a file has another hash than the pinned one.
    """

    def fill(part: Path) -> None:
        prefix = part / "prefix"
        site = prefix / "lib" / "python3" / "site-packages"
        where: list[str | Path] = ["--target", site, *files_for] if files_for else ["--ignore-installed", "--prefix", prefix]
        process.command(
            [
                sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:",
                "--no-compile", "--progress-bar", "raw", "--disable-pip-version-check", *where,
                "--requirement", packages.pins,
            ],
            log=log,
            env=process.environment(),
            remedy="Is the package index reachable, and room for 2 GB on the disk? Nothing unfinished was kept: run the same\n"
            "command again, or name a toolkit of this machine with --toolkit (see `python -m variants build --help`).",
        )  # fmt: skip
        site, *others = prefix.glob("lib*/python*/site-packages")  # some systems have two, for pure packages and the others
        for other in others:
            shutil.copytree(other, site, dirs_exist_ok=True)
        finish(site, prefix, part)
        disk.remove(prefix)

    return make(packages.folder, fill)
