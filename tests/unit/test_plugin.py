"""Variants with a plugin, as far as no compiler is needed: what is wanted and found, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.conftest import Cli
from variants import errors, toolchain, toolkit


def test_nobody_knows_the_plugin(cli: Cli) -> None:
    done = cli("build", "cuda12")
    assert done.returncode == errors.UsageError.exit_code
    assert "cuda12 cannot be built yet: it wants ggml's plugin `cuda`" in done.stdout
    assert "Plugins that can be built: vulkan" in done.stdout


def test_zig_is_refused_for_a_plugin(cli: Cli) -> None:
    done = cli("build", "vulkan", "--toolchain", "zig")
    assert done.returncode == errors.UsageError.exit_code
    assert "an error that its plugin throws would end the process" in done.stdout


def test_dry_run_shows_the_plugin(cli: Cli, tmp_path: Path) -> None:
    compiler = _compiler(tmp_path)
    done = cli("build", "vulkan", "--dry-run", CC=str(compiler), CXX=str(compiler))
    assert done.returncode == 0
    assert "ggml-vulkan against that core" in done.stdout
    assert "label" in done.stdout


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toolchain.Toolchain:
    """A toolchain whose compiler finds no header."""
    compiler = _compiler(tmp_path)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    return toolchain.find("system", tmp_path)


def _compiler(folder: Path) -> Path:
    path = folder / "gcc"
    text = '#!/bin/sh\ncase "$*" in *version*) echo 12.2.0;; *) echo "no such header" >&2; exit 1;; esac\n'
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_missing_toolkit(system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error with every part, what was found of it, and the command that brings the rest."""
    monkeypatch.setenv("PATH", str(tmp_path))
    kit = toolkit.find("vulkan", system, tmp_path)
    assert {part.what for part in kit.missing} >= {"glslc", "Vulkan headers", "SPIR-V headers"}
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(kit)
    assert "glslc: wanted any; newer ones give faster shaders, found nothing" in caught.value.what
    assert "apt-get install glslc" in caught.value.remedy


def test_shader_features(system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glslc that refuses one extension: the others are told, by the names of upstream's own tests."""
    glslc = tmp_path / "bin" / "glslc"
    glslc.parent.mkdir()
    glslc.write_text(
        '#!/bin/sh\ncase "$*" in\n--version) echo "shaderc v2023.2 2023.2-1";;\n'
        '*coopmat*) echo "error: extension not supported: GL_KHR_cooperative_matrix" >&2; exit 1;;\nesac\n'
    )
    glslc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{glslc.parent}{os.pathsep}{os.environ['PATH']}")
    tests = tmp_path / "vendor/llama.cpp/ggml/src/ggml-vulkan/vulkan-shaders/feature-tests"
    tests.mkdir(parents=True)
    for name in ("coopmat", "integer_dot"):
        (tests / f"{name}.comp").touch()
    kit = toolkit.find("vulkan", system, tmp_path)
    assert kit.facts == {"glslc": "v2023.2", "shader_features": ["integer_dot"]}
    assert str(glslc) in str(kit.parts[0].found)
