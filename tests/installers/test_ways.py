"""Each command of the front page, run as it stands there by the installer that it is for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.installers.tools import UV, run, tool, which
from variants.index.ways import NOTHING, WAYS, Way

Offer = tuple[Path, str]
PYPROJECT = '[project]\nname = "try-it"\nversion = "1"\nrequires-python = ">=3.11,<4"\ndependencies = []\n'
ALONE = "\n[tool.poetry]\npackage-mode = false\n\n[tool.pdm]\ndistribution = false\n"


@pytest.mark.parametrize("kind", ["variants", "plain", "vulkan"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.installer}, {way.place}")
def test_command(way: Way, kind: str, offer: Offer, tmp_path: Path) -> None:
    """It takes what it is for, on a machine without a GPU."""
    if kind == "variants" and kind not in way.commands:
        pytest.skip(f"{way.installer} knows no labels there")
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT + ALONE)
    python = project / ".venv" / "bin" / "python"
    # What stands in for the package index, from which the commands take everything else.
    rest = f"{offer[1]}simple/"
    env = {"UV_DEFAULT_INDEX": rest, "PIP_INDEX_URL": rest, "PDM_PYPI_URL": rest, "UV_NO_CONFIG": "0", "UV_PYTHON": sys.executable}
    programs: dict[str, list[str | Path]] = {"uv": [UV], "pip": [python, "-m", "pip"]}
    if way.installer == "pip":
        run([sys.executable, "-m", "venv", python.parent.parent], tmp_path)
    elif way.commands["plain"].startswith("uv pip"):
        run([UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent], tmp_path)
        del env["UV_PYTHON"]
    elif way.installer == "Poetry":
        programs["poetry"] = [tool("poetry")]
        run([tool("poetry"), "env", "use", sys.executable], tmp_path, project)
    elif way.installer == "PDM":
        programs["pdm"] = [tool("pdm")]
        run([tool("pdm"), "use", "--first", Path(sys.base_prefix) / "bin" / "python3"], tmp_path, project)
    lines = [shlex.split(line) for line in way.command(offer[1], "llama-cpp-python", kind).splitlines()]
    if way.place == NOTHING:  # these wheels have no server: the same command up to it prints where the environment is
        ((program, *words),) = lines
        script = "import sys; print('in', sys.executable)"
        done = run([UV, "tool", "run", *words[: words.index("-m")], "-c", script], tmp_path, project, env=env)
        assert program == "uvx"
        python = Path(done.stdout.split("in ")[-1].strip())
        lines = []
    for program, *words in lines:
        run([*programs[program], *words], tmp_path, project, env=env)
    assert which(python) == {"plain": "plain"}.get(kind, "vulkan")
