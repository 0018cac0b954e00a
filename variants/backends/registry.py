"""Which plugins can be built, and who finds their toolkit."""

from __future__ import annotations

from collections.abc import Callable

from .. import platforms
from ..errors import ToolchainError
from ..matrix import Variant
from . import cuda, hip, metal, openvino, vulkan
from .toolkit import Request, Toolkit

#: ggml's name of the plugin -> what finds its toolkit.
KITS: dict[str, Callable[[Request], Toolkit]] = {
    "cuda": cuda.find,
    "hip": hip.find,
    "metal": metal.find,
    "openvino": openvino.find,
    "vulkan": vulkan.find,
}
#: On which platforms it knows where to look. (A plugin for Windows was never built: docs/status.md.)
PLATFORMS = {
    "cuda": ("linux_x86_64", "linux_aarch64"),
    "hip": ("linux_x86_64",),
    "metal": ("macosx_arm64",),
    "openvino": ("linux_x86_64",),
    "vulkan": ("linux_x86_64", "linux_aarch64"),
}


def buildable(variant: Variant) -> list[str]:
    """The platforms for which this variant's wheel is published and somebody knows how to build it."""
    known = PLATFORMS.get(variant.table.plugin, ()) if variant.table.plugin else platforms.PLATFORMS
    return [name for name in variant.published if name in known]


def find(request: Request) -> Toolkit:
    """The toolkit of the variant's plugin on this machine, complete or not.

    Raises:
        ToolchainError: nobody knows how to build this plugin yet.
    """
    plugin = request.variant.table.plugin
    if plugin not in KITS:
        raise ToolchainError(
            f"ggml's plugin `{plugin}` cannot be built yet.",
            f"Plugins that can: {', '.join(KITS)}. docs/status.md says what there is.",
        )
    return KITS[plugin](request)
