"""A finished wheel, read once from its first byte to its last, a piece at a time: what `verify` asks of its files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import tempfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import BinaryIO

import msgspec

from .. import matrix, platforms
from ..matrix import DESCRIPTION, Variant
from ..platforms import PLATFORMS, Platform
from ..upstream import source
from ..wheel import archive, binary, budget
from .assemble import CORE

# Folders in which people and services build. An absolute path below one of them has no business in a library.
_BUILD_PATH = re.compile(rb"/(?:home|root|Users|builds?|runner|workspace|private|var/folders)/[\w.+-]+/[\x21-\x7e]*")
_OVERLAP = 1024  # bytes of one piece that are looked at again with the next: no path that a system takes in a name is longer
#: The texts that checks read, besides those of dist-info.
_TEXTS = (CORE, DESCRIPTION, "llama_cpp/__init__.py")


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: the file (in the wheel, or the wheel), the fact, and what to do."""

    file: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.fact}. {self.remedy}"


class File(msgspec.Struct, frozen=True):
    """A file of a wheel: its size in bytes, and its SHA-256."""

    size: int
    sha256: bytes


class Wheel(msgspec.Struct, frozen=True, dict=True):
    """A wheel: its path, its files, the name of its dist-info folder, the texts that checks read, its libraries, why one is none,
    and the paths of other machines in them. `bill`: a bill of materials names llama.cpp."""

    path: Path
    files: dict[str, File]
    info: str
    texts: dict[str, bytes]
    libraries: dict[str, binary.Library] = {}
    damaged: dict[str, str] = {}
    build_paths: dict[str, str] = {}
    bill: bool = False

    @property
    def plain(self) -> Path:
        """The path without the variant label, which no tool but the installers can read yet."""
        return archive.plain_path(self.path)

    @contextlib.contextmanager
    def as_plain(self) -> Iterator[Path]:
        """The very file under its plain name, for those tools."""
        if self.plain == self.path:
            yield self.path
        else:
            with tempfile.TemporaryDirectory() as folder:
                link = Path(folder) / self.plain.name
                link.symlink_to(self.path.resolve())
                yield link

    @property
    def platform(self) -> Platform:
        """The platform of its tags; of several or an unknown one, Linux x86-64's rules apply."""
        *_, tags = archive.parse_name(self.plain)
        known = [platform for tag in tags if (platform := platforms.of_tag(tag.platform))]
        return known[0] if known else PLATFORMS["linux_x86_64"]

    @functools.cached_property
    def variant(self) -> Variant | None:
        """The variant of the matrix that has its label."""
        return matrix.labelled(archive.split_label(self.path.name)[1], self.platform.name)

    @property
    def plugin_file(self) -> str | None:
        """The name in the wheel of the GPU plugin that the matrix gives to this label."""
        plugin = self.variant.table.plugin if self.variant else None
        return f"llama_cpp/lib/{self.platform.plugin(plugin)}" if plugin else None

    def plugin(self) -> dict[str, object]:
        """What plugin.json says of the plugin, or nothing where the wheel has none.

        Raises:
            ValueError: it is no JSON object.
        """
        content = self.texts.get(DESCRIPTION)
        return budget.json(content, dict[str, object]) if content is not None else {}

    def header(self, name: str) -> Message:
        """METADATA or WHEEL as a message; empty where it is missing or damaged (:func:`.verify.names` says so)."""
        try:
            return archive.headers(self.texts.get(f"{self.info}/{name}", b""))
        except ValueError:
            return Message()


def read(path: Path) -> Wheel:
    """A wheel with its libraries: every file is read once, and one library at a time is on disk.

    Raises:
        WheelError: it cannot be read as a wheel at all.
    """
    archive.parse_name(archive.plain_path(path))
    with archive.open_wheel(path) as opened:
        info = archive.dist_info(opened)
        wheel = Wheel(path, {}, info, {}, {}, {}, {})
        texts = {*_TEXTS, *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "variant.json"))}
        bill = False
        for name, member in opened.files().items():
            if name in texts:
                content = wheel.texts[name] = opened.read(name)
                wheel.files[name] = File(len(content), hashlib.sha256(content).digest())
            elif name.startswith(f"{info}/sboms/") and name.endswith(".json"):
                content = opened.read(name)
                bill = bill or b'"llama.cpp"' in content
                wheel.files[name] = File(len(content), hashlib.sha256(content).digest())
            else:
                _read_file(wheel, name, opened.getinfo(name).file_size, member)
    return msgspec.structs.replace(wheel, bill=bill)


def _read_file(wheel: Wheel, name: str, size: int, member: archive.Source) -> None:
    """Hash a file, and look into it if it is a library."""
    found = hashlib.sha256()
    path: str | None = None
    before = b""
    library: BinaryIO | None = None
    with contextlib.ExitStack() as stack:
        for piece in archive.pieces(member):
            if not before and binary.is_library(piece):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                library = stack.enter_context((Path(folder) / "library").open("w+b"))
            found.update(piece)
            if library:
                library.write(piece)
                path = path or _build_path(before + piece)
            before = piece[-_OVERLAP:]
        if library:
            library.flush()
            try:
                wheel.libraries[name] = binary.read(Path(library.name))
            except ValueError as error:
                wheel.damaged[name] = str(error)
    if path:
        wheel.build_paths[name] = path
    wheel.files[name] = File(size, found.digest())


def _build_path(content: bytes) -> str | None:
    """A path of the machine that built it, as far as it fits a line."""
    here = str(source.ROOT).encode()
    match = _BUILD_PATH.search(content)
    found = here if here in content else match[0] if match else None
    return found[:80].decode("ascii", "replace") if found else None
