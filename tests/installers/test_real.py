"""Once from end to end with the real wheels: whatever dist/ holds, indexed, served, installed by one command, and made to generate.

The wheels' own requirements (NumPy and others) come from the index that the user's uv is configured for. Where dist/ has the plain
wheel alone, copies of it that carry the matrix's labels take part too, so that labels are chosen among wheels of real size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.installers.conftest import serving
from tests.installers.real import NEEDS_REAL, REAL, VERSION
from tests.installers.tools import FEATURE, ROOT, UV, ledger_of, publish
from variants import matrix
from variants.choice import explain, listing, machine
from variants.index import index
from variants.wheel import archive

pytestmark = NEEDS_REAL
GENERATE = """
import json, sys, tempfile, pathlib
sys.path.insert(0, {inference!r})
import gguf, llama_cpp, tiny
from importlib import metadata
path = tiny.write(pathlib.Path(tempfile.mkdtemp()) / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0)
model = llama_cpp.Llama(str(path), n_ctx=64, verbose=False)
text = model("a", max_tokens=8, temperature=0)["choices"][0]
variant = metadata.distribution("llama_cpp_python").read_text("variant.json")
labels = list(json.loads(variant)["variants"]) if variant else []
print(json.dumps([llama_cpp.__version__, labels, llama_cpp.__file__, text["text"]]))
"""
GPUS = {
    "no GPU": {},
    "RTX 3060, CUDA 12.8": {"driver": "12.8", "sm": "8.6"},
    "RTX 5090, CUDA 13.0": {"driver": "13.0", "sm": "12.0"},
}


def generated(address: str, folder: Path, requirement: str = "llama-cpp-python", **extra: str) -> tuple[str, str]:
    """Install with one command into a new environment, generate there; returns version and label of what was installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_PREVIEW", "NV_", "VIRTUAL_ENV"))}
    env = {**kept, "UV_CACHE_DIR": str(folder / "cache"), **extra}
    python = folder / "venv" / "bin" / "python"
    for command in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv")],
        ["pip", "install", "--quiet", "--python", str(python), "--index", f"{address}simple/", requirement],
        ["pip", "install", "--quiet", "--python", str(python), "gguf"],
    ):
        done = subprocess.run([UV, *command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    script = GENERATE.format(inference=str(ROOT / "tests" / "inference"))
    done = subprocess.run([python, "-c", script], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, labels, file, text = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(folder / "venv")
    assert text
    return version, labels[0] if labels else "plain"


@pytest.mark.parametrize("gpu", GPUS)
def test_every_machine(gpu: str, real: tuple[Path, Path, str], tmp_path: Path) -> None:
    """One command takes the wheel that `explain` names, and that generates."""
    _, site, address = real
    facts = GPUS[gpu]
    variables = dict(FEATURE)
    asked = msgspec.structs.replace(machine.detect(), driver=facts.get("driver"), sm=tuple(filter(None, [facts.get("sm")])))
    if facts:
        variables["NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION"] = facts["driver"]
        variables["NV_VARIANT_PROVIDER_FORCE_SM_ARCH"] = facts["sm"]
    expected = explain.choose(listing.read(str(site)), asked, "uv", VERSION).spelled
    version, found = generated(address, tmp_path, f"llama-cpp-python=={VERSION}", **variables)
    assert (version, found) == (VERSION, expected)


def test_without_variants(real: tuple[Path, Path, str], tmp_path: Path) -> None:
    assert generated(real[2], tmp_path, f"llama-cpp-python=={VERSION}") == (VERSION, "plain")


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_every_file(path: Path, real: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Each real wheel for this platform installs and generates, older versions too; a labelled one from its backend's index."""
    _, _, address = real
    name, version, _, tags = archive.parse_name(archive.plain_path(path))
    if not {str(tag) for tag in tags} & set(machine.wheel_tags(machine.detect())):
        pytest.skip(f"{path.name} is for another platform than this machine's")
    own = archive.split_label(path.name)[1]
    requirement = f"{name}=={version}" + (f"+{own}" if own else "")
    found = generated(f"{address}backends/{own}/" if own else address, tmp_path, requirement)
    assert found == (str(version), "plain")


def test_build_number_and_yanked(real: tuple[Path, Path, str], tmp_path: Path) -> None:
    """A rebuild of the same version with a build number wins; yanked, it is passed over."""
    dist, site, _ = real
    work, new_site = tmp_path / "dist", tmp_path / "site"
    shutil.copytree(dist, work, ignore=shutil.ignore_patterns("backends", "*-rocm7.whl", "*-cuda*.whl"))
    made = []
    for path in [path for path in sorted(work.glob("*.whl")) if archive.parse_name(archive.plain_path(path))[1].public == VERSION]:
        with archive.open_wheel(path) as opened:
            info = archive.dist_info(opened)
            header = re.sub(rb"(?m)^(?:Build: .*\n)?(?=Tag:)", b"Build: 7\n", opened.read(f"{info}/WHEEL"), count=1)
        target = path.with_name(path.name.replace(f"-{VERSION}-", f"-{VERSION}-7-"))
        archive.rewrite(path, target, {f"{info}/WHEEL": header})
        made.append(target)
    publish(work, new_site)
    with serving(new_site) as address:
        requirement = f"llama-cpp-python=={VERSION}"
        for number, variables in enumerate(({}, FEATURE)):
            assert generated(address, tmp_path / str(number), requirement, **variables)[0] == VERSION
            assert _build(tmp_path / str(number)) == "7"
    for target in made:
        index.yank(ledger_of(new_site), target.name, "it generates nonsense")
    publish(work, new_site)
    with serving(new_site) as address:
        assert generated(address, tmp_path / "yanked", "llama-cpp-python", **FEATURE)[0]
        assert _build(tmp_path / "yanked") is None
    assert json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]


def test_one_core() -> None:
    """Wheels of one core, whatever plugin came with it, have the very same bytes of it."""
    seen: dict[str, dict[str, bytes]] = {}
    for path in REAL:
        files = archive.contents(path)
        core = json.loads(files["llama_cpp/lib/core.json"])
        own = {f"libggml-{variant.table.plugin}.so" for variant in matrix.load().values()}
        libraries = {name: data for name, data in files.items() if name.endswith(".so") and name.rpartition("/")[2] not in own}
        assert seen.setdefault(core["fingerprint"], libraries) == libraries, path.name


def _build(folder: Path) -> str | None:
    """Build number of the installed wheel."""
    (wheel,) = folder.glob("venv/lib/python*/site-packages/llama_cpp_python-*.dist-info/WHEEL")
    found = re.search(r"^Build: (\S+)$", wheel.read_text(), re.MULTILINE)
    return found[1] if found else None
