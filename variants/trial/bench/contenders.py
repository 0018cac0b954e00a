"""Who is compared: our wheel, builds of the same source by others, and another package; each in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ... import matrix, platforms
from ...backends import toolkit
from ...choice import machine
from ...compilers import toolchain
from ...errors import CommandError, UsageError, WheelError
from ...terminal import disk, process
from ...terminal.console import console
from ...upstream import source
from ...upstream.source import ROOT
from .. import smoke
from .cases import TWO_MODELS, Case
from .conditions import Prefix

SCRIPTS = ROOT / "tests" / "bench"
#: The name of our wheel among the results.
OURS = "wheel"
#: Whom it can be compared with: itself without AVX; upstream built from its sdist by this machine's compiler, as `pip install` does
#: without a wheel (GGML_NATIVE, OpenMP); the same source by zig's clang for this processor alone; xllamacpp's wheel.
OTHERS = ("baseline", "upstream", "zig", "xllamacpp")
#: Upstream with the same backend, but its CPU part without AVX2, FMA and F16C, as in the GPU wheels that it publishes.
NO_AVX = "no AVX"
#: After so many seconds a measurement counts as one that does not come to an end.
PATIENCE = 90.0


class Contender(msgspec.Struct, frozen=True):
    """One of the compared: its name, the Python of its environment, its script, variables to set, and the bytes of its wheel.
    `only_half`: it is measured where part of the layers is on the GPU, and nowhere else."""

    name: str
    python: Path
    script: str = "measure.py"
    environment: dict[str, str] = {}
    only_half: bool = False
    size: int | None = None

    def command(self, prefix: Prefix, what: str, *arguments: object) -> list[str]:
        return [*prefix, str(self.python), str(SCRIPTS / self.script), what, *map(str, arguments)]

    @contextlib.contextmanager
    def running(self, command: Sequence[str], copies: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
        """Processes of this command, which are ended with the block."""
        env = {**process.environment(), **self.environment}
        pipe = subprocess.PIPE
        with contextlib.ExitStack() as stack:
            started = []
            for _ in range(copies):
                started.append(
                    stack.enter_context(
                        subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/")
                    )
                )
                stack.callback(started[-1].kill)
            yield started


def speed(
    contender: Contender, case: Case, prefix: Prefix, prompts: Sequence[int], generate: int, patience: float = PATIENCE
) -> dict[str, float] | None:
    """One measurement, or None where it does not come to an end. Of two processes with one model each, the speeds are added.

    Raises:
        CommandError: a process failed.
    """
    copies = 2 if case.condition == TWO_MODELS else 1
    given = (case.model, case.threads, case.layers, ",".join(map(str, prompts)), generate, *(["--wait"] if copies > 1 else []))
    command = contender.command(prefix, "speed", *given)
    with contender.running(command, copies) as started:
        if copies > 1:
            _go(started)
        try:
            found = [_answer(contender, command, one, patience) for one in started]
        except subprocess.TimeoutExpired:
            return None
    return _added(found)


def _go(started: Sequence[subprocess.Popen[str]]) -> None:
    """Let processes that wait for it begin, when all of them are ready."""
    for one in started:
        assert one.stdout is not None
        while (line := one.stdout.readline()) and line.strip() != "ready":
            pass
    for one in started:
        assert one.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed: its exit code says so
            one.stdin.write("go\n")
            one.stdin.flush()


def _added(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """What several processes come to together: speeds and memory are added, costs of a token are their mean."""
    return {key: sum(one[key] for one in found) / (len(found) if "a token" in key else 1) for key in found[0]}


def first(contender: Contender, model: Path) -> dict[str, float]:
    """Seconds of the import and of the first token after it, and memory.

    Raises:
        CommandError: the process failed.
    """
    command = contender.command((), "first", model)
    with contender.running(command) as (started,):
        return _answer(contender, command, started, PATIENCE)


def _answer(contender: Contender, command: Sequence[str], started: subprocess.Popen[str], patience: float) -> dict[str, float]:
    out, errors = started.communicate(timeout=patience)
    if started.returncode:
        raise CommandError(f"The measurement of {contender.name} failed:\n{errors[-1500:]}", " ".join(command))
    values: dict[str, float] = json.loads(out.splitlines()[-1])
    return values


def found(wheel: Path, variant: matrix.Variant | None, others: Sequence[str], folder: Path, log: Path) -> Iterator[Contender]:
    """The wheel and the others, built and installed.

    Raises:
        CommandError: a build failed, or an installer.
        ToolchainError: upstream's build takes a compiler that is not here.
    """
    ours = smoke.install(wheel, "uv", environment_of(folder, OURS), log)
    yield Contender(OURS, ours, size=wheel.stat().st_size)
    is_gpu = bool(variant and variant.table.plugin)
    for name in others:
        if name == "baseline" and not is_gpu:
            yield Contender(name, ours, environment={"LLAMA_CPP_BACKENDS": "cpu-x64"})
        elif name == "upstream":
            for part in (name, NO_AVX) if is_gpu else (name,):
                built, environment = upstream_wheel(folder, log, variant, "system", avx=part != NO_AVX)
                python = smoke.install(built, "uv", environment_of(folder, part), log)
                yield Contender(part, python, environment=environment, only_half=part == NO_AVX, size=built.stat().st_size)
        elif name == "zig" and not is_gpu:
            built, _ = upstream_wheel(folder, log, variant, "zig")
            yield Contender(name, smoke.install(built, "uv", environment_of(folder, name), log), size=built.stat().st_size)
        elif name == "xllamacpp" and not is_gpu:
            yield Contender(name, _package(name, environment_of(folder, name), log), "measure_xllamacpp.py")


def environment_of(folder: Path, name: str) -> Path:
    """Where a contender is installed; the wheels that are built for it lie elsewhere."""
    return folder / "environments" / name.replace(" ", "-")


def _package(name: str, environment: Path, log: Path) -> Path:
    """A new environment with a package of the index; its Python."""
    uv = shutil.which("uv", path=process.environment()["PATH"])
    if uv is None:
        raise UsageError("There is no uv in this environment.", "Run through nox, or `pip install uv`.")
    disk.remove(environment)
    python = smoke.python_of(environment)
    process.command([uv, "venv", "--python", sys.executable, environment], log=log, env=process.environment())
    remedy = f"Is the package index reachable? Or leave {name} out: --against upstream."
    process.command([uv, "pip", "install", "--python", python, name], log=log, env=process.environment(), remedy=remedy)
    return python


def upstream_wheel(
    folder: Path, log: Path, variant: matrix.Variant | None, compiler: str, avx: bool = True
) -> tuple[Path, dict[str, str]]:
    """Upstream's own wheel of the pinned version, built from the vendored sdist for this machine's processor by this compiler (of
    :data:`toolchain.KINDS`), and the variables with which it finds the libraries of its backend.

    With a `variant` that has a plugin, that backend is built in. Without `avx`, the CPU part is what upstream's GPU wheels have.
    """
    backend = variant.backend if variant else None
    plugin = backend.name if backend else None
    name = "-".join(filter(None, ["upstream", plugin, "" if compiler == "system" else compiler, "" if avx else "no-avx"]))
    target, build = folder / name, folder / f"{name}-build"
    tools = toolchain.find(compiler, folder, platforms.here())
    defines: list[str] = list(tools.cmake) if plugin or compiler != "system" else []
    environment: dict[str, str] = {}
    shims: list[str] = []
    with disk.locked(folder.parent) as lock:
        upstream = source.vendor(lock)
    if variant and backend:
        kit = toolkit.require(backend.find(matrix.request(_for_this_gpu(variant), tools, upstream.tree, fetch=True, log=log)))
        # The shim of our headers goes in the way that a user has: by the compiler's variable.
        shims = [define.partition("=")[2] for define in kit.cmake if define.startswith("-DLLAMA_CPP_PLUGIN_INCLUDE=")]
        environment = {"LD_LIBRARY_PATH": f"{kit.home}/lib64"} if kit.home else {}
        defines += [f"-DGGML_{backend.name.upper()}=ON", *backend.upstream, *kit.cmake]
        defines += [] if avx else [f"-DGGML_{name}=OFF" for name in ("NATIVE", "AVX", "AVX2", "FMA", "F16C", "BMI2")]
    built = list(target.glob("*.whl"))
    if not built:
        copy = folder / "upstream-source"  # its build writes libraries into its own tree
        disk.remove(copy)
        shutil.copytree(upstream.tree, copy)
        console.print(f"building upstream's own wheel ({name}) with {tools.name} (some minutes)")
        env = process.environment() | tools.environment
        env.pop("SOURCE_DATE_EPOCH", None)  # ggml takes it as a wish for a portable build
        if shims:
            env["CPLUS_INCLUDE_PATH"] = shims[0]
        command: list[str | Path] = [
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", target,
            "-Ccmake.build-type=Release", f"-Cbuild-dir={build}",
            *(f"-Ccmake.define.{define.removeprefix('-D')}" for define in defines), copy,
        ]  # fmt: skip
        process.command(command, log=log, env=env)
        built = list(target.glob("*.whl"))
    if len(built) != 1:
        raise WheelError(f"{len(built)} wheels of upstream's in {target}.", "Remove that folder and run again.")
    return built[0], environment


def _for_this_gpu(variant: matrix.Variant) -> matrix.Variant:
    """The variant for the GPUs of this machine alone, where it has a list of architectures: what a build from source compiles."""
    here = variant.lists.here(machine.detect()) if variant.lists else []
    return matrix.narrowed(variant, here) if here else variant


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), f"{os.cpu_count()} processors")
