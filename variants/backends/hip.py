"""The toolkit of ggml's HIP plugin: ROCm on this machine, as AMD's packages and containers install it, or a distribution's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ..choice.machine import Machine
from ..errors import UsageError
from ..terminal import process
from .backend import Backend, Lists, Properties
from .toolkit import Piece, Request, Toolkit, linked

#: What the plugin is compiled with and linked to, by the files that show that it is there: AMD's places first, then those of
#: distributions (Fedora's lib64, Debian's lib/x86_64-linux-gnu).
_PIECES = {
    "HIP compiler": ("lib/llvm/bin/clang++", "llvm/bin/clang++", "lib64/rocm/llvm/bin/clang++"),
    "HIP": ("lib*/cmake/hip/hip-config.cmake", "lib/*/cmake/hip/hip-config.cmake"),
    "hipBLAS": ("lib*/cmake/hipblas/hipblas-config.cmake", "lib/*/cmake/hipblas/hipblas-config.cmake"),
    "rocBLAS": ("lib*/cmake/rocblas/rocblas-config.cmake", "lib/*/cmake/rocblas/rocblas-config.cmake"),
}


class Hip(Lists, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """AMD: the architectures, once, for the compiler and for the property `gfx_arch`; `"gfx1100"`, as LLVM has it."""

    rocm: Annotated[str, Meta(description="the oldest ROCm that builds it; a newer one of the same major does, too")]

    maker = "AMD"
    spelling = r"gfx\d{1,2}\d[0-9a-f]"
    spelt = 'Write it as LLVM does, "gfx1100".'
    detector = "the kernel"
    example = "gfx1100"

    def properties(self) -> Properties:
        """``amd :: gfx_arch``."""
        return {"amd": {"gfx_arch": self.architectures}}

    def here(self, machine: Machine) -> list[str]:
        """``gfx1100``, as ROCm and its compilers spell it."""
        return list(machine.gfx)


def find(request: Request) -> Toolkit:
    """The folder that the user named, ROCM_PATH, the one of ``hipconfig`` on PATH, or the newest of AMD's packages.

    Raises:
        UsageError: `request.source` is no folder: the package index has no ROCm compiler.
    """
    table = request.table
    assert isinstance(table, Hip)  # the matrix refuses the plugin without its table
    if request.source == "index":
        raise UsageError("The package index has no ROCm compiler.", "Name a ROCm: `--toolkit FOLDER`, or leave out --toolkit.")
    homes = {home: {what: _piece(home, what) for what in _PIECES} for home in _homes(request.source)}
    home = next((home for home, pieces in homes.items() if all(pieces.values())), next(iter(homes), None))
    pieces = homes[home] if home else dict.fromkeys(_PIECES)
    version = _version(home) if home else None
    fits = version if version and version.split(".")[0] == table.rocm.split(".")[0] else None
    wanted = f"{table.rocm} or a newer {table.rocm.split('.')[0]}"
    found_pieces = [Piece("ROCm", wanted, fits and f"{fits} ({home})", version or "nothing")]
    link = linked(request, "HIP")
    found_pieces += link.pieces
    found_pieces += [Piece(what, "of that ROCm", str(piece) if piece else None) for what, piece in pieces.items()]
    return Toolkit(
        "hip",
        tuple(found_pieces),
        "Install ROCm (AMD's packages rocm-hip-sdk; a distribution's, as Debian's hipcc, libhipblas-dev and librocblas-dev;\n"
        "or run this in AMD's container rocm/dev, `complete` in its tag),\n"
        "and name it in ROCM_PATH or with --toolkit FOLDER where it is not in AMD's own place. Its clang takes gcc's C++ library\n"
        "(Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++ libstdc++-static`).",
        (
            f"-DCMAKE_HIP_COMPILER={pieces['HIP compiler']}",
            f"-DCMAKE_PREFIX_PATH={home}",
            f"-DGPU_TARGETS={';'.join(table.architectures)}",
            f"-DAMDGPU_TARGETS={';'.join(table.architectures)}",
            "-DGGML_HIP_GRAPHS=ON",
            "-DCMAKE_HIP_FLAGS=--offload-compress",  # 2.5 times smaller where it is installed, a quarter smaller in the wheel
            *link.cmake,
            *([f"-DCMAKE_HIP_COMPILER_LAUNCHER={request.toolchain.launcher}"] if request.toolchain.launcher else []),
        ),
        {"rocm": version or "unknown", "architectures": table.architectures},
        home,
        f"rocm {version}",
    )


def _homes(source: str | None) -> Iterator[Path]:
    """Where to look, best first."""
    if source not in (None, "machine"):
        yield Path(str(source))
        return
    if named := os.environ.get("ROCM_PATH"):
        yield Path(named)
    if tool := shutil.which("hipconfig", path=process.environment()["PATH"]):
        yield Path(tool).resolve().parent.parent
    yield from sorted(Path("/opt").glob("rocm*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], reverse=True)


def _piece(home: Path, what: str) -> Path | None:
    """The file of this piece of the ROCm in `home`. Debian's compiler is one of its LLVMs: HIP's own program says which."""
    found = next((path for pattern in _PIECES[what] for path in sorted(home.glob(pattern)) if path.is_file()), None)
    if found is None and what == "HIP compiler" and (home / "bin" / "hipconfig").is_file():
        answer = process.output([home / "bin" / "hipconfig", "--hipclangpath"]).split("\n")  # without a GPU it may warn first
        compiler = Path(next((line.strip() for line in reversed(answer) if line.strip()), "")) / "clang++"
        found = compiler if compiler.is_file() else None
    return found


def _version(home: Path) -> str | None:
    """ROCm's version, from ``.info/version`` (``7.1.0-43``), or HIP's first two numbers, which are ROCm's (``7.2``)."""
    places = {
        ".info/version": r"(\d+\.\d+(?:\.\d+)?)",
        "share/hip/version": r"HIP_VERSION_MAJOR=(\d+)\s+HIP_VERSION_MINOR=(\d+)",
    }
    for name, pattern in places.items():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if found := re.search(pattern, (home / name).read_text(encoding="ascii")):
                return ".".join(found.groups())
    return None


BACKEND = Backend("hip", find, platforms=("linux_x86_64",), table=Hip, on_request=True, gpus=("amd",))
