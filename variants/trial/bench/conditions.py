"""What the machine does while something is measured: other processes, a quota, an affinity mask."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import cases

#: Puts a command before another, which then runs in the condition.
Prefix = Sequence[str]
_BUSY = {cases.ONE_BUSY: 1, cases.TWO_BUSY: 2}
_PERIOD = 100_000  # of a quota, in microseconds (the kernel's default)


class ConditionError(Exception):
    """This machine cannot be brought into the condition, in words."""


@contextlib.contextmanager
def held(condition: str) -> Iterator[Prefix]:
    """Keep the machine in the condition; gives what stands before a command that is measured.

    Raises:
        ConditionError: that takes rights or a system that are not here.
    """
    processors = usable()
    half = max(1, len(processors) // 2)
    if condition in _BUSY:
        with contextlib.ExitStack() as stack:
            for _ in range(_BUSY[condition]):
                stack.enter_context(_busy())
            yield ()
    elif condition == cases.MASK:
        if not hasattr(os, "sched_setaffinity"):
            raise ConditionError("this system has no affinity masks that Python sets")
        mask = ",".join(map(str, processors[:half]))
        script = "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
        yield (sys.executable, "-c", script, mask)
    elif condition == cases.QUOTA:
        with _quota(half) as prefix:
            yield prefix
    else:
        yield ()


def usable() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """A process that computes all the time."""
    started = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        started.kill()
        started.wait()


@contextlib.contextmanager
def _quota(processors: int) -> Iterator[Prefix]:
    """A control group with a quota of so many processors (Linux, cgroups of version 1 or 2, by root)."""
    group = Path(f"/sys/fs/cgroup/cpu/llama-cpp-bench-{os.getpid()}")
    second = not group.parent.is_dir()
    if second:
        group = Path(f"/sys/fs/cgroup/{group.name}")
    try:
        group.mkdir()
    except OSError as error:
        raise ConditionError(f"no control group can be made here ({error})") from error
    try:
        try:
            if second:
                (group / "cpu.max").write_text(f"{processors * _PERIOD} {_PERIOD}")
            else:
                (group / "cpu.cfs_quota_us").write_text(str(processors * _PERIOD))
        except OSError as error:
            raise ConditionError(f"no quota can be given here ({error})") from error
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"')
    finally:
        group.rmdir()
