"""Build variants: the steps from upstream's source to a verified wheel in ``dist/``, in their order."""

from __future__ import annotations

import contextlib
import os
import platform as host
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.markup import escape
from rich.table import Table

from .. import matrix, platforms
from ..backends import toolkit
from ..choice import machine
from ..compilers import cache, environment, toolchain
from ..errors import UsageError, VariantsError, WheelError
from ..matrix import Variant
from ..platforms import PLATFORMS, Platform
from ..steps import assemble, core, label, plugin, repair, verify
from ..terminal import disk, process
from ..terminal.console import Steps, console, styled
from ..upstream import source
from ..upstream.source import ROOT
from ..wheel import archive, records

BUILD = ROOT / "build"
DIST = ROOT / "dist"


class Options(msgspec.Struct, frozen=True):
    """What the command line says: the platform (None: this machine's), the release of upstream (None: the pinned one), toolchain
    kind (None: the variant's own), where the plugin's toolkit comes from (``index``, ``machine``, a folder; None: the variant's own
    order), GPU architectures (none: the variant's), parallel jobs, build number (None: none), and the switches of the same
    name."""

    platform: str | None = None
    upstream: str | None = None
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


class Place(msgspec.Struct, frozen=True):
    """Where one variant of one platform is built: the folders of its core and of its plugin (the core's, where it has none)."""

    core: Path
    own: Path
    log: Path


def build_all(variants: Sequence[Variant], options: Options) -> list[Built]:
    """Build each variant and print the table of what came out.

    Raises:
        VariantsError: a step failed; with `keep_going` after the other variants have been built.
    """
    platform = chosen_platform(options)
    variants = [narrowed(variant, options) for variant in variants]
    for variant in variants:
        check(variant, platform, options)
    if options.dry_run:
        for variant in variants:
            _print_plan(variant, platform, options)
        return []
    built: list[Built] = []
    failed: list[VariantsError] = []
    with disk.locked(BUILD, options.wait) as lock:
        disk.remove_leftovers(lock, DIST)
        if options.clean:
            for variant in variants:
                place = place_of(variant, platform, options)
                disk.remove(place.core)
                disk.remove(place.own)
        for variant in variants:
            try:
                built.append(_build(lock, variant, platform, options))
            except VariantsError as error:
                if not options.keep_going:
                    raise
                console.print(styled(f"[bold red]{variant.name} failed:[/] {escape(error.what)}\n{escape(error.remedy)}"))
                failed.append(error)
    print_table(built)
    if failed:
        raise failed[0]
    return built


def narrowed(variant: Variant, options: Options) -> Variant:
    """The variant for the architectures of the command line, where it names some (``native``: of this machine's GPUs).

    Raises:
        UsageError: the variant has no such list, or this machine has no such GPU.
    """
    if not options.architectures:
        return variant
    asked = [text for text in options.architectures if text != "native"]
    if "native" in options.architectures:
        lists = variant.lists
        found = lists.here(machine.detect()) if lists else []
        if lists and not found:
            raise UsageError(
                f"--arch native: {lists.detector} shows no GPU on this machine.",
                f"Name the architecture: `--arch {lists.example}`.",
            )
        asked += found
    return matrix.narrowed(variant, sorted(set(asked), key=lambda text: (len(text), text)))


def chosen_platform(options: Options) -> Platform:
    """The platform that was asked for, or this machine's.

    Raises:
        UsageError: nobody knows it.
    """
    return platforms.get(options.platform) if options.platform else platforms.here()


def check(variant: Variant, platform: Platform, options: Options) -> None:
    """Can this be built here at all?

    Raises:
        UsageError: no; says why, and what can.
    """
    table, here = variant.table, platforms.here()
    if platform.name not in table.platforms:
        raise UsageError(
            f"{variant.name} does not exist for {platform.name}.", f"{variant.file} names {', '.join(table.platforms)}."
        )
    if table.plugin and platform != here and platform.name not in variant.across:
        others = " ".join(variant.across)
        raise UsageError(
            f"{variant.name} for {platform.name} is built on such a machine; this one is {here.name}.",
            f"On other machines {variant.name} is built for {others}."
            if others
            else "On other machines only its core can be built: `nox -s core -- --platform PLATFORM`.",
        )


def kind(options: Options) -> str:
    """The toolchain of the core: zig, which needs nothing on the machine, unless another is asked for."""
    return options.toolchain or "zig"


def place_of(variant: Variant, platform: Platform, options: Options) -> Place:
    below = BUILD / "releases" / options.upstream if options.upstream else BUILD
    core_dir = below / f"core-{platform.name}-{kind(options)}"
    log = BUILD / "logs" / f"{variant.name}-{platform.name}-{kind(options)}.log"
    return Place(core_dir, below / f"{variant.name}-{platform.name}" if variant.table.plugin else core_dir, log)


