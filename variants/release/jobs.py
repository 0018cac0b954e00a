"""The build as jobs for many machines: cores, plugins that reuse them, and one job that assembles, labels, verifies, indexes."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from .. import matrix, platforms
from ..backends.registry import BACKENDS
from ..errors import UsageError
from ..matrix import Variant
from ..upstream.source import ROOT
from . import imports, parts

#: GitHub's runners by the platform that they compile on (docs/publishing.md). Cores are cross-compiled by zig, on the first.
RUNNERS = {
    "linux_x86_64": "ubuntu-24.04",
    "linux_aarch64": "ubuntu-24.04-arm",
    "musllinux_x86_64": "ubuntu-24.04",
    "win_amd64": "windows-2022",
    "win_arm64": "windows-11-arm",
    "macosx_arm64": "macos-15",
    "macosx_x86_64": "macos-15-intel",
}
# What every wheel is made or tested by, beside the task library.
_EVERYTHING = (
    "CMakeLists.txt", "pyproject.toml", "noxfile.py", "vendor", "llama_cpp", "variants/pins", "tests/inference", ".github", ".ci",
)  # fmt: skip
# Modules that make wheels: the steps, and those that other programs run (CMake, scikit-build-core).
_MAKERS = ("release/pipeline.py", "release/parts.py", "steps/exports.py", "upstream/metadata_provider.py", "trial/smoke.py")


class Job(msgspec.Struct, frozen=True):
    """One job: its `name`, the `runner` that it wants, the `command`, the `part` that it leaves below ``parts/`` (none: wheels
    in ``dist/``), and the parts that must lie there before (`needs`)."""

    name: str
    runner: str
    command: str
    part: str | None
    needs: list[str]


class Jobs(msgspec.Struct, frozen=True):
    """All jobs, in an order that works one after another: cores, plugins, and the one that assembles (none: nothing to do)."""

    core: list[Job]
    plugin: list[Job]
    assemble: list[Job]


def jobs(variants: Sequence[Variant]) -> Jobs:
    """The jobs that make these variants on every platform where they are published and can be built."""
    cores: dict[str, Job] = {}
    plugins: list[Job] = []
    ready: list[str] = []
    for variant in variants:
        plugin = variant.table.plugin
        names = variant.buildable
        ready += [variant.name] if names else []
        for name in names:
            platform = platforms.get(name)
            core = parts.core_folder(platform)
            cores[core] = Job(core, RUNNERS["linux_x86_64"], f"nox -s core -- --platform {name}", core, [])
            if plugin:
                folder = parts.plugin_folder(variant, platform)
                command = f"nox -s plugin -- {variant.name} --platform {name}"
                plugins.append(Job(folder, RUNNERS[name], command, folder, [core]))
    needs = [*cores, *(job.name for job in plugins)]
    last = Job("assemble", RUNNERS["linux_x86_64"], f"nox -s assemble -- {' '.join(ready)}", None, needs)
    return Jobs(list(cores.values()), plugins, [last] if ready else [])


def touched(variants: Sequence[Variant], reference: str) -> list[Variant]:
    """Those of `variants` whose wheels may differ from those of the git commit `reference`, by what has changed since.

    A matrix file asks for its own variant, a backend's folder for the variants with that plugin, whatever else wheels are made or
    tested by for all. That follows from the imports of the modules that make them. Documents and other tests ask for none.

    Raises:
        UsageError: there is no such commit.
    """
    done = subprocess.run(
        ["git", "-C", str(ROOT), "diff", "--name-only", "--no-renames", reference, "--"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UsageError(
            f"git does not know what has changed since {reference!r}: {done.stderr.strip()[:300]}",
            "Name a commit or a branch that this clone has (in CI: fetch the whole history).",
        )
    chosen = {variant.name for variant in variants for file in done.stdout.splitlines() if _concerns(file, variant)}
    return [variant for variant in variants if variant.name in chosen]


def _concerns(file: str, variant: Variant) -> bool:
    """May a change of this file change the variant's wheel, or what its tests say of it?"""
    path = PurePosixPath(file)
    if path.parts[0] == "variants" and path.suffix == ".toml" and len(path.parts) == 2:
        return path.stem == variant.name
    if path.parts[:2] == ("variants", "backends") and (backend := path.parts[2].removesuffix(".py")) in BACKENDS:
        pins = (
            path.parts[3].removesuffix(".txt") if len(path.parts) > 3 else ""
        )  # of one variant's toolkit, and programs beside them
        return variant.table.plugin == backend and (pins not in matrix.load() or pins == variant.name)
    if path.parts[0] == "variants" and path.parts[1] != "pins":
        return ROOT / path in _makers() or (path.suffix != ".py" and any(path.name in text for text in _makers().values()))
    if path.is_relative_to("tests/plugins"):
        return variant.table.plugin is not None and path.stem in (
            f"failing_{variant.table.plugin}",
            f"{variant.table.plugin}_driver",
        )
    return any(path.is_relative_to(name) for name in _EVERYTHING)


@functools.cache
def _makers() -> dict[Path, str]:
    """The modules that make wheels, with what they import, and the text of each: data that it reads is named there."""
    files = imports.closure([imports.VARIANTS / name for name in _MAKERS])
    return {file: file.read_text(encoding="utf-8") for file in files}
