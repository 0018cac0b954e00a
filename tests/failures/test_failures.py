"""Real builds that go wrong: interrupted in each step, on a full or read-only disk, with an error in the source, two at a time.

Every test works in one copy of this checkout, in a folder with a space and an umlaut in its name, and leaves it as it was: after
each failure the same command succeeds. A compiler cache makes that bearable (`nox -s failures` brings one).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from variants import errors
from variants.release import pipeline
from variants.terminal import disk
from variants.upstream import source

ROOT = Path(__file__).parent.parent.parent
STEPS = ("vendor", "core", "assemble", "repair", "verify")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy with upstream's archive beside the pin, so that nothing needs the network."""
    source.vendor(disk.Lock(ROOT))
    folder = tmp_path_factory.mktemp("failures") / "a chéckout"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, tracked):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    pin = source.read_pin()
    shutil.copy(ROOT / "vendor" / pin.archive, folder / "vendor" / pin.archive)
    yield folder
    shutil.rmtree(folder)


def default_interrupt() -> None:
    """A shell starts background jobs with SIGINT ignored; here it is to arrive."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(checkout: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-m", "variants", *(arguments or ("build", "cpu"))]
    return subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PIP_NO_INDEX": "1"}, preexec_fn=default_interrupt,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=1800)
    assert "Traceback" not in out, out
    return process.returncode, out


def run(checkout: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    return finish(start(checkout, *arguments, prefix=prefix))


def half_written(checkout: Path) -> list[Path]:
    return [path for folder in ("dist", "vendor") for path in (checkout / folder).glob(".*") if path.name.endswith(".tmp")]


def wheels(checkout: Path) -> list[Path]:
    return list((checkout / "dist").glob("*.whl"))


def as_root() -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount (root)")


def test_build_in_an_odd_path(checkout: Path) -> None:
    """It builds there, and gives the same bytes as the checkout itself, where that has a wheel of the same source."""
    code, out = run(checkout)
    assert code == 0, out
    (wheel,) = wheels(checkout)
    twin = pipeline.DIST / wheel.name
    if not twin.exists() or pipeline.stale(twin):
        pytest.skip("built; but dist/ has no wheel of this source to compare with")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == hashlib.sha256(twin.read_bytes()).hexdigest()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", STEPS)
def test_interrupted(checkout: Path, step: str, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM in this step: the code says so, dist/ is whole, and the next run recovers."""
    if step == "vendor":
        shutil.rmtree(checkout / "vendor" / "llama_cpp_python", ignore_errors=True)
    shutil.rmtree(checkout / "dist", ignore_errors=True)
    process = start(checkout)
    assert process.stdout is not None
    for line in process.stdout:
        if f"] {step} " in line:
            break
    else:
        pytest.fail(f"{step} never began")
    time.sleep(0.3)
    process.send_signal(number)
    code, out = finish(process)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], out
    assert "Nothing unfinished was left in dist/" in out
    assert wheels(checkout) == []
    assert half_written(checkout) == []
    assert subprocess.run(["pgrep", "-f", str(checkout)], capture_output=True, check=False).stdout == b"", "a child lives on"


def test_recovers_after_interruptions(checkout: Path) -> None:
    code, out = run(checkout)
    assert code == 0, out
    assert len(wheels(checkout)) == 1


def test_killed(checkout: Path) -> None:
    """SIGKILL, which nobody can clean up after: the next run removes what it finds."""
    shutil.rmtree(checkout / "vendor" / "llama_cpp_python")
    process = start(checkout)
    while not list((checkout / "vendor").glob(".*.tmp")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert half_written(checkout) != []
    code, out = run(checkout)
    assert code == 0, out
    assert half_written(checkout) == []


def test_compile_error(checkout: Path) -> None:
    """The compiler's own words, the command, and where the log is; the wheel of the last build stays."""
    file = checkout / "vendor" / "llama_cpp_python" / "vendor" / "llama.cpp" / "ggml" / "src" / "ggml-alloc.c"
    good = file.read_bytes()
    file.write_bytes(good + b"\n#error no such luck\n")
    try:
        code, out = run(checkout)
    finally:
        file.write_bytes(good)
    assert code == errors.CommandError.exit_code, out
    assert "#error no such luck" in out
    assert "cpu-zig.log" in out
    assert len(wheels(checkout)) == 1
    assert run(checkout)[0] == 0


def test_two_builds_at_once(checkout: Path) -> None:
    first = start(checkout)
    assert first.stdout is not None
    first.stdout.readline()
    code, out = run(checkout)
    assert code == errors.BusyError.exit_code, out
    assert f"process {first.pid}" in out
    waiting = start(checkout, "build", "cpu", "--wait")
    assert finish(first)[0] == 0
    code, out = finish(waiting)
    assert code == 0, out


@pytest.mark.parametrize(
    ("folder", "size", "code"), [("dist", "4m", errors.DiskError.exit_code), ("build", "8m", None), ("vendor/full", "1m", None)]
)
def test_disk_full(checkout: Path, folder: str, size: str, code: int | None) -> None:
    """A full disk under dist/, under build/, and while unpacking: said so, nothing half-written, the next run is well."""
    as_root()
    inside = f"mkdir -p '{folder}' && mount -t tmpfs -o size={size} none '{folder}' && exec \"$@\""
    if folder == "vendor/full":  # a vendor folder of its own, too small for the tree
        inside = (
            "mkdir -p build/vendor && cp vendor/upstream.toml build/vendor && cp vendor/*.tar.gz build/vendor && "
            'mount -t tmpfs -o size=150m none vendor && cp build/vendor/* vendor/ && rm -r build/vendor && exec "$@"'
        )
    ended, out = run(checkout, prefix=("unshare", "--mount", "sh", "-c", inside, "sh"))
    assert ended != 0, out
    assert code is None or ended == code, out
    assert "disk is full" in out, out
    assert half_written(checkout) == []
    assert run(checkout)[0] == 0
    (checkout / "vendor" / "full").rmdir() if (checkout / "vendor" / "full").exists() else None


def test_read_only_checkout(checkout: Path) -> None:
    as_root()
    inside = 'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd "$PWD" && exec "$@"'
    code, out = run(checkout, prefix=("unshare", "--mount", "sh", "-c", inside, "sh"))
    assert code == errors.DiskError.exit_code, out
    assert "cannot be written" in out


def test_stale_wheel(checkout: Path) -> None:
    """A wheel that this checkout would no longer build is not tested as if it were new."""
    loader = checkout / "llama_cpp" / "_backends.py"
    good = loader.read_bytes()
    loader.write_bytes(good + b"# changed\n")
    try:
        code, out = run(checkout, "test", "cpu")
    finally:
        loader.write_bytes(good)
    assert code == errors.UsageError.exit_code, out
    assert "is stale: llama_cpp/_backends.py has changed since" in out


def test_build_number(checkout: Path) -> None:
    """`--build-number` gives a second file, which installers prefer; it passes verification too."""
    code, out = run(checkout, "build", "cpu", "--build-number", "1")
    assert code == 0, out
    names = sorted(path.name for path in wheels(checkout))
    assert len(names) == 2
    assert any("-1-py3-none-" in name for name in names)
    code, out = run(checkout, "verify", *(str(path) for path in wheels(checkout)))
    assert code == 0, out