class Work(msgspec.Struct, frozen=True):
    """What compiling wants: the compiler, the unpacked upstream, SOURCE_DATE_EPOCH, parallel jobs, and the cache's counter."""

    tools: toolchain.Toolchain
    upstream: source.Upstream
    epoch: int
    jobs: int
    counter: cache.Counter | None


def _build(lock: disk.Lock, variant: Variant, platform: Platform, options: Options) -> Built:
    """One variant, from source to ``dist/``. Each step is a function from files to a file and can be run again alone."""
    place = place_of(variant, platform, options)
    disk.remove(place.log)
    steps = Steps(total=6 + bool(variant.label) + 2 * bool(variant.table.plugin))
    work = work_of(lock, variant, platform, options, steps)
    kit = find_toolkit(variant, work, options, steps) if variant.table.plugin else None
    part = compile_core(work, place, steps)
    made = compile_plugin(variant, kit, part, work, place, steps) if kit else None
    wheel = finish(variant, part, made, work.upstream, place, options, steps)
    record(wheel, work.tools.name, made)
    return Built(variant.name, wheel, steps.done, str(work.counter) if work.counter else None)


def work_of(lock: disk.Lock, variant: Variant, platform: Platform, options: Options, steps: Steps) -> Work:
    """The compiler (before anything is fetched: it may not be there), and upstream's source."""
    tools = toolchain.find(kind(options), BUILD / "toolchains", platform)
    log = place_of(variant, platform, options).log
    counter = cache.Counter(tools, log.with_suffix(".ccache")) if tools.cache else None
    with steps.step("vendor", f"llama-cpp-python {options.upstream or source.read_pin().version}"):
        upstream = source.vendor(lock, vendor_dir=source.release(options.upstream))
    if ignored := environment.left_out():
        console.print(f"      not passed on to the compilers: {', '.join(ignored)}", style="dim")
    jobs = options.jobs or process.default_jobs()
    return Work(counter.toolchain if counter else tools, upstream, _epoch(upstream), jobs, counter)


def find_toolkit(variant: Variant, work: Work, options: Options, steps: Steps) -> toolkit.Toolkit:
    """What the plugin needs beside the compiler."""
    log = BUILD / "logs" / f"{variant.name}-toolkit.log"
    disk.remove(log)
    with steps.step("toolkit", str(variant.table.plugin)):
        assert variant.backend is not None
        request = matrix.request(variant, work.tools, work.upstream.tree, options.toolkit, True, log)
        return toolkit.require(variant.backend.find(request))


def compile_core(work: Work, place: Place, steps: Steps) -> Path:
    """The core's part."""
    tools = work.tools
    with steps.step("core", f"{tools.name}{f', with {tools.cache}' if tools.cache else ''}; log: {short(place.log)}"):
        wheel = core.build(work.upstream, tools, jobs=work.jobs, log=place.log, build_dir=place.core)
        part = assemble.document(wheel, place.core / "part", work.upstream, tools, work.epoch)
    _report_changes(part, work.upstream)
    return part


def _report_changes(part: Path, upstream: source.Upstream) -> None:
    """Say what llama.cpp has added or dropped.

    Raises:
        WheelError: it is not an older release than the one that was looked at, so that nothing new is shipped unseen.
    """
    changed, new = assemble.changes(assemble.read_core(part), upstream.version)
    if not changed:
        return
    rows = "\n".join(f"  {row}" for row in changed)
    if new:
        raise WheelError(
            f"llama.cpp in llama-cpp-python {upstream.version} has changed what a core is made of:\n{rows}",
            "See that CMakeLists.txt and llama_cpp/_backends.py do the right thing with it, then correct variants/steps/core.toml\n"
            "and run the same command again: what is compiled is kept.",
        )
    console.print(f"      compared with variants/steps/core.toml:\n{rows}")


def compile_plugin(variant: Variant, kit: toolkit.Toolkit, part: Path, work: Work, place: Place, steps: Steps) -> plugin.Plugin:
    """The plugin, compiled against the core in `part`."""
    with steps.step("plugin", f"{kit.plugin}, {', '.join(f'{one.what} {one.found}' for one in kit.pieces)}"):
        made = plugin.build(
            kit, part, work.upstream, work.tools, runtime=variant.table.runtime, jobs=work.jobs, log=place.log, build_dir=place.own
        )
        if kit.lacks:
            console.print(f"      without {', '.join(kit.lacks)}: correct, but slower on newer GPUs; `index` refuses such a wheel")
    return made


