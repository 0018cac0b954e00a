"""The environment in which wheels are compiled: what is named here, and nothing else of the caller's.

A flag, an include path or a CMake variable in the environment would end up in a published wheel, or fail its build in a way that
no log explains. Whoever wants other flags builds with upstream's own sdist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ..terminal import process
from ..upstream.source import ROOT
from .toolchain import Toolchain

#: Variables that programs need to run at all, or that lead to caches; by name, or by how the name begins.
ALLOWED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LC_*", "TERM", "TZ", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "LD_LIBRARY_PATH", "PYTHONUNBUFFERED", "NO_COLOR",
    # Windows
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
    "PROGRAMDATA", "PROGRAMFILES*", "COMMONPROGRAMFILES*", "NUMBER_OF_PROCESSORS", "PROCESSOR_*",
    # macOS: which of several installed tools
    "DEVELOPER_DIR",
    # where ROCm is, as its finder has read it (backends/hip.py)
    "ROCM_PATH",
    # compiler caches, and the stores that they share
    "CCACHE_*", "SCCACHE_*", "AWS_*", "ACTIONS_*", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_*",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
# How a cache may change the result, though: not by the caller's word.
_REFUSED = ("CCACHE_PREFIX*", "CCACHE_IGNOREOPTIONS", "CCACHE_SLOPPINESS", "CCACHE_EXTRAFILES", "CCACHE_COMPILER*")


def for_compiling(toolchain: Toolchain, **extra: str) -> dict[str, str]:
    """The environment for CMake, ninja and the compilers of `toolchain`, with `extra`."""
    kept = {name: value for name, value in process.environment().items() if _allowed(name)}
    # A compiler cache may hit across checkouts: nothing of their paths is in what is compiled (CMakeLists.txt).
    shared = {
        "CCACHE_BASEDIR": str(ROOT), "CCACHE_NOHASHDIR": "1", "SCCACHE_BASEDIRS": str(ROOT),
        # What makes it so has these paths in it. ccache knows that of a compiler's option, not of one that nvcc hands on.
        "CCACHE_IGNOREOPTIONS": '-Xcompiler="-ffile-prefix-map=*',
    } if toolchain.cache else {}  # fmt: skip
    return kept | {"CMAKE_GENERATOR": "Ninja", "NINJA_STATUS": "[%f/%t] "} | shared | toolchain.environment | extra


def left_out(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables of the caller's that would have had a say in the build, for the report: flags, paths and CMake's."""
    paths = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH")
    telling = re.compile(r"\w*FLAGS|NVCC_\w+|(?:\w+_)?(?:CMAKE|SKBUILD)_\w+|GGML_\w+|LLAMA_\w+")
    return sorted(name for name in environment if not _allowed(name) and (name in paths or telling.fullmatch(name)))


def _allowed(name: str) -> bool:
    upper = name.upper()  # Windows does not tell them apart; elsewhere proxies are often written small
    return _among(upper, ALLOWED) and not _among(upper, _REFUSED)


def _among(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in patterns)
