"""Steps for the index: make it, serve it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..index import index, serve
from ..release import pipeline
from ..terminal import disk
from ..terminal.console import console
from ..upstream import source
from . import group
from .group import Steps


def configure(steps: Steps) -> None:
    site = source.ROOT / "site"
    parser = steps.add("index", "Make static index pages in site/ from the wheels in dist/, for any web server.", _index)
    group.add_dist(parser)
    parser.add_argument("--site", type=Path, default=site, metavar="FOLDER", help="where the pages go (default: site)")
    parser.add_argument("--base-url", metavar="URL", help="the wheels lie there (release assets, say) and are linked, not copied")
    parser.add_argument(
        "--site-url",
        metavar="URL",
        default="http://127.0.0.1:8000/",
        help="where the site will be, for the commands on its front page",
    )
    parser.add_argument("--allow-no-fallback", action="store_true", help="list a version that has no plain wheel")
    parser.add_argument("--wait", action="store_true", help="wait for another `index` in this checkout instead of refusing")

    parser = steps.add("serve", "Serve site/ on 127.0.0.1, and print the commands that install from it.", _serve)
    parser.add_argument("--site", type=Path, default=site, metavar="FOLDER", help="the folder that `index` made")
    parser.add_argument("--port", type=group.natural, default=8000, metavar="N", help="0 for any free one (default: 8000)")


def _index(options: argparse.Namespace) -> None:
    with disk.locked(pipeline.BUILD / "index", options.wait, "`index`") as lock:  # a build renames whole wheels into dist/
        chosen = index.Options(options.base_url, options.site_url, options.allow_no_fallback)
        files = index.build_index(lock, options.dist, options.site, chosen)
    for file in files:
        console.print(f"{file.size / 1e6:8.1f} MB  {file.name}{'  (yanked)' if file.yanked else ''}")
    console.print(f"{len(files)} wheel{'s' * (len(files) != 1)} listed in {options.site / 'simple'}")
    if options.base_url and any(file.label for file in files):
        console.print(f"Upload to {options.base_url} all wheels in {options.dist} and {options.dist / 'backends'}.")


def _serve(options: argparse.Namespace) -> None:
    serve.serve(options.site, options.port)