def finish(
    variant: Variant, part: Path, made: plugin.Plugin | None, upstream: source.Upstream, place: Place, options: Options,
    steps: Steps,
) -> Path:  # fmt: skip
    """From the parts to a verified wheel in ``dist/``."""
    epoch = _epoch(upstream)
    with steps.step("assemble", "core, plugin, build number" if made else "core, build number"):
        raw = assemble.assemble(part, place.own / "raw", options.build_number, epoch, made.files() if made else {})
    about = assemble.read_core(raw)
    foreign = variant.table.runtime.on(PLATFORMS[about.platform]).foreign
    # A wheel that is not published may be for systems as new as this one alone.
    promised = "" if made and about.platform in variant.table.unpublished else variant.promise(about.tag)
    with steps.step("repair", f"{PLATFORMS[about.platform].tool}, for {promised or 'the lowest tag that is true'}"):
        finished = repair.repair(raw, place.own / "repaired", epoch, place.log, foreign, promised)
    if variant.label:
        with steps.step("label", variant.label):
            finished = label.label(finished, variant, place.own / "labelled")
    with steps.step("verify", finished.name):
        verify.require(finished, upstream)
    target = destination(variant, PLATFORMS[about.platform]) / finished.name
    with steps.step("publish", f"{short(target)}"), disk.replacing(target) as new:
        shutil.copyfile(finished, new)
    return target


def destination(variant: Variant, platform: Platform) -> Path:
    """``dist/``; for a wheel that is not published (macOS without Metal, OpenVINO), a folder below it."""
    return DIST / f"{variant.name}-only" if platform.name in variant.table.unpublished else DIST


def record(wheel: Path, toolchain_name: str, made: plugin.Plugin | None) -> None:
    """Write down with what the wheel was built, beside it."""
    told = [toolchain_name, *toolkit.told(made.facts() if made else {})]
    with contextlib.suppress(OSError, WheelError):  # the wheel is what was asked for
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


def _print_plan(variant: Variant, platform: Platform, options: Options) -> None:
    """What :func:`_build` would do, without doing any of it."""
    place = place_of(variant, platform, options)
    pin = source.read_pin()
    version = options.upstream or pin.version
    tree = source.TREE if version == pin.version else source.VENDOR / "releases" / version / source.TREE.name
    upstream = source.Upstream(tree, version, pin.sha256, 0, "unknown", "")
    fetched = "would be fetched with pip, checked and unpacked"
    with contextlib.suppress(VariantsError):
        if version == pin.version:
            upstream, fetched = source.read_tree(pin), "is there already"
    tools = toolchain.find(kind(options), BUILD / "toolchains", platform, write=False)
    defines = core.definitions(upstream, tools)
    command = " ".join(str(word) for word in core.wheel_command(upstream, defines, place.core / "cmake", place.core / "wheel"))
    number = "" if options.build_number is None else f", build number {options.build_number}"
    tag = variant.promise(tools.tag or "") or "the lowest tag that is true"
    rows = [
        ("vendor", f"llama-cpp-python {version} {fetched} ({short(upstream.tree)})"),
        ("core", f"with {tools.name}{f' and {tools.cache}' if tools.cache else ''}, in {short(place.core)}:\n      {command}"),
        *([("toolkit", _plan_toolkit(variant, tools, upstream, options))] if variant.table.plugin else []),
        *([("plugin", f"ggml-{variant.table.plugin} against that core, in {short(place.own)}")] if variant.table.plugin else []),
        ("assemble", f"add licences and bill of materials{number} -> {short(place.own / 'raw')}"),
        (
            "repair",
            f"{platform.tool}, for {tag} -> {short(place.own / 'repaired')}",
        ),
        *([("label", f"as {variant.label} -> {short(place.own / 'labelled')}")] if variant.label else []),
        ("verify", ", ".join(check.__name__.replace("_", " ") for check in verify.CHECKS)),
        ("publish", f"rename into {short(destination(variant, platform))}"),
    ]
    removed = f", after removing {short(place.own)}" if options.clean else ""
    console.print(styled(f"[bold]{variant.name}[/] for {platform.name}{escape(removed)}"))
    for number_, (name, text) in enumerate(rows, 1):
        console.print(styled(rf"\[{number_}/{len(rows)}] [bold]{name}[/]  {escape(text)}"))


def _plan_toolkit(
    variant: Variant, tools: toolchain.Toolchain, upstream: source.Upstream, options: Options
) -> str:  # fmt: skip
    """What would be used beside the compiler, and what is missing."""
    assert variant.backend is not None
    kit = variant.backend.find(matrix.request(variant, tools, upstream.tree, options.toolkit))
    return "; ".join(f"{one.what} {one.found or f'MISSING (wanted {one.wanted}, found {one.seen})'}" for one in kit.pieces)


