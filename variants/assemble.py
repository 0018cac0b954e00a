"""The raw wheel: the core with its licences, its software bill of materials and its build number."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from . import archive
from .errors import WheelError
from .source import Upstream
from .toolchain import Toolchain


def assemble(
    core_wheel: Path,
    target_dir: Path,
    upstream: Upstream,
    toolchain: Toolchain,
    build_number: int | None,
    epoch: int,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the raw wheel for `core_wheel` into `target_dir` and return its path.

    `extra`: files of a plugin, by their names in the wheel. A build number (PEP 427) makes installers prefer this file to another
    of the same version.

    Raises:
        WheelError: `core_wheel` is damaged.
    """
    files = archive.contents(core_wheel) | dict(extra or {})
    with archive.open_wheel(core_wheel) as opened:
        info = archive.dist_info(opened)
    parts = core_wheel.name.split("-")
    if build_number is not None:
        parts.insert(2, str(build_number))
        files[f"{info}/WHEEL"] = _with_build(files[f"{info}/WHEEL"], build_number)
    for name, text in licences(upstream, toolchain).items():
        files[f"{info}/licenses/{name}"] = text
    files[f"{info}/sboms/llama_cpp_python.cdx.json"] = bill_of_materials(upstream, toolchain, epoch)
    target = target_dir / "-".join(parts)
    archive.write(target, files, epoch)
    return target


def _with_build(wheel_file: bytes, build_number: int) -> bytes:
    lines = [line for line in wheel_file.decode().splitlines() if line and not line.startswith("Build:")]
    tag = next(i for i, line in enumerate(lines) if line.startswith("Tag:"))
    return ("\n".join([*lines[:tag], f"Build: {build_number}", *lines[tag:]]) + "\n").encode()


def licences(upstream: Upstream, toolchain: Toolchain) -> dict[str, bytes]:
    """Licence texts by their path below ``dist-info/licenses``: upstream's, llama.cpp's, those of the code that llama.cpp carries
    and of what the toolchain links in.

    Raises:
        WheelError: llama-cpp-python's or llama.cpp's is not where it always was.
    """
    llama_cpp = upstream.tree / "vendor" / "llama.cpp"
    found: dict[str, Path] = {
        "llama-cpp-python/LICENSE.md": upstream.tree / "LICENSE.md",
        "llama.cpp/LICENSE": llama_cpp / "LICENSE",
    }
    for name, path in found.items():
        if not path.is_file():
            raise WheelError(f"Upstream has no {path} any more, which {name} is taken from.", "Adapt variants/assemble.py.")
    for pattern in ("LICENSE*", "COPYING*"):
        for folder in ("licenses", "vendor", "ggml", "src", "tools/mtmd"):
            for path in sorted((llama_cpp / folder).rglob(pattern)):
                found[f"llama.cpp/{path.relative_to(llama_cpp).as_posix()}"] = path
    found |= {f"{name.replace(' ', '-')}/{path.name}": path for name, path in toolchain.linked.items()}
    texts = {name: path.read_bytes() for name, path in found.items()}
    for header, text in _header_licences(llama_cpp / "vendor").items():
        texts[f"llama.cpp/vendor/{header}.LICENSE"] = text
    return texts


def _header_licences(vendor: Path) -> dict[str, bytes]:
    """Licence notices of single-file libraries, which keep them in a comment at the end or the head (stb, miniaudio, …)."""
    found = {}
    for header in sorted([*vendor.rglob("*.h"), *vendor.rglob("*.hpp")]):
        if any(header.parent.glob("LICENSE*")):
            continue
        text = header.read_text(encoding="utf-8", errors="replace")
        comments = re.findall(r"/\*.*?\*/", text, re.DOTALL)
        notices = [c for c in comments if re.search(r"(?i)public domain|permission is hereby granted|unlicense|warranty", c)]
        if notices:
            found[header.relative_to(vendor).as_posix()] = ("\n\n".join(notices) + "\n").encode()
    return found


def bill_of_materials(upstream: Upstream, toolchain: Toolchain, epoch: int) -> bytes:
    """A CycloneDX 1.6 document (PEP 770): what this wheel is made of, with llama.cpp's version and commit.

    Deterministic: the serial number is derived from the content's names, the time is `epoch`.
    """
    llama_cpp = upstream.tree / "vendor" / "llama.cpp"
    version = _cmake_version(llama_cpp / "CMakeLists.txt", "LLAMA")
    mit = DisjunctiveLicense(id="MIT")
    apache = DisjunctiveLicense(name="Apache-2.0 WITH LLVM-exception")
    root = Component(
        name="llama-cpp-python",
        version=upstream.version,
        type=ComponentType.LIBRARY,
        bom_ref="llama-cpp-python",
        licenses=[mit],
        purl=PackageURL("pypi", None, "llama-cpp-python", upstream.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=upstream.sha256)],
        description="Hash: SHA-256 of the source distribution",
    )
    parts = [
        Component(
            name="llama.cpp",
            version=f"{version} (commit {upstream.commit})",
            type=ComponentType.LIBRARY,
            bom_ref="llama.cpp",
            licenses=[mit],
            purl=PackageURL("github", "ggml-org", "llama.cpp", upstream.commit),
        ),
        Component(
            name="ggml",
            version=_cmake_version(llama_cpp / "ggml" / "CMakeLists.txt", "GGML"),
            type=ComponentType.LIBRARY,
            bom_ref="ggml",
            licenses=[mit],
        ),
    ]
    for name in toolchain.linked:
        parts.append(
            Component(
                name=name,
                version=toolchain.name.split()[1] if toolchain.kind == "zig" else None,
                type=ComponentType.LIBRARY,
                bom_ref=name,
                licenses=[mit if name == "zig" else apache],
                description=f"Linked statically by {toolchain.name}",
            )
        )
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"llama-cpp-python {upstream.sha256} {toolchain.name}")
    metadata = BomMetaData(component=root, timestamp=datetime.datetime.fromtimestamp(epoch, datetime.UTC))
    bom = Bom(components=parts, metadata=metadata, serial_number=serial)
    bom.register_dependency(root, parts)
    return (JsonV1Dot6(bom).output_as_string(indent=2) + "\n").encode()


def _cmake_version(file: Path, prefix: str) -> str:
    """``0.5.0`` from ``set(LLAMA_VERSION_MAJOR 0)`` and its sisters, or ``unknown``."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    numbers = [re.search(rf"set\({prefix}_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] if number else "0" for number in numbers) if any(numbers) else "unknown"
