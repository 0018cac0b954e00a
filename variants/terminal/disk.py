"""Replace files, remove what we wrote, and hold this checkout's lock: nothing half-written is ever seen."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ..errors import BusyError, DiskError
from .console import console


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed onto `path` at the end, removed on any error or interruption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say where
        raise
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Is this the name of a file that :func:`replacing` writes to?"""
    return name.startswith(".") and name.endswith(".tmp")


class Lock(NamedTuple):
    """That a lock is held, for functions that may work only then: what another run is writing looks like a dead one's leftovers."""

    folder: Path


def remove_leftovers(lock: Lock, folder: Path, name: str = "*") -> None:
    """Remove what killed runs left behind of `name` in `folder`. `lock`: the one that whoever writes there holds."""
    for part in folder.glob(f".{name}.*.tmp"):
        remove(part)


@contextlib.contextmanager
def queued(path: Path) -> Iterator[Lock]:
    """Hold the lock of a file or folder that several runs write, after waiting for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another run that writes {path}")
        lock.acquire()
    try:
        yield Lock(path)
    finally:
        lock.release()


@contextlib.contextmanager
def locked(folder: Path, wait: bool | None = None, what: str = "build") -> Iterator[Lock]:
    """Hold the lock that lies in `folder`, of this checkout's builds or of something else (`what`); that of a dead process counts
    for nothing. `wait`: for another one to end (None: this step has no option for that).

    Raises:
        BusyError: another one holds it and `wait` is not true.
        DiskError: the checkout cannot be written.
    """
    holder = folder / "lock.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text() if holder.exists() else "another process"
            if not wait:
                queued = "" if wait is None else ", pass --wait to be queued behind it"
                raise BusyError(
                    f"Another {what} is using this checkout ({who}).", f"Wait until it ends{queued}, or work in another clone."
                ) from None
            console.print(f"waiting for another {what} in this checkout ({who})")
            lock.acquire()
    except OSError as error:
        raise DiskError(f"{folder} cannot be written: {error.strerror}.", "Build in a checkout that you may write to.") from error
    try:
        holder.write_text(f"process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        yield Lock(folder)
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
