"""The build as jobs for many machines: cores, plugins that reuse them, jobs that assemble, label and verify, and tests."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from .. import matrix, platforms
from ..backends.registry import BACKENDS
from ..errors import UsageError
from ..matrix import Variant
from ..platforms import Platform
from ..upstream import source
from ..upstream.source import ROOT
from . import imports, parts


class Machine(msgspec.Struct, frozen=True):
    """Where the jobs of one platform run: the `runner`, the `container` in which wheels are tested (it has no Python of its own),
    and what makes that ready (`prepare`, shell). `inside`: the job runs on the runner, and the test alone in the container, since
    GitHub's own actions do not run in musl on Arm."""

    runner: str
    container: str = ""
    prepare: str = ""
    inside: bool = False


# By its digest, that of all processors: version 3.22. Python goes into an environment, since Alpine's own takes no packages.
_ALPINE = "alpine@sha256:14358309a308569c32bdc37e2e0e9694be33a9d99e68afb0f5ff33cc1f695dce"
_IN_ALPINE = 'apk add --no-cache bash git python3 && python3 -m venv /opt/python && echo /opt/python/bin >> "$GITHUB_PATH"'
_IN_ALPINE_BY_HAND = (
    "apk add --no-cache bash git python3 && python3 -m venv /opt/python && export PATH=/opt/python/bin:\\$PATH && "
    "pip install --require-hashes -r variants/pins/nox.txt && git config --global --add safe.directory /src"
)
#: GitHub's machines by platform (docs/publishing.md). Wheels are tested on their own platform's, and plugins that zig does not
#: compile are compiled there. Cores and the other plugins are compiled on the first.
MACHINES = {
    "linux_x86_64": Machine("ubuntu-24.04"),
    "linux_aarch64": Machine("ubuntu-24.04-arm"),
    "musllinux_x86_64": Machine("ubuntu-24.04", _ALPINE, _IN_ALPINE),
    "musllinux_aarch64": Machine("ubuntu-24.04-arm", _ALPINE, _IN_ALPINE_BY_HAND, inside=True),
    "win_amd64": Machine("windows-2022"),
    "win_arm64": Machine("windows-11-arm"),
    "macosx_arm64": Machine("macos-15"),
    "macosx_x86_64": Machine("macos-15-intel"),
}
_FIRST = "linux_x86_64"
_APT = "sudo apt-get update && sudo apt-get install --yes --no-install-recommends"
# What every wheel is made or tested by, beside the task library.
_EVERYTHING = (
    "CMakeLists.txt", "pyproject.toml", "noxfile.py", "vendor", "llama_cpp", "variants/pins", "tests/inference", ".github", ".ci",
)  # fmt: skip
# Modules that make wheels: the steps, and those that other programs run (CMake, scikit-build-core).
_MAKERS = ("release/pipeline.py", "release/parts.py", "steps/exports.py", "upstream/metadata_provider.py", "trial/smoke.py")


class Job(msgspec.Struct, frozen=True):
    """One job: its `name`, the `runner` that it wants (of a machine of one's own: its labels), the `command`, the `part` that it
    leaves below ``parts/`` (none: wheels in ``dist/``, or records beside them), and the parts and wheels that must be there before
    (`needs`). Of a test, also its machine's `container` and what `prepare`s it."""

    name: str
    runner: str | list[str]
    command: str
    part: str | None
    needs: list[str]
    container: str = ""
    prepare: str = ""


class Jobs(msgspec.Struct, frozen=True):
    """All jobs, in an order that works one after another: cores, plugins, those that assemble (one a platform), and the tests of
    what came out (one a wheel, and one for each GPU)."""

    core: list[Job]
    plugin: list[Job]
    assemble: list[Job]
    test: list[Job]


class Wanted(msgspec.Struct, frozen=True):
    """What is asked for: these `platforms` alone (none: all), a `build_number`, and tests on our own machines with the GPUs of
    these makers (`gpus`: ``nvidia``)."""

    platforms: tuple[str, ...] = ()
    build_number: int | None = None
    gpus: tuple[str, ...] = ()


def jobs(variants: Sequence[Variant], wanted: Wanted | None = None) -> Jobs:
    """The jobs that make these variants on every platform where they are published and can be built, and test them."""
    wanted = wanted or Wanted()
    made = Jobs([], [], [], [])
    for platform in map(platforms.get, wanted.platforms or platforms.PLATFORMS):
        here = [variant for variant in variants if platform.name in variant.buildable]
        if not here:
            continue
        core = parts.core_folder(platform)
        made.core.append(Job(core, MACHINES[_FIRST].runner, f"nox -s core -- --platform {platform.name}", core, []))
        needs = [core]
        for variant in (variant for variant in here if variant.table.plugin):
            folder = parts.plugin_folder(variant, platform)
            command = f"nox -s plugin -- {variant.name} --platform {platform.name}"
            runner = MACHINES[_FIRST if platform.name in variant.across else platform.name].runner
            made.plugin.append(Job(folder, runner, command, folder, [core]))
            needs.append(folder)
        number = "" if wanted.build_number is None else f" --build-number {wanted.build_number}"
        command = f"nox -s assemble -- {' '.join(variant.name for variant in here)} --platform {platform.name}{number}"
        made.assemble.append(Job(f"assemble-{platform.name}", MACHINES[_FIRST].runner, command, None, needs))
        for variant in here:
            made.test.extend(_tests(variant, platform, wanted.gpus))
    return made


def _tests(variant: Variant, platform: Platform, gpus: Sequence[str]) -> Iterator[Job]:
    """The tests of one wheel: on its platform's machine, and on a machine with each GPU that there is."""
    machine = MACHINES[platform.name]
    name, needs = f"test-{variant.name}-{platform.name}", [f"assemble-{platform.name}"]
    command = f"nox -s test_variant -- {variant.name} --as-built"
    prepare = machine.prepare
    software = variant.backend.software if variant.backend else None
    before = ""
    if software and platform.system == "Linux":
        prepare = f"{_APT} {' '.join(software.packages)}"
        before = f"env {' '.join(software.environment).format(machine=platform.machine)} "
    # pip alone where not all that the tests install for uv has wheels.
    last = "" if platform.system == "Linux" and not platform.musl else " --installer pip"
    whole = f"{before}{command}{last}"
    if machine.inside:
        told = f'docker run --rm --volume "$PWD:/src" --workdir /src {machine.container} sh -euc "{prepare} && {whole}"'
        yield Job(name, machine.runner, told, None, needs)
    else:
        yield Job(name, machine.runner, whole, None, needs, machine.container, prepare)
    if platform.name == _FIRST and variant.backend:
        for maker in variant.backend.gpus:
            if maker in gpus:
                yield Job(f"{name}-{maker}", ["self-hosted", "linux", "x64", maker], command, None, needs)


def build_number(tag: str) -> int | None:
    """The build number in a release's tag, ``v0.3.36-1``; None for the first one of a version, ``v0.3.36``.

    Raises:
        UsageError: it is no such tag, or of another version than the pinned one.
    """
    version = source.read_pin().version
    found = re.fullmatch(r"v(.+?)(?:-(\d+))?", tag)
    if not found or found[1] != version:
        raise UsageError(
            f'The tag "{tag}" is not of {version}, which {source.PIN.name} pins.',
            f"Name it v{version}, or for a rebuild v{version}-1, v{version}-2 and so on.",
        )
    return int(found[2]) if found[2] else None


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
