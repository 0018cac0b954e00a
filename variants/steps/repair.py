"""Repair: each platform's own tool gives the wheel its honest tag, grafts what is missing, and leaves what comes from elsewhere.

Linux: auditwheel. macOS: delocate. Windows: delvewheel.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from .. import platforms
from ..errors import CommandError, ToolchainError, WheelError
from ..platforms import PLATFORMS, Platform
from ..terminal import disk, process
from ..terminal.console import console
from ..wheel import archive, binary
from . import assemble


class Job(msgspec.Struct, frozen=True):
    """One repair: the `raw` wheel, the folder for the new one, the `platform`, the wheel platform that is `promised`
    (empty: nothing), the `epoch` (seconds since 1970), the `log`, and the names of libraries that are never grafted (`foreign`: the
    driver's, and those of other packages)."""

    raw: Path
    target_dir: Path
    platform: Platform
    promised: str
    epoch: int
    log: Path
    foreign: Sequence[str]


def repair(
    raw: Path, target_dir: Path, epoch: int, log: Path, foreign: Sequence[str] = (), promised: str | None = None
) -> Path:  # fmt: skip
    """Repair the wheel `raw` into `target_dir`, by the tool of its platform, and return the new file, named by the tag it got.

    `promised`: the wheel platform that its variant promises (empty: none; None: that of its core's toolchain).

    Raises:
        CommandError: the wheel does not keep its toolchain's promise, or needs a library that is nowhere.
        ToolchainError: the platform's tool works on that platform alone; says what to run there.
        WheelError: it has no core of ours, or its name says another platform than its core.
    """
    core = assemble.read_core(raw)
    platform = PLATFORMS[core.platform]
    named = archive.platforms_of(raw)  # of a raw musl wheel, plain Linux
    if named and (platform.system, platform.processor) not in {(one.system, one.processor) for one in named}:
        raise WheelError(
            f"{raw.name} has a core of {platform.name}: it is not what its name says.", "Rename nothing; build the wheel again."
        )
    disk.remove(target_dir)
    target_dir.mkdir(parents=True)
    try:
        repaired = _TOOLS[platform.tool](
            Job(raw, target_dir, platform, core.tag if promised is None else promised, epoch, log, foreign)
        )
    except BaseException:
        disk.remove(target_dir)  # auditwheel leaves a copy of the raw wheel there
        raise
    return _canonical(repaired, epoch)


def _auditwheel(job: Job) -> Path:
    """The promised tag where the toolchain makes one (zig: its target's glibc), else the lowest that auditwheel finds true.

    Where the libraries need symbols newer than all that it knows, as on a distribution of the last months, it repairs nothing. A
    wheel that needs nothing but itself and the system stays ``linux_x86_64`` then.

    For another processor or libc than this machine's auditwheel takes no tag by its name, so the lowest must be the promised one.
    """
    raw = _with_musl(job) if job.platform.musl else job.raw
    asked = job.promised if job.platform == platforms.here() else ""
    try:
        repaired = _run(job, "auditwheel", "repair", "--plat", asked or "auto", "--only-plat", "-z", "1",
                        "--wheel-dir", job.target_dir, *(word for name in job.foreign for word in ("--exclude", name)), raw,
                        remedy=f"See what the libraries need: `python -m auditwheel show {job.raw}`.")  # fmt: skip
    except CommandError as error:
        if wanted := too_new(raw, asked):
            rows = "".join(f"\n  {row}" for row in wanted)
            raise WheelError(f"{job.raw.name} is not for {asked}:{rows}", _OLDER) from error
        if job.promised or not _too_new(raw) or _wanting(raw, job.foreign):
            raise
        console.print("      this system is newer than every manylinux tag that auditwheel knows: for systems as new as this one")
        return _as_it_is(job)
    if job.promised and not asked:
        found = sorted(tag.platform for tag in archive.parse_name(repaired)[3])
        if job.promised not in found and _newer(found[-1], job.promised):
            rows = "".join(f"\n  {row}" for row in too_new(raw, job.promised))
            raise WheelError(
                f"{job.raw.name} was compiled for {job.promised}, but auditwheel finds {', '.join(found)}.{rows}",
                f"See which symbols: `python -m auditwheel show {job.raw}`.",
            )
        repaired = repaired.rename(repaired.with_name(f"{repaired.stem.rpartition('-')[0]}-{job.promised}.whl"))
    return repaired


def _wanting(raw: Path, foreign: Sequence[str]) -> dict[str, list[str]]:
    """What its libraries need and nothing has.

    Raises:
        WheelError: one of them is damaged.
    """
    try:
        with archive.open_wheel(raw) as opened:
            return binary.wanting(opened.files(), foreign)
    except ValueError as error:
        raise archive.damaged(raw, error) from error


_OLDER = (
    "Compile and link it for that glibc, as zig does. What gcc's static C++ library takes of a newer one belongs into\n"
    "llama_cpp/boundary/glibc.c. Or let the variant promise a newer one: `glibc` in its file."
)


def too_new(wheel: Path, tag: str) -> list[str]:
    """Which libraries of a wheel want a newer glibc than the platform `tag` promises, and for which functions."""
    glibc = platforms.libc(tag) if tag.startswith("manylinux_") else None
    rows: list[str] = []
    if glibc is None:
        return rows
    with archive.open_wheel(wheel) as opened:
        for name, source in opened.files().items():
            wanted: dict[str, list[str]] = {}
            if binary.is_library(archive.head(source)):
                with archive.on_disk(source) as path, contextlib.suppress(ValueError):  # a damaged one has a finding of its own
                    wanted = binary.newer(path, glibc)
            for version, functions in wanted.items():
                rows.append(f"{name} wants {', '.join(functions[:8])}{', …' if functions[8:] else ''} of {version}")
    return rows


def _too_new(raw: Path) -> bool:
    """Does auditwheel find no manylinux tag true of the wheel's symbols?"""
    try:
        return reported_tag(raw, "sym_tag").startswith("linux_")
    except ValueError:  # then its own error is the one to show
        return False


def reported_tag(wheel: Path, *keys: str) -> str:
    """The first of `keys` in auditwheel's report on a wheel (``show --json``): ``sym_tag`` is the lowest true of its symbols alone.

    Raises:
        ValueError: it has none of them; the text is what auditwheel said.
    """
    # No folder to look for other libraries in: what this machine's own libvulkan wants, say, is not the wheel's.
    nowhere = Path(os.devnull) / "none"
    command: list[str | Path] = [sys.executable, "-m", "auditwheel", "show", "--ldpaths", nowhere, "--json", wheel]
    said = process.output(command, env=process.environment())
    try:
        report = json.loads(said[said.index("{") :])
        return next(str(report[key]) for key in keys if key in report)
    except (ValueError, StopIteration) as error:
        raise ValueError(said.strip()) from error


def _as_it_is(job: Job) -> Path:
    """The raw wheel, where there is nothing to repair."""
    target = job.target_dir / job.raw.name
    shutil.copyfile(job.raw, target)
    return target


def _with_musl(job: Job) -> Path:
    """The raw wheel with musl's libc by the name that Alpine's linker writes, and that auditwheel knows musl by.

    zig writes ``libc.so``, which auditwheel would look for on this machine. musl takes both names for itself (ldso/dynlink.c,
    load_library).
    """
    raw = job.raw.parent / "musl" / job.raw.name
    with archive.open_wheel(job.raw) as opened, tempfile.TemporaryDirectory() as folder:
        files = opened.files()
        for number, (name, source) in enumerate(opened.files().items()):
            if not binary.is_library(archive.head(source)):
                continue
            with archive.on_disk(source) as unpacked:
                if "libc.so" not in binary.read(unpacked).needed:
                    continue
                path = Path(shutil.move(unpacked, Path(folder) / f"{number}.so"))
            new = f"libc.musl-{job.platform.machine}.so.1"
            process.command(["patchelf", "--replace-needed", "libc.so", new, path], log=job.log, env=process.environment())
            files[name] = path
        archive.write(raw, files, job.epoch)
    return raw


def _newer(one: str, other: str) -> bool:
    """Does the tag `one` want a newer libc than `other` (PEP 600, PEP 656)?"""
    return one[:4] != other[:4] or (platforms.libc(one) or (0, 0)) > (platforms.libc(other) or (0, 0))


def _delvewheel(job: Job) -> Path:
    """Runs on every system. Nothing is renamed: our libraries find each other by names of their own (docs/design.md), and a DLL
    that is grafted lies in the folder from which llama_cpp/_backends.py opens the core."""
    repaired = _run(job, "delvewheel", "repair", "--analyze-existing", "--no-mangle-all", "--wheel-dir", job.target_dir,
                    "--ignore-existing", *(("--exclude", os.pathsep.join(job.foreign)) if job.foreign else ()), job.raw,
                    remedy=f"See what the libraries need: `python -m delvewheel show --analyze-existing {job.raw}`.")  # fmt: skip
    return _kept_init(job, repaired)


def _kept_init(job: Job, repaired: Path) -> Path:
    """The wheel with its own Python files: delvewheel puts code for the folder of grafted libraries into every ``__init__.py``."""
    with (
        disk.replacing(repaired) as part,
        archive.open_wheel(repaired) as opened,
        archive.open_wheel(job.raw) as before,
    ):
        files = opened.files()
        for name, source in opened.files().items():
            if name.split("/")[0].endswith(".libs"):
                if name.lower().endswith(".dll"):
                    files[f"llama_cpp/lib/{name.rpartition('/')[2]}"] = source
                del files[name]
        files |= {name: source for name, source in before.files().items() if name.endswith(".py")}
        archive.write(part, files, job.epoch)
    return repaired


_APPLE = ("otool", "install_name_tool", "lipo", "codesign")  # what delocate calls


def _delocate(job: Job) -> Path:
    """Wants Apple's tools to graft anything. A wheel that needs nothing but itself and the system is only checked, anywhere."""
    wanting = _wanting(job.raw, job.foreign)
    if not wanting:
        return _as_it_is(job)
    lacking = [tool for tool in _APPLE if not shutil.which(tool, path=process.environment()["PATH"])]
    if lacking:
        rows = "\n".join(f"  {name} needs {', '.join(needs)}" for name, needs in wanting.items())
        raise ToolchainError(
            f"{job.raw.name} has to be repaired, and this machine has no {', '.join(lacking)}, which delocate calls:\n{rows}",
            f"On a Mac with the command line tools: `python -m variants repair {job.raw.name}`.",
        )
    return _run(job, "delocate.cmd.delocate_wheel", "--wheel-dir", job.target_dir, "--lib-sdir", "lib", "--verbose",
                *(word for name in job.foreign for word in ("--exclude", name)), job.raw,
                remedy="See what the libraries need: `otool -L`.")  # fmt: skip


_TOOLS: Mapping[str, Callable[[Job], Path]] = {"auditwheel": _auditwheel, "delvewheel": _delvewheel, "delocate": _delocate}


def _run(job: Job, module: str, *arguments: str | Path, remedy: str) -> Path:
    """Run a repair tool and return the one wheel that it wrote."""
    env = process.environment(SOURCE_DATE_EPOCH=str(job.epoch))
    process.command([sys.executable, "-m", module, *arguments], log=job.log, env=env, remedy=remedy)
    wheels = list(job.target_dir.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelError(f"{module} left {len(wheels)} wheels in {job.target_dir}.", f"See {job.log}.")
    return wheels[0]


def _canonical(wheel: Path, epoch: int) -> Path:
    """The same wheel with one tag alone (auditwheel adds ``manylinux2014``; PEP 600), written by our own deterministic writer."""
    stem, _, platforms = wheel.stem.rpartition("-")
    platform = next((p for p in platforms.split(".") if p.startswith(("manylinux_", "musllinux_"))), platforms)
    target = wheel.with_name(f"{stem}-{platform}.whl")
    with disk.replacing(target) as part, archive.open_wheel(wheel) as opened:  # closed before it is replaced, as Windows wants
        header = f"{archive.dist_info(opened)}/WHEEL"
        files = opened.files()
        files[header] = assemble.with_tag(assemble.text(opened, header), "-".join([*stem.split("-")[-2:], platform]))
        archive.write(part, files, epoch)
    if target != wheel:
        wheel.unlink()
    return target
