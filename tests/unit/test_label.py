"""Labelling changes what it must and nothing else; variantlib's own tools read the result."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from installer.sources import WheelFile
from variantlib.variant_dist_info import VariantDistInfo

from tests.installers.tools import stand_in
from variants import matrix
from variants.choice import metadata
from variants.errors import WheelError
from variants.steps import label
from variants.wheel import archive

INFO = "llama_cpp_python-9.9.7.dist-info"
NAME = "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl"
METADATA = b"""Metadata-Version: 2.1
Name: llama_cpp_python
Version: 9.9.7
Requires-Dist: numpy
Provides-Extra: x
Requires-Dist: y; extra == "x"

Text

Version: 1
"""
TOML = """summary = "x"
platforms = ["linux_x86_64"]
label = "cuda12"
[properties.nvidia]
cuda_version_lower_bound = ["12.4"]
sm_arch = ["86_real", "90_virtual"]
[runtime]
requires = ["nvidia-cublas-cu12>=12.8,<13"]
[smoke]
device = "CUDA"
"""


@pytest.fixture
def variant(tmp_path: Path) -> matrix.Variant:
    (tmp_path / "cuda12.toml").write_text(TOML)
    return matrix.read(tmp_path / "cuda12.toml")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = {
        "llama_cpp/__init__.py": b"x = 1\n",
        "llama_cpp/lib/big.so": bytes(range(256)) * 4000,
        f"{INFO}/METADATA": METADATA,
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-manylinux_2_17_x86_64\n",
    }
    archive.write(tmp_path / NAME, files, 1_700_000_000)
    return tmp_path / NAME


def record_is_true(path: Path) -> None:
    """RECORD of a wheel, whatever its name, by the installer package."""
    plain = path.with_name("checked") / archive.split_label(path.name)[0]
    plain.parent.mkdir(exist_ok=True)
    plain.write_bytes(path.read_bytes())
    with WheelFile.open(plain) as opened:
        opened.validate_record()
    plain.unlink()


def test_label(tmp_path: Path, wheel: Path, variant: matrix.Variant) -> None:
    made = label.label(wheel, variant, tmp_path / "out")
    assert made.name == NAME.replace(".whl", "-cuda12.whl")
    assert archive.split_label(made.name) == (NAME, "cuda12")
    before, after = archive.contents(wheel), archive.contents(made)
    assert {name for name in after if before.get(name) != after[name]} == {
        f"{INFO}/variant.json", f"{INFO}/METADATA", f"{INFO}/RECORD",
    }  # fmt: skip
    expected = METADATA.replace(b"Requires-Dist: numpy\n", b"Requires-Dist: numpy\nRequires-Dist: nvidia-cublas-cu12>=12.8,<13\n")
    assert after[f"{INFO}/METADATA"] == expected
    record_is_true(made)
    again = label.label(wheel, variant, tmp_path / "again")
    assert again.read_bytes() == made.read_bytes()
    info = VariantDistInfo(after[f"{INFO}/variant.json"], "cuda12")
    assert sorted(p.to_str() for p in info.variant_desc.properties) == [
        "nvidia :: cuda_version_lower_bound :: 12.4",
        "nvidia :: sm_arch :: 86_real",
        "nvidia :: sm_arch :: 90_virtual",
    ]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "variantlib"), "analyze-wheel", "-i", str(made)], capture_output=True, text=True
    )
    assert "cuda12" in done.stdout + done.stderr, done.stdout + done.stderr


def test_members_are_copied_as_they_are(tmp_path: Path, wheel: Path, variant: matrix.Variant) -> None:
    """The compressed bytes of an untouched member are the same, and the zip stands up to zipfile's own test."""
    made = label.label(wheel, variant, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(made) as two:
        assert two.testzip() is None
        for name in ("llama_cpp/__init__.py", "llama_cpp/lib/big.so"):
            old, new = one.getinfo(name), two.getinfo(name)
            assert (old.CRC, old.compress_size, old.date_time, old.external_attr) == (
                new.CRC, new.compress_size, new.date_time, new.external_attr,
            )  # fmt: skip


def test_streamed_members(tmp_path: Path, wheel: Path, variant: matrix.Variant) -> None:
    """A wheel written to a pipe has its sizes behind the data (flag bit 3); copied, they stand before it."""
    streamed = tmp_path / "in" / NAME
    streamed.parent.mkdir()

    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    pipe = Pipe(streamed)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as opened:  # type: ignore[call-overload]
        for name, content in archive.contents(wheel).items():
            opened.writestr(name, content)
    pipe.file.close()
    with zipfile.ZipFile(streamed) as opened:
        assert opened.infolist()[0].flag_bits & 8
    made = label.label(streamed, variant, tmp_path)
    with zipfile.ZipFile(made) as opened:
        assert opened.testzip() is None
    record_is_true(made)


def test_unlabel(tmp_path: Path, wheel: Path, variant: matrix.Variant) -> None:
    """The plain wheel comes back, but for the variant's own requirements; or one with a local version."""
    files = archive.contents(wheel) | stand_in(matrix.load()["vulkan"], "linux_x86_64")
    archive.write(wheel, files, 1_700_000_000)
    other = label.label(wheel, matrix.load()["vulkan"], tmp_path / "vulkan")
    assert label.unlabel(other, tmp_path / "back").read_bytes() == wheel.read_bytes(), "vulkan requires nothing of its own"
    made = label.label(wheel, variant, tmp_path / "labelled")
    plain = label.unlabel(made, tmp_path / "plain")
    assert plain.name == NAME
    assert f"{INFO}/variant.json" not in archive.contents(plain)
    record_is_true(plain)
    local = label.unlabel(made, tmp_path / "local", local=True)
    assert local.name == NAME.replace("9.9.7", "9.9.7+cuda12")
    content = archive.contents(local)
    info = "llama_cpp_python-9.9.7+cuda12.dist-info"
    assert content[f"{info}/METADATA"].startswith(b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 9.9.7+cuda12\n")
    assert content[f"{info}/METADATA"].endswith(b"Version: 1\n"), "a line of the description is none of the header's"
    assert not [name for name in content if name.startswith(f"{INFO}/")]
    record_is_true(local)


@pytest.mark.parametrize("name", [name for name, one in matrix.load().items() if one.label])
def test_a_label_without_its_plugin(tmp_path: Path, wheel: Path, name: str) -> None:
    """The CPU wheel, another backend's, one of another core, and one for other architectures than its description says."""
    variant = matrix.load()[name]
    with pytest.raises(WheelError, match=r"has no llama_cpp/lib/libggml-\w+\.so, which \w+ stands for"):
        label.label(wheel, variant, tmp_path / "out")
    plain, extra = archive.contents(wheel), stand_in(variant, "linux_x86_64")
    described = json.loads(extra[matrix.DESCRIPTION])
    (plugin,) = (file for file in extra if file.endswith(".so"))
    for change, what in (
        ({"core": "89abcdef"}, "of core 89abcdef"),
        ({"name": "other"}, "has a other of core"),
        ({"name": 1}, "damaged"),
        *([({"toolkit": {}}, "does not say"), ({"toolkit": {"architectures": ["x" * 9]}}, "damaged")] if variant.lists else []),
    ):
        archive.write(wheel, plain | extra | {matrix.DESCRIPTION: json.dumps(described | change).encode()}, 0)
        with pytest.raises(WheelError, match=what):
            label.label(wheel, variant, tmp_path / "out")
    arm = extra[plugin][:18] + (183).to_bytes(2, "little")  # EM_AARCH64
    for content in (b"", b"text", arm):
        archive.write(wheel, plain | extra | {plugin: content}, 0)
        with pytest.raises(WheelError, match=r"is no library|is ELF for"):
            label.label(wheel, variant, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
    archive.write(wheel, plain | extra, 0)
    assert label.label(wheel, variant, tmp_path / "out").is_file()


def test_refusals(tmp_path: Path, wheel: Path, variant: matrix.Variant) -> None:
    made = label.label(wheel, variant, tmp_path / "out")
    with pytest.raises(WheelError, match='has the label "cuda12" already'):
        label.label(made, variant, tmp_path)
    mac = tmp_path / NAME.replace("manylinux_2_17_x86_64", "macosx_11_0_arm64")
    mac.write_bytes(wheel.read_bytes())
    with pytest.raises(WheelError, match="is for macosx_11_0_arm64, where cuda12 does not exist"):
        label.label(mac, variant, tmp_path)
    hidden = tmp_path / "hidden" / NAME
    hidden.parent.mkdir()
    hidden.write_bytes(made.read_bytes())
    with pytest.raises(WheelError, match=r"has a variant\.json already"):
        label.label(hidden, variant, tmp_path)
    with pytest.raises(WheelError, match="is the plain wheel"):
        label.label(wheel, matrix.load()["cpu"], tmp_path)
    other = tmp_path / NAME.replace("llama_cpp_python", "other")
    other.write_bytes(wheel.read_bytes())
    with pytest.raises(WheelError, match="not ours"):
        label.label(other, variant, tmp_path)
    with pytest.raises(WheelError, match="has no label"):
        label.unlabel(wheel, tmp_path)
    renamed = made.with_name(made.name.replace("cuda12", "cuda13"))
    made.rename(renamed)
    with pytest.raises(WheelError, match="does not go with its name"):
        label.unlabel(renamed, tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(WheelError):
        label.label(wheel, variant, tmp_path / "damaged")
    assert not list((tmp_path / "damaged").glob("*")) if (tmp_path / "damaged").exists() else True


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a-1-py3-none-any.whl", ("a-1-py3-none-any.whl", None)),
        ("a-1-py3-none-any-x.whl", ("a-1-py3-none-any.whl", "x")),
        ("a-1-7-py3-none-any.whl", ("a-1-7-py3-none-any.whl", None)),
        ("a-1-7-py3-none-any-x.whl", ("a-1-7-py3-none-any.whl", "x")),
    ],
)
def test_split_label(name: str, expected: tuple[str, str | None]) -> None:
    assert archive.split_label(name) == expected


def test_schema() -> None:
    content = metadata.to_bytes(metadata.dist_info("v", {"llama_cpp": {"backend": ["vulkan"]}}))
    assert b'"$schema": "https://variants-schema.wheelnext.dev/peps/850/v0.2.0.json"' in content
    with pytest.raises(ValueError, match="expected"):
        metadata.read_wheel(content, "other")
    with pytest.raises(ValueError, match="truncated"):
        metadata.read_wheel(b"", "v")


def test_a_provider_that_nobody_has_published() -> None:
    """A package name that anybody may register is not written into a wheel; in somebody else's wheel it is no fault of the file."""
    table = {"amd": {"gfx_arch": ["gfx1100"]}}
    content = metadata.to_bytes(metadata.dist_info("rocm", table)).replace(b"rocm-bootstrap", b"amd-variant-provider")
    with pytest.raises(ValueError, match=r"providers\.amd names amd-variant-provider, which no vendor has published"):
        metadata.read_wheel(content, "rocm")
    assert metadata.read_wheel(content, "rocm", ours=False).providers["amd"].optional
