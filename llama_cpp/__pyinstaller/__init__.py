"""Where PyInstaller finds what it must know of this package (entry point ``pyinstaller40``, ``hook-dirs``)."""

from __future__ import annotations

import os


def hook_dirs() -> list[str]:
    """The folders with hooks of ours: this one."""
    return [os.path.dirname(os.path.abspath(__file__))]
