"""Which GPUs are in this machine, which drivers, and what stands between them. Nothing is loaded: files are read, programs asked.

Sources: the kernel's list of PCI devices (sysfs), NVIDIA's and AMD's kernel drivers (/proc/driver/nvidia, /sys/class/kfd),
`nvidia-smi`, the loader's cache (/etc/ld.so.cache), the manifests of Vulkan's drivers. Windows and macOS have `nvidia-smi` alone.

Sizes are bytes. Imports nothing of this package: it must work where the libraries do not open.
"""

from __future__ import annotations

import os
import platform as _platform
import re
import shutil
import subprocess
import sys
from typing import Iterator, NamedTuple

#: For tests: a folder that stands for `/`.
ROOT_VARIABLE = "LLAMA_CPP_DOCTOR_ROOT"

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}  # others draw a server's console, or a virtual machine's
_KFD = "sys/class/kfd/kfd/topology/nodes"
#: Labels of the wheels for NVIDIA's GPUs: the oldest CUDA of the driver, and the oldest compute capability. As variants/cuda*.toml
#: says (tests/unit/test_doctor.py compares).
CUDA_LABELS = (("cuda13", (13, 0), (7, 5)), ("cuda12", (12, 0), (6, 1)))
#: Labels for GPUs of NVIDIA, AMD and Intel by platform, as the matrix has them; no entry: the plain wheel alone.
LABELS = {
    "linux_x86_64": ("cuda12", "cuda13", "vulkan"),
    "linux_aarch64": ("cuda12", "cuda13", "vulkan"),
    "win_amd64": ("cuda12", "vulkan"),
    "win_arm64": ("vulkan",),
}


class Gpu(NamedTuple):
    """`vendor`, `name`; `kernel`: its kernel driver ("" for none). NVIDIA's: `compute` capability as in 8.6, `memory` in all and
    `free`. AMD's: `compute` is its architecture, as in gfx1100."""

    vendor: str
    name: str
    kernel: str = ""
    compute: str = ""
    memory: int = 0
    free: int = 0


class Trap(NamedTuple):
    """What stands between a GPU and this process, and what `helps`. `name`: one word for tools."""

    name: str
    what: str
    helps: str


class Hardware(NamedTuple):
    """`driver`: NVIDIA's driver by its version, `cuda`: the newest CUDA that it runs. `place`: container, WSL, Flatpak or ""."""

    gpus: list[Gpu]
    driver: str
    cuda: str
    place: str
    libraries: dict[str, bool]  # is libcuda.so.1, libvulkan.so.1 where the loader finds it?
    vulkan: list[str]  # files that name Vulkan's drivers (ICD manifests)
    traps: list[Trap]

    @property
    def names(self) -> str:
        return ", ".join(gpu.name for gpu in self.gpus)


def find(root: str | None = None) -> Hardware:
    """What is here. `root`: a folder that stands for `/`."""
    files = _Files(root or os.environ.get(ROOT_VARIABLE) or "/")
    place = _place(files)
    smi, driver, cuda, failure = _nvidia_smi()
    gpus = _gpus(files, smi)
    libraries = {name: _is_library(files, name) for name in ("libcuda.so.1", "libvulkan.so.1")} if _linux() else {}
    manifests = _manifests(files)
    driver = driver or _kernel_version(files)
    traps = list(_traps(files, gpus, place, smi, failure, libraries, manifests))
    return Hardware(gpus, driver, cuda, place, libraries, manifests, traps)


def label(found: Hardware) -> str:
    """The label of the wheel that suits these GPUs ("" where there is none, or none for this platform)."""
    labels = LABELS.get(platform(), ())
    nvidia = [gpu for gpu in found.gpus if gpu.vendor == "NVIDIA"]
    best = max((_version(gpu.compute) for gpu in nvidia), default=(0,))
    for name, cuda, compute in CUDA_LABELS:
        if nvidia and name in labels and _version(found.cuda) >= cuda and best >= compute:
            return name
    return "vulkan" if found.gpus and "vulkan" in labels else ""


def command(wanted: str, installer: str, index: str = "INDEX") -> str:
    """The one command that installs the wheel with the label `wanted` over this one."""
    if installer == "uv":
        return (
            "uv pip install --preview-features wheel-variants --reinstall-package llama-cpp-python"
            f" --index {index}/simple/ llama-cpp-python"
        )
    return (
        "pip install --force-reinstall --only-binary=llama-cpp-python"
        f" --extra-index-url {index}/backends/{wanted or 'cpu'}/simple/ llama-cpp-python"
    )


