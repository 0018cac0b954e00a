"""Packages of Debian, fetched with the machine's apt and unpacked into a folder: nothing is installed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import ToolchainError
from ..terminal import disk, process


def program(name: str, package: str) -> str:
    """Path of a program of this machine.

    Raises:
        ToolchainError: it is not there; names its package.
    """
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(f"There is no {name} on PATH.", f"Install it (Debian, Ubuntu: `apt-get install {package}`).")
    return found


def fetch(packages: Sequence[str], architecture: str, folder: Path, log: Path, suite: str | None = None) -> list[Path]:
    """Fetch Debian packages and what they depend on, with the machine's apt sources, into a state of its own.

    `suite`: another release of Debian than this machine's (``bullseye``), from the same archive.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    options = [f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", f"Dir::State={folder / 'state'}",
               f"Dir::State::status={folder / 'state' / 'status'}", f"Dir::Cache={folder / 'cache'}"]  # fmt: skip
    if suite:
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archive()} {suite} main\n")
        options += [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", "Acquire::Check-Valid-Until=false"]
    apt = [program("apt-get", "apt"), *(word for option in options for word in ("-o", option))]
    remedy = "This takes a Debian or Ubuntu whose archive has that architecture."
    process.command([*apt, "update"], log=log, remedy=remedy)
    process.command([*apt, "--yes", "--no-install-recommends", "--download-only", "install", *packages], log=log, remedy=remedy)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def archive() -> str:
    """Address of Debian's archive, as the machine's apt sources have it.

    Raises:
        ToolchainError: they name none.
    """
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    texts = [file.read_text(encoding="utf-8") for file in files if file.suffix in (".list", ".sources") and file.is_file()]
    found = re.search(r"(?m)^(?:deb (?:\[.*?\] )?|URIs: *)(\S+)", "\n".join(texts))
    if not found:
        raise ToolchainError("apt knows no archive.", "This takes a Debian with its archive in /etc/apt.")
    return found[1]


def unpack(packages: Sequence[Path], root: Path, log: Path) -> None:
    """Unpack Debian packages into a folder: nothing is installed."""
    for package in packages:
        process.command([program("dpkg-deb", "dpkg"), "-x", package, root], log=log)


def sources(packages: Sequence[str], folder: Path, log: Path) -> dict[str, Path]:
    """Fetch the upstream archives of Debian source packages, by name, with the machine's apt sources."""
    lists, target = folder / "sources.d", folder / "archives"
    disk.remove(lists)  # of an earlier run
    for path in (lists, target, folder / "state/lists/partial", folder / "cache/archives/partial"):
        path.mkdir(parents=True, exist_ok=True)
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if file.suffix in (".list", ".sources") and file.is_file():
            text = file.read_text(encoding="utf-8")
            text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", re.sub(r"(?m)^deb ", "deb-src ", text))
            (lists / file.name).write_text(text)
    options = ["Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={lists}", f"Dir::State={folder / 'state'}",
               f"Dir::Cache={folder / 'cache'}"]  # fmt: skip
    apt = [program("apt-get", "apt"), *(word for option in options for word in ("-o", option))]
    process.command([*apt, "update"], log=log, remedy="This takes a Debian with its source packages.")
    # Some mirrors lack Debian's own patches; upstream's archive is all that is wanted.
    process.command([*apt, "--download-only", "source", *packages], log=log, cwd=target, check=False)
    found = {}
    for package in packages:
        archives = sorted(target.glob(f"{package}_*.orig.tar.*"))
        if not archives:
            raise ToolchainError(
                f"The source of {package} could not be fetched from Debian's archive.", f"See {log}; is there a deb-src mirror?"
            )
        found[package] = archives[0]
    return found
