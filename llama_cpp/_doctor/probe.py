"""What runs in the doctor's child processes: each task imports llama_cpp, and prints one line of JSON behind :data:`MARK`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from typing import Any, Callable

MARK = "llama-cpp-doctor:"
_TOKENS = 10
_LIBRARIES = re.compile(r"lib(?:cuda|cublas|nvidia|nvrtc|vulkan|GLX_nvidia|amdhip|hipblas|rocblas|hsa-runtime|openvino)[^/]*$")


def main(words: list[str]) -> None:
    task, *arguments = words
    tasks: dict[str, Callable[..., Any]] = {"imported": imported, "facts": facts, "graph": graph, "tokens": tokens}
    try:
        result = tasks[task](*arguments)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    print(f"\n{MARK}{json.dumps(result)}", flush=True)
    os._exit(0)  # what a driver does at exit is no longer asked


def imported() -> dict[str, Any]:
    import llama_cpp

    return {"version": llama_cpp.__version__, "file": llama_cpp.__file__}


def facts() -> dict[str, Any]:
    """The report of `python -m llama_cpp`, and which libraries of drivers and runtimes this process has open by then."""
    from llama_cpp import __main__ as command

    found: dict[str, Any] = command.report()
    found["open_libraries"] = _open_libraries(found["libraries"]["folder"])
    return found


def _open_libraries(own: str) -> list[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            paths = {line.split(None, 5)[5].strip() for line in file if ".so" in line and line.count("/")}
    except OSError:
        return []
    return sorted(path for path in paths if not path.startswith(own) and _LIBRARIES.search(path))


def graph(device: str) -> dict[str, Any]:
    from llama_cpp import _backends

    from . import graph as graphs

    _backends.state.ask(gpu=True)
    return graphs.difference(_backends.state, int(device))


def tokens(gpu: str, model: str) -> dict[str, Any]:
    """Ten tokens by a model whose layers are all on the GPU with this number, or on the CPU (-1)."""
    import llama_cpp

    places: dict[str, Any] = {"n_gpu_layers": 0}
    if int(gpu) >= 0:
        places = {"n_gpu_layers": -1, "split_mode": llama_cpp.LLAMA_SPLIT_MODE_NONE, "main_gpu": int(gpu)}
    began = time.perf_counter()
    llama = llama_cpp.Llama(model, n_ctx=512, verbose=False, **places)
    loaded = time.perf_counter()
    made, first = [], 0.0
    for token in llama.generate(llama.tokenize(b"The doctor asks for ten tokens"), temp=0.0):
        first = first or time.perf_counter()
        made.append(token)
        if len(made) > _TOKENS:
            break
    ended = time.perf_counter()
    return {
        "seconds_to_load": loaded - began,
        "seconds_to_first": first - loaded,
        "tokens_per_second": _TOKENS / (ended - first),
        "tokens": made,
        "threads": llama.n_threads,
    }
