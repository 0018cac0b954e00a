"""Open the core library and the plugins that lie beside it, and remember why one of them is missing.

Upstream's bindings know nothing of ggml's plugins (GGML_BACKEND_DL). This module is imported by the first line of
``llama_cpp/__init__.py``, before any of upstream's modules, and does three things:

* opens libggml from this package's own ``lib`` folder and loads the one CPU plugin that suits this processor best;
* lets every other plugin wait until somebody asks for a GPU (a model with layers to offload, a projector that may use one, a
  question about devices), so that ``import llama_cpp`` never touches a driver and a process may fork after it;
* records what happened to each plugin, for ``python -m llama_cpp``.

Plugins come from this package's folder and from nowhere else: ggml's own search would try the folder of the executable and the
current directory (ggml/src/ggml-backend-reg.cpp). ``GGML_BACKEND_PATH``, one more plugin named by the user, is honoured as in
ggml, when the first model is loaded.

Runs on Python 3.8, like upstream.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import sys
import threading
import warnings
from typing import Any, Iterator

if getattr(sys, "argv", [])[:2] == ["-m", "doctor"]:  # `python -m llama_cpp doctor`: it works where what follows fails
    from . import _doctor

    _doctor.take_over()

from . import _ctypes_extensions as _upstream
from . import _utils

BACKENDS_VARIABLE = "LLAMA_CPP_BACKENDS"
OUT_OF_TREE_VARIABLE = "GGML_BACKEND_PATH"
COOPMAT_VARIABLE = "GGML_VK_DISABLE_COOPMAT"
PDL_VARIABLE = "GGML_CUDA_PDL"
LIB_PATH_VARIABLE = "LLAMA_CPP_LIB_PATH"  # upstream's own name for "take the libraries from there"

_PREFIX = "" if sys.platform == "win32" else "lib"
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"  # of plugins, on macOS too
_SHARED = ".dylib" if sys.platform == "darwin" else _SUFFIX

# States of a plugin.
LOADED = "loaded"
WAITING = "waiting"  # will be loaded when a GPU is asked for
SKIPPED = "skipped"  # another CPU plugin suits this processor better, or the user left it out
FAILED = "failed"

# Functions that read a model or a projector: their arguments say whether layers are to be offloaded, and to which devices.
_MODEL_FUNCTIONS = (
    "llama_model_load_from_file",
    "llama_model_load_from_file_ptr",
    "llama_model_load_from_splits",
    "llama_model_init_from_user",
    "llama_load_model_from_file",
)
_PROJECTOR_FUNCTIONS = ("mtmd_init_from_file",)
# Functions that make a context, and compute: they are hooked for the reason of a failure alone (_errors.py).
_CONTEXT_FUNCTIONS = ("llama_init_from_model", "llama_new_context_with_model", "llama_decode", "llama_encode")
# Functions whose answer depends on which devices there are.
_DEVICE_QUESTIONS = (
    "llama_supports_gpu_offload",
    "llama_supports_rpc",
    "llama_params_fit",
    "ggml_backend_reg_count",
    "ggml_backend_reg_get",
    "ggml_backend_reg_by_name",
    "ggml_backend_dev_count",
    "ggml_backend_dev_get",
    "ggml_backend_dev_by_name",
    "ggml_backend_dev_by_type",
    "ggml_backend_init_by_name",
    "ggml_backend_init_by_type",
    "ggml_backend_init_best",
)
# ggml's own "load everything" would search the current directory: ours replaces it.
_LOAD_ALL = ("ggml_backend_load_all", "ggml_backend_load_all_from_path")

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Plugin:
    """One plugin file: ``name`` as in ``LLAMA_CPP_BACKENDS``, ``state`` (one of the constants above) and ``reason``."""

    def __init__(self, name: str, path: pathlib.Path, state: str = WAITING, reason: str = "") -> None:
        self.name = name
        self.path = path
        self.state = state
        self.reason = reason
        self.score: int | None = None  # of a CPU plugin; 0 means that this processor cannot run it
        self.devices: int | None = None  # of a GPU plugin that was loaded
        self.registration: int | None = None  # ggml's own object of it, while it is loaded
        self.left_out: dict[str, str] = {}  # devices that do not compute, and why

    def settle(self, state: str, reason: str = "") -> None:
        self.state, self.reason = state, reason

    def as_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "state": self.state, "path": str(self.path)}
        if self.score is not None:
            row["score"] = self.score
        if self.devices is not None:
            row["devices"] = self.devices
        if self.left_out:
            row["left_out"] = self.left_out
        if self.reason:
            row["reason"] = self.reason
        return row


def _without_libraries(folder: pathlib.Path) -> str:
    """Why this package has no `folder` of libraries, and what helps: it lies in an archive (PEP 441), or was copied without it."""
    archive = next((str(path) for path in folder.parents if path.is_file()), None)
    if archive:
        return (
            f"llama_cpp is inside {archive}, and shared libraries cannot be opened there: install llama-cpp-python into a folder "
            "beside it (pip install --target) that the program puts on sys.path, or pack with shiv or pex, which unpack."
        )
    return (
        f"llama_cpp has no {folder}: install llama-cpp-python again. A frozen program must bring it along: PyInstaller does so by "
        "itself, Nuitka with --include-package-data=llama_cpp."
    )


def _lib_dir() -> pathlib.Path:
    override = os.environ.get(LIB_PATH_VARIABLE)
    if override is None:
        folder = pathlib.Path(os.path.abspath(os.path.dirname(__file__))) / "lib"
        if not folder.is_dir():
            raise ImportError(_without_libraries(folder))
        return folder
    folder = pathlib.Path(override)  # empty: the current folder, as for upstream
    for name in ("llama", "ggml"):
        names = list(dict.fromkeys((_PREFIX + name + _SHARED, "lib" + name + _SUFFIX)))
        if not any((folder / file).is_file() for file in names):
            raise FileNotFoundError(
                "{}={!r}: there is no {} in {}. Unset the variable, or name a folder that has the libraries of llama.cpp.".format(
                    LIB_PATH_VARIABLE, override, " or ".join(names), os.path.abspath(override)
                )
            )
    return folder


def _wanted() -> list[str] | None:
    """The names in ``LLAMA_CPP_BACKENDS`` (comma separated), or None where the user leaves the choice to us."""
    names = [name.strip().lower() for name in os.environ.get(BACKENDS_VARIABLE, "").split(",")]
    return [name for name in names if name] or None


def _find(lib_dir: pathlib.Path) -> tuple[list[Plugin], list[Plugin]]:
    """CPU plugins and the others in `lib_dir`, by name. The core's own libggml-*.so are no plugins."""
    stem = _PREFIX + "ggml-"
    files = {p.name[len(stem) : -len(_SUFFIX)]: p for p in sorted(lib_dir.glob(stem + "*" + _SUFFIX))}
    cpu: list[Plugin] = []
    others: list[Plugin] = []
    for name, path in files.items():
        if name == "base" or name.startswith("base-") or ("base-" + name) in files:
            continue  # libggml-base-<fingerprint> and libggml-<fingerprint>
        (cpu if name == "cpu" or name.startswith("cpu-") else others).append(Plugin(name, path))
    return cpu, others


