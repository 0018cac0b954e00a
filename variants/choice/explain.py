"""Which wheel an installer takes on a machine, and why not the others. variantlib's resolver orders the labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from rich.markup import escape
from rich.table import Table
from variantlib.models.variant import VariantDescription, VariantProperty
from variantlib.models.variant_info import VariantInfo
from variantlib.resolver.lib import filter_variants
from variantlib.resolver.sorting import sort_variant_properties, sort_variants_descriptions

from ..errors import UsageError
from ..terminal.console import console, styled
from . import machine as machines
from . import providers
from .listing import Candidate, Listing
from .machine import Machine
from .providers import Unmet

#: `standard` has every provider; `uv` is 0.13 with its preview feature; the others know no labels.
INSTALLERS = {
    "standard": "an installer with every provider (PEP 825)",
    "uv": "uv with the preview feature wheel-variants",
    "uv-off": "uv as it comes",
    "uv-lock": "uv lock, add, sync, export",
    "pip": "pip",
    "poetry": "poetry",
    "pdm": "pdm",
}
KNOW_LABELS = ("standard", "uv")


class Judged(msgspec.Struct, frozen=True):
    """A wheel and what becomes of it. `fits`: the machine could run it and the installer take it. `reason`: why it is not taken
    (for the winner: why it is); `change`: what would change that, or an empty string; `brief`: what its label needs, as in
    :class:`.providers.Unmet`."""

    name: str
    version: str
    label: str | None
    fits: bool
    reason: str
    change: str = ""
    brief: str = ""


class Choice(msgspec.Struct, frozen=True):
    """`winner`: the file name, or None where nothing fits. `ranked`: every wheel looked at, in the order of preference."""

    installer: str
    winner: str | None
    label: str | None
    ranked: list[Judged]
    problem: str = ""

    @property
    def spelled(self) -> str:
        """The winner as the machine table spells it: its label, ``plain`` or ``nothing``."""
        return "nothing" if self.winner is None else self.label or "plain"


def choose(listing: Listing, machine: Machine, installer: str, version: str | None = None) -> Choice:
    """The choice among the wheels of `version`, or of the newest version of which anything fits.

    Order (measured with uv 0.13): version, then label, then tag, then build number; a wheel without a label comes last among the
    labels. Yanked files are left out unless `version` is asked for.

    Raises:
        UsageError: there is no such version.
    """
    versions = listing.versions()
    if version is not None:
        try:
            wanted = [known for known in versions if Version(known) == Version(version)]
        except InvalidVersion as error:
            raise UsageError(f'--version: "{version}" is no version.', "Write it as in --version 0.3.36.") from error
        if not wanted:
            raise UsageError(f"{listing.where} has no version {version}.", f"Versions: {', '.join(versions)}.")
        versions = wanted
    else:
        versions = [v for v in versions if not Version(v).is_prerelease] or versions
    ranked: list[Judged] = []
    for candidate_version in versions:
        choice = _choose(listing, machine, installer, candidate_version, pinned=version is not None)
        ranked += choice.ranked
        if choice.winner or choice.problem:
            return msgspec.structs.replace(choice, ranked=ranked)
    return Choice(installer, None, None, ranked)


def _choose(listing: Listing, machine: Machine, installer: str, version: str, pinned: bool) -> Choice:
    wheels = listing.by_version[version]
    tags = machines.wheel_tags(machine)
    labelled = installer in KNOW_LABELS
    info = listing.variants.get(version)
    if labelled and version in listing.problems:
        problem = listing.problems[version]
        what = f"{'installers stop here' if problem.fatal else 'installers pass over this version'}: {problem.text}"
        refused = [Judged(wheel.name, version, wheel.label, False, what, "a repaired index") for wheel in wheels]
        return Choice(installer, None, None, refused, what if problem.fatal else "")
    order = labels(info, machine, installer) if info and labelled else []
    rows: list[tuple[tuple[object, ...], Judged]] = []
    for wheel in wheels:
        reason, change, brief = _obstacle(wheel, machine, tags, info, installer, order, pinned)
        tag = min((tags[tag] for tag in wheel.tags if tag in tags), default=len(tags))
        rank = order.index(wheel.label) if wheel.label in order else len(order) + bool(wheel.label)
        build = tuple(-part if isinstance(part, int) else part for part in wheel.build) or (1,)
        judged = Judged(wheel.name, version, wheel.label, not reason, reason, change, brief)
        rows.append(((bool(reason), rank, tag, build, wheel.name), judged))
    ranked = [judged for _, judged in sorted(rows, key=lambda row: row[0])]
    fitting = [judged for judged in ranked if judged.fits]
    if not fitting:
        return Choice(installer, None, None, ranked)
    winner = fitting[0]
    why = _why(winner, info)
    ranked = [
        judged if not judged.fits
        else msgspec.structs.replace(judged, reason=why) if judged is winner
        else msgspec.structs.replace(judged, reason=_behind(judged, winner))
        for judged in ranked
    ]  # fmt: skip
    return Choice(installer, winner.name, winner.label, ranked)


def labels(info: VariantInfo, machine: Machine, installer: str) -> list[str | None]:
    """The labels that fit, best first, by variantlib's resolver; None, the wheel without a label, comes last."""
    supported, features = seen(info, machine, installer)
    # The steps of variantlib's sort_and_filter_supported_variants, less the one that looks at the packages of *this* environment.
    fitting = list(filter_variants([*info.variants.values(), VariantDescription()], supported))
    priorities = sort_variant_properties(
        supported, namespace_priorities=list(info.namespace_priorities), feature_priorities=features, property_priorities=None
    )
    ordered = sort_variants_descriptions(fitting, property_priorities=priorities)
    return [None if not description.properties else _label_of(info, description) for description in ordered]


