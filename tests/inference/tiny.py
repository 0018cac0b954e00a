"""A model that nobody has to download: llama architecture, seeded random weights, any tensor type, written by the gguf package.

Also used by the benchmark, at a realistic size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_WORDS = (
    "the he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic".split()
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `dim`, `kv_dim` and `hidden` must be multiples of 256 for the K-quants."""

    vocab: int = 384
    dim: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 512
    context: int = 2048

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def kv_dim(self) -> int:
        return self.head_dim * self.kv_heads


def tokens(size: int) -> tuple[list[bytes], list[float], list[int]]:
    """A SentencePiece vocabulary of `size` tokens (pieces, scores, types): control tokens, every byte, letters, some pairs."""
    pieces = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    words = ["\u2581", *(chr(c) for c in range(ord("a"), ord("z") + 1)), *_WORDS, *("\u2581" + word for word in _WORDS)]
    words += [f"\u2581w{number}" for number in range(max(0, size - len(pieces) - len(words)))]
    pieces += [word.encode() for word in words[: size - len(pieces)]]
    types += [gguf.TokenType.NORMAL] * (size - len(types))
    longest_first = [0.0] * 259 + [float(len(piece)) for piece in pieces[259:]]
    return pieces, longest_first, [int(kind) for kind in types]


def write(path: Path, kind: Type, shape: Shape | None = None, seed: int = 20261122, pooled: bool = False) -> Path:
    """Write a GGUF file whose matrices all have the tensor type `kind` (norms are F32) and return its path.

    `pooled`: embeddings are the mean over the tokens, as the file itself says.
    """
    shape = shape or Shape()
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random llama, {kind.name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    if pooled:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    pieces, scores, types = tokens(shape.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)

    def matrix(name: str, rows: int, columns: int, deviation: float) -> None:
        data = _random_matrix(random, kind, rows, columns, deviation)
        writer.add_tensor(name, data, raw_dtype=None if kind is Type.F32 else kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, random.uniform(0.8, 1.2, shape.dim).astype(np.float32))

    by_dim, by_hidden = shape.dim**-0.5, shape.hidden**-0.5
    matrix("token_embd.weight", shape.vocab, shape.dim, 1.0)
    for layer in range(shape.layers):
        norm(f"blk.{layer}.attn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", shape.dim, shape.dim, by_dim)
        matrix(f"blk.{layer}.attn_k.weight", shape.kv_dim, shape.dim, by_dim)
        matrix(f"blk.{layer}.attn_v.weight", shape.kv_dim, shape.dim, by_dim)
        matrix(f"blk.{layer}.attn_output.weight", shape.dim, shape.dim, by_dim)
        norm(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", shape.hidden, shape.dim, by_dim)
        matrix(f"blk.{layer}.ffn_up.weight", shape.hidden, shape.dim, by_dim)
        matrix(f"blk.{layer}.ffn_down.weight", shape.dim, shape.hidden, by_hidden)
    norm("output_norm.weight")
    matrix("output.weight", shape.vocab, shape.dim, by_dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _random_matrix(
    random: np.random.Generator, kind: Type, rows: int, columns: int, deviation: float
) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8] | npt.NDArray[np.float16]:
    """Random weights of the wanted standard deviation, in the bytes of their type: (rows, bytes of a row)."""
    if kind in _DRAWN:  # the gguf package reads these types but does not write them: their blocks are drawn directly
        return _DRAWN[kind](random, rows, columns, deviation)
    values = random.normal(0.0, deviation, (rows, columns)).astype(np.float32)
    if kind is Type.F32:
        return values
    if kind is Type.F16:
        return values.astype(np.float16)
    quantized: npt.NDArray[np.uint8] = gguf.quants.quantize(values, kind)
    return quantized


def _random_q4_k(random: np.random.Generator, rows: int, columns: int, deviation: float) -> npt.NDArray[np.uint8]:
    """Q4_K blocks (ggml-common.h, block_q4_K): 256 weights ``d * scale * q - dmin * minimum``, eight scales and minima a block.

    With minimum = scale and dmin = 7.5 d the weights are centred; scales of four bits keep the packing of
    get_scale_min_k4 (ggml-quants.c) simple.
    """
    blocks = rows * columns // 256
    scales = random.integers(8, 16, (blocks, 8), dtype=np.uint8)
    d = np.full((blocks, 1), deviation / (float(np.sqrt((scales.astype(float) ** 2).mean())) * 4.61), np.float16)
    dmin = (7.5 * d.astype(np.float32)).astype(np.float16)
    low, high = scales[:, :4], scales[:, 4:]
    packed = np.concatenate([low, low, high | (high << 4)], axis=1)
    quants = random.integers(0, 256, (blocks, 128), dtype=np.uint8)
    data = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), packed, quants], axis=1)
    return np.ascontiguousarray(data.reshape(rows, -1))


def _random_q6_k(random: np.random.Generator, rows: int, columns: int, deviation: float) -> npt.NDArray[np.uint8]:
    """Q6_K blocks (ggml-common.h, block_q6_K): 256 weights ``d * scale * (q - 32)``, four low bits, two high bits, 16 scales."""
    blocks = rows * columns // 256
    low = random.integers(0, 256, (blocks, 128), dtype=np.uint8)
    high = random.integers(0, 256, (blocks, 64), dtype=np.uint8)
    scales = random.integers(32, 64, (blocks, 16), dtype=np.int8)
    d = np.full((blocks, 1), deviation / (float(np.sqrt((scales.astype(float) ** 2).mean())) * 18.47), np.float16)
    data = np.concatenate([low, high, scales.view(np.uint8), d.view(np.uint8)], axis=1)
    return np.ascontiguousarray(data.reshape(rows, -1))


def _random_iq4_nl(random: np.random.Generator, rows: int, columns: int, deviation: float) -> npt.NDArray[np.uint8]:
    """IQ4_NL blocks (ggml-common.h, block_iq4_nl): 32 weights ``d * table[q]``, the table's standard deviation being 71.6."""
    blocks = rows * columns // 32
    d = np.full((blocks, 1), deviation / 71.6, np.float16)
    data = np.concatenate([d.view(np.uint8), random.integers(0, 256, (blocks, 16), dtype=np.uint8)], axis=1)
    return np.ascontiguousarray(data.reshape(rows, -1))


_DRAWN = {Type.Q4_K: _random_q4_k, Type.Q6_K: _random_q6_k, Type.IQ4_NL: _random_iq4_nl}
