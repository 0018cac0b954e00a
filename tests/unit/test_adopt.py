"""Adoption refuses what it would destroy."""

from __future__ import annotations

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
