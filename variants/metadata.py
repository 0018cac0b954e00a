"""Variant metadata (PEP 825, PEP 850), in variantlib's own models: providers from pyproject.toml, one label a wheel, all of them in
an index."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from variantlib.constants import VALIDATION_FEATURE_NAME_REGEX, VALIDATION_VALUE_REGEX
from variantlib.errors import ValidationError
from variantlib.models.variant import VariantDescription, VariantProperty
from variantlib.models.variant_info import VariantInfo
from variantlib.pyproject_toml import VariantPyProjectToml
from variantlib.variant_dist_info import VariantDistInfo
from variantlib.variants_json import VariantsJson

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
#: The newest draft. variantlib 0.2 writes the one before it and reads any; uv 0.13 takes both.
SCHEMA = "https://variants-schema.wheelnext.dev/peps/850/v0.2.0.json"


@functools.cache
def providers(pyproject: Path = PYPROJECT) -> VariantInfo:
    """Providers and the order of their namespaces, from ``[variant]`` of pyproject.toml."""
    return VariantPyProjectToml.from_path(pyproject)


def properties(namespace: str, feature: str, values: list[str]) -> list[VariantProperty]:
    """The properties ``namespace :: feature :: value``, one for each value.

    Raises:
        ValueError: there are no values, or variantlib refuses the feature or one of them.
    """
    if not values:
        raise ValueError("the list of values is empty.")
    if not VALIDATION_FEATURE_NAME_REGEX.fullmatch(feature):
        raise ValueError(f'"{feature}" is no feature name.')
    for value in values:
        if not VALIDATION_VALUE_REGEX.fullmatch(value):
            raise ValueError(f'"{value}" is no value.')
    static = providers().providers[namespace].static_properties
    if static and not set(values) <= set(static.get(feature, [])):
        raise ValueError(f"the provider's static properties have only {dict(static)}.")
    return [VariantProperty(namespace, feature, value) for value in values]


def dist_info(label: str, table: Mapping[str, Mapping[str, list[str]]]) -> VariantDistInfo:
    """The metadata of a wheel with this label and these properties (namespace -> feature -> values)."""
    found = [
        p for namespace, features in table.items() for name, values in features.items() for p in properties(namespace, name, values)
    ]
    info = VariantDistInfo(providers())
    info.variant_desc = VariantDescription(found, label=label)
    return info


def to_bytes(info: VariantsJson) -> bytes:
    """``variant.json`` or ``*-variants.json``: sorted and indented, so that the same content gives the same bytes."""
    data = json.loads(info.to_str())
    data["$schema"] = SCHEMA
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def read_wheel(content: bytes, label: str) -> VariantDistInfo:
    """``variant.json`` of a wheel whose file name carries `label`.

    Raises:
        ValueError: it is no such file, or of another label.
    """
    try:
        return VariantDistInfo(content, label)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
