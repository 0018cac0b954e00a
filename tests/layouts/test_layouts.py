"""Where NVIDIA's packages may lie, and what is said where they do not: real CUDA wheels, real packages, no GPU needed.

Whether the plugin's libraries are found can be seen without a device: with a driver (one of ours, tests/plugins/cuda_driver.c) the
plugin is loaded and finds no device; /proc/self/maps says which files it took.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from variants import matrix
from variants.release import pipeline
from variants.wheel import archive

WHEELS = {variant.name: variant for variant in matrix.load().values() if variant.table.plugin == "cuda"}
DRIVER = Path(__file__).parent.parent / "plugins" / "cuda_driver.c"
NEW, OLD = "99000", "11040"  # driver versions, as cuDriverGetVersion gives them

LOOK = """
import json, sys, warnings
for line in sys.argv[1:]:
    exec(line)
import llama_cpp
def open_libraries():
    names = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
    return sorted(name for name in names if any(word in name for word in ("libcud", "libcublas", "ggml-cuda")))
before = open_libraries()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    llama_cpp._backends.state.ask(gpu=True, model=True)
plugin = llama_cpp._backends.state.gpu[0]
said = [str(w.message) for w in caught]
print(json.dumps({"before": before, "after": open_libraries(), "warnings": said, **plugin.as_dict()}))
"""


class Kit(msgspec.Struct, frozen=True):
    """One wheel to look at: its plain file, its variant, its own requirements by major (``12``, ``13``), and a driver's folder."""

    wheel: Path
    variant: matrix.Variant
    driver: Path

    @property
    def major(self) -> str:
        return self.variant.name.removeprefix("cuda")

    @property
    def sonames(self) -> list[str]:
        return [name for names in self.variant.table.runtime.linux.libraries.values() for name in names]


@pytest.fixture(scope="module", params=sorted(WHEELS))
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    variant = WHEELS[request.param]
    found = sorted(pipeline.DIST.glob(f"*-{variant.label}.whl"))
    if not found:
        pytest.skip(f"dist/ has no {variant.name} wheel: `nox -s build_variant -- {variant.name} --arch 90` makes one")
    folder = tmp_path_factory.mktemp(variant.name)
    wheel = folder / archive.plain_path(found[-1]).name
    shutil.copyfile(found[-1], wheel)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("there is no C compiler to make a driver with")
    driver = folder / "driver"
    driver.mkdir()
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(DRIVER), "-o", str(driver / "libcuda.so.1")]
    subprocess.run(command, check=True)
    return Kit(wheel, variant, driver)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with upstream's own dependencies and nothing of ours."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv("venv", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "--python", python, "numpy", "typing-extensions", "diskcache", "jinja2")
    return python


def uv(*arguments: object) -> None:
    program = shutil.which("uv")
    assert program
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def target(folder: Path, *packages: object) -> Path:
    """Install packages, without what they require, into a folder."""
    uv("pip", "install", "--python", sys.executable, "--no-deps", "--target", folder, *packages)
    return folder


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """NVIDIA's packages of each major, each in a folder of its own."""
    return {
        variant.name.removeprefix("cuda"): target(tmp_path_factory.mktemp("nvidia"), *variant.table.runtime.requires)
        for variant in WHEELS.values()
    }


