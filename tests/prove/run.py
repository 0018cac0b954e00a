"""Try wheels on a machine with a GPU that has Python and nothing else, and no network. Part of what `nox -s prove` packs.

    python3 run.py [--out FOLDER] [--minutes 8]

Installs the packed wheels, runs the tests on the real device, measures the speed in paired rounds as long as there is time, and
writes FOLDER/results.json after every step, and FOLDER/log.txt. Ends with a table. Python 3.8 or newer, Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE / "tests" / "inference"
RESERVE = 15.0  # seconds kept for the end
LAYERS = 12  # of the benchmark's models, about


class Trial:
    """What is tried: `manifest` says which wheels; `facts` is what will be written."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.end = out, time.monotonic() + seconds
        self.manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        self.facts: dict[str, Any] = {"manifest": self.manifest, "machine": machine(), "steps": []}
        out.mkdir(parents=True, exist_ok=True)
        (out / "log.txt").write_text("", encoding="utf-8")

    def left(self) -> float:
        return self.end - time.monotonic()

    def save(self) -> None:
        """Written beside, then renamed: a machine that is taken away leaves whole files."""
        part = self.out / "results.json.part"
        part.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        part.replace(self.out / "results.json")

    def run(self, what: str, command: list[str], limit: float, **environment: str) -> tuple[int, str]:
        """Run a command with its output in the log: its exit code (-1 after `limit` seconds), and its output."""
        begin = time.monotonic()
        limit = max(1.0, min(limit, self.left() - RESERVE))
        print(f"{what} …", flush=True)
        with subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd=str(self.out), start_new_session=True,
        ) as running:  # fmt: skip
            try:
                text = running.communicate(timeout=limit)[0].decode("utf-8", "replace")
                code = running.returncode
            except subprocess.TimeoutExpired:
                end(running)
                code, text = -1, running.communicate()[0].decode("utf-8", "replace") + f"\nstopped after {limit:.0f} s\n"
            except BaseException:
                end(running)
                raise
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"== {what}\n+ {' '.join(command)}\n{text}\n")
        row = {"what": what, "code": code, "seconds": round(time.monotonic() - begin, 1), "last": last(text)}
        self.facts["steps"].append(row)
        self.save()
        print(f"    {'ok' if code == 0 else f'exit code {code}'}, {row['seconds']} s: {row['last']}", flush=True)
        return code, text


