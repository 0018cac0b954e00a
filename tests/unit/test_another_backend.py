"""The backend that docs/variants.md adds: its two files, and nothing else, in a copy of the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.unit.conftest import ROOT, Cli


def test_one_toml_and_one_module(checkout: Path, cli: Cli) -> None:
    page = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^`(variants/[\w./]+)`\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert sorted(files) == ["variants/backends/opencl.py", "variants/opencl.toml"]
    for name, text in files.items():
        assert not (checkout / name).exists()
        (checkout / name).write_text(text, encoding="utf-8")
    script = (
        "import json; from variants import matrix; from variants.release import jobs; one = matrix.load()['opencl']\n"
        "concerned = [name for name, v in matrix.load().items() if jobs._concerns('variants/backends/opencl.py', v)]\n"
        "print(json.dumps([one.backend.name, one.buildable, one.table.runtime.linux.system, concerned]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["opencl", [], ["libOpenCL.so.1"], ["opencl"]]
    assert "opencl" in cli("build", "--help").stdout
    plan = cli("build", "opencl", "--dry-run")
    assert plan.returncode == 0
    assert "ggml-opencl against that core" in plan.stdout
    assert "dist/opencl-only" in plan.stdout
    assert "| `[opencl]`" not in page, "it has no table of its own"
