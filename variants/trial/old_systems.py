"""Run the wheels of this platform on an older Linux: Debian 11 (glibc 2.31), with its own Python, C library and loader.

Its packages are unpacked into a folder, not installed. Its Python runs by its own loader, so no root and no container is needed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from rich.markup import escape

from .. import platforms
from ..errors import UsageError
from ..terminal import disk, process
from ..terminal.console import console, styled
from ..upstream.source import ROOT
from ..wheel import archive, records
from . import debian, smoke, worlds

_SUITE, _PYTHON, _SYSTEM = "bullseye", "python3.9", "Debian 11 (glibc 2.31)"
_PIP = "pip==25.3"
_TOOLS = ("gguf>=0.17", "pytest>=8", "numpy")
_TESTS = ("test_inference.py", "test_mtmd.py")


def test(wheel: Path, build_dir: Path) -> None:
    """Install the wheel there with that Python's own pip, which takes it only if its tag fits, and run ``tests/inference``.

    Raises:
        UsageError: the wheel is for another platform.
        ToolchainError: this machine has no Debian archive to fetch from.
        CommandError: the wheel does not install there, or a test fails.
    """
    if archive.platforms_of(wheel) != {platforms.here()} or platforms.here().musl:
        raise UsageError(
            f"{wheel.name} is not for {platforms.here().name}.", "`nox -s test_foreign` runs wheels of other platforms."
        )
    folder = build_dir / "old-systems" / _SUITE
    log = build_dir / "logs" / "old-systems.log"
    disk.remove(log)
    console.print(styled(f"[bold]{escape(wheel.name)}[/], on {_SYSTEM} ({folder})"))
    world = _world(folder, log)
    site, tools = folder / "site-packages", _pip(folder, log)
    disk.remove(site)
    with tempfile.TemporaryDirectory() as scratch:
        plain = shutil.copyfile(wheel, Path(scratch) / archive.plain_path(wheel).name)  # pip takes no label
        installing: list[str | Path] = ["-m", "pip", "install", "--only-binary", ":all:", "--target", site, *_TOOLS, plain]
        remedy = "Is the package index reachable? The wheel's own dependencies come from there."
        process.command([*world.command, *installing], log=log, env=process.environment(**world.env(tools)), remedy=remedy)
    tests = [ROOT / "tests" / "inference" / name for name in _TESTS]
    counts = smoke.pytest_in(world.command, [*tests], log, "The wheel fails there.", world.env(site))
    facts = smoke.report(world.command, world.env(site)) | {"system": world.words}
    records.add(wheel, what=", ".join(_TESTS), installer="pip", **facts, **counts)


def _pip(folder: Path, log: Path) -> Path:
    """A folder with the last pip for that Python."""
    target = folder / "tools"
    if not target.is_dir():
        with disk.replacing(target) as part:
            command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", part, _PIP]
            process.command(command, log=log, env=process.environment(), remedy="Is the package index reachable?")
    return target


def _world(folder: Path, log: Path) -> worlds.World:
    root = folder / "root"
    if not root.is_dir():
        with disk.replacing(root) as part:
            architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platforms.here().machine]
            packages = debian.fetch(
                ["python3", "python3-distutils", "libstdc++6", "libgomp1"], architecture, folder / "apt", log, _SUITE
            )
            debian.unpack(packages, part, log)
    (loader,) = {path.resolve() for path in root.glob("lib/*/ld-2.*.so")}
    libraries = ":".join(str(path) for path in [*sorted(root.glob("lib/*-linux-gnu")), *sorted(root.glob("usr/lib/*-linux-gnu"))])
    command: list[str | Path] = [loader, "--library-path", libraries, root / "usr" / "bin" / _PYTHON]
    return worlds.World(command, {"PYTHONHOME": str(root / "usr")}, f"{_SYSTEM}, its own {_PYTHON}")
