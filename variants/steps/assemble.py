"""The raw wheel: the core with its licences, its software bill of materials and its build number."""

from __future__ import annotations

import datetime
import functools
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec
from packaging.version import Version

from ..compilers.toolchain import Toolchain
from ..errors import WheelError
from ..matrix import DESCRIPTION
from ..platforms import PLATFORMS
from ..terminal import disk
from ..upstream.source import Upstream
from ..wheel import archive, budget

_KNOWN = Path(__file__).parent / "core.toml"
#: What `python -m llama_cpp` and `verify` say of the core.
CORE = "llama_cpp/lib/core.json"


class Core(msgspec.Struct, frozen=True):
    """What core.json, which CMakeLists.txt writes into every wheel, says of its core: the `fingerprint` in its SONAMEs, the
    `toolchain` with its versions, the `platform` by its name in the matrix, the wheel platform that the toolchain promises (`tag`,
    empty: whatever the repair tool finds), and its CPU `plugins`."""

    fingerprint: str
    toolchain: str
    platform: str
    plugins: list[str]
    tag: str = ""
    libraries: list[str] = []


def read_core(wheel: Path) -> Core:
    """The core in a wheel.

    Raises:
        WheelError: it has none, or one of a platform that nobody knows.
    """
    try:
        with archive.open_wheel(wheel) as opened:
            core = decode(opened.read(CORE))
    except (KeyError, ValueError) as error:
        raise WheelError(f"{wheel} has no readable {CORE}: it has no core of ours.", "Build the core again.") from error
    if core.platform not in PLATFORMS:
        raise WheelError(f'{wheel} is of a platform "{core.platform}" that nobody knows.', "Build the core again.")
    return core


