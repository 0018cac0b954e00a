"""The checks, in the order of the data: machine, GPUs, installation, libraries, devices, tokens."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from typing import Any

from .. import _errors, _hardware
from . import child, install, processor
from .findings import Report
from .screen import Screen

_IMPORT_LIMIT, _TOKENS_LIMIT, _MODEL_LIMIT = 60, 120, 600  # seconds
_SECONDS = os.environ.get("LLAMA_CPP_DOCTOR_SECONDS", "")
_DRIVER_LIMIT = int(_SECONDS) if _SECONDS.isdigit() else 60  # for a driver that is slow (or, in tests, hangs)


_LITTLE = 1 << 30  # bytes free on a GPU
_FITTING = "Install llama-cpp-python again with this Python's own pip, which takes the wheel that fits."


class Patient:
    """What the checks know of each other. `index`: the address in commands. `working`: names of devices that gave tokens.
    `gpu_fails`: a driver or device that the plugin found fails."""

    def __init__(self, report: Report, screen: Screen, index: str, model: str) -> None:
        self.report = report
        self.screen = screen
        self.index = index
        self.model = model
        self.hardware = _hardware.find()
        self.installed = install.read()
        self.facts: dict[str, Any] = {}
        self.working: list[str] = []
        self.works = True  # on the CPU
        self.gpu_fails = False

    @property
    def installer(self) -> str:
        return self.installed.installer if self.installed else "pip"

    def reinstall(self, label: str) -> str:
        return _hardware.command(label, self.installer, self.index)

    def run(self, what: str, task: str, *arguments: str, limit: int, **environment: str) -> child.Outcome:
        waiting = self.screen.waiting(what)
        return child.run(task, *arguments, limit=limit, waiting=waiting, PYTHONFAULTHANDLER="1", **environment)


def examine(patient: Patient) -> None:
    """Run every check that still makes sense after the ones before it."""
    for section, check in (("Machine", machine), ("GPUs", gpus), ("Installation", installation), ("Libraries", libraries)):
        patient.report.section = section
        check(patient)
    if patient.works:
        patient.report.section = "Devices"
        devices(patient)
    if patient.works:
        patient.report.section = "Tokens"
        tokens(patient)


def machine(patient: Patient) -> None:
    report = patient.report
    python = f"{platform.python_implementation()} {platform.python_version()}, {64 if sys.maxsize > 2**32 else 32} bits"
    system = f"{platform.system()} {platform.release()}, {platform.machine()}" + (
        f", {_hardware.libc()}" if _hardware.libc() else ""
    )
    report.ok(f"{system}; {python}")
    report.facts["machine"] = {"system": system, "python": python, "place": patient.hardware.place}
    if patient.hardware.place:
        report.info(f"this process runs in: {patient.hardware.place}")


def gpus(patient: Patient) -> None:
    report, found = patient.report, patient.hardware
    report.facts["hardware"] = {
        "gpus": [gpu._asdict() for gpu in found.gpus],
        "nvidia_driver": found.driver,
        "cuda": found.cuda,
        "libraries": found.libraries,
        "vulkan_drivers": found.vulkan,
        "traps": [trap.name for trap in found.traps],
    }
    for gpu in found.gpus:
        words = [gpu.name]
        words += [f"compute capability {gpu.compute}"] if gpu.compute and gpu.vendor == "NVIDIA" else []
        words += [f"{_gib(gpu.free)} of {_gib(gpu.memory)} free"] if gpu.memory else []
        words += [f"kernel driver {gpu.kernel}"] if gpu.kernel else []
        report.ok(", ".join(words))
        if gpu.memory and 0 < gpu.free < _LITTLE:
            report.info(f"little memory is free on {gpu.name}: another process uses it")
    if not found.gpus:
        report.info("no GPU found")
    if found.driver:
        report.ok(f"NVIDIA's driver {found.driver}" + (f", for CUDA {found.cuda} and older" if found.cuda else ""))
    if found.vulkan:
        report.info("Vulkan drivers: {}".format(", ".join(found.vulkan)))
    vulkan_is_wanted = "vulkan" in (patient.installed.label if patient.installed else "", _hardware.label(found))
    for trap in found.traps:
        minor = trap.name == "hybrid" or (trap.name.startswith("no-vulkan") and not vulkan_is_wanted)
        if minor:
            report.info(f"{trap.what} {trap.helps}")
        else:
            report.warning(trap.what, trap.helps)


def installation(patient: Patient) -> None:
    report, installed, hardware = patient.report, patient.installed, patient.hardware
    if installed is None:
        report.warning(
            "llama_cpp was not installed as a wheel: nothing is known of it", "Install it: `pip install llama-cpp-python`."
        )
        return
    report.facts["installed"] = {
        "version": installed.version, "tags": installed.tags, "label": installed.label, "kind": installed.kind,
        "properties": installed.properties,
        "installer": installed.installer, "source": installed.source,
    }  # fmt: skip
    what = f"llama-cpp-python {installed.version}, wheel `{installed.kind}` for {installed.platform or '?'}"
    report.ok(f"{what}, installed by {installed.installer or 'an unknown program'} {installed.source}")
    misfit = install.misfit(installed.tags)
    if misfit:
        report.error(f"no installer would give this wheel to this Python: {misfit}", _FITTING)
    more = install.doubles()
    if len(set(more)) > 1:
        report.warning(f"it is installed {len(more)} times ({', '.join(more)}): the first folder on the path wins",
                       "Run `pip uninstall llama-cpp-python` until none is left, then install it once.")  # fmt: skip
    _again(patient)
    waiting, began = patient.screen.waiting("compare the installed files with RECORD"), time.monotonic()
    count, wrong = install.damaged(installed, lambda: waiting(time.monotonic() - began, 30))
    if wrong:
        more_text = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        report.error(
            f"the installation is damaged: {wrong[0]}{more_text}", "pip install --force-reinstall --no-deps llama-cpp-python"
        )
    elif count:
        report.ok(f"{count} files are as the wheel had them")
    if hardware.gpus and installed.kind == "cpu":
        label = _hardware.label(hardware)
        helps = patient.reinstall(label) if label else "No wheel for this system uses it."
        report.warning(f"this is the CPU wheel: {hardware.names} stays unused", helps)


def _again(patient: Patient) -> None:
    """Would this wheel be taken again? By the wheel's own metadata; pip and others know no labels."""
    report, installed = patient.report, patient.installed
    assert installed is not None
    asks = f"; `python -m variants explain {patient.index}/simple/` judges every wheel of the index"
    asks = asks if patient.index != "INDEX" else ""
    best = _hardware.label(patient.hardware)
    unmet = install.unmet(installed.properties, patient.hardware)
    on = install.variants_are_on()
    report.facts["again"] = {"unmet": unmet, "suits": best, "uv_wheel_variants": on}
    if unmet:
        report.warning(f"it would not be taken again: the wheel wants {unmet[0]}{asks}", patient.reinstall(best))
    elif installed.label and installed.installer == "uv" and not on:
        report.info(f"it fits this machine. uv would take the plain wheel now: its feature wheel-variants is off{asks}")
    elif installed.label and best.startswith("cuda") and best != installed.label:
        report.info(f"it fits this machine; `{best}` would suit the GPU better{asks}")
    elif installed.label:
        report.ok(f"it fits this machine, and {installed.installer or 'its installer'} would take it again{asks}")
    elif installed.kind != "cpu":
        report.info(f"it has a plain name, so it was asked for: no installer looks whether it fits this machine{asks}")
    elif installed.installer == "uv":
        again = (
            "uv's feature wheel-variants is on: it would choose anew" if on else "uv would take it again (without wheel-variants)"
        )
        report.ok(again + asks)
    else:
        report.ok(f"{installed.installer or 'pip'} would take it again: it knows the plain wheel alone{asks}")


