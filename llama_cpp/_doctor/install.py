"""Which wheel is installed, by whom, whether it is whole, and whether an installer would take it again for this machine.

The judgement goes as far as the wheel's own variant.json (PEP 825); whoever knows the index asks `explain` of the task library.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import platform
import re
import struct
import sys
from importlib import metadata
from typing import Any, Callable, NamedTuple

from .._hardware import Hardware, libc

_NAME = "llama_cpp_python"


class Installed(NamedTuple):
    """`label`: "" for the plain wheel. `properties`: by namespace and feature. `source`: where from, in words."""

    version: str
    tags: list[str]
    label: str
    properties: dict[str, dict[str, list[str]]]
    installer: str
    source: str
    distribution: Any

    @property
    def kind(self) -> str:
        """What the wheel is built for: its label, its local version (indexes of one backend), its plugin, or else ``cpu``."""
        plugins = [re.search(r"ggml-(?!base|cpu|[0-9a-f]{8}\b)(\w+)\.(?:so|dll)$", file) for file, _ in recorded(self.distribution)]
        named = self.label or self.version.partition("+")[2]
        return named or next((match[1] for match in plugins if match), "cpu")

    @property
    def platform(self) -> str:
        return self.tags[0].rpartition("-")[2] if self.tags else ""


def read() -> Installed | None:
    """The distribution that Python finds first, or None where the package was only copied here."""
    try:
        found = metadata.distribution(_NAME)
    except metadata.PackageNotFoundError:
        return None
    tags = re.findall(r"(?m)^Tag: (\S+)", found.read_text("WHEEL") or "")
    label, properties = next(iter(_json(found, "variant.json").get("variants", {}).items()), ("", {}))
    installer = (found.read_text("INSTALLER") or "").strip()
    return Installed(found.version or "?", tags, label, properties, installer, _source(found), found)


def _json(distribution: Any, name: str) -> dict[str, Any]:
    try:
        found = json.loads(distribution.read_text(name) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _source(distribution: Any) -> str:
    """From where (direct_url.json, PEP 610), without the address itself."""
    direct = _json(distribution, "direct_url.json")
    url = str(direct.get("url", ""))
    if not url:
        return "from an index"
    if "vcs_info" in direct:
        return "from a repository"
    if "dir_info" in direct:
        return "from a folder" + (", editable" if direct["dir_info"].get("editable") else "")
    return "from a file" if url.startswith("file:") else "from the address of a file"


def doubles() -> list[str]:
    """Versions of every distribution of this name on the path; more than one is an accident."""
    found = {}
    for one in metadata.distributions():
        if re.sub(r"[-_.]+", "_", one.metadata["Name"] or "").lower() == _NAME:
            found[os.path.realpath(str(one.locate_file("")))] = one.version or "?"
    return list(found.values())


def recorded(distribution: Any) -> list[tuple[str, str]]:
    """Files and hashes in RECORD (PEP 376). (From Python 3.12 on, `files` leaves out what is missing.)"""
    rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return [(row[0].replace("\\", "/"), row[1]) for row in rows if len(row) > 1]


def damaged(installed: Installed, waiting: Callable[[], None]) -> tuple[int, list[str]]:
    """How many files RECORD lists of the package, and what is wrong with them."""
    wrong, count = [], 0
    for file, digest in recorded(installed.distribution):
        if not file.startswith("llama_cpp/") or not digest:
            continue
        count += 1
        waiting()
        sha256 = hashlib.sha256()
        try:
            with open(str(installed.distribution.locate_file(file)), "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    sha256.update(block)
        except OSError:
            wrong.append(f"{file} is missing")
            continue
        if "sha256=" + base64.urlsafe_b64encode(sha256.digest()).rstrip(b"=").decode() != digest:
            wrong.append(f"{file} was changed")
    return count, wrong


# -- tags --------------------------------------------------------------------------------------------------------------------


def misfit(tags: list[str]) -> str:
    """Why this Python could not take a wheel with these tags; "" where it could, or the tags say nothing."""
    bits, machine = struct.calcsize("P") * 8, platform.machine().lower()
    reasons = []
    for tag in tags:
        name = tag.rpartition("-")[2]
        system = {"win": "win32", "macosx": "darwin"}.get(re.match(r"[a-z]*", name)[0], "linux")  # type: ignore[index]
        if name == "any":
            return ""
        arch = re.sub(r"^(?:(?:many|musl)?linux(?:_\d+_\d+|\d+)?_|macosx_\d+_\d+_|win_)", "", name)
        if system != sys.platform:
            reasons.append(f"it is for another system ({name})")
        elif not _same(arch, machine):
            reasons.append(f"it is for another processor ({arch}) than this Python ({machine})")
        elif bits == 32 and arch not in ("i686", "win32", "armv7l"):
            reasons.append("it is for 64 bits, and this Python has 32")
        elif name.startswith("musllinux") and libc() != "musl":
            reasons.append(f"it is for musl, and this Python is for {libc()}")
        elif name.startswith("manylinux") and libc() == "musl":
            reasons.append("it is for glibc, and this Python is for musl")
        else:
            wants = re.match(r"manylinux_(\d+)_(\d+)_", name)
            has = tuple(int(part) for part in re.findall(r"\d+", libc())[:2])
            if not (wants and has and has < (int(wants[1]), int(wants[2]))):
                return ""
            reasons.append(f"it wants glibc {wants[1]}.{wants[2]}, and here is {libc()}")
    return reasons[0] if reasons else ""


def _same(arch: str, machine: str) -> bool:
    names = [{"x86_64", "amd64"}, {"aarch64", "arm64"}, {"universal2", "x86_64", "arm64"}]
    return arch == machine or any(arch in both and machine in both for both in names)


# -- would it be taken again? ------------------------------------------------------------------------------------------------


def unmet(properties: dict[str, dict[str, list[str]]], hardware: Hardware) -> list[str]:
    """Properties that this machine does not have, each in words. uv's rules: every feature, any of its values."""
    missing = []
    nvidia = properties.get("nvidia", {})
    lowest = min((_version(value) for value in nvidia.get("cuda_version_lower_bound", [])), default=None)
    if lowest:
        wants = "{}.{}".format(*lowest)
        if not hardware.cuda:
            missing.append(f"a driver for CUDA {wants} or newer, and nvidia-smi shows none")
        elif _version(hardware.cuda) < lowest:
            missing.append(f"a driver for CUDA {wants} or newer, and this one is for {hardware.cuda}")
    wanted = nvidia.get("sm_arch", [])
    best = max((_version(gpu.compute) for gpu in hardware.gpus if gpu.vendor == "NVIDIA" and gpu.compute), default=None)
    if wanted and best is None:
        missing.append("an NVIDIA GPU, and nvidia-smi shows none")
    elif wanted and best and not set(wanted) & {f"{best[0]}0_virtual", *(f"{best[0]}{minor}_real" for minor in range(best[1] + 1))}:
        missing.append("a GPU of {}, and this one is {}.{}".format(", ".join(wanted), *best))
    gfx = properties.get("amd", {}).get("gfx_arch", [])
    if gfx and not any(gpu.compute in gfx for gpu in hardware.gpus):
        missing.append("a GPU of {}".format(", ".join(gfx)))
    return missing


