"""Steps that compile: upstream's source, whole wheels, and their parts."""

from __future__ import annotations

import argparse

from .. import matrix, platforms
from ..compilers import toolchain
from ..release import parts, pipeline
from ..terminal import disk
from ..terminal.console import console
from ..upstream import source
from . import group
from .group import Steps


def configure(steps: Steps) -> None:
    _configure_whole(steps)
    _configure_parts(steps)


def _configure_whole(steps: Steps) -> None:
    parser = steps.add("vendor", "Fetch, check and unpack the pinned upstream; with VERSION, move the pin there first.", _vendor)
    parser.add_argument("version", nargs="?", metavar="VERSION", help="a release of llama-cpp-python, as in 0.3.36")
    parser.add_argument("--wait", action="store_true", help="wait for another build in this checkout instead of refusing")

    parser = steps.add("build", "Build variants: a verified wheel of each in dist/.", _build)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=group.NAMES)
    group.add_compiling(parser)
    group.add_toolkit(parser)
    group.add_build_number(parser)
    parser.add_argument("--clean", action="store_true", help="remove what was compiled before")
    parser.add_argument("--keep-going", action="store_true", help="build the other variants after one has failed")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, step by step, and do nothing")

    text = "Show what a variant needs to be compiled, what of it is there, and what brings the rest."
    parser = steps.add("toolchain", text, _toolchain)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=group.NAMES)
    parser.add_argument("--toolchain", choices=toolchain.KINDS, help="as in `build`")
    group.add_toolkit(parser)


def _configure_parts(steps: Steps) -> None:
    parser = steps.add("core", "Compile a core alone, as a part for `assemble` on another machine.", _core)
    group.add_compiling(parser)
    group.add_parts(parser)

    text = "Compile one variant's plugin against the core among the parts, as a part for `assemble`."
    parser = steps.add("plugin", text, _plugin)
    parser.add_argument("name", metavar="VARIANT", help="a variant of the matrix that has a plugin")
    group.add_compiling(parser)
    group.add_toolkit(parser)
    group.add_parts(parser)

    text = "Make verified wheels in dist/ of the parts: assemble, repair, label, verify."
    parser = steps.add("assemble", text, _assemble)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=f"{group.NAMES}, on all their platforms")
    parser.add_argument("--platform", metavar="PLATFORM", help=f"this one alone: {', '.join(platforms.PLATFORMS)}")
    parser.add_argument("--upstream", metavar="VERSION", help="another release than the pinned one")
    group.add_build_number(parser)
    parser.add_argument("--wait", action="store_true", help="wait for another build in this checkout instead of refusing")
    group.add_parts(parser)


def _vendor(options: argparse.Namespace) -> None:
    with disk.locked(pipeline.BUILD, options.wait) as lock:
        upstream = source.vendor(lock, options.version)
    console.print(f"{upstream.tree}: llama-cpp-python {upstream.version}, llama.cpp {upstream.commit}")


def _build(options: argparse.Namespace) -> None:
    pipeline.build_all(group.chosen(options.names), group.build_options(options))


def _toolchain(options: argparse.Namespace) -> int:
    asked = group.build_options(options)
    complete = [pipeline.show_toolchain(variant, asked) for variant in group.chosen(options.names)]
    return 0 if all(complete) else 5


def _core(options: argparse.Namespace) -> None:
    parts.core(group.build_options(options), options.parts)


def _plugin(options: argparse.Namespace) -> None:
    (variant,) = matrix.select([options.name], matrix.load())
    parts.plugin_of(variant, group.build_options(options), options.parts)


def _assemble(options: argparse.Namespace) -> None:
    parts.assemble_all(group.chosen(options.names), group.build_options(options), options.parts)
