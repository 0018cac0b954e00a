"""A machine as an installer sees it: platform, processor, GPUs and their drivers. This one, or one that is described."""

from __future__ import annotations

import functools
import os
import platform as host
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import archspec.cpu
import msgspec
from packaging import tags
from packaging.version import Version

from ..errors import UsageError
from ..platforms import PLATFORMS
from ..wheel import budget

_LINUX = re.compile(r"(?P<libc>many|musl)linux_(?P<major>\d+)_(?P<minor>\d+)_(?P<arch>\w+)")
_MACOS = re.compile(r"macosx_(?P<major>\d+)_(?P<minor>\d+)_(?P<arch>x86_64|arm64)")
_WINDOWS = re.compile(r"win_(?P<arch>amd64|arm64)|win32")
_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}  # PEP 600, "Legacy manylinux tags"
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_KFD = Path("/sys/class/kfd/kfd/topology/nodes")  # of Linux' driver for AMD's GPUs


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine and a row of the machine table both tell; :class:`Machine` says what each means."""

    driver: str | None = None
    sm: tuple[str, ...] = ()
    gfx: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    cpu: str | None = None
    preview: bool = True


class Machine(Hardware, frozen=True):
    """What decides which wheel fits.

    `platform`: the newest wheel platform that it runs. `python`: as in ``3.12``. `driver`: newest CUDA version of NVIDIA's driver,
    as in ``12.8``; `sm`: compute capability of each NVIDIA GPU, as in ``8.6``. `gfx`: AMD's architectures (``gfx1100``).
    `optional`: namespaces whose provider is asked although it is optional (PEP 850). `cpu`: the processor's name in archspec.
    `preview`: uv's preview feature for variants is on. `notes`: how it was found out, one line a fact."""

    platform: str = PLATFORMS["linux_x86_64"].newest
    python: str = "3.12"
    notes: tuple[str, ...] = ()

    @property
    def arch(self) -> str:
        """Architecture, the last part of the platform: ``x86_64``, ``aarch64``, ``arm64``, ``amd64``."""
        return re.sub(r"^(?:(?:many|musl)linux_\d+_\d+|macosx_\d+_\d+|win)_", "", self.platform)

    def describe(self) -> str:
        """One line for people."""
        parts = [self.platform, f"Python {self.python}"]
        parts += [self.cpu] if self.cpu else []
        if self.driver or self.sm:
            parts.append(
                "NVIDIA "
                + ", ".join(f"SM {sm}" for sm in self.sm)
                + (f", driver for CUDA {self.driver}" if self.driver else ", driver unknown")
            )
        if self.gfx:
            parts.append(f"AMD {', '.join(self.gfx)}")
        gpu = self.driver or self.sm or self.gfx
        return " · ".join(parts if gpu else [*parts, "no GPU with a provider"])


class Option(msgspec.Struct, frozen=True):
    """How a fact of :class:`Hardware` is given on a command line."""

    metavar: str
    help: str
    repeated: bool = False


#: By the fact's name.
OPTIONS = {
    "driver": Option("CUDA", "NVIDIA's driver, by the newest CUDA that it runs, as in 12.8"),
    "sm": Option("SM", "compute capability of an NVIDIA GPU, as in 8.6 (again for each)", repeated=True),
    "gfx": Option("GFX", "architecture of an AMD GPU, as in gfx1100 (again for each)", repeated=True),
    "optional": Option("NAMESPACE", "a namespace whose provider is asked although it is optional: amd", repeated=True),
    "cpu": Option("CPU", "processor by archspec's name, as in haswell"),
}


