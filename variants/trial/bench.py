"""The benchmark: our wheel, upstream's own build of the same source, and a build without AVX, in paired runs.

A plain wheel is compared on the CPU, one with a GPU plugin on its GPU, against upstream built with the same backend. Every round
runs all of them one after the other, so that a busy machine hurts all alike; ratios are taken within a round.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from .. import matrix, platforms
from ..backends import toolkit
from ..choice import machine, metadata
from ..compilers import toolchain
from ..errors import CommandError, WheelError
from ..terminal import disk, process
from ..terminal.console import console
from ..upstream import source
from ..upstream.source import ROOT
from ..wheel import archive
from . import smoke

_SCRIPTS = ROOT / "tests" / "bench"
_PROMPT, _GENERATE = 512, 128
_LAYERS = 12  # of the model made here (tests/bench/make_model.py)


class Setting(msgspec.Struct, frozen=True):
    """How the model is run: its name, threads, and layers on the GPU (-1: all)."""

    name: str
    threads: int
    layers: int = 0


class Contender(msgspec.Struct, frozen=True):
    """One of the compared: its name, the Python of its environment, in which settings it runs, and variables to set."""

    name: str
    python: Path
    settings: tuple[Setting, ...]
    environment: dict[str, str] = {}


class Ratio(msgspec.Struct, frozen=True):
    """Ratios ours / theirs within rounds: median, first and third quartile, and the lower bound of the median's 95 % confidence
    interval (percentile bootstrap)."""

    median: float
    low: float
    high: float
    bound: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}; bound {self.bound:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The paired ratios of two series of the same rounds."""
    values = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return Ratio(median, low, high, medians[len(medians) // 40])


def bench(wheel: Path, build_dir: Path, rounds: int, model: Path | None, native: bool) -> Path:
    """Run the benchmark on `wheel` and return the JSON file with every single measurement.

    `model`: a GGUF to run instead of the one made here. `native`: also build upstream's own wheel from its sdist with this
    machine's compiler, as `pip install` without a wheel does (GGML_NATIVE), and compare with it; for a GPU wheel, with the same
    backend, and once more without AVX2, FMA and F16C, as upstream's published GPU wheels are.

    Raises:
        CommandError: a build or a measurement failed.
        ToolchainError: `native` without a compiler.
    """
    folder = build_dir / "bench"
    log = build_dir / "logs" / "bench.log"
    disk.remove(log)
    ours = smoke.install(wheel, "uv", folder / "ours", log)
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    builds: dict[str, Path] = {}
    if variant and variant.table.plugin:
        threads = min(8, os.cpu_count() or 1)
        whole, half = Setting("all layers", threads, -1), Setting("half of the layers", threads, _LAYERS // 2)
        contenders = [Contender("wheel", ours, (whole, half))]
        wanted: dict[str, tuple[Setting, ...]] = {"native": (whole, half), "no AVX": (half,)}
    else:
        counts = sorted({1, min(2, os.cpu_count() or 1)})
        settings = tuple(Setting(f"{count} thread{'s' * (count > 1)}", count) for count in counts)
        contenders = [Contender("wheel", ours, settings), Contender("baseline", ours, settings, {"LLAMA_CPP_BACKENDS": "cpu-x64"})]
        wanted = {"native": settings}
    for name, settings in wanted.items() if native else ():
        builds[name], environment = _upstream_wheel(folder, log, variant, avx=name != "no AVX")
        python = smoke.install(builds[name], "uv", folder / name.replace(" ", "-"), log)
        contenders.append(Contender(name, python, settings, environment))
    if model is None:
        model = folder / "random-100M-Q4_K.gguf"
        if not model.exists():
            with disk.replacing(model) as part:
                process.command([ours, _SCRIPTS / "make_model.py", part], log=log, env=process.environment())
    results: dict[str, dict[str, list[float]]] = {contender.name: {} for contender in contenders}
    for number in range(rounds):
        order = random.Random(number).sample(contenders, len(contenders))
        for contender in order:
            console.print(f"      round {number + 1} of {rounds}: {contender.name}", style="dim")
            row = results[contender.name]
            for setting in contender.settings:
                given = (model, setting.threads, setting.layers, _PROMPT, _GENERATE)
                for key, value in _measure(contender, "speed", *given).items():
                    row.setdefault(f"{key}, {setting.name}", []).append(value)
            for key, value in _measure(contender, "import").items():
                row.setdefault(key, []).append(value)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "wheel": {"name": wheel.name, "sha256": archive.sha256(wheel), "bytes": wheel.stat().st_size},
        "devices": smoke.report([ours], {})["devices"],
        "builds": {name: {"bytes": path.stat().st_size} for name, path in builds.items()},
        "model": {"name": model.name, "bytes": model.stat().st_size},
        "rounds": rounds,
        "prompt_tokens": _PROMPT,
        "generated_tokens": _GENERATE,
        "results": results,
    }
    target = folder / f"{variant.name if variant else 'cpu'}.json"
    with disk.replacing(target) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _print(results)
    console.print(f"\n{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB. Every measurement: {target}")
    return target


def _upstream_wheel(folder: Path, log: Path, variant: matrix.Variant | None, avx: bool) -> tuple[Path, dict[str, str]]:
    """Upstream's own wheel of the pinned version, built from the vendored sdist with this machine's compiler, and the variables
    with which it finds the libraries of its backend.

    With a `variant` that has a plugin, that backend is built in. Without `avx`, the CPU part is what upstream's GPU wheels have.
    """
    backend = variant.backend if variant else None
    plugin = backend.name if backend else None
    name = "-".join(filter(None, ["upstream", plugin, "" if avx else "no-avx"]))
    target, build = folder / name, folder / f"{name}-build"
    tools = toolchain.find("system", folder, platforms.here())
    defines: list[str] = list(tools.cmake) if plugin else []
    environment: dict[str, str] = {}
    with disk.locked(folder.parent) as lock:
        upstream = source.vendor(lock)
    if variant and backend:
        kit = toolkit.require(backend.find(matrix.request(_for_this_gpu(variant), tools, upstream.tree, fetch=True, log=log)))
        # The shim of our headers goes in the way that a user has: by the compiler's variable.
        shims = [define.partition("=")[2] for define in kit.cmake if define.startswith("-DLLAMA_CPP_PLUGIN_INCLUDE=")]
        environment = {"LD_LIBRARY_PATH": f"{kit.home}/lib64"} if kit.home else {}
        defines += [f"-DGGML_{backend.name.upper()}=ON", *backend.upstream, *kit.cmake]
        defines += [] if avx else [f"-DGGML_{name}=OFF" for name in ("NATIVE", "AVX", "AVX2", "FMA", "F16C", "BMI2")]
    found = list(target.glob("*.whl"))
    if not found:
        copy = folder / "upstream-source"  # its build writes libraries into its own tree
        disk.remove(copy)
        shutil.copytree(upstream.tree, copy)
        console.print(f"building upstream's own wheel ({name}) with {tools.name} (some minutes)")
        env = process.environment()
        env.pop("SOURCE_DATE_EPOCH", None)  # ggml takes it as a wish for a portable build
        if plugin and shims:
            env["CPLUS_INCLUDE_PATH"] = shims[0]
        command: list[str | Path] = [
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", target,
            "-Ccmake.build-type=Release", f"-Cbuild-dir={build}",
            *(f"-Ccmake.define.{define.removeprefix('-D')}" for define in defines), copy,
        ]  # fmt: skip
        process.command(command, log=log, env=env)
        found = list(target.glob("*.whl"))
    if len(found) != 1:
        raise WheelError(f"{len(found)} wheels of upstream's in {target}.", "Remove that folder and run again.")
    return found[0], environment


def _for_this_gpu(variant: matrix.Variant) -> matrix.Variant:
    """The variant for the GPUs of this machine alone, where it has a list of architectures: what a build from source compiles."""
    found = variant.lists.here(machine.detect()) if variant.lists else []
    return matrix.narrowed(variant, found) if found else variant


def _measure(contender: Contender, *arguments: object) -> dict[str, float]:
    env = {**process.environment(), **contender.environment}
    command = [str(contender.python), str(_SCRIPTS / "measure.py"), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise CommandError(f"The measurement of {contender.name} failed:\n{done.stderr[-1500:]}", " ".join(command))
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def _machine() -> dict[str, object]:
    model = next((line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform(), "load_before": os.getloadavg()[0]}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def _print(results: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One table: the median of each contender, and the ratio of ours to each with its quartiles."""
    others = [name for name in results if name != "wheel"]
    table = Table(box=None)
    for heading in ("", "wheel", *others, *(f"wheel / {name}" for name in others)):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "" else "right")
    for key, ours in results["wheel"].items():
        cells = [_shown(key, statistics.median(row[key])) if key in row else "" for row in results.values()]
        rows = [results[name].get(key) for name in others]
        table.add_row(key, *cells, *(str(ratio(ours, row)) if row else "" for row in rows))
    console.print(table, width=max(console.width, 120))


def _shown(key: str, value: float) -> str:
    if "memory" in key:
        return f"{value / 1e6:.0f} MB"
    return f"{value * 1000:.0f} ms" if "seconds" in key else f"{value:.1f} tok/s"


def bench_labels(build_dir: Path, rounds: int, megabytes: int) -> Path:
    """Time labelling a wheel of this size against copying the file and against ``variantlib make-variant``, in paired rounds.

    Returns the JSON file with every single measurement.

    Raises:
        CommandError: a step failed, or the disk is full (four times the size is needed).
    """
    folder = build_dir / "bench" / "labels"
    log = build_dir / "logs" / "bench-labels.log"
    disk.remove(log)
    disk.remove(folder)
    folder.mkdir(parents=True)
    variant = next(one for one in matrix.load().values() if one.published and set(one.properties) == {"llama_cpp"})  # static
    wheel = folder / "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl"
    script: list[str | Path] = [sys.executable, _SCRIPTS / "labelling.py"]
    env = process.environment(PYTHONPATH=str(source.ROOT))
    process.command([*script, "make", wheel, str(megabytes)], log=log, env=env)
    results: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for how in [*random.Random(number).sample(["copy", "label", "make-variant"], 3), "unlabel"]:
            console.print(f"      round {number + 1} of {rounds}: {how}", style="dim")
            out = folder / how
            out.mkdir()
            given = folder / "label" / f"{wheel.stem}-{variant.label}.whl" if how == "unlabel" else wheel
            answer = (
                _make_variant(wheel, variant, out, log, env)
                if how == "make-variant"
                else _answer([*script, how, given, out, variant.name], env)
            )
            for key, value in answer.items():
                results.setdefault(how, {}).setdefault(key, []).append(value)
            if how != "label":
                disk.remove(out)
        disk.remove(folder / "label")
    size = wheel.stat().st_size
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "bytes": size,
        "rounds": rounds,
        "results": results,
    }
    target = build_dir / "bench" / "labels.json"
    with disk.replacing(target) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    disk.remove(folder)
    for how, row in results.items():
        memory = f", {max(row['memory']) / 1e6:.0f} MB of memory" if "memory" in row else ""
        console.print(f"{how:14} {statistics.median(row['seconds']):7.2f} s{memory}")
    for other in ("copy", "make-variant"):
        console.print(f"label / {other}: {ratio(results['label']['seconds'], results[other]['seconds'])}")
    console.print(f"{size / 1e6:.0f} MB. Every measurement: {target}")
    return target


def _make_variant(wheel: Path, variant: matrix.Variant, out: Path, log: Path, env: Mapping[str, str]) -> dict[str, float]:
    """variantlib's own command, which writes the archive anew and compresses it again."""
    tool = Path(sys.executable).parent / "variantlib"
    properties = [
        f"{namespace} :: {feature} :: {value}"
        for namespace, features in variant.properties.items()
        for feature, values in features.items()
        for value in values
    ]
    what = ["--variant-label", str(variant.label), *(word for one in properties for word in ("--property", one))]
    what += ["--skip-plugin-validation"]
    begin = time.monotonic()
    process.command([tool, "make-variant", "-f", wheel, "-o", out, *what, "--pyproject-toml", metadata.PYPROJECT], log=log, env=env)
    return {"seconds": time.monotonic() - begin}


def _answer(command: Sequence[str | Path], env: Mapping[str, str]) -> dict[str, float]:
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(
            f"`{command[2]}` failed:\n{done.stderr[-2000:]}", "Is there room on the disk? It takes four times the size."
        )
    return {str(key): float(value) for key, value in json.loads(done.stdout).items()}