def _described(lib_dir: pathlib.Path, name: str) -> dict[str, Any]:
    """What the wheel says of its plugin `name` (plugin.json): which libraries it needs, and which packages bring them."""
    try:
        facts = json.loads((lib_dir / "plugin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a plugin that somebody put there
        return {}
    return facts if isinstance(facts, dict) and facts.get("name") == name else {}


def _is_open(name: str) -> bool:
    """Has this process a library of this name, as PyTorch may have opened it?"""
    if sys.platform == "win32":
        handle: Any = ctypes.windll.kernel32.GetModuleHandleW  # type: ignore[attr-defined,unused-ignore]
        handle.restype = ctypes.c_void_p
        return handle(name) is not None
    if not hasattr(os, "RTLD_NOLOAD"):
        return False
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def _open_first(places: list[str]) -> str:
    """Open the first of these libraries that can be opened, else return why the very first cannot."""
    reason = ""
    for place in places:
        try:
            ctypes.CDLL(place)
        except OSError as error:
            reason = reason or str(error)
        else:
            return ""
    return reason


def _open_packages(facts: dict[str, Any]) -> str:
    """Open the libraries that other packages bring for a plugin (NVIDIA's), wherever in ``sys.path`` those packages are.

    Returns why a library of the driver's or the system's is not there, where one is not; then nothing else is opened. (ROCm lies in
    a folder of its own, which the system's search has only where its owner has put it there.)

    The plugin's own RPATH reaches other packages in the same site-packages only: not from ``--user`` or ``--target`` folders, nor
    through environments laid over another. What is open already stays the one that is used, and what is nowhere here is left to the
    system's search (a CUDA toolkit).
    """
    folders = [os.path.expandvars(folder) for folder in facts.get("folders", [])]  # "$NAME/lib" where NAME is not set
    for name in facts.get("system", []):
        reason = _open_first([name, *(os.path.join(folder, name) for folder in folders if os.path.isabs(folder))])
        if reason:
            return "{} (it comes with {})".format(reason, facts.get("brought_by", "the GPU's driver"))
    beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    roots = [pathlib.Path(entry) for entry in dict.fromkeys([beside, *sys.path]) if os.path.isabs(entry)]  # no current directory
    for folder, names in facts.get("libraries", {}).items():
        for name in names:
            files = (root / folder / name for root in roots)
            file = None if _is_open(name) else next((path for path in files if path.is_file()), None)
            if file is not None:
                with contextlib.suppress(OSError):  # damaged, say: the plugin's own error tells it
                    ctypes.CDLL(str(file))
    return ""


def _cuda_version(facts: dict[str, Any]) -> int:
    """The newest CUDA that NVIDIA's driver runs, 12020 for 12.2; 0 where the plugin needs no such driver, or it does not say."""
    version = ctypes.c_int()
    for name in facts.get("system", []):
        if name in ("libcuda.so.1", "nvcuda.dll"):
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version))
    return version.value


