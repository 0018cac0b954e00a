"""Import libraries: what a Windows library is linked with to call another's functions. Made of names alone, by zig's dlltool."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import pefile

from ..errors import ToolchainError
from ..platforms import Platform
from ..terminal import disk, process

#: dlltool's names for a processor (:attr:`.Platform.machine`).
_MACHINES = {"x86_64": "i386:x86-64", "aarch64": "arm64"}


def make(dll: str, names: Collection[str], platform: Platform, target: Path) -> Path:
    """Write the import library `target` for the functions `names` of the library `dll` (``vulkan-1.dll``).

    Linkers of MinGW and of MSVC take it. The same names make the same bytes.

    Raises:
        ToolchainError: there is no name, or dlltool cannot make it.
    """
    with disk.replacing(target) as part:
        definitions = part.with_name(f"{part.name}.def")
        definitions.write_text("\n".join([f"LIBRARY {dll}", "EXPORTS", *sorted(set(names)), ""]), encoding="ascii")
        machine = _MACHINES[platform.machine]
        said = process.output([sys.executable, "-m", "ziglang", "dlltool", "-m", machine, "-d", definitions, "-l", part, "-D", dll])
        definitions.unlink()
        if not names or not part.is_file():
            raise ToolchainError(f"No import library of {dll} could be made in {target.parent}: {said[-500:]}", _REMEDY)
    return target


_REMEDY = "Run through nox, or `pip install --require-hashes -r variants/pins/compilers.txt`."


def exported(dll: Path) -> list[str]:
    """The names of the functions that a Windows library exports.

    Raises:
        ToolchainError: it is damaged, or exports nothing.
    """
    try:
        with pefile.PE(str(dll), fast_load=True) as opened:
            opened.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_EXPORT"]])
            return [symbol.name.decode() for symbol in opened.DIRECTORY_ENTRY_EXPORT.symbols if symbol.name]
    except (pefile.PEFormatError, AttributeError, ValueError) as error:
        raise ToolchainError(f"{dll} is no library of Windows with exports: {error}.", "Build the core again.") from error
