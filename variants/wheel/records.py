"""How a wheel was built and where it has run: a file beside each in ``dist/`` that builds and tests add to and the index shows."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..errors import WheelError
from ..terminal import disk
from . import archive, budget

SUFFIX = ".runs.json"
#: The `what` of a build, whose record has no installer, devices or tests.
BUILT = "build"


class Record(msgspec.Struct, frozen=True, order=True):
    """One run of the smoke inference, or the build: the `date` (UTC), the wheel's `sha256`, `what` (the test), the `processor` with
    its plugin, `system` and `python` it ran on, the `installer`, the `devices` that ggml saw, the tests `passed` and `skipped`, and
    the `tools` of a build."""

    date: str
    sha256: str
    what: str
    processor: str
    system: str
    python: str
    installer: str
    devices: str
    passed: int = 0
    skipped: int = 0
    tools: str = ""


def add(wheel: Path, **facts: object) -> None:
    """Add a run of today to the wheel's records; one of the same kind replaces the older."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    new = msgspec.convert({"date": today, "sha256": archive.sha256(wheel), **facts}, Record)
    same = ("sha256", "what", "processor", "system", "python", "installer", "devices")
    kept = [old for old in read(wheel) if any(getattr(old, name) != getattr(new, name) for name in same)]
    _write(wheel, [*kept, new])


def read(wheel: Path, sha256: str | None = None) -> list[Record]:
    """The runs of exactly this file (`sha256`: its hash, where that is known); none where nothing is recorded.

    Raises:
        WheelError: what lies beside it is no record.
    """
    rows: list[Record] = []
    file = _beside(wheel)
    if file.exists():
        rows = load(file)
    return [row for row in rows if row.sha256 == (sha256 or archive.sha256(wheel))] if rows else []


def runs(wheel: Path, sha256: str | None = None) -> list[Record]:
    """As :func:`read`, without the build."""
    return [row for row in read(wheel, sha256) if row.what != BUILT]


def gather(folder: Path, dist: Path) -> list[str]:
    """Add the records below `folder`, from other machines, to those of the wheels in `dist`; return the names of these wheels.

    Raises:
        WheelError: a file there is no record of ours, or of a wheel that `dist` does not have.
    """
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    for file in found:
        wheel = dist / file.name.removesuffix(SUFFIX)
        try:
            if not wheel.is_file():
                raise ValueError(f"{wheel} is not there")
            rows = {*read(wheel), *load(file)}
        except ValueError as error:
            raise WheelError(f"{file} does not go with the wheels in {dist}: {error}.", "Both must come from one run.") from error
        _write(wheel, rows)
    return sorted({file.name.removesuffix(SUFFIX) for file in found})


def load(file: Path) -> list[Record]:
    """The records in a file.

    Raises:
        WheelError: it is none of ours.
    """
    try:
        return budget.json(budget.read(file), list[Record])
    except (OSError, ValueError) as error:
        raise WheelError(f"{file} has no records of runs: {error}.", "Remove it; `test_variant` writes a new one.") from error


def _write(wheel: Path, rows: Iterable[Record]) -> None:
    with disk.replacing(_beside(wheel)) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(sorted(rows)), indent=1) + b"\n")


def _beside(wheel: Path) -> Path:
    return wheel.with_name(wheel.name + SUFFIX)
