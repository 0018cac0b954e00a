"""The matrix: ``variants/*.toml`` read strictly into :class:`Variant`. The only description of a backend there is."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from packaging.requirements import InvalidRequirement, Requirement

from .backends.backend import Backend, Lists
from .backends.registry import BACKENDS
from .backends.toolkit import Request
from .choice import metadata
from .compilers import toolchain as toolchains
from .compilers.toolchain import Toolchain
from .errors import MatrixError, UsageError
from .platforms import PLATFORMS, Platform
from .wheel import archive, budget

FOLDER = Path(__file__).parent
#: In a wheel with a plugin: what `python -m llama_cpp` and `verify` say of it.
DESCRIPTION = "llama_cpp/lib/plugin.json"


class Smoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the smoke test expects."""

    device: Annotated[str, Meta(description="how the name of the ggml device that must compute begins: `CPU`, `CUDA`")]
    flash_attention: Annotated[bool, Meta(description="whether the device computes with flash attention alone")] = False


class Libraries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the wheels of one system need from elsewhere. No wheel carries any of it."""

    libraries: Annotated[
        dict[str, list[str]],
        Meta(
            description="the libraries that the packages in `requires` bring, by their folder in site-packages, in the order in "
            'which they can be opened: `libraries."nvidia/cu13/lib" = ["libcudart.so.13", …]`. They give the plugin\'s RPATH, and '
            "what the loader opens where that does not reach"
        ),
    ] = {}
    system: Annotated[list[str], Meta(description="libraries of the driver's or the system's that the plugin needs")] = []
    folders: Annotated[
        list[str],
        Meta(description="where those may lie if the system's loader does not find them; `$NAME` is a variable of the environment"),
    ] = []

    @property
    def foreign(self) -> list[str]:
        """The names of all libraries that come from elsewhere."""
        return [*self.system, *(name for names in self.libraries.values() for name in names)]


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the variant needs beside the core."""

    requires: Annotated[list[str], Meta(description="requirements that this variant's wheel alone has (PEP 508)")] = []
    brought_by: Annotated[
        str, Meta(description='what brings the libraries in `system`, for the error that says that one is missing: `"ROCm 7"`')
    ] = "the GPU's driver"
    linux: Annotated[Libraries, Meta(description="what its wheels for Linux need from elsewhere")] = Libraries()
    windows: Annotated[Libraries, Meta(description="the same for Windows")] = Libraries()
    macos: Annotated[Libraries, Meta(description="the same for macOS")] = Libraries()

    def on(self, platform: Platform) -> Libraries:
        """The libraries on this platform."""
        found: Libraries = getattr(self, SYSTEMS[platform.system])
        return found


