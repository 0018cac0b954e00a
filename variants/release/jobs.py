"""The build as jobs for many machines: cores, plugins that reuse them, and one job that assembles, labels, verifies, indexes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from .. import platforms
from ..backends import registry
from ..errors import UsageError
from ..matrix import Variant
from ..upstream.source import ROOT
from . import parts, pipeline

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
#: Plugins for which no hosted runner has the toolkit: their jobs are made when their variant is named.
ON_REQUEST = ("hip",)
# What every wheel is made by or of.
_EVERYTHING = ("CMakeLists.txt", "pyproject.toml", "noxfile.py", "vendor", "llama_cpp")
#: Step of the library that no wheel is made by, or that only a variant's plugin is.
_ELSEWHERE = "machines bench explain front index jobs listing machine pages providers serve smoke status".split()


class Job(msgspec.Struct, frozen=True):
    """One job: its `name`, the `runner` that it wants, the `command`, the `part` that it leaves below ``parts/`` (none: wheels
    in ``dist/``), the parts that must lie there before (`needs`), and the repository variable that may name a container image for
    an older glibc (`image`)."""

    name: str
    runner: str
    command: str
    part: str | None
    needs: list[str]
    image: str | None = None


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
        names = registry.buildable(variant)
        ready += [variant.name] if names else []
        kind = pipeline.kind(variant, pipeline.Options())
        for name in names:
            platform = platforms.get(name)
            core = parts.core_folder(platform, kind)
            runner = RUNNERS["linux_x86_64" if kind == "zig" else name]
            command = f"nox -s core -- --platform {name} --toolchain {kind}"
            image = f"MANYLINUX_{platform.processor.upper()}" if kind == "system" and platform.system == "Linux" else None
            cores[core] = Job(core, runner, command, core, [], image)
            if plugin:
                folder = parts.plugin_folder(variant, platform)
                command = f"nox -s plugin -- {variant.name} --platform {name}"
                plugins.append(Job(folder, RUNNERS[name], command, folder, [core], image))
    needs = [*cores, *(job.name for job in plugins)]
    last = Job("assemble", RUNNERS["linux_x86_64"], f"nox -s assemble -- {' '.join(ready)}", None, needs)
    return Jobs(list(cores.values()), plugins, [last] if ready else [])


def touched(variants: Sequence[Variant], reference: str) -> list[Variant]:
    """Those of `variants` whose wheels may differ from those of the git commit `reference`, by what has changed since.

    A matrix file asks for its own variant, a toolkit's finder for the variants with that plugin, anything else that wheels are made
    by for all; documents and tests ask for none.

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
    """May a change of this file change the variant's wheel?"""
    path = PurePosixPath(file)
    if path.parts[0] == "variants" and path.suffix == ".toml" and len(path.parts) == 2:
        return path.stem == variant.name
    if path.parts[0] == "variants":
        inner = path.parts[1:]
        inner = inner[2:] if inner[:2] == ("data", "toolkits") else inner[1:] if inner[0] == "data" else inner
        name = inner[0].partition(".")[0]
        kit = next((plugin for plugin in registry.KITS if name.startswith(plugin)), None)
        if kit:
            return variant.table.plugin == kit and (not name[len(kit) :] or name == variant.name)
        return name not in _ELSEWHERE
    return path.parts[0] in _EVERYTHING
