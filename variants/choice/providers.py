"""What variant providers answer (PEP 825, "Provider plugins") about any machine: the properties that it supports, best first.

No provider package on the index works with today's installers, so their rules stand here: as nvidia-variant-provider,
rocm-bootstrap, x86-64-variant-provider and aarch64-variant-provider spell them, and as uv 0.13 applies those it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import archspec.cpu
import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from variantlib.models.variant_info import ProviderInfo

from .machine import Machine

#: Feature -> values, features and values each with the best first.
Supported = dict[str, list[str]]


class Unmet(NamedTuple):
    """Why a label does not fit a machine. `reason`: what is needed, and what was found. `change`: what would change that. `brief`:
    what is needed, as a verb phrase that is true of every such machine: ``needs 12.4 or newer``."""

    reason: str
    change: str
    brief: str = ""


_CUDA = [(major, minor) for major in range(15, 10, -1) for minor in range(20, -1, -1)]  # those that nvidia-variant-provider knows
_SPELLED = [(pair, text) for pair in _CUDA for text in ([f"{pair[0]}.{pair[1]}"] + [str(pair[0])] * (pair[1] == 0))]
_LEVELS = ("v4", "v3", "v2", "v1")
_ARM = ("8.4a", "8.3a", "8.2a", "8.1a", "8a")


class Provider(msgspec.Struct, frozen=True):
    """A plug-in provider. `features`: feature -> pattern of its values. `supported`: what it answers on a machine. `unmet`: why a
    feature of which no value is supported fails there. `uv`: version that uv has built in, or None; `plugin_api`: what uv wants to
    find under that key. `wants`: what a machine must have that an optional provider cannot see."""

    features: dict[str, str]
    supported: Callable[[Machine], Supported]
    unmet: Callable[[str, Sequence[str], Machine], Unmet]
    uv: str | None = None
    plugin_api: str | None = None
    wants: str = "to be asked for"


def supported(namespace: str, info: ProviderInfo, machine: Machine) -> Supported | None:
    """What the provider of `namespace` answers on `machine`; None where nobody knows such a provider.

    Static properties are supported everywhere, in the order in which they are listed (PEP 850, "Static properties"); of an optional
    provider nothing is, unless the user enables it.
    """
    if info.static_properties:
        order = info.feature_order or list(info.static_properties)
        return {feature: list(info.static_properties[feature]) for feature in order}
    if info.optional and namespace not in machine.optional:
        return {}
    return PROVIDERS[namespace].supported(machine) if namespace in PROVIDERS else None


def unmet(namespace: str, feature: str, values: Sequence[str], machine: Machine, info: ProviderInfo) -> Unmet:
    """Why ``namespace :: feature`` of these values does not fit `machine`: what is needed and found, and what would change it."""
    if info.static_properties:
        return Unmet(f"{namespace} has no {feature} {' or '.join(values)}", "nothing: the wheel contradicts its own provider")
    if info.optional and namespace not in machine.optional:
        return Unmet(
            f"the provider of {namespace} is optional: it is asked where the user enables it",
            f"enabling it; or the index of {namespace}'s label",
            f"needs {PROVIDERS[namespace].wants}" if namespace in PROVIDERS else "",
        )
    if namespace not in PROVIDERS:
        return Unmet(f"no provider is known for {namespace}", "an installer that runs provider plugins")
    return PROVIDERS[namespace].unmet(feature, values, machine)


def error(namespace: str, feature: str, value: str) -> str | None:
    """What the provider of `namespace` has against ``feature :: value``, or None; None too where nobody knows the provider."""
    known = PROVIDERS.get(namespace)
    if known is None:
        return None
    if feature not in known.features:
        return f"the provider of {namespace} knows no feature {feature}, only {', '.join(known.features)}"
    if not re.fullmatch(known.features[feature], value):
        return f"the provider of {namespace} has no {feature} {value}"
    return None


#: Packages of providers that their vendors have published. Whoever registered another name would be run by every tool that runs
#: plugins.
PUBLISHED = {
    "nvidia-variant-provider": "NVIDIA",
    "rocm-bootstrap": "AMD",
    "x86-64-variant-provider": "Quansight and others, for PEP 825",
    "aarch64-variant-provider": "Quansight and others, for PEP 825",
}


def unpublished(requires: Sequence[str]) -> list[str]:
    """The packages among a provider's requirements that no vendor has published (:data:`PUBLISHED`)."""
    return [name for text in requires if (name := canonicalize_name(Requirement(text).name)) not in PUBLISHED]


