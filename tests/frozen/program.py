"""The program that is frozen. With a model: generate in this process and in a child, and print both texts with the report, as JSON.
Without: what `python -m llama_cpp` does."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from typing import Any


def generate(model: str) -> dict[str, Any]:
    import llama_cpp

    text = llama_cpp.Llama(model, n_ctx=64, n_threads=2, n_gpu_layers=-1, verbose=False)("a", max_tokens=8, temperature=0)
    return {"pid": os.getpid(), "text": text["choices"][0]["text"]}


def libraries() -> list[str]:
    """Files of shared libraries in this process (Linux)."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line})
    except FileNotFoundError:
        return []


def main() -> None:
    if len(sys.argv) == 1:
        runpy.run_module("llama_cpp", run_name="__main__", alter_sys=True)
    here = generate(sys.argv[1])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(generate, (sys.argv[1],))

    from llama_cpp.__main__ import report

    print(json.dumps({"here": here, "there": there, "report": report(), "libraries": libraries()}))


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
