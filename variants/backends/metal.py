"""The toolkit of ggml's Metal plugin: Apple's command line tools, which bring compiler, frameworks and headers."""

from __future__ import annotations

import re

from ..terminal import process
from .backend import Backend
from .toolkit import Piece, Request, Toolkit


def find(request: Request) -> Toolkit:
    """The SDK that ``xcrun`` names. The shaders are embedded as source, and compiled by the driver (GGML_METAL_EMBED_LIBRARY)."""
    sdk = process.output(["xcrun", "--sdk", "macosx", "--show-sdk-path"]).strip()
    version = process.output(["xcrun", "--sdk", "macosx", "--show-sdk-version"]).strip()
    found = version if sdk.startswith("/") and re.fullmatch(r"\d+(\.\d+)*", version) else None
    return Toolkit(
        "metal",
        (Piece("macOS SDK with Metal", "any", found),),
        "Install Apple's command line tools: `xcode-select --install`.",
        (),
        {"macos_sdk": version if found else "unknown"},
    )


BACKEND = Backend("metal", find, platforms=("macosx_arm64",))
