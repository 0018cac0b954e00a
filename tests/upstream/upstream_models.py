"""A pytest plugin for upstream's own tests (``-p upstream_models``): models from a hub are replaced or the test is skipped.

A test that only needs some transformer gets our tiny one. A test that wants the very words of a certain model is skipped, unless
a folder named by ``LLAMA_CPP_TEST_MODELS`` holds its file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import huggingface_hub
import pytest
from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).parent.parent / "inference"))

import tiny

#: Files that any llama-architecture model can stand in for.
_REPLACED = {"tinyllamas/stories15M-q4_0.gguf": (Type.Q4_0, False), "bge-small-en-v1.5-q4_k_m.gguf": (Type.F32, True)}
_folder = tempfile.TemporaryDirectory(prefix="tiny-models-")


def local_model(repo_id: str, filename: str, **_: object) -> str:
    """The path of a local model for this one on a hub; skips the test where there is none."""
    own = os.environ.get("LLAMA_CPP_TEST_MODELS")
    if own and (Path(own) / Path(filename).name).is_file():
        return str(Path(own) / Path(filename).name)
    if filename in _REPLACED:
        path = Path(_folder.name) / Path(filename).name
        kind, pooled = _REPLACED[filename]
        return str(path if path.exists() else tiny.write(path, kind, tiny.Shape(vocab=512), pooled=pooled))
    pytest.skip(f"wants the words of {repo_id}/{filename}; put that file into the folder LLAMA_CPP_TEST_MODELS")


huggingface_hub.hf_hub_download = local_model
