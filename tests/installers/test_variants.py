"""Labelled wheels in the index: their merged metadata, and which of them it refuses."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.installers.tools import publish, stand_in, wheel
from variants import matrix
from variants.errors import WheelError
from variants.steps import label
from variants.wheel import archive

MATRIX = {
    "vulkan": '[properties.llama_cpp]\nbackend = ["vulkan"]\n',
    "cuda12": '[properties.nvidia]\ncuda_version_lower_bound = ["12.4"]\n'
    'sm_arch = ["61_real", "86_real", "90_virtual", "120_virtual"]\n',
    "cuda13": '[properties.nvidia]\ncuda_version_lower_bound = ["13.0"]\nsm_arch = ["86_real", "90_virtual", "120_real"]\n',
}


def variants(folder: Path) -> dict[str, matrix.Variant]:
    """The labels of docs/design.md, as matrix files; their plugins are another matter."""
    folder.mkdir()
    for name, table in MATRIX.items():
        text = f'summary = "x"\nplatforms = ["linux_x86_64", "win_amd64"]\nlabel = "{name}"\n{table}[smoke]\ndevice = "X"\n'
        (folder / f"{name}.toml").write_text(text)
    return matrix.load(folder)


@pytest.fixture
def labelled(dist: Path, tmp_path: Path) -> Path:
    """dist/ with the plain wheel and every label."""
    for name, variant in variants(tmp_path / "matrix").items():
        label.label(with_plugin(wheel(tmp_path / name, text=name), name), variant, dist)
    wheel(dist, text="plain")
    return dist


def with_plugin(plain: Path, name: str) -> Path:
    """The same wheel with a stand-in for the plugin that the real matrix gives to this label."""
    (platform,) = {known.name for known in archive.platforms_of(plain)}
    archive.write(plain, archive.contents(plain) | stand_in(matrix.load()[name], platform), 1_700_000_000)
    return plain


def test_merged_metadata(labelled: Path, site: Path, url: str) -> None:
    publish(labelled, site)
    (row,) = (
        row
        for row in json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]
        if row["filename"].endswith(".json")
    )
    assert row["filename"] == "llama_cpp_python-9.9.7-variants.json"
    merged = json.loads(urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}").read())
    assert set(merged["variants"]) == {"vulkan", "cuda12", "cuda13"}
    assert merged["default-priorities"]["namespace"] == ["nvidia", "amd", "llama_cpp"]


def test_contradictions(labelled: Path, site: Path, tmp_path: Path) -> None:
    """Refused, naming both files: one label with two sets of properties, one set under two labels, no plain wheel."""
    folder = tmp_path / "other"
    other = variants(folder)
    windows = with_plugin(wheel(tmp_path / "win", platform="win_amd64"), "cuda12")
    (folder / "cuda12.toml").write_text((folder / "cuda12.toml").read_text().replace("12.4", "12.0"))
    made = label.label(windows, matrix.read(folder / "cuda12.toml"), labelled)
    with pytest.raises(WheelError, match="the same label with other properties") as caught:
        publish(labelled, site)
    assert made.name in caught.value.what
    assert "x86_64-cuda12.whl" in caught.value.what
    made.unlink()
    text = (folder / "vulkan.toml").read_text().replace('label = "vulkan"', 'label = "vk"')
    (folder / "vk.toml").write_text(text)
    windows = with_plugin(wheel(tmp_path / "win", platform="win_amd64"), "vulkan")
    made = label.label(windows, matrix.read(folder / "vk.toml"), labelled)
    with pytest.raises(WheelError, match="the same properties under two labels"):
        publish(labelled, site)
    made.unlink()
    label.label(windows, other["vulkan"], labelled)
    publish(labelled, site)
    (labelled / "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl").unlink()
    another = site.with_name("another")
    with pytest.raises(WheelError, match="but no plain wheel"):
        publish(labelled, another)
    assert publish(labelled, another, allow_no_fallback=True)


def test_label_and_name_disagree(labelled: Path, site: Path) -> None:
    made = next(labelled.glob("*cuda12.whl"))
    made.rename(made.with_name(made.name.replace("cuda12", "cuda11")))
    with pytest.raises(WheelError, match="does not go with its name"):
        publish(labelled, site)
    next(labelled.glob("*cuda11.whl")).rename(labelled / "llama_cpp_python-9.9.7-1-py3-none-manylinux_2_17_x86_64.whl")
    with pytest.raises(WheelError, match="the name has no label"):
        publish(labelled, site)
