"""Variant metadata (PEP 825, PEP 850), in variantlib's own models: providers from pyproject.toml, one label a wheel, all of them in
an index."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from variantlib.constants import VALIDATION_FEATURE_NAME_REGEX, VALIDATION_VALUE_REGEX
from variantlib.errors import ValidationError
from variantlib.models.variant import VariantDescription, VariantProperty
from variantlib.models.variant_info import VariantInfo
from variantlib.pyproject_toml import VariantPyProjectToml
from variantlib.variant_dist_info import VariantDistInfo
from variantlib.variants_json import VariantsJson

from ..wheel import budget
from . import providers

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
#: The newest draft. variantlib 0.2 writes the one before it and reads any; uv 0.13 takes both.
SCHEMA = "https://variants-schema.wheelnext.dev/peps/850/v0.2.0.json"

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+$")]
_Value = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]+$")]
_Label = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]+$")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Names = Annotated[list[_Name], msgspec.Meta(min_length=1)]
_Values = Annotated[list[_Value], msgspec.Meta(min_length=1)]


class _Priorities(msgspec.Struct, forbid_unknown_fields=True):
    namespace: _Names


class _Provider(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    requires: Annotated[list[_Text], msgspec.Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    plugin_api: _Text | msgspec.UnsetType = msgspec.UNSET
    static_properties: dict[_Name, _Values] | msgspec.UnsetType = msgspec.UNSET
    feature_order: _Names | msgspec.UnsetType = msgspec.UNSET
    optional: bool = False


class _Document(
    msgspec.Struct, forbid_unknown_fields=True, rename={"schema": "$schema", "default_priorities": "default-priorities"}
):
    """``variant.json`` and ``*-variants.json`` of PEP 850, as strict as uv 0.13, where what this refuses makes a version
    unusable."""

    schema: str
    default_priorities: _Priorities
    providers: dict[_Name, _Provider]
    variants: dict[_Label, dict[_Name, dict[_Name, _Values]]]


def _check_provider(namespace: str, provider: _Provider) -> None:
    static = provider.static_properties
    if (provider.requires is msgspec.UNSET) == (static is msgspec.UNSET):
        raise ValueError(f"providers.{namespace} must have either `requires` or `static-properties`")
    order = provider.feature_order
    if static is msgspec.UNSET:
        if order is not msgspec.UNSET:
            raise ValueError(f"providers.{namespace}: `feature-order` goes with `static-properties`")
        return
    if provider.plugin_api is not msgspec.UNSET:
        raise ValueError(f"providers.{namespace}: `plugin-api` goes with `requires`")
    if order is msgspec.UNSET:
        order = list(static) if len(static) == 1 else []
    if not static or sorted(order) != sorted(static):
        raise ValueError(f"providers.{namespace}: `feature-order` must list the features of `static-properties`")


def check(content: bytes) -> VariantsJson:
    """What this says, if it is one that both variantlib and uv take.

    Raises:
        ValueError: it is not; says which key, and why.
    """
    _check_strictly(content)
    try:
        return VariantsJson(json.loads(content))
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _check_strictly(content: bytes) -> None:
    """Is this ``variant.json`` or ``*-variants.json`` one that uv takes?

    Raises:
        ValueError: it is not; says which key, and why.
    """
    document = budget.json(content, _Document)
    tables = [*document.variants.values(), *({"": one.static_properties or {}} for one in document.providers.values())]
    count = sum(len(values) for table in tables for features in table.values() for values in features.values())
    if count > budget.PROPERTIES or len(document.variants) > budget.LABELS:
        raise ValueError(f"it has {len(document.variants):,} labels and {count:,} properties, more than any index")
    namespaces = document.default_priorities.namespace
    if sorted(namespaces) != sorted(document.providers):
        raise ValueError(f"`providers` has {', '.join(document.providers)}, `default-priorities` {', '.join(namespaces)}")
    for namespace, provider in document.providers.items():
        _check_provider(namespace, provider)
    for label, properties in document.variants.items():
        if label == "null" or not properties or not all(properties.values()):
            raise ValueError(f"variants.{label} is empty, or a label that PEP 825 reserves")
        if unknown := set(properties) - set(document.providers):
            raise ValueError(f"variants.{label} is of namespaces without a provider: {', '.join(sorted(unknown))}")


@functools.cache
def own(pyproject: Path = PYPROJECT) -> VariantInfo:
    """Providers and the order of their namespaces, from ``[variant]`` of pyproject.toml."""
    return VariantPyProjectToml.from_path(pyproject)


def properties(namespace: str, feature: str, values: list[str]) -> list[VariantProperty]:
    """The properties ``namespace :: feature :: value``, one for each value.

    Raises:
        ValueError: there are no values, or variantlib or the namespace's provider refuses the feature or one of them.
    """
    if not values:
        raise ValueError("the list of values is empty")
    if not VALIDATION_FEATURE_NAME_REGEX.fullmatch(feature):
        raise ValueError(f'"{feature}" is no feature name')
    static = own().providers[namespace].static_properties
    for value in values:
        if not VALIDATION_VALUE_REGEX.fullmatch(value):
            raise ValueError(f'"{value}" is no value')
        if refused := providers.error(namespace, feature, value):
            raise ValueError(refused)
    if static and not set(values) <= set(static.get(feature, [])):
        raise ValueError(f"the provider's static properties have only {dict(static)}")
    return [VariantProperty(namespace, feature, value) for value in values]


def dist_info(label: str, table: Mapping[str, Mapping[str, list[str]]]) -> VariantDistInfo:
    """The metadata of a wheel with this label and these properties (namespace -> feature -> values)."""
    found = [
        p for namespace, features in table.items() for name, values in features.items() for p in properties(namespace, name, values)
    ]
    info = VariantDistInfo(own())
    info.variant_desc = VariantDescription(found, label=label)
    return info


def to_bytes(info: VariantsJson) -> bytes:
    """``variant.json`` or ``*-variants.json``: sorted and indented, so that the same content gives the same bytes."""
    data = json.loads(info.to_str())
    data["$schema"] = SCHEMA
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def read_wheel(content: bytes, label: str, ours: bool = True) -> VariantDistInfo:
    """``variant.json`` of a wheel whose file name carries `label`.

    Raises:
        ValueError: it is no such file, one that uv or variantlib would refuse, or of another label; or it is of a wheel of `ours`,
            and names a provider's package that no vendor has published.
    """
    _check_strictly(content)
    try:
        info = VariantDistInfo(content, label)
    except (ValidationError, ValueError) as error:
        raise ValueError(str(error)) from error
    for namespace, provider in info.providers.items() if ours else ():
        if lacking := providers.unpublished(provider.requires):
            raise ValueError(f"providers.{namespace} names {', '.join(lacking)}, which no vendor has published")
    return info
