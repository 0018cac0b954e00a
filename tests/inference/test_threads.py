"""The threads that compute (llama_cpp/threads): how many there are, that the answers do not depend on them, that they sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Callable, Iterator

import pytest

Models = Callable[[str], Path]

GENERATE = """
import os, sys, threading, time, warnings
import llama_cpp
warnings.simplefilter("ignore")  # a fork beside threads

def generate(path, threads, context=None):
    model = llama_cpp.Llama(path, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)
    return model.create_completion("the hat and the cat", max_tokens=16, temperature=0.0)["choices"][0]["text"]

def computing():
    return len(os.listdir("/proc/self/task"))
"""


def python(script: str, *arguments: object, prefix: tuple[str, ...] = (), **environment: str) -> str:
    """What a script prints in a new interpreter; fails the test where it fails, or where it takes longer than two minutes."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", GENERATE + textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def limit(prefix: tuple[str, ...] = (), **environment: str) -> int:
    """How many threads compute at most, by the report."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "llama_cpp", "--json"], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["cpu"]["thread_limit"])


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's /proc")


@linux
def test_no_more_threads_than_processors(gguf_file: Models) -> None:
    """A model that is given eight times as many threads as there are processors gets one for each."""
    script = """
        before = computing()
        generate(sys.argv[1], 8 * os.cpu_count())
        print(computing() - before + 1)
    """
    assert int(python(script, gguf_file("Q8_0"))) == limit() <= len(os.sched_getaffinity(0))


@linux
def test_as_many_as_asked_for(gguf_file: Models) -> None:
    """OMP_DYNAMIC=false, OpenMP's own variable, gives what was asked for; OMP_THREAD_LIMIT bounds the rest."""
    script = """
        before = computing()
        generate(sys.argv[1], 5)
        print(computing() - before + 1)
    """
    assert int(python(script, gguf_file("Q8_0"), OMP_DYNAMIC="false")) == 5
    assert int(python(script, gguf_file("Q8_0"), OMP_THREAD_LIMIT="1")) == limit(OMP_THREAD_LIMIT="1") == 1


@linux
def test_affinity_mask() -> None:
    """A process that may use one processor computes with one thread."""
    one = min(os.sched_getaffinity(0))
    assert limit(prefix=("taskset", "-c", str(one))) == 1


@pytest.fixture
def half_a_processor() -> Iterator[tuple[str, ...]]:
    """A command that runs another in a control group with half a processor."""
    group = Path(f"/sys/fs/cgroup/cpu/llama-cpp-{os.getpid()}")
    second = not group.parent.is_dir()
    if second:
        group = Path(f"/sys/fs/cgroup/llama-cpp-{os.getpid()}")
    try:
        group.mkdir()
        if second:
            (group / "cpu.max").write_text("50000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("50000")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield "sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'
    group.rmdir()


@linux
def test_quota(half_a_processor: tuple[str, ...]) -> None:
    """In a container with a CPU quota, the threads are as many as it pays for."""
    assert limit(prefix=half_a_processor) == 1


def test_answers_do_not_depend_on_threads(gguf_file: Models) -> None:
    """One model after the other with other numbers of threads, more than processors among them, and changed in a context."""
    script = """
        path = sys.argv[1]
        assert len({generate(path, threads) for threads in (1, 2, 7, 3, 1, 12)}) == 1
        model = llama_cpp.Llama(path, n_ctx=256, n_threads=1, verbose=False)
        texts = set()
        for threads in (1, 4, 2, 6, 1):
            llama_cpp.llama_set_n_threads(model.ctx, threads, threads)
            texts.add(model.create_completion("the hat", max_tokens=16, temperature=0.0)["choices"][0]["text"])
        assert len(texts) == 1, texts
    """
    for dynamic in ("true", "false"):
        python(script, gguf_file("Q8_0"), OMP_DYNAMIC=dynamic)


def test_many_models_at_once(gguf_file: Models) -> None:
    """Six contexts that compute at the same time, each with more threads than processors; then once more in a child."""
    script = """
        path, out = sys.argv[1], []
        def several():
            threads = [threading.Thread(target=lambda n=n: out.append(generate(path, n))) for n in (1, 2, 3, 5, 8, 2)]
            [t.start() for t in threads]; [t.join() for t in threads]
        several()
        if hasattr(os, "fork"):
            child = os.fork()
            several()
            if child == 0:
                os._exit(len(set(out)) - 1 or len(out) - 12)
            assert os.waitpid(child, 0)[1] == 0
        assert len(set(out)) == 1 and out[0], out
    """
    for dynamic in ("true", "false"):
        python(script, gguf_file("Q8_0"), OMP_DYNAMIC=dynamic)


@linux
def test_fork_after_fork(gguf_file: Models) -> None:
    """Infer, fork, infer in both, and the same in the child: no generation waits for threads that only its parent has."""
    script = """
        path = sys.argv[1]
        first, parent = generate(path, 4), os.getpid()
        for _ in range(3):
            child = os.fork()
            assert generate(path, 4) == first
            if child:
                assert os.waitpid(child, 0)[1] == 0
                break
        os._exit(0)
    """
    python(script, gguf_file("Q8_0"), OMP_DYNAMIC="false")


def test_idle_threads_sleep(gguf_file: Models) -> None:
    """A second after the last token the process uses next to no processor time."""
    script = """
        model = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=4, verbose=False)
        model.create_completion("the hat", max_tokens=8)
        time.sleep(0.2)
        before = time.process_time()
        time.sleep(1)
        print(time.process_time() - before)
    """
    assert float(python(script, gguf_file("Q8_0"), OMP_DYNAMIC="false")) < 0.05


@linux
def test_a_threadpool_of_the_users_own(gguf_file: Models) -> None:
    """ggml's threadpools (llama_attach_threadpool) still compute, with their processors and their number of threads."""
    script = """
        import ctypes
        from llama_cpp import _backends
        plugin = next(p for p in _backends.state.cpu if p.state == "loaded")
        ggml, llama = ctypes.CDLL(str(plugin.path)), llama_cpp.llama_cpp._lib
        class Parameters(ctypes.Structure):  # ggml/include/ggml.h: ggml_threadpool_params
            _fields_ = [("cpumask", ctypes.c_bool * 512), ("n_threads", ctypes.c_int), ("prio", ctypes.c_int),
                        ("poll", ctypes.c_uint32), ("strict_cpu", ctypes.c_bool), ("paused", ctypes.c_bool)]
        ggml.ggml_threadpool_new.restype = ctypes.c_void_p
        parameters = Parameters(n_threads=2, poll=50)
        pool = ctypes.c_void_p(ggml.ggml_threadpool_new(ctypes.byref(parameters)))
        model = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=2, n_threads_batch=2, verbose=False)
        def text():
            model.reset()
            return model.create_completion("the hat and the cat", max_tokens=16, temperature=0.0)["choices"][0]["text"]
        before = text()
        llama.llama_attach_threadpool.argtypes = [ctypes.c_void_p] * 3
        llama.llama_attach_threadpool(model.ctx, pool, None)
        assert text() == before
        llama.llama_detach_threadpool(ctypes.c_void_p(model.ctx))
        assert text() == before
    """
    python(script, gguf_file("Q8_0"))