def seen(info: VariantInfo, machine: Machine, installer: str) -> tuple[list[VariantProperty], dict[str, list[str]]]:
    """What labels can see of a machine: the properties among theirs that it supports, and each namespace's features, best first."""
    supported: list[VariantProperty] = []
    features: dict[str, list[str]] = {}
    asked = {(p.namespace, p.feature, p.value): p for variant in info.variants.values() for p in variant.properties}
    for namespace in info.namespace_priorities:
        provider = info.providers[namespace]
        if installer == "uv" and providers.uv_lacks(namespace, provider):
            continue
        answer = providers.supported(namespace, provider, machine) or {}
        features[namespace] = list(answer)
        named = ((namespace, feature, value) for feature, values in answer.items() for value in values)
        supported += [asked[name] for name in named if name in asked]  # no label has the others: a hundred versions of CUDA
    return supported, features


def _label_of(info: VariantInfo, description: VariantDescription) -> str:
    return next(str(label) for label, other in info.variants.items() if other == description)


def _obstacle(
    wheel: Candidate,
    machine: Machine,
    tags: dict[str, int],
    info: VariantInfo | None,
    installer: str,
    order: Sequence[str | None],
    pinned: bool,
) -> Unmet:
    """Why the wheel cannot be taken, and what would change it; empty strings where it can."""
    if wheel.yanked and not pinned:
        return Unmet("yanked", f"asking for {wheel.version} by name")
    if wheel.requires_python and not _admits(wheel.requires_python, machine.python):
        return Unmet(f"needs Python {wheel.requires_python}, found {machine.python}", "another Python")
    if not any(tag in tags for tag in wheel.tags):
        platforms = ", ".join(sorted({tag.rsplit("-", 1)[1] for tag in wheel.tags}))
        return Unmet(f"is for {platforms}, not for {machine.platform}", "another machine")
    if wheel.label is None:
        return Unmet("", "")
    if installer not in KNOW_LABELS:
        return Unmet(
            f"{installer} does not know labelled wheels",
            "uv with UV_PREVIEW_FEATURES=wheel-variants, or the index of one backend",
        )
    if info is None:
        return Unmet(
            "the index has no *-variants.json for this version, so its label means nothing", "an index made by `nox -s index`"
        )
    description = info.variants.get(wheel.label)
    if description is None:
        return Unmet(f"the index's *-variants.json has no label {wheel.label}", "an index made again by `nox -s index`")
    if wheel.label in order:
        return Unmet("", "")
    return unmet(info, description, machine, installer)


def unmet(info: VariantInfo, description: VariantDescription, machine: Machine, installer: str) -> Unmet:
    """The first feature of which no value is supported. Values of one feature are alternatives, features add up (PEP 825)."""
    for namespace in info.namespace_priorities:
        wanted: dict[str, list[str]] = {}
        for item in description.properties:
            if item.namespace == namespace:
                wanted.setdefault(item.feature, []).append(item.value)
        if not wanted:
            continue
        provider = info.providers[namespace]
        if installer == "uv" and (lacks := providers.uv_lacks(namespace, provider)):
            return Unmet(lacks, "the index of that backend (backends/LABEL/simple/)")
        answer = providers.supported(namespace, provider, machine)
        if answer is None:
            return Unmet(f"no provider is known for {namespace}", "an installer that runs provider plugins")
        order = sorted(wanted, key=lambda feature: list(answer).index(feature) if feature in answer else -1)
        for feature in order:
            if not set(wanted[feature]) & set(answer.get(feature, [])):
                return providers.unmet(namespace, feature, wanted[feature], machine, provider)
    return Unmet("its properties do not fit", "")


