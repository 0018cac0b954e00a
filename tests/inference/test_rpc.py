"""Offload to another process over loopback: ggml's RPC plugin computes on the same CPU code, so every logit is bit-equal.

`nox -s offload` compiles the plugin for the wheel's core, puts it beside the wheel's own, and runs this. The server is a process of
ours on 127.0.0.1, which can be killed. (Once connected, ggml-rpc talks to it in a thread of its own and gives up there, which ends
the process: nothing outside that thread can catch it. The plugin is for tests and is in no wheel.)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import llama_cpp
import pytest

PLUGIN = next((plugin for plugin in llama_cpp._backends.state.gpu if plugin.name == "rpc"), None)
pytestmark = pytest.mark.skipif(PLUGIN is None, reason="there is no RPC plugin beside this wheel's (`nox -s offload` makes one)")

Models = Callable[[str], Path]

SERVER = """
import ctypes, sys, warnings, llama_cpp
warnings.simplefilter("ignore")
state = llama_cpp._backends.state
state.ask(gpu=True)
ggml = state.ggml
for name in ("ggml_backend_dev_by_name", "ggml_backend_reg_by_name", "ggml_backend_reg_get_proc_address"):
    getattr(ggml, name).restype = ctypes.c_void_p
ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_name(b"CPU"))
found = ggml.ggml_backend_reg_get_proc_address(ggml.ggml_backend_reg_by_name(b"RPC"), b"ggml_backend_rpc_start_server")
words, sizes = [ctypes.c_char_p] * 2, [ctypes.c_size_t] * 2
ctypes.CFUNCTYPE(None, *words, *sizes, ctypes.c_void_p)(found)(sys.argv[1].encode(), None, 2, 1, ctypes.addressof(devices))
"""
CLIENT = """
import ctypes, json, os, signal, sys, warnings, llama_cpp
warnings.simplefilter("ignore")
state = llama_cpp._backends.state
server, path = int(sys.argv[2]), sys.argv[3]
def attach():
    state.ask(gpu=True)
    ggml = state.ggml
    ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    registration = ggml.ggml_backend_reg_by_name(b"RPC")
    add = ggml.ggml_backend_reg_get_proc_address(registration, b"ggml_backend_rpc_add_server")
    ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_register(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(add)(sys.argv[1].encode()))
def load(**settings):
    usual = {"n_ctx": 256, "n_threads": 2, "n_gpu_layers": -1, "verbose": False, "logits_all": True}
    return llama_cpp.Llama(path, **{**usual, **settings})
def logits(model, tokens):
    model.reset()
    model.eval(tokens)
    return model.scores[:len(tokens)].copy()
"""


@pytest.fixture
def server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a server on a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-c", SERVER, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, port = address.split(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.05)
    yield address, process
    process.kill()
    process.wait()


def client(server: tuple[str, subprocess.Popen[bytes]], path: Path, script: str) -> Any:
    """Run a script in a process that knows the server; the JSON in its last line. It has to end well."""
    address, process = server
    done = subprocess.run(
        [sys.executable, "-c", CLIENT + textwrap.dedent(script), address, str(process.pid), str(path)],
        env=dict(os.environ), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_bit_equal(gguf_file: Models, kind: str, server: tuple[str, subprocess.Popen[bytes]]) -> None:
    """Whole and partial offload give the bits of the CPU. (Quantised weights do not: alone, the CPU rearranges them.)"""
    script = """
        tokens = [1, *range(3, 50)]
        alone = logits(load(n_gpu_layers=0), tokens)
        attach()
        shared = [logits(load(n_gpu_layers=layers), tokens) for layers in (-1, 1)]
        print(json.dumps([[bool((alone == one).all()) for one in shared], state.ggml.ggml_backend_dev_count()]))
    """
    assert client(server, gguf_file(kind), script) == [[True, True], 2]


def test_device_gone_before_the_model(gguf_file: Models, server: tuple[str, subprocess.Popen[bytes]]) -> None:
    """The server is gone when a model wants its device: the backend gives up (GGML_ABORT, not an exception), which is upstream's
    error; the next model for the lost device is refused, and the CPU computes."""
    script = f"""
        attach()
        os.kill(server, {int(signal.SIGKILL)})
        seen = []
        for _ in range(2):
            try:
                load()
                seen.append("loaded")
            except Exception as problem:
                seen.append(type(problem).__name__)
        cpu = load(n_gpu_layers=0)
        text = cpu.create_completion("the hat", max_tokens=8, temperature=0.0)["choices"][0]["text"]
        cpu.close()
        print(json.dumps([seen, text]))
    """
    seen, text = client(server, gguf_file("F16"), script)
    assert seen == ["ValueError"] * 2, seen
    assert text
