"""The commands by which each installer takes a wheel of the index, and what each of them means for the next machine."""

from __future__ import annotations

import msgspec


class Way(msgspec.Struct, frozen=True):
    """One kind of installing. `installer`, `place`: what a person chooses. `commands`: by what is to be taken: ``variants`` (the
    installer chooses by itself), ``plain``, ``label`` (of that label's own index); with ``{url}`` of the site, ``{label}``,
    ``{project}``, and ``{pin}``: nothing, or ``==`` and a version. `notes`: what goes with each."""

    installer: str
    place: str
    commands: dict[str, str]
    notes: dict[str, str]

    def command(self, url: str, project: str, kind: str, version: str | None = None) -> str:
        """The command for ``variants``, ``plain`` or a label."""
        template = self.commands.get(kind) or self.commands["label"]
        return template.format(url=url, project=project, pin="" if version is None else f"=={version}", label=kind)


def _way(installer: str, place: str, command: str, note: str, variants: str = "") -> Way:
    """`command` with ``{index}``; what goes with it where it names a label's index."""
    commands = {
        "plain": command.replace("{index}", "{url}simple/"),
        "label": command.replace("{index}", "{url}backends/{label}/simple/"),
    }
    notes = {"label": note}
    if variants:
        own = next(program for program in ("uv pip install", "uvx") if command.startswith(program))
        commands["variants"] = commands["plain"].replace(own, f"{own} --preview-features wheel-variants")
        notes["variants"] = variants
    return Way(installer, place, commands, notes)


ENVIRONMENT, PROJECT, NOTHING = "an environment", "a project", "nothing: serve a model"
_SERVER = "It serves the model in FILE, by OpenAI's protocol, at http://localhost:8000/v1."
_LOCKED = "{installer} knows no labels: the lock file names {label} for everyone who works on the project."
#: By installer and place. Each was run against such an index (tests/installers/test_ways.py).
WAYS = (
    _way(
        "uv",
        ENVIRONMENT,
        "uv pip install --index {index} {project}{pin}",
        "That index has {label} alone: on every machine, this command takes it.",
        "uv finds out by itself, so the same command is right on every machine. It needs uv 0.13.6 or newer: older ones see no "
        "NVIDIA GPU.",
    ),
    _way(
        "uv",
        PROJECT,
        "uv add --index llama={index} {project}{pin}",
        "uv.lock knows no labels yet: it names {label} for everyone who works on the project.",
    ),
    _way(
        "uv",
        NOTHING,
        'uvx --index {index} --from "{project}[server]{pin}" python -m llama_cpp.server --model FILE',
        f"{_SERVER} That index has {{label}} alone: on every machine, this command takes it.",
        f"{_SERVER} uv finds out by itself what fits, on each run. It needs uv 0.13.6 or newer.",
    ),
    _way(
        "pip",
        ENVIRONMENT,
        "pip install --extra-index-url {index} --only-binary={project} {project}{pin}",
        "pip does not look at the GPU: on every machine, this command takes {label}.",
    ),
    _way(
        "Poetry",
        PROJECT,
        "poetry source add --priority explicit llama {index}\npoetry add --source llama {project}{pin}",
        _LOCKED.replace("{installer}", "Poetry"),
    ),
    _way(
        "PDM",
        PROJECT,
        "pdm config --local pypi.llama.url {index}\npdm add {project}{pin}",
        _LOCKED.replace("{installer}", "PDM"),
    ),
)
