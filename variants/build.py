"""Build variants: the steps from upstream's source to a verified wheel in ``dist/``, in their order."""

from __future__ import annotations

import contextlib
import json
import os
import platform as host
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.markup import escape
from rich.table import Table

from . import (
    archive,
    assemble,
    cache,
    core,
    kits,
    label,
    machine,
    matrix,
    plugin,
    records,
    repair,
    run,
    source,
    toolchain,
    toolkit,
    verify,
)  # fmt: skip
from .errors import UsageError, VariantsError
from .matrix import Variant
from .source import ROOT

BUILD = ROOT / "build"
#: Where wheels can be built so far, of the platforms in the matrix.
HOSTS = ("linux_x86_64",)
DIST = ROOT / "dist"


class Options(msgspec.Struct, frozen=True):
    """What the command line says: toolchain kind (None: the variant's own), where the plugin's toolkit comes from (``index``,
    ``machine``, a folder; None: the variant's own order), NVIDIA architectures (none: the variant's), parallel jobs, build number
    (None: none), and the switches of the same name."""

    toolchain: str | None = None
    toolkit: str | None = None
    architectures: tuple[str, ...] = ()
    jobs: int = 0
    build_number: int | None = None
    clean: bool = False
    keep_going: bool = False
    dry_run: bool = False
    wait: bool = False


class Built(msgspec.Struct, frozen=True):
    """A finished wheel and the seconds that each step took."""

    variant: str
    wheel: Path
    steps: list[tuple[str, float]]
    cache: str | None


def host_platform() -> str:
    """This machine's platform as a wheel tag spells it (PEP 425).

    Raises:
        UsageError: nothing is built on such a machine.
    """
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if platform not in HOSTS:
        raise UsageError(f"This machine is {platform}.", f"Wheels are built on {', '.join(HOSTS)} so far.")
    return platform


def build_all(variants: Sequence[Variant], options: Options) -> list[Built]:
    """Build each variant and print the table of what came out.

    Raises:
        VariantsError: a step failed; with `keep_going` after the other variants have been built.
    """
    platform = host_platform()
    variants = [_narrowed(variant, options) for variant in variants]
    for variant in variants:
        if platform not in variant.table.platforms:
            raise UsageError(
                f"{variant.name} is not built on {platform}.", f"{variant.file} names {', '.join(variant.table.platforms)}."
            )
        if variant.table.plugin and variant.table.plugin not in kits.KITS:
            raise UsageError(
                f"{variant.name} cannot be built yet: it wants ggml's plugin `{variant.table.plugin}`.",
                f"Plugins that can be built: {', '.join(kits.KITS)}. docs/status.md says what there is.",
            )
        if variant.table.plugin and options.toolchain == "zig":
            raise UsageError(
                f"{variant.name} cannot be built with zig: an error that its plugin throws would end the process.",
                "Leave out --toolchain: core and plugin are then compiled by the system's gcc or clang, with one C++ runtime.",
            )
    if options.dry_run:
        for variant in variants:
            _print_plan(variant, platform, options)
        return []
    built: list[Built] = []
    failed: list[VariantsError] = []
    with run.locked(BUILD, options.wait):
        run.remove_leftovers(DIST)
        if options.clean:
            for variant in variants:
                run.remove(_build_dir(platform, _kind(variant, options)))
                run.remove(_plugin_dir(variant, platform))
        for variant in variants:
            try:
                built.append(_build(variant, platform, options))
            except VariantsError as error:
                if not options.keep_going:
                    raise
                run.console.print(f"[bold red]{variant.name} failed:[/] {escape(error.what)}\n{escape(error.remedy)}")
                failed.append(error)
    _print_table(built)
    if failed:
        raise failed[0]
    return built


def _narrowed(variant: Variant, options: Options) -> Variant:
    """The variant for the architectures of the command line, where it names some (``native``: of this machine's GPUs).

    Raises:
        UsageError: the variant has no such list, or this machine has no NVIDIA GPU.
    """
    if not options.architectures:
        return variant
    asked = [text for text in options.architectures if text != "native"]
    if "native" in options.architectures:
        found = [sm.replace(".", "") for sm in machine.detect().sm]
        if not found:
            raise UsageError(
                "--arch native: nvidia-smi shows no GPU on this machine.", "Name the architecture: `--arch 86` for capability 8.6."
            )
        asked += found
    return matrix.narrowed(variant, sorted(set(asked), key=int) if all(text.isdecimal() for text in asked) else asked)


def _kind(variant: Variant, options: Options) -> str:
    """The toolchain: one shared C++ runtime where a plugin may throw into the core, else the one that needs nothing."""
    return options.toolchain or ("system" if variant.table.plugin else "zig")


def _build_dir(platform: str, kind: str) -> Path:
    return BUILD / f"core-{platform}-{kind}"


def _plugin_dir(variant: Variant, platform: str) -> Path:
    return BUILD / f"{variant.name}-{platform}"


