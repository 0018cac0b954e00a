"""The table of what was built and what has run where, from the records that builds and tests leave beside their wheels."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import matrix
from ..upstream.source import ROOT
from ..wheel import archive, records

#: Records that are kept: copies of ``dist/*.runs.json`` of wheels whose figures stand in the documents.
KEPT = ROOT / "docs" / "runs"
PAGE = ROOT / "docs" / "runs.md"

_HEAD = """# What was built, and what has run where

Made by `nox -s runs` from the records in `docs/runs/`. `build_variant`, `test_variant`, `test_foreign` and `old_cpus` write
them beside each wheel. "Never" is meant literally. What else was tried, and what is known to be missing: [status.md](status.md).
"""


def collect(dist: Path, kept: Path = KEPT) -> list[Path]:
    """Copy the records of the wheels in `dist`, unpublished ones too, to `kept`, in place of older ones of the same name."""
    kept.mkdir(parents=True, exist_ok=True)
    found = sorted([*dist.glob(f"*{records.SUFFIX}"), *dist.glob(f"*-only/*{records.SUFFIX}")])
    for file in found:
        records.load(file)  # a file that is none stays out of the documents
        shutil.copyfile(file, kept / file.name)
    return found


def by_place(kept: Path = KEPT) -> dict[tuple[str, str], list[tuple[str, records.Record]]]:
    """The records in `kept`, with their wheels' names, by variant and platform."""
    found: dict[tuple[str, str], list[tuple[str, records.Record]]] = {}
    for file in sorted(kept.glob("*.json")):
        name = file.name.removesuffix(records.SUFFIX)
        variant = matrix.labelled(archive.split_label(name)[1])
        for known in archive.platforms_of(Path(name)):
            if variant:
                found.setdefault((variant.name, known.name), []).extend((name, run) for run in records.load(file))
    return found


def markdown(kept: Path = KEPT) -> str:
    """The whole page: for each variant and platform of the matrix what was built and run, then every run."""
    places = by_place(kept)
    lines = [_HEAD, "| variant | platform | built | ran on the CPU | ran on its device |", "|---|---|---|---|---|"]
    for variant in matrix.load().values():
        for platform in variant.table.platforms:
            runs = [run for _, run in places.get((variant.name, platform), [])]
            built = sorted({run.tools for run in runs if run.what == records.BUILT})
            tested = [run for run in runs if run.what != records.BUILT]
            device = [run for run in tested if on_device(run, variant.table.smoke.device)]
            cells = [
                variant.name,
                platform,
                "; ".join(built) or ("yes" if tested else "never"),
                ", ".join(sorted({run.processor for run in tested})) or "never",
                "the CPU is its device" if variant.table.plugin is None else _devices(device) or "never",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Every run:",
        "",
        "| date | wheel | test | processor | devices | system | Python | installer | passed | skipped |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for place in sorted(places):
        for name, run in places[place]:
            if run.what != records.BUILT:
                label = archive.split_label(name)[1]
                wheel = f"{label or 'plain'} `{run.sha256[:8]}…`"
                cells = [run.date, wheel, run.what, run.processor, run.devices, run.system, run.python, run.installer]
                lines.append("| " + " | ".join([*cells, str(run.passed), str(run.skipped)]) + " |")
    return "\n".join(lines) + "\n"


def on_device(run: records.Record, prefix: str) -> bool:
    """Did ggml see a device there whose name begins so?"""
    return any(device.strip().startswith(prefix) for device in run.devices.split(", "))


def _devices(runs: list[records.Record]) -> str:
    return "; ".join(sorted({run.devices.removeprefix("CPU, ") for run in runs}))
