"""The benchmark's arithmetic, what it measures, the conditions it makes, its history and its picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from variants.errors import UsageError
from variants.trial.bench import cases, conditions, contenders, kept, plot, report, rounds
from variants.trial.bench.ratios import ratio

FILE = "cpu-linux_x86_64.json"


def test_ratio() -> None:
    found = ratio([2.0, 4.0, 6.0], [2.0, 2.0, 2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == (1.5, 2.0, 2.5)
    assert str(ratio([1.0], [2.0])) == "0.50 (0.50 to 0.50; bound 0.50)"
    stalled = ratio([2.0, 4.0, 6.0], [2.0, None, 3.0])
    assert stalled is not None
    assert (stalled.median, stalled.stalled) == (1.5, 1)
    assert ratio([1.0], [None]) is None


def test_cases() -> None:
    """By default one model and a few numbers of threads; in full every size, type, number and condition."""
    small, large = Path("random-100M-Q4_K.gguf"), Path("random-1B-F16.gguf")
    usual = cases.on_processor(cases.Wish(), [small], 4)
    assert [case.threads for case in usual] == [1, 4, 8]
    full = cases.on_processor(cases.Wish(full=True), [small, large], 4)
    assert [case.threads for case in full if case.model == small and case.condition == cases.IDLE] == [1, 2, 4, 8, 16]
    assert [case.threads for case in full if case.model == large] == [1, 4]
    assert {case.condition for case in full} == set(cases.CONDITIONS)
    assert "random-100M-Q4_K, default threads, quota" in {case.name for case in full}
    assert list(cases.made(cases.Wish())) == [("100M", "Q4_K")]
    assert next(cases.made(cases.Wish(full=True))) == ("100M", "Q4_K")
    assert len(list(cases.made(cases.Wish(full=True)))) == len(cases.SIZES) * len(cases.WEIGHTS)
    with pytest.raises(UsageError, match="7B"):
        list(cases.made(cases.Wish(sizes=("7B",))))


def processors(prefix: conditions.Prefix) -> int:
    script = "import os; print(len(os.sched_getaffinity(0)))"
    return int(subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def busy_children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in children if b"while True" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks and /proc are Linux's")
def test_conditions_hold_and_end() -> None:
    own = len(conditions.usable())
    with conditions.held(cases.MASK) as prefix:
        assert processors(prefix) == max(1, own // 2)
    with conditions.held(cases.TWO_BUSY) as prefix:
        assert not prefix
        deadline = time.monotonic() + 30
        while len(busy := busy_children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)  # a child has its own command line some time after it was started
        assert len(busy) == 2
    assert not [pid for pid in busy if Path(f"/proc/{pid}").exists()]
    try:
        with conditions.held(cases.QUOTA) as prefix:
            assert processors(prefix) == own
            group = next(word for word in prefix[-1].split() if word.startswith("/sys/fs/cgroup"))
    except conditions.ConditionError as error:
        pytest.skip(str(error))
    assert not Path(group).parent.exists()


def contender(tmp_path: Path, script: str) -> contenders.Contender:
    """One whose measurements are a script's."""
    file = tmp_path / "script.py"
    file.write_text(script)
    return contenders.Contender("wheel", Path(sys.executable), str(file))


def test_a_measurement_that_stalls_is_none_and_a_broken_one_an_error(tmp_path: Path) -> None:
    case = cases.Case(Path("model.gguf"), 1)
    stalls = contender(tmp_path, "import time; time.sleep(60)")
    assert contenders.speed(stalls, case, (), (8,), 4, patience=0.5) is None
    with pytest.raises(Exception, match="no such model"):
        contenders.speed(contender(tmp_path, "import sys; sys.exit('no such model')"), case, (), (8,), 4)


def test_two_models_begin_together(tmp_path: Path) -> None:
    """Both are warm before either begins; their speeds are added, a token's cost is their mean."""
    script = (
        "import json, sys, time\nassert sys.argv[-1] == '--wait'\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "print(json.dumps({'generation': 10.0, 'generation, processor seconds a token': 0.5, 'memory': 7.0}))"
    )
    case = cases.Case(Path("model.gguf"), 1, condition=cases.TWO_MODELS)
    found = contenders.speed(contender(tmp_path, script), case, (), (8,), 4)
    assert found == {"generation": 20.0, "generation, processor seconds a token": 0.5, "memory": 14.0}


def test_a_stalled_round_keeps_its_place() -> None:
    row: dict[str, list[float | None]] = {}
    for number, given in enumerate([None, {"generation": 2.0, "memory": 1.0}, None]):
        rounds._keep(row, "a case", given, number)
    assert row == {"generation, a case": [None, 2.0, None], "memory, a case": [None, 1.0, None]}


def measured(generation: list[float | None], day: str = "2026-11-30") -> dict[str, Any]:
    return {
        "date": f"{day}T10:00:00+00:00",
        "machine": {"processor": "Some CPU (cpu-haswell)", "cores": 2, "load_before": 0.1},
        "wheel": {"name": "a.whl", "sha256": "ab" * 32, "bytes": 1},
        "models": {"random-100M-Q4_K": {"name": "random-100M-Q4_K.gguf", "bytes": 1}},
        "rounds": 3,
        "results": {
            "wheel": {"generation, 1 thread": generation, "generation, processor seconds a token, 1 thread": [0.1, 0.1, 0.1]},
            "upstream": {
                "generation, 1 thread": [100.0, 100.0, 100.0],
                "generation, processor seconds a token, 1 thread": [0.1] * 3,
            },
        },
    }


def test_history_shows_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, the history and a warning; another processor is not compared with."""
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: it is in the session `bench`")
    file = tmp_path / "new" / FILE
    file.parent.mkdir()
    for speeds, day in (([100.0, 104.0, 102.0], "2026-11-29"), ([90.0, 91.0, 92.0], "2026-11-30")):
        file.write_text(json.dumps(measured(list(speeds), day)))
        kept.keep(file, tmp_path)
    out = capsys.readouterr().out
    assert "generation, 1 thread: 0.91 of upstream, where it was 1.02 on 2026-11-29" in out.replace("\n", " ")
    assert len(report.history(tmp_path / "history.jsonl")) == 2
    rows = list(kept.tables(tmp_path))
    assert any(row.startswith("| generation, 1 thread | 91.0 tok/s | 100 tok/s | **0.91 (0.91)** |") for row in rows), rows
    other = msgspec.structs.replace(report.history(tmp_path / "history.jsonl")[1], processor="Another CPU (cpu-zen4)")
    assert not list(report.slower(other, report.history(tmp_path / "history.jsonl")))


def test_picture_has_the_same_bytes_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: it is in the session `bench`")
    found = msgspec.convert(measured([100.0, 104.0, None]), report.Found)
    for name in ("a.svg", "b.svg"):
        plot.draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "ours / upstream" in (tmp_path / "a.svg").read_text()
