"""A process that has other people's modules imported, and forks for each command of a checkout.

Most of the time that ``python -m variants`` takes to start goes into these imports. The modules of the checkout are its own: every
fork imports them anew. Run as a script: a job a line on standard input (JSON), its exit code a line on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

#: What the command line imports, and what that imports, of other people.
THEIRS = (
    "archspec.cpu", "email.parser", "filelock", "http.server", "msgspec", "packaging.requirements", "packaging.tags",
    "platformdirs", "rich.console", "rich.markup", "rich.progress", "rich.table", "ssl", "urllib.request",
    "variantlib.pyproject_toml", "variantlib.resolver.lib", "variantlib.resolver.sorting", "variantlib.variant_dist_info",
    "variantlib.variants_json",
)  # fmt: skip
SECONDS = 60


class Forks:
    """The process, from this side."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, arguments: list[str], checkout: Path, env: dict[str, str], out: Path) -> subprocess.CompletedProcess[str]:
        """``python -m variants`` with these arguments, in the checkout; `out`: a folder for what it prints."""
        files = [out / "stdout.txt", out / "stderr.txt"]
        job = {"arguments": arguments, "cwd": str(checkout), "env": env, "files": [str(file) for file in files]}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        stdout, stderr = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(arguments, code, stdout, stderr)

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=SECONDS)


def _serve() -> None:
    for name in THEIRS:
        importlib.import_module(name)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            _command(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _command(job: dict[str, object]) -> None:
    """Become the command; never returns."""
    arguments, cwd, env, files = job["arguments"], job["cwd"], job["env"], job["files"]
    assert isinstance(arguments, list)
    assert isinstance(cwd, str)
    assert isinstance(env, dict)
    assert isinstance(files, list)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    for number, path in enumerate([os.devnull, *files]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.path.insert(0, cwd)
    sys.argv = ["variants", *arguments]
    signal.alarm(SECONDS)
    runpy.run_module("variants", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve()
