"""Many machines: the core, the plugin and the assembly in clones of their own give the bytes of one checkout.

The plugin is Vulkan's, where this machine has its toolkit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rebuilds.conftest import Run
from variants import matrix, platforms
from variants.backends import vulkan
from variants.compilers import toolchain
from variants.terminal import disk
from variants.upstream import source
from variants.wheel import archive

HERE = platforms.here()


def clone(folder: Path) -> Path:
    """A new checkout of what is committed here, with upstream's sdist, so that it is not fetched anew."""
    subprocess.run(["git", "clone", "--quiet", str(source.ROOT), str(folder)], check=True)
    shutil.copy(source.VENDOR / source.read_pin().archive, folder / "vendor")
    return folder


def has_vulkan(tmp_path: Path) -> bool:
    tools = toolchain.find("zig", tmp_path, HERE, write=False)
    return not vulkan.find(matrix.request(matrix.load()["vulkan"], tools, source.vendor(disk.Lock(source.ROOT)).tree)).missing


@pytest.fixture
def committed() -> None:
    """A clone has what is committed."""
    changed = subprocess.run(["git", "-C", str(source.ROOT), "status", "--porcelain"], capture_output=True, text=True, check=True)
    if changed.stdout.strip():
        pytest.skip("this checkout has changes that are not committed")


@pytest.mark.parametrize("name", ["cpu", "vulkan"])
def test_same_bytes(tmp_path: Path, committed: None, variants: Run, name: str) -> None:
    """The jobs of `matrix --json` for this machine, each in a clone of its own, against one checkout."""
    if name == "vulkan" and not has_vulkan(tmp_path):
        pytest.skip("there is no toolkit for Vulkan here: `nox -s toolchain -- vulkan`")
    jobs = json.loads(variants(source.ROOT, "matrix", "--json", name))
    parts = tmp_path / "parts"
    done = []
    for kind in ("core", "plugin", "assemble"):
        for job in jobs[kind]:
            words = job["command"].removeprefix("nox -s ").replace(" -- ", " ").split()
            if HERE.name not in words:
                continue  # another machine's
            folder = clone(tmp_path / job["name"])
            variants(folder, *words, "--parts", str(parts))
            done.append(job["name"])
    assert done[-1] == f"assemble-{HERE.name}"
    (made,) = (tmp_path / done[-1] / "dist").glob("*.whl")
    one = clone(tmp_path / "one")
    variants(one, "build", name)
    (whole,) = (one / "dist").glob("*.whl")
    assert made.name == whole.name
    if name == "cpu":
        assert archive.sha256(made) == archive.sha256(whole)
    a, b = archive.contents(made), archive.contents(whole)
    assert set(a) == set(b)
    assert not {path for path in a if a[path] != b[path]}


def test_new_llama_cpp(tmp_path: Path, committed: None, variants: Run) -> None:
    """A library or CPU plugin that nobody has looked at stops the build, which names it; what was compiled is kept."""
    folder = clone(tmp_path / "clone")
    known = folder / "variants" / "steps" / "core.toml"
    seen = known.read_text()
    known.write_text(seen.replace('"ggml", ', "").replace('"cpu-x64", ', '"cpu-old", '))
    said = " ".join(variants(folder, "build", "cpu", codes=(7,)).split())
    for row in (
        "library ggml: added",
        "CPU plugin cpu-x64: added",
        "CPU plugin cpu-old: dropped",
        "correct variants/steps/core.toml",
    ):
        assert row in said
    assert not list((folder / "dist").glob("*"))
    known.write_text(seen)
    variants(folder, "build", "cpu")
    assert len(list((folder / "dist").glob("*.whl"))) == 1


def test_partial_and_foreign_parts(tmp_path: Path, variants: Run) -> None:
    """A part that is missing, of another platform, or of another core: one error that names it, and nothing in dist/."""

    def fails(*arguments: str) -> str:
        return " ".join(variants(source.ROOT, *arguments, codes=(2, 7)).split())

    parts = tmp_path / "parts"
    said = fails("assemble", "cpu", "--platform", HERE.name, "--parts", str(parts))
    assert f"The part core-{HERE.name} is not in" in said
    assert f"nox -s core -- --platform {HERE.name}" in said
    core = {"fingerprint": "0123abcd", "toolchain": "gcc", "platform": "win_amd64", "plugins": [], "libraries": []}
    folder = parts / f"core-{HERE.name}"
    wheel = folder / f"llama_cpp_python-9.9.7-py3-none-{HERE.name}.whl"
    files = {"llama_cpp/lib/core.json": json.dumps(core).encode(), "llama_cpp_python-9.9.7.dist-info/WHEEL": b"Tag: x\n"}
    archive.write(wheel, files, 0)
    said = fails("assemble", "vulkan", "--platform", HERE.name, "--parts", str(parts))
    assert f"is a core of win_amd64, not of {HERE.name}" in said
    core["platform"] = HERE.name
    archive.write(wheel, {**files, "llama_cpp/lib/core.json": json.dumps(core).encode()}, 0)
    said = fails("assemble", "vulkan", "--platform", HERE.name, "--parts", str(parts))
    assert f"The part plugin-vulkan-{HERE.name} is not in" in said
    assert f"which has core-{HERE.name}" in said
    plugin = parts / f"plugin-vulkan-{HERE.name}"
    plugin.mkdir()
    said = fails("assemble", "vulkan", "--platform", HERE.name, "--parts", str(parts))
    assert f"plugin-vulkan-{HERE.name} is no plugin's part" in said
    (plugin / "plugin.json").write_text(json.dumps({"name": "vulkan", "core": "deadbeef"}))
    (plugin / HERE.plugin("vulkan")).write_bytes(b"x")
    said = fails("assemble", "vulkan", "--platform", HERE.name, "--parts", str(parts))
    assert "The plugin is of core deadbeef" in said
    assert "has core 0123abcd: they would not load together" in said