def _build(variant: Variant, platform: str, options: Options) -> Built:
    """One variant, from source to ``dist/``. Each step is a function from files to a file and can be run again alone."""
    kind = _kind(variant, options)
    core_dir = _build_dir(platform, kind)
    build_dir = _plugin_dir(variant, platform) if variant.table.plugin else core_dir
    log = BUILD / "logs" / f"{variant.name}-{kind}.log"
    run.remove(log)
    steps = run.Steps(total=6 + bool(variant.label) + 2 * bool(variant.table.plugin))
    pin = source.read_pin()
    tools = toolchain.find(kind, BUILD / "toolchains")  # before anything is fetched: it may not be there
    counter = cache.Counter(tools, log.with_suffix(".ccache")) if tools.cache else None
    tools = counter.toolchain if counter else tools
    with steps.step("vendor", f"{pin.name} {pin.version}"):
        upstream = source.vendor()
    epoch = _epoch(upstream)
    kit = None
    if variant.table.plugin:
        with steps.step("toolkit", variant.table.plugin):
            request = toolkit.Request(variant, tools, upstream.tree, platform, options.toolkit, True, log)
            kit = toolkit.require(kits.find(request))
    jobs = options.jobs or run.default_jobs()
    with steps.step("core", f"{tools.name}{f', with {tools.cache}' if tools.cache else ''}; log: {_short(log)}"):
        wheel = core.build(upstream, tools, platform, jobs=jobs, log=log, build_dir=core_dir)
    extra: dict[str, bytes] = {}
    if kit:
        with steps.step("plugin", f"{kit.plugin}, {', '.join(f'{part.what} {part.found}' for part in kit.parts)}"):
            runtime = variant.table.runtime
            made = plugin.build(kit, wheel, upstream, tools, platform, runtime=runtime, jobs=jobs, log=log, build_dir=build_dir)
            extra = made.files()
            features = kit.facts.get("shader_features")
            if features == []:
                run.console.print("      this glslc has no newer shader feature: correct, but slow on real GPUs (docs/status.md)")
    with steps.step("assemble", "licences, bill of materials, build number"):
        raw = assemble.assemble(wheel, build_dir / "raw", upstream, tools, options.build_number, epoch, extra)
    with steps.step("repair", f"for {tools.manylinux or 'the lowest manylinux tag that is true'}"):
        repaired = repair.repair(raw, build_dir / "repaired", tools, epoch, log, variant.table.runtime.foreign)
    finished = repaired
    if variant.label:
        with steps.step("label", variant.label):
            finished = label.label(repaired, variant, build_dir / "labelled")
    with steps.step("verify", finished.name):
        verify.require(finished)
    with steps.step("publish", f"{_short(DIST / finished.name)}"), run.replacing(DIST / finished.name) as part:
        shutil.copyfile(finished, part)
    _record(DIST / finished.name, tools, kit)
    return Built(variant.name, DIST / finished.name, steps.done, str(counter) if counter else None)


def _record(wheel: Path, tools: toolchain.Toolchain, kit: toolkit.Toolkit | None) -> None:
    """Write down with what the wheel was built, beside it."""
    told = [tools.name]
    for name, value in kit.facts.items() if kit else ():
        told.append(f"{name.replace('_', ' ')} {', '.join(value) or 'none' if isinstance(value, list) else value}")
    with contextlib.suppress(OSError):  # the wheel is what was asked for
        here = {"processor": host.machine(), "system": machine.system(), "python": host.python_version()}
        records.add(wheel, what=records.BUILT, installer="", devices="", tools="; ".join(told), **here)


