"""Every backend that can be built: the modules of this room that have a ``BACKEND``."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from .backend import Backend


def _find() -> dict[str, Backend]:
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name != "registry")
    found = [getattr(importlib.import_module(f".{name}", __package__), "BACKEND", None) for name in names]
    return {backend.name: backend for backend in found if isinstance(backend, Backend)}


#: By ggml's name.
BACKENDS = _find()
