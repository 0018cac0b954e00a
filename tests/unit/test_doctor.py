"""What `python -m llama_cpp doctor` and the loader's warning find out without a library: hardware, traps, tags, texts.

Machines are folders that stand for `/`, and an `nvidia-smi` on PATH. What needs the wheel is in tests/inference/test_doctor.py.
"""

from __future__ import annotations

import grp
import io
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from llama_cpp import _errors, _hardware
from llama_cpp._doctor import findings, install, privacy, processor, screen, tiny

from variants import matrix
from variants.platforms import PLATFORMS
from variants.upstream.source import ROOT

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
MODULE = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"}
VULKAN = {"usr/lib/libvulkan.so.1": "", "usr/share/vulkan/icd.d/some_icd.json": "{}"}
WSL = {"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2"}
CUDA = {"usr/lib/libcuda.so.1": ""}
Machine = Callable[..., _hardware.Hardware]


def gpu(vendor: str, address: str = "0000:01:00.0", kernel: str = "", kind: str = "0x030000") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{address}"
    files = {f"{folder}/vendor": vendor, f"{folder}/class": kind, f"{folder}/device": "0x2684"}
    return files | ({f"{folder}/driver -> ../../drivers/{kernel}": ""} if kernel else {})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of these files (`a -> b` is a link), with the answers of its `nvidia-smi`, if it has one."""
    for name in ("LD_LIBRARY_PATH", "VK_DRIVER_FILES", "VK_ICD_FILENAMES", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)

    def make(*parts: dict[str, str], smi: str | None = None) -> _hardware.Hardware:
        root = tmp_path / "root"
        for name, text in {key: value for part in parts for key, value in part.items()}.items():
            path, _, link = name.partition(" -> ")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if link:
                (root / path).symlink_to(link)
            else:
                (root / path).write_text(text)
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        monkeypatch.setenv("PATH", str(tools))
        if smi is not None:
            (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
            (tools / "nvidia-smi").chmod(0o755)
        return _hardware.find(str(root))

    return make


def smi(compute: str = "8.9", driver: str = "580.65.06", cuda: str = "13.0") -> str:
    return (
        f'case "$*" in *query-gpu*) echo "NVIDIA GeForce RTX 4090, {compute}, 24564, 20000, {driver}";; '
        f'*) echo "    CUDA Version                          : {cuda}";; esac'
    )


def traps(found: _hardware.Hardware) -> list[str]:
    return [trap.name for trap in found.traps]


def test_no_gpu(machine: Machine) -> None:
    """A server's console and a virtual machine's screen are no GPUs."""
    found = machine(gpu("0x1a03"), gpu("0x1234", "0000:02:00.0"))
    assert (found.gpus, found.traps, _hardware.label(found)) == ([], [], "")


def test_nvidia_with_everything(machine: Machine) -> None:
    found = machine(gpu(NVIDIA, kernel="nvidia"), MODULE, CUDA, VULKAN, {"dev/nvidia0": ""}, smi=smi())
    assert found.gpus == [_hardware.Gpu("NVIDIA", "NVIDIA GeForce RTX 4090", "nvidia", "8.9", 24564 << 20, 20000 << 20)]
    assert (found.driver, found.cuda, traps(found), _hardware.label(found)) == ("580.65.06", "13.0", [], "cuda13")


@pytest.mark.parametrize(
    ("compute", "cuda", "label"),
    [
        ("8.9", "13.0", "cuda13"),
        ("8.9", "12.8", "cuda12"),
        ("6.1", "13.0", "cuda12"),
        ("8.9", "12.2", "cuda12"),
        ("8.9", "11.8", "vulkan"),
        ("5.2", "13.0", "vulkan"),
    ],
)
def test_label(machine: Machine, compute: str, cuda: str, label: str) -> None:
    assert _hardware.label(machine(smi=smi(compute=compute, cuda=cuda))) == label


def test_labels_are_the_matrix(machine: Machine) -> None:
    """The oldest driver and GPU of each CUDA label are those of its matrix file."""
    variants = {name: variant for name, variant in matrix.load().items() if variant.table.plugin == "cuda"}
    assert {name for name, *_ in _hardware.CUDA_LABELS} == set(variants)
    for name, driver, compute in _hardware.CUDA_LABELS:
        table = tomllib.loads((ROOT / "variants" / f"{name}.toml").read_text(encoding="utf-8"))
        assert table["properties"]["nvidia"]["cuda_version_lower_bound"] == ["{}.{}".format(*driver)]
        assert min(table["cuda"]["architectures"], key=int) == "{}{}".format(*compute)


@pytest.mark.parametrize(
    ("parts", "answer", "expected", "helps"),
    [
        ([gpu(NVIDIA, kernel="nouveau")], None, "nouveau", "NVIDIA's own driver"),
        ([gpu(NVIDIA)], None, "no-driver", "Install NVIDIA's driver"),
        ([gpu(NVIDIA, kernel="vfio-pci")], None, "vfio", "virtual machine|host"),
        ([gpu(NVIDIA, kernel="nvidia"), MODULE, CUDA], None, "no-device-node", "nvidia-modprobe"),
        ([gpu(NVIDIA, kernel="nvidia"), MODULE, CUDA, {".dockerenv": ""}], None, "no-device-node", "--gpus all"),
        ([gpu(NVIDIA, kernel="nvidia"), MODULE, {"dev/nvidia0": "", ".dockerenv": ""}], None, "no-libcuda", "--gpus all"),
        ([gpu(NVIDIA, kernel="nvidia"), MODULE, {"dev/nvidia0": ""}], None, "no-libcuda", "libcuda1"),
        ([gpu(NVIDIA, kernel="nvidia"), MODULE, {"dev/nvidia0": "", ".flatpak-info": ""}], None, "no-libcuda", "org.freedesktop"),
        ([gpu(AMD, kernel="amdgpu"), {".flatpak-info": ""}], None, "flatpak", "flatpak override"),
        ([gpu(INTEL, kernel="i915"), gpu(NVIDIA, "0000:02:00.0")], None, "optimus", "prime-select"),
        ([gpu(INTEL, kernel="i915"), MODULE], smi(), "hybrid", "GGML_VK_VISIBLE_DEVICES"),
        ([gpu(AMD, kernel="amdgpu")], None, "no-vulkan-loader", "libvulkan1"),
        ([gpu(AMD, kernel="amdgpu"), {"usr/lib/libvulkan.so.1": ""}], None, "no-vulkan-driver", "mesa-vulkan-drivers"),
        ([WSL], None, "wsl", "in Windows"),
        ([WSL, {"usr/lib/wsl/lib/libcuda.so.1": ""}], None, "wsl", "wsl --update"),
        ([WSL, {"usr/lib/wsl/lib/libcuda.so.1": "", "dev/dxg": ""}], None, "wsl", "ldconfig"),
        ([gpu(NVIDIA), MODULE], "echo Failed to initialize NVML: Driver/library version mismatch; exit 18", "nvidia-smi", "Reboot"),
    ],
)  # fmt: skip
def test_traps(machine: Machine, parts: list[dict[str, str]], answer: str | None, expected: str, helps: str) -> None:
    """What stands between a GPU and this process is named, with what helps."""
    found = machine(*parts, smi=answer)
    told = {trap.name: trap for trap in found.traps}
    assert expected in told, found
    assert any(word in told[expected].helps for word in helps.split("|")), told[expected]


def test_amd_by_the_kernel(machine: Machine) -> None:
    node = {"sys/class/kfd/kfd/topology/nodes/0/properties": "gfx_target_version 0\n",
            "sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 192\ngfx_target_version 110000\n"}  # fmt: skip
    found = machine(gpu(AMD, kernel="amdgpu"), node, VULKAN)
    assert [(one.name, one.compute) for one in found.gpus] == [("AMD GPU gfx1100", "gfx1100")]
    assert (traps(found), _hardware.label(found)) == ([], "vulkan")


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="root may open everything, and cannot be somebody else here")
def test_node_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A render node that the user may not open is named with its group. Root may open everything, so somebody else asks."""
    assert grp.getgrgid(os.getgid()), "read before the rights to read it are given away"
    node = tmp_path / "root" / "dev" / "dri" / "renderD128"
    node.parent.mkdir(parents=True)
    node.touch()
    node.chmod(0o000)
    monkeypatch.chdir(tmp_path / "root")  # the folders above are the user's alone
    ids = os.getresuid()
    if ids[0] == 0:
        os.setresuid(65534, 65534, 0)
    try:
        found = _hardware.find(".")
    finally:
        os.setresuid(*ids)
    (trap,) = found.traps
    assert trap.name == "rights"
    assert "/dev/dri/renderD128" in trap.what
    assert "usermod -aG" in trap.helps


