"""Serve a site on 127.0.0.1 for trying it out, with Python's own server: what works there works on any static server."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path

from ..errors import UsageError
from ..terminal.console import console


class _Handler(http.server.SimpleHTTPRequestHandler):
    """One line a request, dimmed."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        console.print(f"      {format % args}", style="dim")


def server(site: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of `site` on the loopback address, not yet running; `port` 0 takes any free one.

    Raises:
        UsageError: there is no site, or the port is taken.
    """
    if not (site / "simple" / "index.html").is_file():
        raise UsageError(f"There is no index in {site}.", "Make it: `nox -s index`.")
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, directory=str(site)))
    except OSError as error:
        raise UsageError(
            f"Port {port} cannot be used: {error.strerror}.", "Name another: `--port 0` takes any free one."
        ) from error


def commands(site: Path, url: str) -> list[str]:
    """What to type, by installer; `url` is the site's address."""
    labels = sorted(path.name for path in (site / "backends").glob("*/") if path.name != "cpu")
    pip = "    pip install --only-binary=llama-cpp-python --extra-index-url"
    lines = []
    if labels:
        lines += [
            "  the best wheel for this machine:",
            f"    uv pip install --preview-features wheel-variants --index {url}simple/ llama-cpp-python",
        ]
    lines += ["  the plain wheel, with any installer:", f"{pip} {url}simple/ llama-cpp-python"]
    lines += [f"    uv pip install --index {url}simple/ llama-cpp-python"]
    if labels:
        lines += [
            f"  one backend ({', '.join(labels)}), with any installer:",
            f"{pip} {url}backends/{labels[0]}/simple/ llama-cpp-python",
        ]
    return [*lines, "  why this one:", f"    python -m variants explain {url}simple/", f"  for people:\n    {url}"]


def serve(site: Path, port: int) -> None:
    """Serve until interrupted.

    Raises:
        UsageError: see :func:`server`.
    """
    with server(site, port) as http_server:
        url = f"http://127.0.0.1:{http_server.server_port}/"
        console.print(f"Serving {site} at {url}. Try, in another terminal and a new environment:\n")
        for text in commands(site, url):
            console.print(text)
        console.print("\nCtrl-C ends it.")
        http_server.serve_forever()
