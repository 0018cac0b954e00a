"""What comes back from a machine with a GPU, and that the same parts are packed into the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from variants.errors import WheelError
from variants.trial import prove
from variants.wheel import archive, records

NAME = "llama_cpp_python-0.3.36-py3-none-manylinux_2_17_x86_64-vulkan.whl"
REPORT = {
    "plugins": [],
    "devices": [{"name": "CPU", "description": "a processor", "type": "CPU"}],
    "python": "3.12.1",
    "processor": "x86_64",
}


def results(folder: Path, sha256: str, **counts: object) -> Path:
    run = {"sha256": sha256, "name": NAME, "report": REPORT, "tests": {"test_gpu.py": {"code": 0, "failures": [], **counts}}}
    file = folder / "results.json"
    found = {"machine": {"cpu": "a processor", "system": "Linux"}, "gpu": "NVIDIA H200, 580.95", "wheels": {"vulkan": run}}
    file.write_text(json.dumps(found), encoding="utf-8")
    return file


@pytest.mark.parametrize("text", ["", "[]", '{"wheels": {}}', '{"machine": {}, "wheels": {"a": 1}}'])
def test_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(WheelError, match=r"results\.json has no results of a trial"):
        prove.read(file, tmp_path)
    with pytest.raises(WheelError, match="no results of a trial"):
        prove.read(tmp_path / "missing.json", tmp_path)


def test_failures_are_shown_and_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / NAME
    wheel.write_bytes(b"a wheel")
    prove.read(results(tmp_path, archive.sha256(wheel), code=1, passed=3, failed=1, failures=["FAILED test_a"]), tmp_path)
    printed = capsys.readouterr().out
    assert "NVIDIA H200" in printed
    assert "3 passed, 1 failed" in printed
    assert "FAILED test_a" in printed
    assert not records.read(wheel)


def test_another_wheel_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_bytes(b"built since")
    prove.read(results(tmp_path, "0" * 64, passed=3), tmp_path)
    assert "not recorded" in capsys.readouterr().out


def test_the_same_bytes(tmp_path: Path) -> None:
    """Neither dates nor owners nor the order of a folder's files are in the archive."""
    packed = []
    for number, names in enumerate((["b", "a"], ["a", "b"])):
        folder = tmp_path / str(number) / "prove"
        (folder / "inner").mkdir(parents=True)
        for name in names:
            (folder / "inner" / name).write_text(name)
            os.utime(folder / "inner" / name, (number, number))
        target = tmp_path / f"{number}.tar.xz"
        prove.archived(folder, target)
        packed.append(target.read_bytes())
    assert packed[0] == packed[1]
