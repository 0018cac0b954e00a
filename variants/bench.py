"""The benchmark: our wheel, upstream's own build of the same source, and our wheel on its baseline plugin, in paired runs.

Every round runs all of them one after the other, so that a busy machine hurts all alike; ratios are taken within a round.
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

from . import archive, metadata, run, smoke, source, toolchain
from .errors import CommandError, WheelError
from .source import ROOT

_SCRIPTS = ROOT / "tests" / "bench"
_PROMPT, _GENERATE = 512, 128


class Contender(msgspec.Struct, frozen=True):
    """One of the compared: its name, the Python of its environment, and variables to set."""

    name: str
    python: Path
    environment: dict[str, str] = {}


class Ratio(msgspec.Struct, frozen=True):
    """Ratios ours / theirs within rounds: median, first and third quartile."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The paired ratios of two series of the same rounds."""
    values = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(median, low, high)


def bench(wheel: Path, build_dir: Path, rounds: int, model: Path | None, native: bool) -> Path:
    """Run the benchmark on `wheel` and return the JSON file with every single measurement.

    `model`: a GGUF to run instead of the one made here. `native`: also build upstream's own wheel from its sdist with this
    machine's compiler, as `pip install` without a wheel does (GGML_NATIVE), and compare with it.

    Raises:
        CommandError: a build or a measurement failed.
        ToolchainError: `native` without a compiler.
    """
    folder = build_dir / "bench"
    log = build_dir / "logs" / "bench.log"
    run.remove(log)
    ours = smoke.install(wheel, "uv", folder / "ours", log)
    contenders = [Contender("wheel", ours), Contender("baseline", ours, {"LLAMA_CPP_BACKENDS": "cpu-x64"})]
    if native:
        upstream = _upstream_wheel(folder, log)
        native_bytes = upstream.stat().st_size
        contenders.append(Contender("native", smoke.install(upstream, "uv", folder / "native", log)))
    if model is None:
        model = folder / "random-100M-Q4_K.gguf"
        if not model.exists():
            with run.replacing(model) as part:
                run.command([ours, _SCRIPTS / "make_model.py", part], log=log, env=run.environment())
    threads = sorted({1, min(2, os.cpu_count() or 1)})
    results: dict[str, dict[str, list[float]]] = {contender.name: {} for contender in contenders}
    for number in range(rounds):
        order = random.Random(number).sample(contenders, len(contenders))
        for contender in order:
            run.console.print(f"      round {number + 1} of {rounds}: {contender.name}", style="dim")
            row = results[contender.name]
            for count in threads:
                for key, value in _measure(contender, "speed", model, count, _PROMPT, _GENERATE).items():
                    row.setdefault(f"{key}, {count} thread{'s' * (count > 1)}", []).append(value)
            for key, value in _measure(contender, "import").items():
                row.setdefault(key, []).append(value)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "wheel": {"name": wheel.name, "sha256": archive.sha256(wheel), "bytes": wheel.stat().st_size},
        "native": {"bytes": native_bytes} if native else None,
        "model": {"name": model.name, "bytes": model.stat().st_size},
        "rounds": rounds,
        "prompt_tokens": _PROMPT,
        "generated_tokens": _GENERATE,
        "results": results,
    }
    target = folder / "results.json"
    with run.replacing(target) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _print(results)
    run.console.print(f"\n{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB. Every measurement: {target}")
    return target


def _upstream_wheel(folder: Path, log: Path) -> Path:
    """Upstream's own wheel of the pinned version, built from the vendored sdist with this machine's compiler."""
    target = folder / "upstream-wheel"
    found = list(target.glob("*.whl"))
    if not found:
        upstream = source.vendor()
        copy = folder / "upstream-source"  # its build writes libraries into its own tree
        run.remove(copy)
        shutil.copytree(upstream.tree, copy)
        tools = toolchain.find("system", folder)
        run.console.print(f"building upstream's own wheel with {tools.name} (some minutes)")
        env = run.environment()
        env.pop("SOURCE_DATE_EPOCH", None)  # ggml takes it as a wish for a portable build
        command: list[str | Path] = [
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", target,
            "-Ccmake.build-type=Release", f"-Cbuild-dir={folder / 'upstream-build'}", copy,
        ]  # fmt: skip
        run.command(command, log=log, env=env)
        found = list(target.glob("*.whl"))
    if len(found) != 1:
        raise WheelError(f"{len(found)} wheels of upstream's in {target}.", "Remove that folder and run again.")
    return found[0]


def _measure(contender: Contender, *arguments: object) -> dict[str, float]:
    env = {**run.environment(), **contender.environment}
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
        cells = [f"{_shown(key, statistics.median(row[key]))}" for row in results.values()]
        table.add_row(key, *cells, *(str(ratio(ours, results[name][key])) for name in others))
    run.console.print(table, width=max(run.console.width, 120))


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
    run.remove(log)
    run.remove(folder)
    folder.mkdir(parents=True)
    wheel = folder / "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64.whl"
    script: list[str | Path] = [sys.executable, _SCRIPTS / "labelling.py"]
    env = run.environment(PYTHONPATH=str(source.ROOT))
    run.command([*script, "make", wheel, str(megabytes)], log=log, env=env)
    results: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for how in [*random.Random(number).sample(["copy", "label", "make-variant"], 3), "unlabel"]:
            run.console.print(f"      round {number + 1} of {rounds}: {how}", style="dim")
            out = folder / how
            out.mkdir()
            given = folder / "label" / f"{wheel.stem}-vulkan.whl" if how == "unlabel" else wheel
            answer = _make_variant(wheel, out, log, env) if how == "make-variant" else _answer([*script, how, given, out], env)
            for key, value in answer.items():
                results.setdefault(how, {}).setdefault(key, []).append(value)
            if how != "label":
                run.remove(out)
        run.remove(folder / "label")
    size = wheel.stat().st_size
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "bytes": size,
        "rounds": rounds,
        "results": results,
    }
    target = build_dir / "bench" / "labels.json"
    with run.replacing(target) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    run.remove(folder)
    for how, row in results.items():
        memory = f", {max(row['memory']) / 1e6:.0f} MB of memory" if "memory" in row else ""
        run.console.print(f"{how:14} {statistics.median(row['seconds']):7.2f} s{memory}", markup=False)
    for other in ("copy", "make-variant"):
        run.console.print(f"label / {other}: {ratio(results['label']['seconds'], results[other]['seconds'])}", markup=False)
    run.console.print(f"{size / 1e6:.0f} MB. Every measurement: {target}", markup=False)
    return target


def _make_variant(wheel: Path, out: Path, log: Path, env: Mapping[str, str]) -> dict[str, float]:
    """variantlib's own command, which writes the archive anew and compresses it again."""
    tool = Path(sys.executable).parent / "variantlib"
    what = ["--variant-label", "vulkan", "--property", "llama_cpp :: backend :: vulkan", "--skip-plugin-validation"]
    begin = time.monotonic()
    run.command([tool, "make-variant", "-f", wheel, "-o", out, *what, "--pyproject-toml", metadata.PYPROJECT], log=log, env=env)
    return {"seconds": time.monotonic() - begin}


def _answer(command: Sequence[str | Path], env: Mapping[str, str]) -> dict[str, float]:
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(
            f"`{command[2]}` failed:\n{done.stderr[-2000:]}", "Is there room on the disk? It takes four times the size."
        )
    return {str(key): float(value) for key, value in json.loads(done.stdout).items()}
