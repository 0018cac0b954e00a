"""The table of what ran where says what the records say, and the page in the repository is the one that they give."""

from __future__ import annotations

from pathlib import Path

from variants.release import runs
from variants.wheel import records


def test_the_page_is_generated() -> None:
    assert runs.PAGE.read_text(encoding="utf-8") == runs.markdown(), "run `nox -s runs`"


def test_never_is_said(tmp_path: Path) -> None:
    """A CUDA wheel that was built, and tested where there is no GPU, has run on the CPU and never on its device."""
    wheel = tmp_path / "llama_cpp_python-0.3.36-py3-none-manylinux_2_35_x86_64-cuda13.whl"
    wheel.write_bytes(b"wheel")
    here = {"processor": "EPYC (cpu-zen4)", "system": "Debian 12", "python": "CPython 3.12"}
    records.add(wheel, what=records.BUILT, installer="", devices="", tools="gcc 12; nvcc 13.0", **here)
    records.add(wheel, what="tests/inference", installer="uv", devices="CPU", passed=40, skipped=9, **here)
    assert [run.what for run in records.runs(wheel)] == ["tests/inference"]
    row = "| cuda13 | linux_x86_64 | gcc 12; nvcc 13.0 | EPYC (cpu-zen4) | {} |"
    assert row.format("never") in runs.markdown(tmp_path)
    assert "| cuda12 | linux_x86_64 | never | never | never |" in runs.markdown(tmp_path)
    records.add(wheel, what="tests/inference", installer="pip", devices="CPU, CUDA0 (NVIDIA H200)", passed=49, **here)
    page = runs.markdown(tmp_path)
    assert row.format("CUDA0 (NVIDIA H200)") in page
    assert page.count("| tests/inference |") == 2


def test_collect(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "a.whl.runs.json").write_text("[]")
    (tmp_path / "dist" / "a.whl").write_bytes(b"")
    runs.collect(tmp_path / "dist", tmp_path / "kept")
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["a.whl.runs.json"]
