"""Small real wheels, and real installers kept away from every other index and from the user's settings."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from variants import matrix
from variants.choice import known
from variants.choice.known import Row
from variants.index import index
from variants.index.ledger import Line
from variants.platforms import PLATFORMS, Platform
from variants.steps import label
from variants.steps.assemble import CORE
from variants.terminal import disk
from variants.wheel import archive

ROOT = Path(__file__).parent.parent.parent
UV = str(Path(sys.executable).parent / "uv")
FEATURE = {"UV_PREVIEW_FEATURES": "wheel-variants"}
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.8\n{requires}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\n{build}Tag: py3-none-{platform}\n"
_GUARD = 'if __name__ == "__main__":\n    main()\n'


def wheel(
    dist: Path,
    version: str = "9.9.7",
    platform: str = "manylinux_2_17_x86_64",
    build: str = "",
    text: str = "plain",
    name: str = "llama_cpp_python",
    requires: Iterable[str] = (),
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """A wheel of a tiny llama_cpp (or another package) that says which one it is; `extra`: more files, by name in dist-info."""
    dist.mkdir(exist_ok=True, parents=True)
    info = f"{name}-{version}.dist-info"
    number = f"-{build}" if build else ""
    path = dist / f"{name}-{version}{number}-py3-none-{platform}.whl"
    header = METADATA.format(
        name=name, version=version, requires="".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    )
    package = "llama_cpp" if name == "llama_cpp_python" else name
    files = {
        f"{package}/__init__.py": f"WHICH = {text!r}\n".encode(),
        f"{package}/__main__.py": f"from {package} import WHICH\n\n\ndef main():\n    print(WHICH)\n\n\n{_GUARD}".encode(),
        f"{info}/METADATA": header.encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\nwhich-{package} = {package}.__main__:main\n".encode(),
        f"{info}/WHEEL": WHEEL.format(platform=platform, build=f"Build: {build}\n" if build else "").encode(),
        **{f"{info}/{key}": content for key, content in (extra or {}).items()},
    }
    archive.write(path, files, 1_700_000_000)
    return path


def publish(dist: Path, site: Path, **options: Any) -> list[Line]:
    """Make a site of the wheels in `dist`, by a ledger beside it; `options` as in index.Options. Returns what it lists."""
    return index.publish(dist, site, ledger_of(site), index.Options(**options)).listed


def ledger_of(site: Path) -> Path:
    """The ledger of a site that :func:`publish` made."""
    return site.with_name(f"{site.name}.jsonl")


def _head(platform: Platform) -> bytes:
    """How a library of this platform begins."""
    arm = platform.machine == "aarch64"
    if platform.format == "ELF":
        return b"\x7fELF\2\1\1".ljust(18, b"\0") + (183 if arm else 62).to_bytes(2, "little")
    if platform.format == "PE":
        return b"MZ".ljust(60, b"\0") + struct.pack("<L4sH", 64, b"PE\0\0", 0xAA64 if arm else 0x8664)
    return struct.pack("<2L", 0xFEEDFACF, 0x100000C if arm else 0x1000007)


def stand_in(variant: matrix.Variant, platform: str, fingerprint: str = "0123abcd") -> dict[str, bytes]:
    """What the variant's label stands for on a platform, as far as it can be asked of a wheel without running it: a plugin that
    begins as a library of that machine does, of the core beside it, for the matrix's architectures."""
    plugin, own = variant.table.plugin, PLATFORMS[platform]
    core = {"fingerprint": fingerprint, "toolchain": "none", "platform": platform, "plugins": []}
    toolkit: dict[str, object] = {}
    if variant.lists:
        toolkit = {"architectures": variant.lists.compiled(platform), "ptx": getattr(variant.lists, "ptx", None) or "none"}
    described: dict[str, object] = {"name": plugin, "core": fingerprint, "toolkit": toolkit, "lacks": []}
    if plugin is None:
        return {}
    return {
        CORE: json.dumps(core).encode(),
        matrix.DESCRIPTION: json.dumps(described).encode(),
        f"llama_cpp/lib/{own.plugin(plugin)}": _head(own),
    }