def checked(machine: Machine) -> Machine:
    """The same machine with its platform's short name replaced by the wheel platform.

    Raises:
        UsageError: a fact is not written as it should be; names the option.
    """
    known = PLATFORMS.get(machine.platform)
    platform = known.newest if known else machine.platform
    if not any(pattern.fullmatch(platform) for pattern in (_LINUX, _MACOS, _WINDOWS)):
        raise UsageError(
            f'--platform: nobody knows the platform "{platform}".',
            f"Known: {', '.join(PLATFORMS)}, or as in manylinux_2_28_x86_64, musllinux_1_2_x86_64, macosx_13_0_arm64.",
        )
    for option, value in (("--driver", machine.driver), *(("--sm", sm) for sm in machine.sm), ("--python", machine.python)):
        if value is not None and not _VERSION.fullmatch(value):
            raise UsageError(f'{option}: "{value}" is no MAJOR.MINOR.', f"Write it as in {option} 12.8.")
    for value in machine.gfx:
        if not re.fullmatch(r"gfx[0-9a-f]+", value):
            raise UsageError(f'--gfx: "{value}" is no AMD architecture.', "Write it as in --gfx gfx1100.")
    if machine.cpu is not None and machine.cpu not in archspec.cpu.TARGETS:
        raise UsageError(
            f'--cpu: nobody knows the processor "{machine.cpu}".', "Use a name of archspec, as in haswell, zen4, x86_64_v3, m1."
        )
    return msgspec.structs.replace(machine, platform=platform)


def detect() -> Machine:
    """This machine, by the means of uv and the providers: ``nvidia-smi``, the kernel's list of GPUs, their variables, archspec."""
    notes: list[str] = []
    driver, sm = _nvidia(notes)
    gfx = _amd(notes)
    cpu = str(archspec.cpu.host().name)
    notes.append(f"processor {cpu}: archspec")
    known = (_LINUX, _MACOS, _WINDOWS)
    platform = next((tag for tag in tags.platform_tags() if any(pattern.fullmatch(tag) for pattern in known)), "unknown")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    feature = _uv_feature(notes)
    return Machine(platform, python, tuple(notes), driver=driver, sm=sm, gfx=gfx, cpu=cpu, preview=feature)


def wheel_tags(machine: Machine) -> dict[str, int]:
    """The wheel tags that this machine takes with CPython (PEP 425, PEP 600, PEP 656), and the rank of each, the best 0."""
    return _tags(machine.platform, machine.python)


@functools.cache
def _tags(platform: str, python: str) -> dict[str, int]:
    version = tuple(int(part) for part in python.split("."))
    platforms = list(_platforms(platform))
    interpreter = f"cp{version[0]}{version[1]}"
    found = [*tags.cpython_tags(version, platforms=platforms), *tags.compatible_tags(version, interpreter, platforms)]
    return {tag: rank for rank, tag in enumerate(dict.fromkeys(map(str, found)))}


def _platforms(newest: str) -> Iterator[str]:
    """Every platform whose wheels run where those for `newest` do."""
    if match := _MACOS.fullmatch(newest):
        yield from tags.mac_platforms((int(match["major"]), int(match["minor"])), match["arch"])
    elif match := _LINUX.fullmatch(newest):
        major, oldest = int(match["major"]), 0 if match["libc"] == "musl" else 5 if match["arch"] in ("x86_64", "i686") else 17
        for minor in range(int(match["minor"]), oldest - 1, -1):
            yield f"{match['libc']}linux_{major}_{minor}_{match['arch']}"
            if match["libc"] == "many" and (major, minor) in _LEGACY:
                yield f"{_LEGACY[major, minor]}_{match['arch']}"
        yield f"linux_{match['arch']}"
    else:
        yield newest


_SPACES = " \t\n\r\f\v"


def _forced_driver(text: str) -> str | None:
    """A driver's CUDA as uv 0.13 reads it in the provider's variable: a version (PEP 440), of which two numbers count.
    It lists all versions from 11 on, `M` and `M.0` to `M.20` of each major, and gives up where those are more than 1024."""
    try:
        release = (*Version(text.strip(_SPACES)).release, 0) if text.isascii() else ()
    except ValueError:
        return None
    if not release or max(release) >= 1 << 64 or (release[0] - 11) * 22 + release[1] + 2 > 1024:
        return None
    return f"{release[0]}.{release[1]}"


def _forced_sm(text: str) -> str | None:
    """A compute capability as uv 0.13 reads it there: two numbers of 8 bits."""
    numbers = [part.strip() for part in text.split(".")]
    if len(numbers) != 2 or not all(re.fullmatch(r"\+?[0-9]{1,1000}", number) and int(number) < 256 for number in numbers):
        return None
    return ".".join(str(int(number)) for number in numbers)