def test_command() -> None:
    by_uv = _hardware.command("cuda13", "uv", "https://x/i")
    assert by_uv.startswith("uv pip install --preview-features wheel-variants --reinstall-package llama-cpp-python ")
    assert by_uv.endswith(" --index https://x/i/simple/ llama-cpp-python")
    assert "--extra-index-url INDEX/backends/vulkan/simple/" in _hardware.command("vulkan", "pip")


# -- errors ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", _errors.KNOWN, ids=lambda known: known.name)
def test_every_error_knows_itself(known: _errors.Known) -> None:
    """The text that people see is explained by its own row, not by one before it; and the row is one line with a remedy."""
    assert _errors.explained(known.see) is known
    assert known.what.endswith(".")
    assert known.helps.endswith((".", ")."))
    assert len(known.line) < 250


def test_unknown_errors_are_left_alone() -> None:
    assert _errors.explained("some other failure") is None
    assert _errors.with_help("some other failure") == "some other failure"


def test_foreign_library(tmp_path: Path) -> None:
    """glibc says "No such file" of a library for another processor; its head says more."""
    own = Path("/proc/self/exe").read_bytes()
    other = bytearray(own[:4096])
    other[18:20] = (183 if own[18] != 183 else 62).to_bytes(2, "little")
    (tmp_path / "libggml.so").write_bytes(bytes(other))
    assert "libggml.so is for another processor" in _errors.foreign(tmp_path / "libggml.so")
    (tmp_path / "libggml.so").write_bytes(own[:64] + b"\0libc.musl-x86_64.so.1\0")
    assert _errors.foreign(tmp_path / "libggml.so") == "libggml.so is for musl"
    assert _errors.foreign(sys.executable) == _errors.foreign(tmp_path / "nothing") == ""
    error = _errors.unopened(RuntimeError("cannot open shared object file"), tmp_path)
    assert type(error) is RuntimeError
    assert "The wheel is for musl" in str(error)


