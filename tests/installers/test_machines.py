"""Every machine of the table: uv, variantlib's resolver and `explain` must all take what the table says."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from variantlib.models.variant import VariantProperty
from variantlib.resolver.lib import sort_and_filter_supported_variants
from variantlib.variants_json import VariantsJson

from tests.installers.tools import FEATURE, ROOT, ROWS, UV, emulate, environment
from variants import matrix
from variants.choice import explain, known, listing, machine, metadata, providers
from variants.choice.known import Row

NEWEST = subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def test_the_table_is_wide_enough() -> None:
    assert len(ROWS) >= 40
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.gets for row in ROWS} == {"plain", "nothing", *(v.label for v in matrix.load().values() if v.label and v.published)}
    lacking = {row.lacks for row in ROWS if row.uv}
    assert lacking == {"amd"}, "any other difference between uv and the standard is a bug of one of them"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_uv(row: Row, offer: tuple[Path, str], tmp_path: Path) -> None:
    """The newest uv, on the emulated machine."""
    _, address = offer
    python, variables = emulate(row, tmp_path / "machine")
    command = [UV, "pip", "install", "--python", python, "--target", tmp_path / "target", "--default-index", f"{address}simple/"]
    done = subprocess.run(
        [*map(str, command), "llama-cpp-python"], env=environment(tmp_path) | variables, capture_output=True, text=True, check=False
    )
    expected = row.uv or row.gets
    if expected == "nothing":
        assert done.returncode != 0
        assert "no wheels with a matching platform tag" in " ".join(done.stderr.split()), done.stderr
        return
    assert done.returncode == 0, done.stderr
    installed = _which(tmp_path / "target")
    assert installed == expected, f"{NEWEST} took {installed} for: {row.name}"
    # the requirements of the CUDA wheels came along, and with no other wheel
    wanted = {v.label or "plain": v.table.runtime.requires for v in matrix.load().values()}[expected]
    assert sorted(Requirement(text).name.replace("-", "_") for text in wanted) == sorted(
        path.name.split("-")[0] for path in (tmp_path / "target").glob("nvidia_*.dist-info")
    )


def _which(target: Path) -> str:
    return (target / "llama_cpp" / "__init__.py").read_text().split("'")[1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_explain(row: Row, offer: tuple[Path, str]) -> None:
    """`explain`, for every installer; its reasons name what failed."""
    site, _ = offer
    offered = listing.read(str(site))
    own = "standard" if row.preview else "uv-off"
    assert explain.choose(offered, row.machine(), own).spelled == row.gets
    assert explain.choose(offered, row.machine(), "uv" if row.preview else "uv-off").spelled == (row.uv or row.gets)
    plain = "nothing" if row.gets == "nothing" else "plain"
    for installer in ("pip", "poetry", "pdm", "uv-off", "uv-lock"):
        assert explain.choose(offered, row.machine(), installer).spelled == plain
    answer = explain.explain(offered, row.machine(), "standard")
    for judged in answer.choice.ranked:
        assert judged.reason
        assert judged.fits or judged.change
    if row.uv:
        assert any(f"uv does not know the provider of {row.lacks}" in line for line in answer.differences)


@pytest.mark.parametrize("row", [row for row in ROWS if row.preview and row.gets != "nothing"], ids=lambda row: row.name)
def test_resolver(row: Row, offer: tuple[Path, str]) -> None:
    """variantlib's resolver as a whole, told in full what the providers' own documents say that they answer."""
    site, _ = offer
    page = site / "simple" / "llama-cpp-python" / "llama_cpp_python-9.9.7-variants.json"
    info = VariantsJson(json.loads(page.read_bytes()))
    supported = [VariantProperty("llama_cpp", "backend", "vulkan")]
    if row.driver:
        driver = tuple(int(part) for part in row.driver.split("."))
        every = [(major, minor) for major in range(15, 10, -1) for minor in range(20, -1, -1)]
        lower = [f"{major}.{minor}" for major, minor in every if (major, minor) <= driver]
        supported += [VariantProperty("nvidia", "cuda_version_lower_bound", value) for value in lower]
        if row.sm:
            major, minor = max(tuple(int(part) for part in sm.split(".")) for sm in row.sm)
            values = [f"{major}{m}_real" for m in range(minor, -1, -1)] + [f"{major}0_virtual"]
            supported += [VariantProperty("nvidia", "sm_arch", value) for value in values]
    supported += [VariantProperty("amd", "gfx_arch", value) for value in row.gfx if "amd" in row.optional]
    features = {"nvidia": ["cuda_version_lower_bound", "cuda_version_upper_bound", "sm_arch"], "amd": ["gfx_arch"]}
    ordered = sort_and_filter_supported_variants(
        list(info.variants.values()), supported, list(info.namespace_priorities), feature_priorities=features
    )
    platform = "linux_x86_64" if row.platform.startswith("manylinux") else row.platform
    there = [variant.label for variant in matrix.load().values() if platform in variant.table.platforms]
    labels = {frozenset(description.properties): label for label, description in info.variants.items()}
    chosen = [labels[frozenset(description.properties)] for description in ordered if description.properties]
    assert next((label for label in chosen if label in there), "plain") == row.gets


def test_amd_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's own package, by the name and place that the wheels give, knows our features and architectures, and answers alike."""
    info = metadata.own().providers["amd"]
    (requirement,) = map(Requirement, info.requires)
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name))
    module, _, name = str(info.plugin_api).partition(":")
    plugin = getattr(importlib.import_module(module), name)
    assert plugin.namespace == "amd"
    known = {config.name: config.values for config in plugin.get_all_configs()}
    assert set(known) == set(providers.PROVIDERS["amd"].features)
    assert set(matrix.load()["rocm7"].properties["amd"]["gfx_arch"]) <= set(known["gfx_arch"])
    monkeypatch.setenv("ROCM_BOOTSTRAP_FORCE_GFX_ARCH", "gfx1100,gfx942")
    here = machine.detect()
    found = {config.name: config.values for config in plugin.get_supported_configs()}
    assert found == providers.supported("amd", info, msgspec.structs.replace(here, optional=("amd",)))
    assert providers.supported("amd", info, here) == {}


