"""The errors of a GPU's driver that people report most, provoked with a driver that fails on command (tests/plugins)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable

import llama_cpp
import pytest
from breaking import Copy
from llama_cpp import _errors

PLUGIN = next((plugin for plugin in llama_cpp._backends.state.gpu), None)
FAILING_DRIVER = os.environ.get("LLAMA_CPP_TEST_FAILING_DRIVER", "")
Models = Callable[[str], Path]
LOAD = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_gpu_layers=-1, verbose=False)
model.eval([1, 5, 6])
model.sample(temp=0.0)
"""
pytestmark = pytest.mark.skipif(not FAILING_DRIVER, reason="no driver that fails on command was compiled (it takes a C compiler)")
cuda = pytest.mark.skipif(PLUGIN is None or PLUGIN.name != "cuda", reason="not the CUDA wheel")
vulkan = pytest.mark.skipif(PLUGIN is None or PLUGIN.name != "vulkan", reason="not the Vulkan wheel")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def known(name: str) -> str:
    return _errors.known(name).line


def run(copy: Copy, model: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return copy.python("-c", LOAD, str(model), **environment)


@cuda
def test_missing_runtime(tmp_path: Path, gguf_file: Models) -> None:
    """NVIDIA's packages are not there (``--no-deps``): the warning names them, and the CPU computes."""
    done = run(Copy(tmp_path, without="nvidia"), gguf_file("F32"), LD_PRELOAD=FAILING_DRIVER)
    assert done.returncode == 0, done.stderr
    assert "libcudart.so" in done.stderr or "libcublas.so" in done.stderr  # whichever the loader misses first
    assert 'pip install "nvidia-cuda-runtime' in done.stderr
    assert known("the runtime of CUDA is missing") in done.stderr


@cuda
def test_no_driver(copy: Copy, gguf_file: Models) -> None:
    if any(
        shutil.which("nvidia-smi") or "libcuda.so.1" in row
        for row in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout.splitlines()
    ):
        pytest.skip("this machine has NVIDIA's driver")
    done = run(copy, gguf_file("F32"))
    assert done.returncode == 0, done.stderr
    assert known("no driver of NVIDIA's") in done.stderr


@cuda
def test_driver_too_old(copy: Copy, gguf_file: Models) -> None:
    """NVIDIA's own runtime refuses a driver for CUDA 11.4."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler, to make an old driver with")
    source = Path(os.environ["LLAMA_CPP_TEST_DRIVER_SOURCE"])
    library = copy.tools / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(library)], check=True)
    done = run(copy, gguf_file("F32"), LD_LIBRARY_PATH=str(copy.tools), DRIVER_VERSION="11040")
    assert done.returncode == 0, done.stderr
    assert "CUDA driver version is insufficient for CUDA runtime version" in done.stderr
    assert known("driver too old") in done.stderr


@cuda
def test_no_kernel_image(copy: Copy, gguf_file: Models) -> None:
    """The first kernel fails as on a GPU that the wheel has no code for."""
    reason = "no kernel image is available for execution on the device"
    failing = {"LD_PRELOAD": FAILING_DRIVER, "FAILING_DRIVER": "2", "DEVICE_ERROR": reason}
    done = run(copy, gguf_file("F32"), **failing)
    assert reason in done.stderr
    assert known("no code for this GPU") in done.stderr
    told = copy.doctor(**failing)
    assert told.returncode == 1, told.stdout
    assert known("no code for this GPU") in " ".join(told.stdout.split())


@cuda
def test_out_of_memory(copy: Copy, gguf_file: Models) -> None:
    done = run(copy, gguf_file("F32"), LD_PRELOAD=FAILING_DRIVER, DEVICE_MEMORY="1000000")
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().endswith(known("out of memory"))
    assert "ValueError: Failed to load model from file" in done.stderr


@vulkan
def test_no_vulkan_driver(copy: Copy, gguf_file: Models) -> None:
    done = run(copy, gguf_file("F32"), VK_ICD_FILENAMES="/nowhere.json", VK_DRIVER_FILES="/nowhere.json")
    assert done.returncode == 0, done.stderr
    assert known("no Vulkan driver") in done.stderr


@pytest.mark.parametrize("number", ["4", "5"])
def test_driver_that_crashes_or_hangs(copy: Copy, number: str) -> None:
    """In a child of the doctor's, with a time limit: exit code 1, and the CPU's tokens."""
    done = copy.doctor(LD_PRELOAD=FAILING_DRIVER, FAILING_DRIVER=number, LLAMA_CPP_DOCTOR_SECONDS="20")
    assert done.returncode == 1, done.stdout + done.stderr
    text = " ".join(done.stdout.split())
    assert ("crashed (SIGSEGV)" if number == "4" else "gives no answer in 20 seconds") in text
    assert "CPU: ten tokens" in text
    assert "Set LLAMA_CPP_BACKENDS=cpu" in text
