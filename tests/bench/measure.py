"""Measure the installed llama_cpp once and print one JSON object. Run in a process of its own by ``variants/trial/bench.py``.

measure.py speed MODEL THREADS LAYERS PROMPT GENERATE    tokens per second of prompt and generation, peak memory; LAYERS go to
                                                         the GPU (-1: all), and it is an error if there is none
measure.py import                                 seconds of `import llama_cpp`, memory after it
"""

from __future__ import annotations

import json
import resource
import sys
import time


def memory() -> int:
    """Peak resident memory so far, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def importing() -> dict[str, float]:
    import numpy  # noqa: F401 - upstream needs it too; what is measured is llama_cpp

    begin = time.perf_counter()
    import llama_cpp  # noqa: F401

    return {"import_seconds": time.perf_counter() - begin, "import_memory": memory()}


def speed(path: str, threads: int, layers: int, prompt: int, generate: int) -> dict[str, float]:
    import llama_cpp

    settings = {"n_threads": threads, "n_threads_batch": threads, "n_gpu_layers": layers}
    model = llama_cpp.Llama(path, n_ctx=prompt + generate + 16, n_batch=512, verbose=False, **settings)
    if layers and not llama_cpp.llama_supports_gpu_offload():
        sys.exit("there is no GPU that this package can use")
    tokens = [1, *((7919 * i) % (model.n_vocab() - 300) + 259 for i in range(prompt - 1))]
    for warm in (tokens, tokens[:1]):  # first touch of the weights; a GPU's kernels are compiled or fetched at first use
        model.eval(warm)
        llama_cpp.llama_synchronize(model.ctx)
        model.reset()
    begin = time.perf_counter()
    model.eval(tokens)
    llama_cpp.llama_synchronize(model.ctx)  # a GPU may still be at it
    middle = time.perf_counter()
    for index in range(generate):
        model.eval([tokens[index % prompt]])
    llama_cpp.llama_synchronize(model.ctx)
    end = time.perf_counter()
    return {"prompt": prompt / (middle - begin), "generation": generate / (end - middle), "memory": memory()}


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    print(json.dumps(importing() if what == "import" else speed(rest[0], *map(int, rest[1:]))))
