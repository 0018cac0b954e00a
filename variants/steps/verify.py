"""Verify a finished wheel: what will be published, not what came before it. One :class:`Finding` for each thing that is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from .. import matrix, platforms
from ..backends import toolkit
from ..choice import metadata
from ..errors import SourceError, UsageError, WheelError
from ..matrix import DESCRIPTION
from ..platforms import PLATFORMS, Platform
from ..terminal import process
from ..terminal.console import console
from ..upstream import source
from ..upstream.source import Upstream
from ..wheel import archive, binary, budget
from . import assemble, promise, repair
from .assemble import CORE
from .inspected import Finding, Wheel, read
from .members import members, missing_files, record, requirements

__all__ = ["Finding", "Wheel", "members", "missing_files", "read", "record", "requirements"]


def verify(path: Path, upstream: Upstream | None, publishing: bool = True) -> list[Finding]:
    """Everything that is wrong with the wheel at `path`; an empty list for one that may be published (without `publishing`: for one
    that may be used).

    With `upstream` of the same version, also that none of its files is missing.

    Raises:
        WheelError: it cannot be read as a wheel at all.
    """
    wheel = read(path)
    first = [finding for check in FIRST for finding in check(wheel)]
    checks = (*OWN, *(() if first else TOOLS), *((whole,) if publishing else ()))
    found = [*first, *(finding for check in checks for finding in check(wheel)), *requirements(wheel, upstream)]
    return found + (list(missing_files(wheel, upstream)) if upstream else [])


def labels(wheel: Wheel) -> Iterator[Finding]:
    """The label in the file name, variant.json and the matrix agree (PEP 825), or there is none."""
    _, label = archive.split_label(wheel.path.name)
    content = wheel.texts.get(f"{wheel.info}/variant.json")
    try:
        if label is None and content is not None:
            raise ValueError("there is no label in the file name")
        if label is not None:
            if why := archive.label_mistake(label):
                raise ValueError(why)
            found = metadata.read_wheel(content or b"", label)
            variant = wheel.variant
            if variant is None:
                raise ValueError(f"the matrix has no label {label}")
            *_, tags = archive.parse_name(wheel.plain)
            built = matrix.as_built(variant, wheel.texts.get(DESCRIPTION), [tag.platform for tag in tags])
            if found.variant_desc != metadata.dist_info(label, built.properties).variant_desc:
                raise ValueError(f"the matrix has other properties for {label}")
    except (ValueError, UsageError) as error:
        yield Finding(
            f"{wheel.info}/variant.json", f"does not go with the file name ({error})", "Label it again from the plain wheel."
        )


def stands_for(wheel: Wheel) -> Iterator[Finding]:
    """The wheel has the plugin that its label stands for."""
    if wheel.variant and wheel.variant.label and (why := promise.broken(wheel.path, wheel.variant)):
        yield Finding(wheel.path.name, why, "Label the wheel of that variant, not another one.")


def damaged(wheel: Wheel) -> Iterator[Finding]:
    """Every library can be read."""
    for name, why in wheel.damaged.items():
        yield Finding(name, f"damaged library ({why})", "Build the wheel again.")


def names(wheel: Wheel) -> Iterator[Finding]:
    """The file name, METADATA and WHEEL agree in name, version, build number and tags, and the wheel is ours."""
    name, version, build, tags = archive.parse_name(wheel.plain)
    described, header = wheel.header("METADATA"), wheel.header("WHEEL")
    remedy = "Build it again; a wheel cannot be renamed by hand."
    for text in ("METADATA", "WHEEL"):
        try:
            archive.headers(wheel.texts.get(f"{wheel.info}/{text}", b""))
        except ValueError as error:
            yield Finding(f"{wheel.info}/{text}", f"cannot be read ({error})", "Build the wheel again.")
    if name != "llama-cpp-python":
        yield Finding(wheel.path.name, f"is a wheel of {name}, not ours", "Give a wheel of llama-cpp-python.")
    if any(len(described.get_all(key) or []) > 1 for key in ("Name", "Version", "Requires-Python")):
        yield Finding(f"{wheel.info}/METADATA", "has two Names, Versions or Requires-Pythons", "Build the wheel again.")
    if canonicalize_name(described["Name"] or "") != name:
        yield Finding(f"{wheel.info}/METADATA", f"Name is {described['Name']}, the file name says {name}", remedy)
    if described["Version"] != str(version):
        yield Finding(f"{wheel.info}/METADATA", f"Version is {described['Version']}, the file name says {version}", remedy)
    inside: set[Tag] = set()
    for text in header.get_all("Tag") or []:
        try:
            inside |= archive.tags(text)
        except ValueError as error:
            yield Finding(f"{wheel.info}/WHEEL", f"has a tag that is none ({error})", remedy)
    if inside != set(tags):
        says = ", ".join(sorted(map(str, inside))) or "none"
        yield Finding(f"{wheel.info}/WHEEL", f"tags are {says}, the file name says {', '.join(sorted(map(str, tags)))}", remedy)
    number = "".join(str(part) for part in build)
    if (header["Build"] or "") != number:
        yield Finding(f"{wheel.info}/WHEEL", f"Build is {header['Build']}, the file name says {number or 'none'}", remedy)
    if wheel.libraries and header["Root-Is-Purelib"] != "false":
        yield Finding(f"{wheel.info}/WHEEL", "Root-Is-Purelib is not false, but there are libraries", remedy)


def tag(wheel: Wheel) -> Iterator[Finding]:
    """The platform tag is true: not lower than auditwheel's own analysis (Linux) or than the libraries' macOS; one processor."""
    *_, tags = archive.parse_name(wheel.plain)
    names = sorted(tag.platform for tag in tags)
    known = {platforms.of_tag(name) for name in names}
    if len(known) != 1 or None in known:
        yield Finding(
            wheel.path.name, f"platform is {', '.join(names)}, which no index takes", "Repair it: build it again with nox."
        )
        return
    for name, library in wheel.libraries.items():
        if library.machine != wheel.platform.machine or library.format != wheel.platform.format:
            yield Finding(name, f"is {library.format} for {library.machine}, in a wheel for {names[0]}", "Build the wheel again.")
    if wheel.platform.system == "Linux":
        yield from _linux_tag(wheel, names)
    elif wheel.platform.system == "Darwin":
        yield from _macos_tag(wheel, names)


def _macos_tag(wheel: Wheel, names: list[str]) -> Iterator[Finding]:
    """The oldest macOS of the tag is not older than that of any library (PEP 425, "Platform tag")."""
    for platform in names:
        promised = tuple(int(number) for number in re.findall(r"\d+", platform)[:2])
        for name, library in wheel.libraries.items():
            if library.minimum and library.minimum > promised:
                wanted = ".".join(map(str, library.minimum))
                yield Finding(name, f"wants macOS {wanted}, the wheel claims {platform}", "Set MACOSX_DEPLOYMENT_TARGET.")


def _linux_tag(wheel: Wheel, names: list[str]) -> Iterator[Finding]:
    """auditwheel finds no newer libc than the tag says (PEP 600, PEP 656)."""
    with wheel.as_plain() as path:
        keys = ("sym_tag",) if _drivers(wheel) else ("overall", "overall_tag", "tag")  # a driver's library is no matter of libc
        try:
            found = repair.reported_tag(path, *keys)
        except ValueError as error:
            yield Finding(wheel.path.name, f"auditwheel cannot analyse it: {str(error)[-300:]}", "Build it again.")
            return
    for platform in names:
        if platform.startswith("linux_"):  # true where no manylinux tag is (variants/steps/repair.py); `index` refuses it
            if platforms.libc(found):
                yield Finding(
                    wheel.path.name, f"platform is {platform}, which no index takes; {found} is true", "Repair it: build it again."
                )
        elif platforms.libc(found) is None or (platforms.libc(platform) or (0, 0)) < (platforms.libc(found) or (0, 0)):
            wanted = "".join(f"; {row}" for row in repair.too_new(wheel.path, platform))
            yield Finding(
                wheel.path.name,
                f"claims {platform}, but auditwheel finds {found}{wanted}",
                f"See which symbols: `python -m auditwheel show {wheel.path}`.",
            )


def _drivers(wheel: Wheel) -> dict[str, set[str]]:
    """Libraries of the driver's or of other packages that the matrix allows this label's plugin to need, by the plugin's name."""
    foreign = _elsewhere(wheel).foreign
    plugin = wheel.plugin_file
    return {plugin: set(foreign)} if plugin and foreign else {}


