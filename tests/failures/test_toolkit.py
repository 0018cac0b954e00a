"""Toolkits that are fetched from the package index, and what may happen meanwhile: real pip, real packages, a real compiler."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failures.test_failures import default_interrupt
from tests.installers import tools
from variants import errors, matrix, platforms
from variants.backends import toolkit
from variants.backends.vulkan import compiler, headers
from variants.compilers import packages, toolchain
from variants.terminal import disk
from variants.upstream import source

ROOT = Path(__file__).parent.parent.parent


def start(cache: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "variants", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "LLAMA_CPP_VARIANTS_CACHE": str(cache)}, preexec_fn=default_interrupt,
    )  # fmt: skip


def until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints until a line has `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    assert text in lines[-1], "".join(lines)
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_download(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing that looks like a toolkit is left; the next run fetches it, and the one after finds it."""
    source.vendor(disk.Lock(ROOT))
    process = start(tmp_path, "build", "cuda13", "--arch", "90")
    until(process, "-m pip install")
    time.sleep(1.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    if number == signal.SIGKILL:  # nobody is left to end pip
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -9), out
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if number != signal.SIGKILL:
        assert "Nothing unfinished" in out
        assert not list(tmp_path.glob(".*.tmp"))
    again = start(tmp_path, "build", "cuda13", "--arch", "90")
    until(again, "] core")
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert not list(tmp_path.glob(".*.tmp"))
    shown = start(tmp_path, "toolchain", "cuda13")
    out, _ = shown.communicate(timeout=60)
    assert shown.returncode == 0, out
    assert "to be assembled" not in out
    assert "all known" in out


