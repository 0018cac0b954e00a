"""One picture of a user's first minute, from a real run in a terminal: install from an index, ask the doctor."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..errors import CommandError, UsageError
from ..terminal import process
from ..upstream.source import ROOT

WIDTH = 90  # columns
_INSTALL = "uv pip install --preview-features wheel-variants --index INDEX/simple/ llama-cpp-python"
_DOCTOR = "python -m llama_cpp doctor"
_TITLE = "Installing llama-cpp-python, and python -m llama_cpp doctor"
#: What a terminal obeys, but for colours (CSI … m).
_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\x1b\][^\x07]*\x07|\r")
#: A kernel's release says after the dash who built it: nobody's business.
_KERNEL = re.compile(r"(Linux \d+\.\d+\.\d+)-[\w.+-]+")
_LINK = re.compile(r"https?://[^\s\"'<]+")
_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
#: As rich wants it (Console.export_svg), with the reader's own fonts: a picture that fetches some is no picture.
_FORMAT = (
    f'<svg xmlns="{_SVG_NAMESPACE}" viewBox="0 0 {{width}} {{height}}" role="img" aria-label="{_TITLE}">\n'
    """<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace }}
.{unique_id}-matrix {{ font-size: {char_height}px; line-height: {line_height}px }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; font-weight: bold }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
)


def record(address: str, folder: Path) -> str:
    """What a terminal shows of both commands, colours included, in a new environment in `folder`. `address` is the index's.

    Raises:
        CommandError: the installation fails, or the doctor is not there.
        UsageError: there is no uv in this environment, no terminal on this system, or a path of this machine in what is printed.
    """
    env = process.environment(UV_NO_PROGRESS="1", PYTHONIOENCODING="utf-8", TERM="xterm-256color", COLUMNS=str(WIDTH))
    for name in ("NO_COLOR", "UV_PREVIEW_FEATURES", "UV_PYTHON", "PYTHONPATH"):  # nox sets UV_PYTHON to its own environment
        env.pop(name, None)
    uv = shutil.which("uv", path=env["PATH"])
    if uv is None:
        raise UsageError("There is no uv in this environment.", "Run through nox, or `pip install uv`.")
    _terminal([uv, "venv", "--clear", "--python", sys.executable, ".venv"], folder, env)
    env |= {"VIRTUAL_ENV": str(folder / ".venv"), "PATH": os.pathsep.join([str(folder / ".venv" / "bin"), env["PATH"]])}
    shown = []
    for line, codes in ((_INSTALL, {0}), (_DOCTOR, {0, 1})):  # 1: the CPU works, and a GPU does not
        words = [word.replace("INDEX/", address) for word in line.split()]
        printed = _terminal(words, folder, env, codes)
        if line == _DOCTOR and "Verdict" not in printed:  # Python's own exit code is 1 where the module is not there
            raise CommandError(
                f"`{line}` says nothing:\n{printed}", "Is the wheel in dist/ one of the current code? Build it again."
            )
        shown.append(f"\x1b[1;32m$\x1b[0m \x1b[1m{line}\x1b[0m\n{printed}")
    text = _KERNEL.sub(r"\1", "\n".join(shown).replace(address, "INDEX/").replace(str(folder), "~"))
    for private in (str(ROOT), str(Path.home()), str(folder.parent)):
        if f"{private.rstrip('/')}/" in text and private != "/":
            raise UsageError(f"The picture would show {private}.", f"Look for it in:\n{text}")
    return text


def _terminal(words: list[str], folder: Path, env: Mapping[str, str], codes: frozenset[int] | set[int] = frozenset({0})) -> str:
    """What a command prints on a terminal. Its progress, on stderr, is left out where it has other output."""
    try:
        import fcntl
        import pty
        import struct
        import termios
    except ImportError:
        raise UsageError("This system has no terminals that a program can open.", "Make the picture on Linux or macOS.") from None
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, WIDTH, 0, 0))
    doctor = words[-1] == "doctor"
    with subprocess.Popen(
        words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.DEVNULL if doctor else its
    ) as running:
        os.close(its)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(ours)
    text = _MOVES.sub("", b"".join(parts).decode("utf-8", "replace"))
    if running.returncode not in codes:
        command = " ".join(words)
        raise CommandError(f"`{command}` ended with {running.returncode}:\n{text}", f"Run it in {folder} to see why.")
    return text


def svg(recorded: str) -> str:
    """The picture of what :func:`record` returned: the same bytes for the same text, and nothing to be fetched.

    Raises:
        UsageError: an address stands in the text, which would be published.
    """
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor", force_terminal=True, legacy_windows=False
    )
    console.print(Text.from_ansi(recorded.strip("\n")), soft_wrap=False)
    picture = console.export_svg(title="", code_format=_FORMAT, unique_id="picture")
    picture = "".join(f"{line.rstrip()}\n" for line in picture.splitlines() if line.strip())
    if found := set(_LINK.findall(picture)) - {_SVG_NAMESPACE}:
        raise UsageError(f"The picture would show {', '.join(sorted(found))}.", "Show a name such as INDEX instead (record).")
    return picture
