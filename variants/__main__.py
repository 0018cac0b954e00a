"""The task library's command line, ``python -m variants STEP``; nox sessions are thin wrappers around it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import pkgutil
import sys
from collections.abc import Sequence

from rich.markup import escape

from . import commands
from .commands.group import Steps, pass_over
from .errors import DiskError, VariantsError
from .terminal import process
from .terminal.console import console, styled

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; every failure that a user can mend ends as one screen of text and a code of its own (errors.py)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may have characters that this terminal has not
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    process.terminate_as_exception()
    try:
        return int(options.do(options) or 0)
    except VariantsError as error:
        if options.traceback:
            raise
        return _tell(error, options)
    except OSError as error:
        if options.traceback or error.errno not in (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG):
            raise
        return _tell(_disk_error(error), options)
    except KeyboardInterrupt:
        return _interrupted("Interrupted", 130)
    except process.Terminated:
        return _interrupted("Ended by SIGTERM", 143)


def parser() -> argparse.ArgumentParser:
    """The command line: the steps of every group in :mod:`.commands`."""
    whole = argparse.ArgumentParser(
        prog="python -m variants",
        description="Build, verify and test variant wheels of llama-cpp-python. Each step is also a nox session (`nox -l`).",
    )
    steps = Steps(whole)
    for module in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        if configure := getattr(importlib.import_module(f".commands.{module}", __package__), "configure", None):
            configure(steps)
    pass_over(steps.by_name["build"], steps.by_name["test"])
    pass_over(steps.by_name["test"], steps.by_name["build"])
    return whole


def _tell(error: VariantsError, options: argparse.Namespace) -> int:
    """Print an error; beside what a program reads (`data`), to the other stream."""
    with contextlib.redirect_stdout(sys.stderr) if getattr(options, "data", False) else contextlib.nullcontext():
        console.print(styled(f"\n[bold red]error:[/] {escape(error.what)}\n{escape(error.remedy)}"))
    return error.exit_code


def _interrupted(what: str, code: int) -> int:
    console.print(f"\n{what}. Nothing unfinished was left in dist/; the same command goes on where this one stopped.")
    return code


def _disk_error(error: OSError) -> VariantsError:
    where = error.filename or "a file"
    if error.errno in _FULL:
        return DiskError(f"The disk is full: {where} could not be written.", "Free some space and run the same command again.")
    return DiskError(f"{where} cannot be written: {error.strerror}.", "Work in a checkout that you may write to.")


if __name__ == "__main__":
    sys.exit(main())