def test_another_file_than_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that serves something else is refused by the file's hash, and nothing of it is kept."""
    monkeypatch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "odd.txt").write_text(f"nvidia-cuda-crt==13.0.88 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(errors.CommandError) as caught:
        packages.install(packages.read(tmp_path / "odd.txt", 1), lambda *_: None, tmp_path / "log.txt")
    assert "HASHES" in caught.value.what.upper()
    assert "--toolkit" in caught.value.remedy
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


class Index:
    """A package index on loopback with two packages. While `broken`, a request for the file or the page of the second one ends in
    the middle, or at once."""

    def __init__(self, folder: Path, broken: str) -> None:
        self.files = [tools.wheel(folder, "1.0", "any", name=name, text="x" * 100_000) for name in ("first", "second")]
        self.broken = broken
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").split("/")[-1]
                file = next(path for path in index.files if name in (path.name, path.name.split("-")[0]))
                page = f"<!DOCTYPE html><a href='/{file.name}'>{file.name}</a>".encode()
                content = file.read_bytes() if name == file.name else page
                second = file == index.files[1]
                if second and index.broken == "page":
                    return  # no answer
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream" if content is not page else "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                cut = second and index.broken == "file" and content is not page
                self.wfile.write(content[: len(content) // 2] if cut else content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/simple/"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("broken", ["file", "page"])
def test_network_gone_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """One package is there, the next one breaks off: pip's error on one screen, nothing half-made; the same call goes on."""
    index = Index(tmp_path, broken)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"INDEX_URL": index.address, "RETRIES": "0", "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(tmp_path / "cache"))
    pins = tmp_path / "both.txt"
    hashes = {path.name.split("-")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in index.files}
    pins.write_text("".join(f"{name}==1.0 --hash=sha256:{digest}\n" for name, digest in hashes.items()))
    wanted = packages.read(pins, 1)

    def finish(site: Path, prefix: Path, folder: Path) -> None:
        (folder / "made").write_text(" ".join(sorted(path.name for path in site.glob("*.dist-info"))))

    with pytest.raises(errors.CommandError) as caught:
        packages.install(wanted, finish, tmp_path / "log.txt")
    screen = f"{caught.value.what}\n{caught.value.remedy}"
    assert "second" in screen
    assert "Nothing unfinished was kept" in screen
    assert len(screen.splitlines()) <= 35
    assert "Traceback" not in screen
    assert not wanted.there
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []
    index.broken = ""
    packages.install(wanted, finish, tmp_path / "log.txt")
    assert (wanted.folder / "made").read_text() == "first-1.0.dist-info second-1.0.dist-info"
    assert sorted(path.name for path in wanted.folder.iterdir()) == ["made"]
    index.close()


# -- CUDA 13: nvcc, and the compiler of this machine ------------------------------------------------------------------------------


def cuda13(compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toolkit.Toolkit:
    """What is found with `compiler` in CC and CXX and the nvcc of the index, which is fetched into the user's cache."""
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    zig = toolchain.find("zig", tmp_path / "zig", platforms.here())
    variant = matrix.narrowed(matrix.load()["cuda13"], ["90"])
    assert variant.backend is not None
    return variant.backend.find(matrix.request(variant, zig, tmp_path, "index", True, tmp_path / "log.txt"))


def test_gcc_without_its_static_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Fedora and RHEL, where it is a package of its own. A real gcc, in a folder that has everything else."""
    gcc = shutil.which("g++")
    if not gcc:
        pytest.skip("there is no g++")
    assert not cuda13(Path(gcc), tmp_path, monkeypatch).missing
    own = Path(subprocess.run([gcc, "-print-libgcc-file-name"], capture_output=True, text=True, check=True).stdout.strip()).parent
    copy = tmp_path / "gcc" / own.parent.name / own.name
    shutil.copytree(own, copy, copy_function=os.symlink)
    (copy / "libstdc++.a").unlink()
    without = tmp_path / "g++"
    without.write_text(f'#!/bin/sh\nGCC_EXEC_PREFIX={tmp_path}/gcc/ exec {gcc} "$@"\n')
    without.chmod(0o755)
    kit = cuda13(without, tmp_path, monkeypatch)
    assert [piece.what for piece in kit.missing] == ["static C++ library"]
    with pytest.raises(
        errors.ToolchainError, match=r"static C\+\+ library: wanted libstdc\+\+.a of gcc [\d.]+, found nothing"
    ) as caught:
        toolkit.require(kit)
    assert "dnf install libstdc++-static" in caught.value.remedy
    assert "apt-get install g++" not in caught.value.remedy


def test_a_compiler_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CC and CXX name /bin/true: said so, by name, where gcc is wanted; nothing is said where it is not."""
    true = shutil.which("true")
    assert true
    kit = cuda13(Path(true), tmp_path, monkeypatch)
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(kit)
    assert f"host compiler: wanted gcc or clang, found {true} does not say its version" in caught.value.what
    assert "CC and CXX" in caught.value.remedy
    with pytest.raises(errors.ToolchainError, match=f"{true} does not say its version"):
        toolchain.find("system", tmp_path, platforms.here())
    variant = matrix.load()["cuda12"]
    zig = toolchain.find("zig", tmp_path / "zig", platforms.here())
    assert variant.backend is not None
    assert not variant.backend.find(matrix.request(variant, zig, tmp_path, "index")).missing


# -- glslc, compiled of a source package ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for toolkits, at a path with a space."""
    folder = tmp_path_factory.mktemp("glslc") / "a cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def glslc(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, compiled after it was once interrupted."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    source.vendor(disk.Lock(ROOT))
    zig = toolchain.find("zig", tmp_path_factory.mktemp("zig"), platforms.here())
    headers.find(True, log)
    process = start(cache, "build", "vulkan")
    until(process, "+ cmake -S")
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert not list(cache.glob("glslc-*/")) + list(cache.glob(".*.tmp"))
    assert not compiler.find(zig, False, log).there
    found = compiler.find(zig, True, log)
    assert found.there
    assert [path.name for path in found.path.parent.iterdir()] == ["glslc"]
    assert not list(cache.glob(".*.tmp"))
    assert str(cache).encode() not in found.path.read_bytes()
    return found.path


def compiled(glslc: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([glslc, "-fshader-stage=compute", *arguments], capture_output=True, cwd=cwd, check=False)


def test_every_shader_feature(glslc: Path) -> None:
    """Of the pinned upstream's own tests. The wheel that is made with it may be published."""
    assert compiler.features(glslc, source.TREE) == [test.stem for test in compiler.tests(source.TREE)]
    assert len(compiler.tests(source.TREE)) >= 7


@pytest.mark.parametrize(
    "words",
    [
        ["--target-env=vulkan1.2", "-fauto-map-locations", "-o", "x", "a.comp"],
        ["--target-env=vulkan1.4", "-o", "x", "a.comp"],
        ["-Os", "-o", "x", "a.comp"],
        ["-o", "x", "a.comp", "b.comp"],
        ["a.comp"],
        ["a.comp", "-o"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_refused(glslc: Path, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "a.comp").write_text("#version 450\nvoid main() {}\n")
    done = compiled(glslc, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert b"this glslc takes -fshader-stage=compute" in done.stderr
    assert not (tmp_path / "x").exists()


def test_errors_of_a_shader(glslc: Path, tmp_path: Path) -> None:
    (tmp_path / "a.comp").write_text("#version 450\nvoid main() { wrong(); }\n")
    done = compiled(glslc, "-o", "x", "a.comp", cwd=tmp_path)
    assert done.returncode == 1
    assert b"a.comp:2: 'wrong' : no matching overloaded function" in done.stderr
    (tmp_path / "b.comp").write_text("#version 450\n#extension GL_NOBODY_has : require\nvoid main() {}\n")
    assert b"extension not supported: GL_NOBODY_has" in compiled(glslc, "-o", "x", "b.comp", cwd=tmp_path).stderr
    assert b"cannot read nowhere.comp" in compiled(glslc, "-o", "x", "nowhere.comp", cwd=tmp_path).stderr
    assert not (tmp_path / "x").exists()


def test_the_same_bytes_in_another_folder(glslc: Path, tmp_path: Path) -> None:
    """Names and paths go in with -g alone; the list of what was included is as ggml's build reads it."""
    made = []
    for name in ("one", "another folder"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "inner.glsl").write_text("void fill(uint at) { a_long_name[at] = VALUE; }\n")
        (folder / "a.comp").write_text(
            "#version 450\nlayout(binding = 0) buffer B { float a_long_name[]; };\n"
            '#include "inner.glsl"\nvoid main() { fill(gl_GlobalInvocationID.x); }\n'
        )
        words = ["--target-env=vulkan1.2", "-O", "-DVALUE=2.5", str(folder / "a.comp"), "-o", str(folder / "a.spv")]
        done = compiled(glslc, *words, "-MD", "-MF", str(folder / "a.d"), cwd=tmp_path)
        assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
        made.append((folder / "a.spv").read_bytes())
        assert (folder / "a.d").read_text() == f"{folder}/a.spv: {folder}/a.comp {folder}/inner.glsl\n"
        assert compiled(glslc, *words[:-1], "-").stdout == made[-1]
        assert b"a_long_name" in compiled(glslc, *words[:-1], "-", "-g").stdout
    assert made[0] == made[1]
    assert made[0][:4] == b"\x03\x02\x23\x07"
    assert b"a_long_name" not in made[0]
    two = compiled(glslc, "--target-env=vulkan1.2", "-DVALUE=3.5", str(tmp_path / "one" / "a.comp"), "-o", "-").stdout
    assert len(two) == len(made[0])
    assert two != made[0]


def test_headers_of_the_index(cache: Path, tmp_path: Path) -> None:
    """C++ headers over newer C headers, with the names that ggml wants of each."""
    found = headers.find(True, tmp_path / "log.txt")
    (tmp_path / "a.cpp").write_text(
        "#define VULKAN_HPP_DISPATCH_LOADER_DYNAMIC 1\n#include <vulkan/vulkan.hpp>\n#include <spirv/unified1/spirv.hpp>\n"
        "using Props = vk::PhysicalDeviceCooperativeMatrix2PropertiesNV;\n"
        "static_assert(sizeof(Props) == sizeof(VkPhysicalDeviceCooperativeMatrix2PropertiesNV));\n"
        "static_assert(uint64_t(vk::PipelineCreateFlagBits2::e64BitIndexingEXT) == VK_PIPELINE_CREATE_2_64_BIT_INDEXING_BIT_EXT);\n"
        "Props a; VkPhysicalDeviceShaderBfloat16FeaturesKHR b; spv::Op c;\n"
    )
    zig = toolchain.find("zig", tmp_path / "zig", platforms.here())
    shims = Path(headers.__file__).parent / "include"
    words = ["-std=c++17", "-c", "-o", str(tmp_path / "a.o"), "-Wall", "-Werror", "-I", str(shims), "-isystem", str(found.folder)]
    done = subprocess.run([zig.cxx, *words, str(tmp_path / "a.cpp")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
