"""The matrix: ``variants/*.toml`` read strictly into :class:`Variant`. The only description of a backend there is."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from .choice import metadata
from .errors import MatrixError, UsageError
from .platforms import PLATFORMS

FOLDER = Path(__file__).parent
#: In a wheel with a plugin: what `python -m llama_cpp` and `verify` say of it.
DESCRIPTION = "llama_cpp/lib/plugin.json"
_ARCHITECTURE = re.compile(r"[5-9]\d|1[0-2]\d")
_GFX = re.compile(r"gfx\d{1,2}\d[0-9a-f]")
_LABEL = re.compile(r"[0-9a-z_.]{1,16}")  # PEP 825, "Variant label"


class Smoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the smoke test expects: ``device``, the prefix of the ggml device name that must compute (``CPU``, ``CUDA``, …), and
    ``flash_attention``, whether it computes with that alone."""

    device: str
    flash_attention: bool = False


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the variant needs beside the core: ``requires``, requirements that this variant's wheel alone has (PEP 508);
    ``libraries``, the libraries that those packages bring, by their folder in site-packages, in the order in which they can be
    opened; ``system``, libraries of the driver's or the system's, which `brought_by` brings, in the `folders` if the system's
    loader does not find them (``$NAME`` is a variable of the environment). No wheel of ours carries either."""

    requires: list[str] = []
    libraries: dict[str, list[str]] = {}
    system: list[str] = []
    brought_by: str = "the GPU's driver"
    folders: list[str] = []

    @property
    def foreign(self) -> list[str]:
        """The names of all libraries that come from elsewhere."""
        return [*self.system, *(name for names in self.libraries.values() for name in names)]


class Cuda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NVIDIA: `nvcc`, the versions that build it (PEP 440); `architectures`, those that get machine code, as in ``86`` for compute
    capability 8.6; `arm`, those of them whose GPUs exist beside Arm processors alone, which get none elsewhere; `ptx`, the one
    whose PTX goes in as well, which drivers compile for GPUs newer than all of them."""

    nvcc: str
    architectures: list[str]
    arm: list[str] = []
    ptx: str | None = None

    def compiled(self, platform: str) -> list[str]:
        """The architectures that get machine code on `platform` (``linux_aarch64``)."""
        return [one for one in self.architectures if one not in self.arm or platform.endswith(("aarch64", "arm64"))]

    def properties(self) -> dict[str, dict[str, list[str]]]:
        """``nvidia :: sm_arch``. A device M.m takes ``M0_virtual`` and no other PTX, so every newer major that this PTX reaches is
        listed too; none beyond 12, which nvidia-variant-provider does not know yet."""
        real = [f"{architecture}_real" for architecture in self.architectures]
        reached = [major for major in range(5, 13) if self.ptx and major * 10 >= int(self.ptx)]
        return {"nvidia": {"sm_arch": real + [f"{major}0_virtual" for major in reached]}}