def uv_lacks(namespace: str, info: ProviderInfo) -> str | None:
    """Why uv 0.13 passes over `namespace`, or None where it takes part. uv runs no plugins and knows a few providers by heart."""
    if info.static_properties:
        return None
    known = PROVIDERS.get(namespace)
    if known is None or known.uv is None:
        return f"uv does not know the provider of {namespace}"
    try:
        required = [Requirement(text) for text in info.requires]
    except InvalidRequirement:
        return f"`requires` of {namespace} is no requirement"
    if len(required) != 1 or required[0].marker or not required[0].specifier.contains(known.uv):
        return f"`requires` of {namespace} must be one requirement that admits {known.uv}"
    if info.plugin_api != known.plugin_api:
        return f"`plugin-api` of {namespace} must {f'be {known.plugin_api}' if known.plugin_api else 'be left out'}"
    return None


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _nvidia(machine: Machine) -> Supported:
    """The newest GPU alone counts. A cubin runs on later minors of its major; of PTX, only that of M.0 is trusted to be there."""
    if machine.driver is None:
        return {}
    found = _pair(machine.driver)
    answer = {
        "cuda_version_lower_bound": [text for pair, text in _SPELLED if pair <= found],
        "cuda_version_upper_bound": [text for pair, text in _SPELLED if pair > found],
    }
    if machine.sm:
        major, minor = max(map(_pair, machine.sm))
        answer["sm_arch"] = [f"{major}{m}_real" for m in range(minor, -1, -1)] + [f"{major}0_virtual"]
    return answer


def _nvidia_unmet(feature: str, values: Sequence[str], machine: Machine) -> Unmet:
    if machine.driver is None:
        gpu = f"SM {', '.join(machine.sm)} but no driver" if machine.sm else "no NVIDIA GPU with a driver"
        need = {
            "cuda_version_lower_bound": f"needs an NVIDIA driver for CUDA {min(values, key=_pair)} or newer",
            "sm_arch": "needs an NVIDIA GPU",
        }.get(feature, "needs an NVIDIA driver")
        return Unmet(f"{need}, found {gpu}", "an NVIDIA GPU with its driver, so that `nvidia-smi` answers", "needs NVIDIA's driver")
    if feature == "cuda_version_lower_bound":
        needed = min(values, key=_pair)
        reason = f"needs driver for CUDA {needed} or newer, found {machine.driver}"
        return Unmet(reason, f"a newer NVIDIA driver, for CUDA {needed}", f"needs {needed} or newer")
    if feature == "cuda_version_upper_bound":
        bound = max(values, key=_pair)
        reason = f"is for drivers older than CUDA {bound}, found {machine.driver}"
        return Unmet(reason, "another wheel", f"needs one before {bound}")
    if not machine.sm:
        change = "an `nvidia-smi` that answers --query-gpu=compute_cap"
        return Unmet("needs to know the GPU's compute capability, found none", change, "needs to know which GPU it is")
    newest = max(machine.sm, key=_pair)
    has = f"has code for SM {_readable(values, '_real') or 'none'} and for newer GPUs through {_ptx(values)}"
    return Unmet(f"{has}, found SM {newest}", "another GPU", "has no code for this GPU")


