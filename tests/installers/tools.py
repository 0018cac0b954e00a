"""Small real wheels, and real installers kept away from every other index and from the user's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from variants import archive

METADATA = "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\nRequires-Python: >=3.8\n\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\n{build}Tag: py3-none-{platform}\n"


def wheel(
    dist: Path, version: str = "9.9.7", platform: str = "manylinux_2_17_x86_64", build: str = "", text: str = "plain"
) -> Path:
    """A wheel of a tiny llama_cpp that says which one it is."""
    dist.mkdir(exist_ok=True)
    info = f"llama_cpp_python-{version}.dist-info"
    number = f"-{build}" if build else ""
    path = dist / f"llama_cpp_python-{version}{number}-py3-none-{platform}.whl"
    header = WHEEL.format(platform=platform, build=f"Build: {build}\n" if build else "")
    files = {"llama_cpp/__init__.py": f"WHICH = {text!r}\n".encode(), f"{info}/METADATA": METADATA.format(version=version).encode()}
    archive.write(path, files | {f"{info}/WHEEL": header.encode()}, 1_700_000_000)
    return path


def environment(folder: Path) -> dict[str, str]:
    """No settings of the user's, no cache of an earlier test, no other index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return {
        **kept,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(folder / "cache"),
    }


def install(installer: str, url: str, folder: Path, requirement: str = "llama-cpp-python", **extra: str) -> str:
    """Install in a new environment, with these variables, and return what the installed package says of itself."""
    python = folder / "venv" / "bin" / "python"
    for name in ("venv", "cache"):  # uv keeps an index page for ten minutes
        shutil.rmtree(folder / name, ignore_errors=True)
    env = environment(folder) | extra
    uv = str(Path(sys.executable).parent / "uv")
    if installer == "uv":
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
            [uv, "pip", "install", "--quiet", "--python", str(python), "--default-index", url, requirement],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder / "venv")],
            [str(python), "-m", "pip", "install", "--quiet", "--index-url", url, requirement],
        ]
    for command in commands:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower() or "wheel-variants" in extra.get("UV_PREVIEW_FEATURES", ""), done.stderr
    shown = subprocess.run(
        [str(python), "-c", "import llama_cpp; print(llama_cpp.WHICH)"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()
