"""Steps that try wheels: tests, measurements, and the record of both."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from .. import platforms
from ..errors import UsageError
from ..index import index, serve
from ..release import pipeline, runs
from ..terminal import disk
from ..terminal.console import console
from ..trial import bare_machine, foreign, image, installed, old_systems, picture, prove, smoke
from ..trial.bench import cases, contenders, kept, labels, rounds
from ..upstream.source import ROOT
from ..wheel import archive
from . import group
from .group import Steps

_PICTURE = ROOT / "docs" / "picture.svg"


def configure(steps: Steps) -> None:
    _configure_tests(steps)
    _configure_measuring(steps)


def _configure_tests(steps: Steps) -> None:
    text = "Install each built wheel with uv and with pip into new environments and run the smoke inference there."
    parser = steps.add("test", text, _test)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=group.NAMES)
    parser.add_argument("--installer", choices=smoke.INSTALLERS, action="append", help="only this one (default: each)")
    parser.add_argument("--python", default=sys.executable, metavar="PYTHON", help="interpreter to install for, as in python3.8")
    group.add_wheel(parser)
    parser.add_argument("--upstream", metavar="VERSION", help="wheels of another release than the pinned one")
    parser.add_argument("--as-built", action="store_true", help="another machine built what dist/ has: it is not stale here")

    text = "Install from a published index with uv and with pip, and generate text there: what it offers to this machine."
    parser = steps.add("installed", text, _installed)
    parser.add_argument("url", metavar="URL", help="the site's address, as in --site-url of `index`")
    parser.add_argument("--version", metavar="VERSION", help="of llama-cpp-python (default: the newest)")
    parser.add_argument("--lists", metavar="FILE", help="a file that the index must list")
    parser.add_argument("--wait", type=group.natural, default=0, metavar="SECONDS", help="until it does (default: 0)")

    text = "Run a wheel of another platform: Linux on Arm under qemu-user, Windows under wine, musl."
    parser = steps.add("test-foreign", text, _foreign)
    parser.add_argument("--wheel", type=Path, action="append", help="this file (again for each), instead of what dist/ has")

    group.add_wheel(steps.add("upstream-tests", "Run upstream's own test suite against the wheel.", _upstream_tests))
    text = "Offload to ggml's RPC plugin over loopback: the CPU's own bits, and what happens when the device is gone."
    group.add_wheel(steps.add("offload", text, _offload), "the first wheel in dist/ that has a plugin")
    text = "Run the wheels of this platform on Debian 11, with its own Python and C library, unpacked from Debian's archive."
    parser = steps.add("old-systems", text, _old_systems)
    parser.add_argument("--wheel", type=Path, action="append", help="this file (again for each), instead of what dist/ has")
    text = "Build variants in a Debian 12 with Python alone, unpacked from Debian's archive (needs root)."
    parser = steps.add("bare-machine", text, _bare_machine)
    parser.add_argument("names", nargs="+", metavar="VARIANT", help="variants that take nothing of the system")
    parser.add_argument("--arch", action="append", default=[], metavar="ARCH", help="as in `build`, for variants with such a list")
    parser.add_argument("--ccache", type=Path, metavar="FOLDER", help="compile with the ccache in this folder")
    text = "Build the image of docker/ with a wheel of dist/, and serve a model with it (needs root, buildah and debootstrap)."
    parser = steps.add("image", text, _image)
    parser.add_argument("name", nargs="?", default="cpu", metavar="VARIANT", help="whose wheel (default: cpu)")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the container (again for each)"
    )
    parser.add_argument("--gpu", action="store_true", help="fail unless tokens come from the backend's own device")
    group.add_dist(parser)
    group.add_wheel(steps.add("old-cpus", "Run the smoke inference on emulated old processors (needs qemu-user).", _old_cpus))


def _configure_measuring(steps: Steps) -> None:
    text = "Compare the wheel's speed, import time and size with upstream's own build, in paired runs."
    parser = steps.add("bench", text, _bench)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=group.NAMES)
    group.add_wheel(parser)
    _add_cases(parser)

    text = "Pack wheels, tests and a benchmark for a machine with a GPU, without a network; read what it found."
    parser = steps.add("prove", text, _prove)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help="variants that compute on a GPU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="what is packed (default: build/prove.tar.xz)")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="of the other machine (default: 3.12)")
    parser.add_argument("--against", choices=["upstream"], action="append", default=[], help="take upstream's own build along")
    parser.add_argument(
        "--size", choices=cases.SIZES, action="append", default=[], help="models to measure with (default: 100M, 1B)"
    )
    text = "length of a prompt, in tokens (again for each; default: 32, 512, 2048)"
    parser.add_argument("--prompt", type=group.positive, action="append", default=[], metavar="TOKENS", help=text)
    parser.add_argument("--read", type=Path, metavar="FILE", help="results.json: show it, and record what passed")

    text = "Time labelling a big wheel against copying it and against `variantlib make-variant`, in paired runs."
    parser = steps.add("bench-labels", text, _bench_labels)
    parser.add_argument("--size", type=group.positive, default=500, metavar="MB", help="of the wheel (default: 500)")
    parser.add_argument("--rounds", type=group.positive, default=5, metavar="N", help="paired rounds (default: 5)")

    text = "Collect the records of the wheels in dist/ and write docs/runs.md: what was built, and what ran where."
    group.add_dist(steps.add("runs", text, _runs))

    text = (
        "Install from an index of the wheels in dist/, run the doctor, and write docs/picture.svg: what a terminal shows of both."
    )
    group.add_dist(steps.add("picture", text, _picture))


def _add_cases(parser: argparse.ArgumentParser) -> None:
    """What of the benchmark can be chosen."""
    again = "(again for each)"
    parser.add_argument("--rounds", type=group.positive, default=5, metavar="N", help="paired rounds (default: 5)")
    parser.add_argument("--full", action="store_true", help="every size, type, number of threads and condition (hours)")
    parser.add_argument("--model", type=Path, action="append", default=[], metavar="GGUF", help=f"this model {again}")
    for name, known, about in (
        ("size", cases.SIZES, "parameters of a model made here (default: 100M)"),
        ("type", cases.WEIGHTS, "its weights (default: Q4_K)"),
    ):
        parser.add_argument(f"--{name}", choices=known, action="append", default=[], help=f"{about} {again}")
    parser.add_argument("--prompt", type=group.positive, action="append", default=[], metavar="TOKENS", help=f"length {again}")
    text = f"threads; 0: as many as the package takes {again}"
    parser.add_argument("--threads", type=group.natural, action="append", default=[], metavar="N", help=text)
    text = f"what else the machine does {again}"
    parser.add_argument("--under", choices=cases.CONDITIONS, action="append", default=[], help=text)
    text = f"whom it is compared with {again} (default: baseline and upstream; with --full all)"
    parser.add_argument("--against", choices=contenders.OTHERS, action="append", default=[], help=text)
    parser.add_argument("--record", action="store_true", help="keep what was measured in docs/benchmarks")


def _test(options: argparse.Namespace) -> None:
    for wheel in group.wheels(options, options.names):
        for installer in options.installer or smoke.INSTALLERS:
            smoke.smoke(wheel, installer, pipeline.BUILD, options.python)


def _installed(options: argparse.Namespace) -> None:
    installed.check(options.url, pipeline.BUILD, options.version, options.lists, options.wait)


def _foreign(options: argparse.Namespace) -> None:
    own = platforms.here()
    elsewhere = [path for path in sorted(pipeline.DIST.glob("*.whl")) if foreign.platform_of(path) not in (own, None)]
    found = options.wheel or [path for path in elsewhere if foreign.runs_here(path)]
    for path in elsewhere if not options.wheel else []:
        if path not in found:
            console.print(f"{path.name} is passed over: nothing here can run its platform.")
    if not found:
        raise UsageError(
            "There is no wheel in dist/ of another platform that can be run here.",
            "Build one: `nox -s build_variant -- cpu --platform linux_aarch64`.",
        )
    for wheel in found:
        foreign.test(wheel, pipeline.BUILD)


def _upstream_tests(options: argparse.Namespace) -> None:
    for wheel in group.wheels(options):
        smoke.upstream_tests(wheel, pipeline.BUILD)


def _offload(options: argparse.Namespace) -> None:
    smoke.offload(options.wheel or pipeline.with_plugin(), pipeline.BUILD)


def _old_cpus(options: argparse.Namespace) -> None:
    for wheel in group.wheels(options):
        smoke.old_cpus(wheel, pipeline.BUILD)


def _old_systems(options: argparse.Namespace) -> None:
    own = platforms.here()
    found = options.wheel or [path for path in sorted(pipeline.DIST.glob("*.whl")) if archive.platforms_of(path) == {own}]
    if not found:
        raise UsageError("There is no wheel of this platform in dist/.", "Build one: `nox -s build_variant -- cpu`.")
    for wheel in found:
        old_systems.test(wheel, pipeline.BUILD)


def _bare_machine(options: argparse.Namespace) -> None:
    for wheel in bare_machine.build(group.chosen(options.names), options.arch, pipeline.BUILD, options.ccache):
        console.print(f"{wheel}")


def _bench(options: argparse.Namespace) -> None:
    lists = {
        "sizes": "size",
        "weights": "type",
        "threads": "threads",
        "conditions": "under",
        "prompts": "prompt",
        "models": "model",
    }
    wish = cases.Wish(**{name: tuple(getattr(options, option)) for name, option in lists.items()}, full=options.full)
    others = options.against or (contenders.OTHERS if options.full else ("baseline", "upstream"))
    for wheel in group.wheels(options, options.names):
        measured = rounds.bench(wheel, pipeline.BUILD, options.rounds, wish, others)
        if options.record:
            kept.keep(measured)


def _prove(options: argparse.Namespace) -> None:
    if options.read:
        prove.read(options.read, pipeline.DIST)
        return
    if not options.names:
        raise UsageError("No variant is named.", "As in `nox -s prove -- cuda13`; or --read FILE.")
    found = group.wheels(argparse.Namespace(wheel=None), options.names)
    target = options.out or pipeline.BUILD / "prove.tar.xz"
    standard = prove.Options()
    wish = prove.Options(options.python, options.against, options.size or standard.sizes, options.prompt or standard.prompts)
    prove.pack(found, target, pipeline.BUILD, wish)


def _bench_labels(options: argparse.Namespace) -> None:
    labels.bench(pipeline.BUILD, options.rounds, options.size)


def _runs(options: argparse.Namespace) -> None:
    for file in runs.collect(options.dist):
        console.print(f"{runs.KEPT / file.name}")
    runs.PAGE.write_text(runs.markdown(), encoding="utf-8")
    console.print(str(runs.PAGE))


@contextlib.contextmanager
def _own_index(dist: Path, label: str | None = None) -> Iterator[tuple[str, Path]]:
    """Serve an index of this platform's wheels in `dist`: its address, and a folder that goes with it.

    Raises:
        UsageError: there is none, or none of backend `label`.
    """
    here = [path for path in sorted(dist.glob("*.whl")) if platforms.here() in archive.platforms_of(path)]
    labels = {archive.split_label(path.name)[1] or "cpu" for path in here}
    if not here or (label and label not in labels):
        wanted = label or "cpu"
        raise UsageError(
            f"There is no {wanted} wheel of this platform in {dist}.", f"Build one: `nox -s build_variant -- {wanted}`."
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("dist", "user"):
            (folder / kind).mkdir()
        for path in here:
            shutil.copy(path, folder / "dist")
        index.publish(folder / "dist", folder / "site", folder / "published.jsonl")
        with serve.server(folder / "site", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/", folder / "user"
            finally:
                server.shutdown()


def _image(options: argparse.Namespace) -> None:
    variant = group.chosen([options.name])[0]
    label = variant.label or "cpu"
    if wrong := [word for word in options.env if "=" not in word]:
        raise UsageError(f"--env {wrong[0]} sets nothing.", "It takes NAME=VALUE.")
    env = dict(word.split("=", 1) for word in options.env)
    device = variant.table.smoke.device if options.gpu else ""
    with _own_index(options.dist, label) as (address, _):
        console.print(image.build_and_serve(address, label, pipeline.BUILD, env, device))


def _picture(options: argparse.Namespace) -> None:
    with _own_index(options.dist) as (address, folder):
        text = picture.record(address, folder)
    with disk.replacing(_PICTURE) as part:
        part.write_text(picture.svg(text), encoding="utf-8")
    console.print(str(_PICTURE))
