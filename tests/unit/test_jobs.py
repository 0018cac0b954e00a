"""Which changes ask for which wheels."""

from __future__ import annotations

import json

import pytest

from tests.unit.conftest import Cli
from variants import matrix
from variants.errors import UsageError
from variants.release import jobs
from variants.upstream import source


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
        ("variants/index/page/index.html.jinja", ""),
        ("variants/index/index.py", ""),
        ("variants/trial/bench/rounds.py", ""),
        ("docs/design.md", ""),
        ("tests/unit/test_jobs.py", ""),
    ],
)
def test_what_a_file_concerns(file: str, asked: str) -> None:
    variants = matrix.load()
    found = [name for name, variant in variants.items() if jobs._concerns(file, variant)]
    assert found == (list(variants) if asked == "all" else asked.split())


def test_each_wheel_is_assembled_and_tested() -> None:
    """On its own platform's machine, after the job that assembles it; and where there is a GPU of its maker's, there too."""
    variants = list(matrix.load().values())
    made = jobs.jobs(variants, jobs.Wanted(gpus=("nvidia", "intel"), build_number=2))
    named = {job.name: job for job in [*made.core, *made.plugin, *made.assemble, *made.test]}
    assert len(named) == len(made.core) + len(made.plugin) + len(made.assemble) + len(made.test)
    for variant in variants:
        for platform in variant.buildable:
            test = named[f"test-{variant.name}-{platform}"]
            assert test.runner == jobs.MACHINES[platform].runner
            (assembles,) = test.needs
            assert f" {variant.name} " in named[assembles].command
            assert named[assembles].command.endswith(f"--platform {platform} --build-number 2")
            assert {need for need in named[assembles].needs if need.startswith("plugin-")} <= named.keys()
    assert "apk add" in named["test-cpu-musllinux_x86_64"].prepare
    assert "@sha256:" in named["test-cpu-musllinux_x86_64"].container
    assert " alpine@sha256:" in named["test-cpu-musllinux_aarch64"].command
    assert named["plugin-vulkan-win_amd64"].runner == jobs.MACHINES["linux_x86_64"].runner
    assert "lvp_icd.aarch64.json nox -s test_variant -- vulkan" in named["test-vulkan-linux_aarch64"].command
    assert named["test-vulkan-linux_x86_64-intel"].runner == ["self-hosted", "linux", "x64", "intel"]
    assert named["test-cuda13-linux_x86_64-nvidia"].command == "nox -s test_variant -- cuda13 --as-built"
    assert "test-cuda13-linux_x86_64-intel" not in named
    assert not any("self-hosted" in job.runner for job in jobs.jobs(variants).test)


def test_some_platforms_alone() -> None:
    made = jobs.jobs(list(matrix.load().values()), jobs.Wanted(platforms=("win_amd64",)))
    assert [job.name for job in [*made.core, *made.plugin, *made.assemble, *made.test]] == [
        "core-win_amd64",
        "plugin-cuda12-win_amd64",
        "plugin-vulkan-win_amd64",
        "assemble-win_amd64",
        "test-cpu-win_amd64",
        "test-cuda12-win_amd64",
        "test-vulkan-win_amd64",
    ]


def test_the_build_number_in_a_tag() -> None:
    version = source.read_pin().version
    assert jobs.build_number(f"v{version}") is None
    assert jobs.build_number(f"v{version}-12") == 12
    for tag in ("v9.9.9", version, f"v{version}-x", f"v{version}-1-2", f"v{version}.1"):
        with pytest.raises(UsageError, match="is not of"):
            jobs.build_number(tag)


def test_an_error_is_no_job(cli: Cli) -> None:
    """What a CI system reads is on one stream, an error on the other: redirected, it must not be lost."""
    done = cli("matrix", "--json", "--tag", "v9.9.9")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is not of" in done.stderr
    assert json.loads(cli("matrix", "--json", "cpu").stdout)["core"]
