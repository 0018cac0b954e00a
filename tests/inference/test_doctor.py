"""`python -m llama_cpp doctor` beside the installed wheel: what works, what is broken on purpose, and which command mends it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Callable

import llama_cpp
import pytest
from breaking import Copy

PLUGIN = next((plugin for plugin in llama_cpp._backends.state.gpu), None)
Models = Callable[[str], Path]
NO_DEVICE = {"LLAMA_CPP_BACKENDS": "cpu"}
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the machines are Linux machines")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def verdict(done: Any) -> Any:
    return json.loads(done.stdout)["verdict"]


def test_works_on_the_cpu(copy: Copy) -> None:
    """From the machine to ten tokens, as data; nothing in it says whose machine it is."""
    done = copy.doctor("--json", **NO_DEVICE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"]["code"] == 0
    assert found["findings"][0]["section"] == "Machine"
    assert {"GPUs", "Installation", "Libraries", "Devices", "Tokens"} <= {row["section"] for row in found["findings"]}
    assert (found["facts"]["installed"]["kind"] == "cpu") is (PLUGIN is None)
    (cpu,) = [row for row in found["facts"]["devices"] if row["type"] == "CPU"]
    assert cpu["right"]
    assert cpu["tokens_per_second"] > 0
    for word in (
        sys.prefix,
        os.path.expanduser("~/"),
        *(one for one in (platform.node(), getpass.getuser()) if one not in ("root", "localhost")),
    ):
        assert word not in done.stdout, word


def test_a_gpu_stays_unused(copy: Copy) -> None:
    """A GPU is in the machine and no plugin computes on it: exit code 1, and the command that mends it, whole."""
    copy.nvidia()
    done = copy.doctor("--index", "https://example.org/llama/simple/", **({} if PLUGIN is None else NO_DEVICE))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RTX 4090" in done.stdout
    assert "It works on the CPU only" in done.stdout
    last = done.stdout.strip().splitlines()[-1].strip()
    if PLUGIN is None:
        assert last.startswith(("uv pip install", "pip install"))
        assert "https://example.org/llama/" in last
    else:
        assert "LLAMA_CPP_BACKENDS" in done.stdout


@pytest.mark.parametrize("name", ["libggml.so", "libllama.so"])
def test_a_library_is_missing(copy: Copy, name: str) -> None:
    """The import fails, and the doctor still speaks: which file, and how it comes back."""
    (copy.lib / name).unlink()
    done = copy.doctor("--json")
    assert done.returncode == 2, done.stdout + done.stderr
    found = verdict(done)
    assert f"llama_cpp/lib/{name} is missing" in found["wrong"]
    assert found["helps"] == "pip install --force-reinstall --no-deps llama-cpp-python"
    assert "Traceback" not in done.stdout + done.stderr


def test_a_library_was_changed(copy: Copy) -> None:
    """It computes all the same: exit code 0, and the verdict says so."""
    path = copy.lib / "core.json"
    copy.write("llama_cpp/lib/core.json", path.read_bytes() + b"\n")
    done = copy.doctor("--json", **NO_DEVICE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "llama_cpp/lib/core.json was changed" in verdict(done)["wrong"]


def test_illegal_instruction_of_another_package(copy: Copy) -> None:
    """NumPy dies of SIGILL while llama_cpp is imported: in a child, and the doctor names NumPy."""
    copy.write("numpy/__init__.py", b"import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = copy.doctor("--json")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "illegal instruction (SIGILL), in numpy/__init__.py" in verdict(done)["wrong"].replace("SITE/", "")
    assert verdict(done)["helps"] == "pip install --force-reinstall numpy --no-binary numpy"


def test_a_requirement_is_missing(copy: Copy) -> None:
    copy.write("typing_extensions.py", b"raise ModuleNotFoundError(\"No module named 'typing_extensions'\")\n")
    done = copy.doctor("--json")
    assert done.returncode == 2, done.stdout + done.stderr
    assert verdict(done)["helps"] == "pip install typing-extensions"


def test_a_model_of_the_users(copy: Copy, gguf_file: Models, tmp_path: Path) -> None:
    """`--model` is used; a truncated one does not work, and the reason is llama.cpp's."""
    whole = gguf_file("F32")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(whole.read_bytes()[:-100_000])
    done = copy.doctor("--json", "--model", str(broken), **NO_DEVICE)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not within the file bounds" in verdict(done)["wrong"]
    assert "Download it again" in verdict(done)["helps"]
    assert copy.doctor("--json", "--model", str(whole), **NO_DEVICE).returncode == 0


def test_other_programs_are_left_alone(copy: Copy) -> None:
    """Another module that is asked for its own doctor, and imports llama_cpp on the way."""
    copy.write("another/__init__.py", b"import llama_cpp\n")
    copy.write("another/__main__.py", b"print('my own doctor')\n")
    assert copy.python("-m", "another", "doctor", "llama_cpp").stdout == "my own doctor\n"


def test_the_report_is_as_before(copy: Copy) -> None:
    done = copy.python("-m", "llama_cpp", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["core"]["fingerprint"]
