"""``python -m llama_cpp doctor``: from the driver to a token, what works here, what does not, and the command that mends it.

It runs in place of the import of llama_cpp (:func:`take_over`), so that it works where the import fails. What may crash or hang
(libraries, drivers) runs in child processes with a time limit.
"""

from __future__ import annotations

import ctypes
import sys


def is_asked() -> bool:
    """Is this process ``python -m llama_cpp doctor``, which is just about to import the package?"""
    words = getattr(sys, "orig_argv", None)  # Python 3.10
    if words is None:
        count, values = ctypes.c_int(), ctypes.POINTER(ctypes.c_wchar_p)()
        ctypes.pythonapi.Py_GetArgcArgv(ctypes.byref(count), ctypes.byref(values))
        words = [values[index] for index in range(count.value)]
    module = words[len(words) - len(sys.argv)] if len(words) >= len(sys.argv) else ""  # sys.argv: -m, and what follows the module
    return sys.argv[:2] == ["-m", "doctor"] and (
        module == "llama_cpp" or (module.startswith("-") and module.endswith("mllama_cpp"))
    )


def take_over() -> None:
    """Be the doctor, if this process asks for it, and end it with the doctor's exit code."""
    if is_asked():
        from .command import main

        sys.exit(main(sys.argv[2:]))
