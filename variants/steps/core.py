"""The core: upstream's package with libllama, libmtmd, libggml and every CPU plugin, compiled once per platform and toolchain."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from ..compilers.environment import for_compiling
from ..compilers.toolchain import Toolchain
from ..errors import CommandError
from ..terminal import disk, process, units
from ..upstream.source import COMPILED, ROOT, TREE, Upstream
from . import assemble

#: How everything is compiled.
RULES = next(path for path in (ROOT / "variants" / "CMakeLists.txt", ROOT / "CMakeLists.txt") if path.is_file())


def fingerprint(upstream: Upstream, toolchain_name: str, platform: str) -> str:
    """Eight hexadecimal digits that name this core: everything that shapes its interface, known before compiling.

    It stands in the SONAMEs of the core, so that a plugin built against another core does not load (docs/design.md).
    """
    inputs = {
        "upstream": upstream.content,
        "rules": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _rules()],
        "toolchain": toolchain_name,
        "platform": platform,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]


def _rules() -> list[Path]:
    """Our own files that go into the libraries."""
    return [RULES, *(path for name in COMPILED for path in sorted((ROOT / "llama_cpp" / name).iterdir()) if path.is_file())]


def definitions(upstream: Upstream, toolchain: Toolchain) -> list[str]:
    """The CMake arguments (``-DNAME=VALUE``) that make this core."""
    values: dict[str, object] = {
        "LLAMA_CPP_UPSTREAM": upstream.tree,
        "LLAMA_CPP_FINGERPRINT": fingerprint(upstream, toolchain.name, toolchain.platform.name),
        "LLAMA_CPP_COMMIT": upstream.commit,
        "LLAMA_CPP_TOOLCHAIN": toolchain.name,
        "LLAMA_CPP_PLATFORM": toolchain.platform.name,
        "LLAMA_CPP_TAG": toolchain.tag or "",
    }
    if toolchain.platform.system == "Windows":
        values["LLAMA_CPP_PYTHON"] = sys.executable
    return [*toolchain.cmake, *(f"-D{name}={value}" for name, value in values.items())]


def wheel_command(upstream: Upstream, defines: list[str], build_dir: Path, target: Path) -> list[str | Path]:
    """The command that compiles and packs the core: scikit-build-core, through the standard front end, in this environment.

    Where this repository's files lie in upstream's own (docs/adopting.md), pyproject.toml says how *that* is built: what differs is
    given here.
    """
    settings = [f"-Ccmake.define.{define.removeprefix('-D')}" for define in defines]
    if adopted():
        settings += ["-Ccmake.source-dir=variants", "-Cinstall.components=core", "-Cwheel.license-files=none/*"]
        settings += ["-Cwheel.py-api=py3"]  # before 0.3.17 upstream's wheels are of one Python
        settings += _taking(_package(build_dir))
    elif upstream.tree != TREE:
        settings += _taking(upstream.tree / "llama_cpp")
    return [
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", target,
        f"-Cbuild-dir={build_dir}", *settings, ROOT,
    ]  # fmt: skip


def _taking(package: Path) -> list[str]:
    """The settings by which scikit-build-core takes this folder as the package, though git ignores it."""
    path = package.relative_to(ROOT).as_posix()
    return [f"-Cwheel.packages={path}", f"-Csdist.include={path}/**"]


def _package(build_dir: Path) -> Path:
    """Where the package is copied to without what is no part of a wheel: source that is compiled, upstream's own build."""
    return build_dir.parent / "package" / "llama_cpp"


def adopted() -> bool:
    """Do our files lie in upstream's own repository?"""
    return (ROOT / "variants" / "CMakeLists.txt").is_file()


def build(upstream: Upstream, toolchain: Toolchain, *, jobs: int, log: Path, build_dir: Path) -> Path:
    """Compile the core in `build_dir` (only what has changed) and return its wheel, not yet repaired, in `build_dir`/wheel.

    Raises:
        CommandError: it does not compile; the message ends with the compiler's last lines.
    """
    target = build_dir / "wheel"
    stamp, made = build_dir / "core.stamp", _stamp(upstream, toolchain)
    if (
        (found := list(target.glob("*.whl")))
        and stamp.exists()
        and stamp.read_text() == made
        and _nothing_to_do(build_dir / "cmake")
    ):
        return found[0]
    disk.remove(target)
    disk.remove(stamp)
    env = for_compiling(
        toolchain,
        SOURCE_DATE_EPOCH=os.environ.get("SOURCE_DATE_EPOCH", str(upstream.epoch)),
        LLAMA_CPP_UPSTREAM=str(upstream.tree),  # for variants/upstream/metadata_provider.py
    )
    if adopted():
        package = _package(build_dir / "cmake")
        disk.remove(package)
        shutil.copytree(ROOT / "llama_cpp", package, ignore=shutil.ignore_patterns("lib", *COMPILED, "__pycache__"))
    command = wheel_command(upstream, definitions(upstream, toolchain), build_dir / "cmake", target)
    remedy = "Correct what the compiler complains of, then run the same command again."

    def compiling(count: int) -> None:
        process.command(command, log=log, env=env | {"CMAKE_BUILD_PARALLEL_LEVEL": str(count)}, remedy=remedy)

    units.announce(build_dir / "cmake", jobs)
    process.with_fewer_jobs(jobs, compiling)
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise CommandError(f"The build ended well but left {len(wheels)} wheels in {target}.", f"See {log}.")
    stamp.write_text(made)
    return wheels[0]


def _stamp(upstream: Upstream, toolchain: Toolchain) -> str:
    """All that decides the core's wheel, beside upstream's source files, which ninja looks at."""
    ours = (ROOT / name for name in assemble.known_core().ours)
    files = [ROOT / "pyproject.toml", *ours, *sorted(upstream.tree.glob("llama_cpp/**/*.py"))]
    digest = hashlib.sha256(fingerprint(upstream, toolchain.name, toolchain.platform.name).encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(os.environ.get("SOURCE_DATE_EPOCH", str(upstream.epoch)).encode())
    return digest.hexdigest()


def _nothing_to_do(tree: Path) -> bool:
    """Is everything compiled that the sources in `tree`'s build file name?"""
    return "no work to do" in process.output(["ninja", "-C", tree, "-n"], env=process.environment())
