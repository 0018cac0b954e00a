"""Adoption refuses what it would destroy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from variants.errors import SourceError
from variants.release import adopt
from variants.upstream.source import ROOT


def test_into_itself(tmp_path: Path) -> None:
    """In an adopted tree, `nox -s adopt -- .` would remove each file before copying it from itself."""
    (tmp_path / "link").symlink_to(ROOT)
    for tree in (ROOT, tmp_path / "link", ROOT / "docs" / ".."):
        with pytest.raises(SourceError, match="is this very repository"):
            adopt.adopt(tree)
    assert (ROOT / "noxfile.py").is_file()


def test_tables(tmp_path: Path) -> None:
    """Of our pyproject.toml a tree gets the tables that concern the wheel, beside what it has; a second time, none twice."""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "vendor").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("from .llama_cpp import *\n")
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n[project.scripts]\nx = "x:main"\n')
    for _ in range(2):
        adopt.adopt(tmp_path)
        tables = tomllib.loads(project.read_text())
        ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert tables["project"] == {"name": "x", "scripts": {"x": "x:main"}, "entry-points": ours["project"]["entry-points"]}
        assert tables["variant"] == ours["variant"]
    assert (tmp_path / "llama_cpp" / "__pyinstaller" / "hook-llama_cpp.py").is_file()
