"""A toolkit that is fetched from the package index, and what may happen meanwhile: real pip, real packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.failures.test_failures import default_interrupt
from variants import errors
from variants.compilers import packages
from variants.terminal import disk
from variants.upstream import source

ROOT = Path(__file__).parent.parent.parent


def start(cache: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "variants", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "LLAMA_CPP_VARIANTS_CACHE": str(cache)}, preexec_fn=default_interrupt,
    )  # fmt: skip


def until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints until a line has `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    assert text in lines[-1], "".join(lines)
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_download(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing that looks like a toolkit is left; the next run fetches it, and the one after finds it."""
    source.vendor(disk.Lock(ROOT))
    process = start(tmp_path, "build", "cuda13", "--arch", "90")
    until(process, "-m pip install")
    time.sleep(1.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    if number == signal.SIGKILL:  # nobody is left to end pip
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -9), out
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if number != signal.SIGKILL:
        assert "Nothing unfinished" in out
        assert not list(tmp_path.glob(".*.tmp"))
    again = start(tmp_path, "build", "cuda13", "--arch", "90")
    until(again, "] core")
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert not list(tmp_path.glob(".*.tmp"))
    shown = start(tmp_path, "toolchain", "cuda13")
    out, _ = shown.communicate(timeout=60)
    assert shown.returncode == 0, out
    assert "to be assembled" not in out
    assert "all known" in out


def test_another_file_than_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that serves something else is refused by the file's hash, and nothing of it is kept."""
    monkeypatch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "odd.txt").write_text(f"nvidia-cuda-crt==13.0.88 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(errors.CommandError) as caught:
        packages.install(packages.read(tmp_path / "odd.txt", 1), lambda *_: None, tmp_path / "log.txt")
    assert "HASHES" in caught.value.what.upper()
    assert "--toolkit" in caught.value.remedy
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []
