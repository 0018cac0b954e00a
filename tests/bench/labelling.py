"""Time one way to handle a wheel, in this process, and print one JSON object. ``variants/trial/bench.py`` runs it.

labelling.py make WHEEL MEGABYTES           a wheel of about this size, of seeded bytes that do not compress much
labelling.py copy|label|unlabel WHEEL OUT   seconds, and peak memory in bytes
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
from pathlib import Path

from variants import matrix
from variants.steps import label
from variants.wheel import archive

INFO = "llama_cpp_python-9.9.7.dist-info"


def make(wheel: Path, megabytes: int) -> None:
    seeded = random.Random(0)
    files = {f"llama_cpp/lib/part{number}.so": seeded.randbytes(10_000_000) for number in range(megabytes // 10)}
    files[f"{INFO}/METADATA"] = b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 9.9.7\n"
    files[f"{INFO}/WHEEL"] = b"Wheel-Version: 1.0\nTag: py3-none-manylinux_2_17_x86_64\n"
    archive.write(wheel, files, 1_700_000_000)


def measure(how: str, wheel: Path, out: Path, name: str) -> dict[str, float]:
    variant = matrix.load()[name]
    begin = time.perf_counter()
    if how == "copy":
        shutil.copyfile(wheel, out / wheel.name)
    elif how == "label":
        label.label(wheel, variant, out)
    else:
        label.unlabel(wheel, out)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    what, first, second, *variant = sys.argv[1:]
    if what == "make":
        make(Path(first), int(second))
    else:
        print(json.dumps(measure(what, Path(first), Path(second), *variant)))
