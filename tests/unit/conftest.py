"""A copy of this checkout to run the command line in, so that a test may break it."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.forks import Forks

ROOT = Path(__file__).parent.parent.parent
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our tracked files (without tests), with their bytecode, which every copy has then."""
    folder = tmp_path_factory.mktemp("compiled") / "checkout"
    for name in ("variants", "llama_cpp"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "vendor").mkdir()
    for name in ("vendor/upstream.toml", "CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    compileall.compile_dir(folder / "variants", quiet=1)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, compiled: Path) -> Path:
    """Our files in a folder whose name has a space and an umlaut."""
    return Path(shutil.copytree(compiled, tmp_path / "a chéckout"))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    process = Forks()
    yield process
    process.end()


@pytest.fixture
def cli(checkout: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Run ``python -m variants`` in the copy; no index is within reach."""
    return _runner(checkout, forks, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="session")
def asking(compiled: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The same for commands that change nothing, in one copy for all of them."""
    return _runner(compiled, forks, tmp_path_factory.mktemp("out"))


def _runner(folder: Path, forks: Forks, out: Path) -> Cli:
    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "COLUMNS": "200", **environment}
        env.pop("PIP_FIND_LINKS", None)
        done = forks.run(list(map(str, arguments)), folder, env, out)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    return run