@pytest.mark.parametrize("platform", sorted({row.platform for row in ROWS}))
def test_pip_elsewhere(platform: str, offer: tuple[Path, str], tmp_path: Path) -> None:
    """pip for another platform takes the plain wheel, as `explain` says."""
    site, address = offer
    asked = machine.checked(machine.Machine(platform))
    tags = [text.rsplit("-", 1)[1] for text in machine.wheel_tags(asked) if text.startswith("py3-none-")]
    platforms = [word for tag in dict.fromkeys(tags) if tag != "any" for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path / "target"), "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, *platforms, "--index-url", f"{address}simple/", "llama-cpp-python"],
        env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    expected = explain.choose(listing.read(str(site)), asked, "pip").spelled
    assert (_which(tmp_path / "target") if done.returncode == 0 else "nothing") == expected, done.stderr


def test_this_machine_through_variables(offer: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `detect` makes of the provider's variables is what uv makes of them."""
    site, _ = offer
    monkeypatch.setenv("NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION", "13.0")
    monkeypatch.setenv("NV_VARIANT_PROVIDER_FORCE_SM_ARCH", "12.0")
    assert explain.choose(listing.read(str(site)), machine.detect(), "standard").label == "cuda13"
    monkeypatch.setenv("NV_VARIANT_PROVIDER_FORCE_SM_ARCH", "twelve")
    assert explain.choose(listing.read(str(site)), machine.detect(), "standard").label == "vulkan"


@pytest.mark.parametrize("sm", ["8.6", "8.6 ", "+8.6", "8.6.1"])
@pytest.mark.parametrize(
    "driver", ["12.8.1", "12.8 ", "v13.0rc1", "57.10", "57.11", "99.99", "13.978", "13.979", "\u0661\u0662.\u0668", "12"]
)
def test_odd_values(driver: str, sm: str, offer: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv and `explain` read odd values of the provider's variables in the same way."""
    site, address = offer
    variables = {"NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION": driver, "NV_VARIANT_PROVIDER_FORCE_SM_ARCH": sm}
    command = [
        UV,
        "pip",
        "install",
        "--python",
        sys.executable,
        "--target",
        tmp_path / "target",
        "--default-index",
        f"{address}simple/",
    ]
    env = environment(tmp_path) | FEATURE | variables
    subprocess.run([*map(str, command), "llama-cpp-python"], env=env, capture_output=True, check=True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert explain.choose(listing.read(str(site)), machine.detect(), "uv").spelled == _which(tmp_path / "target")


def test_the_page_is_made_from_the_table() -> None:
    page = ROOT / "docs" / "machines.md"
    assert page.read_text(encoding="utf-8") == known.markdown(), "make it again: `nox -s docs`"
