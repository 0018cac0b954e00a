"""Estimate what the CUDA plugin weighs with all its architectures, from one of them and the ten largest units in every one.

cuda_size.py TREE OUT [UNITS]    TREE: the CMake folder of a plugin built for one architecture, as `build/cuda13-linux_x86_64/cmake`

Compiling everything for every architecture takes two hours on two cores. What is done here instead: the ten units with the largest
objects are compiled once more for each architecture of the matrix (and for the PTX), by the build's own commands, and the sizes of
their fat binaries are compared. The estimate takes the other units to grow in the same proportion:

    plugin(all) = plugin(one) - fatbin(one) + fatbin(one) * sum over architectures of fatbin10(architecture) / fatbin10(one)

Fat binaries are compressed already, so the wheel grows by about the same number of bytes; how many they deflate to is measured.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import zlib
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parent.parent.parent


def fatbin(path: Path) -> bytes:
    """The section with the machine code for GPUs."""
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".nv_fatbin")
        return bytes(section.data()) if section else b""


def compile_for(command: str, folder: Path, code: str, target: Path) -> None:
    words = [word for word in shlex.split(command) if not word.startswith("--generate-code")]
    words = words[1:] if Path(words[0]).name in ("ccache", "sccache") else words
    words[words.index("-o") + 1] = str(target)
    while "-MF" in words:  # the dependency file of the build stays
        at = words.index("-MF")
        del words[at : at + 2]
    words = [word for word in words if word != "-MD"]
    while "-MT" in words:
        at = words.index("-MT")
        del words[at : at + 2]
    words.insert(1, f"--generate-code={code}")
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def main(tree: Path, out: Path, units: int) -> None:
    table = tomllib.loads((ROOT / "variants" / "cuda13.toml").read_text(encoding="utf-8"))["cuda"]
    listed = [one for one in table["architectures"] if one not in table["arm"]]
    commands = json.loads(subprocess.run(["ninja", "-C", tree, "-t", "compdb"], capture_output=True, check=True).stdout)
    built = {tree / row["output"]: row for row in commands if row["output"].endswith(".cu.o") and (tree / row["output"]).exists()}
    words = shlex.split(next(iter(built.values()))["command"])
    compiler = words[1] if Path(words[0]).name in ("ccache", "sccache") else words[0]
    (single,) = set(re.findall(r"sm_(\d+)", next(iter(built.values()))["command"]))
    whole = {path: fatbin(path) for path in built}
    largest = sorted(built, key=lambda path: -len(whole[path]))[:units]
    (plugin,) = (tree.parent / "out").glob("*ggml-cuda*")
    content = plugin.read_bytes()
    sizes: dict[str, dict[str, int]] = {}
    deflated: dict[str, int] = {}
    kinds = [(f"{one}-real", one + ("a" if one.startswith("12") else "")) for one in listed] + [
        (f"{table['ptx']}-virtual", table["ptx"])
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind, one in kinds:
            code = f"arch=compute_{one},code=[{'sm' if kind.endswith('real') else 'compute'}_{one}]"
            for path in largest:
                target = Path(folder) / path.name
                compile_for(built[path]["command"], tree, code, target)
                packed = fatbin(target)
                sizes.setdefault(kind, {})[path.name] = len(packed)
                deflated[kind] = deflated.get(kind, 0) + len(zlib.compress(packed, 6))
            print(f"{kind}: {sum(sizes[kind].values())} bytes in {units} units", flush=True)
    ten = sum(sizes[f"{single}-real"].values())
    all_fatbin = sum(map(len, whole.values()))
    factor = sum(sum(row.values()) for row in sizes.values()) / ten
    estimate = len(content) - all_fatbin + all_fatbin * factor
    one_deflated = len(zlib.compress(content, 6))
    growth = sum(deflated.values()) / deflated[f"{single}-real"] - 1
    fatbin_deflated = sum(len(zlib.compress(row, 6)) for row in whole.values())
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "compiler": subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[-2],
        "units": sizes,
        "measured": {
            "architecture": single, "plugin": len(content), "plugin_deflated": one_deflated, "fatbin": all_fatbin,
            "fatbin_of_units": ten, "fatbin_deflated": fatbin_deflated,
        },
        "extrapolated": {
            "factor": factor, "plugin": round(estimate), "plugin_deflated": round(one_deflated + fatbin_deflated * growth),
        },
    }  # fmt: skip
    out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: facts[name] for name in ("measured", "extrapolated")}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10)