def unused(installer: str) -> str:
    """The warning of a wheel without GPU plugin, where layers were to go to a GPU."""
    found = find()
    if not found.gpus:
        none = ", and no GPU was found in this machine" if _linux() else ""  # elsewhere only NVIDIA's are looked for
        return (
            f"n_gpu_layers asks for a GPU, but this is the CPU wheel{none}: every layer stays on the CPU. n_gpu_layers=0 ends this"
            " warning."
        )
    if not label(found):
        return f"n_gpu_layers asks for a GPU, but this is the CPU wheel: {found.names} stays unused."
    return (
        f"n_gpu_layers asks for a GPU, but this is the CPU wheel: {found.names} stays unused. The wheel for it (INDEX is"
        f" the address that this one came from): {command(label(found), installer)}"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2]) or (0,)


class _Files:
    """Files below a root, read without raising."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def text(self, name: str) -> str:
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read(1 << 20).strip()
        except OSError:
            return ""

    def bytes(self, name: str) -> bytes:
        try:
            with open(self.path(name), "rb") as file:
                return file.read(1 << 24)
        except OSError:
            return b""

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name))


def libc() -> str:
    """This Python's C library: ``glibc 2.36``, ``musl``, or "" on other systems."""
    if not _linux():
        return ""
    try:
        return str(os.confstr("CS_GNU_LIBC_VERSION") or "musl")
    except (AttributeError, OSError, ValueError):
        return "musl"


def platform() -> str:
    """This platform as the matrix names it: ``linux_x86_64``, ``win_amd64``."""
    system = (
        ("musllinux" if libc() == "musl" else "linux") if _linux() else {"win32": "win", "darwin": "macosx"}.get(sys.platform, "")
    )
    return f"{system}_{_platform.machine().lower()}"


def _linux() -> bool:
    return sys.platform.startswith("linux")


def _place(files: _Files) -> str:
    """Where this process runs, if not on the machine itself."""
    if not _linux():
        return ""
    if files.exists(".flatpak-info"):
        return "Flatpak"
    if "microsoft" in files.text("proc/sys/kernel/osrelease").lower():
        return "WSL"
    if files.exists(".dockerenv") or files.exists("run/.containerenv") or os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "container"
    if re.search(r"/(?:docker|kubepods|lxc|libpod)", files.text("proc/1/cgroup")):
        return "container"
    return ""


# -- GPUs --------------------------------------------------------------------------------------------------------------------


