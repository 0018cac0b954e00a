"""The CPU plugin that was loaded, what a better one wants, and the threads."""

from __future__ import annotations

import os

#: What each CPU plugin for x86-64 wants, beyond the one named first, in the kernel's words (/proc/cpuinfo). After llama.cpp's
#: ggml/src/CMakeLists.txt (ggml_add_cpu_backend_variant).
_WANTS: dict[str, tuple[str, str]] = {
    "cpu-x64": ("", ""),
    "cpu-sse42": ("cpu-x64", "sse4_2"),
    "cpu-sandybridge": ("cpu-sse42", "avx"),
    "cpu-ivybridge": ("cpu-sandybridge", "f16c"),
    "cpu-piledriver": ("cpu-ivybridge", "fma"),
    "cpu-haswell": ("cpu-piledriver", "avx2 bmi2"),
    "cpu-alderlake": ("cpu-haswell", "avx_vnni"),
    "cpu-skylakex": ("cpu-haswell", "avx512f avx512cd avx512vl avx512dq avx512bw"),
    "cpu-cannonlake": ("cpu-skylakex", "avx512vbmi"),
    "cpu-cascadelake": ("cpu-skylakex", "avx512_vnni"),
    "cpu-icelake": ("cpu-cannonlake", "avx512_vnni"),
    "cpu-cooperlake": ("cpu-cascadelake", "avx512_bf16"),
    "cpu-zen4": ("cpu-icelake", "avx512_bf16"),
    "cpu-sapphirerapids": ("cpu-zen4", "amx_tile amx_int8"),
}


def _features(plugin: str) -> list[str]:
    under, own = _WANTS[plugin]
    return [*(_features(under) if under else []), *own.split()]


def better(loaded: str, cpuinfo: str) -> tuple[str, list[str]]:
    """The next better CPU plugin, and what this processor lacks for it; ("", []) where there is none, or nobody knows."""
    flags = set(next((line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith("flags")), "").split())
    if loaded not in _WANTS or not flags:
        return "", []
    known = _features(loaded)
    lacking = {name: [one for one in _features(name) if one not in flags] for name in _WANTS if len(_features(name)) > len(known)}
    best = min(lacking, key=lambda name: (len(lacking[name]), len(_features(name))), default="")
    return (best, lacking[best]) if best and lacking[best] else ("", [])


def threads(limit: int | None, processors: int) -> tuple[str, bool]:
    """How many threads compute, out of how many processors, and why fewer; and whether fewer than half do."""
    if limit is None:
        return f"{processors} processors", False
    text = "{} of {} processors compute".format("all" if limit >= processors else limit, processors)
    if limit >= processors:
        return text, False
    reasons = []
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors
    if mine < processors:
        reasons.append(f"this process may use {mine} (affinity)")
    if limit < mine:
        named = os.environ.get("OMP_THREAD_LIMIT")
        reasons.append(f"OMP_THREAD_LIMIT={named}" if named else "the CPU quota of the control group")
    return f"{text}: {', '.join(reasons)}" if reasons else text, limit * 2 < processors
