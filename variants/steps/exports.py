"""What a Windows library of an old name exports: everything that the real ones behind it do, forwarded.

``GetProcAddress`` looks into one library alone, where ``dlsym`` also searches what that library needs. CMakeLists.txt runs this
as a script: ``exports.py OUT.c GUARD.cpp,GUARDED.inc REAL.dll …``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pefile


def source(guard: str, libraries: list[Path]) -> str:
    """C source whose linker directives export what the source text `guard` defines, and the other names of `libraries`."""
    defined = re.findall(r"^GUARD\w*\((?:[^,(]+, [^,(]+, )?(\w+), \(|^extern .+?(\w+)\(", guard, re.MULTILINE)
    own = [macro or function for macro, function in defined]
    lines = [f"EXPORT({name}, {name})" for name in own]
    for library in libraries:
        with pefile.PE(str(library), fast_load=True) as opened:
            opened.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_EXPORT"]])
            names = [symbol.name.decode() for symbol in opened.DIRECTORY_ENTRY_EXPORT.symbols if symbol.name]
        others = [name for name in names if re.fullmatch(r"\w+", name) and name not in own]
        lines += [f"EXPORT({name}, {library.stem}.{name})" for name in others]
        # A real import of one of them, so that the library is found beside this one and loaded with it.
        prefix = library.stem.partition("-")[0] + "_"  # a C function of its header: ggml_, llama_, mtmd_
        one = next(name for name in others if name.startswith(prefix))
        kept = "behind_" + re.sub(r"\W", "_", library.stem)
        lines += [f"void {one}(void);", f"void (*const {kept})(void) = {one};", f"EXPORT({kept}, {kept})"]
    return _HEAD + "\n".join(lines) + "\n"


_HEAD = """// Written by variants/steps/exports.py.
#ifdef _MSC_VER
#define EXPORT(name, from) __pragma(comment(linker, "/EXPORT:" #name "=" #from))
#else
#define EXPORT(name, from) __asm__(".section .drectve,\\"yni\\"\\n .ascii \\" -export:" #name "=" #from "\\"\\n .text\\n");
#endif
"""


if __name__ == "__main__":
    target, guards, *libraries = sys.argv[1:]
    files = [Path(name) for name in guards.split(",")]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    Path(target).write_text(source("\n".join(texts), [Path(name) for name in libraries]), encoding="utf-8")
