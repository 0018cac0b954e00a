"""What writes the tiny model lies with the tests of inference, which run on their own. The tests of one compiler's plugin run in
one process, where it is compiled once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into the group of its plugin (pytest-xdist's ``--dist loadgroup``)."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        compiler = parameters.params.get("fake") if parameters else None
        item.add_marker(pytest.mark.xdist_group(str(compiler or "alone")))
