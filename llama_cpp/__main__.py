"""``python -m llama_cpp``: what this installation is, which plugins it loaded and why not the others. For bug reports.

Asking for the devices loads the GPU plugins, as any question about devices does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import platform
import sys
import warnings
from typing import Any

import llama_cpp
from llama_cpp import _backends

_DEVICE_TYPES = {0: "CPU", 1: "GPU", 2: "integrated GPU", 3: "accelerator"}  # enum ggml_backend_dev_type
_VARIABLES = (
    _backends.BACKENDS_VARIABLE,
    _backends.OUT_OF_TREE_VARIABLE,
    _backends.LIB_PATH_VARIABLE,
    "MTMD_CPP_LIB",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    _backends.COOPMAT_VARIABLE,
    _backends.PDL_VARIABLE,
    "HIP_VISIBLE_DEVICES",
)


def _distribution() -> dict[str, Any]:
    """Version, wheel tags, variant label and properties of the installed distribution, as far as it is installed as one."""
    from importlib import metadata

    found: dict[str, Any] = {"version": llama_cpp.__version__, "tags": [], "build": None, "variant": None}
    try:
        distribution = metadata.distribution("llama_cpp_python")
    except metadata.PackageNotFoundError:
        return found
    for line in (distribution.read_text("WHEEL") or "").splitlines():
        key, _, value = line.partition(": ")
        if key == "Tag":
            found["tags"].append(value)
        elif key == "Build":
            found["build"] = value
    text = distribution.read_text("variant.json")
    if text:
        variants = json.loads(text).get("variants", {})
        for label, properties in variants.items():
            found["variant"] = {"label": label, "properties": properties}
    return found


def _core(lib_dir: Any) -> dict[str, Any]:
    try:
        core: dict[str, Any] = json.loads((lib_dir / "core.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        core = {"fingerprint": None, "error": str(error)}
    return core


def _gpu_plugin(lib_dir: Any) -> dict[str, Any] | None:
    """What the build wrote down about the wheel's GPU plugin (its core, its tools and what they could do), if it has one."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((lib_dir / "plugin.json").read_text(encoding="utf-8"))
        return found
    return None


def _devices(ggml: ctypes.CDLL, left_out: dict[str, str]) -> list[dict[str, Any]]:
    """Every device of every loaded plugin; memory in bytes (ggml/include/ggml-backend.h).

    One that is left out has the reason, and is not asked for its memory: it might fail again.
    """
    pointer = ctypes.c_void_p
    for name, restype, argtypes in (
        ("ggml_backend_dev_count", ctypes.c_size_t, []),
        ("ggml_backend_dev_get", pointer, [ctypes.c_size_t]),
        ("ggml_backend_dev_name", ctypes.c_char_p, [pointer]),
        ("ggml_backend_dev_description", ctypes.c_char_p, [pointer]),
        ("ggml_backend_dev_type", ctypes.c_int, [pointer]),
        ("ggml_backend_dev_memory", None, [pointer, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = restype, argtypes
    rows = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        row = {
            "name": ggml.ggml_backend_dev_name(device).decode(),
            "description": ggml.ggml_backend_dev_description(device).decode("utf-8", "replace"),
            "type": _DEVICE_TYPES.get(ggml.ggml_backend_dev_type(device), "unknown"),
        }
        reason = left_out.get("{name} ({description})".format(**row))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if reason is None:
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        rows.append({**row, "memory_free": free.value, "memory_total": total.value, **({"left_out": reason} if reason else {})})
    return rows


class _Feature(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_char_p)]


def _features(ggml: ctypes.CDLL) -> list[str]:
    """Instruction sets and options that the loaded CPU plugin was built to use (ggml_backend_get_features)."""
    pointer = ctypes.c_void_p
    ggml.ggml_backend_reg_by_name.restype, ggml.ggml_backend_reg_by_name.argtypes = pointer, [ctypes.c_char_p]
    ggml.ggml_backend_reg_get_proc_address.restype = pointer
    ggml.ggml_backend_reg_get_proc_address.argtypes = [pointer, ctypes.c_char_p]
    registration = ggml.ggml_backend_reg_by_name(b"CPU")
    address = registration and ggml.ggml_backend_reg_get_proc_address(registration, b"ggml_backend_get_features")
    if not address:
        return []
    function = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), pointer)(address)
    names, index, features = [], 0, function(registration)
    while features[index].name:
        value = features[index].value.decode()
        names.append(features[index].name.decode() + ("" if value == "1" else "=" + value))
        index += 1
    return names


