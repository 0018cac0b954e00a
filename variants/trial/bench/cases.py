"""What is measured: models, numbers of threads, and what else the machine does meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ...errors import UsageError

#: The sizes of the models that the benchmark makes (tests/bench/make_model.py), by their parameters.
SIZES = ("15M", "100M", "1B")
#: The tensor types that it makes them of.
WEIGHTS = ("Q4_K", "Q8_0", "F16")
#: What else the machine does: nothing; processes that use a processor each; a second process with the same model; a control group's
#: quota and an affinity mask of half of the processors.
IDLE, ONE_BUSY, TWO_BUSY, TWO_MODELS, QUOTA, MASK = "idle", "busy-1", "busy-2", "two-models", "quota", "mask"
CONDITIONS = (IDLE, ONE_BUSY, TWO_BUSY, TWO_MODELS, QUOTA, MASK)
#: As many threads as the package takes where nobody says how many.
DEFAULT_THREADS = 0


class Case(msgspec.Struct, frozen=True):
    """One measurement: a `model`, its `threads` (:data:`DEFAULT_THREADS`: the package's choice), its `layers` on the GPU (-1: all),
    and the machine's `condition`."""

    model: Path
    threads: int
    layers: int = 0
    condition: str = IDLE

    @property
    def name(self) -> str:
        """As it stands in the results."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}" if self.threads else "default threads"
        layers = {0: "", -1: ", all layers"}.get(self.layers, f", {self.layers} layers")
        condition = "" if self.condition == IDLE else f", {self.condition}"
        return f"{self.model.stem}, {threads}{layers}{condition}"


class Wish(msgspec.Struct, frozen=True):
    """What was asked for; an empty part stands for the usual one. `models`: GGUF files to run instead of those made here."""

    models: tuple[Path, ...] = ()
    sizes: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    conditions: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()
    full: bool = False


def threads(processors: int) -> list[int]:
    """One, two, all, twice and four times all."""
    return sorted({1, min(2, processors), processors, 2 * processors, 4 * processors})


def on_processor(wish: Wish, models: Sequence[Path], processors: int) -> list[Case]:
    """The cases of a wheel that computes on the processor. `models`: the first is the one that every number of threads and every
    condition is tried with; the others run with one thread and with as many as there are processors."""
    first, *others = models
    wanted = wish.threads or (threads(processors) if wish.full else sorted({1, processors, 2 * processors}))
    found = [Case(first, count) for count in wanted]
    found += [Case(model, count) for model in others for count in wish.threads or sorted({1, processors})]
    conditions = wish.conditions or (CONDITIONS[1:] if wish.full else ())
    for condition in conditions:
        counts = wish.threads or ((processors, DEFAULT_THREADS) if condition in (QUOTA, MASK) else (processors,))
        found += [Case(first, count, condition=condition) for count in counts if condition != IDLE]
    return list(dict.fromkeys(found))


def on_gpu(models: Sequence[Path], processors: int, layers: int) -> list[Case]:
    """The cases of a wheel with a plugin: every model with all layers, and with half of `layers`, on the GPU."""
    count = min(8, processors)
    return [Case(model, count, share) for model in models for share in (-1, layers // 2)]


def made(wish: Wish) -> Iterator[tuple[str, str]]:
    """The models to make, each by its size and its weights: the usual one first.

    Raises:
        UsageError: a size or a tensor type that the benchmark does not make.
    """
    for kind, given, known in (("size", wish.sizes, SIZES), ("type", wish.weights, WEIGHTS)):
        for word in given:
            if word not in known:
                raise UsageError(f"The benchmark makes no model of the {kind} {word}.", f"It makes {', '.join(known)}.")
    usual = ("100M", "Q4_K")
    sizes = wish.sizes or (SIZES if wish.full else usual[:1])
    weights = wish.weights or (WEIGHTS if wish.full else usual[1:])
    yield from sorted(itertools.product(sizes, weights), key=lambda pair: pair != usual)


def prompts(wish: Wish) -> tuple[int, ...]:
    """The lengths of the prompts, in tokens."""
    return wish.prompts or ((32, 512, 2048) if wish.full else (512,))
