"""One plugin: a backend of ggml, compiled alone against the core that it will be shipped with."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import msgspec

from ..backends.toolkit import Toolkit
from ..compilers import import_library
from ..compilers.environment import for_compiling
from ..compilers.toolchain import Toolchain
from ..errors import CommandError, WheelError
from ..matrix import DESCRIPTION, Runtime
from ..terminal import disk, process, units
from ..upstream.source import Upstream
from ..wheel import archive, budget
from . import core

_PART = DESCRIPTION.rpartition("/")[2]


class Plugin(msgspec.Struct, frozen=True):
    """A compiled plugin: its name (``vulkan``), its file, and the description that goes into the wheel."""

    name: str
    file: Path
    description: bytes

    def files(self) -> dict[str, archive.Source]:
        """What goes into the wheel, by name."""
        return {f"llama_cpp/lib/{self.file.name}": self.file, DESCRIPTION: self.description}

    def facts(self) -> dict[str, str | list[str]]:
        """What its toolkit was (:attr:`.Toolkit.facts`)."""
        return budget.json(self.description, _Described).toolkit


class _Described(msgspec.Struct, frozen=True):
    """Of plugin.json, what is asked of it here."""

    name: str
    toolkit: dict[str, str | list[str]] = {}


def save(plugin: Plugin, folder: Path) -> None:
    """Write the plugin as a part, for another machine to read."""
    folder.mkdir(parents=True)
    shutil.copyfile(plugin.file, folder / plugin.file.name)
    (folder / _PART).write_bytes(plugin.description)


def read(folder: Path) -> Plugin:
    """The plugin that :func:`save` wrote.

    Raises:
        WheelError: the part is incomplete or damaged.
    """
    try:
        description = budget.read(folder / _PART)
        name = budget.json(description, _Described).name
        if not re.fullmatch(r"[a-z0-9_]{1,60}", name):
            raise ValueError(f"{name[:60]!r} is no plugin's name")
        (file,) = folder.glob(f"*ggml-{name}.*")
        budget.opened(file).close()  # a regular file
    except (OSError, ValueError) as error:
        raise WheelError(f"{folder} is no plugin's part: {error}.", "Copy the whole folder that `nox -s plugin` made.") from error
    return Plugin(name, file, description)


def build(
    kit: Toolkit, core_wheel: Path, upstream: Upstream, toolchain: Toolchain, *, runtime: Runtime, jobs: int, log: Path,
    build_dir: Path,
) -> Plugin:  # fmt: skip
    """Compile the plugin in `build_dir` (only what has changed), linked against the libggml-base of `core_wheel`.

    `runtime`: what it needs that comes from elsewhere.

    Raises:
        CommandError: it does not compile; the message ends with the compiler's last lines.
        WheelError: `core_wheel` is of another core than this checkout and toolchain make.
    """
    platform = toolchain.platform
    needs = runtime.on(platform)
    name = platform.library(f"ggml-base-{core.fingerprint(upstream, toolchain.name, platform.name)}")
    library = build_dir / "core" / name
    try:
        with archive.open_wheel(core_wheel) as opened:
            content = b"".join(opened.pieces(f"llama_cpp/lib/{name}"))
    except KeyError as error:
        raise WheelError(f"{core_wheel} has no {name}: it is another core.", "Build the core again with this toolchain.") from error
    if not library.exists() or library.read_bytes() != content:
        with disk.replacing(library) as part:
            part.write_bytes(content)
    if platform.system == "Windows":  # whose linkers take no DLL
        import_library.make(name, import_library.exported(library), platform, library.with_suffix(".lib"))
    tree, out = build_dir / "cmake", build_dir / "out"
    compiler = kit.compiler or toolchain
    defines = [*core.definitions(upstream, toolchain), *(compiler.cmake if kit.compiler else ()), *kit.cmake]
    defines += [f"-DLLAMA_CPP_PLUGIN={kit.plugin}", f"-DLLAMA_CPP_CORE={library.parent}", "-DCMAKE_BUILD_TYPE=Release"]
    defines += [f"-DLLAMA_CPP_PLUGIN_LIBRARIES={';'.join(needs.libraries)}"]
    env = for_compiling(compiler, SOURCE_DATE_EPOCH=os.environ.get("SOURCE_DATE_EPOCH", str(upstream.epoch)))
    if compiler.kind == "zig":  # for programs of the build's own (ggml's generator of shaders), in a CMake of their own
        env |= {"CC": str(Path(compiler.cxx).with_name("cc")), "CXX": compiler.cxx}
    if kit.identity and compiler.cache == "ccache":  # a toolkit assembled anew has new dates, and is still the same
        env["CCACHE_COMPILERCHECK"] = f"string:{compiler.name} {kit.identity}"
    remedy = "Correct what the compiler complains of, then run the same command again."
    disk.remove(out)
    process.command(["cmake", "-S", core.RULES.parent, "-B", tree, "-G", "Ninja", *defines], log=log, env=env, remedy=remedy)
    target = f"ggml-{kit.plugin}"
    compiling: list[str | Path] = ["cmake", "--build", tree, "--target", target, "--parallel"]
    units.announce(tree, jobs, target)
    process.with_fewer_jobs(jobs, lambda count: process.command([*compiling, str(count)], log=log, env=env, remedy=remedy))
    process.command(["cmake", "--install", tree, "--component", "plugin", "--prefix", out], log=log, env=env)
    files = list(out.glob(f"*{target}*"))
    if len(files) != 1:
        raise CommandError(f"The build ended well but left {len(files)} plugins in {out}.", f"See {log}.")
    facts = {
        "name": kit.plugin,
        "core": library.stem.rpartition("-")[2],
        "system": needs.system,
        "libraries": needs.libraries,  # llama_cpp/_backends.py opens them where RPATH does not reach
        "brought_by": runtime.brought_by,
        "folders": needs.folders,
        "requires": runtime.requires,
        "toolkit": kit.facts,
        "lacks": kit.lacks,
    }
    return Plugin(kit.plugin, files[0], (json.dumps(facts, indent=2) + "\n").encode())