def _elsewhere(wheel: Wheel) -> matrix.Libraries:
    """What the matrix says of libraries from elsewhere for this wheel's label and platform."""
    return wheel.variant.table.runtime.on(wheel.platform) if wheel.variant else matrix.Libraries()


def needed(wheel: Wheel) -> Iterator[Finding]:
    """Every NEEDED entry lies beside the library or belongs to the system, a plugin's to the driver; RPATHs lead nowhere else."""
    drivers = _drivers(wheel)
    origin = wheel.platform.origin
    packages = {f"{origin}/../../{folder}" for folder in _elsewhere(wheel).libraries}
    for name, library in wheel.libraries.items():
        folder = name.rpartition("/")[0]
        beside = [other.rpartition("/")[2] for other in wheel.files if other.rpartition("/")[0] == folder]
        for entry in library.lacks([*beside, *drivers.get(name, ())]):
            yield Finding(name, f"needs {entry}, which is neither in the wheel nor part of every system", "Repair or link it.")
        for path in library.rpath:
            allowed = {origin} | (packages if name in drivers else set())
            if path not in allowed:
                yield Finding(name, f"RPATH holds {path}", f"Allowed: {', '.join(sorted(allowed))}.")
        if name in drivers and library.format != "PE" and (missing := packages - set(library.rpath)):
            yield Finding(name, f"RPATH lacks {', '.join(sorted(missing))}", "Build it again: CMakeLists.txt adds it.")