@pytest.fixture(scope="module")
def ours(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone in a folder."""
    return target(tmp_path_factory.mktemp("ours"), kit.wheel)


def look(
    python: Path, *before: str, folders: list[Path], driver: Path | None, version: str = NEW, prefix: Sequence[str | None] = (),
    **environment: str,
) -> Any:  # fmt: skip
    """What became of the plugin in a new process, with these folders on the path of modules; `before`: lines to run first."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "VIRTUAL"))}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, folders)), "DRIVER_VERSION": version, **environment}
    if driver:
        env["LD_LIBRARY_PATH"] = os.pathsep.join([str(driver), *filter(None, [environment.get("LD_LIBRARY_PATH")])])
    done = subprocess.run(
        [*filter(None, prefix), python, "-c", LOOK, *before], env=env, capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not any("ggml-cuda" in name for name in found["before"]), "import opened the plugin"
    return found


def taken(found: Any, kit: Kit, folder: Path) -> bool:
    """Was each of NVIDIA's libraries taken from below `folder`, and none of them twice?"""
    files = [name for name in found["after"] if Path(name).name in kit.sonames]
    return len(files) == len(kit.sonames) and all(Path(name).is_relative_to(folder.resolve()) for name in files)


def no_device(found: Any) -> bool:
    return found["state"] == "loaded" and found["devices"] == 0 and "no CUDA-capable device" in found["reason"]


def test_one_site_packages(kit: Kit, python: Path, nvidia: dict[str, Path], tmp_path: Path) -> None:
    """As every installer does it: RPATH alone would do."""
    site = target(tmp_path / "site", kit.wheel, *kit.variant.table.runtime.requires)
    found = look(python, folders=[site], driver=kit.driver)
    assert no_device(found), found
    assert taken(found, kit, site)
    assert "found no device" in found["warnings"][0]


def test_other_site_packages(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    """``--target`` folders, ``--user`` beside a system's packages, an environment laid over another: RPATH does not reach."""
    folder = nvidia[kit.major]
    for order in ([ours, folder], [folder, ours]):
        found = look(python, folders=order, driver=kit.driver)
        assert no_device(found), found
        assert taken(found, kit, folder)


def test_user_site(kit: Kit, python: Path, ours: Path, tmp_path: Path) -> None:
    """The packages in the user's own site-packages, where `pip install --user` puts them."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not base.exists():
        pytest.skip(f"{base} is not there")
    user = subprocess.run(
        [base, "-m", "site", "--user-site"], env={"PYTHONUSERBASE": str(tmp_path)}, capture_output=True, text=True
    )
    site = target(Path(user.stdout.strip()), *kit.variant.table.runtime.requires)
    dependencies = next(python.parent.parent.glob("lib/python*/site-packages"))
    found = look(base, folders=[ours, dependencies], driver=kit.driver, PYTHONUSERBASE=str(tmp_path))
    assert no_device(found), found
    assert taken(found, kit, site)


def test_laid_over(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path], tmp_path: Path) -> None:
    """An environment whose packages come from another by a ``.pth`` file."""
    uv("venv", "--python", sys.executable, tmp_path / "upper")
    site = next((tmp_path / "upper").glob("lib/python*/site-packages"))
    dependencies = next(python.parent.parent.glob("lib/python*/site-packages"))
    (site / "lower.pth").write_text(f"{dependencies}\n{nvidia[kit.major]}\n")
    shutil.copytree(ours, site, dirs_exist_ok=True)
    found = look(tmp_path / "upper" / "bin" / "python", folders=[], driver=kit.driver)
    assert no_device(found), found
    assert taken(found, kit, nvidia[kit.major])


def test_read_only(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    """Nothing can be written where the packages are: as root, with the right to override permissions taken away."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and not setpriv:
        pytest.skip("root may write everywhere, and there is no setpriv to take that away")
    folders = [ours, nvidia[kit.major], kit.driver]
    try:
        for folder in folders:
            set_writable(folder, False)
        script = "import os; assert not any(os.access(path, os.W_OK) for path in sys.path[1:3])"
        drop = [setpriv, "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
        found = look(python, script, folders=folders[:2], driver=kit.driver, prefix=drop)
    finally:
        for folder in folders:
            set_writable(folder, True)
    assert no_device(found), found
    assert taken(found, kit, nvidia[kit.major])


def set_writable(folder: Path, yes: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755 if yes else 0o555)


def test_no_driver(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has NVIDIA's driver")
    found = look(python, folders=[ours, nvidia[kit.major]], driver=None)
    assert found["state"] == "failed"
    assert "libcuda.so.1: cannot open shared object file" in found["reason"]
    assert "it comes with the GPU's driver" in found["reason"]
    assert "layers were to go to a GPU" in found["warnings"][0]
    assert not any("cublas" in name for name in found["after"]), "nothing big was opened for nothing"


def test_system_libraries_in_a_folder_of_their_own(
    kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path], tmp_path: Path
) -> None:
    """As ROCm's in /opt/rocm/lib: the `folders` of the matrix, with variables, are looked into after the loader's own search."""
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has NVIDIA's driver")
    site = tmp_path / "site"
    shutil.copytree(ours, site)
    description = site / "llama_cpp" / "lib" / "plugin.json"
    facts = json.loads(description.read_text())
    description.write_text(json.dumps({**facts, "folders": ["$UNSET/lib", "$OWN"], "brought_by": "ROCm 7"}))
    found = look(python, folders=[site, nvidia[kit.major]], driver=None, OWN=str(kit.driver))
    assert no_device(found), found
    found = look(python, folders=[site, nvidia[kit.major]], driver=None, OWN=str(tmp_path))
    assert "libcuda.so.1: cannot open shared object file: No such file or directory (it comes with ROCm 7)" in found["reason"]


def test_old_driver(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    found = look(python, folders=[ours, nvidia[kit.major]], driver=kit.driver, version=OLD)
    assert (found["state"], found["devices"]) == ("loaded", 0)
    assert "CUDA driver version is insufficient for CUDA runtime version" in found["reason"]
    assert found["reason"].endswith("; the driver is for CUDA 11.4)")
    assert "driver version is insufficient" in found["warnings"][0]


def test_the_oldest_driver(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    """NVIDIA's own runtime, newer than the label's bound, takes a driver of just that bound."""
    (bound,) = kit.variant.table.properties["nvidia"]["cuda_version_lower_bound"]
    major, minor = map(int, bound.split("."))
    found = look(python, folders=[ours, nvidia[kit.major]], driver=kit.driver, version=str(1000 * major + 10 * minor))
    assert "no CUDA-capable device is detected" in found["reason"]


def test_no_packages(kit: Kit, python: Path, ours: Path) -> None:
    found = look(python, folders=[ours], driver=kit.driver)
    assert found["state"] == "failed"
    assert re.search(rf"libcu\w+\.so\.{kit.major}: cannot open shared object file", found["reason"]), found
    assert all(f'"{requirement}"' in found["reason"] for requirement in kit.variant.table.runtime.requires)


def test_wrong_major(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    (other,) = set(nvidia) - {kit.major}
    found = look(python, folders=[ours, nvidia[other]], driver=kit.driver)
    assert found["state"] == "failed"
    assert re.search(rf"libcu\w+\.so\.{kit.major}: cannot open shared object file", found["reason"]), found
    assert "pip install" in found["reason"]


def test_the_systems_cuda(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    """NVIDIA's packages left out on purpose: a CUDA that the system's loader finds is used."""
    system = [str(nvidia[kit.major] / folder) for folder in kit.variant.table.runtime.linux.libraries]
    found = look(python, folders=[ours], driver=kit.driver, LD_LIBRARY_PATH=os.pathsep.join(system))
    assert no_device(found), found
    assert taken(found, kit, nvidia[kit.major])


def test_what_is_open_is_used(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path], tmp_path: Path) -> None:
    """Another package (PyTorch) has opened the same libraries from elsewhere: no second copy comes in."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(nvidia[kit.major], elsewhere, copy_function=os.link)
    found = look(python, *opening(kit.variant, elsewhere), folders=[ours, nvidia[kit.major]], driver=kit.driver)
    assert no_device(found), found
    assert taken(found, kit, elsewhere)


def test_two_majors(kit: Kit, python: Path, ours: Path, nvidia: dict[str, Path]) -> None:
    """The libraries of the other major are in the process, opened for everybody to see, as PyTorch opens them."""
    (other,) = set(nvidia) - {kit.major}
    variant = WHEELS[f"cuda{other}"]
    found = look(python, *opening(variant, nvidia[other]), folders=[ours, *nvidia.values()], driver=kit.driver)
    assert no_device(found), found
    assert taken(found, kit, nvidia[kit.major])
    assert any(name.endswith(f"libcudart.so.{other}") for name in found["after"])


def opening(variant: matrix.Variant, folder: Path) -> list[str]:
    """A line of Python that opens the variant's libraries from `folder`, all symbols visible."""
    files = [str(folder / where / name) for where, names in variant.table.runtime.linux.libraries.items() for name in names]
    return [f"import ctypes; [ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL) for file in {files!r}]"]
