"""Build the image of ``docker/`` with buildah, and serve a model with it: a chroot runs its commands, so no container is needed.

The base image is a Debian of debootstrap's, with what this machine needs to reach the package index. The wheels come from an
index of ``dist/`` on a loopback server.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CommandError, UsageError
from ..terminal import disk, process
from ..terminal.console import console
from ..upstream.source import ROOT
from . import debian, reach

_SUITE = "bookworm"
_BASE, _IMAGE = "localhost/debian", "localhost/llama"
#: A chroot, since containers want more of a kernel than a build machine may give; the host's network, for the loopback index.
_HOW = ("--isolation", "chroot", "--network", "host")
_PATIENCE = 120.0  # seconds until the server must answer
_PROMPT = {"prompt": "the he in er", "max_tokens": 8, "temperature": 0.0}


def build_and_serve(address: str, label: str, build_dir: Path, env: dict[str, str], device: str) -> str:
    """Build the image with the wheel of backend `label` from the index at `address`, run it, and ask it for tokens.

    env: variables of the container. device: tokens must come from one whose name begins so, if any is given.
    Returns the doctor's verdict there.

    Raises:
        UsageError: this is not root, or no Debian.
        ToolchainError: buildah or debootstrap is not here; names its package.
        CommandError: the image does not build, or does not serve.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "Only root can do this: it takes a chroot. Nothing was done.", "Run it as root; or docker as the file says."
        )
    folder, log = build_dir / "image", build_dir / "logs" / "image.log"
    disk.remove(log)
    base = _base(folder, log)
    with tempfile.TemporaryDirectory(dir=folder) as store:  # it takes a gigabyte
        buildah = _Buildah(Path(store), log)
        _build(buildah, base, {"BASE": _BASE, "INDEX": address, "VARIANT": label})
        return _served(buildah, env, device)


def _build(buildah: _Buildah, base: Path, given: dict[str, str]) -> None:
    container = buildah.printed("from", "scratch")
    buildah("add", "--quiet", container, base, "/")
    buildah("config", *_each("--env", reach.variables()), container)
    buildah("commit", "--quiet", "--rm", container, _BASE)
    file = ROOT / "docker" / "Containerfile"
    # Without --format docker, buildah leaves out HEALTHCHECK.
    buildah("build", *_HOW, "--format", "docker", *_each("--build-arg", given), "--file", file, "--tag", _IMAGE, ROOT / "docker")


def _each(option: str, values: Mapping[str, str]) -> list[str]:
    """The option before each ``NAME=VALUE``."""
    return [word for name, value in values.items() for word in (option, f"{name}={value}")]


class _Buildah:
    """buildah with a store of its own: nothing of this machine's images is seen or changed."""

    def __init__(self, store: Path, log: Path) -> None:
        self.log = log
        # vfs: it works on every file system.
        where: list[str | Path] = ["--storage-driver", "vfs", "--root", store / "root", "--runroot", store / "run"]
        self.command: list[str | Path] = [debian.program("buildah", "buildah"), *where]

    def __call__(self, *words: str | Path) -> None:
        process.command([*self.command, *words], log=self.log, remedy=f"The whole output is in {self.log}.")

    def printed(self, *words: str | Path) -> str:
        """What a short command prints.

        Raises:
            CommandError: it failed.
        """
        done = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise CommandError(f"`buildah {words[0]}` failed: {done.stderr.strip()[-500:]}", f"See {self.log}.")
        return done.stdout.strip()


def _base(folder: Path, log: Path) -> Path:
    """A root of Debian, made once."""
    base = folder / "base"
    if not base.is_dir():
        program = debian.program("debootstrap", "debootstrap")
        with disk.replacing(base) as part:
            remedy = "This takes a Debian or Ubuntu whose archive can be reached."
            process.command([program, "--variant=minbase", _SUITE, part, debian.archive()], log=log, remedy=remedy)
    reach.lay(base)
    return base


def _model(file: Path, log: Path) -> None:
    script = "import sys; from llama_cpp._doctor import tiny; tiny.write(sys.argv[1])"
    process.command([sys.executable, "-c", script, file], log=log, cwd=ROOT)
    file.chmod(0o644)


def _served(buildah: _Buildah, env: dict[str, str], device: str) -> str:
    """Run the image's own entry point with a model, as `docker run` would; its health check, tokens, and the doctor."""
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        models.chmod(0o755)  # the image's user reads it
        _model(models / "model.gguf", buildah.log)
        return _asked_all(buildah, models, env, device)


def _asked_all(buildah: _Buildah, models: Path, env: dict[str, str], device: str) -> str:
    container = buildah.printed("from", _IMAGE)
    port = _free_port()
    config = json.loads(buildah.printed("inspect", "--type", "image", _IMAGE))["Docker"]["config"]
    run = [*_HOW, *_each("--env", env | {"PORT": str(port)}), "--volume", f"{models}:/models:ro", container, "--"]
    console.print(f"serves as {config['User']}: {' '.join([*config['Entrypoint'], *config['Cmd']])}")
    with _background([*buildah.command, "run", *run, *config["Entrypoint"], *config["Cmd"]], buildah.log) as server:
        known = _asked(f"http://127.0.0.1:{port}/v1/models", None, server, buildah.log)
        answer = _asked(f"http://127.0.0.1:{port}/v1/completions", _PROMPT, server, buildah.log)
        health = config["Healthcheck"]["Test"]
        buildah("run", *run, *health[1:])  # its first word is CMD
    console.print(f"{known['data'][0]['id']}: {answer['usage']['completion_tokens']} tokens")
    if not answer["usage"]["completion_tokens"]:
        raise CommandError("The image serves no tokens.", f"See {buildah.log}.")
    doctor = [*config["Entrypoint"], "llama_cpp", "doctor", "--json", "--model", "/models/model.gguf"]
    verdict: dict[str, Any] = json.loads(buildah.printed("run", *run, *doctor))["verdict"]
    if verdict["code"] or (device and f" {device}" not in verdict["text"]):
        raise CommandError(f"The image's doctor says: {verdict['text']} {verdict['wrong']}", f"See {buildah.log}.")
    return f"The image's doctor says: {verdict['text']}"


@contextlib.contextmanager
def _background(command: list[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside this one; it and its children are ended at the end."""
    with log.open("ab") as file:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        try:
            yield running
        finally:
            process.end(running)


def _asked(url: str, body: object, server: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """The server's answer; waits for one.

    Raises:
        CommandError: the server ended, or answers too late or with an error.
    """
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + _PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise CommandError(f"The image's server answers {error.code}: {error.read()[:300]!r}", f"See {log}.") from error
        except OSError:
            time.sleep(0.5)
    raise CommandError("The image's server does not answer.", f"See {log}.")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number