def hardened(wheel: Wheel) -> Iterator[Finding]:
    """No text relocations, no executable stack, no symbol table; on macOS a signature that fits, which Apple silicon wants."""
    for name, library in wheel.libraries.items():
        if library.text_relocations:
            yield Finding(name, "has text relocations, or a fixed address", "Compile it with -fPIC, or link it with --dynamicbase.")
        if library.executable_stack:
            yield Finding(name, "wants an executable stack", "Link it with -Wl,-z,noexecstack.")
        if not library.stripped:
            yield Finding(name, "still has its symbol table", "Link it with -Wl,-s.")
        if library.intact is False or (library.intact is None and library.format == "Mach-O" and library.machine == "aarch64"):
            fact = "is not what its code signature says" if library.intact is False else "has no code signature"
            yield Finding(name, fact, "Sign it last, on a Mac: `codesign --force --sign -`; zig's linker signs as well.")


def build_paths(wheel: Wheel) -> Iterator[Finding]:
    """No path of the machine that built it in a library."""
    for name, path in wheel.build_paths.items():
        yield Finding(name, f"holds the build path {path!r}", "Compile it with -ffile-prefix-map (CMakeLists.txt).")


def duplicates(wheel: Wheel) -> Iterator[Finding]:
    """No library twice: neither the same bytes under two names, nor one SONAME in two files."""
    for what, key in (("bytes", _digest), ("SONAME", _soname)):
        seen: dict[str, str] = {}
        for name in wheel.libraries:
            value = key(wheel, name)
            if value and (twin := seen.setdefault(value, name)) != name:
                yield Finding(name, f"has the same {what} as {twin}", "Set CMAKE_PLATFORM_NO_VERSIONED_SONAME; install it once.")


def _digest(wheel: Wheel, name: str) -> str | None:
    return wheel.files[name].sha256.hex()


def _soname(wheel: Wheel, name: str) -> str | None:
    return wheel.libraries[name].soname


def promised_plugins(wheel: Wheel) -> Iterator[Finding]:
    """The core under its fingerprint, the plugins that core.json names and the one of plugin.json, and no library beside them."""
    try:
        core = budget.json(wheel.texts[CORE], _Core)
    except (KeyError, ValueError):
        yield Finding(CORE, "is missing or damaged", "Build the wheel again.")
        return
    plugins, fingerprint = list(core.plugins), core.fingerprint
    try:
        description = wheel.plugin()
    except ValueError as error:
        yield Finding(DESCRIPTION, f"is damaged ({error})", "Build the wheel again.")
        description = {}
    if description and description.get("core") != fingerprint:
        yield Finding(DESCRIPTION, f"the plugin is of core {description.get('core')}, not {fingerprint}", "Build the wheel again.")
    plugins += [f"ggml-{description['name']}"] if "name" in description else []
    expected = set(_libraries(plugins, fingerprint, wheel.platform))
    for missing in sorted(expected - set(wheel.libraries)):
        yield Finding(wheel.path.name, f"lacks {missing}", "Build the wheel again.")
    for name in _plugins(plugins, wheel.platform):
        if name in wheel.libraries and wheel.libraries[name].plugin is False:
            yield Finding(name, f"exports no {binary.ENTRY}, so ggml cannot load it", "Find out why: its linker hides it.")
    for other in sorted(set(wheel.libraries) - expected):
        yield Finding(other, "is neither of the core nor one of its plugins", "Find out who put it there; CMakeLists.txt did not.")