def libraries(patient: Patient) -> None:
    report = patient.report
    outcome = patient.run("import llama_cpp", "imported", limit=_IMPORT_LIMIT)
    if outcome.result is None:
        patient.works = False
        report.error(*_import_failure(patient, outcome))
        return
    report.ok(f"`import llama_cpp` works ({outcome.seconds:.1f} s)")
    if not _is_ours(patient, outcome.result["file"]):
        report.warning("another llama_cpp is imported than the installed one: {}".format(outcome.result["file"]),
                       "Run Python in another folder, and look into PYTHONPATH.")  # fmt: skip
    outcome = patient.run("load the GPU's plugin and list devices", "facts", limit=_DRIVER_LIMIT)
    if outcome.result is None:
        patient.gpu_fails = True
        report.error(f"the GPU's plugin or driver {outcome.died}",
                     "Set LLAMA_CPP_BACKENDS=cpu, which keeps it out, then reinstall or update the GPU's driver.")  # fmt: skip
        outcome = patient.run("list devices without the GPU's plugin", "facts", limit=_DRIVER_LIMIT, LLAMA_CPP_BACKENDS="cpu")
        if outcome.result is None:
            patient.works = False
            report.error(f"without it, too: {outcome.died}")
            return
        os.environ["LLAMA_CPP_BACKENDS"] = "cpu"  # for the children that follow
    patient.facts = outcome.result
    report.facts["report"] = patient.facts
    _cpu(patient)
    _plugins(patient)


