"""The judge: a forward pass of the llama architecture in NumPy float64, over the same GGUF file as the gguf package reads it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Oracle:
    """RMSNorm, rotary embedding over pairs (2i, 2i+1), grouped-query attention, SwiGLU (llama.cpp, src/models/llama.cpp)."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.weights: dict[str, Array] = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64) for tensor in reader.tensors
        }

        def number(key: str) -> float:
            return float(reader.fields[f"llama.{key}"].contents())

        self.layers = int(number("block_count"))
        self.heads = int(number("attention.head_count"))
        self.kv_heads = int(number("attention.head_count_kv"))
        self.epsilon = number("attention.layer_norm_rms_epsilon")

    def hidden(self, tokens: list[int]) -> Array:
        """Last hidden states after the output norm, (tokens, dim)."""
        w = self.weights
        x = w["token_embd.weight"][tokens]
        n = len(tokens)
        mask = np.triu(np.full((n, n), -np.inf), k=1)
        for layer in range(self.layers):
            p = f"blk.{layer}."
            h = self._norm(x, w[p + "attn_norm.weight"])
            q = self._rotate((h @ w[p + "attn_q.weight"].T).reshape(n, self.heads, -1))
            k = self._rotate((h @ w[p + "attn_k.weight"].T).reshape(n, self.kv_heads, -1))
            v = (h @ w[p + "attn_v.weight"].T).reshape(n, self.kv_heads, -1)
            k, v = (np.repeat(part, self.heads // self.kv_heads, axis=1) for part in (k, v))
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1]) + mask
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            attended = np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1)
            x = x + attended @ w[p + "attn_output.weight"].T
            h = self._norm(x, w[p + "ffn_norm.weight"])
            gate = h @ w[p + "ffn_gate.weight"].T
            up = h @ w[p + "ffn_up.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "ffn_down.weight"].T
        return self._norm(x, w["output_norm.weight"])

    def logits(self, tokens: list[int]) -> Array:
        """Logits after each token, (tokens, vocab)."""
        return np.asarray(self.hidden(tokens) @ self.weights["output.weight"].T)

    def _norm(self, x: Array, weight: Array) -> Array:
        return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * weight)

    @staticmethod
    def _rotate(x: Array) -> Array:
        n, _, size = x.shape
        angles = np.outer(np.arange(n), 10000.0 ** (-np.arange(0, size, 2) / size))[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        out[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return out