#: A platform's system (CMake's name) -> its table in `[runtime]`.
SYSTEMS = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A matrix file as it stands on disk. Keys without a default are required."""

    summary: Annotated[str, Meta(description="one line: who gets this variant")]
    platforms: Annotated[list[str], Meta(description=f"where it exists: {', '.join(f'`{name}`' for name in PLATFORMS)}")]
    smoke: Annotated[Smoke, Meta(description="what the smoke test expects")]
    unpublished: Annotated[
        list[str],
        Meta(
            description="those of the `platforms` where it is built for tests alone, since another variant's plain wheel is "
            "published there, or the backend is not fit for it. Such a wheel goes into a folder of its own below dist/, which "
            "`index` does not read"
        ),
    ] = []
    label: Annotated[
        str | None,
        Meta(
            description="the variant label of PEP 825, 1 to 16 of `0-9 a-z _ .`; a file without one describes the plain wheel, of "
            "which each platform has one"
        ),
    ] = None
    plugin: Annotated[
        str | None,
        Meta(description="ggml's backend that goes in beside the core: `cuda` for libggml-cuda. Without one: the core alone"),
    ] = None
    glibc: Annotated[
        str | None,
        Meta(
            description="the newest glibc that its wheels for Linux may want, and so their tag: `2.28` for manylinux_2_28. Without "
            "it, the core's",
        ),
    ] = None
    properties: Annotated[
        dict[str, dict[str, list[str]]],
        Meta(
            description='what the label stands for: `[properties.NAMESPACE]` with `feature = ["value", …]`, beside what the '
            "backend's own table gives. Namespaces are those of `[variant.providers]` in pyproject.toml, features those of "
            "[metadata.md](metadata.md)"
        ),
    ] = {}
    runtime: Annotated[Runtime, Meta(description="what the variant needs beside the core")] = Runtime()


#: A file as it stands on disk: :class:`Table`, and the own table of each backend that has one.
_File = msgspec.defstruct(
    "_File",
    [(name, backend.table | None, None) for name, backend in BACKENDS.items() if backend.table],
    bases=(Table,),
    frozen=True,
    forbid_unknown_fields=True,
)


class Variant(msgspec.Struct, frozen=True):
    """One entry of the matrix: its name (the file's), the file, what stands in it, and of that its backend's table (`lists`)."""

    name: str
    file: Path
    table: Table
    lists: Lists | None = None

    @property
    def backend(self) -> Backend | None:
        """The backend whose plugin goes in beside the core; None for the core alone."""
        return BACKENDS[self.table.plugin] if self.table.plugin else None

    @property
    def buildable(self) -> list[str]:
        """The platforms for which its wheel is published, and somebody knows how to build it."""
        able = (*self.backend.platforms, *self.across) if self.backend else self.published
        return [name for name in self.published if name in able]

    @property
    def across(self) -> list[str]:
        """The platforms for which its plugin is compiled on any machine."""
        named = self.backend.across(self.name) if self.backend else ()
        return [name for name in self.table.platforms if name in named]

    @property
    def label(self) -> str | None:
        """Variant label (PEP 825), or None for the plain wheel."""
        return self.table.label

    def promise(self, tag: str) -> str:
        """The wheel platform of its wheels, where the core's is `tag` (``manylinux_2_17_x86_64``; empty: none is promised)."""
        glibc = (self.table.glibc or "").replace(".", "_")
        return re.sub(r"^manylinux_\d+_\d+", f"manylinux_{glibc}", tag) if glibc else tag

    @property
    def published(self) -> list[str]:
        """The platforms for which its wheel is published."""
        return [name for name in self.table.platforms if name not in self.table.unpublished]

    @property
    def properties(self) -> dict[str, dict[str, list[str]]]:
        """What the label stands for: the file's properties, and those that its lists of architectures give."""
        merged = {namespace: dict(features) for namespace, features in self.table.properties.items()}
        for namespace, features in self.lists.properties().items() if self.lists else ():
            merged.setdefault(namespace, {}).update(features)
        return merged


def request(
    variant: Variant,
    toolchain: Toolchain,
    tree: Path,
    source: str | None = None,
    fetch: bool = False,
    log: Path = Path("toolkit.log"),
) -> Request:
    """What is asked of the finder of the variant's backend; :class:`.Request` says what each is."""
    system = toolchain if toolchain.kind == "system" else toolchains.system_or_why(toolchain.platform)
    found, why = (None, system) if isinstance(system, str) else (system, "nothing")
    glibc = variant.table.glibc or "2.17"
    return Request(variant.name, variant.lists, toolchain, found, tree, toolchain.platform.name, glibc, source, fetch, log, why)


def narrowed(variant: Variant, architectures: Sequence[str]) -> Variant:
    """The same variant with machine code for these `architectures` of GPUs alone: what it stands for shrinks with it.

    Raises:
        UsageError: it has no such list, or one is spelt wrong.
    """
    if variant.lists is None:
        raise UsageError(f"{variant.name} has no list of GPU architectures.", "Leave out --arch.")
    return msgspec.structs.replace(variant, lists=variant.lists.narrowed(architectures))


def as_built(variant: Variant, description: bytes | None, platforms: Iterable[str]) -> Variant:
    """The variant as a wheel for `platforms` has it, by what plugin.json (`description`) says was compiled.

    Raises:
        ValueError: the description is damaged.
    """
    if variant.lists is None or description is None:
        return variant
    facts = budget.json(description, _Described).toolkit
    if any(facts.get("architectures") == variant.lists.compiled(platform) for platform in platforms):
        return variant
    try:
        return msgspec.structs.replace(variant, lists=variant.lists.as_compiled(facts))
    except UsageError as error:  # an architecture that is none
        raise ValueError(error.what) from error


class _Described(msgspec.Struct, frozen=True):
    """Of plugin.json, what the properties depend on."""

    toolkit: dict[str, str | list[str]] = {}


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
            place = (variant.label and archive.local_version(variant.label), platform if variant.label is None else "")
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
        table = typing.cast(Table, budget.toml(file, _File))
    except (ValueError, OSError) as error:
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
    if table.glibc is not None and not re.fullmatch(r"2\.\d+", table.glibc):
        raise MatrixError(f'{file}: key `glibc`: "{table.glibc}" is no version of glibc.', 'Write it as in `"2.28"`.')
    if table.label is not None and (why := archive.label_mistake(table.label)):
        raise MatrixError(f'{file}: key `label`: "{table.label}" is no variant label.', f"{why[0].upper()}{why[1:]}.")
    variant = Variant(file.stem, file, table, _own_table(file, table))
    if (table.label is None) != (not variant.properties):
        raise MatrixError(
            f"{file}: a label stands for properties, and only for them.", "Give it both `label` and `[properties.…]`, or neither."
        )
    _check_libraries(file, table)
    _check_values(file, variant)
    return variant


def _own_table(file: Path, table: Table) -> Lists | None:
    """The backend's own table, which it must have if it wants one, and no other backend's."""
    if table.plugin is not None and table.plugin not in BACKENDS:
        raise MatrixError(
            f'{file}: key `plugin`: nobody knows how to build ggml\'s backend "{table.plugin}".',
            f"{suggestion(table.plugin, BACKENDS)}Known: {', '.join(BACKENDS)}. docs/variants.md says how to add one.",
        )
    for name, backend in BACKENDS.items():
        lists: Lists | None = getattr(table, name, None)
        if name == table.plugin and backend.table:
            if lists is None:
                keys = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(backend.table) if field.required)
                raise MatrixError(f"{file}: table `{name}` is missing.", f"The plugin wants it, with {keys}: see docs/variants.md.")
            if wrong := lists.mistake():
                raise MatrixError(f"{file}: table `{name}`: {wrong[0]}", wrong[1])
            return lists
        if lists is not None:
            raise MatrixError(f"{file}: table `{name}` is another backend's.", f'Remove it, or write `plugin = "{name}"`.')
    return None