def _remedy(facts: dict[str, Any], reason: str) -> str:
    """The reason, and what helps where it names a library that packages bring."""
    lacking = reason.split(":")[0].strip()
    brought = [name for names in facts.get("libraries", {}).values() for name in names]
    missing = lacking in brought and "cannot open" in reason
    if "error 126 of Windows" in reason:  # which does not say what is not there
        lacking = next((name for name in brought if not _is_open(name)), "")
        missing, reason = bool(lacking), f"{reason}, {lacking} is not there" if lacking else reason
    if missing:
        packages = " ".join(f'"{requirement}"' for requirement in facts.get("requires", []))
        return f"{reason} (pip install {packages})"
    return reason


def _close(library: ctypes.CDLL) -> None:
    import _ctypes

    close = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary  # type: ignore[attr-defined]
    close(library._handle)


class _Backends:
    """The state of this process: which plugins there are, and what became of each."""

    def __init__(self) -> None:
        self.lib_dir = _lib_dir()
        self.wanted = _wanted()
        self.out_of_tree: Plugin | None = None
        self.lock = threading.RLock()
        self.gpu_asked = False
        self.warned = False
        self.told: set[str] = set()  # devices of which a warning said that they are left out
        self.ggml = _open_core(self.lib_dir)
        self.cpu, self.gpu = _find(self.lib_dir)
        # A core without plugins (say a GGML_NATIVE build) has its backends from the start. One with plugins may have them, too,
        # where this package is imported once more.
        self.static = not self.cpu and self.ggml.ggml_backend_reg_count() > 0
        if self.static:
            self.gpu = []
        else:
            self._load_cpu()
        for plugin in self.gpu:
            if self.wanted is not None and plugin.name not in self.wanted:
                plugin.settle(SKIPPED, "not in {}={}".format(BACKENDS_VARIABLE, ",".join(self.wanted)))

    @property
    def plugins(self) -> list[Plugin]:
        return self.cpu + self.gpu + ([self.out_of_tree] if self.out_of_tree else [])

    def thread_limit(self) -> int | None:
        """The most threads that compute at once on the CPU (llama_cpp/threads); None in a core that was built without that."""
        plugin = next((plugin for plugin in self.cpu if plugin.state == LOADED), None)
        try:
            return int(ctypes.CDLL(str(plugin.path)).llama_cpp_thread_limit()) if plugin else None
        except AttributeError:
            return None

    def unknown_names(self) -> list[str]:
        """Names in ``LLAMA_CPP_BACKENDS`` that no plugin of this wheel has."""
        known = {plugin.name for plugin in self.cpu + self.gpu} | {"cpu"}
        return [name for name in self.wanted or [] if name not in known]

    # -- loading ----------------------------------------------------------------------------------------------------------

    def _load_cpu(self) -> None:
        """Load the CPU plugin with the highest score, or the one that the user named (``cpu-haswell``).

        A score is a set of bits, one for each feature used, and 0 on a processor that lacks one (arch/x86/cpu-feats.cpp).
        """
        named = [name for name in self.wanted or [] if name.startswith("cpu-")]
        for plugin in self.cpu:
            try:
                library = ctypes.CDLL(str(plugin.path))
            except OSError as error:
                plugin.settle(FAILED, str(error))
                continue
            try:
                plugin.score = int(library.ggml_backend_score())
            except AttributeError:
                plugin.score = 1  # a single plugin built without scores
            finally:
                _close(library)
            if not plugin.score:
                plugin.settle(SKIPPED, "needs instructions that this processor lacks")
            elif named and plugin.name not in named:
                plugin.settle(SKIPPED, "not in {}={}".format(BACKENDS_VARIABLE, ",".join(self.wanted or [])))
        usable = sorted((p for p in self.cpu if p.state == WAITING), key=lambda p: -(p.score or 0))
        for plugin in usable:
            if self._load(plugin):
                for other in usable:
                    if other.state == WAITING:
                        other.settle(SKIPPED, f"{plugin.name} suits this processor better")
                return
        found = "\n".join(f"  {p.path}: {p.reason}" for p in self.cpu) or "  (none found)"
        raise ImportError(
            "llama_cpp has no CPU plugin that this processor can run. Tried in {}:\n{}\n{}".format(
                self.lib_dir,
                found,
                "Unset {}, which asks for {}.".format(BACKENDS_VARIABLE, ", ".join(named))
                if named
                else "Reinstall llama-cpp-python; if this stays, report it with the lines above.",
            )
        )

    def _load(self, plugin: Plugin) -> bool:
        facts = _described(self.lib_dir, plugin.name)
        no_driver = _open_packages(facts)
        cuda = 0 if no_driver else _cuda_version(facts)
        if 0 < cuda < 12030:
            # Kernels of Hopper that start before the last one has ended: CUDA graphs know that from 12.3 on (its release notes).
            os.environ.setdefault(PDL_VARIABLE, "0")
        # On Windows for the CPU's, too: ggml takes a path in the system's code page there, which has not every letter.
        guard = self._guard() if plugin not in self.cpu or sys.platform == "win32" else None
        why = ctypes.c_char_p()
        path = os.fsencode(str(plugin.path))
        with self._captured_log() as lines:
            if guard:
                bare = plugin is self.out_of_tree or plugin in self.cpu
                handle = guard.llama_cpp_backend_load(path, bare, ctypes.byref(why))
            else:
                handle = self.ggml.ggml_backend_load(path)
        if why.value:
            lines.append(why.value.decode("utf-8", "replace"))
        text = " ".join("".join(line for line in lines if not line.startswith("load_backend: loaded")).split())
        if handle:
            plugin.settle(LOADED)
            if plugin not in self.cpu:
                devices = self._devices_of(handle)
                plugin.devices = len(devices)
                if not plugin.devices:
                    text += f"; the driver is for CUDA {cuda // 1000}.{cuda % 1000 // 10}" if text and cuda else ""
                    plugin.reason = f"found no device ({text})" if text else "found no device"
                elif all(self._is_software(device) for device in devices):
                    # Mesa 26.2's llvmpipe multiplies wrongly with cooperative matrices where subgroups part before a barrier of one
                    # subgroup (the last columns in mul_mm.comp). ggml-vulkan reads this when it makes the device, which comes next.
                    os.environ.setdefault(COOPMAT_VARIABLE, "1")
                    plugin.reason = f"{COOPMAT_VARIABLE}={os.environ[COOPMAT_VARIABLE]}, since this device is software"
                plugin.registration = handle
        else:
            reason = text.split(str(plugin.path) + ": ")[-1] or "ggml_backend_load gave no reason"
            plugin.settle(FAILED, no_driver or _remedy(facts, reason))
        return plugin.state == LOADED

    def _guard(self) -> ctypes.CDLL | None:
        """Our libllama (llama_cpp/guard), to which plugins tell their failures; None in a core that has no such."""
        try:
            library = ctypes.CDLL(str(self.lib_dir / (_PREFIX + "llama" + _SHARED)))
            library.llama_cpp_backend_load.restype = ctypes.c_void_p
            library.llama_cpp_backend_load.argtypes = [ctypes.c_char_p, ctypes.c_bool, ctypes.POINTER(ctypes.c_char_p)]
            library.llama_cpp_device_error.restype = ctypes.c_char_p
            library.llama_cpp_device_error.argtypes = [ctypes.c_size_t, ctypes.c_bool]
        except (OSError, AttributeError):  # another core, named by LLAMA_CPP_LIB_PATH
            return None
        return library

    def _devices_of(self, registration: int) -> list[int]:
        """The devices of a plugin, by their index in ggml's list."""
        count = range(self.ggml.ggml_backend_dev_count())
        owner = self.ggml.ggml_backend_dev_backend_reg
        return [one for one in count if owner(self.ggml.ggml_backend_dev_get(one)) == registration]

    def _is_software(self, index: int) -> bool:
        """Is this device Mesa's software device for Vulkan?"""
        name = self.ggml.ggml_backend_dev_description(self.ggml.ggml_backend_dev_get(index))
        return bool(name) and name.startswith(b"llvmpipe")

    def settle_devices(self, ask: bool) -> None:
        """Note which GPUs fail (llama_cpp/guard/trust.hpp), and give up a plugin where none does. With `ask`, try each."""
        guard = self._guard()
        for plugin in self.plugins if guard else []:
            if plugin.registration is None:
                continue
            devices = self._devices_of(plugin.registration)
            errors = [(index, guard.llama_cpp_device_error(index, ask)) for index in devices]  # type: ignore[union-attr]
            plugin.left_out = {self._device_name(one): text.decode("utf-8", "replace") for one, text in errors if text}
            if devices and len(plugin.left_out) == len(devices):
                ctypes.CDLL(str(plugin.path), mode=getattr(os, "RTLD_NODELETE", 0))  # stays mapped: its destructors would run now
                self.ggml.ggml_backend_unload(plugin.registration)
                plugin.registration = None
                why = list(plugin.left_out.values())
                plugin.settle(
                    FAILED, f"its device fails: {why[0]}" if len(why) == 1 else f"its devices fail: {_told(plugin.left_out)}"
                )

    def _device_name(self, index: int) -> str:
        """As the user may know it: ``CUDA1 (NVIDIA GeForce GTX 1080)``."""
        device = self.ggml.ggml_backend_dev_get(index)
        names = (self.ggml.ggml_backend_dev_name(device), self.ggml.ggml_backend_dev_description(device))
        return "{} ({})".format(*(name.decode("utf-8", "replace") for name in names))

    def before_model(self, parameters: Any, trial: Any) -> None:
        """Before a model or projector is read: load the plugins, try the devices that it would use, warn of those left out.

        `trial` is the guard's function for these parameters (llama_cpp_try_model), or None in a core that has none.

        Raises:
            RuntimeError: the user named a device (``main_gpu``, ``devices``) that cannot compute.
        """
        wants_gpu = _wants_gpu(parameters)
        with self.lock:
            self.ask(gpu=wants_gpu)
            loaded = any(plugin.devices for plugin in self.plugins)  # now, or before they were given up
            refused = trial(ctypes.byref(parameters)) if trial and loaded and parameters is not None else None
            if refused:
                raise RuntimeError(refused.decode("utf-8", "replace"))
            self.settle_devices(ask=False)
            # A projector of upstream's always asks for one; in the CPU wheel that is no wish of the user's.
            self._warn(wants_gpu and (bool(self.gpu) or getattr(parameters, "n_gpu_layers", 0) != 0))

    def ask(self, gpu: bool, model: bool = False) -> None:
        """Load what waited: the user's own plugin, and with `gpu` the GPU plugins. A second call does nothing.

        With `model`, warn where one that wants a GPU gets none.
        """
        with self.lock:
            path = os.environ.get(OUT_OF_TREE_VARIABLE)
            if path and self.out_of_tree is None and not self.static:
                self.out_of_tree = Plugin(OUT_OF_TREE_VARIABLE, pathlib.Path(path))
                if not self._load(self.out_of_tree):
                    _say(f"{OUT_OF_TREE_VARIABLE}={path} was not loaded: {self.out_of_tree.reason}")
            if gpu and not self.gpu_asked:
                self.gpu_asked = True
                for plugin in self.gpu:
                    if plugin.state == WAITING:
                        self._load(plugin)
            if model:
                self._warn(gpu)

    def _warn(self, wants_gpu: bool) -> None:
        """Say once of each device that it is left out, and once that no GPU is left, where one was wanted."""
        text = self._unused() if wants_gpu and not self.warned else ""
        if text:
            self.warned = True
            _say(text)
        left_out = {
            name: why for p in self.plugins if p.state == LOADED for name, why in p.left_out.items() if name not in self.told
        }
        if left_out:
            self.told.update(left_out)
            _say(f"left out of the devices that compute: {_told(left_out)}. `python -m llama_cpp doctor` tells more.")

    def _unused(self) -> str:
        """What a user must know whose layers were to go to a GPU and stay on the CPU; "" where they need not."""
        from . import _errors, _hardware  # here, since an import needs none of it

        if not self.gpu and not self.static and not self.wanted and not self.out_of_tree:
            return _hardware.unused(_installer())
        useless = [plugin for plugin in self.gpu if plugin.state == FAILED or plugin.devices == 0]
        if not useless:
            return ""
        reasons = "; ".join(
            "the {} plugin {}".format(p.name, f"was not loaded ({p.reason})" if p.state == FAILED else p.reason) for p in useless
        )
        known = _errors.explained(reasons)
        return "layers were to go to a GPU, but {}; they stay on the CPU. {}`python -m llama_cpp doctor` tells more.".format(
            reasons, known.line + " " if known else ""
        )

    @contextlib.contextmanager
    def _captured_log(self) -> Iterator[list[str]]:
        """ggml's messages meanwhile, instead of stderr: they are the only place where a load error is told."""
        lines: list[str] = []

        def collect(level: int, text: bytes, data: Any) -> None:
            lines.append(text.decode("utf-8", "replace"))

        callback = _LogCallback(collect)
        old, old_data = ctypes.c_void_p(), ctypes.c_void_p()
        if hasattr(self.ggml, "ggml_log_get"):
            self.ggml.ggml_log_get(ctypes.byref(old), ctypes.byref(old_data))
        else:  # before 0.3.17: upstream's own, once there is one
            logger = getattr(sys.modules.get("llama_cpp._logger"), "llama_log_callback", None)
            old = ctypes.cast(logger, ctypes.c_void_p) if logger else old
        self.ggml.ggml_log_set(ctypes.cast(callback, ctypes.c_void_p), None)
        try:
            yield lines
        finally:
            self.ggml.ggml_log_set(old, old_data)


