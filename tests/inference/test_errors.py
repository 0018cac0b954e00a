"""The errors that people report most, provoked with the installed wheel: each says in one line what it is and what helps.

Those of a GPU's driver are in test_errors_gpu.py. docs/troubleshooting.md lists all of them, from llama_cpp/_errors.py.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Callable

import llama_cpp
import pytest
from breaking import Copy
from llama_cpp import _errors

PLUGIN = next((plugin for plugin in llama_cpp._backends.state.gpu), None)
CPU = {"LLAMA_CPP_BACKENDS": "cpu"}
Models = Callable[[str], Path]
LOAD = """
import sys, llama_cpp
settings = dict(n_ctx=64, n_gpu_layers=0, verbose=False)
settings.update(eval(sys.argv[2]))
llama_cpp.Llama(sys.argv[1], **settings)
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="broken as Linux' loader sees it")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def known(name: str) -> str:
    return _errors.known(name).line


def last_error(copy: Copy, model: Path, settings: str = "{}", script: str = LOAD, **environment: str) -> str:
    """The last line that a user sees, of a process that ends with an exception."""
    done = copy.python("-c", script, str(model), settings, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_unknown_architecture(copy: Copy, gguf_file: Models, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    key = b"general.architecture" + struct.pack("<IQ", 8, 5)
    model.write_bytes(gguf_file("F32").read_bytes().replace(key + b"llama", key + b"novel"))
    text = last_error(copy, model)
    assert text.startswith(f"ValueError: Failed to load model from file: {model}: unknown model architecture: 'novel'. ")
    assert text.endswith(known("unknown architecture of a model"))


@pytest.mark.parametrize("left", [0, 3000, -100_000])
def test_truncated(copy: Copy, gguf_file: Models, tmp_path: Path, left: int) -> None:
    """Of nothing, within the head, and within the weights."""
    model = tmp_path / "model.gguf"
    model.write_bytes(gguf_file("F32").read_bytes()[:left])
    assert last_error(copy, model).endswith(known("GGUF truncated"))


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_no_gguf(copy: Copy, tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(content)
    assert last_error(copy, model).endswith(known("no GGUF"))


@linux
def test_out_of_memory(copy: Copy, gguf_file: Models) -> None:
    """A context that does not fit into what the process may have (`ulimit -v`)."""
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n" + LOAD
    text = last_error(copy, gguf_file("F32"), "{'n_ctx': 40_000_000}", script, OPENBLAS_NUM_THREADS="1", **CPU)
    assert text.startswith("ValueError: Failed to create llama_context: ")
    assert text.endswith(known("out of memory"))


def test_the_low_level_functions_return_null(gguf_file: Models, tmp_path: Path) -> None:
    """Who calls llama.cpp's functions by himself gets what they return, and no exception."""
    model = tmp_path / "model.gguf"
    model.write_bytes(gguf_file("F32").read_bytes()[:3000])
    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = 0
    assert not llama_cpp.llama_model_load_from_file(str(model).encode(), settings)


@linux
@pytest.mark.skipif(PLUGIN is not None, reason="this is not the CPU wheel")
@pytest.mark.parametrize("verbose", [True, False])
def test_layers_for_a_gpu_in_the_cpu_wheel(copy: Copy, gguf_file: Models, verbose: bool) -> None:
    """The warning names the GPU and the command, once, at the user's own line, although `verbose=False` sends stderr away."""
    again = LOAD + "llama_cpp.Llama(sys.argv[1], **settings)\n"
    settings = f"{{'n_gpu_layers': -1, 'verbose': {verbose}}}"
    done = copy.python("-c", again, str(gguf_file("F32")), settings)
    assert done.returncode == 0, done.stderr
    assert "<string>:5: RuntimeWarning: n_gpu_layers asks for a GPU, but this is the CPU wheel, and no GPU was found" in done.stderr
    copy.nvidia(cuda="12.8")
    done = copy.python("-c", again, str(gguf_file("F32")), settings)
    warned = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(warned) == 1
    assert "NVIDIA GeForce RTX 4090 stays unused" in warned[0]
    assert "pip install" in warned[0]
    assert "wheel-variants" in warned[0] or "INDEX/backends/cuda12/simple/" in warned[0]
    quiet = copy.python("-c", again, str(gguf_file("F32")), "{}")
    assert "RuntimeWarning" not in quiet.stderr
    wanted = copy.python("-c", again, str(gguf_file("F32")), settings, **CPU)
    assert "RuntimeWarning" not in wanted.stderr


def _import_error(copy: Copy) -> str:
    done = copy.python("-c", "import llama_cpp")
    assert done.returncode == 1, done.stdout + done.stderr
    text, hint = done.stderr.strip().splitlines()[-2:]
    assert hint == "`python -m llama_cpp doctor` tells more."
    return text


@linux
def test_wheel_for_another_processor(copy: Copy) -> None:
    """glibc's own words are "No such file"."""
    for path in sorted(copy.lib.glob("*.so")):
        data = bytearray(path.read_bytes())
        data[18:20] = (183 if data[18] != 183 else 62).to_bytes(2, "little")
        copy.write(f"llama_cpp/lib/{path.name}", bytes(data))
    assert _import_error(copy).endswith(known("wrong architecture of Python"))
    done = copy.doctor()
    assert done.returncode == 2
    assert "is for another processor" in " ".join(done.stdout.split())


@linux
@pytest.mark.skipif(
    "musl" in os.environ.get("LD_LIBRARY_PATH", "") or not os.path.exists("/etc/ld.so.cache"), reason="Python of musl"
)
def test_wheel_for_musl(copy: Copy) -> None:
    """A library that needs musl's libc, as every library of a musllinux wheel does."""
    name = next(path.name for path in copy.lib.glob("libggml-base-*.so")).encode()
    needs = b"libc.musl-x86_64.so.1"
    data = (copy.lib / "libggml.so").read_bytes()
    assert name in data
    copy.write("llama_cpp/lib/libggml.so", data.replace(name, needs.ljust(len(name), b"\0")))
    assert _import_error(copy).endswith(known("musl wheel, Python of glibc"))
    assert copy.doctor().returncode == 2


@linux
def test_a_damaged_library(copy: Copy) -> None:
    copy.write("llama_cpp/lib/libggml.so", (copy.lib / "libggml.so").read_bytes()[:100])
    assert _import_error(copy).endswith(known("library missing or damaged"))


@linux
def test_a_plugin_that_the_processor_cannot_run(copy: Copy) -> None:
    """Asked for by name. (Without that, the loader takes what the processor can run: an illegal instruction never happens.)"""
    refused = [plugin.name for plugin in llama_cpp._backends.state.cpu if plugin.score == 0]
    if not refused:
        pytest.skip("this processor can run every CPU plugin")
    done = copy.python("-c", "import llama_cpp", LLAMA_CPP_BACKENDS=refused[0])
    assert done.returncode == 1
    assert known("illegal instruction") in done.stderr