def decode(content: bytes) -> Core:
    """The core that a core.json describes.

    Raises:
        ValueError: it does not describe one, or names that are no names of files.
    """
    core = budget.json(content, Core)
    names = [core.fingerprint, *core.plugins, *core.libraries]
    if wrong := next((name for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", name)), None):
        raise ValueError(f"{wrong[:60]!r} is no name")
    if len(names) > 1000:
        raise ValueError(f"it names {len(names)} libraries")
    return core


def changes(core: Core, version: str) -> tuple[list[str], bool]:
    """What llama.cpp has added to the core or dropped from it, compared with the release that somebody last looked at
    (``variants/steps/core.toml``), and whether upstream's `version` is no older than that one: then somebody must look again."""
    known = known_core()
    plugins = {name.removeprefix("ggml-") for name in core.plugins}
    pairs = (("library", set(core.libraries), set(known.libraries)), ("CPU plugin", plugins, set(known.plugins[core.platform])))
    rows = [f"{what} {name}: {'added' if name in new else 'dropped'}" for what, new, old in pairs for name in sorted(new ^ old)]
    return rows, Version(version) >= Version(known.release)


class KnownCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``core.toml``: the `release` of llama-cpp-python that somebody last looked at, its `libraries`, its CPU `plugins` by
    platform, the files of its `package`, `ours` beside them, what it `requires`, and its `entry_points` by group and name."""

    release: str
    libraries: list[str]
    package: list[str]
    ours: list[str]
    requires: list[str]
    entry_points: dict[str, dict[str, str]]
    plugins: dict[str, list[str]]


@functools.cache
def known_core() -> KnownCore:
    """What a core is made of, as somebody has looked at it."""
    return msgspec.toml.decode(_KNOWN.read_bytes(), type=KnownCore)


def document(core_wheel: Path, target_dir: Path, upstream: Upstream, toolchain: Toolchain, epoch: int) -> Path:
    """Write the core as a part that stands for itself: tagged for its platform, with its licences and its bill of materials.

    Raises:
        WheelError: `core_wheel` is damaged.
    """
    *stem, made_for = core_wheel.stem.split("-")  # by the machine that compiled it
    raw = f"linux_{toolchain.platform.processor}" if toolchain.platform.system == "Linux" else toolchain.tag or made_for
    target = target_dir / ("-".join([*stem, raw]) + ".whl")
    with archive.open_wheel(core_wheel) as opened:
        info, files = archive.dist_info(opened), opened.files()
        files |= {f"{info}/licenses/{name}": licence for name, licence in licences(upstream, toolchain).items()}
        files[f"{info}/sboms/llama_cpp_python.cdx.json"] = bill_of_materials(upstream, toolchain, epoch)
        files[f"{info}/WHEEL"] = with_tag(text(opened, f"{info}/WHEEL"), "-".join([*stem[-2:], raw]))
        disk.remove(target_dir)
        archive.write(target, files, epoch)
    return target


def text(opened: archive.Archive, name: str) -> bytes:
    """One of the texts of dist-info.

    Raises:
        WheelError: it is missing, or not UTF-8.
    """
    try:
        content = opened.read(name)
        content.decode()
    except (KeyError, ValueError) as error:
        raise WheelError(f"{opened.filename} has no readable {name} ({error}).", "Build it again.") from error
    return content


def assemble(
    part: Path, target_dir: Path, build_number: int | None, epoch: int, extra: Mapping[str, archive.Source] | None = None
) -> Path:
    """Write the raw wheel of a core's `part` into `target_dir` and return its path.

    `extra`: files of a plugin, by their names in the wheel. A build number (PEP 427) makes installers prefer this file to another
    of the same version.

    Raises:
        WheelError: `part` is damaged, or the plugin was built against another core.
    """
    with archive.open_wheel(part) as opened:
        info, files = archive.dist_info(opened), opened.files() | dict(extra or {})
        if DESCRIPTION in files:
            core, wanted = read_core(part).fingerprint, _core_of(b"".join(archive.pieces(files[DESCRIPTION])), part)
            if core != wanted:
                raise WheelError(
                    f"The plugin is of core {wanted}, {part} has core {core}: they would not load together.",
                    "Build the plugin against this core: its part and the core's must come from one run.",
                )
        parts = part.name.split("-")
        if build_number is not None:
            parts.insert(2, str(build_number))
            files[f"{info}/WHEEL"] = _with_build(text(opened, f"{info}/WHEEL"), build_number)
        target = target_dir / "-".join(parts)
        archive.write(target, files, epoch)
    return target


class _Described(msgspec.Struct, frozen=True):
    """Of plugin.json, what is asked of it here."""

    core: str


def _core_of(description: bytes, part: Path) -> str:
    """The core that a plugin.json says the plugin was built against."""
    try:
        return budget.json(description, _Described).core
    except ValueError as error:
        raise WheelError(f"The plugin for {part} has a damaged description: {error}.", "Build the plugin again.") from error


def with_tag(wheel_file: bytes, tag: str) -> bytes:
    """A WHEEL file with this tag (``py3-none-win_amd64``) and no other."""
    lines = [line for line in wheel_file.decode().splitlines() if line and not line.startswith("Tag:")]
    return ("\n".join([*lines, f"Tag: {tag}"]) + "\n").encode()


def _with_build(wheel_file: bytes, build_number: int) -> bytes:
    lines = [line for line in wheel_file.decode().splitlines() if line and not line.startswith("Build:")]
    tag = next((i for i, line in enumerate(lines) if line.startswith("Tag:")), len(lines))
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
            raise WheelError(f"Upstream has no {path} any more, which {name} is taken from.", "Adapt variants/steps/assemble.py.")
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


_LINKED = {"zig": "MIT", "mingw-w64": "ZPL-2.1"}  # SPDX identifiers


def bill_of_materials(upstream: Upstream, toolchain: Toolchain, epoch: int) -> bytes:
    """A CycloneDX 1.6 document (PEP 770): what this wheel is made of, with llama.cpp's version and commit.

    Deterministic: the serial number is derived from the content's names, the time is `epoch`.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    llama_cpp = upstream.tree / "vendor" / "llama.cpp"
    version = _cmake_version(llama_cpp / "CMakeLists.txt", "LLAMA")
    mit, apache = DisjunctiveLicense(id="MIT"), DisjunctiveLicense(name="Apache-2.0 WITH LLVM-exception")
    root = Component(
        name="llama-cpp-python",
        version=upstream.version,
        type=ComponentType.LIBRARY,
        bom_ref="llama-cpp-python",
        licenses=[mit],
        purl=PackageURL("pypi", None, "llama-cpp-python", upstream.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=upstream.sha256)] if upstream.sha256 else [],
        description="Hash: SHA-256 of the source distribution" if upstream.sha256 else "Built from its repository",
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
                licenses=[DisjunctiveLicense(id=_LINKED[name]) if name in _LINKED else apache],
                description=f"Linked statically by {toolchain.name}",
            )
        )
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"llama-cpp-python {upstream.content} {toolchain.name}")
    metadata = BomMetaData(component=root, timestamp=datetime.datetime.fromtimestamp(epoch, datetime.UTC))
    bom = Bom(components=parts, metadata=metadata, serial_number=serial)
    bom.register_dependency(root, parts)
    return (JsonV1Dot6(bom).output_as_string(indent=2) + "\n").encode()


def _cmake_version(file: Path, prefix: str) -> str:
    """``0.5.0`` from ``set(LLAMA_VERSION_MAJOR 0)`` and its sisters, or ``unknown``."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    numbers = [re.search(rf"set\({prefix}_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] if number else "0" for number in numbers) if any(numbers) else "unknown"
