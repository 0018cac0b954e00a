"""GPU day, in two halves: pack what a machine with a GPU needs to try wheels (here, where one can compile and fetch), and read
what it found. Between them runs tests/prove/run.py, on a machine that has Python and nothing else, without a network."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement

from .. import matrix, platforms
from ..compilers import toolchain
from ..errors import UsageError, WheelError
from ..terminal import disk, process
from ..terminal.console import console
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import smoke, standins
from .bench import contenders, report
from .bench.cases import SIZES

#: What a packed trial should not exceed, in bytes: so much can be carried to a machine that is lent for minutes.
LIMIT = 60_000_000
_TOOLS = ("gguf>=0.17", "numpy>=1.26", "pytest>=8")
_TESTS = ROOT / "tests"
#: The folders of tests/ that the other machine needs.
_PARTS = ("inference", "bench", "plugins")


@dataclass(frozen=True)
class Options:
    """What is packed.

    python: the version of the other machine's Python. against: ``upstream`` to take along upstream's own build of each wheel's
    backend, for the same GPUs; it is compiled here. sizes: of the benchmark's models (:data:`.cases.SIZES`), made there; prompts:
    their lengths in tokens. Both are few by default, since a machine is lent for minutes.
    """

    python: str = "3.12"
    against: Sequence[str] = ()
    sizes: Sequence[str] = (SIZES[1], SIZES[2])
    prompts: Sequence[int] = (32, 512, 2048)


def pack(wheels: Sequence[Path], target: Path, build_dir: Path, options: Options) -> Path:
    """Write `target`, a .tar.xz that has everything but the GPU's own libraries: the wheels, what they require, the tests, a driver
    that fails on command, and the runner.

    The same wheels and packages give the same bytes.

    Raises:
        UsageError: a wheel has no label, or it is all too large.
        CommandError: a package cannot be fetched, or something does not compile.
    """
    log = build_dir / "logs" / "prove.log"
    disk.remove(log)
    with tempfile.TemporaryDirectory(dir=build_dir) as name:
        folder = Path(name) / "prove"
        manifest: dict[str, Any] = {"sizes": list(options.sizes), "prompts": list(options.prompts), "wheels": {}}
        needs: set[str] = set(_TOOLS)
        for wheel in wheels:
            needs |= _add(wheel, folder, manifest, build_dir, options.against, log)
        _fetch(sorted(needs), folder / "needs", options.python, log)
        for part in _PARTS:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_TESTS / part, folder / "tests" / part, ignore=ignored)
        shutil.copyfile(_TESTS / "prove" / "run.py", folder / "run.py")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        with disk.replacing(target) as part_file:
            archived(folder, part_file)
    size = target.stat().st_size
    if size > LIMIT:
        console.print(
            f"{target} has {size / 1e6:.0f} MB, more than {LIMIT / 1e6:.0f}: a machine that takes no more would refuse it. Wheels"
            " for one architecture are small: `nox -s build_variant -- cuda13 --arch 90`.",
            style="yellow",
        )
    console.print(f"{target}: {size / 1e6:.1f} MB. On the machine with the GPU: tar -xf {target.name} && python3 prove/run.py")
    return target


def _add(wheel: Path, folder: Path, manifest: dict[str, Any], build_dir: Path, against: Sequence[str], log: Path) -> set[str]:
    """Add a wheel under its plain name, with upstream's build beside it; what it requires but for the GPU's libraries."""
    variant = matrix.labelled(archive.split_label(wheel.name)[1])
    if variant is None or variant.backend is None or variant.label is None:
        raise UsageError(f"{wheel.name} has no plugin.", "Name a variant that computes on a GPU: `nox -s prove -- cuda13`.")
    here = platforms.here()
    name = variant.label
    file = folder / "wheels" / name / archive.plain_path(wheel).name
    file.parent.mkdir(parents=True)
    shutil.copyfile(wheel, file)
    tools = toolchain.find("zig", build_dir / "toolchains", here)
    drivers = standins.failing_driver(variant, tools, build_dir / "prove", log)
    environment = {"LLAMA_CPP_TEST_DEVICE": variant.table.smoke.device}
    if variant.table.smoke.flash_attention:
        environment["LLAMA_CPP_TEST_FLASH"] = "1"
    for driver in drivers:
        kept = folder / "drivers" / driver.name
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(driver, kept)
        environment["LLAMA_CPP_TEST_FAILING_DRIVER"] = f"{{drivers}}/{driver.name}"
        environment["LLAMA_CPP_TEST_DRIVER_SOURCE"] = "{here}/tests/plugins/cuda_driver.c"
    manifest["wheels"][name] = {
        "file": file.relative_to(folder).as_posix(),
        "name": wheel.name,
        "sha256": archive.sha256(wheel),
        "device_tests": smoke.DEVICE_TESTS,
        "environment": environment,
    }
    if "upstream" in against:
        built, _ = contenders.upstream_wheel(build_dir / "bench", log, variant, "system")
        kept = folder / "wheels" / f"upstream-{name}" / built.name
        kept.parent.mkdir()
        shutil.copyfile(built, kept)
        own = {"file": kept.relative_to(folder).as_posix(), "name": built.name, "sha256": archive.sha256(built)}
        manifest["wheels"][f"upstream's {name}"] = own | {"device_tests": [], "environment": {}}
    with archive.open_wheel(wheel) as opened:
        metadata = archive.headers(opened.read(f"{archive.dist_info(opened)}/METADATA"))
    theirs = {Requirement(text).name for text in variant.table.runtime.requires}
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return {str(one) for one in wanted if one.name not in theirs and not (one.marker and "extra" in str(one.marker))}


def _fetch(requirements: Sequence[str], folder: Path, python: str, log: Path) -> None:
    """Download wheels of these requirements, and of theirs, for a Linux of this processor with that Python."""
    machine = platforms.here().machine
    tags = [f"manylinux_2_{minor}_{machine}" for minor in (28, 27, 26, 24, 17, 12, 5)] + [f"manylinux2014_{machine}"]
    command: list[str | Path] = [
        sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, "--only-binary=:all:", "--python-version", python,
        "--implementation", "cp", *(word for tag in tags for word in ("--platform", tag)), *requirements,
    ]  # fmt: skip
    remedy = "Is the package index reachable?"
    process.command(command, log=log, env=process.environment(), remedy=remedy)


def archived(folder: Path, target: Path) -> None:
    """Pack a folder in a fixed order, without dates and owners."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    with tarfile.open(target, "w:xz", preset=3) as opened:  # what is large in it is compressed already
        for path in sorted(folder.rglob("*")):
            opened.add(path, path.relative_to(folder.parent).as_posix(), recursive=False, filter=plain)


