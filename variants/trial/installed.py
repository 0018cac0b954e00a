"""Install from a published index, as a user would, and generate text: with uv and with pip, on whatever system this is."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from rich.markup import escape

from ..choice import explain, listing, machine
from ..errors import UsageError, VariantsError, WheelError
from ..terminal import disk, process
from ..terminal.console import console, styled
from ..upstream.source import ROOT
from . import smoke

#: Run in the new environment, in an empty folder. A model of one page, made there: nothing is fetched.
_GENERATE = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import gguf, llama_cpp, tiny
from importlib import metadata
path = tiny.write(pathlib.Path("tiny.gguf"), gguf.GGMLQuantizationType.Q8_0)
model = llama_cpp.Llama(str(path), n_ctx=64, verbose=False)
text = model("a", max_tokens=8, temperature=0)["choices"][0]["text"]
files = metadata.distribution("llama_cpp_python")
variant = files.read_text("variant.json")
print(json.dumps({
    "version": llama_cpp.__version__,
    "label": next(iter(json.loads(variant)["variants"])) if variant else None,
    "wheel": files.read_text("WHEEL"),
    "ours": (pathlib.Path(llama_cpp.__file__).parent / "_backends.py").is_file(),
    "text": text,
}))
"""


def check(url: str, build_dir: Path, version: str | None = None, lists: str | None = None, patience: float = 0) -> None:
    """Install from the index at `url` (the site's address) with each installer, and compare with what `explain` says it offers.

    `version`: None for the newest. `lists`: a file that the index must list. `patience`: seconds to wait until it does, since a
    cache may hold an older page.

    Raises:
        UsageError: the index does not answer, or has no such version or file.
        CommandError: an installer refuses, or nothing can be generated.
        WheelError: another wheel was installed than the index offers to this machine.
    """
    simple = f"{url.rstrip('/')}/simple/"
    offered = _offered(simple, lists, patience)
    log = build_dir / "logs" / "installed.log"
    disk.remove(log)
    for installer in smoke.INSTALLERS:
        choice = explain.choose(offered, machine.detect(), installer, version)
        winner = next((wheel for wheel in offered.wheels if wheel.name == choice.winner), None)
        if winner is None:
            raise WheelError(f"{simple} has nothing that {installer} takes on this machine.", "Build the wheel of this platform.")
        console.print(styled(f"[bold]{installer}[/] is offered {escape(winner.name)}"))
        found = _generated(simple, installer, build_dir, log, version)
        number = re.search(r"(?m)^Build: (\S+)$", str(found["wheel"]))
        got = (found["version"], found["label"], number[1] if number else "", found["ours"])
        wanted = (winner.version, winner.label, "".join(map(str, winner.build)), True)
        if got != wanted:
            raise WheelError(
                f"{installer} installed {got} from {simple}, and is offered {wanted} (version, label, build number, our wheel).",
                f"See {log}, and `nox -s explain -- {simple}`.",
            )
        console.print(f"      it generated {found['text']!a}")


def _offered(simple: str, lists: str | None, patience: float) -> listing.Listing:
    end = time.monotonic() + patience
    while True:
        try:
            offered = listing.read(simple)
            if lists is None or any(wheel.name == lists for wheel in offered.wheels):
                return offered
            error: VariantsError = UsageError(f"{simple} does not list {lists}.", "Was it published? A cache may be old.")
        except VariantsError as failure:
            error = failure
        if time.monotonic() >= end:
            raise error
        console.print(f"      waiting: {error.what}")
        time.sleep(min(20.0, max(0.0, end - time.monotonic())))


def _generated(simple: str, installer: str, build_dir: Path, log: Path, version: str | None) -> dict[str, object]:
    """Install with one command into a new environment, generate there, and say what was installed."""
    environment = build_dir / "installed" / installer
    disk.remove(environment)
    python = smoke.python_of(environment)
    what = f"llama-cpp-python=={version}" if version else "llama-cpp-python"
    env = process.environment()
    commands: list[list[str | Path]]
    if installer == "uv":
        env["UV_PREVIEW_FEATURES"] = "wheel-variants"
        commands = [
            ["uv", "venv", "--python", sys.executable, environment],
            ["uv", "pip", "install", "--refresh", "--python", python, "--index", simple, what],
            ["uv", "pip", "install", "--python", python, "gguf>=0.17"],
        ]
    else:
        extra = ["--only-binary=llama-cpp-python", "--extra-index-url", simple]
        commands = [
            [sys.executable, "-m", "venv", environment],
            [python, "-m", "pip", "install", "--no-cache-dir", *extra, what],
            [python, "-m", "pip", "install", "gguf>=0.17"],
        ]
    for command in commands:
        process.command(command, log=log, env=env, remedy=f"Is {simple} whole, and the package index reachable?")
    folder = environment / "empty"
    folder.mkdir()
    script = folder / "generate.py"
    script.write_text(_GENERATE, encoding="utf-8")
    seen = log.stat().st_size
    generating = [python, script, ROOT / "tests" / "inference"]
    process.command(generating, log=log, cwd=folder, env=process.environment(), remedy="It installs, but does not generate.")
    last = log.read_bytes()[seen:].decode("utf-8", "replace").strip().splitlines()[-1]
    disk.remove(environment)
    found: dict[str, object] = json.loads(last)
    return found
