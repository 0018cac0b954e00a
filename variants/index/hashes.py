"""SHA-256 of wheels, remembered: a cache whose loss costs time alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from ..terminal import disk
from ..wheel import archive


class _Known(msgspec.Struct, array_like=True):
    """A file as it was when it was hashed: size in bytes, times in nanoseconds, number on its disk; and the hash."""

    size: int
    changed: int
    written: int
    inode: int
    sha256: str


class Hashes:
    """Hashes by path. A file is hashed again when its size, its inode or one of its times has changed; nobody can set `ctime`
    back."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: dict[str, _Known] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._known = msgspec.json.decode(file.read_bytes(), type=dict[str, _Known])

    def sha256(self, path: Path) -> str:
        """SHA-256 of the file at `path`, in hexadecimal."""
        stat = path.stat()
        known = self._known.get(key := os.path.abspath(path))
        now = (stat.st_size, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_ino)
        if known is None or (known.size, known.changed, known.written, known.inode) != now:
            known = self._known[key] = _Known(*now, archive.sha256(path))
        return known.sha256

    def write(self) -> None:
        """Remember what was hashed of files that are still there."""
        self._known = {path: known for path, known in self._known.items() if os.path.exists(path)}
        with disk.replacing(self.file) as part:
            part.write_bytes(msgspec.json.encode(self._known))
