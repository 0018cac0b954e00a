"""What a person can say of a machine (``questions.toml``), and the wheel that each such machine gets, by `explain`. The front page
of an index looks these answers up."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace
from variantlib.models.variant import VariantProperty
from variantlib.models.variant_info import VariantInfo

from . import explain
from .explain import Choice
from .listing import Listing
from .machine import Machine, checked

#: How a machine is known where nothing is said of its GPU's model or of its driver.
UNKNOWN = "I don't know"
#: The makers that stand for no maker.
NO_GPU, ANY_GPU = "No GPU", UNKNOWN
_NO_DRIVER = "There is no driver"
#: Installers that know no labels, all of which choose alike (tests/installers/test_machines.py).
_BLIND = "pip"


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A system by its `name` for people; `platform` as in :class:`.machine.Machine`; `words`: how browsers name it."""

    name: str
    platform: str
    words: list[str] = []


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GPUs that are alike: compute capability `sm` of NVIDIA's, `gfx` of AMD's; `words`: how browsers name one."""

    name: str
    sm: str | None = None
    gfx: str | None = None
    words: list[str] = []


class Maker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A maker of GPUs. `namespace`: its provider's. `ask`: what is asked besides the model, with a `hint` where to see it:
    `drivers`, newest first, by the newest CUDA that each runs; or whether something is there that the provider cannot see
    (`enables`)."""

    name: str
    words: list[str] = []
    namespace: str | None = None
    ask: str | None = None
    hint: str = ""
    drivers: list[str] = []
    enables: str | None = None
    model: list[Model] = []


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is asked."""

    system: list[System]
    maker: list[Maker]


class Outcome(msgspec.Struct, frozen=True):
    """The answer to all questions. `label`: that of the right wheel, ``plain`` or ``nothing``. `uv`: where `uv pip install` gets
    it: ``variants`` (it chooses by itself), ``plain`` or a label (from that backend's index). `other`: the same for installers that
    know no labels. `why`: one sentence, with ``{driver}`` for what was answered; `hint`: what would change it. `asks`: uv finds out
    by itself what was not answered, and may take another wheel."""

    label: str
    uv: str
    other: str
    why: str
    asks: bool = False
    hint: str = ""


class Asked(msgspec.Struct, frozen=True):
    """A maker and what is asked about its GPUs: `models` and `states` by name, of which a page shows one each."""

    maker: Maker
    models: list[str]
    states: list[str]


class Answers(msgspec.Struct, frozen=True):
    """`grids`: for each system, for each of `makers`, for each model, for each state the number of one of `outcomes`. `order`: the
    labels, the most wanted first."""

    systems: list[System]
    makers: list[Asked]
    outcomes: list[Outcome]
    grids: list[list[list[list[int]]]]
    order: list[str]


@functools.cache
def questions(file: Path = Path(__file__).parent / "questions.toml") -> Questions:
    """What is asked."""
    return msgspec.toml.decode(file.read_bytes(), type=Questions)


def answers(listing: Listing, version: str, asked: Questions | None = None) -> Answers:
    """The answers for the wheels of one version."""
    asked = asked or questions()
    others = [Maker(NO_GPU), Maker(ANY_GPU)]
    info = listing.variants.get(version)
    makers = [_asked(maker, info) for maker in (*asked.maker, *others)]
    judge = _Judge(listing, version)
    outcomes: dict[Outcome, int] = {}
    grids = [
        [
            [[outcomes.setdefault(outcome, len(outcomes)) for outcome in row] for row in _rows(judge, system, maker)]
            for maker in makers
        ]
        for system in asked.system
    ]
    return Answers(asked.system, makers, list(outcomes), grids, judge.order)


def _asked(maker: Maker, info: VariantInfo | None) -> Asked:
    """The maker's drivers are completed by those that a label has as its bound: between two of them nothing changes."""
    properties = [item for variant in info.variants.values() for item in variant.properties] if info else []
    found = {item.value for item in properties if item.namespace == maker.namespace and item.feature.endswith("bound")}
    drivers = {*maker.drivers, *(value if "." in value else f"{value}.0" for value in found)} if maker.drivers else set()
    ordered = sorted(drivers, key=_natural, reverse=True)
    maker = replace(maker, drivers=ordered)
    states = [UNKNOWN]
    if ordered:
        states += [_NO_DRIVER, f"{ordered[0]} or newer", *ordered[1:-1], f"{ordered[-1]} or older"]
    elif maker.enables:
        states += [maker.enables]
    return Asked(maker, [UNKNOWN, *(model.name for model in maker.model)] if maker.model else [""], states)


class _Judge:
    """Asks `explain`, once for all machines between which no label can tell."""

    def __init__(self, listing: Listing, version: str) -> None:
        wheels = [wheel for wheel in listing.wheels if wheel.version == version]
        self.listing, self.version = replace(listing, wheels=wheels), version
        self.info = listing.variants.get(version)
        self.order = _preference(self.info) if self.info else []
        self._told: dict[object, object] = {}
        self._known: dict[object, Choice] = {}
        self._alike: dict[tuple[str, ...], list[str]] = {}

    def choice(self, machine: Machine, installer: str) -> Choice:
        """What the installer takes there."""
        key = installer, machine.platform, self._hardware(machine) if installer in explain.KNOW_LABELS else None
        if key not in self._known:
            self._known[key] = explain.choose(self.listing, machine, installer, self.version)
        return self._known[key]

    def alike(self, drivers: Sequence[str]) -> list[str]:
        """For each driver the first one that labels cannot tell from it."""
        key = tuple(drivers)
        if key not in self._alike:
            first: dict[object, str] = {}
            told = [self._supported(Machine(driver=driver)) for driver in drivers]
            self._alike[key] = [first.setdefault(supported, driver) for supported, driver in zip(told, drivers, strict=True)]
        return self._alike[key]

    def _supported(self, machine: Machine) -> frozenset[VariantProperty]:
        return frozenset(explain.seen(self.info, machine, "standard")[0]) if self.info else frozenset()

    def _hardware(self, machine: Machine) -> object:
        """All that labels tell of it: which fit, in which order, and what the others need."""
        if self.info is None:
            return None
        facts = machine.driver, machine.sm, machine.gfx, machine.optional
        if facts not in self._told:
            same = self._supported(machine), machine.driver is None, not machine.sm, not machine.gfx, machine.optional
            if same not in self._told:
                fitting = explain.labels(self.info, machine, "standard")
                rest = [variant for label, variant in self.info.variants.items() if label not in fitting]
                briefs = [explain.unmet(self.info, variant, machine, "standard").brief for variant in rest]
                self._told[same] = tuple(fitting), tuple(briefs)
            self._told[facts] = self._told[same]
        return self._told[facts]

    def labelled(self, machine: Machine) -> list[str]:
        """The labels that have a wheel for its platform."""
        ranked = self.choice(machine, "standard").ranked
        return [judged.label for judged in ranked if judged.label and judged.change != "another machine"]

    def of(self, maker: Maker) -> list[str]:
        """The labels with properties of the maker's namespace, the most wanted first."""
        variants = self.info.variants if self.info else {}
        return [label for label in self.order if any(item.namespace == maker.namespace for item in variants[label].properties)]


def _preference(info: VariantInfo) -> list[str]:
    """Every label, in the order in which a machine that all of them fit would have them."""
    spaces = list(info.namespace_priorities)

    def key(label: str) -> list[tuple[int, list[int]]]:
        found = info.variants[label].properties
        bounds = {item.namespace: _natural(item.value) for item in found if item.feature.endswith("lower_bound")}
        return sorted((spaces.index(item.namespace), [-part for part in bounds.get(item.namespace, [])]) for item in found)

    return sorted(info.variants, key=key)


def _natural(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]


def _rows(judge: _Judge, system: System, asked: Asked) -> list[list[Outcome]]:
    """For each model, the outcome of each state."""
    base = checked(Machine(system.platform))
    maker = asked.maker
    if not judge.labelled(base):
        nothing = judge.choice(base, "standard").winner is None
        why = (
            f"No wheel of this version is for {system.name}."
            if nothing
            else f"There is one wheel for {system.name}, for every installer."
        )
        return [[_outcome(judge, base, why)] * len(asked.states)] * len(asked.models)
    if maker.name == NO_GPU:
        why = "Without a GPU every wheel computes on the processor, so: the one that the installer takes by itself."
        return [[_outcome(judge, base, why, by_itself=True)]]
    if maker.name == ANY_GPU:
        return [[_outcome(judge, base, f"Which wheel is best depends on the GPU, {_safely(judge, base)}", asks=True)]]
    if not maker.model:
        return [[_outcome(judge, base, f"No wheel is for {maker.name}'s GPUs alone, {_so(judge, base)}")]]
    models = [replace(base, sm=(model.sm,) if model.sm else (), gfx=(model.gfx,) if model.gfx else ()) for model in maker.model]
    make = _driven if maker.drivers else _enabled
    return [make(judge, maker, base, models), *(make(judge, maker, model, [model]) for model in models)]


def _driven(judge: _Judge, maker: Maker, machine: Machine, models: Sequence[Machine]) -> list[Outcome]:
    """The outcomes of a driver that is not known, of none, and of each. `machine`: as far as its GPU is known; `models`: what it
    may be."""
    alike = judge.alike(maker.drivers)
    every = [replace(model, driver=driver) for model in models for driver in dict.fromkeys(alike)]
    found = [_of(judge, maker, machine, every), _of(judge, maker, machine, models)]
    lead = "your driver is for CUDA {driver}"
    of = {
        driver: _of(judge, maker, replace(machine, driver=driver), [replace(model, driver=driver) for model in models], lead)
        for driver in dict.fromkeys(alike)
    }
    found += [of[driver] for driver in alike]
    best = found[2].label
    lowest = max(
        (driver for driver, outcome in zip(maker.drivers, found[2:], strict=True) if outcome.label == best), key=maker.drivers.index
    )
    hint = f"A driver for CUDA {lowest} or newer gets {_named(best)}."
    return [found[0], *(outcome if outcome.label == best or outcome.asks else replace(outcome, hint=hint) for outcome in found[1:])]


def _enabled(judge: _Judge, maker: Maker, machine: Machine, models: Sequence[Machine]) -> list[Outcome]:
    """The same without, and with, what the maker's provider cannot see."""
    there = (str(maker.namespace),)
    asked = [replace(model, optional=there) for model in models]
    return [_of(judge, maker, machine, models), _of(judge, maker, replace(machine, optional=there), asked, str(maker.enables))]


def _of(judge: _Judge, maker: Maker, known: Machine, candidates: Sequence[Machine], lead: str = "") -> Outcome:
    """The outcome for whichever machine of the candidates it is; where they differ, that of what is `known`."""
    labels = list(dict.fromkeys(judge.choice(machine, "standard").spelled for machine in candidates))
    if len(labels) == 1:
        return _outcome(judge, candidates[0], f"{_reasons(judge, maker, candidates[0], lead)}, {_so(judge, candidates[0])}")
    asks = all(judge.choice(machine, "uv").spelled == judge.choice(machine, "standard").spelled for machine in candidates)
    return _outcome(
        judge, known, f"Which of {_and(labels)} fits depends on what you don't know, {_safely(judge, known)}", asks=asks
    )


def _outcome(judge: _Judge, machine: Machine, why: str, asks: bool = False, by_itself: bool = False) -> Outcome:
    """What each kind of installer is to be told. by_itself: let those that know no labels take what they take."""
    ideal = judge.choice(machine, "standard").spelled
    plain, chosen = (judge.choice(machine, name).spelled for name in (_BLIND, "uv"))
    uv = "variants" if asks else ideal if ideal == plain else "variants" if chosen == ideal else ideal
    return Outcome(ideal, uv, plain if by_itself else ideal, why, asks)


def _so(judge: _Judge, machine: Machine) -> str:
    return f"so: {_named(judge.choice(machine, 'standard').spelled)}."


def _safely(judge: _Judge, machine: Machine) -> str:
    return f"so to be safe: {_named(judge.choice(machine, 'standard').spelled)}."


def _reasons(judge: _Judge, maker: Maker, machine: Machine, lead: str) -> str:
    """Why it gets its wheel: what it has, and what the wheels need that would come before."""
    choice = judge.choice(machine, "standard")
    own = judge.of(maker)
    before = own if choice.label not in own else own[: own.index(choice.label)]
    needs: dict[str, list[str]] = {}
    for label in before:
        for judged in choice.ranked:
            if judged.label == label and judged.brief and label not in needs.setdefault(judged.brief, []):
                needs[judged.brief].append(label)
    parts = [_verb(f"{_and(names)} {brief}", len(names)) for brief, names in needs.items()]
    if not parts and choice.label not in own:
        return f"No wheel for this system is for {maker.name}'s GPUs alone"
    text = _and(parts) if parts else f"{choice.label} has code for this GPU"
    if lead and list(needs) != ["has no code for this GPU"]:
        text = f"{lead[0].upper()}{lead[1:]}{', but' if parts else ' and'} {text}"
    return text


def _verb(text: str, count: int) -> str:
    return re.sub(r" needs ", " need ", re.sub(r" has ", " have ", text)) if count > 1 else text


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _named(label: str) -> str:
    return "the plain wheel" if label == "plain" else label