def _is_ours(patient: Patient, file: str) -> bool:
    if patient.installed is None or "editable" in patient.installed.source:
        return True
    return os.path.realpath(file).startswith(os.path.realpath(str(patient.installed.distribution.locate_file(""))))


def _import_failure(patient: Patient, outcome: child.Outcome) -> tuple[str, str]:
    """What the import died of, and what helps."""
    module = re.search(r"No module named '(\w+)", outcome.died)
    if module:
        return f"`import llama_cpp` fails: {outcome.died}", f"pip install {module[1].replace('_', '-')}"
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"
    )
    names = sorted(name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if "ggml" in name)
    foreign = next(filter(None, (_errors.foreign(os.path.join(folder, name)) for name in names)), "")
    known = _errors.explained(foreign) or _errors.explained(outcome.died)
    text = outcome.died.partition(f". {known.what}")[0] if known else outcome.died
    reason = f" ({foreign})" if foreign and foreign not in text else ""
    fails = "" if text.startswith(("crashed", "met", "gives", "was")) else "fails: "
    helps = known.line if known else "Install it again: `pip install --force-reinstall llama-cpp-python`."
    package = re.match(r", in (\w+)[/\\]", _whose(outcome))
    if package and package[1] not in ("llama_cpp", "ctypes"):  # NumPy, say
        helps = f"pip install --force-reinstall {package[1]}"
        helps += f" --no-binary {package[1]}" if "instruction" in text else ""
    return f"`import llama_cpp` {fails}{text}{reason}{_whose(outcome)}", helps


def _whose(outcome: child.Outcome) -> str:
    """In whose Python code a crash happened (faulthandler's innermost frame), as ", in numpy/…"."""
    frame = re.search(r"Fatal Python error.*?\n.*?File \"([^\"]+)\"", outcome.log, re.DOTALL)
    if not frame:
        return ""
    folders = [folder for folder in sys.path if folder and frame[1].startswith(folder + os.sep)]
    return ", in {}".format(frame[1][len(max(folders, key=len, default="")) :].lstrip(os.sep))


def _cpu(patient: Patient) -> None:
    report, cpu = patient.report, patient.facts["cpu"]
    report.ok("CPU plugin {}".format(cpu["plugin"]))
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            better, lacking = processor.better(str(cpu["plugin"]), file.read())
    except OSError:
        better, lacking = "", []
    if better:
        report.info(
            f"the next better one, {better}, wants {' '.join(lacking)}, which this processor lacks or its virtual machine hides"
        )
    text, few = processor.threads(cpu["thread_limit"], cpu["processors"])
    (report.info if few else report.ok)(text)


def _plugins(patient: Patient) -> None:
    """The GPU plugin: what became of it, whether it has code for the GPUs, and where its libraries come from."""
    report, facts = patient.report, patient.facts
    for name in facts.get("unknown_backends", []):
        report.warning(f"LLAMA_CPP_BACKENDS names {name}, which this wheel does not have", "Unset LLAMA_CPP_BACKENDS.")
    toolkit = (facts.get("gpu_plugin") or {}).get("toolkit", {})
    for plugin in facts["plugins"]:
        name, reason = plugin["name"], plugin.get("reason", "")
        if name == "cpu" or name.startswith("cpu-"):
            continue
        known = _errors.explained(f"the {name} plugin {reason}")
        if plugin["state"] == "loaded" and plugin.get("devices") != 0:
            report.ok(f"GPU plugin {name}" + (f": {reason}" if reason else ""))
        elif plugin["state"] == "skipped" and patient.gpu_fails:
            report.info(f"GPU plugin {name} is left out from here on")
        elif plugin["state"] == "skipped":
            report.warning(f"GPU plugin {name} is left out: {reason}", "Unset LLAMA_CPP_BACKENDS." if patient.hardware.gpus else "")
        else:
            verb = "was not loaded: " if plugin["state"] == "failed" else ""
            packages = re.search(r"\((pip install [^)]*)\)", reason)
            helps = packages[1] if packages else known.line if known else ""
            patient.gpu_fails = patient.gpu_fails or re.search(r"devices? fails?\b", reason) is not None
            if patient.hardware.gpus or patient.gpu_fails:
                report.warning(f"GPU plugin {name} {verb}{reason}", helps)
            else:
                report.info(f"GPU plugin {name} {verb}{reason}")
    for gpu in patient.hardware.gpus:
        if install.has_code(toolkit, gpu.compute) is False:
            built = ", ".join(toolkit["architectures"])
            report.warning(f"this wheel has no code for {gpu.name} ({gpu.compute}): it was built for {built}",
                           patient.reinstall("vulkan"))  # fmt: skip
        elif install.has_code(toolkit, gpu.compute):
            report.ok(f"the plugin has code for {gpu.name} ({gpu.compute})")
    for path in facts.get("open_libraries", []):
        report.info(f"opened: {path}")


