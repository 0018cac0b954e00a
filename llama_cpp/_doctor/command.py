"""The command line of the doctor, its verdict and its exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import checks, privacy
from .findings import ERROR, WARNING, Finding, Report
from .screen import Screen

_WORKS, _CPU_ONLY, _BROKEN = 0, 1, 2
_SOFTWARE = ("llvmpipe", "lavapipe", "SwiftShader")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llama_cpp doctor",
        description="From the driver to a token: what works here, what does not, and the command that mends it.",
        epilog="Exit code: 0 it works; 1 on the CPU only, though a GPU is here; 2 it does not work.",
    )
    parser.add_argument("--model", metavar="FILE", default="", help="a GGUF file of yours, instead of a tiny one")
    parser.add_argument(
        "--index", metavar="URL", default="INDEX", help="where the wheel came from, for the commands that are named"
    )
    parser.add_argument("--json", action="store_true", help="for tools: one JSON object")
    asked = parser.parse_args(arguments)
    if asked.model and not os.path.isfile(asked.model):
        parser.error(f"--model: there is no file {asked.model}")
    screen = Screen(silent=asked.json)
    report = Report(screen.tell)
    index = asked.index.rstrip("/")
    index = index[: -len("/simple")] if index.endswith("/simple") else index
    patient = checks.Patient(report, screen, index, os.path.abspath(asked.model) if asked.model else "")
    try:
        checks.examine(patient)
    except KeyboardInterrupt:
        screen.clear()
        print("\nstopped", file=sys.stderr)
        return 130
    code, text, wrong = verdict(patient)
    screen.verdict(code, text, wrong.text if wrong else "", wrong.helps if wrong else "")
    if asked.json:
        found = {
            "verdict": {"code": code, "text": text, "wrong": wrong.text if wrong else "", "helps": wrong.helps if wrong else ""},
            "findings": [finding._asdict() for finding in report.findings],
            "facts": report.facts,
        }
        return _write(json.dumps(privacy.cleaned(found), indent=2) + "\n", code)
    return code


def verdict(patient: checks.Patient) -> tuple[int, str, Finding | None]:
    """Exit code, one sentence, and the first thing wrong."""
    report = patient.report
    if not patient.works:
        return _BROKEN, "It does not work.", next(finding for finding in report.findings if finding.status == ERROR)
    rows = report.facts["devices"]
    others = [row for row in rows if row["type"] not in ("CPU", "accelerator")]
    asked = [row for row in others if row["type"] == "GPU"] or others  # llama.cpp leaves an integrated one beside them alone
    failing = [row["name"] for row in others if not row["right"] or (row in asked and row["name"] not in patient.working)]
    computing = [row["name"] for row in others if row["name"] in patient.working and not _is_software(patient, row)]
    there = patient.hardware.names
    if computing and failing:
        told = "It works: tokens from {}. Not from {}.".format(", ".join(patient.working), ", ".join(failing))
        return _WORKS, told, report.first(ERROR)
    if (there and not computing) or failing or patient.gpu_fails:
        what = there or ", ".join(failing) or "a GPU that the plugin found"
        return _CPU_ONLY, f"It works on the CPU only, though there is {what}.", report.first(ERROR, WARNING)
    no_gpu = "" if there or others else " There is no GPU here." if patient.hardware.libraries else " No NVIDIA GPU is here."
    return _WORKS, "It works: tokens from {}.{}".format(", ".join(patient.working), no_gpu), report.first(ERROR)


def _is_software(patient: checks.Patient, row: dict[str, object]) -> bool:
    described = {device["name"]: device["description"] for device in patient.facts["devices"]}
    return bool(described[row["name"]].startswith(_SOFTWARE))


def _write(text: str, code: int) -> int:
    """Write to standard output; who reads it may have read enough."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
