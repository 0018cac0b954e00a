"""`explain`: the machine as it is found or described, the reasons for each wheel, and mistakes on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installers.tools import ledger_of, publish, small_wheels, wheel
from tests.unit.conftest import Cli
from variants import matrix, platforms
from variants.choice import explain, listing, machine, providers
from variants.choice.machine import Machine
from variants.errors import UsageError
from variants.index import index
from variants.steps import label

Judge = Callable[..., explain.Judged]


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offered")
    small_wheels(folder / "dist", folder / "work")
    return folder / "dist"


@pytest.fixture
def judge(offered: Path) -> Judge:
    """What becomes of a label's wheel on a machine."""

    def judge(label: str | None, asked: Machine, installer: str = "standard") -> explain.Judged:
        choice = explain.choose(listing.read(str(offered)), machine.checked(asked), installer)
        tags = set(machine.wheel_tags(machine.checked(asked)))
        names = {candidate.name for candidate in listing.read(str(offered)).wheels if candidate.tags & tags}
        return next(judged for judged in choice.ranked if judged.label == label and judged.name in names)

    return judge


def test_reasons(judge: Judge) -> None:
    """The exact property that failed, and what would change it."""
    rtx = Machine(driver="12.8", sm=("8.6",))
    assert judge("cuda13", rtx).reason == "needs driver for CUDA 13.0 or newer, found 12.8"
    assert judge("cuda13", rtx).change == "a newer NVIDIA driver, for CUDA 13.0"
    assert judge("cuda12", rtx).reason == "fits, and comes first in the order nvidia, amd, llama_cpp (by nvidia)"
    assert judge("vulkan", rtx).reason == "would fit; cuda12 is ordered before it"
    assert judge("rocm7", rtx).reason == "the provider of amd is optional: it is asked where the user enables it"
    assert judge("rocm7", Machine(optional=("amd",))).reason == "needs an AMD GPU, found none"
    maxwell = Machine(driver="13.0", sm=("5.2",))
    assert judge("cuda12", maxwell).reason == (
        "has code for SM 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0 and for newer GPUs through PTX of 9.0, 10.0, 11.0, 12.0, "
        "found SM 5.2"
    )
    assert judge("cuda12", maxwell).change == "another GPU"
    assert "no NVIDIA GPU with a driver" in judge("cuda12", Machine()).reason
    assert "nvidia-smi" in judge("cuda12", Machine()).change
    assert judge("cuda12", Machine(driver="12.8")).reason == "needs to know the GPU's compute capability, found none"
    radeon = Machine(gfx=("gfx803",), optional=("amd",))
    assert judge("rocm7", radeon).reason.startswith("has code for gfx1030, gfx1100")
    assert judge("rocm7", radeon, "uv").reason == "uv does not know the provider of amd"
    assert judge("cuda13", rtx, "pip").reason == "pip does not know labelled wheels"
    assert "the wheel without a label" in judge(None, rtx, "pip").reason


def test_python_and_yanked(tmp_path: Path) -> None:
    wheel(tmp_path)
    offered = listing.read(str(tmp_path))
    assert explain.choose(offered, machine.checked(Machine(python="3.8")), "pip").winner
    publish(tmp_path, tmp_path / "site")
    offered = listing.read(str(tmp_path / "site"))
    old = explain.choose(offered, machine.checked(Machine(python="3.7")), "pip")
    assert old.winner is None
    assert old.ranked[0].reason == "needs Python >=3.8, found 3.7"
    index.yank(ledger_of(tmp_path / "site"), next(tmp_path.glob("*.whl")).name, "x")
    publish(tmp_path, tmp_path / "site")
    yanked = listing.read(str(tmp_path / "site"))
    assert explain.choose(yanked, machine.checked(Machine()), "pip").ranked[0].reason == "yanked"
    assert explain.choose(yanked, machine.checked(Machine()), "pip", "9.9.7").winner
    with pytest.raises(UsageError, match=r"has no version 1\.0"):
        explain.choose(yanked, machine.checked(Machine()), "pip", "1.0")


