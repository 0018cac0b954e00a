"""What is about to be published, against what was; and records that come from other machines."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from variants.errors import WheelError
from variants.index import compare, ledger
from variants.index.ledger import Ledger, Line
from variants.terminal import disk
from variants.wheel import records

NAME = "llama_cpp_python-{}-py3-none-{}.whl"
OLD = "manylinux_2_17_x86_64"


def published(folder: Path, *rows: tuple[str, int], yanked: str | None = None) -> Path:
    """A ledger of these names and sizes, besides what it has."""
    file = folder / "published.jsonl"
    book: Ledger = ledger.read(file)
    metadata = book.keep(b"Metadata-Version: 2.1\n")
    for name, size in rows:
        label = metadata if name.count("-") - name.count("-1-") > 4 else None
        digest = hashlib.sha256(name.encode()).hexdigest()
        line = Line(name=name, url=f"simple/{name}", size=size, sha256=digest, date=ledger.now(), metadata=metadata)
        book.add(msgspec.structs.replace(line, variant=label, yanked=yanked))
    book.write(disk.Lock(folder))
    return file


def built(dist: Path, name: str, size: int) -> Path:
    dist.mkdir(exist_ok=True)
    (dist / name).write_bytes(b"x" * size)
    return dist / name


def test_the_same_again(tmp_path: Path) -> None:
    """A tenth more is a tenth too much only above it; each label is compared with itself; what is published is not compared."""
    dist = tmp_path / "dist"
    label = NAME.format("{}", f"{OLD}-vulkan")
    file = published(tmp_path, (NAME.format("1.0", OLD), 1000), (label.format("1.0"), 5000), (NAME.format("1.1", OLD), 2000))
    built(dist, NAME.format("1.1", OLD), 9999)
    built(dist, NAME.format("1.2", OLD), 2200)
    built(dist, label.format("1.2"), 5500)
    built(dist, NAME.format("1.2", "win_amd64"), 9999)
    said = compare.compare(dist, file)
    assert [row.partition(": ")[2] for row in said] == [
        f"1.10 times the bytes of {label.format('1.0')}",
        f"1.10 times the bytes of {NAME.format('1.1', OLD)}",
        "the first of its kind",
    ]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("manylinux_2_28_x86_64", OLD),
        (OLD, "manylinux_2_5_x86_64.manylinux1_x86_64"),
        ("musllinux_1_2_x86_64", "musllinux_1_1_x86_64"),
        ("macosx_12_0_arm64", "macosx_11_0_arm64"),
    ],
)
def test_a_newer_tag(tmp_path: Path, new: str, old: str) -> None:
    file = published(tmp_path, (NAME.format("1.0", old), 1000))
    wheel = built(tmp_path / "dist", NAME.format("1.1", new), 1200)
    with pytest.raises(WheelError) as caught:
        compare.compare(wheel.parent, file)
    assert f"asks for {new}" in caught.value.what
    assert caught.value.what.count(wheel.name) == caught.value.what.count(NAME.format("1.0", old)) == 2
    assert "--allow-growth --allow-newer-tag" in caught.value.remedy
    with pytest.raises(WheelError, match="has 1,200 bytes"):
        compare.compare(wheel.parent, file, allow_newer_tag=True)
    assert compare.compare(wheel.parent, file, allow_newer_tag=True, allow_growth=True)
    older = published(tmp_path / "back", (NAME.format("1.0", new), 1200))
    built(wheel.parent, NAME.format("1.1", old), 1000)
    wheel.unlink()
    assert compare.compare(wheel.parent, older), "an older tag is no harm"


def test_a_rebuild_and_a_yanked_one(tmp_path: Path) -> None:
    """A rebuild is compared with the build before; a yanked wheel is nobody's measure, nor is a newer version."""
    file = published(tmp_path, (NAME.format("1.0", OLD), 1000), (NAME.format("2.0", OLD), 100))
    published(tmp_path, (NAME.format("1.0-1", OLD), 9000), yanked="too big")
    wheel = built(tmp_path / "dist", NAME.format("1.0-2", OLD), 1101)
    with pytest.raises(WheelError, match=f"{NAME.format('1.0', OLD)} has 1,000"):
        compare.compare(wheel.parent, file)


def test_what_was_not_tested(tmp_path: Path) -> None:
    """A build's record is no test; one from another machine counts, if it is of this very file."""
    dist, file = tmp_path / "dist", tmp_path / "published.jsonl"
    wheel = built(dist, NAME.format("1.0", OLD), 10)
    facts = {"processor": "", "system": "", "python": "", "devices": ""}
    records.add(wheel, what=records.BUILT, installer="", **facts)
    with pytest.raises(WheelError, match="No test of"):
        compare.require_tested(dist, file)
    elsewhere = built(tmp_path / "runs", wheel.name, 10)
    records.add(elsewhere, what="tests", installer="uv", passed=3, **facts)
    elsewhere.unlink()
    assert records.gather(tmp_path / "runs", dist) == [wheel.name]
    compare.require_tested(dist, file)
    assert [row.what for row in records.read(wheel)] == [records.BUILT, "tests"]
    wheel.write_bytes(b"changed since")
    with pytest.raises(WheelError, match="No test of"):
        compare.require_tested(dist, file)
    wheel.unlink()
    with pytest.raises(WheelError, match="does not go with the wheels"):
        records.gather(tmp_path / "runs", dist)


def test_uploads(tmp_path: Path) -> None:
    """The files with their hashes, and nothing of an earlier run."""
    old, new = built(tmp_path / "dist", "a.whl", 3), built(tmp_path / "dist", "b.whl", 4)
    compare.collect([old], tmp_path / "upload")
    compare.collect([new], tmp_path / "upload")
    assert sorted(path.name for path in (tmp_path / "upload").iterdir()) == [compare.SUMS, "b.whl"]
    assert (tmp_path / "upload" / compare.SUMS).read_text() == f"{hashlib.sha256(b'xxxx').hexdigest()}  b.whl\n"
