"""Hostile files that take long to make, or long to refuse: gigabytes, and servers that do not end. (tests/unit/test_hostile.py)"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import charset_normalizer
import pytest

from tests.unit.hostile import INFO, NAME, SECONDS, plain, refused, run
from tests.unit.test_hostile import served
from variants.choice import listing
from variants.errors import UsageError
from variants.steps import verify
from variants.wheel import archive

__all__ = ["served"]

_PEAK = """
import resource, sys
from pathlib import Path
from variants.steps import verify
wheel = verify.read(Path(sys.argv[1]))
for check in (*verify.FIRST, *verify.OWN):
    list(check(wheel))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_wheel_of_five_gigabytes(tmp_path: Path) -> None:
    """Written, read and hashed in constant memory; its plugin is a library with 4.6 GB behind its tables."""
    library = tmp_path / "library.so"
    found = sorted(Path(charset_normalizer.__file__).parent.glob("md*.so"))
    if not found:
        pytest.skip("charset-normalizer is installed here without its compiled module, which lends its ELF file")
    with library.open("wb") as stream:
        stream.write(found[0].read_bytes())
        for _ in range(4600):
            stream.write(os.urandom(1_000_000))
    files = {name: content for name, content in archive.contents(plain(tmp_path / "small")).items() if name.startswith(INFO)}
    archive.write(tmp_path / NAME, {**files, "llama_cpp/lib/libggml-cuda.so": library}, 0)
    library.unlink()
    done = subprocess.run([sys.executable, "-c", _PEAK, tmp_path / NAME], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


def test_a_bomb_of_gigabytes(tmp_path: Path) -> None:
    """A real one: 6 GB of zeros in 6 MB."""
    zeros = tmp_path / "zeros.so"
    with zeros.open("wb") as stream:
        stream.truncate(6_000_000_000)
    files = archive.contents(plain(tmp_path / "small"))
    archive.write(tmp_path / NAME, {**files, "llama_cpp/lib/libx.so": zeros}, 0)
    refused(run(["verify", str(tmp_path / NAME)]), "it unpacks to 6.0 GB, which no wheel of")


def endless(stream: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        while True:
            stream.write(b"<a href=x>x</a>" * 1000)


def slow(stream: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        for _ in range(60):
            stream.write(b"<")
            stream.flush()
            time.sleep(0.5)


def bomb(stream: BinaryIO) -> None:
    packer = zlib.compressobj(9, wbits=31)
    with contextlib.suppress(OSError):
        for _ in range(6000):
            stream.write(packer.compress(bytes(1_000_000)))
        stream.write(packer.flush())


@pytest.mark.parametrize(
    ("content", "headers", "what"),
    [
        (endless, (), "more than 16 MB"),
        (slow, (), "longer than 8 seconds"),
        (bomb, (("Content-Encoding", "gzip"),), "more than 16 MB"),
    ],
)
def test_servers_that_do_not_end(
    content: Callable[[BinaryIO], None], headers: tuple[tuple[str, str], ...], what: str, served: Callable[..., str]
) -> None:
    begin = time.monotonic()
    with pytest.raises(UsageError, match=what):
        listing.read(served("text/html", content, *headers))
    assert time.monotonic() - begin < SECONDS


def test_a_real_wheel() -> None:
    """The wheels in dist/, if there are any, have nothing wrong by our own checks."""
    for path in sorted((Path(__file__).parent.parent.parent / "dist").glob("*.whl")):
        wheel = verify.read(path)
        assert [str(row) for check in (*verify.FIRST, *verify.OWN) for row in check(wheel)] == []
