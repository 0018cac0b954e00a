"""What the documentation says of each installer and command, done for real. docs/installing.md says the same in words."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.installers.tools import FEATURE, ROOT, UV, install, run, tool, which
from variants import matrix
from variants.platforms import PLATFORMS

Offer = tuple[Path, str]
GPU = {"NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION": "13.0", "NV_VARIANT_PROVIDER_FORCE_SM_ARCH": "12.0"}
PYPROJECT = '[project]\nname = "try-it"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["llama-cpp-python"]\n'


@pytest.mark.parametrize("installer", ["uv", "old-uv", "pip", "old-pip"])
def test_everybody_else_gets_the_plain_wheel(installer: str, offer: Offer, tmp_path: Path) -> None:
    """Without a warning, on a machine with a GPU: uv as it comes, an older uv (even when asked for it), pip, an old pip."""
    assert install(installer, f"{offer[1]}simple/", tmp_path, **GPU) == "plain"
    assert install(installer, f"{offer[1]}simple/", tmp_path, "llama-cpp-python==9.9.6", **GPU) == "plain"


def test_poetry(offer: Offer, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    source = f'\n[[tool.poetry.source]]\nname = "it"\nurl = "{offer[1]}simple/"\npriority = "primary"\n'
    (project / "pyproject.toml").write_text(PYPROJECT + "\n[tool.poetry]\npackage-mode = false\n" + source)
    poetry = tool("poetry")
    run([poetry, "env", "use", sys.executable], tmp_path, project)
    done = run([poetry, "install", "--no-interaction"], tmp_path, project, env=GPU)
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert which(project / ".venv" / "bin" / "python") == "plain"
    assert "9.9.7" in (project / "poetry.lock").read_text()


def test_pdm(offer: Offer, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    source = (
        f'\n[tool.pdm]\ndistribution = false\n[[tool.pdm.source]]\nname = "pypi"\nurl = "{offer[1]}simple/"\nverify_ssl = false\n'
    )
    (project / "pyproject.toml").write_text(PYPROJECT + source)
    pdm = tool("pdm")
    run([pdm, "use", "--first", Path(sys.base_prefix) / "bin" / "python3"], tmp_path, project)
    run([pdm, "lock"], tmp_path, project, env=GPU)
    done = run([pdm, "install"], tmp_path, project, env=GPU)
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert which(project / ".venv" / "bin" / "python") == "plain"


def test_uv_pip_compile(offer: Offer, tmp_path: Path) -> None:
    """It resolves with variants: the CUDA wheel's own requirements are in the result, and the hashes are of every file."""
    (tmp_path / "requirements.in").write_text("llama-cpp-python\n")
    command = [
        UV,
        "pip",
        "compile",
        "--quiet",
        "--default-index",
        f"{offer[1]}simple/",
        "--python",
        sys.executable,
        "requirements.in",
    ]
    assert "nvidia" not in run(command, tmp_path).stdout
    assert "nvidia-cublas" in run(command, tmp_path, env=FEATURE | GPU).stdout
    hashes = run([*command, "--generate-hashes"], tmp_path, env=FEATURE | GPU).stdout
    listed = json.loads((offer[0] / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]
    labelled = {row["hashes"]["sha256"] for row in listed if row["filename"].endswith("x86_64-cuda13.whl")}
    assert labelled & set(re.findall(r"sha256:([0-9a-f]{64})", hashes))


def test_uv_run_and_tool(offer: Offer, tmp_path: Path) -> None:
    """`uv run --with`, `uv tool install` and `uv tool run` (uvx) take the variant."""
    index = ["--default-index", f"{offer[1]}simple/", "--python", sys.executable]
    with_it = [UV, "run", "--quiet", "--no-project", *index, "--with", "llama-cpp-python", "python", "-m", "llama_cpp"]
    assert run(with_it, tmp_path, env=FEATURE | GPU).stdout.strip() == "cuda13"
    assert run(with_it, tmp_path, env=FEATURE | {"UV_CACHE_DIR": str(tmp_path / "other")}).stdout.strip() == "vulkan"
    folder = tmp_path / "tools"
    env = {"UV_TOOL_DIR": str(folder), "UV_TOOL_BIN_DIR": str(folder / "bin"), **FEATURE, **GPU}
    run([UV, "tool", "install", "--quiet", *index, "llama-cpp-python"], tmp_path, env=env)
    assert run([folder / "bin" / "which-llama_cpp"], tmp_path).stdout.strip() == "cuda13"
    tool_run = [UV, "tool", "run", "--quiet", *index, "--from", "llama-cpp-python", "which-llama_cpp"]
    assert run(tool_run, tmp_path, env=FEATURE | {"UV_CACHE_DIR": str(tmp_path / "third")}).stdout.strip() == "vulkan"


def test_uv_lock_and_sync(offer: Offer, tmp_path: Path) -> None:
    """`uv lock` and `uv sync` know no labels: the plain wheel, on every machine, feature or not."""
    project = tmp_path / "project"
    project.mkdir()
    text = f'\n[[tool.uv.index]]\nname = "it"\nurl = "{offer[1]}simple/"\ndefault = true\n'
    (project / "pyproject.toml").write_text(PYPROJECT + text)
    env = {"UV_NO_CONFIG": "0", "UV_PYTHON": sys.executable, **FEATURE, **GPU}
    run([UV, "lock"], tmp_path, project, env=env)
    run([UV, "sync", "--frozen"], tmp_path, project, env=env)
    assert which(project / ".venv" / "bin" / "python") == "plain"
    locked = tomllib.loads((project / "uv.lock").read_text())["package"]
    (package,) = (package for package in locked if package["name"] == "llama-cpp-python")
    found = {row["url"].rsplit("/", 1)[1].rsplit("-", 1)[1] for row in package["wheels"]}
    assert found == {f"{platform.tag}.whl" for platform in PLATFORMS.values()}
    exported = run([UV, "export", "--quiet", "--frozen"], tmp_path, project, env={"UV_NO_CONFIG": "0"}).stdout
    assert "nvidia" not in exported


def test_pip_download(offer: Offer, tmp_path: Path) -> None:
    """pip download takes the plain wheel; of one backend, with its own index, that backend's."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", tmp_path / "files"]
    run([*pip, "--index-url", f"{offer[1]}simple/", "llama-cpp-python"], tmp_path)
    run([*pip, "--no-deps", "--index-url", f"{offer[1]}backends/cuda12/simple/", "llama-cpp-python"], tmp_path)
    assert {path.name for path in (tmp_path / "files").iterdir()} == {
        "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl",
        "llama_cpp_python-9.9.7+cuda12-py3-none-manylinux_2_17_x86_64.whl",
    }


@pytest.mark.parametrize("label", [variant.label or "plain" for variant in matrix.load().values() if variant.published])
@pytest.mark.parametrize("installer", ["uv", "old-uv", "pip"])
def test_one_backend(installer: str, label: str, offer: Offer, tmp_path: Path) -> None:
    """The classic index of a backend, beside the one that has its requirements: that backend, with any installer, any machine."""
    name = "cpu" if label == "plain" else label
    python = tmp_path / "venv" / "bin" / "python"
    if installer == "pip":
        run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
        command: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--extra-index-url",
            f"{offer[1]}backends/{name}/simple/",
        ]
        command += ["--index-url", f"{offer[1]}simple/"]
    else:
        run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], tmp_path)
        uv = UV if installer == "uv" else tool(installer)
        command = [uv, "pip", "install", "--quiet", "--python", python, "--index", f"{offer[1]}backends/{name}/simple/"]
        command += ["--default-index", f"{offer[1]}simple/"]
    run([*command, "llama-cpp-python"], tmp_path)
    assert which(python) == label
    version = run([UV, "pip", "list", "--python", python, "--format", "json"], tmp_path).stdout
    (row,) = (row for row in json.loads(version) if row["name"] == "llama-cpp-python")
    assert row["version"] == ("9.9.7" if label == "plain" else f"9.9.7+{label}")
    run([UV, "pip", "check", "--python", python], tmp_path)


def test_the_documented_project(offer: Offer, tmp_path: Path) -> None:
    """The pyproject.toml of docs/installing.md, with extras of which each takes another backend, locked and synced."""
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(# pyproject\.toml\n.+?)```", page, re.DOTALL)
    project = tmp_path / "project"
    project.mkdir()
    text = text.replace("https://example.org/llama/", offer[1])
    text += f'\n[[tool.uv.index]]\nname = "the-rest"\nurl = "{offer[1]}simple/"\ndefault = true\n'
    (project / "pyproject.toml").write_text(text)
    env = {"UV_NO_CONFIG": "0", "UV_PYTHON": sys.executable}
    run([UV, "lock", "--quiet"], tmp_path, project, env=env)
    locked = tomllib.loads((project / "uv.lock").read_text())["package"]
    versions = {package["version"] for package in locked if package["name"] == "llama-cpp-python"}
    assert versions == {"9.9.7", "9.9.7+cuda12", "9.9.7+vulkan"}
    for extra, expected in {"cpu": "plain", "cuda12": "cuda12", "vulkan": "vulkan"}.items():
        run([UV, "sync", "--quiet", "--frozen", "--extra", extra], tmp_path, project, env=env)
        assert which(project / ".venv" / "bin" / "python") == expected
    done = run([UV, "sync", "--quiet", "--frozen", "--extra", "cpu", "--extra", "cuda12"], tmp_path, project, env=env, fails=True)
    assert "incompatible" in done.stderr or "conflict" in done.stderr


def test_machine_changes(offer: Offer, tmp_path: Path) -> None:
    """An installed variant stays when the machine changes; --reinstall-package takes the one that fits now."""
    assert install("uv", f"{offer[1]}simple/", tmp_path, **FEATURE) == "vulkan"
    python = tmp_path / "venv" / "bin" / "python"
    again: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", python, "--default-index", f"{offer[1]}simple/"]
    run([*again, "llama-cpp-python"], tmp_path, env=FEATURE | GPU)
    assert which(python) == "vulkan"
    run([*again, "--reinstall-package", "llama-cpp-python", "llama-cpp-python"], tmp_path, env=FEATURE | GPU)
    assert which(python) == "cuda13"


def test_four_requests_before_the_download(offer: Offer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, the plain wheel's metadata, the labels, the chosen wheel's metadata; then one wheel and no other."""
    capsys.readouterr()
    install("uv", f"{offer[1]}simple/", tmp_path, **FEATURE)
    lines = [line.split('"')[1].split()[1] for line in capsys.readouterr().out.splitlines() if '"GET ' in line]
    assert len([line for line in lines if not line.endswith(".whl")]) == 4, lines
    assert len([line for line in lines if line.endswith(".whl")]) == 1