def upstream_here() -> source.Upstream:
    """Upstream's tree as it is, fetched first where it is not there.

    Raises:
        SourceError: it cannot be had.
        BusyError: it is not there, and another build is at it.
    """
    if (source.TREE / "PKG-INFO").is_file() or source.read_pin().path is not None:
        return source.read_tree(source.read_pin())
    with disk.locked(BUILD) as lock:
        return source.vendor(lock)


def show_toolchain(variant: Variant, options: Options) -> bool:
    """Print what would compile this variant, and what is missing; is everything there?

    Raises:
        SourceError: upstream is not unpacked yet (its own tests say what a shader compiler can do).
        ToolchainError: there is no compiler, or nobody knows how to build the plugin yet.
    """
    variant = narrowed(variant, options)
    platform = chosen_platform(options)
    tools = toolchain.find(kind(options), BUILD / "toolchains", platform, write=False)
    caching = tools.cache or "no compiler cache: ccache or sccache on PATH would be used"
    console.print(f"{variant.name}: the core with {tools.name}, {caching}")
    if variant.backend is None:
        return True
    kit = variant.backend.find(matrix.request(variant, tools, upstream_here().tree, options.toolkit))
    toolkit.show(kit)
    return not kit.missing


def short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def print_table(built: Sequence[Built]) -> None:
    for row in built:
        *_, tags = archive.parse_name(archive.plain_path(row.wheel))
        table = Table.grid(padding=(0, 2))
        table.add_row("file", str(short(row.wheel)))
        table.add_row("tag", ", ".join(sorted(str(tag) for tag in tags)))
        table.add_row("size", f"{row.wheel.stat().st_size / 1e6:.1f} MB")
        table.add_row("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in row.steps))
        if row.cache:
            table.add_row("cache", row.cache)
        console.print(styled(f"\n[bold]{row.variant}[/]"), table)


def wheels(
    variants: Sequence[Variant], dist: Path = DIST, everywhere: bool = False, upstream: str | None = None, as_built: bool = False
) -> list[Path]:
    """The wheels in `dist` that these variants gave, of the release `upstream` (None: the pinned one), for this platform or for all
    (`everywhere`). `as_built`: another machine built them of the same commit, so it is not asked whether this checkout would.

    Raises:
        UsageError: a variant has none, or one that this checkout would no longer build.
    """
    version = upstream or source.read_pin().version
    found: list[Path] = []
    for variant in variants:
        folder = dist if everywhere else dist / destination(variant, platforms.here()).relative_to(DIST)
        rows = [path for path in sorted(folder.glob("*.whl")) if _is(path, version, variant.label)]
        rows = [path for path in rows if everywhere or archive.platforms_of(path) <= {platforms.here()}]
        if not rows:
            raise UsageError(
                f"There is no {variant.name} wheel of {version} in {short(folder)}/.",
                f"Build it: `nox -s build_variant -- {variant.name}{f' --upstream {upstream}' if upstream else ''}`.",
            )
        for wheel in rows:
            if why := None if as_built else stale(wheel, source.release(upstream)):
                raise UsageError(
                    f"{short(wheel)} is stale: {why}.",
                    f"Build it again (`nox -s build_variant -- {variant.name}`) or remove the file.",
                )
        found += rows
    return list(dict.fromkeys(found))


def with_plugin() -> Path:
    """The first wheel in ``dist/`` that has a plugin, for this platform and of this checkout.

    Raises:
        UsageError: there is none.
    """
    reasons = []
    for variant in matrix.load().values():
        if variant.backend and variant.label and platforms.here().name in variant.table.platforms:
            try:
                return wheels([variant])[0]
            except UsageError as error:
                reasons.append(error)
    raise reasons[-1]


def _is(wheel: Path, version: str, wanted: str | None) -> bool:
    """Is this a wheel of that version and label (None: plain)?"""
    return archive.split_label(wheel.name)[1] == wanted and str(archive.parse_name(archive.plain_path(wheel))[1]) == version


def stale(wheel: Path, release: Path = source.VENDOR) -> str | None:
    """Why this checkout would not build this wheel any more, or None where it would. `release`: where its release of upstream is
    (:func:`.source.release`)."""
    with archive.open_wheel(wheel) as opened:
        files = opened.files()
        try:
            made = assemble.decode(opened.read(assemble.CORE))
            upstream = source.read_tree(source.read_pin(release / source.PIN.name), release / source.TREE.name)
            expected = core.fingerprint(upstream, made.toolchain, made.platform)
        except (KeyError, ValueError):
            return f"it has no readable {assemble.CORE}"
        if made.fingerprint != expected:
            return f"its core is {made.fingerprint}, upstream's source and CMakeLists.txt now give {expected}"
        for name in assemble.known_core().ours:
            if name not in files or opened.read(name) != (ROOT / name).read_bytes():
                return f"{name} has changed since"
    return None