def _check_libraries(file: Path, table: Table) -> None:
    """Libraries are named for each system that the variant is for, as that system's are."""
    named = {system: getattr(table.runtime, key) for system, key in SYSTEMS.items()}
    wanted = {PLATFORMS[name].system for name in table.platforms}
    for system in set(named) - wanted:
        if named[system].foreign:
            raise MatrixError(
                f"{file}: `[runtime.{SYSTEMS[system]}]` is for a system that `platforms` does not name.",
                "Remove it, or name a platform of that system.",
            )
    for system, libraries in named.items():
        where = f"`[runtime.{SYSTEMS[system]}]`"
        if not libraries.foreign and system in wanted and any(other.foreign for other in named.values()):
            raise MatrixError(f"{file}: {where} is missing.", f"Name there what the plugin needs on {system}, as for the others.")
        ending = {"Linux": r".+\.so(\.\d+)*", "Windows": r".+\.dll", "Darwin": r".+\.dylib"}[system]
        if wrong := next((name for name in libraries.foreign if not re.fullmatch(ending, name)), None):
            raise MatrixError(f'{file}: {where}: "{wrong}" is no library\'s name on {system}.', "Write its file name alone.")


def _check_values(file: Path, variant: Variant) -> None:
    """Properties that their provider knows, in namespaces that pyproject.toml has a provider for; valid requirements."""
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
    for text in variant.table.runtime.requires:
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
    kind: type[msgspec.Struct] = _File
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
