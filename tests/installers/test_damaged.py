"""A damaged index: what the real uv does, and that `explain` says the same. docs/installing.md has the same in words."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.installers.conftest import serving
from tests.installers.tools import FEATURE, UV, environment
from variants.choice import explain, listing, machine, metadata

Json = dict[str, Any]
Change = Callable[[Json], object]
NAME = "llama_cpp_python-9.9.7-variants.json"
VULKAN = "llama_cpp_python-9.9.7-py3-none-manylinux_2_17_x86_64-vulkan.whl"


def change(folder: Path, how: Change, rehash: bool = True) -> None:
    """Change the metadata of 9.9.7, and with `rehash` the pages that link it."""
    page = json.loads((folder / "index.json").read_text())
    (row,) = (row for row in page["files"] if row["filename"] == NAME)
    path = folder / row["url"]
    data = json.loads(path.read_text())
    how(data)
    path.write_text(json.dumps(data))
    if rehash:
        old, new = row["hashes"]["sha256"], hashlib.sha256(path.read_bytes()).hexdigest()
        row["hashes"]["sha256"] = new
        (folder / "index.json").write_text(json.dumps(page))
        lines = (folder / "index.html").read_text().splitlines()
        (folder / "index.html").write_text("\n".join(line.replace(old, new) if NAME in line else line for line in lines))


def unlink(folder: Path) -> None:
    """The page does not link the metadata any more."""
    lines = [line for line in (folder / "index.html").read_text().splitlines() if NAME not in line]
    (folder / "index.html").write_text("\n".join(lines))


def remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


#: What is done to the index, and what uv with the feature then takes: a label and version, or the text of its error.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no *-variants.json": (unlink, "plain 9.9.7"),
    "*-variants.json is linked and missing (404)": (lambda folder: remove(folder, f"variants/*/{NAME}"), "404"),
    "*-variants.json has another hash": (lambda folder: change(folder, lambda data: data["variants"].clear(), False), "Computed:"),
    "a label is missing from it": (lambda folder: change(folder, lambda data: data["variants"].pop("vulkan")), "plain 9.9.7"),
    "the chosen wheel is missing (404)": (lambda folder: remove(folder, f"{VULKAN}*"), "404"),
}
#: Metadata that is not what PEP 850 says: uv passes over the version, and `metadata.check` refuses to publish it.
INVALID: dict[str, Change] = {
    "an unknown key": lambda data: data.update(extra=1),
    "an unknown key of a provider": lambda data: data["providers"]["nvidia"].update({"enable-if": "x"}),
    "priorities of features": lambda data: data["default-priorities"].update(feature={}),
    "a namespace without provider": lambda data: data["providers"].pop("amd"),
    "an upper-case value": lambda data: data["variants"]["vulkan"]["llama_cpp"].update(backend=["Vulkan"]),
    "an empty list": lambda data: data["variants"]["vulkan"]["llama_cpp"].update(backend=[]),
    "no $schema": lambda data: data.pop("$schema"),
    "both requires and static-properties": lambda data: data["providers"]["llama_cpp"].update(requires=["x"]),
    "neither": lambda data: data["providers"].update(llama_cpp={}),
    "two static features without order": lambda data: data["providers"]["llama_cpp"]["static-properties"].update(other=["a"]),
    "plugin-api of a static provider": lambda data: data["providers"]["llama_cpp"].update({"plugin-api": "x"}),
    "feature-order of a plug-in provider": lambda data: data["providers"]["nvidia"].update({"feature-order": ["sm_arch"]}),
    "the label null": lambda data: data["variants"].update(null={"llama_cpp": {"backend": ["vulkan"]}}),
    "a label with a dash": lambda data: data["variants"].update({"a-b": {"llama_cpp": {"backend": ["vulkan"]}}}),
    "a property without provider": lambda data: data["variants"].update(zz={"other": {"backend": ["vulkan"]}}),
}


@pytest.fixture
def copied(offer: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(offer[0], tmp_path / "site")
    return tmp_path / "site"


def install(address: str, tmp_path: Path, **extra: str) -> tuple[str, str]:
    """What is installed, as in ``vulkan 9.9.7``, or an empty string; and what uv prints on errors."""
    target = tmp_path / f"target{len(list(tmp_path.iterdir()))}"
    command = [UV, "pip", "install", "--python", sys.executable, "--target", target, "--default-index", f"{address}simple/"]
    done = subprocess.run(
        [*map(str, command), "llama-cpp-python"], env=environment(target) | extra, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return "", done.stderr
    (info,) = target.glob("llama_cpp_python-*.dist-info")
    which = (target / "llama_cpp" / "__init__.py").read_text().split("'")[1]
    return f"{which} {info.name.split('-')[1].removesuffix('.dist')}", done.stderr


def explained(address: str, installer: str) -> str:
    choice = explain.choose(listing.read(f"{address}simple/"), machine.Machine(), installer)
    version = next((judged.version for judged in choice.ranked if judged.name == choice.winner), "")
    return f"{choice.spelled} {version}" if choice.winner else choice.problem


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage: str, copied: Path, tmp_path: Path) -> None:
    how, expected = DAMAGE[damage]
    how(copied / "simple" / "llama-cpp-python")
    with serving(copied) as address:
        installed, error = install(address, tmp_path, **FEATURE)
        assert expected in (installed or error)
        if not damage.startswith("the chosen wheel"):
            said = explained(address, "uv")
            assert said == installed or (not installed and ("answers 404" in said or "another hash" in said))
        assert install(address, tmp_path)[0] == "plain 9.9.7", "without the feature nobody looks at it"


@pytest.mark.parametrize("damage", INVALID)
def test_invalid_metadata(damage: str, copied: Path, tmp_path: Path) -> None:
    """uv silently takes the version before; ours is as strict, and would not have published it."""
    folder = copied / "simple" / "llama-cpp-python"
    change(folder, INVALID[damage])
    (path,) = folder.glob(f"variants/*/{NAME}")
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        metadata.check(path.read_bytes())
    with serving(copied) as address:
        installed, _ = install(address, tmp_path, **FEATURE)
        assert installed == "vulkan 9.9.6"
        assert explained(address, "uv") == installed
        assert install(address, tmp_path)[0] == "plain 9.9.7"


def test_wheel_of_another_hash(copied: Path, tmp_path: Path) -> None:
    """Nothing is installed from a wheel that is not the one that was linked."""
    path = copied / "simple" / "llama-cpp-python" / VULKAN
    content = path.read_bytes()
    path.write_bytes(content.replace(b"WHICH = 'vulkan'", b"WHICH = 'VULKAN'") if b"WHICH = 'vulkan'" in content else content[:-9])
    with serving(copied) as address:
        installed, error = install(address, tmp_path, **FEATURE)
    assert not installed
    assert VULKAN in error
