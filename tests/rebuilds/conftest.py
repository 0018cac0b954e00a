"""Running the task library in another checkout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from variants.terminal import process

Run = Callable[..., str]


@pytest.fixture
def variants() -> Run:
    """``variants(folder, "build", "cpu")`` runs ``python -m variants build cpu`` in `folder` and returns what it prints."""

    def call(folder: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        command = [sys.executable, "-m", "variants", *arguments]
        done = subprocess.run(command, cwd=folder, env=process.environment(), capture_output=True, text=True, check=False)
        assert done.returncode in codes, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout

    return call