def whole(wheel: Wheel) -> Iterator[Finding]:
    """The plugin has everything that its toolkit should have put in: a wheel without it is correct, and slower than others."""
    if lacking := lacks(wheel.texts.get(DESCRIPTION)):
        yield Finding(DESCRIPTION, f"the plugin lacks {', '.join(lacking)}, which a published wheel must have", WHOLE)


#: What helps against a plugin that :func:`lacks` something.
WHOLE = "Build it again without --toolkit; this one may be used."


def lacks(description: bytes | None) -> list[str]:
    """What a plugin lacks that a published wheel must have, by its plugin.json."""
    with contextlib.suppress(ValueError):
        return budget.json(description, _Described).lacks if description is not None else []
    return []  # `promised_plugins` tells that it is damaged


class _Core(msgspec.Struct, frozen=True):
    """Of core.json, what is asked of it here."""

    fingerprint: str
    plugins: list[str]
    platform: str = ""
    toolchain: str = ""


class _Described(msgspec.Struct, frozen=True):
    """Of plugin.json, what a published wheel depends on."""

    lacks: list[str] = []


def _libraries(plugins: Iterable[str], fingerprint: str, platform: Platform) -> list[str]:
    """The names in a wheel of the core's libraries, of those that upstream's bindings open, and of these plugins."""
    core = (f"{name}-{fingerprint}" for name in assemble.known_core().libraries)
    libraries = [platform.library(name) for name in (*source.OPENED, *core)]
    return [*_plugins(plugins, platform), *(f"llama_cpp/lib/{name}" for name in libraries)]


def _plugins(plugins: Iterable[str], platform: Platform) -> list[str]:
    """The names in a wheel of these plugins (``ggml-vulkan``)."""
    return [f"llama_cpp/lib/{platform.plugin(name.removeprefix('ggml-'))}" for name in plugins]


def documents(wheel: Wheel) -> Iterator[Finding]:
    """Licences (of upstream and llama.cpp) and a software bill of materials that names llama.cpp (PEP 770) are there."""
    for name in ("licenses/llama-cpp-python/LICENSE.md", "licenses/llama.cpp/LICENSE"):
        if not (f"{wheel.info}/{name}" in wheel.files and wheel.files[f"{wheel.info}/{name}"].size):
            yield Finding(wheel.path.name, f"lacks {wheel.info}/{name}", "Build the wheel again.")
    if not wheel.bill:
        yield Finding(wheel.path.name, "has no bill of materials that names llama.cpp", "Build the wheel again.")


def twine(wheel: Wheel) -> Iterator[Finding]:
    """`twine check --strict` passes: an index will take it and can render its description."""
    code, text = _tool(wheel, "twine", "check", "--strict")
    if code:
        for fact in re.findall(r"(?:ERROR|WARNING)\s+(.+)", text) or [text.strip()[-300:]]:
            yield Finding(wheel.path.name, f"twine: {fact.strip().rstrip('.')}", "Correct the metadata.")


def check_wheel_contents(wheel: Wheel) -> Iterator[Finding]:
    """`check-wheel-contents` passes, but for W004 ("not importable") on our libraries, which are opened, and on PyInstaller's hook,
    whose name PyInstaller prescribes."""
    code, text = _tool(wheel, "check_wheel_contents", "--no-config")
    ours = assemble.known_core().ours
    if code:
        complaints = re.findall(r": (W\d+): (.+)\n((?:  .+\n?)*)", text)
        for number, fact, files in complaints or [("", text.strip()[-300:], "")]:
            named = [name for name in files.split() if not (number == "W004" and (name in wheel.libraries or name in ours))]
            if named or not files:
                what = f"check-wheel-contents: {number} {fact.rstrip(':')} {', '.join(named[:5])}"
                yield Finding(wheel.path.name, what.strip(), "Remove or rename what it names.")