def _ptx(values: Sequence[str]) -> str:
    found = _readable(values, "_virtual")
    return f"PTX of {found}" if found else "nothing (no PTX)"


def _readable(values: Sequence[str], kind: str) -> str:
    """``86_real`` as 8.6, in numerical order."""
    numbers = sorted(int(value.removesuffix(kind)) for value in values if value.endswith(kind))
    return ", ".join(f"{number // 10}.{number % 10}" for number in numbers)


def _amd(machine: Machine) -> Supported:
    """rocm-bootstrap: every architecture found. It does not look for ROCm."""
    return {"gfx_arch": list(machine.gfx)} if machine.gfx else {}


def _amd_unmet(feature: str, values: Sequence[str], machine: Machine) -> Unmet:
    if not machine.gfx:
        return Unmet("needs an AMD GPU, found none", "an AMD GPU with its kernel driver", "needs to know which GPU it is")
    found = ", ".join(machine.gfx)
    return Unmet(f"has code for {', '.join(values)}, found {found}", "another GPU", "has no code for this GPU")


def _families(machine: Machine) -> set[str]:
    """The processor and all that it can stand in for, by archspec's names; empty where nothing is known of it."""
    if machine.cpu is None:
        return set()
    target = archspec.cpu.TARGETS[machine.cpu]
    return {str(target.name), *(str(ancestor.name) for ancestor in target.ancestors)}


def _x86_64(machine: Machine) -> Supported:
    level = _level(machine)
    return {"level": list(_LEVELS[_LEVELS.index(level) :])} if level else {}


def _level(machine: Machine) -> str | None:
    """Micro-architecture level of an x86-64 processor (v1 where nothing is known of it), None on other processors."""
    if machine.arch not in ("x86_64", "amd64"):
        return None
    names = _families(machine)
    return next((level for level in _LEVELS if f"x86_64_{level}" in names), "v1")


def _x86_64_unmet(feature: str, values: Sequence[str], machine: Machine) -> Unmet:
    found = _level(machine)
    needed = min(values, default="v1")
    text = f"needs x86-64-{needed}"
    return Unmet(f"{text}, found {f'x86-64-{found}' if found else machine.arch}", "another processor", text)


def _aarch64(machine: Machine) -> Supported:
    version = _arm_version(machine)
    return {"version": list(_ARM[_ARM.index(version) :])} if version else {}


def _arm_version(machine: Machine) -> str | None:
    """Newest Arm architecture version (8a where nothing is known of the processor), None on other processors."""
    if machine.arch not in ("aarch64", "arm64"):
        return None
    names = _families(machine)
    return "8.4a" if any(name.startswith("armv9") for name in names) else next((v for v in _ARM if f"armv{v}" in names), "8a")


def _aarch64_unmet(feature: str, values: Sequence[str], machine: Machine) -> Unmet:
    found = _arm_version(machine)
    text = f"needs Armv{values[-1]}"
    return Unmet(f"{text}, found {f'Armv{found}' if found else machine.arch}", "another processor", text)


PROVIDERS = {
    "nvidia": Provider(
        {
            "cuda_version_lower_bound": r"1[1-5](\.(\d|1\d|20))?",
            "cuda_version_upper_bound": r"1[1-5](\.(\d|1\d|20))?",
            "sm_arch": r"([5-9]|1[0-2])\d_(real|virtual)",
        },
        _nvidia,
        _nvidia_unmet,
        uv="0.0.1",
        plugin_api="nvidia_variant_provider.plugin:NvidiaVariantPlugin",
    ),
    "amd": Provider({"gfx_arch": r"gfx\d+[0-9a-f]*"}, _amd, _amd_unmet, wants="ROCm 7"),
    "x86_64": Provider({"level": r"v[1-4]"}, _x86_64, _x86_64_unmet, uv="0.2.1"),
    "aarch64": Provider({"version": r"8(\.[1-4])?a"}, _aarch64, _aarch64_unmet, uv="0.2.0"),
}
