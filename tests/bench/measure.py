"""Measure the installed llama_cpp once and print one JSON object. Run in a process of its own by
``variants/trial/bench/contenders.py``.

measure.py speed MODEL THREADS LAYERS PROMPTS GENERATE [--wait]
    tokens per second of each prompt (PROMPTS: their lengths, as in 32,512) and of generation, processor seconds a token, peak
    memory. THREADS: 0 for as many as the package takes. LAYERS go to the GPU (-1: all), and it is an error if there is none.
    --wait: say "ready" when the model is warm, and go on at a line of input.
measure.py first MODEL
    seconds of `import llama_cpp`, of the model's first token after it, and memory after the import
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any


class Cost:
    """Wall clock and processor time of a block, in seconds."""

    def __enter__(self) -> Cost:
        self._wall, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.seconds = time.perf_counter() - self._wall, time.process_time() - self._processor


def memory() -> int:
    """Peak resident memory so far, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tokens_of(vocabulary: int, count: int) -> list[int]:
    """Tokens of a prompt: any, after the beginning of text; 300 are control tokens and bytes."""
    return [1, *((7919 * index) % (vocabulary - 300) + 259 for index in range(count - 1))]


def together(wait: bool) -> None:
    """Begin at the same time as others do."""
    if wait:
        print("ready", flush=True)
        sys.stdin.readline()


def first(path: str) -> dict[str, float]:
    import numpy  # noqa: F401 - upstream needs it too; what is measured is llama_cpp

    begin = time.perf_counter()
    import llama_cpp

    imported, used = time.perf_counter(), memory()
    model = llama_cpp.Llama(path, n_ctx=512, verbose=False)
    model.eval(tokens_of(model.n_vocab(), 16))
    llama_cpp.llama_synchronize(model.ctx)
    end = time.perf_counter()
    return {"import seconds": imported - begin, "import memory": used, "first token seconds": end - imported}


def speed(path: str, threads: int, layers: int, prompts: list[int], generate: int, wait: bool) -> dict[str, float]:
    import llama_cpp

    settings: dict[str, Any] = {"n_gpu_layers": layers}
    if threads:
        settings |= {"n_threads": threads, "n_threads_batch": threads}
    model = llama_cpp.Llama(path, n_ctx=max(prompts) + generate + 16, n_batch=512, verbose=False, **settings)
    if layers and not llama_cpp.llama_supports_gpu_offload():
        sys.exit("there is no GPU that this package can use")
    tokens = tokens_of(model.n_vocab(), max(prompts))

    def run(given: list[int]) -> None:
        model.eval(given)
        llama_cpp.llama_synchronize(model.ctx)  # a GPU may still be at it

    for warm in (tokens, tokens[:1]):  # first touch of the weights; a GPU's kernels are compiled or fetched at first use
        run(warm)
        model.reset()
    together(wait)
    found: dict[str, float] = {}
    for prompt in prompts:
        model.reset()
        with Cost() as cost:
            run(tokens[:prompt])
        found[f"prompt of {prompt}"] = prompt / cost.wall
        found[f"prompt of {prompt}, processor seconds a token"] = cost.seconds / prompt
    model.reset()
    run(tokens[:1])
    with Cost() as cost:
        for index in range(generate):
            model.eval([tokens[index % len(tokens)]])
        llama_cpp.llama_synchronize(model.ctx)
    found["generation"] = generate / cost.wall
    found["generation, processor seconds a token"] = cost.seconds / generate
    return found | {"memory": memory()}


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "first":
        print(json.dumps(first(rest[0])))
    else:
        path, threads, layers, prompts, generate, *flags = rest
        counts = [int(word) for word in prompts.split(",")]
        print(json.dumps(speed(path, int(threads), int(layers), counts, int(generate), "--wait" in flags)))
