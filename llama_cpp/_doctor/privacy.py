"""Take out of a text what says whose machine it is, so that it can be pasted into a bug report."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import sys
import sysconfig

_TOO_COMMON = {"root", "user", "localhost", "debian", "ubuntu", "linux", "runner", "admin", "python", "llama"}


def clean(text: str) -> str:
    """`text` with short names for folders (SITE: site-packages, ENV: the environment, ~: home), without names of user and host,
    without credentials in addresses."""
    for folder, short in _folders():
        text = re.sub(re.escape(folder) + r"(?![\w.-])", lambda _: short, text)  # noqa: B023
    text = re.sub(r"(?:/home|/Users|[A-Za-z]:\\Users)([/\\])[^/\\\s'\"]+", "~", text)
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1", text)
    for name, short in _names():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", short, text)
    return text


def cleaned(value: object) -> object:
    """The same for data: lists, and dicts with their keys."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    return [cleaned(one) for one in value] if isinstance(value, (list, tuple)) else value


def _folders() -> list[tuple[str, str]]:
    """Folders with what stands for each, the longest first."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    pairs = [(here, "SITE"), (sys.prefix, "ENV"), (sys.base_prefix, "PYTHON"), (os.path.expanduser("~"), "~")]
    pairs += [(sysconfig.get_paths()["purelib"], "SITE"), (os.path.realpath(sys.executable), "PYTHON/python")]
    pairs += [(os.path.realpath(folder), short) for folder, short in pairs]
    return sorted(
        {(folder, short) for folder, short in pairs if len(folder) > 1 and folder != "/usr"}, key=lambda pair: -len(pair[0])
    )


def _names() -> list[tuple[str, str]]:
    names = [(platform.node(), "HOST"), (platform.node().partition(".")[0], "HOST")]
    with contextlib.suppress(ImportError, KeyError, OSError):  # a number without a name, as in containers
        names.append((getpass.getuser(), "USER"))
    return [(name, short) for name, short in names if len(name) > 2 and name.lower() not in _TOO_COMMON]
