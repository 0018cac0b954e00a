"""Does a wheel have what its label stands for? The plugin, of the core beside it, compiled for the architectures that it claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ..errors import UsageError
from ..matrix import DESCRIPTION, Variant, labelled
from ..platforms import Platform
from ..wheel import archive, binary, budget
from .assemble import CORE

#: namespace -> feature -> values (PEP 825).
Properties = Mapping[str, Mapping[str, Sequence[str]]]


class _Core(msgspec.Struct, frozen=True):
    """Of core.json, what is asked of it here."""

    fingerprint: str


class _Described(msgspec.Struct, frozen=True):
    """Of plugin.json, what is asked of it here."""

    name: str
    core: str
    toolkit: dict[str, str | list[str]] = {}


class _Claims(msgspec.Struct, frozen=True):
    """Of variant.json, what the label stands for."""

    variants: dict[str, dict[str, dict[str, list[str]]]]


def of_label(wheel: Path, label: str) -> str | None:
    """As :func:`broken`, for a labelled wheel by its own variant.json. If the matrix has no such label, by plugin.json alone.

    Raises:
        WheelError: it cannot be read.
    """
    with archive.open_wheel(wheel) as opened:
        try:
            claimed = budget.json(opened.read(f"{archive.dist_info(opened)}/variant.json"), _Claims).variants.get(label, {})
            if variant := labelled(label):
                return broken(wheel, variant, claimed)
            described = budget.json(opened.read(DESCRIPTION), _Described)
            core = budget.json(opened.read(CORE), _Core).fingerprint
        except KeyError as error:
            return f"has the label {label}, and lacks {_missing(error)}"
        except ValueError as error:
            return f"has a damaged variant.json, {DESCRIPTION} or {CORE} ({error})"
        names = [f"llama_cpp/lib/{platform.plugin(described.name)}" for platform in archive.platforms_of(wheel)]
        lacking = next((name for name in names if name not in opened.files()), None)
        return f"has no {lacking}" if lacking else None if described.core == core else f"has a plugin of core {described.core}"


def _missing(error: KeyError) -> str:
    """The member that zipfile found no entry of."""
    return str(error.args[0]).split("'")[1]


def broken(wheel: Path, variant: Variant, claimed: Properties | None = None) -> str | None:
    """What the wheel has not, or has otherwise, of what the label of `variant` stands for; None where nothing is missing.

    `claimed`: the properties in its variant.json (None: it has none yet).

    Raises:
        WheelError: it cannot be read.
    """
    plugin = variant.table.plugin
    if plugin is None:
        return None
    with archive.open_wheel(wheel) as opened:
        files = opened.files()
        for platform in archive.platforms_of(wheel):
            name = f"llama_cpp/lib/{platform.plugin(plugin)}"
            if name not in files:
                return f"has no {name}, which {variant.label} stands for"
            if why := _other_machine(files[name], platform):
                return f"has a {name} that {why}"
        try:
            described = budget.json(opened.read(DESCRIPTION), _Described)
            core = budget.json(opened.read(CORE), _Core).fingerprint
            if (described.name, described.core) != (plugin, core):
                return f"has a {described.name} of core {described.core} by its {DESCRIPTION}, and core {core}"
            return _other_architectures(variant, described, claimed or {}, wheel)
        except UsageError as error:
            return f"has a damaged {DESCRIPTION} ({error.what})"
        except KeyError as error:
            return f"lacks {_missing(error)}, which says what the plugin is"
        except ValueError as error:
            return f"has a damaged {DESCRIPTION} or {CORE} ({error})"


def _other_machine(source: archive.Source, platform: Platform) -> str | None:
    try:
        found = binary.machine(archive.head(source))
    except ValueError:
        return "is no library"
    return None if found == (platform.format, platform.machine) else f"is {found[0]} for {found[1]}"


def _other_architectures(variant: Variant, described: _Described, claimed: Properties, wheel: Path) -> str | None:
    """Properties that come from the list of GPU architectures, and that nothing was compiled for. (Of an architecture that is not
    compiled on this platform, since no such machine exists, the label's one set of properties may tell.)"""
    if variant.lists is None:
        return None
    if not described.toolkit.get("architectures"):
        return f"does not say in {DESCRIPTION} which architectures its plugin was compiled for"
    compiled = variant.lists.as_compiled(described.toolkit)
    here = {one for platform in archive.platforms_of(wheel) for one in variant.lists.compiled(platform.name)}
    absent = variant.lists.narrowed([one for one in variant.lists.architectures if one not in here])
    for namespace, features in compiled.properties().items():
        for feature, values in features.items():
            extra = absent.properties().get(namespace, {}).get(feature, [])
            if wrong := sorted(set(claimed.get(namespace, {}).get(feature, ())) - {*values, *extra}):
                return f"claims {namespace} :: {feature} :: {', '.join(wrong[:5])}, which its plugin was not compiled for"
    return None
