"""Folders for wheels and pages, and a loopback server for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installers import real as real_wheels
from tests.installers.tools import publish, small_wheels
from variants.index import serve


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@contextlib.contextmanager
def serving(site: Path) -> Iterator[str]:
    """The site's address while a server runs."""
    with serve.server(site, 0) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http_server.server_port}/"
        finally:
            http_server.shutdown()
            thread.join()


@pytest.fixture
def url(site: Path) -> Iterator[str]:
    """The address of ``simple/`` of a running server; the site may be made afterwards."""
    (site / "simple").mkdir(parents=True)
    (site / "simple" / "index.html").touch()
    with serving(site) as address:
        (site / "simple" / "index.html").unlink()
        yield f"{address}simple/"


@pytest.fixture(scope="session")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A site with every label of the matrix on its platforms, in two versions, and its address. Not to be changed."""
    folder = tmp_path_factory.mktemp("offer")
    small_wheels(folder / "dist", folder / "work", "9.9.6")
    small_wheels(folder / "dist", folder / "work")
    publish(folder / "dist", folder / "site")
    with serving(folder / "site") as address:
        yield folder / "site", address


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """dist/, site/ and address of :func:`tests.installers.real.offer`. Not to be changed."""
    dist, site = real_wheels.offer(tmp_path_factory.mktemp("real"))
    with serving(site) as address:
        yield dist, site, address