def devices(patient: Patient) -> None:
    report, listed = patient.report, patient.facts["devices"]
    patient.screen.steps = patient.screen.step + 2 * len(listed)
    results = report.facts["devices"] = []
    for index, device in enumerate(listed):
        if device.get("left_out"):
            known = _errors.explained(device["left_out"])
            helps = known.line if known else "Update the GPU's driver."
            report.error("{name}, {description}: left out of the devices that compute: {left_out}".format(**device), helps)
            results.append(
                {"name": device["name"], "type": device["type"], "memory_free": 0, "right": False, "died": device["left_out"]}
            )
            continue
        memory = "{} of {} free".format(_gib(device["memory_free"]), _gib(device["memory_total"]))
        what = "{name}, {description}, {memory}".format(memory=memory, **device)
        outcome = patient.run(f"{device['name']} computes a graph", "graph", str(index), limit=_DRIVER_LIMIT)
        row = {"name": device["name"], "type": device["type"], "memory_free": device["memory_free"], "right": False}
        results.append(row)
        if outcome.result is None:
            cause = _logged(outcome)
            known = _errors.explained(f"{outcome.died} {cause}")
            died = outcome.died.replace("RuntimeError: ", "")
            report.error(f"{what}: {died}{cause}", known.line if known else "Update the GPU's driver.")
        elif not outcome.result["difference"] <= outcome.result["tolerance"]:
            report.error("{}: computes wrongly: {:.1%} off".format(what, outcome.result["difference"]), "Update the GPU's driver.")
        else:
            row["right"] = True
            against = "Python" if device["type"] == "CPU" else "the CPU"
            report.ok("{}: computes as {} does (off by {:.0e})".format(what, against, outcome.result["difference"]))
        row.update(outcome.result or {"died": outcome.died})
        if device["type"] == "CPU" and not row["right"]:
            patient.works = False


def _logged(outcome: child.Outcome) -> str:
    """The error that a backend wrote, in brackets: the first that is known, else the first."""
    lines = [line.strip() for line in outcome.log.splitlines() if re.search(r"(?i)error|fail|no kernel image", line)]
    lines = [line for line in lines if not line.startswith(("File", "raise", "Fatal", "RuntimeError"))]
    chosen = next(filter(_errors.explained, lines), lines[0] if lines else "")
    return f" ({chosen})" if chosen else ""


def tokens(patient: Patient) -> None:
    report = patient.report
    if patient.model:
        _tokens(patient, patient.model, _MODEL_LIMIT)
        return
    import tempfile

    from . import tiny

    folder = tempfile.mkdtemp(prefix="llama-cpp-doctor-")
    try:
        model = tiny.write(os.path.join(folder, "tiny.gguf"))
        report.info("by a tiny model with random weights: it shows that tokens come, not how fast a real one is (--model FILE)")
        _tokens(patient, model, _TOKENS_LIMIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tokens(patient: Patient, model: str, limit: int) -> None:
    report = patient.report
    rows = {row["name"]: row for row in report.facts["devices"]}
    gpus = [row for row in rows.values() if row["type"] == "GPU"] or [
        row for row in rows.values() if row["type"] == "integrated GPU"
    ]
    cpu = [row for row in rows.values() if row["type"] == "CPU"]
    for row in [*cpu, *gpus]:
        number = -1 if row["type"] == "CPU" else gpus.index(row)
        if not row["right"]:
            report.info(f"{row['name']}: not asked")
            continue
        free, size = row["memory_free"], os.path.getsize(model)
        if number >= 0 and free < size:
            report.warning(f"the model ({_gib(size)}) is bigger than the free memory of {row['name']} ({_gib(free)})",
                           "Offload fewer layers: n_gpu_layers=10, and more while it fits.")  # fmt: skip
        outcome = patient.run(f"{row['name']} makes ten tokens", "tokens", str(number), model, limit=limit)
        if outcome.result is None:
            text = outcome.died.replace(model, "MODEL")
            known = _errors.explained(text)
            text = text.partition(f". {known.what}")[0] if known else text
            report.error(f"{row['name']}: {text}{_whose(outcome)}", known.line if known else "")
            if row["type"] == "CPU":
                patient.works = False
                return
            continue
        row.update({key: value for key, value in outcome.result.items() if key != "tokens"})
        patient.working.append(row["name"])
        count = outcome.result["threads"]
        used = f" with {count} thread{'s' if count > 1 else ''}" if number < 0 else ""
        report.ok(
            "{}: ten tokens at {:.0f} a second{}; loaded in {:.1f} s".format(
                row["name"], outcome.result["tokens_per_second"], used, outcome.result["seconds_to_load"]
            )
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