def _version(text: str) -> tuple[int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", text)[:2]] + [0, 0]
    return numbers[0], numbers[1]


def variants_are_on() -> bool:
    """Is uv's preview feature for variants on? Its variables, then the user's uv.toml."""
    if "wheel-variants" in os.environ.get("UV_PREVIEW_FEATURES", "") or os.environ.get("UV_PREVIEW", "").lower() in ("1", "true"):
        return True
    home = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    try:
        with open(os.path.join(home, "uv", "uv.toml"), encoding="utf-8") as file:
            return "wheel-variants" in file.read()
    except (OSError, ValueError):
        return False


def has_code(toolkit: dict[str, Any], compute: str) -> bool | None:
    """Has a plugin that was built with `toolkit` (plugin.json) code for a GPU? None where neither says. CUDA's machine code runs on
    its own major and this minor or newer; PTX on everything newer."""
    built = [str(one) for one in toolkit.get("architectures", [])]
    if not built or not compute:
        return None
    if compute.startswith("gfx"):
        return compute in built
    mine = _version(compute)
    numbers = [(int(one[:-1]), int(one[-1])) for one in (re.sub(r"\D", "", name) for name in built) if len(one) > 1]
    ptx = re.sub(r"\D", "", str(toolkit.get("ptx", "")))
    machine_code = any(major == mine[0] and minor <= mine[1] for major, minor in numbers)
    return machine_code or bool(len(ptx) > 1 and (int(ptx[:-1]), int(ptx[-1])) <= mine)
