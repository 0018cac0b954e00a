"""Commands, steps and files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from variants.errors import CommandError, OutOfMemoryError
from variants.terminal import disk, process
from variants.terminal.console import duration


def test_failed_command(tmp_path: Path) -> None:
    """The message has the command, its code, what the compiler said, and where the log is."""
    log = tmp_path / "logs" / "x.log"
    script = "echo no''ise; echo 'FAILED: a.o'; echo 'a.c:1: error: no'; exit 3"
    with pytest.raises(CommandError) as caught:
        process.command(["sh", "-c", script], log=log, remedy="Correct it.")
    assert "exited with 3" in caught.value.what
    assert "a.c:1: error: no" in caught.value.what
    assert "noise" not in caught.value.what
    assert caught.value.remedy == f"Correct it.\nThe whole log: {log}"
    assert "noise" in log.read_text()
    assert log.read_text().startswith("+ sh -c ")


@pytest.mark.parametrize(
    ("script", "remedy"),
    [
        ("echo 'x.o: No space left on device' >&2; exit 1", "The disk is full"),
        ("echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 1", "--jobs 1"),
        ("kill -9 $$", "--jobs 1"),
    ],
)
def test_remedies(tmp_path: Path, script: str, remedy: str) -> None:
    with pytest.raises(CommandError) as caught:
        process.command(["sh", "-c", script], log=tmp_path / "log", remedy="other")
    assert remedy in caught.value.remedy


def test_missing_command(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="could not be started"):
        process.command(["/no/such/program"], log=tmp_path / "log")
    assert process.output(["/no/such/program"]) == ""


def test_unchecked_command(tmp_path: Path) -> None:
    assert process.command(["sh", "-c", "exit 4"], log=tmp_path / "log", check=False) == 4


def test_log_on_a_full_disk() -> None:
    """/dev/full is a file on a disk that is always full."""
    with pytest.raises(OSError, match="No space left"):
        process.command(["sh", "-c", "echo x"], log=Path("/dev/full"))


def test_replacing(tmp_path: Path) -> None:
    """The old file stays until the new one is whole, and nothing else is left behind."""
    path = tmp_path / "deep" / "x.whl"
    with disk.replacing(path) as part:
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def fail() -> None:
        with disk.replacing(path) as part:
            part.write_text("half")
            raise process.Terminated

    with pytest.raises(process.Terminated):
        fail()
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["x.whl"]


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".x.whl.1.tmp").write_text("")
    (tmp_path / ".tree.1.tmp").mkdir()
    (tmp_path / "kept.whl").write_text("")
    disk.remove_leftovers(disk.Lock(tmp_path), tmp_path)
    assert os.listdir(tmp_path) == ["kept.whl"]


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (59, "59 s"), (543.2, "9 min 03 s")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_environment_has_our_tools_first() -> None:
    assert process.environment(X="1")["X"] == "1"
    assert process.environment()["PATH"].split(os.pathsep)[0].endswith("bin")


def test_fewer_jobs_when_memory_runs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A compiler that is killed while more than two run: half the jobs, until it goes through, each time said."""
    script = tmp_path / "compile"
    script.write_text('#!/bin/sh\n[ $1 -le 2 ] || { echo "c++: fatal error: Killed signal terminated program cc1plus"; exit 1; }\n')
    script.chmod(0o755)
    tried: list[int] = []

    def compiling(jobs: int) -> None:
        tried.append(jobs)
        process.command([script, str(jobs)], log=tmp_path / "log.txt")

    process.with_fewer_jobs(8, compiling)
    assert tried == [8, 4, 2]
    assert "out of memory: going on with 4 jobs at a time" in capsys.readouterr().out
    script.write_text('#!/bin/sh\necho "virtual memory exhausted: Cannot allocate memory"; exit 1\n')
    with pytest.raises(OutOfMemoryError) as caught:
        process.with_fewer_jobs(1, compiling)
    assert "--jobs 1" in caught.value.remedy


def test_other_failures_are_not_tried_again(tmp_path: Path) -> None:
    tried: list[int] = []

    def compiling(jobs: int) -> None:
        tried.append(jobs)
        process.command(["sh", "-c", "echo error: no member named x; exit 1"], log=tmp_path / "log.txt")

    with pytest.raises(CommandError):
        process.with_fewer_jobs(8, compiling)
    assert tried == [8]
