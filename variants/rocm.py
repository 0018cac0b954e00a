"""The toolkit of ggml's HIP plugin: ROCm on this machine, as AMD's packages and containers install it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import run
from .errors import UsageError
from .toolkit import Part, Request, Toolkit

#: What the plugin is compiled with and linked to, by the file that shows that it is there.
_PIECES = {
    "HIP compiler": ("lib/llvm/bin/clang++", "llvm/bin/clang++"),
    "HIP": ("lib/cmake/hip/hip-config.cmake",),
    "hipBLAS": ("lib/cmake/hipblas/hipblas-config.cmake",),
    "rocBLAS": ("lib/cmake/rocblas/rocblas-config.cmake",),
}


def find(request: Request) -> Toolkit:
    """The folder that the user named, ROCM_PATH, the one of ``hipconfig`` on PATH, or the newest of AMD's packages.

    Raises:
        UsageError: `request.source` is no folder: the package index has no ROCm compiler.
    """
    table = request.variant.table.rocm
    assert table is not None
    if request.source == "index":
        raise UsageError("The package index has no ROCm compiler.", "Name a ROCm: `--toolkit FOLDER`, or leave out --toolkit.")
    homes = list(dict.fromkeys(_homes(request.source)))
    home = next((home for home in homes if all(_piece(home, names) for names in _PIECES.values())), homes[0] if homes else None)
    version = _version(home) if home else None
    fits = version if version and version.split(".")[0] == table.rocm.split(".")[0] else None
    wanted = f"{table.rocm} or a newer {table.rocm.split('.')[0]}"
    parts = [Part("ROCm", wanted, fits and f"{fits} ({home})", version or "nothing")]
    for what, names in _PIECES.items():
        piece = _piece(home, names) if home else None
        parts.append(Part(what, "of that ROCm", str(piece) if piece else None))
    compiler = _piece(home, _PIECES["HIP compiler"]) if home else None
    return Toolkit(
        "hip",
        tuple(parts),
        "Install ROCm (AMD's packages rocm-hip-sdk; or run this in AMD's container rocm/dev, `complete` in its tag),\n"
        "and name it in ROCM_PATH or with --toolkit FOLDER where it is not in AMD's own place.",
        (
            f"-DCMAKE_HIP_COMPILER={compiler}",
            f"-DCMAKE_PREFIX_PATH={home}",
            f"-DGPU_TARGETS={';'.join(table.architectures)}",
            f"-DAMDGPU_TARGETS={';'.join(table.architectures)}",
            "-DGGML_HIP_GRAPHS=ON",
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
    if tool := shutil.which("hipconfig", path=run.environment()["PATH"]):
        yield Path(tool).resolve().parent.parent
    yield from sorted(Path("/opt").glob("rocm*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], reverse=True)


def _piece(home: Path, names: tuple[str, ...]) -> Path | None:
    return next((home / name for name in names if (home / name).is_file()), None)


def _version(home: Path) -> str | None:
    """ROCm's version, from ``.info/version`` (``7.1.0-43``)."""
    try:
        found = re.match(r"\d+\.\d+(\.\d+)?", (home / ".info" / "version").read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[0] if found else None