# -- installation ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("manylinux_2_17_x86_64", ""),
        ("manylinux_2_99_x86_64", "it wants glibc 2.99"),
        ("musllinux_1_2_x86_64", "it is for musl"),
        ("manylinux_2_17_aarch64", "another processor"),
        ("win_amd64", "another system"),
        ("macosx_11_0_x86_64", "another system"),
        ("linux_x86_64", ""),
        ("any", ""),
    ],
)
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the tags are judged for Linux x86-64")
def test_tags(tag: str, reason: str) -> None:
    found = install.misfit([f"py3-none-{tag}"])
    assert (reason in found) if reason else not found, found


def hardware(compute: str = "", cuda: str = "") -> _hardware.Hardware:
    gpus = [_hardware.Gpu("NVIDIA", "NVIDIA", "", compute)] if compute else []
    return _hardware.Hardware(gpus, "", cuda, "", {}, [], [])


@pytest.mark.parametrize(
    ("compute", "cuda", "unmet"),
    [
        ("8.9", "13.0", ""),
        ("8.6", "13.0", ""),
        ("9.0", "13.0", "a GPU of"),
        ("7.5", "13.1", "a GPU of"),
        ("8.9", "12.8", "CUDA 13.0"),
        ("", "", "nvidia-smi shows none"),
    ],
)
def test_would_be_taken_again(compute: str, cuda: str, unmet: str) -> None:
    """By uv's rules for the wheel's own properties: every feature, any of its values."""
    wants = {"nvidia": {"cuda_version_lower_bound": ["13.0"], "sm_arch": ["86_real", "89_real", "100_virtual"]}}
    found = install.unmet(wants, hardware(compute, cuda))
    assert (unmet in found[0]) if unmet else not found, found
    assert install.unmet({"llama_cpp": {"backend": ["vulkan"]}}, hardware()) == []


