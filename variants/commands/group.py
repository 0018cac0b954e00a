"""What the groups of the command line share: how a step is declared, and options that several steps have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import matrix, platforms
from ..compilers import toolchain
from ..release import pipeline
from ..upstream import source

#: The function of a step: returns an exit code, or None for 0.
Do = Callable[[argparse.Namespace], int | None]
_NAMES = f"variants to take: {', '.join(file.stem for file in sorted(matrix.FOLDER.glob('*.toml')))}"
NAMES = f"{_NAMES} (default: what can be built)"


class Steps:
    """The steps of the command line, to which each group adds its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self._common = argparse.ArgumentParser(add_help=False)
        self._common.add_argument("--traceback", action="store_true", help="show where in this library an error was raised")
        self.by_name: dict[str, argparse.ArgumentParser] = {}
        self._all = parser.add_subparsers(metavar="STEP", required=True)

    def add(self, name: str, text: str, do: Do) -> argparse.ArgumentParser:
        """Declare a step: its name, one line about it, and what it does."""
        parser = self._all.add_parser(name, help=text, description=text, parents=[self._common])
        parser.set_defaults(do=do)
        self.by_name[name] = parser
        return parser


def add_toolkit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--toolkit", metavar="WHERE",
        help="CUDA, Vulkan: `index` (made once from pinned packages), `machine`; and ROCm: a toolkit's folder (see docs/gpu.md)",
    )  # fmt: skip
    parser.add_argument(
        "--arch", action="append", default=[], dest="architectures", metavar="ARCH",
        help="CUDA, ROCm: machine code for this GPU alone, as in 86 or gfx1100, or `native` (again for each); the wheel says so",
    )  # fmt: skip


def add_compiling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--platform", metavar="PLATFORM",
        help=f"for another platform, the CPU core alone: {', '.join(platforms.PLATFORMS)} (default: this machine's)",
    )  # fmt: skip
    parser.add_argument("--upstream", metavar="VERSION", help="another release of llama-cpp-python than the pinned one")
    parser.add_argument("--toolchain", choices=toolchain.KINDS, help="zig: needs nothing on the machine (default without plugin)")
    parser.add_argument("--jobs", type=positive, default=0, metavar="N", help="parallel compile jobs (default: one a core)")
    parser.add_argument("--wait", action="store_true", help="wait for another build in this checkout instead of refusing")


def add_build_number(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--build-number", type=natural, metavar="N", help="a rebuild of the same version: installers prefer it")


def add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", type=Path, default=source.ROOT / "parts", metavar="FOLDER", help="where the parts lie (default: parts)"
    )


def add_wheel(parser: argparse.ArgumentParser, default: str = "what dist/ has") -> None:
    parser.add_argument("--wheel", type=Path, help=f"this file, instead of {default}")


def add_dist(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dist", type=Path, default=pipeline.DIST, metavar="FOLDER", help="where the wheels are (default: dist)")


def pass_over(parser: argparse.ArgumentParser, others: argparse.ArgumentParser) -> None:
    """Let `parser` take the options of another step too, and make nothing of them.

    So that one line of nox serves two sessions: ``nox -s build_variant test_variant -- cpu --jobs 1 --installer pip``.
    """
    known = {word for action in parser._actions for word in action.option_strings}
    for action in others._actions:
        if action.option_strings and known.isdisjoint(action.option_strings):
            nargs = 0 if action.nargs == 0 else None
            parser.add_argument(*action.option_strings, action=_Nothing, nargs=nargs, help=argparse.SUPPRESS)


class _Nothing(argparse.Action):
    """An option of another step."""

    def __call__(self, *_: object) -> None:
        pass


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be 0 or more")
    return int(text)


def chosen(names: Sequence[str]) -> list[matrix.Variant]:
    """The variants of these names; where none is named, those without a plugin."""
    known = matrix.load()
    return matrix.select(names or [name for name, variant in known.items() if not variant.table.plugin], known)


def wheels(options: argparse.Namespace, names: Sequence[str] = ()) -> list[Path]:
    """The wheel that was named, or those of the variants in dist/."""
    if options.wheel:
        return [options.wheel]
    upstream, as_built = getattr(options, "upstream", None), getattr(options, "as_built", False)
    return pipeline.wheels(chosen(names), upstream=upstream, as_built=as_built)


def build_options(options: argparse.Namespace) -> pipeline.Options:
    """What of the command line the build wants to know."""
    given = {name: getattr(options, name) for name in pipeline.Options.__struct_fields__ if hasattr(options, name)}
    return pipeline.Options(**given | {"architectures": tuple(given.get("architectures", ()))})
