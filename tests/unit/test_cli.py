"""The command line where something is wrong: one screen, the file and the remedy, its own exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from variants import __main__ as command_line
from variants import errors, platforms
from variants.wheel import archive

Cli = Callable[..., subprocess.CompletedProcess[str]]

GOOD = 'summary = "x"\nplatforms = ["linux_x86_64"]\n[smoke]\ndevice = "CPU"\n'


def test_help_teaches(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By an interpreter of its own, as everybody starts it."""
    command = [sys.executable, "-m", "variants", "--help"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    for step in ("vendor", "build", "test", "upstream-tests", "verify", "bench"):
        assert step in done.stdout
        with pytest.raises(SystemExit) as caught:
            command_line.parser().parse_args([step, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "usage:" in out
        assert ("cpu" in out) or step != "build"


def test_dry_run_does_nothing(cli: Cli, checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    done = cli("build", "cpu", "--dry-run", "--build-number", "2", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0
    for step in ("vendor", "core", "assemble", "repair", "verify", "publish"):
        assert step in done.stdout
    assert "would be fetched" in done.stdout
    assert "build number 2" in done.stdout
    assert sorted(checkout.rglob("*")) == before


def test_broken_epoch() -> None:
    """The function itself: the command line gets this far only with upstream's tree."""
    script = (
        "from variants.release import pipeline\nfrom variants.upstream import source\n"
        "pipeline._epoch(source.Upstream(None, '', '', 5, '', ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "now"}
    )
    assert "UsageError: SOURCE_DATE_EPOCH=now is no number of seconds." in done.stderr


def test_misspelt_variant(cli: Cli) -> None:
    done = cli("build", "cpuu")
    assert done.returncode == errors.UsageError.exit_code
    assert 'Did you mean "cpu"?' in done.stdout


def test_broken_matrix(cli: Cli, checkout: Path) -> None:
    (checkout / "variants" / "extra.toml").write_text("label = 'a'\ncolour = 1\n" + GOOD)
    done = cli("build", "cpu")
    assert done.returncode == errors.MatrixError.exit_code
    assert "extra.toml: unknown key `colour`" in done.stdout
    (checkout / "variants" / "extra.toml").write_text(GOOD)
    done = cli("build", "extra")
    assert done.returncode == errors.MatrixError.exit_code
    assert "both have no label" in done.stdout


def test_keep_going(cli: Cli, checkout: Path) -> None:
    """Without it the first failure ends the run; with it the other variants have their turn, and the code still tells."""
    (checkout / "variants" / "other.toml").write_text('label = "other"\n' + GOOD + '[properties.llama_cpp]\nbackend = ["vulkan"]\n')
    done = cli("build")
    assert done.returncode == errors.SourceError.exit_code
    assert done.stdout.count("could not be fetched") == 1
    done = cli("build", "--keep-going")
    assert done.returncode == errors.SourceError.exit_code
    assert "cpu failed" in done.stdout
    assert "other failed" in done.stdout


def test_wrong_platform(cli: Cli, checkout: Path) -> None:
    done = cli("build", "cpu", _PYTHON_HOST_PLATFORM="aix-7.2")
    assert done.returncode == errors.UsageError.exit_code
    assert "This machine is aix-7.2" in done.stdout
    done = cli("build", "cpu", "--platform", "linux_z80")
    assert done.returncode == errors.UsageError.exit_code
    assert 'Nobody knows the platform "linux_z80"' in done.stdout
    assert "linux_aarch64" in done.stdout
    done = cli("build", "metal")
    assert done.returncode == errors.UsageError.exit_code
    assert "metal does not exist for linux_x86_64" in done.stdout
    done = cli("build", "cuda13", "--platform", "win_amd64")
    assert done.returncode == errors.UsageError.exit_code
    assert "is built on such a machine" in done.stdout
    done = cli("build", "cpu", "--platform", "win_amd64", "--toolchain", "system")
    assert done.returncode == errors.ToolchainError.exit_code
    assert "makes wheels for linux_x86_64, not for win_amd64" in done.stdout


def test_wheel_of_another_platform(cli: Cli, tmp_path: Path) -> None:
    """Each step that takes a wheel says which platform it is for, and which step takes it."""
    info = "llama_cpp_python-9.9.7.dist-info"
    core = {"fingerprint": "0123abcd", "toolchain": "zig", "platform": "win_amd64", "plugins": []}
    files = {"llama_cpp/lib/core.json": json.dumps(core).encode(), f"{info}/WHEEL": b"Tag: x\n", f"{info}/METADATA": b""}
    windows, mac, linux = (
        tmp_path / f"llama_cpp_python-9.9.7-py3-none-{tag}.whl" for tag in ("win_amd64", "macosx_11_0_arm64", "linux_x86_64")
    )
    for wheel in (windows, mac, linux):
        archive.write(wheel, files, 0)
    for step in ("test", "old-cpus", "offload", "bench"):
        if step == "old-cpus" and not shutil.which("qemu-x86_64"):
            continue
        done = cli(step, "--wheel", windows)
        assert done.returncode == errors.UsageError.exit_code, step
        assert f"is a wheel for win_amd64; this machine is {platforms.here().name}" in done.stdout, step
        assert "nox -s test_foreign -- --wheel" in done.stdout, step
    for wheel, platform in ((linux, "linux_x86_64"), (mac, "macosx_arm64")):
        done = cli("test-foreign", "--wheel", wheel)
        assert done.returncode == errors.UsageError.exit_code
        assert f"nothing here can run {platform}" in done.stdout
    done = cli("label", mac, "cuda13")
    assert done.returncode == errors.WheelError.exit_code
    assert "where cuda13 does not exist" in done.stdout
    done = cli("repair", linux)
    assert done.returncode == errors.WheelError.exit_code
    assert "has a core of win_amd64: it is not what its name says" in done.stdout
    assert not list(tmp_path.glob("repaired/*"))


def test_no_network(cli: Cli, checkout: Path) -> None:
    done = cli("build", "cpu")
    assert done.returncode == errors.SourceError.exit_code
    assert "could not be fetched" in done.stdout
    assert not (checkout / "dist").exists() or not list((checkout / "dist").iterdir())
    assert [path.name for path in (checkout / "vendor").iterdir()] == ["upstream.toml"]


def test_no_compiler(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "cpu", "--toolchain", "system", PATH=str(tmp_path))
    assert done.returncode == errors.ToolchainError.exit_code
    assert "No C++ compiler" in done.stdout
    assert "leave out --toolchain" in done.stdout
    done = cli("build", "cpu", "--toolchain", "system", CXX="/no/such/c++", CC="/no/such/cc")
    assert done.returncode == errors.ToolchainError.exit_code
    assert "CC=/no/such/cc" in done.stdout


@pytest.mark.parametrize(
    ("says", "fragment"),
    [("c++ (GCC) 8.3.0", "gcc 8.3.0"), ("clang version 10.0.1-4", "clang 10.0.1"), ("hello", "does not say its version")],
)
def test_compiler_too_old(cli: Cli, tmp_path: Path, says: str, fragment: str) -> None:
    old = tmp_path / "c++"
    version = says.split()[-1] if "GCC" in says else "none"
    old.write_text(f'#!/bin/sh\ncase "$1" in --version) echo "{says}";; *) echo {version};; esac\n')
    old.chmod(0o755)
    done = cli("build", "cpu", "--toolchain", "system", CXX=str(old), CC=str(old))
    assert done.returncode == errors.ToolchainError.exit_code
    assert fragment in done.stdout


def test_nothing_built_yet(cli: Cli) -> None:
    done = cli("test", "cpu")
    assert done.returncode == errors.UsageError.exit_code
    assert "nox -s build_variant -- cpu" in done.stdout


def test_foreign_file_in_dist(cli: Cli, checkout: Path) -> None:
    pin = "0.0.0"
    (checkout / "dist").mkdir()
    (checkout / "dist" / f"llama_cpp_python-{pin}-py3-none-any.whl").write_bytes(b"")
    assert cli("test", "cpu").returncode == errors.UsageError.exit_code, "another version is no wheel of ours to test"
    version = (checkout / "vendor" / "upstream.toml").read_text().split('version = "')[1].split('"')[0]
    (checkout / "dist" / f"llama_cpp_python-{version}-py3-none-any.whl").write_bytes(b"garbage")
    done = cli("test", "cpu")
    assert done.returncode == errors.WheelError.exit_code
    assert "cannot be read as a wheel" in done.stdout


def test_verify_of_a_missing_file(cli: Cli) -> None:
    done = cli("verify", "none-1.0-py3-none-any.whl")
    assert done.returncode == errors.WheelError.exit_code
    assert "none-1.0-py3-none-any.whl cannot be read" in done.stdout


def test_two_builds_at_once(cli: Cli, checkout: Path) -> None:
    """The second is refused and names the first; a killed holder counts for nothing."""
    hold = (
        "import time\nfrom variants.release.pipeline import BUILD\nfrom variants.terminal import disk\n"
        "with disk.locked(BUILD):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], cwd=checkout, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = cli("build", "cpu")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert done.returncode == errors.BusyError.exit_code
    assert f"process {holder.pid}" in done.stdout
    assert "--wait" in done.stdout
    assert cli("build", "cpu").returncode == errors.SourceError.exit_code, "gets as far as the missing network"


def test_checkout_that_cannot_be_written(cli: Cli, checkout: Path) -> None:
    (checkout / "build").write_text("a file where a folder should be, which stops root as well\n")
    done = cli("build", "cpu")
    assert done.returncode == errors.DiskError.exit_code
    assert "cannot be written" in done.stdout


def ended(process: int) -> bool:
    """Has this process ended (and been reaped) within five seconds?"""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(checkout: Path, number: signal.Signals, code: int) -> None:
    """A signal ends the running command with all its children, and says that nothing was left half-written."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom variants import __main__ as m\n"
        "from variants.commands import build\nfrom variants.terminal import process\n"
        "build._vendor = lambda options: process.command(['sh', '-c', 'sleep 300 & echo $!; wait'], log=Path('log.txt'))\n"
        "sys.exit(m.main(['vendor']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=checkout, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a shell's background jobs
    )  # fmt: skip
    log = checkout / "log.txt"
    for _ in range(1000):  # a busy machine takes its time to start it
        if (log.exists() and len(log.read_text().splitlines()) == 2) or process.poll() is not None:
            break
        time.sleep(0.05)
    child = int(log.read_text().splitlines()[1])
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Nothing unfinished was left in dist/" in out
    assert ended(child)