def labelled(plain: Path, variant: matrix.Variant, dist: Path) -> Path:
    """The same wheel with a stand-in for the variant's plugin, and its label."""
    (platform,) = {known.name for known in archive.platforms_of(plain)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / plain.name
        archive.write(path, archive.contents(plain) | stand_in(variant, platform), 1_700_000_000)
        return label.label(path, variant, dist)


def small_wheels(dist: Path, work: Path, version: str = "9.9.7") -> None:
    """A wheel for every label and platform of the real matrix, the plain ones, and small ones of what the labelled ones require."""
    for variant in matrix.load().values():
        for platform in variant.published:
            plain = wheel(work / variant.name, version, PLATFORMS[platform].tag, text=variant.label or "plain")
            if variant.label:
                labelled(plain, variant, dist)
            else:
                dist.mkdir(exist_ok=True)
                shutil.copy(plain, dist)
        for text in variant.table.runtime.requires:
            requirement = Requirement(text)
            lowest = min(item.version for item in requirement.specifier if item.operator == ">=")
            wheel(dist, f"{lowest}.1", "any", name=requirement.name.replace("-", "_"), text="a stand-in")


def environment(folder: Path) -> dict[str, str]:
    """No settings of the user's, no cache of an earlier test, no other index, no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "NV_", "POETRY_", "PDM_"))}
    return {
        **kept,
        "HOME": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": str(folder / "cache"),
        "POETRY_CACHE_DIR": str(folder / "poetry"),
        "POETRY_VIRTUALENVS_IN_PROJECT": "1",
        "PDM_CHECK_UPDATE": "0",
        "PDM_CACHE_DIR": str(folder / "pdm"),
    }


def run(
    command: Sequence[str | Path],
    folder: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    fails: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run an installer with these variables more; its exit code must be 0, or with `fails` any other."""
    variables = environment(folder) | dict(env or {})
    variables.pop("VIRTUAL_ENV", None)
    done = subprocess.run([*map(str, command)], cwd=cwd or folder, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def tool(name: str) -> Path:
    """The program of an installer that is pinned in a dependency group of pyproject.toml, in an environment of its own."""
    program = {"old-uv": "uv"}.get(name, name)
    wanted = pins(name)
    folder = ROOT / "build" / "installers" / wanted[0].replace("==", "-")
    path = folder / "bin" / program
    with disk.queued(folder):  # the tests run in several processes
        if not path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([UV, "venv", "--quiet", folder], check=True)
            subprocess.run([UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *wanted], check=True)
    return path


def pins(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"][name]
    return found


def install(installer: str, url: str, folder: Path, requirement: str = "llama-cpp-python", **extra: str) -> str:
    """Install in a new environment with uv, old-uv, pip or old-pip, and return what the installed package says of itself."""
    python = folder / "venv" / "bin" / "python"
    for name in ("venv", "cache"):  # uv keeps an index page for ten minutes
        shutil.rmtree(folder / name, ignore_errors=True)
    if installer.endswith("pip"):
        run([sys.executable, "-m", "venv", folder / "venv"], folder)
        if installer != "pip":  # from the user's index
            subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *pins(installer)], check=True)
        done = run([python, "-m", "pip", "install", "--quiet", "--index-url", url, requirement], folder, env=extra)
    else:
        uv = UV if installer == "uv" else str(tool(installer))
        run([UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"], folder)
        done = run([uv, "pip", "install", "--quiet", "--python", python, "--default-index", url, requirement], folder, env=extra)
    assert "warning" not in done.stderr.lower() or "wheel-variants" in extra.get("UV_PREVIEW_FEATURES", ""), done.stderr
    return which(python)


def which(python: Path) -> str:
    """What the llama_cpp installed for this Python says of itself."""
    return subprocess.run([python, "-m", "llama_cpp"], capture_output=True, text=True, check=True, cwd=python.parent).stdout.strip()


# A machine, emulated for uv: what it asks the interpreter and nvidia-smi.

_SMI = """#!/bin/sh
case "$*" in
"--query-gpu=driver_version --format=csv,noheader") echo 580.65.06;;
"--query-gpu=compute_cap --format=csv,noheader") printf '{capabilities}';;
"-q") printf 'Driver Version                            : 580.65.06\\nCUDA Version                              : {driver}\\n';;
*) exit 2;;
esac
"""
_BROKEN = '#!/bin/sh\necho "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."\nexit 9\n'
# `#!` takes no path with a space: a shell runs this first, to which the second line is a command, and to Python a text.
_PYTHON = """#!/bin/sh
''''exec {quoted} "$0" "$@" #'''
import json, subprocess, sys
done = subprocess.run([{python!r}, *sys.argv[1:]], stdout=subprocess.PIPE)
answer = done.stdout
try:
    data = json.loads(answer)
    markers = {markers!r}
    if "markers" in data:
        data["markers"].update(markers)
        data.update({facts!r})
        answer = json.dumps(data).encode()
except ValueError:
    pass
sys.stdout.buffer.write(answer)
sys.exit(done.returncode)
"""
_SYSTEMS = {
    "manylinux": ("linux", "posix", "Linux"),
    "musllinux": ("linux", "posix", "Linux"),
    "macosx": ("darwin", "posix", "Darwin"),
    "win": ("win32", "nt", "Windows"),
}


def emulate(row: Row, folder: Path) -> tuple[Path, dict[str, str]]:
    """A Python that tells uv of this platform and processor, and the variables with the machine's nvidia-smi first on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    platform = PLATFORMS[row.platform].newest if row.platform in PLATFORMS else row.platform
    kind, *numbers = platform.split("_")
    arch = row.machine().arch
    system, os_name, platform_system = _SYSTEMS[kind]
    facts: dict[str, object] = {"os": {"name": {"macosx": "macos", "win": "windows"}.get(kind, kind)}}
    if kind != "win":
        facts["os"] = {"name": {"macosx": "macos"}.get(kind, kind), "major": int(numbers[0]), "minor": int(numbers[1])}
    facts["arch"] = {"amd64": "x86_64", "arm64": "aarch64"}.get(arch, arch)
    if row.cpu == "nehalem":
        facts["cpu_info"] = {
            "detected": {"kind": "flags", "flags": "fpu cx8 cmov mmx fxsr sse sse2 lm pni ssse3 cx16 sse4_1 sse4_2 popcnt"}
        }
    markers = {"sys_platform": system, "os_name": os_name, "platform_system": platform_system, "platform_machine": arch}
    python = folder / "python"
    python.write_text(_PYTHON.format(quoted=shlex.quote(sys.executable), python=sys.executable, markers=markers, facts=facts))
    python.chmod(0o755)
    if row.driver or row.smi == "broken":
        capabilities = "".join(f"{sm}\\n" for sm in row.sm)
        smi = folder / "nvidia-smi"
        smi.write_text(_BROKEN if row.smi == "broken" else _SMI.format(capabilities=capabilities, driver=row.driver))
        smi.chmod(0o755)
    return python, {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **(FEATURE if row.preview else {})}


ROWS = known.table()
