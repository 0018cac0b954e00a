"""A model of a few hundred kilobytes, written without anything but Python: llama's architecture, random weights, F32."""

from __future__ import annotations

import array
import random
import struct
import sys
from typing import Any

_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9  # enum gguf_type (gguf.h)
_VOCABULARY, _WIDTH, _LAYERS, _HEADS, _HIDDEN, _ALIGNMENT = 288, 64, 2, 2, 128, 32


def write(path: str) -> str:
    """Write the model as a GGUF file (version 3; gguf.h of ggml has the format) and return its path."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "th", "he"][: _VOCABULARY - len(pieces)]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (_VOCABULARY - 259)]  # unknown, control, byte, normal (enum llama_token_type)
    values: list[tuple[str, int, Any]] = [
        ("general.architecture", _STRING, "llama"),
        ("general.name", _STRING, "the doctor's"),
        ("llama.context_length", _UINT32, 512),
        ("llama.embedding_length", _UINT32, _WIDTH),
        ("llama.block_count", _UINT32, _LAYERS),
        ("llama.feed_forward_length", _UINT32, _HIDDEN),
        ("llama.attention.head_count", _UINT32, _HEADS),
        ("llama.attention.head_count_kv", _UINT32, _HEADS),
        ("llama.rope.dimension_count", _UINT32, _WIDTH // _HEADS),
        ("llama.attention.layer_norm_rms_epsilon", _FLOAT32, 1e-5),
        ("tokenizer.ggml.model", _STRING, "llama"),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, pieces)),
        ("tokenizer.ggml.scores", _ARRAY, (_FLOAT32, [0.0] * _VOCABULARY)),
        ("tokenizer.ggml.token_type", _ARRAY, (_INT32, kinds)),
        ("tokenizer.ggml.bos_token_id", _UINT32, 1),
        ("tokenizer.ggml.eos_token_id", _UINT32, 2),
        ("tokenizer.ggml.unknown_token_id", _UINT32, 0),
    ]
    tensors = list(_tensors())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(_text(key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in values)
    offset = 0
    for name, shape, data in tensors:
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)  # 0: F32
        offset += len(data)  # a multiple of the alignment, as every width is
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % _ALIGNMENT))
        for _, _, data in tensors:
            file.write(data)
    return path


def _tensors() -> Any:
    """Name, sizes (the innermost first) and bytes of every tensor."""
    numbers = random.Random(20261125)

    def matrix(name: str, width: int, rows: int) -> Any:
        scale = (3.0 / width) ** 0.5
        return name, (width, rows), _floats([numbers.uniform(-scale, scale) for _ in range(width * rows)])

    def norm(name: str) -> Any:
        return name, (_WIDTH,), _floats([1.0] * _WIDTH)

    yield matrix("token_embd.weight", _WIDTH, _VOCABULARY)
    for layer in range(_LAYERS):
        yield norm(f"blk.{layer}.attn_norm.weight")
        for name in ("q", "k", "v", "output"):
            yield matrix(f"blk.{layer}.attn_{name}.weight", _WIDTH, _WIDTH)
        yield norm(f"blk.{layer}.ffn_norm.weight")
        yield matrix(f"blk.{layer}.ffn_gate.weight", _WIDTH, _HIDDEN)
        yield matrix(f"blk.{layer}.ffn_up.weight", _WIDTH, _HIDDEN)
        yield matrix(f"blk.{layer}.ffn_down.weight", _HIDDEN, _WIDTH)
    yield norm("output_norm.weight")
    yield matrix("output.weight", _WIDTH, _VOCABULARY)


def _floats(numbers: list[float]) -> bytes:
    data = array.array("f", numbers)
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f"}[kind], value)