def end(running: subprocess.Popen[bytes]) -> None:
    """End a command and everything it started: what goes on computing would be measured with the next one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def stopped(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def last(text: str) -> str:
    lines = [line.strip("= ") for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        model = next((x.split(": ")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "libc": "-".join(platform.libc_ver()),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def installed(trial: Trial, name: str, wheels: list[str]) -> str | None:
    """Install a wheel and its packed needs into a new environment; the Python there, or None where it does not install."""
    folder = trial.out / "environments" / name.replace(" ", "-")
    python = str(folder / "bin" / "python")
    shutil.rmtree(folder, ignore_errors=True)
    code, _ = trial.run(f"environment for {name}", [sys.executable, "-m", "venv", "--without-pip", str(folder)], 60.0)
    if code:
        return None
    files = [str(HERE / wheel) for wheel in wheels] + [str(path) for path in sorted((HERE / "needs").glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    code, _ = trial.run(f"install {name}", [*command, *files], 120.0, PIP_ROOT_USER_ACTION="ignore")
    return None if code else python


def tests(trial: Trial, name: str, entry: dict[str, Any], python: str, drivers: Path) -> None:
    """The tests on the device, then those on the CPU; what passed, and what the report says of the devices.

    drivers: where the drivers that fail on command lie.
    """
    places = {"{drivers}": str(drivers), "{here}": str(HERE)}
    more: dict[str, str] = {}
    for key, value in entry["environment"].items():
        for word, place in places.items():
            value = value.replace(word, place)
        more[key] = value
    run: dict[str, Any] = {"sha256": entry["sha256"], "name": entry["name"], "tests": {}}
    code, text = trial.run(f"{name}: report", [python, "-m", "llama_cpp", "--json"], 60.0)
    if code == 0 and "{" in text:
        run["report"] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    trial.facts.setdefault("wheels", {})[name] = run
    trial.run(f"{name}: doctor", [python, "-m", "llama_cpp", "doctor"], 90.0)
    for files, limit, settings in ((entry["device_tests"], 240.0, more), (["test_inference.py"], 90.0, {})):
        quiet = ["-c", os.devnull, "--rootdir", str(trial.out), "-p", "no:cacheprovider", "-ra", "-q"]
        command = [python, "-m", "pytest", *quiet, *(str(TESTS / file) for file in files)]
        code, text = trial.run(f"{name}: {', '.join(files)}", command, limit, **settings)
        counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped|failed|error)", last(text))}
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR "))]
        run["tests"][", ".join(files)] = {"code": code, **counts, "failures": failed[:40]}
        trial.save()


def measured(trial: Trial, contenders: dict[str, str], models: list[Path]) -> None:
    """Paired rounds until the time is over: every model with all layers on the device and with half of them."""
    results: dict[str, dict[str, list[float | None]]] = {name: {} for name in contenders}
    trial.facts.update(results=results, rounds=0)
    threads, generate = min(8, os.cpu_count() or 1), 128
    prompts = ",".join(map(str, trial.manifest["prompts"]))
    longest = 30.0
    while trial.left() - RESERVE > longest:
        begin = time.monotonic()
        chance = random.Random(trial.facts["rounds"])
        cases = [(model, layers) for model in models for layers in (-1, LAYERS // 2)]
        for model, layers in chance.sample(cases, len(cases)):
            what = f"{model.stem}, {'all layers' if layers == -1 else f'{layers} layers'}"
            for name in chance.sample(list(contenders), len(contenders)):
                given = [str(model), str(threads), str(layers), prompts, str(generate)]
                command = [contenders[name], str(HERE / "tests" / "bench" / "measure.py"), "speed", *given]
                code, text = trial.run(f"round {trial.facts['rounds'] + 1}: {name}, {what}", command, 90.0)
                values: dict[str, float] = json.loads(text.splitlines()[-1]) if code == 0 else {}
                known = [key for key in results[name] if key.endswith(f", {what}")]
                for key in {*known, *(f"{key}, {what}" for key in values)}:
                    row = results[name].setdefault(key, [None] * trial.facts["rounds"])
                    row.append(values.get(key[: -len(what) - 2]))
        trial.facts["rounds"] += 1
        trial.save()
        longest = max(longest, time.monotonic() - begin)


def table(trial: Trial) -> str:
    """What was found, as Markdown."""
    lines = [f"{trial.facts['machine']['cpu']}; {trial.facts.get('gpu', 'no nvidia-smi')}", ""]
    for name, run in trial.facts.get("wheels", {}).items():
        for files, counts in run["tests"].items():
            words = ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "error", "skipped") if counts.get(word))
            lines.append(f"- {name}, {files}: {words or 'did not run to its end'}")
            lines += [f"    - {failure}" for failure in counts["failures"]]
    results = trial.facts.get("results", {})
    if results and trial.facts.get("rounds"):
        names = list(results)
        lines += ["", "| | " + " | ".join([*names, *(f"{names[0]} / {name}" for name in names[1:])]) + " |"]
        lines.append("|---|" + "---|" * (2 * len(names) - 1))
        for key in results[names[0]]:
            if "a token" in key:
                continue
            rows = [results[name].get(key, []) for name in names]
            cells = [f"{statistics.median([x for x in row if x]):.1f}" if any(row) else "" for row in rows]
            for row in rows[1:]:
                pairs = [a / b for a, b in zip(rows[0], row) if a and b]
                cells.append(f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})" if pairs else "")
            lines.append(f"| {key} | " + " | ".join(cells) + " |")
        lines.append(f"\n{trial.facts['rounds']} rounds")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("prove-results"), help="where the results go (default: prove-results)")
    parser.add_argument("--minutes", type=float, default=8.0, help="end after so long (default: 8)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stopped)
    trial = Trial(options.out.resolve(), options.minutes * 60)
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader"]
        trial.facts["gpu"] = trial.run("nvidia-smi", query, 30.0)[1].strip()
    contenders: dict[str, str] = {}
    for name, entry in trial.manifest["wheels"].items():
        python = installed(trial, name, [entry["file"]])
        if python is not None:
            contenders[name] = python
    models = []
    for size in trial.manifest["sizes"]:
        model = trial.out / f"random-{size}-Q4_K.gguf"
        making = [str(HERE / "tests" / "bench" / "make_model.py"), str(model), size, "Q4_K"]
        if contenders and not model.exists():
            trial.run(f"make {model.name}", [next(iter(contenders.values())), *making], 120.0)
        models += [model] if model.exists() else []
    with tempfile.TemporaryDirectory() as folder:  # LD_PRELOAD takes no path with a space in it
        drivers = Path(folder) / "drivers"
        if (HERE / "drivers").is_dir():
            shutil.copytree(str(HERE / "drivers"), str(drivers))
        for name, python in contenders.items():
            if trial.manifest["wheels"][name]["device_tests"]:
                tests(trial, name, trial.manifest["wheels"][name], python, drivers)
    if contenders and models:
        measured(trial, contenders, models)
    trial.save()
    text = table(trial)
    (trial.out / "table.md").write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(trial.out / "environments", ignore_errors=True)
    for model in models:
        model.unlink()
    print(f"\n{text}\n\nEverything: {trial.out}/results.json; bring it back: nox -s prove -- --read results.json", flush=True)
    runs = [counts for run in trial.facts.get("wheels", {}).values() for counts in run["tests"].values()]
    return 0 if runs and all(counts["code"] == 0 for counts in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
