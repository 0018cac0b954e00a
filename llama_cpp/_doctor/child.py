"""Run one of the doctor's tasks in a process of its own, with a time limit: a driver that crashes or hangs is a finding."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, NamedTuple

from .probe import MARK

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from llama_cpp._doctor import probe; probe.main(sys.argv[2:])"
_WINDOWS = {
    0xC0000005: "crashed (access violation)",
    0xC000001D: "met an illegal instruction (0xC000001D)",
    0xC0000135: "misses a DLL",
}


class Outcome(NamedTuple):
    """`result`: what the task gives, or None. `died`: how it ended otherwise, in words. `log`: what it wrote to stderr."""

    result: Any
    died: str
    log: str
    seconds: float


def run(task: str, *arguments: str, limit: int, waiting: Callable[[float, int], None], **environment: str) -> Outcome:
    """Run `task` of :mod:`.probe` within `limit` seconds. `waiting` is called meanwhile, with the seconds so far and the limit."""
    words = [sys.executable, "-c", _START, json.dumps(sys.path), task, *arguments]
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **environment})
        try:
            while child.poll() is None and time.monotonic() - began < limit:
                waiting(time.monotonic() - began, limit)
                try:
                    child.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            late = child.poll() is None
        finally:
            if child.poll() is None:
                child.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel's driver does not die
                    child.wait(5)
        seconds = time.monotonic() - began
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    for line in texts[0].splitlines():
        if line.startswith(MARK) and not late:
            return Outcome(json.loads(line[len(MARK) :]), "", texts[1], seconds)
    return Outcome(None, f"gives no answer in {limit} seconds" if late else _death(child.returncode, texts[1]), texts[1], seconds)


def _death(code: int, log: str) -> str:
    """How a process ended, in words: a signal, or the last line of a traceback."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        words = {"SIGILL": "met an illegal instruction (SIGILL)", "SIGKILL": "was killed (SIGKILL): often for want of memory"}
        return words.get(name, f"crashed ({name})")
    if code in _WINDOWS:
        return _WINDOWS[code]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    at = max((index for index, line in enumerate(log.splitlines()) if line.startswith("Traceback")), default=None)
    told = [line for line in log.splitlines()[at:] if line and not line.startswith((" ", "Traceback"))] if at is not None else lines
    errors = [line for line in told if "doctor` tells more" not in line]
    return errors[0] if at is not None and errors else errors[-1] if errors else f"ended with code {code}"
