"""Hostile files, small ones that were honest and then changed, and a way to run the command line on them and see what it costs."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.installers.tools import labelled
from tests.installers.tools import wheel as wheel
from variants import matrix
from variants.wheel import archive

NAME = "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl"
INFO = "llama_cpp_python-9.9.7.dist-info"
MEGABYTES = 200
SECONDS = 10.0


class Ended(NamedTuple):
    """How a command ended: its exit code, what it printed, its peak memory in MB, its seconds."""

    code: int
    text: str
    memory: float
    seconds: float


_CHILD = """
import json, resource, sys
from variants.__main__ import main
codes = []
try:
    codes = [main(command) for command in json.loads(sys.argv[1])]
finally:
    sys.stdout.flush()
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(99 if 0 in codes else codes[0])
"""


def run(*commands: Sequence[str]) -> Ended:
    """`python -m variants` for each, in one process of its own, which may have 2 GB of addresses; none may succeed."""
    root = Path(__file__).parent.parent.parent
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(commands)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "400"}, timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )  # fmt: skip
    text, _, peak = done.stdout.rpartition("peak ")
    return Ended(done.returncode, text, float(peak or 0), time.monotonic() - begin)


def refused(ended: Ended, *words: str) -> None:
    """It ended as it should: a code, a line with these words, no traceback, little memory, little time."""
    assert "Traceback" not in ended.text, ended.text
    assert ended.code not in (0, 99), ended.text
    assert ended.memory < MEGABYTES, ended
    assert ended.seconds < SECONDS, ended
    for word in words:
        assert word in ended.text, (word, ended.text)
    assert not any(character in ended.text for character in "\x1b\x07\r"), ended.text


def plain(folder: Path) -> Path:
    """A small honest wheel."""
    return wheel(folder)


def vulkan(folder: Path) -> Path:
    """The same with a label."""
    return labelled(wheel(folder / "plain"), matrix.load()["vulkan"], folder)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The wheel with its files changed, and a RECORD that fits."""
    files = archive.contents(path)
    change(files)
    archive.write(path, files, 1_700_000_000)
    return path


Entry = tuple[bytes, bytes]


def zipped(path: Path, members: list[Entry], **fields: int) -> Path:
    """A zip archive by hand, member by member: `fields` go into every entry of the directory."""
    body, directory = b"", b""
    for name, content in members:
        packed = zlib.compress(content, 9)[2:-4]
        facts = {
            "flags": 0, "method": 8, "crc": zlib.crc32(content), "packed": len(packed), "size": len(content), "mode": 0o100644,
        } | fields  # fmt: skip
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, facts["flags"], facts["method"], 0, 33, facts["crc"], len(packed),
                            facts["size"], len(name), 0)  # fmt: skip
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, facts["flags"], facts["method"], 0, 33, facts["crc"], facts["packed"],
            facts["size"], len(name), 0, 0, 0, 0, facts["mode"] << 16, len(body),
        ) + name  # fmt: skip
        body += local + name + packed
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members) & 0xFFFF, len(members) & 0xFFFF, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


def members(folder: Path, extra: list[Entry]) -> list[Entry]:
    """The members of a small honest wheel, and these."""
    with zipfile.ZipFile(plain(folder / "honest")) as opened:
        return [*((info.filename.encode(), opened.read(info)) for info in opened.infolist()), *extra]


def flipped(path: Path, name: str) -> Path:
    """One bit of a member's compressed bytes changed."""
    with zipfile.ZipFile(path) as opened:
        info = opened.getinfo(name)
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 0x10
    path.write_bytes(content)
    return path


def page(files: list[dict[str, object]], name: str = "llama-cpp-python") -> bytes:
    """A project page of PEP 691."""
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files}).encode()
