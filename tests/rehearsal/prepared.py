"""Parts as `nox -s core` and `nox -s plugin` leave them, made of the wheels in dist/: compiling is not what is rehearsed.

And a release of upstream's before the pinned one, which is the pinned one under another number: its sdist, and parts of it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from variants import matrix, platforms
from variants.upstream import source
from variants.wheel import archive, records

HERE = platforms.here()


def sdist(folder: Path, version: str) -> Path:
    """Upstream's pinned sdist under this version number, without its `.git`, which is three quarters of it."""
    pin = source.read_pin()
    old = source.VENDOR / pin.archive
    new = folder / pin.archive.replace(pin.version, version)
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(tarfile.open(old))
        packed = stack.enter_context(gzip.GzipFile(new, "wb", compresslevel=1, mtime=0))
        made = stack.enter_context(tarfile.open(fileobj=packed, mode="w:"))
        for member in given:
            name = member.name.partition("/")[2]
            if not member.isreg() or name.startswith(".git/"):
                continue
            content = given.extractfile(member)
            data = content.read() if content else b""
            if name == "llama_cpp/__init__.py":
                data = _version(data, version)
            elif name == "PKG-INFO":
                data = re.sub(rb"(?m)^Version: .*$", f"Version: {version}".encode(), data, count=1)
            written = tarfile.TarInfo(f"{new.name.removesuffix('.tar.gz')}/{name}")
            written.size, written.mtime = len(data), member.mtime
            made.addfile(written, io.BytesIO(data))
    return new


def _version(text: bytes, version: str) -> bytes:
    return re.sub(rb'(?m)^(__version__\s*=\s*)".*"', rf'\g<1>"{version}"'.encode(), text)


def tested(dist: Path, command: str) -> None:
    """The record of a test, where the very same was run for an earlier release."""
    variant = matrix.load()[command.partition(" -- ")[2].split()[0]]
    for wheel in dist.glob("*.whl"):
        if archive.split_label(wheel.name)[1] == variant.label:
            for installer in ("uv", "pip"):
                facts = {"processor": "this one", "system": HERE.name, "python": "3", "devices": "CPU"}
                records.add(wheel, what="rehearsed", installer=installer, passed=1, **facts)


def core(wheel: Path, parts: Path, version: str) -> None:
    """The core's part, of a plain wheel: as it was before it was repaired and tagged for old systems."""
    target = parts / f"core-{HERE.name}" / f"llama_cpp_python-{version}-py3-none-{HERE.name}.whl"
    target.parent.mkdir(parents=True)
    _renamed(wheel, target, version, b"Tag: py3-none-" + HERE.name.encode() + b"\n")


def assembled(wheels: Mapping[str, Path], dist: Path, command: str, version: str) -> None:
    """In place of `nox -s assemble`, of parts that an earlier release had, too: its wheels under another version, with the build
    number of the command."""
    words = command.partition(" -- ")[2].split()
    number = words[words.index("--build-number") + 1] if "--build-number" in words else ""
    dist.mkdir()
    for name in words[: words.index("--platform")]:
        wheel = wheels[name]
        old = str(archive.parse_name(archive.plain_path(wheel))[1])
        target = dist / wheel.name.replace(f"-{old}-", f"-{version}-{number}-" if number else f"-{version}-")
        tags = "".join(f"Tag: {tag}\n" for tag in sorted(map(str, archive.parse_name(archive.plain_path(wheel))[3])))
        header = (f"Build: {number}\n{tags}" if number else tags).encode()
        _renamed(wheel, target, version, header)


def _renamed(wheel: Path, target: Path, version: str, end: bytes) -> None:
    """The wheel under another version; `end` takes the place of the tags in its WHEEL file."""
    with archive.open_wheel(wheel) as opened:
        old = archive.dist_info(opened)
        new = f"{old.partition('-')[0]}-{version}.dist-info"
        inside = [name for name in opened.namelist() if name.startswith(f"{old}/") and not name.endswith("/RECORD")]
        files = {name.replace(old, new, 1): opened.read(name) for name in inside}
        files["llama_cpp/__init__.py"] = _version(opened.read("llama_cpp/__init__.py"), version)
    files[f"{new}/METADATA"] = re.sub(rb"(?m)^Version: .*$", f"Version: {version}".encode(), files[f"{new}/METADATA"], count=1)
    files[f"{new}/WHEEL"] = re.sub(rb"(?m)^(?:Build|Tag):.*\n", b"", files[f"{new}/WHEEL"]).rstrip(b"\n") + b"\n" + end
    archive.rewrite(wheel, target, files, frozenset(inside), new)


def plugin(wheel: Path, parts: Path) -> None:
    """The plugin's part, of a labelled wheel."""
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    assert variant is not None
    assert variant.table.plugin is not None
    folder = parts / f"plugin-{variant.name}-{HERE.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with archive.open_wheel(wheel) as opened:
        for name in (f"llama_cpp/lib/{HERE.plugin(variant.table.plugin)}", matrix.DESCRIPTION):
            (folder / Path(name).name).write_bytes(opened.read(name))
