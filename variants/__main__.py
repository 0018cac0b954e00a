"""The task library's command line, ``python -m variants STEP``; nox sessions are thin wrappers around it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.markup import escape

from . import matrix, platforms
from .choice import explain, listing, machine
from .compilers import toolchain
from .errors import DiskError, UsageError, VariantsError
from .index import index, serve
from .release import adopt, jobs, parts, pipeline
from .steps import label, repair, verify
from .terminal import disk, process
from .terminal.console import console
from .trial import bench, foreign, smoke, status
from .upstream import source


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; every failure that a user can mend ends as one screen of text and a code of its own (errors.py)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    process.terminate_as_exception()
    try:
        return int(options.do(options) or 0)
    except VariantsError as error:
        if options.traceback:
            raise
        return _tell(error)
    except OSError as error:
        if options.traceback or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return _tell(_disk_error(error))
    except KeyboardInterrupt:
        return _interrupted("Interrupted", 130)
    except process.Terminated:
        return _interrupted("Ended by SIGTERM", 143)


def _tell(error: VariantsError) -> int:
    console.print(f"\n[bold red]error:[/] {escape(error.what)}\n{escape(error.remedy)}")
    return error.exit_code


def _interrupted(what: str, code: int) -> int:
    console.print(f"\n{what}. Nothing unfinished was left in dist/; the same command goes on where this one stopped.")
    return code


def _disk_error(error: OSError) -> VariantsError:
    where = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"The disk is full: {where} could not be written.", "Free some space and run the same command again.")
    return DiskError(f"{where} cannot be written: {error.strerror}.", "Work in a checkout that you may write to.")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where in this library an error was raised")
    parser = argparse.ArgumentParser(
        prog="python -m variants",
        description="Build, verify and test variant wheels of llama-cpp-python. Each step is also a nox session (`nox -l`).",
    )
    steps = parser.add_subparsers(metavar="STEP", required=True)

    def step(name: str, text: str) -> argparse.ArgumentParser:
        return steps.add_parser(name, help=text, description=text, parents=[common])

    names = (
        f"variants to take: {', '.join(file.stem for file in sorted(matrix.FOLDER.glob('*.toml')))} (default: what can be built)"
    )

    vendor = step("vendor", "Fetch, check and unpack the pinned upstream; with VERSION, move the pin there first.")
    vendor.add_argument("version", nargs="?", metavar="VERSION", help="a release of llama-cpp-python, as in 0.3.36")
    vendor.set_defaults(do=_vendor)

    make = step("build", "Build variants: a verified wheel of each in dist/.")
    make.add_argument("names", nargs="*", metavar="VARIANT", help=names)
    _add_compiling(make)
    _add_toolkit(make)
    make.add_argument("--build-number", type=_natural, metavar="N", help="a rebuild of the same version: installers prefer it")
    make.add_argument("--clean", action="store_true", help="remove what was compiled before")
    make.add_argument("--keep-going", action="store_true", help="build the other variants after one has failed")
    make.add_argument("--dry-run", action="store_true", help="print what would be done, step by step, and do nothing")
    make.set_defaults(do=_build)

    one = step("core", "Compile a core alone, as a part for `assemble` on another machine.")
    _add_compiling(one)
    _add_parts(one)
    one.set_defaults(do=_core)

    added = step("plugin", "Compile one variant's plugin against the core among the parts, as a part for `assemble`.")
    added.add_argument("name", metavar="VARIANT", help="a variant of the matrix that has a plugin")
    _add_compiling(added)
    _add_toolkit(added)
    _add_parts(added)
    added.set_defaults(do=_plugin)

    whole = step("assemble", "Make verified wheels in dist/ of the parts: assemble, repair, label, verify.")
    whole.add_argument("names", nargs="*", metavar="VARIANT", help=f"{names}, on all their platforms")
    whole.add_argument("--platform", metavar="PLATFORM", help=f"this one alone: {', '.join(platforms.PLATFORMS)}")
    whole.add_argument("--upstream", metavar="VERSION", help="another release than the pinned one")
    whole.add_argument("--build-number", type=_natural, metavar="N", help="a rebuild of the same version: installers prefer it")
    whole.add_argument("--wait", action="store_true", help="wait for another build in this checkout instead of refusing")
    _add_parts(whole)
    whole.set_defaults(do=_assemble)

    many = step("matrix", "Print the jobs that make all wheels, one command a line, in an order that works one after another.")
    many.add_argument("names", nargs="*", metavar="VARIANT", help=f"{names[: names.index(' (')]} (default: all)")
    many.add_argument("--json", action="store_true", help="for a CI system: jobs with runner, command, part and needs")
    many.add_argument("--changed-since", metavar="REF", help="only variants whose wheels the changes since this commit may alter")
    many.set_defaults(do=_matrix)

    mend = step("repair", "Repair a raw wheel with its platform's own tool: auditwheel, delocate or delvewheel.")
    mend.add_argument("file", type=Path, metavar="FILE", help="a raw wheel, as `assemble` leaves it below build/")
    mend.add_argument("--exclude", action="append", default=[], metavar="LIBRARY", help="never graft this one (again for each)")
    mend.add_argument("--out", type=Path, metavar="FOLDER", help="where the repaired wheel goes (default: repaired/ beside FILE)")
    mend.set_defaults(do=_repair)

    tools = step("toolchain", "Show what a variant needs to be compiled, what of it is there, and what brings the rest.")
    tools.add_argument("names", nargs="*", metavar="VARIANT", help=names)
    tools.add_argument("--toolchain", choices=toolchain.KINDS, help="as in `build`")
    _add_toolkit(tools)
    tools.set_defaults(do=_toolchain)

    test = step("test", "Install each built wheel with uv and with pip into new environments and run the smoke inference there.")
    test.add_argument("names", nargs="*", metavar="VARIANT", help=names)
    test.add_argument("--installer", choices=smoke.INSTALLERS, action="append", help="only this one (default: each)")
    test.add_argument("--python", default=sys.executable, metavar="PYTHON", help="interpreter to install for, as in python3.8")
    test.add_argument("--wheel", type=Path, help="this file, instead of what dist/ has")
    test.add_argument("--upstream", metavar="VERSION", help="wheels of another release than the pinned one")
    test.set_defaults(do=_test)

    away = step("test-foreign", "Run a wheel of another platform: Linux on Arm under qemu-user, Windows under wine, musl.")
    away.add_argument("--wheel", type=Path, action="append", help="this file (again for each), instead of what dist/ has")
    away.set_defaults(do=_foreign)

    upstream = step("upstream-tests", "Run upstream's own test suite against the wheel.")
    upstream.add_argument("--wheel", type=Path, help="this file, instead of what dist/ has")
    upstream.set_defaults(do=_upstream_tests)

    loop = step(
        "offload", "Offload to ggml's RPC plugin over loopback: the CPU's own bits, and what happens when the device is gone."
    )
    loop.add_argument("--wheel", type=Path, help="this file, instead of the first wheel in dist/ that has a plugin")
    loop.set_defaults(do=_offload)

    old = step("old-cpus", "Run the smoke inference on emulated old processors (needs qemu-user).")
    old.add_argument("--wheel", type=Path, help="this file, instead of what dist/ has")
    old.set_defaults(do=_old_cpus)

    speed = step("bench", "Compare the wheel's speed, import time and size with upstream's own build, in paired runs.")
    speed.add_argument("names", nargs="*", metavar="VARIANT", help=names)
    speed.add_argument("--wheel", type=Path, help="this file, instead of what dist/ has")
    speed.add_argument("--rounds", type=_positive, default=5, metavar="N", help="paired rounds (default: 5)")
    speed.add_argument(
        "--model", type=Path, metavar="GGUF", help="run this model instead of one made here (100 M parameters, Q4_K)"
    )
    speed.add_argument("--no-native", dest="native", action="store_false", help="do not build upstream's own wheel to compare with")
    speed.set_defaults(do=_bench)

    big = step(
        "bench-labels", "Time labelling a big wheel against copying it and against `variantlib make-variant`, in paired runs."
    )
    big.add_argument("--size", type=_positive, default=500, metavar="MB", help="of the wheel (default: 500)")
    big.add_argument("--rounds", type=_positive, default=5, metavar="N", help="paired rounds (default: 5)")
    big.set_defaults(do=lambda given: bench.bench_labels(pipeline.BUILD, given.rounds, given.size) and None)

    pages = step("index", "Make static index pages in site/ from the wheels in dist/, for any web server.")
    pages.add_argument("--dist", type=Path, default=pipeline.DIST, metavar="FOLDER", help="where the wheels are (default: dist)")
    pages.add_argument(
        "--site", type=Path, default=source.ROOT / "site", metavar="FOLDER", help="where the pages go (default: site)"
    )
    pages.add_argument("--base-url", metavar="URL", help="the wheels lie there (release assets, say) and are linked, not copied")
    pages.add_argument(
        "--site-url",
        metavar="URL",
        default="http://127.0.0.1:8000/",
        help="where the site will be, for the commands on its front page",
    )
    pages.add_argument("--allow-no-fallback", action="store_true", help="list a version that has no plain wheel")
    pages.set_defaults(do=_index)

    name = step("label", "Label a repaired wheel as a variant: file name, variant.json, its own requirements.")
    name.add_argument("file", type=Path, metavar="FILE", help="a plain wheel")
    name.add_argument("variant", metavar="VARIANT", help="a variant of the matrix that has a label")
    name.add_argument("--label", metavar="LABEL", help="refuse, if the matrix has another label for this variant")
    name.add_argument("--out", type=Path, metavar="FOLDER", help="where the labelled wheel goes (default: beside FILE)")
    name.set_defaults(do=_label)

    unname = step("unlabel", "Take a wheel's label off again.")
    unname.add_argument("file", type=Path, metavar="FILE", help="a labelled wheel")
    unname.add_argument(
        "--local", action="store_true", help="give it a local version instead (0.3.36+vulkan), for an index of one backend"
    )
    unname.add_argument("--out", type=Path, metavar="FOLDER", help="where the plain wheel goes (default: beside FILE)")
    unname.set_defaults(do=_unlabel)

    why = step(
        "explain", "Say which wheel an installer takes on this machine, or on one that is described, and why not the others."
    )
    why.add_argument("where", nargs="?", metavar="INDEX", help="an address, a site or a folder of wheels (default: site/ or dist/)")
    why.add_argument("--installer", choices=tuple(explain.INSTALLERS), default="standard", help="default: one with every provider")
    why.add_argument("--version", metavar="VERSION", help="of the package (default: the newest that fits)")
    why.add_argument("--project", default=listing.PROJECT, metavar="NAME", help=f"another package (default: {listing.PROJECT})")
    why.add_argument("--all", action="store_true", help="show wheels for other platforms too")
    why.add_argument("--json", action="store_true", help="for programs: everything, as JSON")
    other = why.add_argument_group("another machine than this one (any of these; what is not named is not there)")
    other.add_argument("--platform", metavar="PLATFORM", help=f"{', '.join(platforms.PLATFORMS)}, or as in manylinux_2_28_x86_64")
    other.add_argument("--driver", metavar="CUDA", help="NVIDIA's driver, by the newest CUDA that it runs, as in 12.8")
    other.add_argument(
        "--sm", action="append", metavar="SM", help="compute capability of an NVIDIA GPU, as in 8.6 (again for each)"
    )
    other.add_argument("--gfx", action="append", metavar="GFX", help="architecture of an AMD GPU, as in gfx1100 (again for each)")
    other.add_argument("--rocm", metavar="VERSION", help="ROCm, as in 7.0.0")
    other.add_argument("--cpu", metavar="CPU", help="processor by archspec's name, as in haswell")
    other.add_argument("--python", metavar="X.Y", help="default: 3.12")
    why.set_defaults(do=_explain)

    give = step("adopt", "Put these files into a tree of llama-cpp-python's own, which then builds the same wheels.")
    give.add_argument("tree", type=Path, metavar="TREE", help="a clone of its repository, or an unpacked sdist")
    give.set_defaults(do=lambda given: console.print("\n".join(adopt.adopt(given.tree)), markup=False))

    state = step("status", "Collect the records of the wheels in dist/ and write docs/runs.md: what was built, and what ran where.")
    state.add_argument("--dist", type=Path, default=pipeline.DIST, metavar="FOLDER", help="where the wheels are (default: dist)")
    state.set_defaults(do=_status)

    web = step("serve", "Serve site/ on 127.0.0.1, and print the commands that install from it.")
    web.add_argument("--site", type=Path, default=source.ROOT / "site", metavar="FOLDER", help="the folder that `index` made")
    web.add_argument("--port", type=_natural, default=8000, metavar="N", help="0 for any free one (default: 8000)")
    web.set_defaults(do=_serve)

    check = step("verify", "Verify finished wheels: one line for each thing that is wrong.")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="wheels")
    check.set_defaults(do=_verify)
    return parser


def _add_toolkit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--toolkit", metavar="WHERE",
        help="CUDA: `index` (assembled from pinned packages, once), `machine`; and ROCm: a toolkit's folder (see docs/gpu.md)",
    )  # fmt: skip
    parser.add_argument(
        "--arch", action="append", default=[], dest="architectures", metavar="ARCH",
        help="CUDA, ROCm: machine code for this GPU alone, as in 86 or gfx1100, or `native` (again for each); the wheel says so",
    )  # fmt: skip


def _add_compiling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--platform", metavar="PLATFORM",
        help=f"for another platform, the CPU core alone: {', '.join(platforms.PLATFORMS)} (default: this machine's)",
    )  # fmt: skip
    parser.add_argument("--upstream", metavar="VERSION", help="another release of llama-cpp-python than the pinned one")
    parser.add_argument("--toolchain", choices=toolchain.KINDS, help="zig: needs nothing on the machine (default without plugin)")
    parser.add_argument("--jobs", type=_positive, default=0, metavar="N", help="parallel compile jobs (default: one a core)")
    parser.add_argument("--wait", action="store_true", help="wait for another build in this checkout instead of refusing")


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", type=Path, default=source.ROOT / "parts", metavar="FOLDER", help="where the parts lie (default: parts)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be 0 or more")
    return int(text)


def _vendor(options: argparse.Namespace) -> None:
    with disk.locked(pipeline.BUILD):
        upstream = source.vendor(options.version)
    console.print(f"{upstream.tree}: llama-cpp-python {upstream.version}, llama.cpp {upstream.commit}")


def _build(options: argparse.Namespace) -> None:
    chosen = _chosen(options.names)
    pipeline.build_all(chosen, _options(options))


def _options(options: argparse.Namespace) -> pipeline.Options:
    """What of the command line the build wants to know."""
    given = {name: getattr(options, name) for name in pipeline.Options.__struct_fields__ if hasattr(options, name)}
    return pipeline.Options(**given | {"architectures": tuple(given.get("architectures", ()))})


def _core(options: argparse.Namespace) -> None:
    parts.core(_options(options), options.parts)


def _plugin(options: argparse.Namespace) -> None:
    (variant,) = matrix.select([options.name], matrix.load())
    parts.plugin_of(variant, _options(options), options.parts)


def _assemble(options: argparse.Namespace) -> None:
    parts.assemble_all(_chosen(options.names), _options(options), options.parts)


def _matrix(options: argparse.Namespace) -> None:
    variants = matrix.select(options.names, matrix.load())
    if not options.names:
        variants = [variant for variant in variants if not (variant.backend and variant.backend.on_request)]
    if options.changed_since:
        variants = jobs.touched(variants, options.changed_since)
    made = jobs.jobs(variants)
    if options.json:
        sys.stdout.write(msgspec.json.encode(made).decode() + "\n")
    else:
        for job in [*made.core, *made.plugin, *made.assemble]:
            sys.stdout.write(f"{job.command}\n")


def _repair(options: argparse.Namespace) -> None:
    target = options.out or options.file.parent / "repaired"
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    wheel = repair.repair(options.file, target, epoch, pipeline.BUILD / "logs" / "repair.log", options.exclude)
    console.print(str(wheel), markup=False)


def _toolchain(options: argparse.Namespace) -> int:
    complete = True
    asked = _options(options)
    for variant in _chosen(options.names):
        complete &= pipeline.show_toolchain(variant, asked)
    return 0 if complete else 5


def _test(options: argparse.Namespace) -> None:
    for wheel in _wheels(options, options.names):
        for installer in options.installer or smoke.INSTALLERS:
            smoke.smoke(wheel, installer, pipeline.BUILD, options.python)


def _foreign(options: argparse.Namespace) -> None:
    own = platforms.here()
    found = options.wheel or [
        path for path in pipeline.wheels(_chosen(["cpu"]), everywhere=True) if foreign.platform_of(path) not in (own, None)
    ]
    if not found:
        raise UsageError(
            "There is no wheel of another platform in dist/.", "Build one: `nox -s build_variant -- cpu --platform linux_aarch64`."
        )
    for wheel in found:
        foreign.test(wheel, pipeline.BUILD)


def _upstream_tests(options: argparse.Namespace) -> None:
    for wheel in _wheels(options):
        smoke.upstream_tests(wheel, pipeline.BUILD)


def _offload(options: argparse.Namespace) -> None:
    smoke.offload(options.wheel or pipeline.with_plugin(), pipeline.BUILD)


def _old_cpus(options: argparse.Namespace) -> None:
    for wheel in _wheels(options):
        smoke.old_cpus(wheel, pipeline.BUILD)


def _wheels(options: argparse.Namespace, names: Sequence[str] = ()) -> list[Path]:
    """The wheel that was named, or those of the variants in dist/."""
    return [options.wheel] if options.wheel else pipeline.wheels(_chosen(names), upstream=getattr(options, "upstream", None))


def _chosen(names: Sequence[str]) -> list[matrix.Variant]:
    """The variants of these names; where none is named, all that can be built."""
    known = matrix.load()
    return matrix.select(names or [name for name, variant in known.items() if not variant.table.plugin], known)


def _bench(options: argparse.Namespace) -> None:
    for wheel in _wheels(options, options.names):
        bench.bench(wheel, pipeline.BUILD, options.rounds, options.model, options.native)


def _index(options: argparse.Namespace) -> None:
    with disk.locked(pipeline.BUILD):
        chosen = index.Options(options.base_url, options.site_url, options.allow_no_fallback)
        files = index.build_index(options.dist, options.site, chosen)
    for file in files:
        console.print(f"{file.size / 1e6:8.1f} MB  {file.name}{'  (yanked)' if file.yanked else ''}", markup=False)
    console.print(f"{len(files)} wheel{'s' * (len(files) != 1)} listed in {options.site / 'simple'}", markup=False)
    if options.base_url and any(file.label for file in files):
        console.print(f"Upload to {options.base_url} all wheels in {options.dist} and {options.dist / 'backends'}.", markup=False)


def _explain(options: argparse.Namespace) -> int:
    facts = {name: getattr(options, name) for name in ("platform", "driver", "gfx", "rocm", "cpu", "python", "sm")}
    given = {name: value for name, value in facts.items() if value is not None}
    asked = machine.checked(msgspec.convert(given, machine.Machine)) if given else machine.detect()
    site = source.ROOT / "site"
    where = options.where or str(site if site.is_dir() else pipeline.DIST)
    answer = explain.explain(listing.read(where, options.project), asked, options.installer, options.version)
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
    else:
        explain.show(answer, options.all)
    return 0 if answer.choice.winner else 1


def _status(options: argparse.Namespace) -> None:
    for file in status.collect(options.dist):
        console.print(f"{status.KEPT / file.name}", markup=False)
    status.PAGE.write_text(status.markdown(), encoding="utf-8")
    console.print(str(status.PAGE), markup=False)


def _label(options: argparse.Namespace) -> None:
    (variant,) = matrix.select([options.variant], matrix.load())
    if options.label not in (None, variant.label):
        raise UsageError(
            f'{variant.name} has the label "{variant.label}" in {variant.file}, not "{options.label}".',
            "A label stands for what the matrix says: name that one, or change the file.",
        )
    console.print(str(label.label(options.file, variant, options.out or options.file.parent)), markup=False)


def _unlabel(options: argparse.Namespace) -> None:
    console.print(str(label.unlabel(options.file, options.out or options.file.parent, options.local)), markup=False)


def _serve(options: argparse.Namespace) -> None:
    serve.serve(options.site, options.port)


def _verify(options: argparse.Namespace) -> int:
    upstream = verify.upstream_here()
    findings = {path: verify.verify(path, upstream) for path in options.files}
    for path, rows in findings.items():
        for row in rows:
            console.print(str(row), markup=False)
        if not rows:
            console.print(f"{path.name}: nothing wrong", markup=False)
        if about := verify.describe_plugin(path):
            console.print(f"{path.name}: {about}", markup=False)
    console.print(verify.summary(findings))
    differing = list(verify.same_core(options.files))
    for row in differing:
        console.print(str(row), markup=False)
    return 7 if any(findings.values()) or differing else 0


if __name__ == "__main__":
    sys.exit(main())
