"""Fixtures of the smoke inference. It runs beside an installed wheel, in a directory that has nothing to do with the checkout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).parent))

import tiny


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model in a tensor type, by the type's name (``Q4_K``); written once."""
    folder = tmp_path_factory.mktemp("models")

    def get(kind: str) -> Path:
        path = folder / f"tiny-{kind}.gguf"
        return path if path.exists() else tiny.write(path, Type[kind])

    return get