def _installer() -> str:
    """The program that installed this package (INSTALLER in dist-info), or ""."""
    from importlib import metadata

    try:
        return (metadata.distribution("llama_cpp_python").read_text("INSTALLER") or "").strip()
    except metadata.PackageNotFoundError:
        return ""


_unsaid: list[str] = []


def _say(text: str) -> None:
    """A warning at the user's own line. With `verbose=False` upstream sends stderr away while it loads a model: then afterwards."""
    if sys.stderr is _utils.errnull_file:
        _unsaid.append(text)
        return
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def _say_afterwards(silencer: Any) -> None:
    """Let upstream's class that sends stderr away say what was left unsaid meanwhile."""
    leave = getattr(silencer.__exit__, "__wrapped__", silencer.__exit__)

    def leave_and_say(self: Any, *error: Any) -> None:
        leave(self, *error)
        for text in _unsaid[:]:
            _unsaid.remove(text)
            _say(text)

    leave_and_say.__wrapped__ = leave  # type: ignore[attr-defined]
    silencer.__exit__ = leave_and_say


def _told(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in left_out.items())


def _open_core(lib_dir: pathlib.Path) -> ctypes.CDLL:
    """libggml, with the argument types of what is called here (ggml/include/ggml-backend.h, ggml.h)."""
    ggml: ctypes.CDLL = _upstream_load("ggml", lib_dir)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_backend_load": (ctypes.c_void_p, [ctypes.c_char_p]),
        "ggml_backend_unload": (None, [ctypes.c_void_p]),
        "ggml_backend_reg_count": (ctypes.c_size_t, []),
        "ggml_backend_dev_count": (ctypes.c_size_t, []),
        "ggml_backend_dev_get": (ctypes.c_void_p, [ctypes.c_size_t]),
        "ggml_backend_dev_backend_reg": (ctypes.c_void_p, [ctypes.c_void_p]),
        "ggml_backend_dev_name": (ctypes.c_char_p, [ctypes.c_void_p]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [ctypes.c_void_p]),
        "ggml_log_get": (None, [ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)]),
        "ggml_log_set": (None, [ctypes.c_void_p, ctypes.c_void_p]),
    }
    for name, (restype, argtypes) in signatures.items():
        function = getattr(ggml, name, None)
        if function is not None:  # ggml_log_get came with 0.3.17
            function.restype, function.argtypes = restype, argtypes
    return ggml


