"""Write the benchmark's model (about 100 million parameters, Q4_K, random weights) to the path given."""

from __future__ import annotations

import sys
from pathlib import Path

from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).parent.parent / "inference"))

import tiny

SHAPE = tiny.Shape(vocab=16_000, dim=768, layers=12, heads=12, kv_heads=4, hidden=2048)

if __name__ == "__main__":
    tiny.write(Path(sys.argv[1]), Type.Q4_K, SHAPE)
