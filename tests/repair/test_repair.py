"""Repair by each platform's own tool, on real ELF, PE and Mach-O files that zig makes here (C without a C++ runtime: seconds)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installers.tools import publish
from variants import platforms
from variants.errors import CommandError, ToolchainError, VariantsError, WheelError
from variants.platforms import Platform
from variants.steps import repair, verify
from variants.wheel import archive, binary

INFO = "llama_cpp_python-9.9.7.dist-info"
METADATA = "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 9.9.7\n"
#: One of each tool, and of each way to cross.
NAMES = ("linux_x86_64", "linux_aarch64", "musllinux_x86_64", "win_amd64", "win_arm64", "macosx_arm64", "macosx_x86_64")
Link = Callable[..., Path]


@pytest.fixture(scope="session")
def link(tmp_path_factory: pytest.TempPathFactory) -> Link:
    """Compile a library for a platform: ``link(platform, folder, name, calls=[other, …])`` needs libc and the libraries `calls`."""
    cache = str(tmp_path_factory.mktemp("zig"))
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}

    def make(platform: Platform, folder: Path, name: str, calls: tuple[Path, ...] = ()) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file = platform.library(name)
        functions = [path.stem.removeprefix("lib") for path in calls]
        source = folder / f"{name}.c"
        export = "__declspec(dllexport) " if platform.system == "Windows" else ""
        declared = "".join(f"int {one}(void);\n" for one in functions) + "char * getenv(const char *);\n"
        summands = "".join(f" + {one}()" for one in functions)
        source.write_text(f'{declared}{export}int {name}(void) {{ return (getenv("X") != 0){summands}; }}\n')
        words = [sys.executable, "-m", "ziglang", "cc", "-target", platform.zig, "-shared", "-O1", "-s", source.name, "-o", file]
        if platform.system == "Linux":
            words += [f"-Wl,-soname,{file}", "-Wl,-rpath,$ORIGIN"]
        if platform.system == "Darwin":
            words += [f"-Wl,-install_name,@rpath/{file}", "-Wl,-rpath,@loader_path", "-Wl,-headerpad_max_install_names"]
        for path in calls:
            words += [f"-L{path.parent}", f"-l{path.stem.removeprefix('lib')}"]
        subprocess.run(words, cwd=folder, env=env, check=True)
        return folder / file

    return make


def raw(folder: Path, platform: Platform, files: list[Path], tag: str | None = None) -> Path:
    """A raw wheel with these libraries in llama_cpp/lib."""
    made_for = f"linux_{platform.processor}" if platform.system == "Linux" else platform.tag
    promised = platform.tag if tag is None else tag
    core = {"fingerprint": "0123abcd", "toolchain": "zig", "platform": platform.name, "plugins": [], "tag": promised}
    path = folder / f"llama_cpp_python-9.9.7-py3-none-{made_for}.whl"
    content = {
        "llama_cpp/__init__.py": b"from . import _backends\n",
        "llama_cpp/lib/core.json": json.dumps(core).encode(),
        **{f"llama_cpp/lib/{file.name}": file.read_bytes() for file in files},
        f"{INFO}/METADATA": METADATA.encode(),
        f"{INFO}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-{made_for}\n".encode(),
    }
    archive.write(path, content, 1_700_000_000)
    return path


def mend(wheel: Path, *foreign: str) -> Path:
    return repair.repair(wheel, wheel.parent / "repaired", 1_700_000_000, wheel.parent / "log.txt", foreign)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_graft(tmp_path: Path, link: Link, name: str) -> None:
    """The tag that zig's target promises; same bytes twice; the format and the processor are read right."""
    platform = platforms.PLATFORMS[name]
    one = link(platform, tmp_path / "x", "one")
    two = link(platform, tmp_path / "x", "two", calls=(one,))
    wheel = raw(tmp_path, platform, [one, two])
    mended = mend(wheel)
    assert mended.name == f"llama_cpp_python-9.9.7-py3-none-{platform.tag}.whl"
    before = mended.read_bytes()
    assert mend(wheel).read_bytes() == before
    files = archive.contents(mended)
    assert f"Tag: py3-none-{platform.tag}\n" in files[f"{INFO}/WHEEL"].decode()
    library = binary.read(files[f"llama_cpp/lib/{two.name}"])
    assert (library.format, library.machine) == (platform.format, platform.machine)
    assert any(entry.rpartition("/")[2] == one.name for entry in library.needed)
    assert library.intact is (True if name == "macosx_arm64" else None)
    assert binary.wanting(files) == {}
    assert files["llama_cpp/__init__.py"] == b"from . import _backends\n"


