"""Which changes ask for which wheels."""

from __future__ import annotations

import pytest

from variants import matrix
from variants.release import jobs


@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ("vendor/upstream.toml", "all"),
        ("llama_cpp/guard/llama.cpp", "all"),
        ("variants/core.py", "all"),
        ("variants/data/core.toml", "all"),
        ("variants/vulkan.toml", "vulkan"),
        ("variants/cuda.py", "cuda12 cuda13"),
        ("variants/data/toolkits/cuda13.txt", "cuda13"),
        ("variants/data/toolkits/cuda12/bin/x", "cuda12"),
        ("variants/data/machines.toml", ""),
        ("variants/data/index.html.jinja", ""),
        ("variants/explain.py", ""),
        ("docs/design.md", ""),
        ("tests/unit/test_jobs.py", ""),
    ],
)
def test_what_a_file_concerns(file: str, asked: str) -> None:
    variants = matrix.load()
    found = [name for name, variant in variants.items() if jobs._concerns(file, variant)]
    assert found == (list(variants) if asked == "all" else asked.split())
