"""Write one of the benchmark's models (llama architecture, random weights) to a path: ``make_model.py FILE SIZE TYPE``."""

from __future__ import annotations

import sys
from pathlib import Path

from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).parent.parent / "inference"))

import tiny

SHAPES = {
    "15M": tiny.Shape(vocab=16_000, dim=256, layers=10, heads=8, kv_heads=8, hidden=768),
    "100M": tiny.Shape(vocab=16_000, dim=768, layers=12, heads=12, kv_heads=4, hidden=2048),
    "1B": tiny.Shape(vocab=32_000, dim=2048, layers=20, heads=16, kv_heads=4, hidden=5632),
}

if __name__ == "__main__":
    file, size, kind = sys.argv[1:]
    tiny.write(Path(file), Type[kind], SHAPES[size])