class Counts(msgspec.Struct):
    """What pytest came to on the other machine."""

    code: int
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    error: int = 0
    failures: list[str] = []


class Run(msgspec.Struct):
    """A wheel on the other machine: which one, its report, its tests by their files."""

    sha256: str
    name: str
    tests: dict[str, Counts]
    report: dict[str, Any] = {}


class Results(msgspec.Struct):
    """results.json of tests/prove/run.py."""

    machine: dict[str, Any]
    wheels: dict[str, Run] = {}
    results: dict[str, dict[str, list[float | None]]] = {}
    rounds: int = 0
    gpu: str = ""


def read(file: Path, dist: Path) -> None:
    """Show what another machine found, and add the tests that passed there to the records of the wheels in `dist`.

    Raises:
        WheelError: that is no file of results.
    """
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError) as error:
        raise WheelError(f"{file} has no results of a trial: {error}.", "It is results.json in the runner's folder.") from error
    console.print(f"{found.machine.get('cpu')}; {found.gpu or 'no GPU of NVIDIA was listed'}")
    by_hash = {archive.sha256(path): path for path in sorted(dist.glob("*.whl"))}
    for name, run in found.wheels.items():
        for files, counts in run.tests.items():
            console.print(
                f"{name}, {files}: {counts.passed} passed, {counts.failed + counts.error} failed, {counts.skipped} skipped"
            )
            for failure in counts.failures:
                console.print(f"    {failure}")
            if counts.code or not counts.passed:
                continue
            wheel = by_hash.get(run.sha256)
            if wheel is None:
                console.print(f"    not recorded: {run.name} of that hash is not in {dist}", style="yellow")
                continue
            facts = smoke.facts_of(run.report, str(found.machine["system"]))
            records.add(wheel, what=files, installer="pip", **facts, passed=counts.passed, skipped=counts.skipped)
    if any(row for rows in found.results.values() for row in rows.values()):
        first = next(iter(found.results))
        series = {"wheel": found.results[first]} | {name: row for name, row in found.results.items() if name != first}
        report.show(report.Found("", found.machine, {}, series, found.rounds))