@pytest.mark.parametrize(
    ("cpu", "level"), [("nehalem", "v2"), ("haswell", "v3"), ("zen4", "v4"), ("x86_64", "v1"), ("core2", "v1"), ("zen2", "v3")]
)
def test_processor_levels(cpu: str, level: str) -> None:
    answer = providers.PROVIDERS["x86_64"].supported(machine.checked(Machine(cpu=cpu)))
    assert answer["level"][0] == level
    assert answer["level"][-1] == "v1"
    assert providers.PROVIDERS["x86_64"].supported(machine.checked(Machine("linux_aarch64"))) == {}


def test_detect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, with the nvidia-smi of another one on PATH, and the kernel's list of AMD's GPUs of another one."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith(("NV_", "ROCM_", "UV_")):
            monkeypatch.delenv(name)
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase $1 in --query-gpu=driver_version) echo 570.1;; -q) echo 'CUDA Version   : 12.8';;"
        " --query-gpu=compute_cap) echo 6.1; echo 8.6;; esac\n"
    )
    smi.chmod(0o755)
    for node, version in enumerate((0, 90402, 110000, 110000, 90010)):
        (tmp_path / "nodes" / str(node)).mkdir(parents=True)
        (tmp_path / "nodes" / str(node) / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {version}\n")
    assert machine._amd([], tmp_path / "nodes") == ("gfx942", "gfx1100", "gfx90a")
    monkeypatch.setenv("ROCM_BOOTSTRAP_FORCE_GFX_ARCH", "gfx1100, gfx942")
    found = machine.detect()
    assert (found.driver, found.sm, found.gfx) == ("12.8", ("6.1", "8.6"), ("gfx1100", "gfx942"))
    assert any(str(smi) in note for note in found.notes)
    smi.write_text("#!/bin/sh\necho failed\nexit 9\n")
    assert machine.detect().driver is None
    assert any("fails" in note for note in machine.detect().notes)


@pytest.mark.parametrize(
    ("driver", "sm", "found"),
    [
        ("12.8", "8.6", ("12.8", ("8.6",))), ("12.8.1", "8.6", ("12.8", ("8.6",))), (" 12.8\n", "8.6 ", ("12.8", ("8.6",))),
        ("v12.8", "+8.06", ("12.8", ("8.6",))), ("13.0a1", "8 . 6", ("13.0", ("8.6",))),
        ("1!12.8+x", "8.6", ("12.8", ("8.6",))), ("57.0", "8.6", ("57.0", ("8.6",))), ("58.0", "8.6", (None, ())),
        ("57.10", "8.6", ("57.10", ("8.6",))), ("57.11", "8.6", (None, ())),
        ("13.978", "8.6", ("13.978", ("8.6",))), ("13.979", "8.6", (None, ())),
        ("99.99", "8.6", (None, ())), ("16.99", "8.6", ("16.99", ("8.6",))), ("55.99", "8.6", (None, ())),
        ("13.1000", "8.6", (None, ())), ("12", "8.6", ("12.0", ("8.6",))), ("12.8.", "8.6", (None, ())),
        ("9" * 5000 + ".1", "8.6", (None, ())), ("\u0661\u0662.\u0668", "8.6", (None, ())), ("13.0\xa0", "8.6", (None, ())),
        ("12.8", "\u0668.\u0666", ("12.8", ())), ("12.8", "8.6.1", ("12.8", ())), ("12.8", "86", ("12.8", ())),
        ("12.8", "8.256", ("12.8", ())), ("12.8", "8._6", ("12.8", ())), ("12.8", "-8.6", ("12.8", ())),
        ("12.8", "", ("12.8", ())),
    ],
)  # fmt: skip
def test_odd_values(driver: str, sm: str, found: tuple[str | None, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's variables, as uv 0.13 was seen to read them (tests/installers/test_machines.py asks it)."""
    monkeypatch.setenv("NV_VARIANT_PROVIDER_FORCE_CUDA_DRIVER_VERSION", driver)
    monkeypatch.setenv("NV_VARIANT_PROVIDER_FORCE_SM_ARCH", sm)
    assert machine._nvidia([]) == found


def test_uv_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("UV_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert not machine.detect().preview
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text('preview-features = ["wheel-variants"]\n')
    assert machine.detect().preview
    (tmp_path / "uv" / "uv.toml").write_text("[broken")
    assert not machine.detect().preview
    monkeypatch.setenv("UV_PREVIEW_FEATURES", "a,wheel-variants")
    assert machine.detect().preview


def test_platforms_of_tags() -> None:
    for name, platform in platforms.PLATFORMS.items():
        assert platforms.of_tag(name) is platforms.of_tag(platform.newest) is platforms.of_tag(platform.tag) is platform
    assert platforms.of_tag("manylinux2014_aarch64") is platforms.PLATFORMS["linux_aarch64"]
    assert platforms.of_tag("win32") is None
    assert platforms.of_tag("any") is None


def test_every_label_of_the_matrix_is_known_to_its_provider() -> None:
    for variant in matrix.load().values():
        for namespace, features in variant.properties.items():
            for feature, values in features.items():
                for value in values:
                    assert providers.error(namespace, feature, value) is None


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--driver", "new"], '--driver: "new" is no MAJOR.MINOR'),
        (["--sm", "86"], '--sm: "86" is no MAJOR.MINOR'),
        (["--platform", "linux_z80"], 'nobody knows the platform "linux_z80"'),
        (["--cpu", "abacus"], 'nobody knows the processor "abacus"'),
        (["--gfx", "rx7900"], 'is no AMD architecture'),
        (["nowhere"], "nowhere is no folder"),
        (["http://127.0.0.1:9/simple/"], "does not answer as an index"),
    ],
)  # fmt: skip
def test_mistakes(asking: Cli, offered: Path, arguments: list[str], what: str) -> None:
    where = [] if arguments[0].startswith(("nowhere", "http")) else [str(offered)]
    done = asking("explain", *where, *arguments)
    assert done.returncode == UsageError.exit_code
    assert what in done.stdout
    assert len(done.stdout.splitlines()) < 10


def test_command_line(asking: Cli, offered: Path) -> None:
    """In words, and as JSON; the exit code says whether anything fits."""
    done = asking("explain", offered, "--driver", "12.8", "--sm", "8.6", "--cpu", "haswell", "--platform", "win_amd64")
    assert done.returncode == 0
    assert "takes      llama_cpp_python-9.9.7-py3-none-win_amd64-cuda12.whl" in done.stdout
    assert "needs driver for CUDA 13.0 or newer, found 12.8" in done.stdout
    done = asking("explain", offered, "--gfx", "gfx1100", "--optional", "amd", "--json")
    answer = json.loads(done.stdout)
    assert answer["choice"]["label"] == "rocm7"
    assert answer["others"]["uv"].endswith("-vulkan.whl")
    assert any("uv does not know the provider of amd" in line for line in answer["differences"])
    done = asking("explain", offered, "--platform", "macosx_10_15_x86_64", "--installer", "pip")
    assert done.returncode == 1
    assert "nothing fits" in done.stdout


def test_folder_with_contradictions(tmp_path: Path, offered: Path) -> None:
    """A folder that no index would be made of: the version is passed over, and the reason names a file."""
    for path in offered.glob("*x86_64*.whl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    folder = tmp_path / "other"
    folder.mkdir()
    made = wheel(folder, platform="win_amd64")
    text = '[properties.nvidia]\ncuda_version_lower_bound = ["12.0"]\n[smoke]\ndevice = "CUDA"\n'
    (folder / "cuda12.toml").write_text('summary = "x"\nplatforms = ["win_amd64"]\nlabel = "cuda12"\n' + text)
    label.label(made, matrix.read(folder / "cuda12.toml"), tmp_path)
    choice = explain.choose(listing.read(str(tmp_path)), machine.checked(Machine()), "standard")
    assert choice.winner is None
    assert "cuda12.whl: Inconsistency" in choice.ranked[0].reason
