"""The toolkit of ggml's OpenVINO plugin: OpenVINO's package from the index, with headers and libraries, and OpenCL's headers."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...compilers import packages
from ..backend import Backend
from ..toolkit import Piece, Request, Toolkit, library, macro

_RECIPE = 1  # to be raised when the folder is made otherwise


def find(request: Request) -> Toolkit:
    """OpenVINO is fetched once and linked to, never shipped: the wheel requires its package. OpenCL is the system's."""
    wanted = packages.read(Path(__file__).parent / "openvino.txt", _RECIPE)
    version = wanted.versions["openvino"]
    if request.fetch:
        packages.install(wanted, _keep, request.log)
    host = request.system  # OpenVINO's interface is C++, of gcc's C++ library
    opencl = macro(host, "CL/cl_version.h", "CL_TARGET_OPENCL_VERSION") if host else None
    clhpp = macro(host, "CL/opencl.hpp", "CL_HPP_TARGET_OPENCL_VERSION") if host else None
    home = wanted.folder / "openvino"
    return Toolkit(
        "openvino",
        (
            Piece(
                "OpenVINO", f"{version}, from the package index", f"{version}{'' if wanted.there else ' (to be fetched, 60 MB)'}"
            ),
            Piece("C++ compiler", "gcc, whose C++ library is OpenVINO's", host.name if host else None, request.no_system),
            Piece("OpenCL headers", "any", opencl),
            Piece("OpenCL C++ header", "any", "there" if clhpp else None),
            Piece("libOpenCL.so", "any; it is linked, never shipped", library("libOpenCL.so")),
        ),
        "Install them (Debian, Ubuntu: `apt-get install g++ opencl-headers opencl-clhpp-headers ocl-icd-opencl-dev`).",
        (
            f"-DOpenVINO_DIR={home / 'cmake'}",
            f"-DTBB_DIR={home / 'cmake'}",
            f"-DCMAKE_CXX_FLAGS=-ffile-prefix-map={wanted.folder}/=",  # its headers name themselves in errors
        ),
        {"openvino": version},
        home,
        f"openvino {version}",
        compiler=host,
    )


def _keep(site: Path, prefix: Path, folder: Path) -> None:
    """Of the package what a plugin is compiled with."""
    (folder / "openvino").mkdir()
    for name in ("cmake", "include", "libs"):
        shutil.move(site / "openvino" / name, folder / "openvino" / name)


BACKEND = Backend("openvino", find, platforms=("linux_x86_64",))
