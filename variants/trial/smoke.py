"""Test a wheel where a user would have it: installed by an installer into a new environment, run from another directory."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from .. import matrix, platforms
from ..backends.toolkit import Toolkit
from ..choice import machine, metadata, providers
from ..compilers import toolchain
from ..errors import SourceError, ToolchainError, UsageError, WheelError
from ..steps import plugin
from ..terminal import disk, process
from ..terminal.console import console, styled
from ..upstream import source
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import standins

INSTALLERS = ("uv", "pip")
_TOOLS = ("gguf>=0.17", "pytest>=8")
#: Another package with a ggml of its own, to share a process with (tests/inference/test_loader.py). One environment is enough.
_NEIGHBOUR = "xllamacpp"
#: Tests that ask nothing of Linux with glibc: they ran on other systems, too.
PORTABLE = ("test_inference.py", "test_mtmd.py")
_TEMPORARY = ("-o", "tmp_path_retention_policy=failed")  # models of one test are no use to the next
#: Those of a wheel's GPU plugin, and of ggml's RPC plugin.
GPU_TESTS, _RPC_TESTS = "test_gpu.py", "test_rpc.py"
_DRIVER_ERRORS = "test_errors_gpu.py"
DEVICE_TESTS = (GPU_TESTS, _DRIVER_ERRORS)
WINDOWS_TESTS = "test_windows.py"
_APART = (GPU_TESTS, _DRIVER_ERRORS, _RPC_TESTS, WINDOWS_TESTS)
#: Processors that qemu emulates, and the CPU plugin that each must get.
OLD_CPUS = {"Nehalem": "cpu-sse42", "SandyBridge": "cpu-sandybridge", "IvyBridge": "cpu-ivybridge", "Haswell": "cpu-haswell"}


def install(
    wheel: Path,
    installer: str,
    environment: Path,
    log: Path,
    extra: str = "",
    tools: tuple[str, ...] = _TOOLS,
    base: str = sys.executable,
) -> Path:
    """Make a new environment of the Python `base`, install the wheel (with `extra`, as in ``[test]``) and the test tools.

    Returns the environment's Python.

    Raises:
        CommandError: the installer refuses the wheel, or cannot reach an index.
        UsageError: there is no such wheel, it is for another platform, or there is no uv in this environment.
    """
    if not wheel.is_file():
        raise UsageError(f"{wheel} is not there.", "Name a wheel file, or build one: `nox -s build_variant -- cpu`.")
    _require_here(wheel)
    disk.remove(environment)
    python = python_of(environment)
    env = process.environment()
    if label := archive.split_label(wheel.name)[1]:  # a labelled file by its path: uv wants the feature, pip cannot read the name
        env["UV_PREVIEW_FEATURES"] = "wheel-variants"
        fits = _fits(label)
        if installer == "uv" and not fits:
            console.print(f"      uv does not give {label} to this machine: installed under its plain name", style="dim")
        if installer == "pip" or not fits:
            with disk.replacing(environment.parent / archive.plain_path(wheel).name) as part:
                shutil.copyfile(wheel, part)
            wheel = environment.parent / archive.plain_path(wheel).name
    what = f"{wheel.resolve()}{extra}"
    remedy = "Is the package index reachable? The wheel's own dependencies come from there."
    if installer == "uv":
        uv = shutil.which("uv", path=process.environment()["PATH"])
        if uv is None:
            raise UsageError("There is no uv in this environment.", "Run through nox, or `pip install uv`.")
        process.command([uv, "venv", "--python", base, environment], log=log, env=process.environment())
        process.command([uv, "pip", "install", "--python", python, what, *tools], log=log, env=env, remedy=remedy)
    else:
        process.command([base, "-m", "venv", environment], log=log, remedy=f"Is {base} a Python with venv?")
        process.command([python, "-m", "pip", "install", what, *tools], log=log, env=process.environment(), remedy=remedy)
    return python


def python_of(environment: Path) -> Path:
    """The Python of an environment that `venv` or uv made."""
    return environment / "Scripts" / "python.exe" if os.name == "nt" else environment / "bin" / "python"


@contextlib.contextmanager
def _installed(wheel: Path, installer: str, environment: Path, log: Path, **more: Any) -> Iterator[Path]:
    """:func:`install`; at the end the environment goes (it may take 2 GB), after a failure it stays, to be looked into."""
    yield install(wheel, installer, environment, log, **more)
    disk.remove(environment)


def _require_here(wheel: Path) -> None:
    """Raise a UsageError, if the wheel is for another platform."""
    if (known := archive.platforms_of(wheel)) and (here := platforms.here()) not in known:
        raise UsageError(
            f"{wheel.name} is a wheel for {', '.join(sorted(platform.name for platform in known))}; this machine is {here.name}.",
            "Test it on such a machine; Arm Linux, musl and Windows x86-64 also here: `nox -s test_foreign -- --wheel …`.",
        )


def _fits(label: str) -> bool:
    """Does uv give a wheel with this label to this machine? Without the device the CPU half of the tests is run."""
    variant = matrix.labelled(label)
    if variant is None:
        return True
    known = metadata.own().providers
    passed_over = any(providers.uv_lacks(namespace, known[namespace]) for namespace in variant.properties)
    return not passed_over and ("nvidia" not in variant.properties or bool(machine.detect().sm))


def smoke(wheel: Path, installer: str, build_dir: Path, base: str = sys.executable) -> None:
    """Install the wheel with `installer` (of :data:`INSTALLERS`) for the Python `base` and run ``tests/inference`` against it.

    Raises:
        CommandError: a test failed; the message shows its last lines.
    """
    console.print(styled(f"[bold]{escape(wheel.name)}[/], installed by {installer}"))
    log = build_dir / "logs" / f"smoke-{installer}.log"
    disk.remove(log)
    environment = build_dir / "smoke" / installer
    tools = (*_TOOLS, _NEIGHBOUR) if installer == "uv" else _TOOLS
    remedy = "The wheel installs, but does not compute as it should."
    folder = ROOT / "tests" / "inference"
    apart = [word for name in _APART for word in ("--ignore", folder / name)]
    here = platforms.here()
    linux = here.system == "Linux" and not here.musl
    asked: list[str | Path] = [folder, *apart] if linux else [folder / name for name in PORTABLE]
    what = "tests/inference" if linux else ", ".join(PORTABLE)
    flash = _flash(wheel)
    with _installed(wheel, installer, environment, log, tools=tools, base=base) as python:
        counts = pytest_in([python], asked, log, remedy, flash)
        if linux and (
            env := _expected(wheel, build_dir, log)
        ):  # on their own: once a GPU's plugin is loaded, ggml hands it big batches
            devices: list[str | Path] = [folder / name for name in DEVICE_TESTS]
            for name, count in pytest_in([python], devices, log, remedy, env | flash).items():
                counts[name] += count
        records.add(wheel, what=what, installer=installer, **report([python], {}), **counts)


def _flash(wheel: Path) -> dict[str, str]:
    """What the tests must know of a device that computes with flash attention alone; it takes big batches of CPU models, too."""
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    return {"LLAMA_CPP_TEST_FLASH": "1"} if variant and variant.table.smoke.flash_attention else {}


def _expected(wheel: Path, build_dir: Path, log: Path) -> dict[str, str]:
    """What tests/inference/test_gpu.py must know of a labelled wheel: the device, and a driver that fails on command."""
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    if variant is None or variant.backend is None:
        return {}
    env = {"LLAMA_CPP_TEST_DEVICE": variant.table.smoke.device}
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    source_file = ROOT / "tests" / "plugins" / f"failing_{variant.backend.name}.c"
    if compiler and source_file.is_file():
        folder = build_dir / "smoke"
        if re.search(r"[\s:]", str(folder)):  # which LD_PRELOAD takes for the end of a path, and has no way to spell
            folder = Path(tempfile.mkdtemp(prefix="llama-cpp-"))
            atexit.register(disk.remove, folder)
        library = folder / f"failing_{variant.backend.name}.so"
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{standins.soname(variant, platforms.here())}"]
        process.output([compiler, *flags, *standins.includes(variant, log), source_file, "-o", library, "-ldl"])
        env |= {"LLAMA_CPP_TEST_FAILING_DRIVER": str(library)} if library.exists() else {}
        env |= {"LLAMA_CPP_TEST_DRIVER_SOURCE": str(source_file.with_name("cuda_driver.c"))}
    return env


def old_cpus(wheel: Path, build_dir: Path) -> None:
    """Run the smoke inference on emulated old processors (qemu-user): the right plugin, NumPy's logits, no illegal instruction.

    Raises:
        ToolchainError: there is no qemu-x86_64.
        CommandError: a test failed.
    """
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        raise ToolchainError("There is no qemu-x86_64 on PATH.", "Install it (Debian, Ubuntu: `apt-get install qemu-user`).")
    log = build_dir / "logs" / "old-cpus.log"
    disk.remove(log)
    with _installed(wheel, "uv", build_dir / "smoke" / "old-cpus", log) as python:
        for cpu, expected in OLD_CPUS.items():
            console.print(styled(f"[bold]{escape(wheel.name)}[/], on an emulated {cpu}: {expected}"))
            # NumPy's OpenBLAS misjudges qemu's Nehalem and dies of SIGILL in its own sanity check.
            env = {"LLAMA_CPP_TEST_PLUGIN": expected, "OPENBLAS_CORETYPE": "Nehalem"}
            tests = ROOT / "tests" / "inference" / "test_inference.py"
            emulated: list[str | Path] = [qemu, "-cpu", cpu, python]
            counts = pytest_in(emulated, [tests], log, "The wheel fails on an old processor.", env)
            facts = report(emulated, env) | {"processor": f"{cpu}, emulated by qemu-user ({expected})"}
            records.add(wheel, what="test_inference.py", installer="uv", **facts, **counts)


def offload(wheel: Path, build_dir: Path) -> None:
    """Compile ggml's RPC plugin for the wheel's core and run ``tests/inference/test_rpc.py``: offload over loopback.

    Raises:
        CommandError: the plugin does not compile, or a test failed.
        UsageError: the wheel is for another platform.
        WheelError: its core was made by another toolchain than zig, or another zig.
    """
    _require_here(wheel)
    log = build_dir / "logs" / "offload.log"
    disk.remove(log)
    tools = toolchain.find("zig", build_dir / "toolchains", platforms.here())
    console.print(styled(f"[bold]{escape(wheel.name)}[/], ggml's RPC plugin for its core"))
    with disk.locked(build_dir) as lock:
        upstream = source.vendor(lock)
        made = plugin.build(
            Toolkit("rpc", (), ""), wheel, upstream, tools, runtime=matrix.Runtime(), jobs=process.default_jobs(), log=log,
            build_dir=build_dir / f"rpc-{tools.platform.name}",
        )  # fmt: skip
    environment = build_dir / "smoke" / "offload"
    with _installed(wheel, "uv", environment, log) as python:
        libraries = next(environment.glob("lib/python*/site-packages/llama_cpp/lib"))
        shutil.copyfile(made.file, libraries / made.file.name)
        pytest_in([python], [ROOT / "tests" / "inference" / _RPC_TESTS], log, "Offload does not give the CPU's answers.")


def upstream_tests(wheel: Path, build_dir: Path) -> None:
    """Run upstream's own tests (from the sdist) against the wheel; see ``tests/upstream`` for the models they want.

    Raises:
        CommandError: a test failed.
        SourceError: the tests are not where upstream has them.
    """
    tests = source.TREE / "tests"
    if not tests.is_dir():
        raise SourceError(f"Upstream's tests are not in {tests}.", "Fetch upstream: `nox -s vendor`.")
    console.print(styled(f"[bold]{escape(wheel.name)}[/], upstream's test suite"))
    log = build_dir / "logs" / "upstream-tests.log"
    disk.remove(log)
    plugin = {"PYTHONPATH": str(ROOT / "tests" / "upstream")}
    remedy = "Compare with upstream's own wheel of this version."
    with _installed(wheel, "uv", build_dir / "smoke" / "upstream", log, extra="[server,test]") as python:
        pytest_in([python], ["-p", "upstream_models", tests], log, remedy, plugin, vendor=source.TREE / "vendor")


def pytest_in(
    python: list[str | Path],
    arguments: list[str | Path],
    log: Path,
    remedy: str,
    environment: Mapping[str, str] | None = None,
    vendor: Path | None = None,
) -> dict[str, int]:
    """Run pytest with the environment's Python in an empty directory, print its summary, return how many passed or were skipped.

    `vendor`: a folder that must lie there under this name (upstream's tests open ``./vendor/llama.cpp/models/…``).
    """
    seen = log.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        if vendor:
            (Path(folder) / "vendor").symlink_to(vendor)
        settings = ["-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", "-ra", *_TEMPORARY]
        env = process.environment(**(environment or {}))
        process.command([*python, "-m", "pytest", *settings, *arguments], log=log, cwd=Path(folder), env=env, remedy=remedy)
    counts = {"passed": 0, "skipped": 0}
    for line in log.read_bytes()[seen:].decode("utf-8", "replace").splitlines():
        if line.startswith("SKIPPED") or re.match("=+ .*passed", line):
            console.print(f"      {line.strip('= ')}")
        if re.match("=+ .*passed", line):
            counts |= {name: int(count) for count, name in re.findall(r"(\d+) (passed|skipped)", line)}
    return counts


def report(python: Sequence[str | Path], environment: Mapping[str, str]) -> dict[str, str]:
    """System, Python, and the devices that ggml computes on, as the installed package's own report has them."""
    with tempfile.TemporaryDirectory() as empty:  # in upstream's own repository, `-m` would take its llama_cpp
        answer = process.output([*python, "-m", "llama_cpp", "--json"], process.environment(**environment), empty)
    try:
        report = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])  # qemu warns on stderr of features that it lacks
    except ValueError as error:
        raise WheelError(f"`python -m llama_cpp --json` gives no report: {answer[:500]}", "Run it by hand to see why.") from error
    return facts_of(report, machine.system())


def facts_of(report: Mapping[str, Any], system: str) -> dict[str, str]:
    """What a record keeps of the package's report."""
    devices = {device["name"]: device["description"] for device in report["devices"]}  # asking loads the GPU's plugin
    processor = f"{devices.pop('CPU', 'unknown processor')} ({report['cpu']['plugin']})"
    computed = ", ".join(["CPU", *(f"{name} ({text})" for name, text in devices.items())])
    python_version = " ".join(report["python"].split()[:2])  # what follows is a path
    return {"system": system, "python": python_version, "processor": processor, "devices": computed}
