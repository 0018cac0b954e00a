"""Steps on one wheel: repair, label, verify."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .. import matrix
from ..errors import UsageError
from ..release import pipeline
from ..steps import label, repair, verify
from ..terminal.console import console
from ..wheel import archive
from .group import Steps


def configure(steps: Steps) -> None:
    parser = steps.add("repair", "Repair a raw wheel with its platform's own tool: auditwheel, delocate or delvewheel.", _repair)
    parser.add_argument("file", type=Path, metavar="FILE", help="a raw wheel, as `assemble` leaves it below build/")
    parser.add_argument("--exclude", action="append", default=[], metavar="LIBRARY", help="never graft this one (again for each)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the repaired wheel goes (default: repaired/ beside FILE)")

    parser = steps.add("label", "Label a repaired wheel as a variant: file name, variant.json, its own requirements.", _label)
    parser.add_argument("file", type=Path, metavar="FILE", help="a plain wheel")
    parser.add_argument("variant", metavar="VARIANT", help="a variant of the matrix that has a label")
    parser.add_argument("--label", metavar="LABEL", help="refuse, if the matrix has another label for this variant")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the labelled wheel goes (default: beside FILE)")

    parser = steps.add("unlabel", "Take a wheel's label off again.", _unlabel)
    parser.add_argument("file", type=Path, metavar="FILE", help="a labelled wheel")
    parser.add_argument(
        "--local",
        action="store_true",
        help="give it the label as a local version instead (0.3.36+LABEL), for an index of one backend",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the plain wheel goes (default: beside FILE)")

    parser = steps.add("verify", "Verify finished wheels: one line for each thing that is wrong.", _verify)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="wheels")


def _repair(options: argparse.Namespace) -> None:
    target = options.out or options.file.parent / "repaired"
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    wheel = repair.repair(options.file, target, epoch, pipeline.BUILD / "logs" / "repair.log", options.exclude)
    console.print(str(wheel))


def _label(options: argparse.Namespace) -> None:
    (variant,) = matrix.select([options.variant], matrix.load())
    if options.label not in (None, variant.label):
        raise UsageError(
            f'{variant.name} has the label "{variant.label}" in {variant.file}, not "{options.label}".',
            "A label stands for what the matrix says: name that one, or change the file.",
        )
    console.print(str(label.label(options.file, variant, options.out or options.file.parent)))


def _unlabel(options: argparse.Namespace) -> None:
    console.print(str(label.unlabel(options.file, options.out or options.file.parent, options.local)))


def _verify(options: argparse.Namespace) -> int:
    for path in options.files:  # a file that is none is told before the rest is read
        archive.open_wheel(path).close()
    upstream = verify.upstream_here()
    findings = {path: verify.verify(path, upstream) for path in options.files}
    for path, rows in findings.items():
        for row in rows:
            console.print(str(row))
        if not rows:
            console.print(f"{path.name}: nothing wrong")
        if about := verify.describe_plugin(path):
            console.print(f"{path.name}: {about}")
    console.print(verify.summary(findings))
    differing = list(verify.same_core(options.files))
    for row in differing:
        console.print(str(row))
    return 7 if any(findings.values()) or differing else 0
