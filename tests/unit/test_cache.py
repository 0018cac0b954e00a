"""Compiler caches are counted by their own record; the real ones, with a real compiler, where this machine has both."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from variants import platforms
from variants.compilers import cache, toolchain


def tools(name: str) -> toolchain.Toolchain:
    return toolchain.Toolchain("system", "gcc 12", platforms.here(), (), {"A": "B"}, None, name, {})


def test_ccache_record(tmp_path: Path) -> None:
    counter = cache.Counter(tools("ccache"), tmp_path / "logs" / "x.ccache")
    assert counter.toolchain.environment == {"A": "B", "CCACHE_STATSLOG": str(tmp_path / "logs" / "x.ccache")}
    assert str(counter) == "ccache: nothing was compiled"
    (tmp_path / "logs" / "x.ccache").write_text(
        "# a.c\ncache_miss\ndirect_cache_miss\n# b.c\ndirect_cache_hit\n# c.c\npreprocessed_cache_hit\n"
    )
    assert str(counter) == "ccache: 2 of 3 compilations found"


@pytest.mark.skipif(not shutil.which("ccache") or not shutil.which("gcc"), reason="no ccache or no gcc here")
def test_real_ccache(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int a;\n")
    found = []
    for _ in range(2):
        counter = cache.Counter(tools("ccache"), tmp_path / "x.ccache")
        env = {"PATH": "/usr/bin:/bin", "CCACHE_DIR": str(tmp_path / "cache"), **counter.toolchain.environment}
        subprocess.run([str(shutil.which("ccache")), "gcc", "-c", "a.c"], cwd=tmp_path, env=env, check=True)
        found.append(str(counter))
    assert found == ["ccache: 0 of 1 compilations found", "ccache: 1 of 1 compilations found"]


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cache.Counter(tools("sccache"), Path("x")).count() == cache.Count()