# -- the hook into upstream's bindings --------------------------------------------------------------------------------------


def _parameters(arguments: tuple[Any, ...]) -> Any:
    """The parameters of a model or projector among these arguments (by upstream's fields `n_gpu_layers`, `use_gpu`), or None."""
    for argument in arguments:
        target = getattr(argument, "_obj", argument)  # byref(x)
        with contextlib.suppress(AttributeError, ValueError):
            target = target.contents  # pointer(x)
        if hasattr(target, "n_gpu_layers") or hasattr(target, "use_gpu"):
            return target
    return None


def _wants_gpu(parameters: Any) -> bool:
    """Do these ask for a GPU? (A negative `n_gpu_layers`: all.)"""
    return bool(getattr(parameters, "n_gpu_layers", 0) != 0 or getattr(parameters, "use_gpu", False))


def _hook(library: ctypes.CDLL) -> None:
    """Let the functions of `library` that need a GPU load its plugin first.

    They stay ctypes functions in every respect (argtypes, restype, byref, use as a pointer); only the call is preceded.
    """
    function_type: Any = library._FuncPtr

    def preceded_by(before: Any, then: bool = True, reasons: bool = False) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            before(arguments)
            if reasons:
                from . import _errors  # here, since an import needs none of it

                return _errors.with_reason(self, lambda: function_type.__call__(self, *arguments), arguments, library)
            return function_type.__call__(self, *arguments) if then else None

        same = {"_flags_": function_type._flags_, "_restype_": function_type._restype_}  # ctypes wants them in every class
        return type("Hooked", (function_type,), dict(same, __call__=call))

    context_function = preceded_by(lambda arguments: None, reasons=True)
    trials = {name: getattr(library, name, None) for name in ("llama_cpp_try_model", "llama_cpp_try_projector")}
    for trial in filter(None, trials.values()):
        trial.restype, trial.argtypes = ctypes.c_char_p, [ctypes.c_void_p]

    def model(trial: Any) -> Any:
        return preceded_by(lambda arguments: state.before_model(_parameters(arguments), trial), reasons=True)

    device_question = preceded_by(lambda arguments: state.ask(gpu=True))
    load_all = preceded_by(lambda arguments: state.ask(gpu=True), then=False)

    for names, kind in (
        (_MODEL_FUNCTIONS, model(trials["llama_cpp_try_model"])),
        (_PROJECTOR_FUNCTIONS, model(trials["llama_cpp_try_projector"])),
        (_CONTEXT_FUNCTIONS, context_function),
        (_DEVICE_QUESTIONS, device_question),
        (_LOAD_ALL, load_all),
    ):
        for name in names:
            with contextlib.suppress(AttributeError):  # not in this library
                hooked = kind((name, library))
                hooked.__name__ = name
                setattr(library, name, hooked)


def _load_shared_library(lib_base_name: str, base_path: pathlib.Path) -> ctypes.CDLL:
    """Upstream's function of this name; from our folder where upstream looks into one that is not there (editable installs)."""
    library: ctypes.CDLL = _upstream_load(lib_base_name, base_path if base_path.is_dir() else state.lib_dir)
    _hook(library)
    return library


_upstream_load: Any = getattr(_upstream.load_shared_library, "__wrapped__", _upstream.load_shared_library)
_load_shared_library.__wrapped__ = _upstream_load  # type: ignore[attr-defined]

try:
    state = _Backends()
except (ImportError, OSError, RuntimeError) as error:
    from . import _errors

    raise _errors.unopened(error, _lib_dir() if LIB_PATH_VARIABLE not in os.environ else None) from None  # it has the same text
_upstream.load_shared_library = _load_shared_library
_say_afterwards(_utils.suppress_stdout_stderr)

if hasattr(os, "register_at_fork"):

    def _renew_lock() -> None:
        state.lock = threading.RLock()  # another thread of the parent may have held it
        errors: Any = sys.modules.get(__name__.rpartition(".")[0] + "._errors")
        if errors is not None:
            errors.renew()

    os.register_at_fork(after_in_child=_renew_lock)