def _tool(wheel: Wheel, module: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a Python tool that reads a wheel."""
    with tempfile.TemporaryDirectory() as folder, wheel.as_plain() as path:
        log = Path(folder) / "log.txt"
        code = _quietly([sys.executable, "-m", module, *arguments, path], log)
        _, _, text = log.read_text(encoding="utf-8", errors="replace").partition("\n")  # the command
    return code, text


def _quietly(arguments: list[str | Path], log: Path) -> int:
    was, console.quiet = console.quiet, True
    try:
        return process.command(arguments, log=log, env=process.environment(NO_COLOR="1", COLUMNS="500"), check=False)
    finally:
        console.quiet = was


def upstream_here() -> Upstream | None:
    """The pinned upstream, to compare wheels with; None, and why, where it is not here."""
    try:
        return source.read_tree(source.read_pin())
    except SourceError as error:
        console.print(f"Wheels are not compared with upstream's files. {error.what} {error.remedy}")
        return None


Checks = tuple[Callable[[Wheel], Iterator[Finding]], ...]
#: Its files are those of a wheel of ours. Where they are not, no program of other people's gets to read it.
FIRST: Checks = (record, members, names, damaged)
OWN: Checks = (labels, stands_for, needed, hardened, build_paths, duplicates, promised_plugins, documents)
TOOLS: Checks = (tag, twine, check_wheel_contents)
CHECKS: Checks = (*FIRST, *OWN, *TOOLS)


def same_core(paths: Iterable[Path]) -> Iterator[Finding]:
    """Wheels of one version and platform have one core, the same bytes of it, whatever their label: it was compiled once.

    Raises:
        WheelError: one of them cannot be read.
    """
    seen: dict[tuple[str, str], tuple[Path, str]] = {}
    cores: dict[tuple[str, str], tuple[Path, str]] = {}
    for path in paths:
        with contextlib.suppress(KeyError, ValueError), archive.open_wheel(path) as opened:
            core = budget.json(opened.read(CORE), _Core)
            made = str(archive.parse_name(archive.plain_path(path))[1]), core.platform
            first, name_of = cores.setdefault(made, (path, core.fingerprint))
            if core.fingerprint != name_of:
                fact = f"has core {core.fingerprint} ({core.toolchain}), and {first.name} has {name_of}"
                yield Finding(path.name, fact, "Build both again, with the same toolchain: one core serves all.")
            for name in _libraries(core.plugins, core.fingerprint, PLATFORMS[core.platform]):
                digest = _hash(opened, name)
                other, expected = seen.setdefault((core.fingerprint, name), (path, digest))
                if digest != expected:
                    fact = f"{name} is not the one of {other.name}, though both are core {core.fingerprint}"
                    yield Finding(path.name, fact, "Build both again: one core serves all.")


def _hash(opened: archive.Archive, name: str) -> str:
    found = hashlib.sha256()
    for piece in opened.pieces(name):
        found.update(piece)
    return found.hexdigest()


def require(path: Path, upstream: Upstream | None) -> None:
    """Verify, and let a wheel that should not be used go no further.

    Raises:
        WheelError: with every finding, one a line.
    """
    if findings := verify(path, upstream, publishing=False):
        lines = "\n".join(f"  {finding}" for finding in findings)
        raise WheelError(f"{path.name} does not pass verification:\n{lines}", "Nothing was put into dist/.")


def describe_plugin(path: Path) -> str | None:
    """One line about the GPU plugin in a wheel and what its tools could do, from its plugin.json; None where it has none."""
    with contextlib.suppress(ValueError, KeyError), archive.open_wheel(path) as opened:
        facts = budget.json(opened.read(DESCRIPTION), dict[str, object])
        tools = facts.get("toolkit")
        if isinstance(tools, dict):
            return f"plugin {facts.get('name')} of core {facts.get('core')}; {'; '.join(toolkit.told(tools))}"
    return None


def summary(findings: Mapping[Path, list[Finding]]) -> str:
    """``2 wheels verified, 1 finding``."""
    total = sum(len(rows) for rows in findings.values())
    return f"{len(findings)} wheel{'s' * (len(findings) != 1)} verified, {total} finding{'s' * (total != 1)}"
