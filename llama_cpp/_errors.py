"""What the usual errors of llama.cpp, of drivers and of the system's loader mean, and what helps: one line each.

:data:`KNOWN` is the one list. The loader's warnings and errors, `python -m llama_cpp doctor` and docs/troubleshooting.md are made
from it.
Imports nothing of this package: it must work where the libraries do not open.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import threading
from typing import Any, Callable, NamedTuple


class Known(NamedTuple):
    """One error: its `name`, a `pattern` that its text has, the text as people `see` it, `what` it is, and what `helps`."""

    name: str
    pattern: str
    see: str
    what: str
    helps: str

    @property
    def line(self) -> str:
        return f"{self.what} {self.helps}"


KNOWN = (
    Known(
        "the runtime of CUDA is missing",
        r"(?:lib(?:cudart|cublas|cublasLt)\.so|(?:cudart|cublas|cublasLt)64_)",
        "libcudart.so.13: cannot open shared object file: No such file or directory",
        "NVIDIA's runtime libraries are not installed.",
        "Install llama-cpp-python again without --no-deps: NVIDIA's packages bring them.",
    ),
    Known(
        "no driver of NVIDIA's",
        r"libcuda\.so\.1|nvcuda\.dll|no CUDA-capable device|CUDA_ERROR_NO_DEVICE",
        "libcuda.so.1: cannot open shared object file: No such file or directory",
        "NVIDIA's driver cannot be reached.",
        "Install the driver. A container needs `--gpus all` and NVIDIA's container toolkit on its host.",
    ),
    Known(
        "driver too old",
        r"driver version is insufficient|forward compatibility was attempted",
        "CUDA driver version is insufficient for CUDA runtime version",
        "NVIDIA's driver is older than the CUDA of this wheel.",
        "Update the driver (580 or newer for cuda13, 525 for cuda12), or install the wheel `vulkan`.",
    ),
    Known(
        "no code for this GPU",
        r"no kernel image|invalid device function|device kernel image is invalid|hipErrorNoBinaryForGpu",
        "CUDA error: no kernel image is available for execution on the device",
        "This wheel has no code for this GPU.",
        "Install another wheel: `cuda12` is for Pascal and newer, `cuda13` for Turing and newer, `vulkan` for every GPU.",
    ),
    Known(
        "out of memory",
        r"(?i)out of memory|ErrorOutOf(?:Device|Host)Memory|failed to allocate|insufficient memory|unable to allocate|bad_alloc"
        r"|exceeds? (?:the )?(?:device|max)\w* (?:memory|buffer)",
        "cudaMalloc failed: out of memory",
        "The memory of the device is too small for this.",
        "Offload fewer layers (n_gpu_layers=10), make the context shorter (n_ctx=2048), or take a smaller quantisation.",
    ),
    Known(
        "unknown architecture of a model",
        r"unknown model architecture|unknown (?:pre-tokenizer type|projector type)|unsupported model architecture",
        "error loading model: unknown model architecture: 'newmodel'",
        "This llama.cpp is older than the model.",
        "Install a newer llama-cpp-python.",
    ),
    Known(
        "no GGUF",
        r"invalid magic character|not a GGUF|bad magic",
        "gguf_init_from_reader: invalid magic characters: '<!DO', expected 'GGUF'",
        "The file is no GGUF: often a web page, a Git LFS pointer, or weights in another format.",
        "Download the .gguf file itself.",
    ),
    Known(
        "GGUF truncated",
        r"not within the file bounds|corrupted or incomplete|failed to read (?:key-value|tensor|magic|header|the)"
        r"|unexpectedly reached end of file|read error|file is too small",
        "tensor 'blk.0.attn_v.weight' data is not within the file bounds, model is corrupted or incomplete",
        "The model's file ends too early.",
        "Download it again, and compare its size with the publisher's.",
    ),
    Known(
        "wrong architecture of Python",
        r"WinError 193|not a valid Win32|wrong ELF class|incompatible architecture|is for another processor",
        "[WinError 193] %1 is not a valid Win32 application",
        "This Python is for another processor than the wheel (32 against 64 bits, or x86 against Arm).",
        "Install a Python for this processor, and llama-cpp-python again with that Python's own pip.",
    ),
    Known(
        "glibc wheel, Python of musl",
        r"Error loading shared library (?:ld-linux|lib(?:c|m|dl|rt|pthread)\.so)|Error relocating \S+: .*symbol not found"
        r"|ld-linux-\S+: cannot open|is for glibc",
        "Error loading shared library ld-linux-x86-64.so.2: No such file or directory (needed by …/libggml.so)",
        "The wheel is for glibc, this Python is for musl (Alpine).",
        "Install llama-cpp-python again with this Python's own pip: it takes the wheel named musllinux.",
    ),
    Known(
        "musl wheel, Python of glibc",
        r"libc\.musl-\w+\.so|is for musl",
        "libc.musl-x86_64.so.1: cannot open shared object file: No such file or directory",
        "The wheel is for musl (Alpine), this Python is for glibc.",
        "Install llama-cpp-python again with this Python's own pip: it takes the wheel named manylinux.",
    ),
    Known(
        "glibc too old",
        r"version [`']GLIBC_\S+ not found",
        "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.28' not found",
        "The system's C library is older than the wheel wants.",
        "Install llama-cpp-python again with this Python's own pip, or a newer system.",
    ),
    Known(
        "illegal instruction",
        r"(?i)illegal instruction|SIGILL|0xC000001D|no CPU plugin that this processor can run|baseline optimizations",
        "Illegal instruction (core dumped)",
        "A library uses instructions that this processor lacks.",
        "Unset LLAMA_CPP_BACKENDS: the loader then takes what the processor can run. `doctor` says whose library it is.",
    ),
    Known(
        "library missing or damaged",
        r"file too short|invalid ELF header|Shared library with base name|Failed to load shared library",
        "Failed to load shared library '…/libggml.so': file too short",
        "A library of the wheel is missing or damaged.",
        "Install it again: `pip install --force-reinstall --no-deps llama-cpp-python`.",
    ),
    Known(
        "no Vulkan driver",
        r"libvulkan\.so|vulkan-1\.dll|vulkan plugin (?:was not loaded \(|was not loaded: )?(?:found no device|ggml_backend_init)"
        r"|ErrorIncompatibleDriver|ErrorInitializationFailed",
        "libvulkan.so.1: cannot open shared object file: No such file or directory",
        "No Vulkan driver for a GPU answers.",
        "Install the GPU's driver and the loader (Debian: `apt-get install libvulkan1 mesa-vulkan-drivers`).",
    ),
    Known(
        "n_gpu_layers without a GPU",
        r"this is the CPU wheel|found no device",
        "n_gpu_layers asks for a GPU, but this is the CPU wheel",
        "No GPU computes here: every layer stays on the CPU.",
        "Install the wheel that `python -m llama_cpp doctor` names; `n_gpu_layers=0` ends the warning.",
    ),
)


def explained(text: str) -> Known | None:
    """The first error of :data:`KNOWN` that `text` has, or None."""
    return next((one for one in KNOWN if re.search(one.pattern, text)), None)


def known(name: str) -> Known:
    """The error of :data:`KNOWN` with this name."""
    return next(one for one in KNOWN if one.name == name)


def with_help(text: str) -> str:
    """`text`, and behind it what it is and what helps, where that is known."""
    found = explained(text)
    return text + (" " if text.endswith(".") else ". ") + found.line if found else text


# -- a library that does not open --------------------------------------------------------------------------------------------

_MACHINES = {3: "x86", 40: "Arm", 62: "x86", 183: "Arm"}  # e_machine (ELF); others by their number


def foreign(path: Any) -> str:
    """Why this system's loader cannot take an ELF file: for another processor or C library than this Python; "" where it can.

    The loader's own words for it are "No such file or directory" (glibc, elf/dl-load.c: open_verify).
    """
    if not sys.platform.startswith("linux"):
        return ""
    try:
        with open(str(path), "rb") as file, open("/proc/self/exe", "rb") as python, open("/proc/self/maps", "rb") as maps:
            head, rest, own, musl = file.read(20), file.read(), python.read(20), b"ld-musl" in maps.read()
    except OSError:
        return ""
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return ""
    if (head[4], head[18:20]) != (own[4], own[18:20]):
        return f"{str(path).rpartition('/')[2]} is for another processor ({_machine(head)}) than this Python ({_machine(own)})"
    wants = "musl" if b"libc.musl-" in rest else "glibc" if b"\0libc.so.6\0" in rest else ""
    return f"{str(path).rpartition('/')[2]} is for {wants}" if wants and wants != ("musl" if musl else "glibc") else ""


def _machine(head: bytes) -> str:
    """The processor of an ELF file, by its first 20 bytes."""
    (number,) = struct.unpack("<H", head[18:20])
    return f"{_MACHINES.get(number, number)}, {32 if head[4] == 1 else 64} bits"


def unopened(error: Exception, lib_dir: Any) -> Exception:
    """An error of the import, of the same type, with what it is and what helps."""
    files = sorted(lib_dir.glob("*ggml*.so")) if lib_dir and lib_dir.is_dir() else []
    text = str(error)
    reason = next(filter(None, map(foreign, files)), "")
    told = with_help(f"{text} ({reason})" if reason else text) if explained(reason or text) else text
    more = f"{told}\n`python -m llama_cpp doctor` tells more."
    try:
        return type(error)(more)
    except TypeError:
        return ImportError(more)


# -- a model that is not loaded ----------------------------------------------------------------------------------------------

#: What upstream's classes raise where these functions fail. They know no reason, and without `verbose` nobody sees the log.
_RAISED = {
    "llama_decode": "llama_decode returned {}",
    "llama_encode": "llama_encode returned {}",
    "llama_model_load_from_file": "Failed to load model from file: {}",
    "llama_init_from_model": "Failed to create llama_context",
    "llama_new_context_with_model": "Failed to create llama_context",
    "mtmd_init_from_file": "Failed to load mtmd context from: {}",
}
_CALLERS = ("_internals", "llama_chat_format")
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_WARN, _ERROR, _CONTINUED = 3, 4, 5  # enum ggml_log_level (ggml.h)


class _Listener:
    """Keeps the errors that llama.cpp logs while somebody listens. They go where they went before, too.

    It is started for each token, so it takes a few microseconds and no more: functions and their arguments are made once.
    """

    def __init__(self, library: Any) -> None:
        self.lock = threading.Lock()
        self.listening = 0
        self.lines: list[str] = []
        self.level = 0
        self.before, self.data, self.now, self.data_now = (ctypes.c_void_p() for _ in range(4))
        self.forward = _LogCallback()
        self.callback = _LogCallback(self._hear)
        self.ours = ctypes.cast(self.callback, ctypes.c_void_p)
        # An item of a CDLL is a function of its own: upstream's have other argument types.
        self.get, self.set = library["llama_log_get"], library["llama_log_set"]
        self.places_now = ctypes.byref(self.now), ctypes.byref(self.data_now)

    def _hear(self, level: int, text: bytes, data: Any) -> None:
        self.level = self.level if level == _CONTINUED else level
        if self.level in (_WARN, _ERROR):
            self.lines = [*self.lines, (text or b"").decode("utf-8", "replace")][-40:]
        if self.before:
            if ctypes.cast(self.forward, ctypes.c_void_p).value != self.before.value:
                self.forward = ctypes.cast(self.before, _LogCallback)
            self.forward(level, text, self.data)

    def start(self) -> None:
        with self.lock:
            self.listening += 1
            if self.listening == 1:
                self.lines = []
                self.get(*self.places_now)
                if self.now.value != self.ours.value:  # else another thread put ours back: what was before it still holds
                    self.before.value, self.data.value = self.now.value, self.data_now.value
                    self.set(self.ours, None)

    def stop(self) -> list[str]:
        with self.lock:
            self.listening -= 1
            if not self.listening:
                self.get(*self.places_now)
                if self.now.value == self.ours.value:  # nobody has set another meanwhile
                    self.set(self.before, self.data)
            return self.lines


_listeners: dict[str, _Listener] = {}


def renew() -> None:
    """In the child of a fork: no thread of the parent listens here."""
    for listener in _listeners.values():
        listener.lock, listener.listening = threading.Lock(), 0


def _listener(library: Any) -> _Listener | None:
    """The one listener of this process: libmtmd logs to libllama's log, and two that take turns could end up calling each other."""
    if not _listeners and hasattr(library, "llama_log_get"):
        _listeners.setdefault("llama", _Listener(library))
    return _listeners.get("llama")