class Rocm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """AMD: `rocm`, the oldest version that builds it (a newer one of the same major does, too); `architectures`, those that get
    machine code, as in ``gfx1100``."""

    rocm: str
    architectures: list[str]

    def compiled(self, platform: str) -> list[str]:
        """The architectures that get machine code on `platform`: all of them."""
        return self.architectures

    def properties(self) -> dict[str, dict[str, list[str]]]:
        """``amd :: gfx_arch``."""
        return {"amd": {"gfx_arch": self.architectures}}


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A matrix file as it stands on disk. Keys without a default are required.

    summary: one line for people. platforms: on which the variant exists, by the short names of :mod:`.machine`, which are wheel
    platforms before repair. unpublished: those of them where it is built for tests alone: another variant's plain wheel is
    published, or the backend is not fit for it. label: the variant label of PEP 825; none for the plain wheel. plugin: ggml's
    backend that goes in beside the core (``cuda`` for libggml-cuda). properties: what the label stands for, namespace -> feature ->
    values, beside what `cuda` and `rocm` give. runtime: see :class:`Runtime`. smoke: see :class:`Smoke`.
    """

    summary: str
    platforms: list[str]
    smoke: Smoke
    unpublished: list[str] = []
    label: str | None = None
    plugin: str | None = None
    cuda: Cuda | None = None
    rocm: Rocm | None = None
    properties: dict[str, dict[str, list[str]]] = {}
    runtime: Runtime = Runtime()


class Variant(msgspec.Struct, frozen=True):
    """One entry of the matrix: its name (the file's), the file, and what stands in it."""

    name: str
    file: Path
    table: Table

    @property
    def label(self) -> str | None:
        """Variant label (PEP 825), or None for the plain wheel."""
        return self.table.label

    @property
    def published(self) -> list[str]:
        """The platforms for which its wheel is published."""
        return [name for name in self.table.platforms if name not in self.table.unpublished]

    @property
    def properties(self) -> dict[str, dict[str, list[str]]]:
        """What the label stands for: the file's properties, and those that its lists of architectures give."""
        merged = {namespace: dict(features) for namespace, features in self.table.properties.items()}
        for part in (self.table.cuda, self.table.rocm):
            for namespace, features in part.properties().items() if part else ():
                merged.setdefault(namespace, {}).update(features)
        return merged


def narrowed(variant: Variant, architectures: Sequence[str], ptx: str | None = None) -> Variant:
    """The same variant with machine code for these `architectures` of GPUs alone: what it stands for shrinks with it.

    Raises:
        UsageError: it has none, or one is spelt wrong.
    """
    table = variant.table
    if not (lists := table.cuda or table.rocm):
        raise UsageError(f"{variant.name} has no list of GPU architectures.", "Leave out --arch.")
    vendor, spelling, remedy = (
        ("NVIDIA", _ARCHITECTURE, 'Write compute capability 8.6 as "86", 12.0 as "120", or `native`.')
        if table.cuda
        else ("AMD", _GFX, 'Write it as rocminfo does, "gfx1100", or `native`.')
    )
    for text in [*architectures, *([ptx] if ptx else [])]:
        if not spelling.fullmatch(text):
            raise UsageError(f'"{text}" is no {vendor} architecture.', remedy)
    changed: dict[str, object] = {"architectures": list(architectures)} | ({"arm": [], "ptx": ptx} if table.cuda else {})
    part = {"cuda" if table.cuda else "rocm": msgspec.structs.replace(lists, **changed)}
    return msgspec.structs.replace(variant, table=msgspec.structs.replace(table, **part))


def as_built(variant: Variant, description: bytes | None, platforms: Iterable[str]) -> Variant:
    """The variant as a wheel for `platforms` has it, by what plugin.json (`description`) says was compiled.

    Raises:
        ValueError: the description is damaged.
    """
    lists = variant.table.cuda or variant.table.rocm
    if lists is None or description is None:
        return variant
    facts = msgspec.json.decode(description, type=_Described).toolkit
    if any(facts.architectures == lists.compiled(platform) for platform in platforms):
        return variant
    return narrowed(variant, facts.architectures, None if facts.ptx == "none" else facts.ptx)


class _Compiled(msgspec.Struct, frozen=True):
    """Of plugin.json's ``toolkit``, what the properties depend on."""

    architectures: list[str] = []
    ptx: str = "none"


class _Described(msgspec.Struct, frozen=True):
    toolkit: _Compiled = _Compiled()


def load(folder: Path = FOLDER) -> dict[str, Variant]:
    """Every variant in `folder`, by name.

    Raises:
        MatrixError: a file is no TOML, has an unknown key, a wrong type or value, or shares its label with another file.
    """
    variants = {file.stem: read(file) for file in sorted(folder.glob("*.toml"))}
    if not variants:
        raise MatrixError(f"There is no *.toml in {folder}.", "Restore the folder: `git checkout -- variants`.")
    by_label: dict[tuple[str | None, str], Variant] = {}
    for variant in variants.values():
        for platform in variant.table.platforms:
            place = (variant.label, platform if variant.label is None else "")
            if platform in variant.table.unpublished or (twin := by_label.setdefault(place, variant)) is variant:
                continue
            label = f'label "{variant.label}"' if variant.label else f"no label (the plain wheel) on {platform}"
            raise MatrixError(
                f"{twin.file} and {variant.file} both have {label}.",
                "A label names one set of properties (PEP 825): give one of them another `label`.",
            )
    return variants


def read(file: Path) -> Variant:
    """One matrix file.

    Raises:
        MatrixError: naming file, key and remedy.
    """
    try:
        table = msgspec.toml.decode(file.read_bytes(), type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise MatrixError(f"{file}: {_readable(str(error))}", _remedy(str(error))) from error
    if unknown := [name for name in table.platforms if name not in PLATFORMS]:
        raise MatrixError(
            f'{file}: key `platforms`: nobody knows the platform "{unknown[0]}".', f"Known platforms: {', '.join(PLATFORMS)}."
        )
    if alone := sorted(set(table.unpublished) - set(table.platforms)):
        raise MatrixError(f"{file}: key `unpublished` names {alone[0]}.", "Name what also stands in `platforms`.")
    if not table.platforms:
        raise MatrixError(f"{file}: key `platforms` is empty.", f"Name at least one of {', '.join(PLATFORMS)}.")
    if not table.summary.strip() or "\n" in table.summary:
        raise MatrixError(f"{file}: key `summary` must be one line.", "Say in one line who gets this variant.")
    if table.label is not None and not _LABEL.fullmatch(table.label):
        raise MatrixError(
            f'{file}: key `label`: "{table.label}" is no variant label.',
            "Use 1 to 16 of the characters 0-9 a-z _ . (PEP 825).",
        )
    variant = Variant(file.stem, file, table)
    if (table.label is None) != (not variant.properties):
        raise MatrixError(
            f"{file}: a label stands for properties, and only for them.", "Give it both `label` and `[properties.…]`, or neither."
        )
    _check_values(file, variant)
    return variant


def _check_values(file: Path, variant: Variant) -> None:
    """Properties that their provider knows, in namespaces that pyproject.toml has a provider for; valid requirements."""
    table = variant.table
    if table.plugin == "cuda" and table.cuda is None:
        raise MatrixError(
            f"{file}: table `cuda` is missing.", "The plugin wants `nvcc` and `architectures`; see variants/cuda13.toml."
        )
    if table.plugin == "hip" and table.rocm is None:
        raise MatrixError(
            f"{file}: table `rocm` is missing.", "The plugin wants `rocm` and `architectures`; see variants/rocm7.toml."
        )
    if table.cuda and not all(_ARCHITECTURE.fullmatch(text) for text in [*table.cuda.architectures, table.cuda.ptx or "90"]):
        raise MatrixError(
            f"{file}: table `cuda`: an architecture is two or three digits.", 'Write compute capability 8.6 as "86", 12.0 as "120".'
        )
    if table.cuda and (alone := sorted(set(table.cuda.arm) - set(table.cuda.architectures))):
        raise MatrixError(f"{file}: table `cuda`: `arm` names {alone[0]}.", "Name what also stands in `architectures`.")
    if table.cuda:
        try:
            SpecifierSet(table.cuda.nvcc)
        except InvalidSpecifier as error:
            raise MatrixError(
                f'{file}: key `nvcc` in `[cuda]`: "{table.cuda.nvcc}" is no version range.',
                "Write it as in `>=12.8,<13` (PEP 440).",
            ) from error
    namespaces = metadata.own().namespace_priorities
    for namespace, features in variant.properties.items():
        if namespace not in namespaces:
            raise MatrixError(
                f"{file}: key `properties.{namespace}`: there is no such provider.",
                f"Providers in pyproject.toml, [variant.providers]: {', '.join(namespaces)}.",
            )
        for feature, values in features.items():
            try:
                metadata.properties(namespace, feature, values)
            except ValueError as error:
                raise MatrixError(
                    f"{file}: key `properties.{namespace}.{feature}`: {error}.",
                    "Values are lists of a-z 0-9 _ . (PEP 825); docs/metadata.md has each provider's features.",
                ) from error
    for text in table.runtime.requires:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            raise MatrixError(
                f'{file}: key `requires` in `[runtime]`: "{text}" is no requirement.', "Write it as in `name>=1,<2` (PEP 508)."
            ) from error


def labelled(label: str | None, platform: str | None = None) -> Variant | None:
    """The variant of the matrix that has this label (None: the plain wheel), or None where there is none.

    `platform`: the one that is published there, where the plain wheel is not the same variant everywhere (macOS: Metal).
    """
    found = [variant for variant in load().values() if variant.label == label]
    own = [variant for variant in found if platform in variant.published]
    return next(iter(own or found), None)


def select(names: Sequence[str], variants: dict[str, Variant]) -> list[Variant]:
    """The variants of these names, all of them where no name is given.

    Raises:
        UsageError: a name is not in the matrix; suggests the nearest one and lists all.
    """
    for name in names:
        if name not in variants:
            raise UsageError(f'There is no variant "{name}".', f"{suggestion(name, variants)}Variants: {', '.join(variants)}.")
    return [variants[name] for name in dict.fromkeys(names or variants)]


def suggestion(name: str, known: Iterable[str]) -> str:
    """``Did you mean "cpu"? `` where one of `known` is near `name`, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f'Did you mean "{near[0]}"? ' if near else ""


def _keys(path: str) -> list[str]:
    """The keys that may stand at a msgspec path such as ``$.smoke``."""
    kind: type[msgspec.Struct] = Table
    for part in path.split(".")[1:]:
        inner = typing.get_type_hints(kind).get(part)
        inner = next((one for one in typing.get_args(inner) if one is not type(None)), inner) if inner else None
        if not (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
            return []
        kind = inner
    return [field.name for field in msgspec.structs.fields(kind)]


_UNKNOWN_KEY = re.compile(r"unknown field `(?P<key>.+?)`(?: - at `(?P<path>.+?)`)?")
_MISSING_KEY = re.compile(r"missing required field `(?P<key>.+?)`(?: - at `(?P<path>.+?)`)?")


def _readable(error: str) -> str:
    """msgspec's message in the words of TOML."""
    if match := _UNKNOWN_KEY.search(error):
        return f"unknown key `{match['key']}`" + (f" in `[{match['path'][2:]}]`" if match["path"] else "") + "."
    if match := _MISSING_KEY.search(error):
        return f"key `{match['key']}` is missing" + (f" in `[{match['path'][2:]}]`" if match["path"] else "") + "."
    match = re.search(r"(?P<what>.+) - at `\$\.(?P<key>.+?)`", error)
    return f"key `{match['key']}`: {match['what'].lower()}." if match else f"not valid TOML: {error}."


def _remedy(error: str) -> str:
    if match := _UNKNOWN_KEY.search(error):
        keys = _keys(match["path"] or "$")
        return f"{suggestion(match['key'], keys)}Known keys: {', '.join(keys)}."
    if match := _MISSING_KEY.search(error):
        return "Add it; docs/variants.md describes every key."
    return "Correct the file; docs/variants.md describes every key, and variants/cpu.toml is a short example."