def _why(winner: Judged, info: VariantInfo | None) -> str:
    if winner.label is None:
        return "the wheel without a label: it runs everywhere, and nothing that is ordered before it fits"
    assert info is not None
    namespaces = list(dict.fromkeys(item.namespace for item in info.variants[winner.label].properties))
    return f"fits, and comes first in the order {', '.join(info.namespace_priorities)} (by {', '.join(namespaces)})"


def _behind(judged: Judged, winner: Judged) -> str:
    if judged.label == winner.label:
        return f"would fit; {winner.name} has the better tag or the higher build number"
    return f"would fit; {winner.label or 'the wheel without a label'} is ordered before it"


@functools.cache
def _admits(specifier: str, python: str) -> bool:
    try:
        allowed = SpecifierSet(specifier if len(specifier) < 1000 else "none")
        return Version(python) in allowed or Version(f"{python}.999") in allowed
    except ValueError:  # InvalidSpecifier, and a number of 5,000 digits
        return True


class Explanation(msgspec.Struct, frozen=True):
    """The whole answer: the machine, the choice that was asked for, and what every installer would take, by its name."""

    machine: Machine
    where: str
    choice: Choice
    others: dict[str, str | None]
    differences: list[str]


def explain(listing: Listing, machine: Machine, installer: str, version: str | None = None) -> Explanation:
    """The choice of `installer` (of :data:`INSTALLERS`), and in words where others differ."""
    choices = {name: choose(listing, machine, name, version) for name in INSTALLERS}
    differences = []
    if choices["uv"].winner != choices["standard"].winner:
        lost = next((judged for judged in choices["uv"].ranked if judged.name == choices["standard"].winner), None)
        why = lost.reason if lost else choices["uv"].problem
        differences.append(f"uv 0.13 takes {choices['uv'].winner or 'nothing'} instead: {why}")
    if choices["uv-off"].winner != choices["uv"].winner:
        state = "" if machine.preview else ", and it is off here"
        differences.append(f"without UV_PREVIEW_FEATURES=wheel-variants{state}, uv takes {choices['uv-off'].winner or 'nothing'}")
    if choices["pip"].winner != choices["standard"].winner:
        differences.append(f"pip, poetry, pdm and `uv lock` know no labels and take {choices['pip'].winner or 'nothing'}")
    return Explanation(
        machine, listing.where, choices[installer], {name: choice.winner for name, choice in choices.items()}, differences
    )


def show(answer: Explanation, everything: bool) -> None:
    """Print it: the machine, the winner, the losers with reason and remedy. Wheels of other platforms only with `everything`."""
    console.print(styled("[bold]machine[/]    "), answer.machine.describe(), sep="")
    for note in answer.machine.notes:
        console.print(f"           {note}", style="dim")
    console.print(styled("[bold]index[/]      "), answer.where, sep="")
    console.print(styled(f"[bold]installer[/]  {INSTALLERS[answer.choice.installer]}\n"))
    if answer.choice.winner is None:
        console.print(styled("[bold red]nothing fits[/]"), f": {answer.choice.problem}" if answer.choice.problem else "", sep="")
    elsewhere = 0
    table = Table.grid(padding=(0, 2))
    for judged in answer.choice.ranked:
        won = judged.name == answer.choice.winner
        if not judged.fits and judged.change == "another machine" and not everything:
            elsewhere += 1
            continue
        mark = styled("[bold green]✓[/]" if won else "[dim]·[/]" if judged.fits else "[red]✗[/]")
        label = judged.label or "(no label)"
        reason = styled(escape(judged.reason) + (f" [dim]→ {escape(judged.change)}[/]" if judged.change else ""))
        table.add_row(mark, styled(f"[bold]{escape(label)}[/]") if won else label, judged.version, reason)
    console.print(table, width=None if console.is_terminal else 160)
    if elsewhere:
        console.print(f"  and {elsewhere} for other platforms (--all shows them)", style="dim")
    if answer.choice.winner:
        console.print(styled("\n[bold]takes[/]      "), answer.choice.winner, sep="")
    for line in answer.differences:
        console.print(styled("[bold]but[/]        "), line, sep="")
