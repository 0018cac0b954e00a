"""Steps for the index: make it, serve it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..index import compare, index, serve
from ..terminal.console import console
from ..upstream import source
from ..wheel import records
from . import group
from .group import Steps

_LEDGER = "what was ever published, a line a file; new wheels are added (default: published.jsonl)"


def configure(steps: Steps) -> None:
    site = source.ROOT / "site"
    parser = steps.add(
        "index", "Publish the wheels in dist/: enter them in the ledger, and make the site, static pages, of it.", _index
    )
    group.add_dist(parser)
    parser.add_argument("--ledger", type=Path, default=index.LEDGER, metavar="FILE", help=_LEDGER)
    parser.add_argument("--site", type=Path, default=site, metavar="FOLDER", help="where the pages go (default: site)")
    parser.add_argument(
        "--base-url", metavar="URL", help="the new wheels lie there (release assets, say) and are linked, not copied into the site"
    )
    parser.add_argument(
        "--site-url",
        metavar="URL",
        default="http://127.0.0.1:8000/",
        help="where the site will be, for the commands on its front page",
    )
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="records of tests on other machines, for wheels in dist/")
    parser.add_argument("--tested", action="store_true", help="refuse a new wheel without a record of a test that passed")
    parser.add_argument("--uploads", type=Path, metavar="FOLDER", help="put what is to be uploaded to --base-url there")
    parser.add_argument("--allow-no-fallback", action="store_true", help="list a version that has no plain wheel")

    text = "Compare the wheels in dist/ with the last published ones: a tag for newer systems, or a tenth more bytes, is an error."
    parser = steps.add("compare", text, _compare)
    group.add_dist(parser)
    parser.add_argument("--ledger", type=Path, default=index.LEDGER, metavar="FILE", help=_LEDGER)
    parser.add_argument("--allow-newer-tag", action="store_true", help="older systems are left behind on purpose")
    parser.add_argument("--allow-growth", action="store_true", help="more bytes are on purpose")

    parser = steps.add("yank", "Say in the ledger that a published file should not be taken any more, and why.", _yank)
    parser.add_argument("name", metavar="FILE", help="the name of the file, as in the ledger")
    parser.add_argument("reason", nargs="?", help="what is wrong with it; without it, the file is no longer yanked")
    parser.add_argument("--ledger", type=Path, default=index.LEDGER, metavar="FILE", help=_LEDGER)

    parser = steps.add("serve", "Serve site/ on 127.0.0.1, and print the commands that install from it.", _serve)
    parser.add_argument("--site", type=Path, default=site, metavar="FOLDER", help="the folder that `index` made")
    parser.add_argument("--port", type=group.natural, default=8000, metavar="N", help="0 for any free one (default: 8000)")


def _index(options: argparse.Namespace) -> None:
    if options.runs:
        records.gather(options.runs, options.dist)
    if options.tested:
        compare.require_tested(options.dist, options.ledger)
    chosen = index.Options(options.base_url, options.site_url, options.allow_no_fallback)
    done = index.publish(options.dist, options.site, options.ledger, chosen)
    for line in done.listed:
        console.print(f"{line.size / 1e6:8.1f} MB  {line.name}{'  (yanked)' if line.yanked else ''}")
    many = "s" * (len(done.listed) != 1)
    console.print(f"{len(done.listed)} wheel{many} listed in {options.site / 'simple'}, by {options.ledger}")
    if options.uploads:
        compare.collect(done.new, options.uploads)
    if options.base_url and done.new:
        console.print(f"Upload to {options.base_url}:")
        for path in done.new:
            console.print(f"  {path}")


def _compare(options: argparse.Namespace) -> None:
    rows = compare.compare(options.dist, options.ledger, options.allow_newer_tag, options.allow_growth)
    for row in rows:
        console.print(row)


def _yank(options: argparse.Namespace) -> None:
    index.yank(options.ledger, options.name, options.reason)
    console.print(f"{options.name} is {'yanked' if options.reason else 'no longer yanked'}; `nox -s index` tells the site.")


def _serve(options: argparse.Namespace) -> None:
    serve.serve(options.site, options.port)
