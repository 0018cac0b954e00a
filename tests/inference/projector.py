"""A tiny vision projector (LLaVA's: a vision transformer and a two-layer perceptron), its file and its forward pass in NumPy.

As in llama.cpp, tools/mtmd/models/llava.cpp: patches by a convolution, learned positions, layers of LayerNorm, attention and a
feed-forward part with the quick GELU; the last layer is left out; then linear, GELU, linear.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

IMAGE, PATCH, DIM, HEADS, HIDDEN, LAYERS, EPSILON = 56, 14, 64, 4, 128, 3, 1e-5


def write(path: Path, out: int, seed: int = 7) -> Path:
    """Write the projector to embeddings of `out` dimensions, with random weights, and return its path."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    for name, value in (
        ("image_size", IMAGE), ("patch_size", PATCH), ("embedding_length", DIM), ("feed_forward_length", HIDDEN),
        ("block_count", LAYERS), ("projection_dim", out), ("attention.head_count", HEADS),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", EPSILON)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])

    def tensor(name: str, *shape: int, scale: float | None = None) -> None:
        spread = scale if scale is not None else 1 / np.sqrt(np.prod(shape[1:]))
        writer.add_tensor(name, (random.standard_normal(shape) * spread).astype(np.float32))

    def linear(name: str, rows: int, columns: int) -> None:
        tensor(f"{name}.weight", rows, columns)
        tensor(f"{name}.bias", rows, scale=0.1)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", (1 + 0.1 * random.standard_normal(DIM)).astype(np.float32))
        tensor(f"{name}.bias", DIM, scale=0.1)

    tensor("v.patch_embd.weight", DIM, 3, PATCH, PATCH)
    tensor("v.position_embd.weight", (IMAGE // PATCH) ** 2, DIM, scale=1.0)
    norm("v.pre_ln")
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"v.blk.{layer}.{name}", DIM, DIM)
        linear(f"v.blk.{layer}.ffn_up", HIDDEN, DIM)
        linear(f"v.blk.{layer}.ffn_down", DIM, HIDDEN)
        norm(f"v.blk.{layer}.ln1")
        norm(f"v.blk.{layer}.ln2")
    linear("mm.0", HIDDEN, DIM)
    linear("mm.2", out, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def embeddings(path: Path, image: npt.NDArray[np.uint8]) -> Array:
    """What the projector makes of an RGB image (IMAGE, IMAGE, 3): (patches, out), row by row."""
    w = {tensor.name: np.array(tensor.data, dtype=np.float64) for tensor in gguf.GGUFReader(path).tensors}

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])

    count = IMAGE // PATCH
    pixels = (image.astype(np.float64) / 255 - 0.5) / 0.5
    patches = pixels.reshape(count, PATCH, count, PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(count * count, -1)
    x = patches @ w["v.patch_embd.weight"].reshape(DIM, -1).T + w["v.position_embd.weight"]
    x = norm("v.pre_ln", x)
    for layer in range(LAYERS - 1):
        p = f"v.blk.{layer}."
        h = norm(p + "ln1", x)
        q, k, v = (linear(p + name, h).reshape(len(h), HEADS, -1) for name in ("attn_q", "attn_k", "attn_v"))
        scores = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1]))
        attended = np.einsum("hij,jhd->ihd", scores / scores.sum(axis=-1, keepdims=True), v).reshape(len(h), -1)
        x = x + linear(p + "attn_out", attended)
        up = linear(p + "ffn_up", norm(p + "ln2", x))
        x = x + linear(p + "ffn_down", up / (1 + np.exp(-1.702 * up)))
    h = linear("mm.0", x)
    return linear("mm.2", 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))))