def report() -> dict[str, Any]:
    """Everything a bug report needs, as plain data (bytes for memory sizes)."""
    state = _backends.state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report itself tells what was not loaded
        state.ask(gpu=True)
        state.settle_devices(ask=True)
    ggml = state.ggml
    cpu: str | None = next((p.name for p in state.cpu if p.state == _backends.LOADED), None)
    return {
        "llama_cpp_python": _distribution(),
        "core": _core(state.lib_dir),
        "gpu_plugin": _gpu_plugin(state.lib_dir),
        "cpu": {
            "plugin": cpu or ("built in" if state.static else None),
            "features": _features(ggml),
            "processors": os.cpu_count(),
            "thread_limit": state.thread_limit(),
        },
        "devices": _devices(ggml, {name: why for plugin in state.plugins for name, why in plugin.left_out.items()}),
        "plugins": [plugin.as_dict() for plugin in state.plugins],
        "unknown_backends": state.unknown_names(),
        "libraries": {"folder": str(state.lib_dir), "files": sorted(p.name for p in state.lib_dir.iterdir())},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "python": f"{platform.python_implementation()} {platform.python_version()} {sys.executable}",
        "platform": "{} ({})".format(platform.platform(), " ".join(platform.libc_ver()).strip() or "libc unknown"),
    }


def _print(facts: dict[str, Any]) -> None:
    distribution, core = facts["llama_cpp_python"], facts["core"]
    variant = distribution["variant"]

    def row(name: str, value: Any) -> None:
        print(f"{name:<16} {value}")

    row("llama-cpp-python", distribution["version"] + (" build " + distribution["build"] if distribution["build"] else ""))
    row("wheel", ", ".join(distribution["tags"]) or "not installed from a wheel")
    row("variant", variant["label"] if variant else "none (the plain wheel)")
    for namespace, features in (variant["properties"] if variant else {}).items():
        for feature, values in features.items():
            row("", "{} :: {} :: {}".format(namespace, feature, ", ".join(values)))
    row("llama.cpp", "{} commit {}".format(core.get("llama_cpp_version", "?"), core.get("llama_cpp_commit", "?")))
    row("core", "{} ({})".format(core.get("fingerprint"), core.get("compiler", core.get("error", "?"))))
    row("CPU plugin", "{}: {}".format(facts["cpu"]["plugin"], " ".join(facts["cpu"]["features"])))
    if facts["cpu"]["thread_limit"]:
        row("threads", "at most {thread_limit} compute at once; this machine has {processors} processors".format(**facts["cpu"]))
    if facts["gpu_plugin"]:
        tools = facts["gpu_plugin"].get("toolkit", {})
        told = "; ".join("{}: {}".format(k, (", ".join(v) or "none") if isinstance(v, list) else v) for k, v in tools.items())
        row("GPU plugin", "{} ({})".format(facts["gpu_plugin"].get("name"), told.replace("_", " ")))
    row("libraries", facts["libraries"]["folder"])
    row("Python", facts["python"])
    row("platform", facts["platform"])
    for name, value in facts["environment"].items():
        row("", f"{name}={value}")
    for name in facts["unknown_backends"]:
        row("", f"{_backends.BACKENDS_VARIABLE} names {name!r}, which this wheel does not have")
    print("\nDevices")
    for device in facts["devices"]:
        left_out = device.get("left_out")
        memory = (
            f"left out: {left_out}"
            if left_out
            else "{:.1f} of {:.1f} GiB free".format(device["memory_free"] / 2**30, device["memory_total"] / 2**30)
        )
        print("  {name:<14} {type}, {description}, {memory}".format(memory=memory, **device))
    print("\nPlugins")
    for plugin in facts["plugins"]:
        print("  {name:<20} {state:<8} {0}".format(plugin.get("reason", ""), **plugin).rstrip())


def main() -> int:
    if sys.argv[1:2] == ["doctor"]:  # else by _backends.py, before the import
        from ._doctor import command

        return command.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m llama_cpp",
        description=(__doc__ or "").split("\n")[0],
        epilog="`python -m llama_cpp doctor` tries everything out, from the driver to a token; it works where the import fails.",
    )
    parser.add_argument("--json", action="store_true", help="for tools: one JSON object")
    arguments = parser.parse_args()
    facts = report()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        if arguments.json:
            print(json.dumps(facts, indent=2))
        else:
            _print(facts)
    return _write(text.getvalue())


def _write(text: str) -> int:
    """Write to standard output, and return the exit code. Who reads it may have read enough (`| head -1`), or have no space."""
    try:
        if sys.stdout:  # None where it is closed
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes the rest of it when it ends
        if not isinstance(error, BrokenPipeError):
            print(f"python -m llama_cpp: {error.strerror}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