def with_reason(function: Any, call: Callable[[], Any], arguments: Any, library: Any) -> Any:
    """Call a function of llama.cpp that makes something, or computes. Where it fails and upstream's own classes called it, raise
    what they would raise, with llama.cpp's reason and what helps. Everybody else gets the null or the number.

    Raises:
        ValueError, RuntimeError: as upstream.
    """
    name = function.__name__
    listener = _listener(library)
    caller = sys._getframe(2).f_globals.get("__name__", "").rpartition(".")[2]
    if listener is None or name not in _RAISED or caller not in _CALLERS:
        return call()
    listener.start()
    try:
        result = call()
    finally:
        lines = listener.stop()
    computes = name in ("llama_decode", "llama_encode")
    reason = _cause(lines) if (result < 0 if computes else not result) else ""
    if not reason:
        return result
    what = result if computes else arguments[0].decode("utf-8", "replace") if isinstance(arguments[0], bytes) else ""
    raise (RuntimeError if computes else ValueError)(_RAISED[name].format(what) + f": {with_help(reason)}")


def _cause(lines: list[str]) -> str:
    """Of llama.cpp's last errors, the first that is known, else the first; without the name of the function that logs it."""
    texts = [line.strip() for line in "".join(lines).splitlines() if line.strip()]
    chosen = next((text for text in texts if explained(text)), texts[0] if texts else "")
    return re.sub(r"^(?:\w+: )?(?:error loading model: )?", "", chosen)
