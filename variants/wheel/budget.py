"""How much is read of a file that somebody sends: every number with its reason, and the readers that keep to them.

Whoever sends a wheel, a page or a TOML file decides how long it is, how deep, and what it unpacks to. All of that is looked at
before it is read. What this refuses is a ValueError; each caller says in its own error which file it was and what helps.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

#: Bytes of one text: METADATA, RECORD, JSON, TOML, a module. The longest in a wheel of today has 0.2 MB.
TEXT = 4_000_000
#: Bytes of the reason why a wheel is yanked, which every reader of the index gets.
NOTE = 10_000
#: Bytes of an index page: one of 10,000 files has 5 MB.
PAGE = 16_000_000
#: Levels of lists and tables in each other. Ours have 6, a bill of materials about 10.
DEPTH = 64
#: Members of a wheel. Ours have about 80.
MEMBERS = 10_000
#: Characters of a member's name, and of a wheel's: no system takes a longer file name. Ours have up to 110.
NAME = 240
#: Bytes that a wheel unpacks to, all members together. The largest that an index takes is 5 GB, and deflates about 2:1.
UNPACKED = 20_000_000_000
#: What a wheel unpacks to for each of its bytes, beyond the first `FREE` bytes. GPU code deflates up to 10:1, a bomb 1000:1.
RATIO = 25
FREE = 64_000_000
#: Tags in one file name, all combinations: ``py2.py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64`` has 4.
TAGS = 64
#: Bytes that a library's tables may be long together, and pieces that they are read in. ggml's largest takes 2 MB in 5,000 pieces.
TABLES = 64_000_000
TABLE_READS = 400_000
#: Properties (PEP 825) of one file, and labels. The matrix has 5 labels with up to 20.
PROPERTIES = 5_000
LABELS = 200
#: Files on an index page. One of a thousand versions with ten labels has 10,000.
FILES = 20_000
#: Seconds for all that is fetched of one index, and redirects on the way.
FETCH_SECONDS = 8.0
REDIRECTS = 5

_T = TypeVar("_T")


class RefusedError(ValueError):
    """More than is read, or no file of the kind that is read."""


def opened(path: Path) -> io.BufferedReader:
    """A regular file, opened for reading. A FIFO or a device is refused, not waited for.

    Raises:
        RefusedError: it is something else.
        OSError: it cannot be opened.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
    if not stat.S_ISREG(path.stat().st_mode):  # before: to open one may do something
        raise RefusedError("it is no regular file")
    stream = io.open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))  # noqa: SIM115, UP020
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # it was replaced meanwhile
        stream.close()
        raise RefusedError("it is no regular file")
    return stream


def read(path: Path, limit: int = TEXT) -> bytes:
    """A small regular file.

    Raises:
        RefusedError: it is something else, or longer than `limit` bytes.
        OSError: it cannot be read.
    """
    with opened(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise RefusedError(f"it is longer than {limit / 1e6:g} MB")
    return content


def text(path: Path, limit: int = TEXT) -> str:
    """A small regular file of UTF-8.

    Raises:
        ValueError: it is something else, too long, or not UTF-8.
        OSError: it cannot be read.
    """
    return read(path, limit).decode()


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def json(content: bytes, kind: type[_T], limit: int = TEXT) -> _T:
    """JSON of this kind.

    Raises:
        ValueError: it is too long or too deep, or is no such JSON; says where.
    """
    if len(content) > limit:
        raise RefusedError(f"it is longer than {limit / 1e6:g} MB")
    brackets = _STRING.sub(b"", content).translate(_BRACKETS, _OTHERS)
    for _ in range(DEPTH):  # the innermost ones are taken away
        brackets = brackets.replace(b"()", b"")
    if b"()" in brackets or len(brackets) > DEPTH:
        raise RefusedError(f"it has more than {DEPTH} lists and objects in each other")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def toml(path: Path, kind: Any) -> Any:
    """A TOML file of this kind.

    Raises:
        ValueError: it is no regular file, too long or too deep, or no such TOML; says where.
        OSError: it cannot be read.
    """
    try:
        return msgspec.convert(tomllib.loads(text(path)), kind)
    except RecursionError as error:
        raise RefusedError("it has too many lists and tables in each other") from error
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


class Metered(io.BytesIO):
    """A library's file for a parser that goes where the file sends it: so many bytes and so many pieces, and no more."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self.stream = stream
        self.bytes = self.reads = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def read(self, size: int | None = -1) -> bytes:
        """As every file's.

        Raises:
            RefusedError: that is more than any library needs.
        """
        self.reads += 1
        if size is None or size < 0 or size > TABLES - self.bytes or self.reads > TABLE_READS:
            raise RefusedError("its tables are longer than any library's")
        content = self.stream.read(size)
        self.bytes += len(content)
        return content