def ask(*words: str) -> tuple[str | None, str]:
    """A program's output, or None and why there is none. Ten seconds at most: a broken driver can let `nvidia-smi` hang."""
    program = shutil.which(words[0])
    if program is None:
        return None, f"there is no {words[0]} on PATH"
    try:
        done = subprocess.Popen([program, *words[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, problems = done.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        done.kill()  # not waited for: one that hangs in the kernel's driver does not die
        return None, f"{words[0]} gave no answer in 10 seconds"
    except OSError as error:
        return None, f"{words[0]}: {error.strerror}"
    text = out.decode("utf-8", "replace")
    if done.returncode:
        lines = (text + problems.decode("utf-8", "replace")).strip().splitlines()
        return None, f"{words[0]} fails: {lines[0] if lines else done.returncode}"
    return text, ""


def _nvidia_smi() -> tuple[list[Gpu], str, str, str]:
    """NVIDIA's GPUs, driver and CUDA as `nvidia-smi` tells them, and why it fails, where it does."""
    text, why = ask(
        "nvidia-smi", "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"
    )
    if text is None:
        return [], "", "", "" if why.startswith("there is no") else why
    gpus, driver = [], ""
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5:
            total, free = (int(part) << 20 if part.isdigit() else 0 for part in parts[2:4])
            name = parts[0] if parts[0].startswith("NVIDIA") else "NVIDIA " + parts[0]
            gpus.append(Gpu("NVIDIA", name, "nvidia", parts[1] if _version(parts[1]) > (0,) else "", total, free))
            driver = parts[4]
    details = ask("nvidia-smi", "-q")[0] or ""
    cuda = re.search(r"CUDA (?:UMD )?Version\s*: ([0-9]{1,4}\.[0-9]{1,4})", details)
    return gpus, driver, cuda[1] if cuda else "", ""


def _gpus(files: _Files, smi: list[Gpu]) -> list[Gpu]:
    """Every GPU: NVIDIA's as nvidia-smi has them, else as the kernel has them; AMD's and Intel's from the kernel."""
    found = list(smi)
    amd = _amd(files)
    for device in files.names("sys/bus/pci/devices"):
        folder = f"sys/bus/pci/devices/{device}"
        vendor = _VENDORS.get(files.text(f"{folder}/vendor"))
        kind = files.text(f"{folder}/class")
        if vendor is None or not (kind.startswith("0x03") or (vendor == "AMD" and kind.startswith("0x12"))):
            continue
        if vendor == "NVIDIA" and smi:
            continue
        link = files.path(f"{folder}/driver")
        kernel = os.path.basename(os.path.realpath(link)) if os.path.lexists(link) else ""
        name, compute = f"{vendor} GPU {files.text(f'{folder}/device')[2:]}".strip(), ""
        if vendor == "NVIDIA":
            model = re.search(r"(?m)^Model:\s*(.+)$", files.text(f"proc/driver/nvidia/gpus/{device}/information"))
            name = f"NVIDIA {model[1].replace('NVIDIA ', '')}" if model else name
        elif vendor == "AMD" and amd:
            name, compute = amd.pop(0)
        memory = files.text(f"{folder}/mem_info_vram_total")
        used = files.text(f"{folder}/mem_info_vram_used")
        total = int(memory) if memory.isdigit() else 0
        found.append(Gpu(vendor, name, kernel, compute, total, total - int(used) if used.isdigit() else 0))
    if not found and files.exists("proc/driver/nvidia/gpus"):  # a container without /sys
        found += [Gpu("NVIDIA", "NVIDIA GPU", "nvidia") for _ in files.names("proc/driver/nvidia/gpus")]
    return found


def _amd(files: _Files) -> list[tuple[str, str]]:
    """Names and architectures of AMD's GPUs: the kernel's list (kfd), and `rocminfo`'s names where it is here."""
    found = []
    for node in sorted(files.names(_KFD), key=lambda name: int(name) if name.isdigit() else -1):
        match = re.search(r"(?m)^gfx_target_version (\d+)$", files.text(f"{_KFD}/{node}/properties"))
        version = int(match[1]) if match else 0  # 90402 is gfx942; 0 is a processor
        if version:
            name = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
            found.append((f"AMD GPU {name}", name))
    text = ask("rocminfo")[0] if found else None
    marketed = re.findall(r"Name:\s+(gfx\w+)\s.*?Marketing Name:[ \t]+(\S[^\n]*)", text or "", re.DOTALL)
    for at, (name, title) in enumerate(marketed[: len(found)]):
        if name == found[at][1]:
            found[at] = (title.strip() if title.startswith("AMD") else f"AMD {title.strip()}", name)
    return found


def _kernel_version(files: _Files) -> str:
    """Version of NVIDIA's kernel module, which a container shares with its host."""
    match = re.search(r"(?:Kernel Module|NVRM version).*?\s(\d+\.\d+(?:\.\d+)?)\s", files.text("proc/driver/nvidia/version") + " ")
    return match[1] if match else ""


# -- libraries, and what stands between ---------------------------------------------------------------------------------------


def _is_library(files: _Files, name: str) -> bool:
    """Is a library of this name where the loader looks: its cache, LD_LIBRARY_PATH, the usual folders?"""
    if re.search(rb"[\0/]" + re.escape(name.encode()) + rb"\0", files.bytes("etc/ld.so.cache")):
        return True
    folders = [folder.lstrip("/") for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    machine = os.uname().machine if hasattr(os, "uname") else ""
    folders += [f"usr/lib/{machine}-linux-gnu", f"lib/{machine}-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"]
    return any(files.exists(f"{folder}/{name}") for folder in folders)


def _manifests(files: _Files) -> list[str]:
    """Names of the manifests of Vulkan's drivers, as the loader finds them (its documentation: LoaderDriverInterface)."""
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        named = os.environ.get(variable)
        if named:
            return [os.path.basename(path) for path in named.split(os.pathsep) if os.path.exists(path)]
    if not _linux():
        return []
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    folders = ["etc/vulkan/icd.d", "usr/share/vulkan/icd.d", "usr/local/share/vulkan/icd.d"]
    folders += [f"{home}/vulkan/icd.d".lstrip("/")] if files.root == "/" else []
    return [name for folder in folders for name in files.names(folder) if name.endswith(".json")]


def _traps(
    files: _Files,
    gpus: list[Gpu],
    place: str,
    smi: list[Gpu],
    failure: str,
    libraries: dict[str, bool],
    manifests: list[str],
) -> Iterator[Trap]:
    if not _linux():
        return
    nvidia = [gpu for gpu in gpus if gpu.vendor == "NVIDIA"]
    module = files.exists("proc/driver/nvidia/version")
    nodes = [name for name in files.names("dev") if re.fullmatch(r"nvidia\d+", name)]
    in_container = "Start the container with `--gpus all` (podman: `--device nvidia.com/gpu=all`); its host needs NVIDIA's toolkit."
    if failure:
        helps = (
            "Reboot, so that the kernel's module is of the version of the libraries."
            if "mismatch" in failure
            else ("Reinstall NVIDIA's driver, and reboot.")
        )
        yield Trap("nvidia-smi", failure, helps)
    if place == "WSL":
        if not files.exists("usr/lib/wsl/lib/libcuda.so.1"):
            yield Trap(
                "wsl",
                "WSL has no /usr/lib/wsl/lib/libcuda.so.1: Windows' driver brings it.",
                "Install NVIDIA's driver in Windows (none in Linux), then `wsl --update` and `wsl --shutdown`.",
            )
        elif not files.exists("dev/dxg"):
            yield Trap(
                "wsl",
                "WSL has no /dev/dxg: this is WSL 1, or its kernel is old.",
                "In Windows: `wsl --set-version … 2`, `wsl --update`.",
            )
        elif not libraries.get("libcuda.so.1"):
            yield Trap(
                "wsl", "the loader does not look into /usr/lib/wsl/lib.", "Run `sudo ldconfig`, or add it to LD_LIBRARY_PATH."
            )
    elif module and not nodes:
        helps = in_container if place == "container" else "Run `sudo nvidia-modprobe -u -c 0`, or reboot."
        yield Trap("no-device-node", "NVIDIA's driver runs, but there is no /dev/nvidia0 here.", helps)
    if place == "Flatpak" and gpus and not files.exists("dev/dri"):
        yield Trap("flatpak", "this Flatpak may not use the GPU.", "Allow it: `flatpak override --user --device=all APPLICATION`.")
    if place != "WSL" and module and not libraries.get("libcuda.so.1"):
        if place == "container":
            yield Trap("no-libcuda", "NVIDIA's driver runs, but this container has no libcuda.so.1.", in_container)
        elif place == "Flatpak":
            yield Trap(
                "no-libcuda",
                "NVIDIA's driver runs, but this Flatpak has no libcuda.so.1.",
                "Install the extension org.freedesktop.Platform.GL.nvidia of the driver's version.",
            )
        else:
            yield Trap(
                "no-libcuda",
                "NVIDIA's driver runs, but there is no libcuda.so.1.",
                "Install the driver's user part (Debian: `apt-get install libcuda1`; Ubuntu: `libnvidia-compute-…`).",
            )
    if any(gpu.kernel == "nouveau" for gpu in nvidia) or (
        nvidia and not module and re.search(r"(?m)^nouveau ", files.text("proc/modules"))
    ):
        yield Trap(
            "nouveau", "the kernel drives the NVIDIA GPU by nouveau, which has no CUDA.", "Install NVIDIA's own driver, and reboot."
        )
    elif nvidia and not module and not smi and place not in ("WSL",):
        kernel = next((gpu.kernel for gpu in nvidia), "")
        if kernel == "vfio-pci":
            yield Trap(
                "vfio", "the NVIDIA GPU is kept for a virtual machine (vfio-pci).", "Give it back to the host, or run there."
            )
        else:
            yield Trap(
                "no-driver", "an NVIDIA GPU is here, but its kernel module is not loaded.", "Install NVIDIA's driver, and reboot."
            )
    vendors = list(dict.fromkeys(gpu.vendor for gpu in gpus))
    if nvidia and len(vendors) > 1:
        if not smi and not module:
            yield Trap(
                "optimus",
                f"two GPUs ({' and '.join(vendors)}): the NVIDIA one is switched off.",
                "Switch it on: `sudo prime-select on-demand` (Ubuntu), and reboot.",
            )
        else:
            yield Trap(
                "hybrid",
                f"two GPUs ({' and '.join(vendors)}): Vulkan lists both.",
                "Choose one with GGML_VK_VISIBLE_DEVICES=0 (or 1).",
            )
    yield from _rights(files, place)
    if gpus and not libraries.get("libvulkan.so.1"):
        yield Trap(
            "no-vulkan-loader",
            "there is no libvulkan.so.1, which the wheel `vulkan` needs.",
            "Debian and Ubuntu: `sudo apt-get install libvulkan1`.",
        )
    elif gpus and not manifests:
        yield Trap(
            "no-vulkan-driver",
            "there is no Vulkan driver (no manifest in /usr/share/vulkan/icd.d).",
            "Install the GPU's driver; for AMD and Intel `sudo apt-get install mesa-vulkan-drivers`.",
        )


def _rights(files: _Files, place: str) -> Iterator[Trap]:
    """Nodes of GPUs that this user may not open, by their group."""
    for folder, name in [("dev/dri", name) for name in files.names("dev/dri")] + [
        ("dev", name) for name in ("kfd", "nvidiactl", "nvidia0")
    ]:
        node = f"{folder}/{name}"
        if not (name.startswith("render") or folder == "dev") or not files.exists(node):
            continue
        if not os.access(files.path(node), os.R_OK | os.W_OK):
            group = _group(files.path(node))
            helps = f"Add yourself to the group: `sudo usermod -aG {group} $USER`, and log in again."
            if place == "container":
                helps = "Start the container with `--group-add` and the number of that group on the host."
            yield Trap("rights", f"you may not open /{node} (group {group}).", helps)


def _group(path: str) -> str:
    try:
        number = os.stat(path).st_gid
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError, OSError):
        return "render"
