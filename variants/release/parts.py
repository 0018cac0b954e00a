"""The same build in parts, on several machines: cores, plugins, and the wheels assembled of both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import matrix, platforms
from ..errors import UsageError, WheelError
from ..matrix import Variant
from ..platforms import Platform
from ..steps import assemble, plugin
from ..terminal import disk
from ..terminal.console import Steps
from ..upstream import source
from . import pipeline
from .pipeline import BUILD, Built, Options


def core(options: Options, parts: Path) -> Path:
    """Compile a core alone into the folder `parts`/core-PLATFORM, and return that.

    Raises:
        VariantsError: a step failed.
    """
    platform = pipeline.chosen_platform(options)
    variant = Variant("core", matrix.FOLDER, matrix.Table("the core alone", [platform.name], matrix.Smoke("CPU")))
    place = pipeline.place_of(variant, platform, options)
    with disk.locked(BUILD, options.wait) as lock:
        steps = Steps(total=3)
        work = pipeline.work_of(lock, variant, platform, options, steps)
        part = pipeline.compile_core(work, place, steps)
        target = parts / core_folder(platform)
        with steps.step("publish", pipeline.short(target)), disk.replacing(target) as new:
            new.mkdir(parents=True)
            shutil.copyfile(part, new / part.name)
            disk.remove(target)
    return target


def plugin_of(variant: Variant, options: Options, parts: Path) -> Path:
    """Compile a variant's plugin against the core in `parts`, into the folder `parts`/plugin-VARIANT-PLATFORM, and return that.

    Raises:
        UsageError: the core's part is not there, or the variant has no plugin.
        WheelError: that core was made by another compiler than this machine's, or of another source.
        VariantsError: a step failed.
    """
    platform = pipeline.chosen_platform(options)
    if not variant.table.plugin:
        raise UsageError(f"{variant.name} has no plugin: its wheel is the core.", f"`nox -s core -- --platform {platform.name}`")
    variant = pipeline.narrowed(variant, options)
    pipeline.check(variant, platform, options)
    place = pipeline.place_of(variant, platform, options)
    part = _core_in(parts, platform)
    with disk.locked(BUILD, options.wait) as lock:
        steps = Steps(total=4)
        work = pipeline.work_of(lock, variant, platform, options, steps)
        kit = pipeline.find_toolkit(variant, work, options, steps)
        made = pipeline.compile_plugin(variant, kit, part, work, place, steps)
        target = parts / plugin_folder(variant, platform)
        with steps.step("publish", pipeline.short(target)), disk.replacing(target) as new:
            plugin.save(made, new)
            disk.remove(target)
    return target


def assemble_all(variants: Sequence[Variant], options: Options, parts: Path) -> list[Built]:
    """Make the wheels of these variants in ``dist/`` of the parts that other machines compiled, for all their platforms.

    Raises:
        UsageError: a part is missing; names it and the command that makes it.
        VariantsError: a step failed.
    """
    wanted = [
        (variant, platforms.get(name))
        for variant in variants
        for name in ([options.platform] if options.platform else variant.buildable)
    ]
    found = []  # all of them, before anything is done
    for variant, platform in wanted:
        part = _core_in(parts, platform)
        folder = parts / plugin_folder(variant, platform)
        if variant.table.plugin and not folder.is_dir():
            raise _missing(folder, f"plugin -- {variant.name}")
        found.append((variant, platform, part, plugin.read(folder) if variant.table.plugin else None))
    built = []
    with disk.locked(BUILD, options.wait) as lock:
        disk.remove_leftovers(lock, pipeline.DIST)
        upstream = source.vendor(lock, vendor_dir=source.release(options.upstream))
        for variant, platform, part, made in found:
            steps = Steps(total=4 + bool(variant.label))
            place = pipeline.place_of(variant, platform, options)
            wheel = pipeline.finish(variant, part, made, upstream, place, options, steps)
            pipeline.record(wheel, assemble.read_core(part).toolchain, made)
            built.append(Built(variant.name, wheel, steps.done, None))
    pipeline.print_table(built)
    return built


def core_folder(platform: Platform) -> str:
    """The folder of a core's part."""
    return f"core-{platform.name}"


def plugin_folder(variant: Variant, platform: Platform) -> str:
    """The folder of a plugin's part."""
    return f"plugin-{variant.name}-{platform.name}"


def _core_in(parts: Path, platform: Platform) -> Path:
    """The core's part for this platform."""
    folder = parts / core_folder(platform)
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise _missing(folder, f"core -- --platform {platform.name}")
    if (name := assemble.read_core(found[0]).platform) != platform.name:
        raise WheelError(f"{found[0]} is a core of {name}, not of {platform.name}.", "Put each part into the folder it came in.")
    return found[0]


def _missing(folder: Path, session: str) -> UsageError:
    there = ", ".join(sorted(path.name for path in folder.parent.glob("*-*"))) if folder.parent.is_dir() else ""
    return UsageError(
        f"The part {folder.name} is not in {pipeline.short(folder.parent)}/{f', which has {there}' if there else ''}.",
        f"Make it on a machine that can, `nox -s {session}`, and copy its folder there.",
    )
