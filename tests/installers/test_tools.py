"""One command that needs no choice: `uvx` and `uv tool install`, with the real wheels, the real uv and emulated GPUs.

What the wheel requires (NumPy, the server's packages) comes from the index that the user's uv is configured for.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from llama_cpp._doctor import tiny

from tests.installers.real import NEEDS_REAL, VERSION
from tests.installers.tools import ROWS, UV, emulate
from variants.choice.known import Row

pytestmark = NEEDS_REAL
Real = tuple[Path, Path, str]
SERVER = f"llama-cpp-python[server]=={VERSION}"
FEATURE = ["--preview-features", "wheel-variants"]
NAMES = (
    "server or laptop without a GPU",
    "nvidia-smi is there, but fails",
    "GTX 960 (Maxwell), driver for CUDA 11.8",
    "A100 (Ampere), driver 535, for CUDA 12.2",
    "RTX 5090 (Blackwell), driver for CUDA 13.0",
)
_BY_NAME = {row.name: row for row in ROWS}
MACHINES = [_BY_NAME[name] for name in NAMES]
NO_GPU, *_, NEW_GPU = MACHINES
MACHINE = pytest.mark.parametrize("row", MACHINES, ids=lambda row: row.name)
#: What the installed wheel says of itself: the environment, the label in its variant.json, the tags in its WHEEL.
ASK = """
import json, sys
from importlib import metadata
import llama_cpp
found = metadata.distribution("llama_cpp_python")
variant = found.read_text("variant.json")
tags = [line[5:] for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: ")]
print(json.dumps([sys.prefix, llama_cpp.__file__, list(json.loads(variant)["variants"]) if variant else ["plain"], tags]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache for all tests of this file, as one user has it."""
    return tmp_path_factory.mktemp("cache")


def machine(row: Row, folder: Path, cache: Path) -> dict[str, str]:
    """The variables of uv on this machine, for the Python that runs the tests; tools go into `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_PREVIEW", "NV_", "VIRTUAL_ENV"))}
    _, found = emulate(row, folder / "machine")
    own = {"UV_CACHE_DIR": cache, "UV_TOOL_DIR": folder / "tools", "UV_TOOL_BIN_DIR": folder / "bin", "UV_PYTHON": sys.executable}
    return {**kept, "PATH": found["PATH"], **{name: str(value) for name, value in own.items()}}


def uv(words: list[str], env: Mapping[str, str], cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([UV, *words], env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def uvx(address: str, *feature: str) -> list[str]:
    """`uvx`, as the documents have it, up to the command."""
    return ["tool", "run", "--quiet", *feature, "--index", f"{address}simple/", "--from", SERVER]


def taken(answer: str, folder: Path) -> str:
    """The label that the script ASK found, in an environment below `folder`."""
    prefix, file, labels, tags = json.loads(answer.splitlines()[-1])
    assert Path(prefix).resolve().is_relative_to(folder.resolve())
    assert Path(file).resolve().is_relative_to(Path(prefix).resolve())
    assert {"linux" in tag for tag in tags} == {True}
    (label,) = labels
    return str(label)


@contextlib.contextmanager
def serving(command: list[str], env: Mapping[str, str], cwd: Path, port: int) -> Iterator[str]:
    """The address of a server that this command starts, as soon as it answers."""
    address = f"http://127.0.0.1:{port}/v1"
    with (cwd / "server.log").open("w") as log, subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=log) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(urllib.error.URLError):
                    urllib.request.urlopen(f"{address}/models").close()
                    break
                time.sleep(0.2)
            assert process.poll() is None, (cwd / "server.log").read_text()
            yield address
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def completed(address: str) -> str:
    """What the served model adds to a text, by OpenAI's protocol."""
    body = json.dumps({"prompt": "a", "max_tokens": 8, "temperature": 0}).encode()
    request = urllib.request.Request(f"{address}/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["choices"][0]["text"])


@MACHINE
def test_uvx_serves(row: Row, real: Real, cache: Path, tmp_path: Path) -> None:
    """One command takes the wheel of the machine, and serves a model; upstream needs no entry point for that."""
    env = machine(row, tmp_path, cache)
    command = uvx(real[2], *FEATURE)
    assert taken(uv([*command, "python", "-c", ASK], env, tmp_path).stdout, cache) == (row.uv or row.gets)
    model, port = tiny.write(str(tmp_path / "tiny.gguf")), free_port()
    server = [UV, *command, "python", "-m", "llama_cpp.server", "--model", model, "--port", str(port)]
    with serving(server, env, tmp_path, port) as address:
        assert completed(address)


def test_uvx_without_the_feature(real: Real, cache: Path, tmp_path: Path) -> None:
    """The plain wheel, on a machine with a GPU, too."""
    env = machine(NEW_GPU, tmp_path, cache)
    assert taken(uv([*uvx(real[2]), "python", "-c", ASK], env, tmp_path).stdout, cache) == "plain"


def test_uvx_and_a_new_gpu(real: Real, cache: Path, tmp_path: Path) -> None:
    """`uvx` chooses again on each run: the environment that it kept for the machine without a GPU is not taken."""
    for row in (NO_GPU, NEW_GPU, NO_GPU):
        env = machine(row, tmp_path / row.gets, cache)
        assert taken(uv([*uvx(real[2], *FEATURE), "python", "-c", ASK], env, tmp_path).stdout, cache) == row.gets


@MACHINE
def test_tool_install(row: Row, real: Real, cache: Path, tmp_path: Path) -> None:
    """As a tool, beside the program that serves: the wheel of the machine is in the tool's environment, and serves a model."""
    env = machine(row, tmp_path, cache)
    command = ["tool", "install", "--quiet", *FEATURE, "--index", f"{real[2]}simple/", "--with", SERVER, "uvicorn"]
    uv(command, env, tmp_path)
    assert in_tool(env, tmp_path) == (row.uv or row.gets)
    model, port = tiny.write(str(tmp_path / "tiny.gguf")), free_port()
    server = [str(tmp_path / "bin" / "uvicorn"), "--factory", "llama_cpp.server.app:create_app", "--port", str(port)]
    with serving(server, {**env, "MODEL": model}, tmp_path, port) as address:
        assert completed(address)


def in_tool(env: Mapping[str, str], folder: Path) -> str:
    """The label of the wheel in the environment of the tool uvicorn."""
    python = folder / "tools" / "uvicorn" / "bin" / "python"
    answer = subprocess.run([python, "-c", ASK], env=env, cwd=folder, capture_output=True, text=True, check=True).stdout
    return taken(answer, folder / "tools")


def test_tool_and_a_new_gpu(real: Real, cache: Path, tmp_path: Path) -> None:
    """An installed tool stays as it is, until `--reinstall`."""
    command = ["tool", "install", "--quiet", *FEATURE, "--index", f"{real[2]}simple/", "--with", SERVER, "uvicorn"]
    for row, more, expected in ((NO_GPU, [], "vulkan"), (NEW_GPU, [], "vulkan"), (NEW_GPU, ["--reinstall"], "cuda13")):
        env = {**machine(NO_GPU, tmp_path, cache), "PATH": machine(row, tmp_path / row.gets, cache)["PATH"]}
        uv([*command, *more], env, tmp_path)
        assert in_tool(env, tmp_path) == expected


def test_tool_install_has_no_program(real: Real, cache: Path, tmp_path: Path) -> None:
    """Upstream has no program of its own: where this fails, it has one now, and the documents should name it."""
    env = machine(NO_GPU, tmp_path, cache)
    done = uv(["tool", "install", *FEATURE, "--index", f"{real[2]}simple/", SERVER], env, tmp_path, fails=True)
    assert "No executables are provided by package `llama-cpp-python`" in done.stdout
