"""A copy of this checkout to run the command line in, so that a test may break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Our tracked files (without tests) in a folder whose name has a space and an umlaut."""
    folder = tmp_path / "a chéckout"
    for name in ("variants", "llama_cpp"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "vendor").mkdir()
    for name in ("vendor/upstream.toml", "CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def cli(checkout: Path) -> Cli:
    """Run ``python -m variants`` in the copy; no index is within reach."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "COLUMNS": "200", **environment}
        env.pop("PIP_FIND_LINKS", None)
        command = [sys.executable, "-m", "variants", *map(str, arguments)]
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    return run
