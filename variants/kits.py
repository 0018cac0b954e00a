"""Which plugins can be built, and who finds their toolkit."""

from __future__ import annotations

from collections.abc import Callable

from . import cuda, vulkan
from .errors import ToolchainError
from .toolkit import Request, Toolkit

#: ggml's name of the plugin -> what finds its toolkit.
KITS: dict[str, Callable[[Request], Toolkit]] = {"cuda": cuda.find, "vulkan": vulkan.find}


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
