"""Repair: auditwheel gives the wheel the manylinux tag that it honestly has, and would graft a library that is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import archive, run
from .errors import WheelError
from .toolchain import Toolchain


def repair(raw: Path, target_dir: Path, toolchain: Toolchain, epoch: int, log: Path, system: Sequence[str] = ()) -> Path:
    """Repair the wheel `raw` into `target_dir` and return the new file, its name changed to the tag it got.

    `system`: libraries that a plugin needs and that are never grafted. The tag is the toolchain's promise where it makes one
    (zig: its target glibc), else the lowest that auditwheel finds true.

    Raises:
        CommandError: the wheel does not keep the promise, or needs a library that is nowhere.
    """
    promised = toolchain.manylinux or "auto"
    env = run.environment(SOURCE_DATE_EPOCH=str(epoch))
    arguments: list[str | Path] = [
        sys.executable, "-m", "auditwheel", "repair", "--plat", promised, "--only-plat", "-z", "1", "--wheel-dir", target_dir,
        *(word for name in system for word in ("--exclude", name)), raw,
    ]  # fmt: skip
    run.remove(target_dir)
    run.command(arguments, log=log, env=env, remedy=f"See what the libraries need: `python -m auditwheel show {raw}`.")
    wheels = list(target_dir.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelError(f"auditwheel left {len(wheels)} wheels in {target_dir}.", f"See {log}.")
    return _canonical(wheels[0], epoch)


def _canonical(wheel: Path, epoch: int) -> Path:
    """The same wheel with the PEP 600 tag alone (auditwheel adds ``manylinux2014``), written by our own deterministic writer."""
    stem, _, platforms = wheel.stem.rpartition("-")
    platform = next((p for p in platforms.split(".") if p.startswith("manylinux_")), platforms)
    files = archive.contents(wheel)
    with archive.open_wheel(wheel) as opened:
        header = f"{archive.dist_info(opened)}/WHEEL"
    lines = [line for line in files[header].decode().splitlines() if line and not line.startswith("Tag:")]
    tags = "-".join(stem.split("-")[-2:])
    files[header] = ("\n".join([*lines, f"Tag: {tags}-{platform}"]) + "\n").encode()
    target = wheel.with_name(f"{stem}-{platform}.whl")
    archive.write(target, files, epoch)
    if target != wheel:
        wheel.unlink()
    return target
