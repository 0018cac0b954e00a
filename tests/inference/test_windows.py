"""Windows alone: where a plugin's libraries are found, and where they must not be.

A plugin of a stand-in backend needs a ``cudart64_13.dll``, as ggml's CUDA plugin does (tests/plugins/standin_cuda.c). zig compiles
both; ``LLAMA_CPP_TEST_STANDIN`` is their folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

STANDIN = os.environ.get("LLAMA_CPP_TEST_STANDIN")
pytestmark = [
    pytest.mark.skipif(os.name != "nt", reason="asks how Windows finds libraries"),
    pytest.mark.skipif(STANDIN is None, reason="no stand-in plugin was compiled"),
]
FOLDER, RUNTIME = "nvidia/cu13/bin/x86_64", "cudart64_13.dll"
FACTS = {"name": "standin", "libraries": {FOLDER: [RUNTIME]}, "requires": ["nvidia-cuda-runtime>=13.0,<14"]}


def copy(source: Path, target: Path) -> None:
    """Without the function of Windows that Python's own asks, which wine 8 lacks."""
    target.write_bytes(source.read_bytes())


def copy_folder(source: Path, target: Path) -> None:
    """The wheel's libraries, without its own GPU plugin."""
    target.mkdir(parents=True)
    gpu = {plugin.path.name for plugin in llama_cpp._backends.state.gpu}
    for file in source.iterdir():
        if file.name not in gpu:
            copy(file, target / file.name)


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    """The wheel's libraries and the stand-in plugin, in a folder whose name has a space and letters of no one code page."""
    folder = tmp_path / "größe ж 漢" / "lib"
    copy_folder(llama_cpp._backends.state.lib_dir, folder)
    assert STANDIN is not None
    copy(Path(STANDIN) / "ggml-standin.dll", folder / "ggml-standin.dll")
    (folder / "plugin.json").write_text(json.dumps(FACTS))
    return folder


def package(root: Path, name: str = RUNTIME) -> Path:
    """A folder of packages with the runtime library of the stand-in (``name``: of this one)."""
    target = root / FOLDER / RUNTIME
    target.parent.mkdir(parents=True)
    assert STANDIN is not None
    copy(Path(STANDIN) / name, target)
    return target


def asked(lib: Path, *imports: Path, before: str = "", **environment: str) -> dict[str, Any]:
    """What became of the stand-in plugin in a new process, which ran `before` first, with `imports` in sys.path."""
    script = f"""
import json, os, sys
{before}
import llama_cpp
llama_cpp.llama_supports_gpu_offload()
plugin = next(one for one in llama_cpp._backends.state.gpu if one.name == "standin")
print(json.dumps(plugin.as_dict()))
"""
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *map(str, imports)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(lib), "PYTHONPATH": paths, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, cwd=lib.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_found_in_its_package(lib: Path, tmp_path: Path) -> None:
    package(tmp_path / "site ü")
    found = asked(lib, tmp_path / "site ü")
    assert (found["state"], found["reason"]) == ("loaded", "found no device")


def test_missing(lib: Path) -> None:
    """The name of what is not there, and what brings it."""
    found = asked(lib)
    assert found["state"] == "failed"
    assert f"{RUNTIME} is not there" in found["reason"]
    assert 'pip install "nvidia-cuda-runtime' in found["reason"]


def test_of_another_major_version(lib: Path, tmp_path: Path) -> None:
    """It has the name and says another version: the plugin's own judgement."""
    package(tmp_path / "site", "old.dll")
    found = asked(lib, tmp_path / "site")
    assert (found["state"], "returned null" in found["reason"]) == ("failed", True), found


def test_open_already(lib: Path, tmp_path: Path) -> None:
    """What PyTorch, say, has opened is the one that is used, and no second one is opened beside it."""
    mine, other = package(tmp_path / "site"), package(tmp_path / "torch")
    before = f"import ctypes; torch = ctypes.CDLL({str(other)!r})"
    found = asked(lib, tmp_path / "site", before=before)
    assert found["state"] == "loaded"
    script = f"""
{before}
import llama_cpp
llama_cpp.llama_supports_gpu_offload()
size = ctypes.windll.kernel32.GetModuleFileNameW
handle = ctypes.windll.kernel32.GetModuleHandleW
handle.restype, size.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint]
name = ctypes.create_unicode_buffer(1000)
size(handle({RUNTIME!r}), name, 1000)
print(ascii(name.value), ascii({str(mine)!r}))
"""
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path / "site")])
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(lib), "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert "torch" in done.stdout.split()[0], done.stdout + done.stderr


@pytest.mark.parametrize("where", ["current", "path"])
def test_nothing_from_the_current_folder_or_path(lib: Path, tmp_path: Path, where: str) -> None:
    """A library of that name in the current folder or in one of PATH is not taken: others may write there."""
    planted = package(tmp_path / "planted")
    if where == "current":
        copy(planted, lib.parent / RUNTIME)  # where `asked` runs
        found = asked(lib)
    else:
        found = asked(lib, PATH=f"{planted.parent}{os.pathsep}{os.environ['PATH']}")
    assert found["state"] == "failed", found


def test_long_path(tmp_path: Path) -> None:
    """More than the 260 characters that Windows once allowed: it works, or says that it cannot open the library by that path."""
    folder = tmp_path
    while len(str(folder)) < 300:
        folder /= "a folder with a long name"
    try:
        copy_folder(llama_cpp._backends.state.lib_dir, folder)
    except OSError as problem:
        pytest.skip(f"this system has no long paths ({problem})")
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", "import llama_cpp; print(llama_cpp._backends.state.cpu[0].path)"],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 or str(folder)[:40] in done.stderr, done.stderr


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "utf-8"])
def test_report_in_a_console_of(encoding: str) -> None:
    """``python -m llama_cpp`` in cmd and PowerShell, whose encodings have not every letter."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LLAMA_CPP_BACKENDS": "cpu"}
    done = subprocess.run([sys.executable, "-m", "llama_cpp"], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "llama-cpp-python" in done.stdout.decode(encoding)
