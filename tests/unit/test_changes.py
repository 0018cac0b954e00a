"""The report of what changed in llama.cpp, on two small trees."""

from __future__ import annotations

from pathlib import Path

from variants.release import changes
from variants.upstream.source import Upstream

CMAKE = """
# add_library(gone in a comment)
add_library(ggml-base
            ggml.h)
add_library(ggml::base ALIAS ggml-base)
add_library(${{name}} MODULE x.cpp)
{library}
ggml_add_backend(CPU)
option(GGML_NATIVE "ggml: optimise for this machine" {native})
set(GGML_SCHED_MAX_COPIES  "4" CACHE STRING "copies")
if (GGML_SYSTEM_ARCH STREQUAL "x86")
    ggml_add_cpu_backend_variant(x64)
    ggml_add_cpu_backend_variant(haswell  SSE42 {feature})
endif()
"""
BINDINGS = """
@ctypes_function("llama_decode", [a, {argument}], ctypes.c_int32)
def llama_decode(a, b): ...
{more}
"""


def tree(folder: Path, version: str, argument: str, more: str = "", **words: str) -> Upstream:
    llama_cpp = folder / "vendor" / "llama.cpp"
    (llama_cpp / "ggml" / "src").mkdir(parents=True)
    (llama_cpp / "ggml" / "src" / "CMakeLists.txt").write_text(CMAKE.format(**words))
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp" / "llama_cpp.py").write_text(BINDINGS.format(argument=argument, more=more))
    (folder / "llama_cpp" / "mtmd_cpp.py").write_text("")
    return Upstream(folder, version, "", 0, "0123456789abcdef", "")


def test_what_changed(tmp_path: Path) -> None:
    old = tree(tmp_path / "old", "1.0", "int", library="add_library(llama STATIC x)", native="ON", feature="AVX2")
    more = '@ctypes_function("llama_brand_new", [], None)\ndef llama_brand_new(): ...'
    new = tree(tmp_path / "new", "1.1", "batch", more, library="", native="OFF", feature="AVX2 FMA")
    text = changes.markdown(old, new, changes.read(old.tree), changes.read(new.tree))
    assert text.startswith("llama-cpp-python 1.0 → 1.1, llama.cpp 0123456789ab → 0123456789ab\n")
    rows = [line for line in text.splitlines() if line.startswith("- ")]
    assert rows == [
        "- `llama` was dropped",
        "- `haswell` changed: `SSE42 AVX2` → `SSE42 AVX2 FMA`",
        "- `llama_brand_new` was added: `[], None`",
        "- `llama_decode` changed: `[a, int], ctypes.c_int32` → `[a, batch], ctypes.c_int32`",
        "- `GGML_NATIVE` changed: `ON` → `OFF`",
    ]
    assert "exempt.toml`: `llama_brand_new`\n" in text


def test_nothing_changed(tmp_path: Path) -> None:
    old = tree(tmp_path / "old", "1.0", "int", library="", native="ON", feature="AVX2")
    facts = changes.read(old.tree)
    assert facts.libraries.keys() == {"ggml-base"}
    assert facts.options == {"GGML_NATIVE": "ON", "GGML_SCHED_MAX_COPIES": '"4"'}
    text = changes.markdown(old, old, facts, facts)
    assert text.count("No change.") == 5
    assert "To look at" not in text
