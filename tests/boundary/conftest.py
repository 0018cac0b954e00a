"""The tests of one compiler's plugin run in one process, where it is compiled once."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into the group of its plugin (pytest-xdist's ``--dist loadgroup``)."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        compiler = parameters.params.get("fake") if parameters else None
        item.add_marker(pytest.mark.xdist_group(str(compiler or "alone")))
