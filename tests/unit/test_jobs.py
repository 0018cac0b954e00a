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
        ("llama_cpp/threads/threads.c", "all"),
        ("variants/steps/core.py", "all"),
        ("variants/steps/core.toml", "all"),
        ("variants/steps/exports.py", "all"),
        ("variants/upstream/metadata_provider.py", "all"),
        ("variants/pins/build.txt", "all"),
        ("variants/matrix.py", "all"),
        ("variants/backends/toolkit.py", "all"),
        ("variants/trial/smoke.py", "all"),
        (".github/workflows/wheels.yml", "all"),
        ("tests/inference/test_gpu.py", "all"),
        ("variants/vulkan.toml", "vulkan"),
        ("variants/backends/vulkan/include/vulkan/vulkan.hpp", "vulkan"),
        ("variants/backends/hip.py", "rocm7"),
        ("tests/plugins/failing_hip.c", "rocm7"),
        ("variants/backends/cuda/__init__.py", "cuda12 cuda13"),
        ("tests/plugins/cuda_driver.c", "cuda12 cuda13"),
        ("variants/backends/cuda/cuda13.txt", "cuda13"),
        ("variants/backends/cuda/cuda12/bin/clang++", "cuda12"),
        ("variants/choice/machines.toml", ""),
        ("variants/choice/explain.py", ""),
        ("variants/index/index.html.jinja", ""),
        ("variants/index/index.py", ""),
        ("variants/trial/bench.py", ""),
        ("docs/design.md", ""),
        ("tests/unit/test_jobs.py", ""),
    ],
)
def test_what_a_file_concerns(file: str, asked: str) -> None:
    variants = matrix.load()
    found = [name for name, variant in variants.items() if jobs._concerns(file, variant)]
    assert found == (list(variants) if asked == "all" else asked.split())
