"""Does an installed wheel compute what it should? Against NumPy where a number is judged, against itself elsewhere."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Callable, Iterator

import llama_cpp
import numpy as np
import pytest
from oracle import Oracle
from tiny import CHAT_TEMPLATE, Shape

#: Largest allowed difference of a logit (standard deviation about 1) on the CPU, which quantises activations too. Measured on three
#: CPU plugins: 1e-3 (of which all but 1e-6 comes from the F16 cache of keys and values), 2e-3, 5e-2, 5e-2, 7e-2, 7e-2, 4e-2.
TOLERANCE = {"F32": 5e-3, "F16": 1e-2, "Q8_0": 1e-1, "Q4_0": 1e-1, "Q4_K": 1.2e-1, "Q6_K": 1.2e-1, "IQ4_NL": 1e-1}
EXACT = 1e-4  # F32 weights and F32 cache
KINDS = list(TOLERANCE)
FLASH = "LLAMA_CPP_TEST_FLASH" in os.environ  # some devices compute with flash attention alone

Models = Callable[[str], Path]


def prompt(length: int, seed: int = 1) -> list[int]:
    """Random tokens, the first of them BOS."""
    return [1, *np.random.default_rng(seed).integers(3, Shape().vocab, length - 1).tolist()]


def load(path: Path, **settings: object) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), **{"n_ctx": 512, "n_threads": 2, "verbose": False, "flash_attn": FLASH, **settings})


@pytest.fixture(scope="module")
def llama(gguf_file: Models) -> Iterator[llama_cpp.Llama]:
    model = load(gguf_file("F32"))
    yield model
    model.close()


def test_installed() -> None:
    """What is tested is the installed wheel, not a checkout."""
    assert "site-packages" in Path(llama_cpp.__file__).parts
    assert not (Path.cwd() / "llama_cpp").exists()


def test_cpu_plugin() -> None:
    """On an emulated processor, the plugin made for it was chosen (variants/trial/smoke.py sets the name)."""
    expected = os.environ.get("LLAMA_CPP_TEST_PLUGIN")
    if expected is None:
        pytest.skip("no particular CPU plugin is expected on this machine")
    loaded = [plugin.name for plugin in llama_cpp._backends.state.cpu if plugin.state == "loaded"]
    assert loaded == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_logits(gguf_file: Models, kind: str) -> None:
    tokens = prompt(48)
    with closing(load(gguf_file(kind), logits_all=True)) as model:
        model.eval(tokens)
        ours = np.array(model.scores[: len(tokens)], dtype=np.float64)
    truth = Oracle(gguf_file(kind)).logits(tokens)
    assert ours.shape == truth.shape
    assert 0.3 < truth.std() < 3.0, "the model's logits are of no use for a comparison"
    assert np.abs(ours - truth).max() < TOLERANCE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_continuation(gguf_file: Models, kind: str) -> None:
    judge_greedily(gguf_file(kind), TOLERANCE[kind])


def judge_greedily(path: Path, tolerance: float, **settings: object) -> None:
    """Each next token is NumPy's wherever NumPy's margin over the second best leaves no doubt."""
    tokens = prompt(16, seed=2)
    given = len(tokens)
    with closing(load(path, **settings)) as model:
        for token in model.generate(list(tokens), temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == 40:
                break
    judged = 0
    rows = Oracle(path).logits(tokens[:-1])  # all at once: what stands behind a token has no say in its logits
    for position in range(given, len(tokens)):
        last = rows[position - 1]
        second, best = np.sort(last)[-2:]
        if best - second > 4 * tolerance:
            assert tokens[position] == int(last.argmax()), f"after {position} tokens"
            judged += 1
    assert judged >= 3


def test_logits_exactly(gguf_file: Models) -> None:
    """With a cache of F32 too, nothing is rounded but F32 itself."""
    tokens = prompt(48)
    full = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    with closing(load(gguf_file("F32"), logits_all=True, **full)) as model:
        model.eval(tokens)
        ours = np.array(model.scores[: len(tokens)], dtype=np.float64)
    assert np.abs(ours - Oracle(gguf_file("F32")).logits(tokens)).max() < EXACT


def test_long_batch(gguf_file: Models) -> None:
    """A prompt of several batches gives the same logits as NumPy."""
    tokens = prompt(700, seed=3)
    with closing(load(gguf_file("F32"), n_ctx=1024, n_batch=256, logits_all=True)) as model:
        model.eval(tokens)
        ours = np.array(model.scores[len(tokens) - 1], dtype=np.float64)
    assert np.abs(ours - Oracle(gguf_file("F32")).logits(tokens)[-1]).max() < TOLERANCE["F32"]


def test_completion(llama: llama_cpp.Llama) -> None:
    result = llama.create_completion("the hat in the", max_tokens=12, temperature=0.0, echo=False)
    assert isinstance(result, dict)
    assert result["usage"]["completion_tokens"] <= 12
    assert result["usage"]["prompt_tokens"] == len(llama.tokenize(b"the hat in the"))
    assert result["choices"][0]["text"]


def test_streaming(llama: llama_cpp.Llama) -> None:
    """The pieces of a stream are the text that comes without one."""
    settings = {"max_tokens": 16, "temperature": 0.0, "seed": 1}
    whole = llama.create_completion("on the", **settings)
    stream = llama.create_completion("on the", stream=True, **settings)
    pieces = [chunk["choices"][0]["text"] for chunk in stream]
    assert len(pieces) > 2
    assert "".join(pieces) == whole["choices"][0]["text"]


def test_chat_template(llama: llama_cpp.Llama) -> None:
    """A chat completion uses the template in the GGUF: it answers as a completion of the rendered text does."""
    assert llama.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    messages = [{"role": "system", "content": "in"}, {"role": "user", "content": "the hat"}]
    chat = llama.create_chat_completion(messages, max_tokens=8, temperature=0.0)
    rendered = llama.tokenize(b"system: in\nuser: the hat\nassistant: ", add_bos=True, special=True)
    plain = llama.create_completion(rendered, max_tokens=8, temperature=0.0)
    answer = chat["choices"][0]["message"]["content"]
    assert answer == plain["choices"][0]["text"]
    assert chat["usage"]["prompt_tokens"] == len(rendered)


def test_embeddings(gguf_file: Models) -> None:
    """Mean-pooled embeddings are the mean of NumPy's last hidden states, up to their length."""
    with closing(load(gguf_file("F32"), embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)) as model:
        ours = np.array(model.create_embedding("the hat in the")["data"][0]["embedding"], dtype=np.float64)
        tokens = model.tokenize(b"the hat in the")
    truth = Oracle(gguf_file("F32")).hidden(tokens).mean(axis=0)
    assert ours.shape == (Shape().dim,)
    assert ours @ truth / np.linalg.norm(ours) / np.linalg.norm(truth) > 1 - 1e-6


@pytest.mark.parametrize(
    "text", ["the hat", "an end  with\ttabs\nand lines", "Grüße, 世界 🦙", "</s> is text here", "0123456789" * 20]
)
def test_tokenizer_round_trip(llama: llama_cpp.Llama, text: str) -> None:
    tokens = llama.tokenize(text.encode(), add_bos=False)
    assert llama.detokenize(tokens).decode().lstrip(" ") == text
    assert llama.tokenize(b"</s>", add_bos=False, special=True) == [llama.token_eos()]


def test_state(llama: llama_cpp.Llama) -> None:
    """After loading a saved state the model goes on as it did the first time."""
    llama.reset()
    llama.eval(prompt(20, seed=4))
    state = llama.save_state()

    def go_on() -> list[int]:
        out = [50]
        for _ in range(8):
            llama.eval(out[-1:])
            out.append(llama.sample(temp=0.0))
        return out

    first = go_on()
    llama.eval(prompt(5, seed=5))
    llama.load_state(state)
    assert go_on() == first


def test_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ValueError, match="Failed to load model"):
        load(tmp_path / "bad.gguf")
