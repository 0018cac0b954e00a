"""The parts of the documents that are made from the code are what the code gives now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from variants import __main__ as command_line
from variants import matrix
from variants.release import documents, support
from variants.trial.bench import kept
from variants.upstream.source import ROOT
from variants.wheel import records


def test_nothing_is_stale() -> None:
    made = documents.made(command_line.parser(), {"benchmarks": kept.tables()})
    assert {file.name for file in made} >= {"README.md", "variants.md", "platforms.md", "reference.md", "machines.md"}
    stale = [file.name for file, text in made.items() if file.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `nox -s docs`"
    assert "| `nox -s build_variant` |" in made[ROOT / "docs" / "reference.md"]
    assert "--toolkit" in made[ROOT / "docs" / "reference.md"]


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]
)
def test_sessions_and_steps_are_there(name: str) -> None:
    """A session or a step that a page names is one of the noxfile's, or of the command line's."""
    text = (ROOT / name).read_text(encoding="utf-8")
    sessions = re.findall(r"@nox\.session\([^)]*\)(?:\n@.+)*\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert {"build_variant", "docs"} <= set(sessions)
    named = [word for found in re.findall(r"(?:\bnox|noxfile\.py) -s ((?:[a-z_]+\b ?)+)", text) for word in found.split()]
    assert set(named) <= set(sessions), name
    steps = re.findall(
        r"^\| `python -m variants ([a-z-]+)` \|", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert "build" in steps
    assert set(re.findall(r"python -m variants ([a-z][a-z-]*)", text)) <= set(steps), name


def test_every_page_is_in_the_site() -> None:
    """mkdocs.yml names every page once, by its path in the repository."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))}
    assert sorted(re.findall(r"\S+\.md", nav)) == sorted(pages)


def test_support_says_no_more_than_the_records(tmp_path: Path) -> None:
    """Nothing recorded is never; GPU code for some GPUs is told apart from all; a software device is no GPU, a GPU has its name."""

    def row(name: str) -> str:
        return next(line for line in support.support(tmp_path) if line.startswith(f"| `{name}` |"))

    assert row("cuda13").endswith("| **never** | **never** |")
    here = {"processor": "EPYC (cpu-zen4)", "system": "Debian 12", "python": "CPython 3.12"}
    plain, cuda, vulkan = (
        tmp_path / f"llama_cpp_python-0.3.36-py3-none-manylinux_2_35_x86_64{label}.whl" for label in ("", "-cuda13", "-vulkan")
    )
    for wheel, tools in ((plain, "zig"), (cuda, "gcc 12; architectures 90; ptx none"), (vulkan, "gcc 12")):
        wheel.write_bytes(b"wheel")
        records.add(wheel, what=records.BUILT, installer="", devices="", tools=tools, **here)
    emulated = here | {"processor": "Nehalem, emulated by qemu-user (cpu-sse42)"}
    records.add(plain, what="tests/inference", installer="uv", devices="CPU", passed=40, **emulated)
    assert "| Linux x86-64 | emulated: Linux x86-64; **never**: Linux Arm, " in row("cpu")
    assert "| Linux x86-64 (GPU code only for 90) | **never** |" in row("cuda13")
    records.add(cuda, what="tests/inference", installer="uv", devices="CPU", passed=40, skipped=9, **here)
    assert row("cuda13").endswith("| the CPU of Linux x86-64; **never a GPU** |")
    records.add(cuda, what="tests/inference", installer="pip", devices="CPU, CUDA0 (NVIDIA H200)", passed=49, **here)
    assert row("cuda13").endswith("| the CPU of Linux x86-64; CUDA0 (NVIDIA H200) |")
    records.add(
        vulkan, what="tests/inference", installer="uv", devices="CPU, Vulkan0 (llvmpipe (LLVM 15, 256 bits))", passed=40, **here
    )
    assert row("vulkan").endswith("| the CPU of Linux x86-64; llvmpipe, a software device; **never a GPU** |")
    lists = matrix.load()["cuda13"].lists
    assert lists is not None
    whole = ", ".join(lists.compiled("linux_x86_64"))
    records.add(cuda, what=records.BUILT, installer="uv", devices="", tools=f"gcc 12; architectures {whole}; ptx 90", **here)
    assert "| Linux x86-64 (GPU code only for 90); Linux x86-64 |" in row("cuda13")
