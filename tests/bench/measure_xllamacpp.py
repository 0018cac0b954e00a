"""Measure xllamacpp once and print one JSON object with the keys of measure.py. Run in a process of its own by
``variants/trial/bench/contenders.py``.

measure_xllamacpp.py speed MODEL THREADS LAYERS PROMPTS GENERATE [--wait]
measure_xllamacpp.py first MODEL
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from measure import Cost, memory, together, tokens_of


def opened(path: str, threads: int, layers: int, context: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.n_parallel, params.n_gpu_layers = context, 512, 1, layers
    params.warmup, params.cache_prompt, params.cache_ram_mib = False, False, 0
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def complete(server: Any, tokens: list[int], count: int) -> dict[str, Any]:
    """Its own clock stands in the answer: the server's thread does the work, and the text goes through its template."""
    asked = {"prompt": tokens, "max_tokens": count, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
    answer = server.handle_completions(asked)
    if "timings" not in answer:
        sys.exit(f"xllamacpp gives no timings: {answer}")
    return dict(answer["timings"])


def speed(path: str, threads: int, layers: int, prompts: list[int], generate: int, wait: bool) -> dict[str, float]:
    server = opened(path, threads, layers, max(prompts) + generate + 16)
    vocabulary = 16_000  # no function tells it; these tokens are in every model of the benchmark
    complete(server, tokens_of(vocabulary, max(prompts)), 2)
    together(wait)
    found: dict[str, float] = {}
    for prompt in prompts:
        with Cost() as cost:
            timings = complete(server, tokens_of(vocabulary, prompt), 1)
        found[f"prompt of {prompt}"] = float(timings["prompt_per_second"])
        found[f"prompt of {prompt}, processor seconds a token"] = cost.seconds / prompt
    with Cost() as cost:
        timings = complete(server, tokens_of(vocabulary, min(prompts))[:1], generate)
    found["generation"] = float(timings["predicted_per_second"])
    found["generation, processor seconds a token"] = cost.seconds / generate
    return found | {"memory": memory()}


def first(path: str) -> dict[str, float]:
    begin = time.perf_counter()
    import xllamacpp  # noqa: F401

    imported = time.perf_counter()
    complete(opened(path, 0, 0, 512), tokens_of(16_000, 16), 1)
    end = time.perf_counter()
    return {"import seconds": imported - begin, "first token seconds": end - imported}


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "first":
        print(json.dumps(first(rest[0])))
    else:
        path, threads, layers, prompts, generate, *flags = rest
        counts = [int(word) for word in prompts.split(",")]
        print(json.dumps(speed(path, int(threads), int(layers), counts, int(generate), "--wait" in flags)))
