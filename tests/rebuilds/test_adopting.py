"""Our files in an unpacked sdist of upstream: the same libraries, byte for byte, and a wheel that differs where it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rebuilds.conftest import Run
from variants import matrix
from variants.errors import SourceError
from variants.release import adopt, pipeline
from variants.steps import assemble
from variants.terminal import disk
from variants.upstream import source
from variants.wheel import archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The pinned sdist, unpacked into a folder of its own."""
    pin = source.read_pin()
    source.vendor(disk.Lock(source.ROOT))
    folder = tmp_path / "llama-cpp-python"
    source.unpack(source.VENDOR / pin.archive, folder)
    return folder


def test_same_wheel(tree: Path, variants: Run) -> None:
    """`adopt`, then one command. Compared with the CPU wheel in dist/, which must be of this checkout."""
    (ours,) = [path for path in pipeline.wheels([matrix.load()["cpu"]]) if "manylinux" in path.name and "x86_64" in path.name]
    adopt.adopt(tree)
    assert adopt.adopt(tree)  # a second time brings it up to date, and doubles nothing
    assert (tree / "pyproject.toml").read_text().count("[dependency-groups]") == 1
    assert (tree / "llama_cpp" / "__init__.py").read_text().count("_backends") == 2  # `import … as …`, in one line
    variants(tree, "build", "cpu")
    (theirs,) = (tree / "dist").glob("*.whl")
    assert theirs.name == ours.name
    a, b = archive.contents(ours), archive.contents(theirs)
    assert set(a) == set(b)
    differing = {name.rpartition("/")[2] for name in a if a[name] != b[name]}
    # METADATA: its own version; the bill of materials: no sdist whose hash could stand there.
    assert differing <= {"METADATA", "RECORD", "llama_cpp_python.cdx.json"}
    assert assemble.read_core(ours) == assemble.read_core(theirs)


def test_another_release(tmp_path: Path, variants: Run) -> None:
    """In a tree of an older release: its wheel, verified, and the smoke inference."""
    release = source.release("0.3.16")
    folder = tmp_path / "llama-cpp-python"
    source.unpack(release / source.read_pin(release / source.PIN.name).archive, folder)
    adopt.adopt(folder)
    variants(folder, "build", "cpu")
    (made,) = (folder / "dist").glob("*.whl")
    assert made.name.startswith("llama_cpp_python-0.3.16-py3-none-")
    assert " passed" in variants(folder, "test", "cpu", "--installer", "pip")


def test_twice_taken(tree: Path) -> None:
    """Upstream has files of these names already: nothing is overwritten."""
    (tree / "noxfile.py").write_text("theirs")
    with pytest.raises(SourceError, match=r"has noxfile\.py already"):
        adopt.adopt(tree)
    assert (tree / "noxfile.py").read_text() == "theirs"
    assert not (tree / "variants").exists()


def test_not_a_tree(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no tree of llama-cpp-python"):
        adopt.adopt(tmp_path)
