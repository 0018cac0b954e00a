"""Steps for maintainers: jobs for many machines, adoption by upstream, the made parts of the documents."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import msgspec

from .. import matrix
from ..release import adopt, changes, documents, jobs, pipeline
from ..terminal import disk
from ..terminal.console import console
from ..trial.bench import kept
from ..upstream import source
from . import group
from .group import Steps

_GPU = "test on our own machines (self-hosted runners) with this label, as in nvidia, amd, intel, too (again for each)"


def configure(steps: Steps) -> None:
    text = "Print the jobs that make all wheels, one command a line, in an order that works one after another."
    parser = steps.add("matrix", text, _matrix)
    parser.set_defaults(data=True)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=f"{group.NAMES[: group.NAMES.index(' (')]} (default: all)")
    parser.add_argument("--json", action="store_true", help="for a CI system: jobs with runner, command, part and needs")
    parser.add_argument("--changed-since", metavar="REF", help="only variants whose wheels the changes since this commit may alter")
    parser.add_argument("--platform", action="append", default=[], metavar="PLATFORM", help="this one alone (again for each)")
    number = parser.add_mutually_exclusive_group()
    group.add_build_number(number)
    number.add_argument(
        "--tag", help="of a release: v0.3.36, or v0.3.36-1 for build number 1; refused if another version is pinned"
    )
    parser.add_argument("--gpu", action="append", default=[], metavar="MAKER", help=_GPU)

    text = "Put these files into a tree of llama-cpp-python's own, which then builds the same wheels."
    parser = steps.add("adopt", text, lambda given: console.print("\n".join(adopt.adopt(given.tree))))
    parser.add_argument("tree", type=Path, metavar="TREE", help="a clone of its repository, or an unpacked sdist")

    text = "Print as Markdown what changed in llama.cpp between two releases that concerns the wheels."
    parser = steps.add("changes", text, _changes)
    parser.set_defaults(data=True)
    parser.add_argument("old", nargs="?", metavar="OLD", help="a release of llama-cpp-python (default: the pinned one)")
    parser.add_argument("new", nargs="?", metavar="NEW", help="another one (default: the newest on the package index)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there (nox prints both streams as one)")
    parser.add_argument("--newest", action="store_true", help="print the newest release on the package index, and nothing else")

    steps.add("docs", "Write the parts of the documents that are made from the code.", lambda _: _docs(steps))


def _matrix(options: argparse.Namespace) -> None:
    variants = matrix.select(options.names, matrix.load())
    if not options.names:
        variants = [variant for variant in variants if not (variant.backend and variant.backend.on_request)]
    if options.changed_since:
        variants = jobs.touched(variants, options.changed_since)
    number = jobs.build_number(options.tag) if options.tag else options.build_number
    made = jobs.jobs(variants, jobs.Wanted(tuple(options.platform), number, tuple(options.gpu)))
    if options.json:
        sys.stdout.write(msgspec.json.encode(made).decode() + "\n")
    else:
        for job in [*made.core, *made.plugin, *made.assemble]:
            sys.stdout.write(f"{job.command}\n")


def _changes(options: argparse.Namespace) -> None:
    pin = source.read_pin()
    if options.newest:
        sys.stdout.write(f"{source.newest(pin.name)}\n")
        return
    with disk.locked(pipeline.BUILD), contextlib.redirect_stdout(sys.stderr):
        text = changes.report(options.old or pin.version, options.new or source.newest(pin.name))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


def _docs(steps: Steps) -> None:
    for file in documents.write(steps.parser, {"benchmarks": kept.tables()}):
        console.print(str(file))
