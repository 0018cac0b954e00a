"""Upstream's metadata for our own build: a scikit-build-core provider that reads PKG-INFO of the vendored sdist, and its
pyproject.toml for scripts, which PKG-INFO has not.

Nothing of it is retyped here, so a new upstream release brings its own dependencies and extras along. Imported by the build
backend alone (``[tool.scikit-build.metadata]``), hence free of this package's other modules.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

TREE = Path(os.environ.get("LLAMA_CPP_UPSTREAM") or Path(__file__).parent.parent.parent / "vendor" / "llama_cpp_python")


def read(tree: Path = TREE) -> Message:
    """PKG-INFO (core metadata) of the unpacked sdist.

    Raises:
        RuntimeError: it has not been fetched.
    """
    try:
        return Parser().parsestr((tree / "PKG-INFO").read_text(encoding="utf-8"))
    except OSError as error:
        raise RuntimeError(f"Upstream's source is not in {tree}. Run `nox -s vendor` first.") from error


def scripts(field: str, tree: Path = TREE) -> dict[str, str]:
    """`scripts` or `gui-scripts` of upstream's own pyproject.toml.

    Raises:
        RuntimeError: upstream has entry points of other groups. Ours are not dynamic (PEP 621: a field is one or the other).
    """
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    if groups := [name for name in project.get("entry-points", {}) if name != "pyinstaller40"]:
        raise RuntimeError(
            f"Upstream has entry points for {', '.join(groups)}. Add them to [project.entry-points] in pyproject.toml."
        )
    return dict(project.get(field, {}))


def dynamic_metadata(field: str, settings: Mapping[str, Any], project: Mapping[str, Any] | None = None) -> Any:
    """The value of one `[project]` field (PEP 621) as upstream has it (scikit-build-core's dynamic metadata interface)."""
    info = read()
    requirements: list[str] = info.get_all("Requires-Dist") or []
    match field:
        case "version":
            return info["Version"]
        case "description":
            return info["Summary"]
        case "readme":
            return {"text": info.get_payload(), "content-type": info["Description-Content-Type"]}
        case "requires-python":
            return info["Requires-Python"]
        case "license":
            return {"text": info["License"]}
        case "authors":
            people = re.findall(r"([^<,]+?)\s*<([^>]+)>", info["Author-Email"] or "")
            return [{"name": name.strip(), "email": address} for name, address in people]
        case "classifiers":
            return info.get_all("Classifier") or []
        case "urls":
            return dict(line.split(", ", 1) for line in info.get_all("Project-URL") or [])
        case "dependencies":
            return [line for line in requirements if "extra ==" not in line]
        case "optional-dependencies":
            extras: dict[str, list[str]] = {name: [] for name in info.get_all("Provides-Extra") or []}
            for line in requirements:
                if match := re.fullmatch(r"(?P<what>.+?);\s*(?P<rest>.*)extra == ['\"](?P<extra>[^'\"]+)['\"]", line):
                    marker = match["rest"].removesuffix(" and ").strip("() ")
                    extras[match["extra"]].append(match["what"] + (f"; {marker}" if marker else ""))
            return extras
        case "scripts" | "gui-scripts":
            return scripts(field)
    raise ValueError(f"upstream's metadata has no field {field!r}")