def _nvidia(notes: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """CUDA version of NVIDIA's driver, and compute capabilities: the provider's variables, else the questions that uv asks."""
    forced = os.environ.get("NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION")
    forced_sm = os.environ.get("NV_VARIANT_PROVIDER_FORCE_SM_ARCH")
    if forced or forced_sm:
        notes.append("NVIDIA: NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION and _FORCE_SM_ARCH, set in the environment")
        driver, sm = _forced_driver(forced or ""), _forced_sm(forced_sm or "")
        if not (driver and sm):
            notes.append("NVIDIA: both must be set, as in 12.8 and 8.6; as they are, uv sees no usable GPU")
        return driver, (sm,) if driver and sm else ()
    tool = shutil.which("nvidia-smi")
    if tool is None:
        notes.append("NVIDIA: there is no nvidia-smi on PATH")
        return None, ()
    if _ask(tool, "--query-gpu=driver_version", "--format=csv,noheader") is None:
        notes.append(f"NVIDIA: {tool} fails (run it to see why): no usable driver")
        return None, ()
    version = re.search(r"CUDA Version\s*: ([0-9]{1,4}\.[0-9]{1,4})", _ask(tool, "-q") or "")
    capabilities = re.findall(_VERSION, _ask(tool, "--query-gpu=compute_cap", "--format=csv,noheader") or "")
    notes.append(f"NVIDIA: {tool}")
    return version[1] if version else None, tuple(dict.fromkeys(capabilities))


def _amd(notes: list[str], nodes: Path = _KFD) -> tuple[str, ...]:
    """AMD's architectures, as rocm-bootstrap finds them on Linux: its variables, then the kernel driver's list of GPUs."""
    if os.environ.get("ROCM_BOOTSTRAP_DISABLE_DETECTION") == "1":
        notes.append("AMD: ROCM_BOOTSTRAP_DISABLE_DETECTION")
        return ()
    forced = [word.strip() for word in os.environ.get("ROCM_BOOTSTRAP_FORCE_GFX_ARCH", "").split(",")]
    if any(forced):
        notes.append("AMD: ROCM_BOOTSTRAP_FORCE_GFX_ARCH")
        return tuple(dict.fromkeys(filter(None, forced)))
    found = []
    for file in sorted(nodes.glob("*/properties"), key=lambda file: int(file.parent.name) if file.parent.name.isdecimal() else -1):
        if match := re.search(r"(?m)^gfx_target_version (\d+)$", file.read_text(encoding="ascii", errors="replace")):
            version = int(match[1])  # 90402 is gfx942; 0 is a processor
            found += [f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"] if version else []
    notes.append(f"AMD: {nodes}" if found else "AMD: the kernel lists no GPU of AMD's")
    return tuple(dict.fromkeys(found))


def _uv_feature(notes: list[str]) -> bool:
    """Is uv's preview feature for variants on? Variables, then the user's uv.toml (what a project's own file says is not asked)."""
    if "wheel-variants" in os.environ.get("UV_PREVIEW_FEATURES", ""):
        notes.append("uv: UV_PREVIEW_FEATURES has wheel-variants")
        return True
    if os.environ.get("UV_PREVIEW", "").lower() in ("1", "true", "yes", "on"):
        notes.append("uv: UV_PREVIEW switches every preview feature on")
        return True
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    home = Path(os.environ["APPDATA"]) if sys.platform == "win32" and "APPDATA" in os.environ else home
    file = home / "uv" / "uv.toml"
    if file.is_file():
        try:
            settings = budget.toml(file, dict[str, object])
        except (OSError, ValueError):
            settings = {}
        if settings.get("preview") is True or "wheel-variants" in str(settings.get("preview-features", "")):
            notes.append(f"uv: {file} switches wheel-variants on")
            return True
    notes.append("uv: wheel-variants is off (no UV_PREVIEW_FEATURES, and no uv.toml of yours that has it)")
    return False


def _ask(*command: str) -> str | None:
    """A short command's standard output, or None where it fails or takes more than ten seconds."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def system() -> str:
    """The operating system by its own name, and the architecture."""
    try:
        name = host.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = host.system()
    return f"{name}, {host.machine()}"