@pytest.mark.parametrize(
    ("compute", "architectures", "ptx", "expected"),
    [("8.9", ["86", "90"], "none", True), ("7.5", ["86"], "none", False), ("12.0", ["90"], "90", True), ("12.0", ["90"], "", False),
     ("gfx1100", ["gfx1100"], "", True), ("gfx900", ["gfx1100"], "", False), ("", ["90"], "", None), ("8.9", [], "", None)],
)  # fmt: skip
def test_has_code(compute: str, architectures: list[str], ptx: str, expected: bool | None) -> None:
    assert install.has_code({"architectures": architectures, "ptx": ptx}, compute) is expected


# -- the rest ----------------------------------------------------------------------------------------------------------------


def test_better_plugin() -> None:
    haswell = "flags\t\t: fpu sse4_2 avx f16c fma avx2 bmi2\n"
    assert processor.better("cpu-haswell", haswell) == ("cpu-alderlake", ["avx_vnni"])
    assert processor.better("cpu-sandybridge", "flags : sse4_2 avx") == ("cpu-ivybridge", ["f16c"])
    assert processor.better("cpu-sapphirerapids", haswell) == processor.better("cpu-armv9", haswell) == ("", [])


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    assert processor.threads(1 << 10, 1 << 10) == ("all of 1024 processors compute", False)
    text, few = processor.threads(1, 1 << 10)
    assert few
    assert "affinity" in text


def test_tiny_model(tmp_path: Path) -> None:
    """The doctor's own model is a GGUF file as the gguf package reads it, and the same bytes each time."""
    path = tmp_path / "tiny.gguf"
    tiny.write(str(path))
    reader = gguf.GGUFReader(path)
    names = {tensor.name for tensor in reader.tensors}
    assert {"token_embd.weight", "blk.1.ffn_down.weight", "output.weight"} <= names
    assert reader.fields["general.architecture"].contents() == "llama"
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 288
    first = path.read_bytes()
    tiny.write(str(path))
    assert path.read_bytes() == first
    assert len(first) < 1 << 20


def test_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/alice")
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    monkeypatch.setattr("platform.node", lambda: "alices-laptop.example")
    text = privacy.clean(
        f"{sys.prefix}/lib/x /somewhere/alice/models/a.gguf /home/bob/b alice@alices-laptop https://me:secret@host/i"
    )
    for word in ("alice", "bob", "secret", sys.prefix):
        assert word not in text, text
    assert "~/models/a.gguf" in text
    assert privacy.cleaned({"a": ["/home/bob", 1, None]}) == {"a": ["~", 1, None]}


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "\u2713"), ("ascii", "+")])
def test_screen(monkeypatch: pytest.MonkeyPatch, encoding: str, sign: str) -> None:
    """At most 80 columns, no colours where nobody looks, signs that the encoding has; a command to copy is never broken."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    shown = screen.Screen()
    report = findings.Report(shown.tell)
    report.section = "GPUs"
    report.ok("fine")
    report.warning("something is wrong " * 10, "do this " * 20)
    command = "uv pip install " + "--very-long-option " * 8
    shown.verdict(1, "It works on the CPU only.", "something", command)
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert f"  {sign} fine\n" in text
    assert "\033" not in text
    assert command in text
    assert max(len(line) for line in text.splitlines() if "--very" not in line) <= 80
    assert report.first(findings.WARNING) == report.findings[1]


def test_labels_by_platform() -> None:
    """Those of the matrix that can be built there, for GPUs whose maker the hardware tells."""
    variants = [variant for variant in matrix.load().values() if variant.label and variant.table.plugin != "hip"]
    found = {name: tuple(sorted(v.label for v in variants if v.label and name in v.buildable)) for name in PLATFORMS}
    assert {name: labels for name, labels in found.items() if labels} == _hardware.LABELS