def _epoch(upstream: source.Upstream) -> int:
    """SOURCE_DATE_EPOCH (seconds since 1970), or the newest time in upstream's sdist.

    Raises:
        UsageError: the variable is no number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", str(upstream.epoch))
    if not text.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH={text} is no number of seconds.", "Set it to seconds since 1970, or unset it.")
    return int(text)


def _print_plan(variant: Variant, platform: str, options: Options) -> None:
    """What :func:`_build` would do, without doing any of it."""
    pin = source.read_pin()
    try:
        upstream = source.read_tree(pin)
        fetched = "is there already"
    except VariantsError:
        upstream = source.Upstream(source.TREE, pin.version, pin.sha256, 0, "unknown")
        fetched = "would be fetched with pip, checked and unpacked"
    kind = _kind(variant, options)
    tools = toolchain.find(kind, BUILD / "toolchains", write=False)
    core_dir = _build_dir(platform, kind)
    build_dir = _plugin_dir(variant, platform) if variant.table.plugin else core_dir
    defines = core.definitions(upstream, tools, platform)
    command = " ".join(str(word) for word in core.wheel_command(defines, core_dir / "cmake", core_dir / "wheel"))
    number = "" if options.build_number is None else f", build number {options.build_number}"
    rows = [
        ("vendor", f"{pin.archive} {fetched} ({_short(source.TREE)})"),
        ("core", f"with {tools.name}{f' and {tools.cache}' if tools.cache else ''}, in {_short(core_dir)}:\n      {command}"),
        *([("toolkit", _plan_toolkit(variant, tools, upstream, platform, options))] if variant.table.plugin else []),
        *([("plugin", f"ggml-{variant.table.plugin} against that core, in {_short(build_dir)}")] if variant.table.plugin else []),
        ("assemble", f"add licences and bill of materials{number} -> {_short(build_dir / 'raw')}"),
        (
            "repair",
            f"auditwheel, for {tools.manylinux or 'the lowest manylinux tag that is true'} -> {_short(build_dir / 'repaired')}",
        ),
        *([("label", f"as {variant.label} -> {_short(build_dir / 'labelled')}")] if variant.label else []),
        ("verify", ", ".join(check.__name__.replace("_", " ") for check in verify.CHECKS)),
        ("publish", f"rename into {_short(DIST)}"),
    ]
    run.console.print(
        f"[bold]{variant.name}[/] for {platform}" + (", after removing " + _short(build_dir) if options.clean else "")
    )
    for number_, (name, text) in enumerate(rows, 1):
        run.console.print(rf"\[{number_}/{len(rows)}] [bold]{name}[/]  {escape(text)}")


def _plan_toolkit(
    variant: Variant, tools: toolchain.Toolchain, upstream: source.Upstream, platform: str, options: Options
) -> str:  # fmt: skip
    """What would be used beside the compiler, and what is missing."""
    kit = kits.find(toolkit.Request(variant, tools, upstream.tree, platform, options.toolkit))
    return "; ".join(f"{part.what} {part.found or f'MISSING (wanted {part.wanted}, found {part.seen})'}" for part in kit.parts)


def show_toolchain(variant: Variant, options: Options) -> bool:
    """Print what would compile this variant, and what is missing; is everything there?

    Raises:
        SourceError: upstream is not unpacked yet (its own tests say what a shader compiler can do).
        ToolchainError: there is no compiler, or nobody knows how to build the plugin yet.
    """
    variant = _narrowed(variant, options)
    tools = toolchain.find(_kind(variant, options), BUILD / "toolchains", write=False)
    caching = tools.cache or "no compiler cache: ccache or sccache on PATH would be used"
    run.console.print(f"{variant.name}: core and plugin with {tools.name}, {caching}", markup=False)
    if variant.table.plugin is None:
        return True
    kit = kits.find(toolkit.Request(variant, tools, source.vendor().tree, host_platform(), options.toolkit))
    toolkit.show(kit)
    return not kit.missing


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _print_table(built: Sequence[Built]) -> None:
    for row in built:
        *_, tags = archive.parse_name(archive.plain_path(row.wheel))
        table = Table.grid(padding=(0, 2))
        table.add_row("file", str(_short(row.wheel)))
        table.add_row("tag", ", ".join(sorted(str(tag) for tag in tags)))
        table.add_row("size", f"{row.wheel.stat().st_size / 1e6:.1f} MB")
        table.add_row("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in row.steps))
        if row.cache:
            table.add_row("cache", row.cache)
        run.console.print(f"\n[bold]{row.variant}[/]", table)


def wheels(variants: Sequence[Variant], dist: Path = DIST) -> list[Path]:
    """The wheels in `dist` of the pinned version that these variants gave, for this platform.

    Raises:
        UsageError: a variant has none, or one that this checkout would no longer build.
    """
    pin = source.read_pin()
    found: list[Path] = []
    for variant in variants:
        rows = [path for path in sorted(dist.glob("*.whl")) if _is(path, pin.version, variant.label)]
        if not rows:
            raise UsageError(
                f"There is no {variant.name} wheel of {pin.version} in {_short(dist)}/.",
                f"Build it: `nox -s build_variant -- {variant.name}`.",
            )
        for wheel in rows:
            if why := stale(wheel):
                raise UsageError(
                    f"{_short(wheel)} is stale: {why}.",
                    f"Build it again (`nox -s build_variant -- {variant.name}`) or remove the file.",
                )
        found += rows
    return list(dict.fromkeys(found))


def _is(wheel: Path, version: str, wanted: str | None) -> bool:
    """Is this a wheel of that version and label (None: plain)?"""
    return archive.split_label(wheel.name)[1] == wanted and str(archive.parse_name(archive.plain_path(wheel))[1]) == version


def stale(wheel: Path) -> str | None:
    """Why this checkout would not build this wheel any more, or None where it would."""
    files = archive.contents(wheel)
    pin = source.read_pin()
    try:
        made = json.loads(files["llama_cpp/lib/core.json"])
        upstream = source.Upstream(source.TREE, pin.version, pin.sha256, 0, "")
        expected = core.fingerprint(upstream, made["toolchain"], host_platform())
    except (KeyError, ValueError):
        return "it has no readable llama_cpp/lib/core.json"
    if made["fingerprint"] != expected:
        return f"its core is {made['fingerprint']}, upstream's source and CMakeLists.txt now give {expected}"
    for name in ("_backends.py", "__main__.py"):
        if files.get(f"llama_cpp/{name}") != (ROOT / "llama_cpp" / name).read_bytes():
            return f"llama_cpp/{name} has changed since"
    return None