@pytest.mark.parametrize("name", ["linux_x86_64", "musllinux_x86_64", "win_amd64", "macosx_arm64"])
def test_what_ggml_calls_of_a_plugin(tmp_path: Path, link: Link, name: str) -> None:
    """A library that exports ggml's entry, and one that only asks for it. (Of Mach-O files it is not looked into.)"""
    platform = platforms.PLATFORMS[name]
    plugin = link(platform, tmp_path, binary.ENTRY)
    other = link(platform, tmp_path, "other", calls=(plugin,))
    found = [binary.read(path).plugin for path in (plugin, other)]
    assert found == ([None, None] if platform.system == "Darwin" else [True, False])


def test_signature(tmp_path: Path, link: Link) -> None:
    """Apple silicon ends a process that opens a library which was changed after it was signed."""
    content = bytearray(link(platforms.PLATFORMS["macosx_arm64"], tmp_path, "one").read_bytes())
    assert binary.read(bytes(content)).intact
    content[len(content) // 2] ^= 1
    assert binary.read(bytes(content)).intact is False


@pytest.mark.parametrize("name", ["linux_x86_64", "win_amd64"])
def test_graft(tmp_path: Path, link: Link, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A library from elsewhere comes into the wheel, where what needs it finds it."""
    platform = platforms.PLATFORMS[name]
    extra = link(platform, tmp_path / "elsewhere", "extra")
    two = link(platform, tmp_path / "x", "two", calls=(extra,))
    assert binary.wanting({f"llama_cpp/lib/{two.name}": two.read_bytes()}) == {f"llama_cpp/lib/{two.name}": [extra.name]}
    monkeypatch.setenv("LD_LIBRARY_PATH", str(extra.parent))
    monkeypatch.setenv("PATH", f"{extra.parent}{os.pathsep}{os.environ['PATH']}")
    files = archive.contents(mend(raw(tmp_path, platform, [two])))
    grafted = [path for path in files if "extra" in path]
    assert len(grafted) == 1
    if platform.system == "Windows":
        assert grafted == ["llama_cpp/lib/extra.dll"]
        assert binary.wanting(files) == {}
    assert files["llama_cpp/__init__.py"] == b"from . import _backends\n"


@pytest.mark.parametrize("name", NAMES)
def test_excluded(tmp_path: Path, link: Link, name: str) -> None:
    """A driver's library stays out, and is still asked for."""
    platform = platforms.PLATFORMS[name]
    driver = link(platform, tmp_path / "elsewhere", "driver")
    two = link(platform, tmp_path / "x", "two", calls=(driver,))
    files = archive.contents(mend(raw(tmp_path, platform, [two]), driver.name))
    assert [path for path in files if "driver" in path] == []
    needed = binary.read(files[f"llama_cpp/lib/{two.name}"]).needed
    assert any(entry.rpartition("/")[2] == driver.name for entry in needed)


def test_system_newer_than_auditwheel(tmp_path: Path, link: Link) -> None:
    """Symbols of a glibc to come: no manylinux tag is true, none is claimed, no index takes the wheel, nothing is grafted."""
    platform = platforms.PLATFORMS["linux_x86_64"]
    (tmp_path / "m.c").write_text("double newest(double x) { return x; }\n")
    (tmp_path / "m.map").write_text("GLIBC_2.99 { global: newest; local: *; };\n")
    (tmp_path / "two.c").write_text("double newest(double);\ndouble two(double x) { return newest(x); }\n")
    compiling = [sys.executable, "-m", "ziglang", "cc", "-target", platform.zig, "-shared", "-s"]
    stub = ["m.c", "-Wl,--version-script=m.map", "-Wl,-soname,libm.so.6", "-o", "libm_to_come.so"]
    for words in (stub, ["two.c", "-L.", "-lm_to_come", "-Wl,-soname,libtwo.so", "-o", "libtwo.so"]):
        subprocess.run([*compiling, *words], cwd=tmp_path, check=True)
    mended = mend(raw(tmp_path, platform, [tmp_path / "libtwo.so"], tag=""))
    assert mended.name == "llama_cpp_python-9.9.7-py3-none-linux_x86_64.whl"
    assert list(verify.tag(verify.read(mended))) == []
    with pytest.raises(WheelError, match="no manylinux tag is true of it"):
        publish(mended.parent, tmp_path / "site")
    missing = link(platform, tmp_path / "elsewhere", "missing")
    wanting = raw(tmp_path, platform, [tmp_path / "libtwo.so", link(platform, tmp_path / "x", "one", calls=(missing,))], tag="")
    with pytest.raises(CommandError):
        mend(wanting)


def test_glibc_newer_than_promised(tmp_path: Path) -> None:
    """`repair` names the library, the functions and their version, and leaves nothing; so does `verify` where a name lies."""
    platform = platforms.PLATFORMS["linux_x86_64"]
    calls = "int pthread_create(void *, void *, void *, void *);\nint two(void *x) { return pthread_create(x, 0, x, 0); }\n"
    (tmp_path / "two.c").write_text(calls)
    compiling = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86_64-linux-gnu.2.34",
        "-shared",
        "-s",
        "two.c",
        "-o",
        "libtwo.so",
    ]
    subprocess.run(compiling, cwd=tmp_path, check=True)
    wheel = raw(tmp_path, platform, [tmp_path / "libtwo.so"])
    row = "llama_cpp/lib/libtwo.so wants pthread_create of GLIBC_2.34"
    with pytest.raises(WheelError, match="is not for manylinux_2_17_x86_64") as caught:
        mend(wheel)
    assert row in caught.value.what
    assert "glibc.c" in caught.value.remedy
    assert list(tmp_path.glob("repaired/*")) == []
    files = archive.contents(wheel)
    files[f"{INFO}/WHEEL"] = files[f"{INFO}/WHEEL"].replace(b"linux_x86_64", b"manylinux_2_17_x86_64")
    lying = tmp_path / wheel.name.replace("linux_", "manylinux_2_17_")
    archive.write(lying, files, 1_700_000_000)
    assert any(row in finding.fact for finding in verify.tag(verify.read(lying)))


@pytest.mark.parametrize("name", NAMES)
def test_nowhere(tmp_path: Path, link: Link, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A library that is nowhere: an error that names it. On macOS also where it could be grafted, but Apple's tools are missing."""
    platform = platforms.PLATFORMS[name]
    missing = link(platform, tmp_path / "elsewhere", "missing")
    two = link(platform, tmp_path / "x", "two", calls=(missing,))
    wheel = raw(tmp_path, platform, [two])
    shutil.rmtree(tmp_path / "elsewhere")
    kind: type[VariantsError] = CommandError
    if platform.system == "Darwin":
        kind = ToolchainError
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kind) as caught:
        mend(wheel)
    if platform.system != "Darwin":
        assert missing.name in (tmp_path / "log.txt").read_text()
    else:
        assert f"needs @rpath/{missing.name}" in caught.value.what
        assert "python -m variants repair" in caught.value.remedy
    assert list(tmp_path.glob("repaired/*.whl")) == []
