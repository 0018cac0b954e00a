"""Folders for wheels and pages, and a loopback server for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from variants import serve


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def url(site: Path) -> Iterator[str]:
    """The running server's address; start it after the first index."""
    (site / "simple").mkdir(parents=True)
    (site / "simple" / "index.html").touch()
    with serve.server(site, 0) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}/simple/"
        http_server.shutdown()
        thread.join()
