"""A vision projector: what it makes of an image, against NumPy, and the image in a prompt. On the CPU; test_gpu.py has the GPU."""

from __future__ import annotations

import ctypes
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Callable, Iterator, cast

import llama_cpp
import numpy as np
import numpy.typing as npt
import projector
import pytest
from llama_cpp import mtmd_cpp as mtmd
from test_inference import load

#: Largest allowed difference of an embedding (standard deviation about 1). Measured: 2e-3, which is the GELU's table.
TOLERANCE = 1e-2

Models = Callable[[str], Path]


def picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (projector.IMAGE, projector.IMAGE, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def mmproj(gguf_file: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A projector for the tiny model."""
    return projector.write(tmp_path_factory.mktemp("projector") / "mmproj.gguf", 256)


@contextmanager
def chunks(model: llama_cpp.Llama, mmproj: Path, gpu: bool) -> Iterator[tuple[mtmd.mtmd_context_p, list[mtmd.mtmd_input_chunk_p]]]:
    """The projector, and the prompt `a <image> b` cut into its chunks."""
    settings = mtmd.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.print_timings = gpu, 2, False
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), model.model, settings)
    if context is None:
        raise ValueError("the projector was not loaded")
    pixels = picture().tobytes()
    buffer = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = mtmd.mtmd_bitmap_init(projector.IMAGE, projector.IMAGE, buffer)
    text = mtmd.mtmd_input_text()
    text.text, text.add_special, text.parse_special = b"a " + mtmd.mtmd_default_marker() + b" b", True, True
    if hasattr(text, "text_len"):  # not in older releases
        text.text_len = len(text.text)
    found = mtmd.mtmd_input_chunks_init()
    code = mtmd.mtmd_tokenize(context, found, ctypes.byref(text), (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap), 1)
    assert code == 0
    yield context, [mtmd.mtmd_input_chunks_get(found, index) for index in range(mtmd.mtmd_input_chunks_size(found))]
    mtmd.mtmd_input_chunks_free(found)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(context)


def encode(context: mtmd.mtmd_context_p, parts: list[mtmd.mtmd_input_chunk_p]) -> npt.NDArray[np.float64]:
    """Embeddings of the image among the chunks, (tokens, dimensions)."""
    if not hasattr(mtmd, "mtmd_get_output_embd"):
        pytest.skip("the bindings of this older release have no mtmd_get_output_embd")
    (image,) = [chunk for chunk in parts if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE]
    count = mtmd.mtmd_input_chunk_get_n_tokens(image)
    code = mtmd.mtmd_encode_chunk(context, image)
    if code:
        raise RuntimeError(f"mtmd_encode_chunk returned {code}")
    values = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), (count, 256))
    return cast("npt.NDArray[np.float64]", values.astype(np.float64))


def test_embeddings(gguf_file: Models, mmproj: Path) -> None:
    with closing(load(gguf_file("F32"))) as model, chunks(model, mmproj, gpu=False) as (context, parts):
        ours = encode(context, parts)
    truth = projector.embeddings(mmproj, picture())
    assert ours.shape == truth.shape
    assert 0.1 < truth.std() < 10
    assert np.abs(ours - truth).max() < TOLERANCE


def test_image_in_a_prompt(gguf_file: Models, mmproj: Path) -> None:
    """The chunks go through the model one by one, as upstream's chat handlers send them."""
    with closing(load(gguf_file("F32"))) as model, chunks(model, mmproj, gpu=False) as (context, parts):
        past = ctypes.c_int32(0)
        for index, chunk in enumerate(parts):
            last = index == len(parts) - 1
            code = mtmd.mtmd_helper_eval_chunk_single(context, model.ctx, chunk, past.value, 0, 512, last, ctypes.byref(past))
            assert code == 0
        tokens = sum(mtmd.mtmd_input_chunk_get_n_tokens(chunk) for chunk in parts)
        assert past.value == tokens
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
        assert np.isfinite(logits).all()
        assert logits.std() > 0.1
