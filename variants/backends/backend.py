"""What there is to know about one backend of ggml. Each has a module or a folder in this room, with a constant ``BACKEND``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from ..choice.machine import Machine
from ..errors import UsageError
from .toolkit import Request, Toolkit

#: namespace -> feature -> values (PEP 825).
Properties = dict[str, dict[str, list[str]]]


class Lists(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend's own table in a matrix file, ``[NAME]``: GPU architectures, and what the backend adds to them.

    maker: of the GPUs. spelling: pattern of an architecture; spelt: how to write one. detector: the program that shows those of a
    machine; example: one of them.
    """

    architectures: Annotated[list[str], Meta(description="those that get machine code")]

    maker: ClassVar[str]
    spelling: ClassVar[str]
    spelt: ClassVar[str]
    detector: ClassVar[str]
    example: ClassVar[str]

    def compiled(self, platform: str) -> list[str]:
        """The architectures that get machine code on `platform` (``linux_aarch64``)."""
        return self.architectures

    def properties(self) -> Properties:
        """What the architectures are to installers."""
        raise NotImplementedError

    def here(self, machine: Machine) -> list[str]:
        """The architectures of the GPUs of `machine`."""
        raise NotImplementedError

    def mistake(self) -> tuple[str, str] | None:
        """What is wrong in the table and what helps, or None."""
        wrong = next((one for one in self.architectures if not re.fullmatch(self.spelling, one)), None)
        return (f'"{wrong}" is no {self.maker} architecture.', self.spelt) if wrong else None

    def narrowed(self, architectures: Sequence[str]) -> Self:
        """The same table for these architectures alone.

        Raises:
            UsageError: one is spelt wrong.
        """
        for text in architectures:
            if not re.fullmatch(self.spelling, text):
                raise UsageError(f'"{text}" is no {self.maker} architecture.', f"{self.spelt[:-1]}, or `native`.")
        return msgspec.structs.replace(self, architectures=list(architectures))

    def as_compiled(self, facts: Mapping[str, str | list[str]]) -> Self:
        """The table as a plugin was compiled by it, by the :attr:`.Toolkit.facts` in its description."""
        return self.narrowed(list(facts.get("architectures", [])))


class Software(msgspec.Struct, frozen=True):
    """A device that computes on the CPU, for Linux machines without a GPU: Debian's `packages`, and the `environment` with which it
    is taken, ``NAME=value``, with ``{machine}`` for the processor. `headers` fetches those that the tests' failing driver includes
    (with a log) and returns their folder."""

    packages: tuple[str, ...]
    environment: tuple[str, ...]
    headers: Callable[[Path], Path]

    def variables(self, machine: str) -> dict[str, str]:
        """The environment on this processor (``aarch64``)."""
        return dict(text.format(machine=machine).split("=", 1) for text in self.environment)


class Backend(msgspec.Struct, frozen=True):
    """One backend.

    name: ggml's (GGML_NAME makes libggml-name). find: finds its toolkit, complete or not. platforms: those on which it knows where
    to look. across: for a variant of this name, the platforms for which its plugin is compiled on any machine. table: the type of
    its table in a matrix file, if it wants one. on_request: no hosted runner has its toolkit, so a workflow has its job only where
    the variant is named. upstream: CMake arguments for upstream's own build with it, to compare with. stands_before_driver: the
    tests' failing driver (tests/plugins/failing_NAME.c) takes the place of the driver's library. gpus: the makers of the GPUs that
    it computes on, as runners of one's own are labelled (``nvidia``). software: what it computes on where there is none of them.
    """

    name: str
    find: Callable[[Request], Toolkit]
    platforms: tuple[str, ...]
    across: Callable[[str], tuple[str, ...]] = lambda variant: ()
    table: type[Lists] | None = None
    on_request: bool = False
    upstream: tuple[str, ...] = ()
    stands_before_driver: bool = False
    gpus: tuple[str, ...] = ()
    software: Software | None = None
