"""The matrix is read strictly: every mistake is one error that names file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from variants import matrix
from variants.backends.registry import BACKENDS
from variants.errors import MatrixError, UsageError

GOOD = 'summary = "x"\nplatforms = ["linux_x86_64"]\n[smoke]\ndevice = "CPU"\n'
LABELLED = 'label = "v"\n' + GOOD + '[properties.llama_cpp]\nbackend = ["vulkan"]\n'
WITH_CUDA = 'plugin = "cuda"\n' + LABELLED
CUDA = '[cuda]\nnvcc = ">=12.8,<13"\n'


def write(folder: Path, text: str, name: str = "x.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_real_matrix_loads_and_is_documented() -> None:
    variants = matrix.load()
    assert variants["cpu"].label is None, "the plain wheel is every installer's fallback"
    documented = (matrix.FOLDER.parent / "docs" / "variants.md").read_text(encoding="utf-8")
    for name in variants:
        assert f"`{name}`" in documented
    for field in (
        matrix.Table.__struct_fields__
        + matrix.Smoke.__struct_fields__
        + matrix.Runtime.__struct_fields__
        + matrix.Libraries.__struct_fields__
        + tuple(field for backend in BACKENDS.values() if backend.table for field in backend.table.__struct_fields__)
    ):
        assert f"`{field}`" in documented


def test_architectures_stand_once(tmp_path: Path) -> None:
    """One list gives `sm_arch`, with M0_virtual for every major that the PTX reaches (PTX 90: from Hopper on)."""
    text = 'label = "c"\nplugin = "cuda"\n' + GOOD + CUDA + 'architectures = ["61", "90", "120"]\nptx = "90"\n'
    text += '[properties.nvidia]\ncuda_version_lower_bound = ["12.4"]\n'
    assert matrix.read(write(tmp_path, text)).properties == {
        "nvidia": {
            "cuda_version_lower_bound": ["12.4"],
            "sm_arch": ["61_real", "90_real", "120_real", "90_virtual", "100_virtual", "110_virtual", "120_virtual"],
        }
    }
    assert "100_virtual" not in str(matrix.read(write(tmp_path, text.replace('ptx = "90"\n', ""))).properties)


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("sumary = 'x'\n" + GOOD, "unknown key `sumary`", 'Did you mean "summary"?'),
        ('label = "x"\n' + GOOD, "a label stands for properties", "or neither"),
        (GOOD + '[properties.llama_cpp]\nbackend = ["vulkan"]\n', "a label stands for properties", "or neither"),
        (LABELLED.replace("llama_cpp", "intel"), "key `properties.intel`: there is no such provider", "nvidia, amd, llama_cpp"),
        (
            LABELLED.replace("llama_cpp", "nvidia"),
            "key `properties.nvidia.backend`: the provider of nvidia knows no feature",
            "metadata.md",
        ),
        (WITH_CUDA + CUDA + 'architectures = ["8.6"]\n', 'table `cuda`: "8.6" is no NVIDIA architecture', 'as "86"'),
        (WITH_CUDA + CUDA + 'ptx = "90"\n', "key `architectures` is missing in `[cuda]`", "docs/variants.md"),
        (WITH_CUDA + '[cuda]\narchitectures = ["86"]\n', "key `nvcc` is missing in `[cuda]`", "docs/variants.md"),
        (WITH_CUDA + '[cuda]\nnvcc = "12"\narchitectures = ["86"]\n', '"12" is no version range', ">=12.8,<13"),
        (WITH_CUDA + CUDA + 'architectures = ["86"]\narm = ["121"]\n', "`arm` names 121", "also stands in `architectures`"),
        ('plugin = "cuda"\n' + LABELLED, "table `cuda` is missing", "`architectures`, `nvcc`"),
        ('plugin = "hip"\n' + LABELLED, "table `hip` is missing", "`rocm`"),
        ('unpublished = ["win_amd64"]\n' + GOOD, "`unpublished` names win_amd64", "also stands in `platforms`"),
        (
            'plugin = "hip"\n' + LABELLED + '[hip]\nrocm = "7.0"\narchitectures = ["1100"]\n',
            '"1100" is no AMD architecture',
            "LLVM",
        ),
        (LABELLED + CUDA + 'architectures = ["86"]\n', "table `cuda` is another backend's", 'plugin = "cuda"'),
        (WITH_CUDA + CUDA + 'architectures = ["86"]\nptx = "9"\n', '`ptx`: "9" is no NVIDIA architecture', 'as "86"'),
        ('plugin = "cudda"\n' + GOOD, 'nobody knows how to build ggml\'s backend "cudda"', 'Did you mean "cuda"?'),
        (
            GOOD + '[runtime.windows]\nsystem = ["a.dll"]\n',
            "`[runtime.windows]` is for a system that `platforms` does not",
            "Remove it",
        ),
        (GOOD + '[runtime.linux]\nsystem = ["a.dll"]\n', '"a.dll" is no library\'s name on Linux', "file name"),
        (
            GOOD.replace('"]', '", "win_amd64"]') + '[runtime.linux]\nsystem = ["liba.so.1"]\n',
            "`[runtime.windows]` is missing",
            "on Windows",
        ),
        (
            GOOD + '[runtime.linux]\nsystems = ["liba.so.1"]\n',
            "unknown key `systems` in `[runtime.linux]`",
            'Did you mean "system"?',
        ),
        (LABELLED.replace('"vulkan"', '"Vul-kan"'), 'key `properties.llama_cpp.backend`: "Vul-kan" is no value', "PEP 825"),
        (LABELLED.replace('"vulkan"', '"metal"'), "static properties have only", "PEP 825"),
        (LABELLED.replace('["vulkan"]', "[]"), "the list of values is empty", "PEP 825"),
        (LABELLED + '[runtime]\nrequires = ["a b"]\n', '"a b" is no requirement', "PEP 508"),
        (LABELLED + '[runtime]\nrequire = ["a"]\n', "unknown key `require` in `[runtime]`", 'Did you mean "requires"?'),
        (GOOD + "devise = 'GPU'\n", "unknown key `devise` in `[smoke]`", 'Did you mean "device"?'),
        (GOOD.replace('"x"', "1"), "key `summary`: expected `str`, got `int`", "Correct the file"),
        (GOOD.replace('["linux_x86_64"]', '"linux_x86_64"'), "key `platforms`: expected `array`", "Correct the file"),
        (GOOD.replace("linux_x86_64", "linux_z80"), 'nobody knows the platform "linux_z80"', "linux_x86_64"),
        (GOOD.replace('["linux_x86_64"]', "[]"), "key `platforms` is empty", "Name at least one"),
        (GOOD.replace('"x"', '""'), "key `summary` must be one line", "who gets this variant"),
        ('label = "CUDA-12"\n' + GOOD, '"CUDA-12" is no variant label', "PEP 825"),
        ('label = "abcdefghijklmnopq"\n' + GOOD, "is no variant label", "1 to 16"),
        ('summary = "x"\nplatforms = ["linux_x86_64"]\n', "key `smoke` is missing", "docs/variants.md"),
        ("[[", "not valid TOML", "Correct the file"),
        ("summary = 'ü\n", "not valid TOML", "Correct the file"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, what: str, remedy: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(MatrixError) as caught:
        matrix.read(path)
    assert str(path) in caught.value.what
    assert what in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("label", ["_x", "a.", ".", "..", "a__b", "a._b", "cpu", "null", "", "ä", "a/b", "a b"])
def test_labels_that_cannot_be_a_folder_or_a_version(tmp_path: Path, label: str) -> None:
    path = write(tmp_path, LABELLED.replace('label = "v"', f'label = "{label}"'))
    with pytest.raises(MatrixError, match="is no variant label"):
        matrix.read(path)


def test_labels_that_are_one_local_version(tmp_path: Path) -> None:
    """``a_1`` and ``a.01`` would be the same file of a classic index."""
    write(tmp_path, LABELLED.replace('label = "v"', 'label = "a_1"'), "one.toml")
    write(tmp_path, LABELLED.replace('label = "v"', 'label = "a.01"'), "two.toml")
    with pytest.raises(MatrixError, match="both have"):
        matrix.load(tmp_path)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"summary = '\xff'\n")
    with pytest.raises(MatrixError, match=r"x\.toml"):
        matrix.read(tmp_path / "x.toml")


@pytest.mark.parametrize("text", [GOOD, LABELLED])
def test_two_files_with_one_label(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, "one.toml")
    write(tmp_path, text, "two.toml")
    with pytest.raises(MatrixError, match=r"one\.toml and .*two\.toml both have"):
        matrix.load(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"no \*\.toml"):
        matrix.load(tmp_path)


def test_select() -> None:
    variants = matrix.load()
    assert [v.name for v in matrix.select(["cpu", "cpu"], variants)] == ["cpu"]
    assert [v.name for v in matrix.select([], variants)] == list(variants)
    with pytest.raises(UsageError) as caught:
        matrix.select(["cpuu"], variants)
    assert "cpuu" in caught.value.what
    assert 'Did you mean "cpu"?' in caught.value.remedy
    assert "Variants: cpu" in caught.value.remedy
