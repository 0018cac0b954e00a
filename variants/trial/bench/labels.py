"""Labelling a big wheel, timed against copying it and against ``variantlib make-variant``, in paired rounds."""

from __future__ import annotations

import datetime
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ... import matrix
from ...choice import metadata
from ...errors import CommandError
from ...terminal import disk, process
from ...terminal.console import console
from ...upstream import source
from . import rounds
from .contenders import SCRIPTS
from .ratios import ratio


def bench(build_dir: Path, count: int, megabytes: int) -> Path:
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
    script: list[str | Path] = [sys.executable, SCRIPTS / "labelling.py"]
    env = process.environment(PYTHONPATH=str(source.ROOT))
    process.command([*script, "make", wheel, str(megabytes)], log=log, env=env)
    results: dict[str, dict[str, list[float]]] = {}
    for number in range(count):
        for how in [*random.Random(number).sample(["copy", "label", "make-variant"], 3), "unlabel"]:
            console.print(f"      round {number + 1} of {count}: {how}", style="dim")
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
        "machine": rounds.machine_facts(),
        "bytes": size,
        "rounds": count,
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
