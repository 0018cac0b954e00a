"""The benchmark itself: each round measures every case, each case with every contender, in a new order."""

from __future__ import annotations

import datetime
import os
import platform
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ... import matrix, platforms
from ...terminal import disk, process
from ...terminal.console import console
from ...wheel import archive
from .. import smoke
from . import cases, conditions, contenders, report
from .cases import Case, Wish
from .contenders import SCRIPTS

_GENERATE = 128
_LAYERS = 12  # of the models made here, about

#: By contender, by what was measured, each round; None where a measurement did not come to an end.
Results = dict[str, dict[str, list[float | None]]]


def bench(wheel: Path, build_dir: Path, count: int, wish: Wish, others: Sequence[str]) -> Path:
    """Run `count` rounds of the benchmark on `wheel`, and return the JSON file with every single measurement.

    `others`: of :data:`.contenders.OTHERS`, whom it is compared with. What has been measured is written after each round, so that
    a benchmark that is stopped is not lost.

    Raises:
        CommandError: a build or a measurement failed.
        ToolchainError: upstream's own build takes a compiler that is not here.
        UsageError: the wish asks for a model that the benchmark does not make.
    """
    folder = build_dir / "bench"
    log = build_dir / "logs" / "bench.log"
    disk.remove(log)
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    models = list(wish.models)
    wanted = [] if models else list(cases.made(wish))
    found = list(contenders.found(wheel, variant, others, folder, log))
    models += [_made(folder, size, weights, found[0].python, log) for size, weights in wanted]
    processors = len(conditions.usable())
    is_gpu = bool(variant and variant.table.plugin)
    measured = cases.on_gpu(models, processors, _LAYERS) if is_gpu else cases.on_processor(wish, models, processors)
    measured = _possible(measured)
    here = smoke.report([found[0].python], {})
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine_facts() | {"processor": here["processor"], "devices": here["devices"]},
        "wheel": {"name": wheel.name, "sha256": archive.sha256(wheel), "bytes": wheel.stat().st_size},
        "builds": {one.name: {"bytes": one.size} for one in found if one.size},
        "models": {model.stem: {"name": model.name, "bytes": model.stat().st_size} for model in models},
        "cases": [one.name for one in measured],
        "generated_tokens": _GENERATE,
    }
    target = folder / f"{variant.name if variant else 'cpu'}-{platforms.here().name}.json"
    results: Results = {one.name: {} for one in found}
    for number in range(count):
        chance = random.Random(number)
        for case in chance.sample(measured, len(measured)):
            console.print(f"      round {number + 1} of {count}: {case.name}", style="dim")
            with conditions.held(case.condition) as prefix:
                for contender in chance.sample(found, len(found)):
                    if contender.only_half and case.layers <= 0:
                        continue
                    given = None
                    if not _stalled(results[contender.name], case.name):
                        given = contenders.speed(contender, case, prefix, cases.prompts(wish), _GENERATE)
                    _keep(results[contender.name], case.name, given, number)
        for contender in chance.sample(found, len(found)):
            for key, value in contenders.first(contender, models[0]).items():
                results[contender.name].setdefault(key, []).append(value)
        with disk.replacing(target) as part:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(facts | {"rounds": number + 1, "results": results}), indent=1))
    report.show(report.read(target))
    console.print(f"\n{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB. Every measurement: {target}")
    return target


def _possible(wanted: Sequence[Case]) -> list[Case]:
    """The cases whose conditions this machine can be brought into; of the others it is said why not."""
    cannot: dict[str, str] = {}
    for condition in dict.fromkeys(case.condition for case in wanted):
        try:
            with conditions.held(condition):
                pass
        except conditions.ConditionError as error:
            cannot[condition] = str(error)
            console.print(f"      not measured: {condition}: {error}", style="yellow")
    return [case for case in wanted if case.condition not in cannot]


def _stalled(row: dict[str, list[float | None]], case: str) -> bool:
    """Did it come to no end in a round before? Then it is not waited for again: that takes longer than all else."""
    return None in row.get(f"generation, {case}", [])


def _keep(row: dict[str, list[float | None]], case: str, given: dict[str, float] | None, number: int) -> None:
    """Add a round's measurement. One that did not come to an end is None under every key that another round has."""
    if given is None:
        row.setdefault(f"generation, {case}", [None] * number)
        for key, values in row.items():
            if key.endswith(f", {case}") and len(values) == number:
                values.append(None)
        return
    for key, value in given.items():
        row.setdefault(f"{key}, {case}", [None] * number).append(value)


def _made(folder: Path, size: str, weights: str, python: Path, log: Path) -> Path:
    """The model of this size and these weights, made once."""
    model = folder / f"random-{size}-{weights}.gguf"
    if not model.exists():
        console.print(f"making {model.name}")
        with disk.replacing(model) as part:
            process.command([python, SCRIPTS / "make_model.py", part, size, weights], log=log, env=process.environment())
    return model


def machine_facts() -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "cpu": contenders.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "load_before": os.getloadavg()[0],
    }
