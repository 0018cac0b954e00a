"""PyInstaller's hook: what a frozen program needs of this package and what no import shows.

The core and every plugin (``lib``, opened by path), what other packages bring for the GPU plugin (NVIDIA's libraries), the report
of ``python -m llama_cpp``, and the distribution's metadata, which that report reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from importlib import metadata
from typing import Any, Iterable

from PyInstaller.depend import dylib
from PyInstaller.utils.hooks import copy_metadata, get_module_file_attribute, logger

package = os.path.dirname(get_module_file_attribute("llama_cpp"))
lib = os.path.join(package, "lib")


def plugin() -> dict[str, Any]:
    """What the wheel says of its GPU plugin (plugin.json); empty where it has none."""
    try:
        with open(os.path.join(lib, "plugin.json"), encoding="utf-8") as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return {}


def from_packages(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The libraries that other packages bring, to the same folders as in site-packages: there the loader looks for them."""
    roots = [os.path.dirname(package), *(entry for entry in sys.path if os.path.isabs(entry))]
    found = []
    for folder, names in facts.get("libraries", {}).items():
        for name in names:
            file = next(filter(os.path.isfile, (os.path.join(root, folder, name) for root in roots)), None)
            if file:
                found.append((file, folder))
            else:
                packages = " ".join(f'"{requirement}"' for requirement in facts.get("requires", []))
                logger.warning("llama_cpp: there is no %s/%s for the program (pip install %s)", folder, name, packages)
    return found


def leave_out(names: Iterable[str]) -> None:
    """Let PyInstaller collect no dependency of these names.

    It has such a list for NVIDIA's driver, and no way for a hook to add to it. Where the list is elsewhere some day, what is named
    here is collected, in the program's first folder: too much, and in nobody's way.
    """
    patterns = [re.escape(name) + "$" for name in names]
    with contextlib.suppress(AttributeError, TypeError):
        dylib.exclude_list = type(dylib.exclude_list)(dylib._excludes.union(patterns))


described = plugin()
files = sorted(os.listdir(lib))
binaries = [(os.path.join(lib, name), "llama_cpp/lib") for name in files if not name.endswith(".json")]
binaries += from_packages(described)
datas = [(os.path.join(lib, name), "llama_cpp/lib") for name in files if name.endswith(".json")]
with contextlib.suppress(metadata.PackageNotFoundError):  # a package that was copied, not installed
    datas += copy_metadata("llama_cpp_python")
hiddenimports = ["llama_cpp.__main__"]
if sys.platform != "darwin":  # there PyInstaller rewrites what a library needs, and wants links to each in the first folder
    # The libraries find each other where they are. The driver's (libvulkan.so.1) are those of the machine that runs the program.
    leave_out([*(os.path.basename(file) for file, _ in binaries), *described.get("system", [])])
    bindepend_symlink_suppression = [os.path.join("**", *folder.split("/"), "*") for folder in {folder for _, folder in binaries}]
