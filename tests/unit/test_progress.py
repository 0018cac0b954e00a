"""How far a long command is: from ninja's own counters, with the time that is left; a build that goes on says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from variants.terminal import process, units
from variants.terminal.progress import Progress, rough

RULES = """
rule touch
  command = sleep 0.01 && touch $out
build a.o: touch
build b.o: touch
build c.o: touch
build all.txt: touch a.o b.o c.o
build all: phony all.txt
"""


def test_time_left() -> None:
    """Nothing is said of the time until units were measured; a configuration before the first does not count."""
    progress = Progress(0.0)
    assert progress.read(b"-- Configuring done\n", 50.0) is None
    assert progress.read(b"[1/11] Building CXX object\n", 60.0) == "1/11, 1 min 00 s"
    assert progress.read(b"[3/11] Building CXX object\n", 90.0) == "3/11, 1 min 30 s"
    assert progress.read(b"[6/11] Building CXX object\n", 160.0) == "6/11, 2 min 40 s, about 2 min left"
    assert progress.read(b"[11/11] Linking\n", 200.0) == "11/11, 3 min 20 s"
    assert progress.read(b"[1/4] Building CXX object\n", 210.0) == "1/4, 3 min 30 s", "a second build in the same command"


def test_time_left_of_a_download() -> None:
    progress = Progress(0.0)
    assert progress.read(b"Progress 0 of 104857600\n", 1.0) == "0 of 100 MB, 1.0 s"
    assert progress.read(b"Progress 26214400 of 104857600\n", 21.0) == "25 of 100 MB, 21 s, about 60 s left"


def test_rough() -> None:
    assert [rough(value) for value in (3, 84, 95, 600, 5000, 7300)] == ["10 s", "80 s", "2 min", "10 min", "83 min", "2 h 02 min"]


@pytest.mark.skipif(shutil.which("ninja") is None, reason="there is no ninja on PATH")
def test_a_build_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the real ninja: all units at first, the rest after a stop, nothing when all is there."""
    assert units.units(tmp_path) is None
    (tmp_path / "build.ninja").write_text(RULES)
    assert units.units(tmp_path) == (4, 4)
    units.announce(tmp_path, 2)
    said = " ".join(capsys.readouterr().out.split())
    assert said == "4 units to compile, 2 at a time; how long it takes is said when the first are done"
    process.command(["ninja", "-C", tmp_path, "a.o", "b.o"], log=tmp_path / "log.txt")
    capsys.readouterr()
    assert units.units(tmp_path) == (2, 4)
    assert 0.01 <= (units.seconds(tmp_path) or 0.0) < 5.0
    units.announce(tmp_path, 2)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("going on: 2 of 4 units are there from an earlier run; 2 units to compile, 2 at a time, about ")
    process.command(["ninja", "-C", tmp_path], log=tmp_path / "log.txt")
    capsys.readouterr()
    units.announce(tmp_path, 2)
    assert capsys.readouterr().out == ""
