"""Copies of the installed package that are broken on purpose, and Python processes that run with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import llama_cpp

SITE = Path(llama_cpp.__file__).parent.parent
#: A folder that stands for `/` (llama_cpp/_hardware.py), so that the machine's own GPUs are not seen.
ROOT_VARIABLE = "LLAMA_CPP_DOCTOR_ROOT"


class Copy:
    """The package and its dist-info in a folder of its own, before the installed ones on the path. Its files are hard links."""

    def __init__(self, folder: Path, without: str = "") -> None:
        self.folder = folder / "site"
        self.lib = self.folder / "llama_cpp" / "lib"
        self.root = folder / "root"
        self.tools = folder / "bin"
        for path in (self.folder, self.root, self.tools):
            path.mkdir()
        info = next(str(file).split("/")[0] for file in metadata.files("llama_cpp_python") or [] if str(file).endswith("/RECORD"))
        for name in ("llama_cpp", info):
            shutil.copytree(SITE / name, self.folder / name, copy_function=_link)
        self.alone = bool(without)
        if without:  # nothing of the environment but links to what is not left out
            for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
                if not path.name.startswith((without, "llama_cpp")):
                    (self.folder / path.name).symlink_to(path)

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.unlink()
        path.write_bytes(data)

    def nvidia(self, cuda: str = "13.0", compute: str = "8.9") -> None:
        """Let the machine have an NVIDIA GPU."""
        program = self.tools / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *query-gpu*) echo "GeForce RTX 4090, {compute}, 24564, 20000, 580.65";; '
            f'*) echo "    CUDA Version                          : {cuda}";; esac\n'
        )
        program.chmod(0o755)

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
        env.update({ROOT_VARIABLE: str(self.root), "PATH": f"{self.tools}{os.pathsep}{env['PATH']}"}, **environment)
        env["PYTHONPATH"] = str(self.folder)
        switches = ["-S"] if self.alone else []
        return subprocess.run(
            [sys.executable, *switches, *words], env=env, cwd=str(self.root), capture_output=True, text=True, timeout=600
        )

    def doctor(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "llama_cpp", "doctor", *words, **environment)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
