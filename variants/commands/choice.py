"""Which wheel an installer takes, and why."""

from __future__ import annotations

import argparse
import sys

import msgspec

from .. import platforms
from ..choice import explain, listing, machine
from ..release import pipeline
from ..upstream import source
from .group import Steps


def configure(steps: Steps) -> None:
    text = "Say which wheel an installer takes on this machine, or on one that is described, and why not the others."
    parser = steps.add("explain", text, _explain)
    parser.add_argument(
        "where", nargs="?", metavar="INDEX", help="an address, a site or a folder of wheels (default: site/ or dist/)"
    )
    parser.add_argument(
        "--installer", choices=tuple(explain.INSTALLERS), default="standard", help="default: one with every provider"
    )
    parser.add_argument("--version", metavar="VERSION", help="of the package (default: the newest that fits)")
    parser.add_argument("--project", default=listing.PROJECT, metavar="NAME", help=f"another package (default: {listing.PROJECT})")
    parser.add_argument("--all", action="store_true", help="show wheels for other platforms too")
    parser.add_argument("--json", action="store_true", help="for programs: everything, as JSON")
    other = parser.add_argument_group("another machine than this one (any of these; what is not named is not there)")
    other.add_argument("--platform", metavar="PLATFORM", help=f"{', '.join(platforms.PLATFORMS)}, or as in manylinux_2_28_x86_64")
    for name, option in machine.OPTIONS.items():
        action = "append" if option.repeated else "store"
        other.add_argument(f"--{name}", action=action, metavar=option.metavar, help=option.help)
    other.add_argument("--python", metavar="X.Y", help="default: 3.12")


def _explain(options: argparse.Namespace) -> int:
    facts = {name: getattr(options, name) for name in ("platform", *machine.OPTIONS, "python")}
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
