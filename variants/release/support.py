"""What is supported, as tables: variants and platforms, from the matrix, with what the records in docs/runs show of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .. import matrix
from ..matrix import Variant
from ..platforms import PLATFORMS
from ..steps import assemble
from ..wheel import records
from . import runs

#: Devices of ggml that are no GPU, or may be none, by a word in their names; and what a table says instead.
_NO_GPU = {"llvmpipe": "llvmpipe, a software device", "OpenVINO Runtime": "OpenVINO's runtime, on a device that is not recorded"}
_Records = Mapping[tuple[str, str], Sequence[tuple[str, records.Record]]]


def support(kept: Path = runs.KEPT) -> Iterator[str]:
    """One row for each variant: for whom, on which platforms, where it was built, what it has run on."""
    yield from ("| variant | for whom | platforms | built for | run on |", "|---|---|---|---|---|")
    found = runs.by_place(kept)
    for variant in matrix.load().values():
        cells = [f"`{variant.name}`", variant.table.summary, _where(variant), _built(variant, found), _run(variant, found)]
        yield f"| {' | '.join(cells)} |"


def variants() -> Iterator[str]:
    """One row for each variant: its label, its plugin, on which platforms, who gets it."""
    yield from ("| variant | label | plugin | platforms | who gets it |", "|---|---|---|---|---|")
    for variant in matrix.load().values():
        label = f"`{variant.label}`" if variant.label else "none: the plain wheel"
        plugin = f"`{variant.table.plugin}`" if variant.table.plugin else "none"
        yield f"| `{variant.name}` | {label} | {plugin} | {_where(variant)} | {variant.table.summary} |"


def platforms() -> Iterator[str]:
    """One row for each platform: its names, what repairs its wheels, and how many CPU plugins its core has."""
    yield from ("| platform | wheel tag | zig's target | repaired by | CPU plugins |", "|---|---|---|---|---|")
    plugins = assemble.known_core().plugins
    for platform in PLATFORMS.values():
        names = f"`{platform.name}` | `{platform.tag}` | `{platform.zig}`"
        yield f"| {names} | {platform.tool} | {len(plugins[platform.name])} |"


def table(kept: Path = runs.KEPT) -> Iterator[str]:
    """One row for each platform, one column for each variant: was its wheel built, by what would it be, and has it run."""
    known = matrix.load()
    yield f"| platform | {' | '.join(f'`{name}`' for name in known)} |"
    yield "|---" * (1 + len(known)) + "|"
    found = runs.by_place(kept)
    for name in PLATFORMS:
        yield f"| `{name}` | {' | '.join(_state(variant, name, found) for variant in known.values())} |"


def _state(variant: Variant, name: str, found: _Records) -> str:
    """One cell of :func:`table`."""
    if name not in variant.table.platforms:
        return ""
    rows = found.get((variant.name, name), ())
    tests = _tests(rows)
    if not _builds(rows):
        return "a workflow's job" if name in variant.buildable else "no way yet"
    here = "built, " if name in variant.published else "built for tests, "
    if not tests:
        return f"{here}**never run**"
    how = "run" if any(not _emulated(run) for run in tests) else "run emulated"
    if variant.table.plugin is None:
        return here + how
    devices = [run.devices for run in tests if runs.on_device(run, variant.table.smoke.device)]
    software = [words for text in devices for word, words in _NO_GPU.items() if word in text]
    if len(software) < len(devices):
        return f"{here}{how} on a GPU"
    return f"{here}{how} on {software[0].partition(',')[0]}, **never a GPU**" if devices else f"{here}its CPU half {how}"


def places(names: Iterable[str]) -> str:
    """Platforms in words, those of one system together: ``Linux x86-64 and Arm, macOS Arm``."""
    systems: dict[str, list[str]] = {}
    for name in names:
        platform = PLATFORMS[name]
        system = "musl" if platform.musl else {"Darwin": "macOS"}.get(platform.system, platform.system)
        systems.setdefault(system, []).append({"x86_64": "x86-64", "aarch64": "Arm"}[platform.machine])
    return ", ".join(f"{system} {' and '.join(processors)}" for system, processors in systems.items())


def _where(variant: Variant) -> str:
    """Where it is published, where it is not, and where it is to be but nobody knows how to build it."""
    unable = [name for name in variant.published if name not in variant.buildable]
    texts = ("", variant.buildable), ("not published: ", variant.table.unpublished), ("cannot be built yet: ", unable)
    return "; ".join(f"{words}{places(names)}" for words, names in texts if names)


def _built(variant: Variant, found: _Records) -> str:
    """Where it was built; for how many of its GPU architectures, if not for all."""
    cells: dict[str, list[str]] = {}
    for name in variant.table.platforms:
        for build in _builds(found.get((variant.name, name), ())):
            compiled = re.search(r"architectures ([^;]+)", build.tools)
            whole = variant.lists is None or (compiled and compiled[1].split(", ") == variant.lists.compiled(name))
            told = "" if whole else f" (GPU code only for {compiled[1]})" if compiled else " (GPU code: not recorded)"
            if name not in cells.setdefault(told, []):
                cells[told].append(name)
    if list(cells) == [""] and set(cells[""]) == set(variant.table.platforms):
        return "all of these" if len(cells[""]) > 1 else places(cells[""])
    return "; ".join(f"{places(names)}{told}" for told, names in cells.items()) or "**never**"


def _run(variant: Variant, found: _Records) -> str:
    """What it has run on, as far as the records show: a variant with a plugin has not run before its device has."""
    real: list[str] = []
    emulated: list[str] = []
    devices: list[str] = []
    for name in variant.table.platforms:
        tests = _tests(found.get((variant.name, name), ()))
        if tests:
            (real if any(not _emulated(run) for run in tests) else emulated).append(name)
        devices += [run.devices for run in tests if runs.on_device(run, variant.table.smoke.device)]
    never = [name for name in variant.table.platforms if name not in (*real, *emulated)]
    if variant.table.plugin is None:
        texts = [places(real), f"emulated: {places(emulated)}" if emulated else "", f"**never**: {places(never)}" if never else ""]
        return "; ".join(text for text in texts if text)
    tried = [f"the CPU of {places([*real, *emulated])}"] if real or emulated else []
    named = list(dict.fromkeys(one for text in devices for one in _devices(text, variant.table.smoke.device)))
    other = [next((words for word, words in _NO_GPU.items() if word in one), "") for one in named]
    gpus = [one for one, words in zip(named, other, strict=True) if not words]
    return "; ".join([*tried, *(words for words in other if words), *(gpus or ["**never a GPU**" if tried else "**never**"])])


def _devices(text: str, prefix: str) -> list[str]:
    """Of the devices in a record, those that the plugin made, with their descriptions."""
    return [one for one in re.split(r", (?=\w+ \()", text) if one.startswith(prefix)]


def _emulated(run: records.Record) -> bool:
    return "emulated by" in run.processor or ", under " in run.system


def _builds(rows: Iterable[tuple[str, records.Record]]) -> list[records.Record]:
    return [run for _, run in rows if run.what == records.BUILT]


def _tests(rows: Iterable[tuple[str, records.Record]]) -> list[records.Record]:
    return [run for _, run in rows if run.what != records.BUILT]
