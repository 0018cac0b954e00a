"""Upstream's source: the pin in ``vendor/upstream.toml``, its download, its safe unpacking, and what the tree says of itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..errors import CommandError, SourceError
from ..terminal import disk, process
from ..terminal.console import console
from ..wheel import budget
from ..wheel.archive import headers, sha256

ROOT = Path(__file__).parent.parent.parent
VENDOR = ROOT / "vendor"
PIN = VENDOR / "upstream.toml"
TREE = VENDOR / "llama_cpp_python"
#: Folders of llama_cpp/ with source of ours that is compiled into the libraries, and is no part of a wheel.
COMPILED = ("boundary", "guard", "threads")
#: Libraries that upstream's bindings open by these names.
OPENED = ("llama", "ggml", "mtmd")
_STAMP = ".unpacked-from-sha256"

# An sdist of llama-cpp-python has about 4,000 files and 220 MB (0.3.36). Ten times that is no longer one.
_MAX_FILES = 40_000
_MAX_BYTES = 2_000_000_000
# Bytes that are read at once: names, of which a hostile one is as long as it says, and pieces of files.
_MAX_PIECE = 1_000_000
# Seconds since 1970: a zip archive, which gets this time, goes up to the year 2107.
_NEVER = 4_000_000_000


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``vendor/upstream.toml``: distribution name, version, and the SHA-256 (hex) of its sdist; or the `path` of a tree that is
    there already, relative to the repository (``.`` where upstream's own repository has adopted this one: docs/adopting.md)."""

    name: str = "llama-cpp-python"
    version: str = ""
    sha256: str = ""
    path: str | None = None

    @property
    def archive(self) -> str:
        """File name of the sdist (PEP 625)."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


class Upstream(msgspec.Struct, frozen=True):
    """The unpacked tree and what was read from it.

    sha256: of the sdist, empty for a tree named by its path. epoch: seconds since 1970, the newest time in the sdist, for
    SOURCE_DATE_EPOCH. commit: llama.cpp's, as upstream's changelog states it, or ``unknown``. content: SHA-256 over what is
    compiled, the same for an sdist and for the repository it was made of.
    """

    tree: Path
    version: str
    sha256: str
    epoch: int
    commit: str
    content: str


def read_pin(file: Path = PIN) -> Pin:
    """The pin.

    Raises:
        SourceError: the file is missing or wrong.
    """
    try:
        pin: Pin = budget.toml(file, Pin)
        if pin.path is not None:
            return msgspec.structs.replace(pin, version=_version_of(ROOT / pin.path))
        Version(pin.version)
        if not re.fullmatch("[0-9a-f]{64}", pin.sha256):
            raise ValueError("`sha256` is not 64 hexadecimal digits")
        if not re.fullmatch("[A-Za-z0-9._-]+", pin.name):
            raise ValueError("`name` is no distribution name")
    except (OSError, ValueError) as error:
        raise SourceError(f"{file}: {error}.", f"Restore it: `git checkout -- {os.path.relpath(file, ROOT)}`.") from error
    return pin


def release(version: str | None) -> Path:
    """The folder with the pin and the tree of this release: ``vendor/``, or one of its own below it, made on first use.

    Raises:
        SourceError: that is no version number, there is no such release, or the pin names a tree by its path.
    """
    if version is None or (not PIN.is_file()) or read_pin().version == version:
        return VENDOR
    if (pin := read_pin()).path is not None:
        raise SourceError(f"{PIN} names the tree in {pin.path}, which is {pin.version}.", "Leave out --upstream.")
    try:
        folder = VENDOR / "releases" / str(Version(version))
    except InvalidVersion as error:
        raise SourceError(f'"{version}" is no version number.', "Name a release of llama-cpp-python, as in `0.3.36`.") from error
    if not (folder / PIN.name).is_file():
        with disk.replacing(folder) as part:
            part.mkdir(parents=True)
            (part / PIN.name).write_text(PIN.read_text(encoding="utf-8"), encoding="utf-8")
            _move(pin, folder.name, part / PIN.name)
    return folder


def vendor(lock: disk.Lock, version: str | None = None, vendor_dir: Path = VENDOR) -> Upstream:
    """Make sure that upstream's tree is there: download, check, unpack; nothing where the stamp says that all is done.

    With `version`, the pin moves there: the new archive's hash is written into the pin and the old tree is removed.

    Raises:
        SourceError: no network, no such release, another hash than the pinned one, or a hostile archive.
    """
    disk.remove_leftovers(lock, vendor_dir)
    pin_file, tree = vendor_dir / PIN.name, vendor_dir / TREE.name
    pin = read_pin(pin_file)
    if pin.path is not None:
        if version not in (None, pin.version):
            raise SourceError(f"{pin_file} names the tree in {pin.path}, which is {pin.version}.", "Check that release out there.")
        return read_tree(pin)
    if version is not None and version != pin.version:
        pin = _move(pin, version, pin_file)
    stamp = tree / _STAMP
    if not (stamp.is_file() and (fields := stamp.read_text().split())[:1] == [pin.sha256] and len(fields) == 4):
        archive = _archive(pin, vendor_dir)
        console.print(f"      unpacking {archive.name}", style="dim")
        with disk.replacing(tree) as part:
            epoch = unpack(archive, part)
            (part / _STAMP).write_text(f"{pin.sha256} {epoch} {content(part)} {_package(part)}\n")
            disk.remove(tree)
    return read_tree(pin, tree)


def read_tree(pin: Pin, tree: Path = TREE) -> Upstream:
    """What an unpacked tree says of itself.

    Raises:
        SourceError: it is not there, of another release, or was edited: fingerprint and bill of materials would be false.
    """
    if pin.path is not None:
        tree = ROOT / pin.path
        if not (tree / "vendor" / "llama.cpp" / "CMakeLists.txt").is_file():
            raise SourceError(f"{tree} has no vendor/llama.cpp.", "Fetch it: `git submodule update --init --recursive`.")
        return Upstream(tree, pin.version, "", _newest(tree), _commit(tree, pin.version), content(tree))
    stamp = tree / _STAMP
    if not stamp.is_file():
        raise SourceError(f"Upstream's source is not in {tree}.", "Fetch it: `nox -s vendor`.")
    sha256, epoch, compiled, package = [*stamp.read_text().split(), "0", "", ""][:4]
    if sha256 != pin.sha256:
        raise SourceError(f"{tree} holds another release than {pin.version}, which is pinned.", "Fetch it: `nox -s vendor`.")
    if (content(tree), _package(tree)) != (compiled, package):
        raise SourceError(
            f"{tree} is not what was unpacked there: {_edited(tree, stamp)}. Its wheel would falsely carry the release's hash.",
            f"Take the release: remove {tree} and run `nox -s vendor`. To build your own changes, copy the tree elsewhere\n"
            f'and name it in {PIN.name}: `path = "../my-llama-cpp-python"` in place of version and hash.',
        )
    return Upstream(tree, pin.version, pin.sha256, int(epoch), _commit(tree, pin.version), compiled)


def _package(tree: Path) -> str:
    """SHA-256 (hex) over the names and contents of upstream's Python package."""
    digest = hashlib.sha256()
    for path in package_files(tree):
        digest.update(f"{path}\0{sha256(tree / path)}\n".encode())
    return digest.hexdigest()


def _edited(tree: Path, stamp: Path) -> str:
    """Files that are newer than the stamp, a few of them; what was removed, or dated back, leaves no trace."""
    unpacked = stamp.stat().st_mtime_ns
    folders = [tree / "llama_cpp", *(tree / "vendor" / "llama.cpp" / name for name in _COMPILED)]
    files = (path for top in folders for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file())
    newer = [
        str(path.relative_to(tree)) for path in files if path.stat().st_mtime_ns > unpacked and "__pycache__" not in path.parts
    ]
    return f"{', '.join(newer[:3])}{' and others' if len(newer) > 3 else ''} changed" if newer else "a file was changed or removed"


def _version_of(tree: Path) -> str:
    """``__version__`` in a tree's ``llama_cpp/__init__.py``.

    Raises:
        ValueError: there is none.
    """
    file = tree / "llama_cpp" / "__init__.py"
    found = re.search(r'^__version__\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"`path`: {file} has no __version__")
    return found[1]


# What CMakeLists.txt compiles of llama.cpp, and not what an sdist leaves out.
_COMPILED = ("CMakeLists.txt", "cmake", "common", "ggml", "include", "src", "tools/mtmd", "vendor")


def content(tree: Path) -> str:
    """SHA-256 (hex) over the names and contents of what is compiled from an upstream tree."""
    llama_cpp = tree / "vendor" / "llama.cpp"
    digest = hashlib.sha256()
    for name in _COMPILED:
        top = llama_cpp / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                digest.update(f"{path.relative_to(llama_cpp).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _newest(tree: Path) -> int:
    """When a tree that is no sdist was last changed (seconds since 1970): its commit's time, else its newest file's."""
    if (tree / ".git").exists():
        text = process.output(["git", "-C", tree, "log", "-1", "--format=%ct"]).strip()
        if text.isdecimal():
            return int(text)
    return max(int(path.stat().st_mtime) for path in (tree / "llama_cpp").rglob("*.py"))


def _commit(tree: Path, version: str) -> str:
    """The newest ``llama.cpp@COMMIT`` in the changelog at or below the heading of `version`."""
    changelog = tree / "CHANGELOG.md"
    if changelog.is_file():
        _, _, below = changelog.read_text(encoding="utf-8").partition(f"## [{version}]")
        if match := re.search(r"llama\.cpp@([0-9a-f]{7,40})", below):
            return match[1]
    return "unknown"


def _move(pin: Pin, version: str, pin_file: Path) -> Pin:
    try:
        version = str(Version(version))
    except InvalidVersion as error:
        raise SourceError(f'"{version}" is no version number.', "Name a release of llama-cpp-python, as in `0.3.36`.") from error
    moved = Pin(pin.name, version, _hash_on_index(Pin(pin.name, version), pin_file.parent))
    archive = _download(moved, pin_file.parent)
    with tempfile.TemporaryDirectory() as scratch:  # a hostile archive must not become the pin
        unpack(archive, Path(scratch) / "tree")
    text = pin_file.read_text(encoding="utf-8")
    text = re.sub(r'(?m)^(version\s*=\s*)".*"', rf'\g<1>"{moved.version}"', text)
    text = re.sub(r'(?m)^(sha256\s*=\s*)".*"', rf'\g<1>"{moved.sha256}"', text)
    with disk.replacing(pin_file) as part:
        part.write_text(text, encoding="utf-8")
    if pin.archive != moved.archive:
        disk.remove(pin_file.parent / pin.archive)
    console.print(f"{pin_file.name}: {pin.version} -> {moved.version}, sha256 {moved.sha256}")
    return moved


def fetch(pin: Pin, folder: Path) -> Path:
    """Another project's pinned sdist, in `folder`: fetched by pip, or put there by hand. Nothing in it is run.

    Raises:
        SourceError: no network, no such release, or another hash than the pinned one.
    """
    return _archive(pin, folder, stand_in=True)


def _archive(pin: Pin, vendor_dir: Path, stand_in: bool = False) -> Path:
    """The pinned sdist, downloaded unless a file of the right hash already lies in `vendor_dir` (offline, air-gapped use)."""
    archive = vendor_dir / pin.archive
    if archive.is_file() and (found := sha256(archive)) != pin.sha256:
        console.print(f"{archive.name} has sha256 {found}, not the pinned one: fetching it anew")
        archive.unlink()
    return archive if archive.is_file() else _download(pin, vendor_dir, stand_in)


def newest(name: str) -> str:
    """The newest release that has an sdist on the user's index.

    Raises:
        SourceError: pip finds none.
    """
    arguments = [sys.executable, "-m", "pip", "index", "versions", name, "--no-binary", name]
    said = process.output(arguments, env=_pip_environment())
    found = re.search(r"(?m)^Available versions: ([^\s,]+)", said)
    if not found:
        raise SourceError(
            f"pip finds no release of {name}. It said:\n{said[-500:]}",
            "Check the network and pip's index settings (`pip config list`).",
        )
    return found[1]


#: No file has it: pip fetches one, says what its hash is, and does nothing more with it.
_NO_HASH = "0" * 64


def _hash_on_index(pin: Pin, vendor_dir: Path) -> str:
    """SHA-256 (hex) of a release's sdist on the user's index.

    `pip download` runs an sdist's own build backend for its metadata. With a wrong hash it refuses the file before that, and names
    the right one; so nothing of a release runs before its hash is known.

    Raises:
        SourceError: it cannot be fetched.
    """
    try:
        _download(msgspec.structs.replace(pin, sha256=_NO_HASH), vendor_dir)
    except _WrongHashError as error:
        return error.found
    raise SourceError(f"pip took {pin.archive} without asking for its hash.", "Is this pip newer than this library? Report it.")


class _WrongHashError(SourceError):
    """The index has another file than the pinned one: its hash is `found`."""

    def __init__(self, pin: Pin, found: str) -> None:
        super().__init__(f"{pin.archive} has sha256 {found}, pinned is {pin.sha256}.", _WRONG_HASH)
        self.found = found


#: pip wants a build backend's word on an sdist's metadata, even to download it. This one says what the sdist says of itself.
_STAND_IN = '''"""Stands in for setuptools while pip downloads: copies PKG-INFO, and runs nothing of the sdist."""
import pathlib, shutil


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "sdist.dist-info")
    folder.mkdir()
    shutil.copyfile("PKG-INFO", folder / "METADATA")
    return folder.name
'''


def _download(pin: Pin, vendor_dir: Path, stand_in: bool = False) -> Path:
    """Fetch the sdist with pip, which knows the user's index, mirror, proxy, certificates and credentials.

    `stand_in`: do not run its build backend, which is setuptools.
    """
    if not shutil.which("pip", path=process.environment()["PATH"]):
        raise SourceError(f"This environment has no pip, which fetches {pin.archive}.", "Run it through nox: `nox -s vendor`.")
    with tempfile.TemporaryDirectory(dir=vendor_dir, prefix=".download.", suffix=".tmp") as scratch:
        requirement = Path(scratch) / "requirements.txt"
        requirement.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
        log = Path(scratch) / "pip.log"
        # The hash is checked before the archive's own metadata hook is run; no build isolation, since the hook's backend
        # (scikit-build-core, or ours in its place) is here already.
        arguments: list[str | Path] = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", pin.name, "--no-build-isolation",
            "--dest", scratch, "--requirement", requirement,
        ]  # fmt: skip
        env = _pip_environment()
        if stand_in:
            backend = Path(scratch) / "stand-in" / "setuptools" / "build_meta.py"
            backend.parent.mkdir(parents=True)
            backend.with_name("__init__.py").touch()  # without one, a real setuptools would be preferred
            backend.write_text(_STAND_IN, encoding="utf-8")
            env["PYTHONPATH"] = str(backend.parent.parent)
        try:
            process.command(arguments, log=log, env=env)
        except CommandError as error:
            raise _download_failure(pin, vendor_dir, log.read_text(encoding="utf-8", errors="replace")) from error
        found = Path(scratch) / pin.archive
        if not found.is_file():
            names = ", ".join(sorted(p.name for p in Path(scratch).iterdir()))
            raise SourceError(f"pip fetched {names}, not {pin.archive}.", "Name a release that has an sdist on your index.")
        if sha256(found) != pin.sha256:
            raise _WrongHashError(pin, sha256(found))
        archive = vendor_dir / pin.archive
        os.replace(found, archive)
    return archive


_WRONG_HASH = (
    "A damaged download or mirror: try again. If it stays so, the release itself was replaced; do not build it, and ask upstream."
)


def _pip_environment() -> dict[str, str]:
    """The environment for pip; who has told only uv where the index is, has told pip as well."""
    env = process.environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    index = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL")
    if index:
        env.setdefault("PIP_INDEX_URL", re.sub(r"^[\w.-]+=(?=[a-z]+:)", "", index))  # uv also takes NAME=URL
    if links := env.get("UV_FIND_LINKS"):
        env.setdefault("PIP_FIND_LINKS", links)
    return env


def _download_failure(pin: Pin, folder: Path, log: str) -> SourceError:
    """What happened and what helps, from pip's output."""
    if "DO NOT MATCH THE HASHES" in log and (found := re.search(r"Got\s+([0-9a-f]{64})", log)):
        return _WrongHashError(pin, found[1])
    if "No space left on device" in log:
        return SourceError(
            f"The disk is full: {pin.archive} could not be stored.", "Free some space and run the same command again."
        )
    versions = re.search(r"from versions: (.+?)\)", log)
    if versions and versions[1] != "none":
        newest = ", ".join(versions[1].split(", ")[-5:])
        return SourceError(f"Your package index has no sdist of {pin.name} {pin.version}.", f"Newest there: {newest}.")
    lines = log.splitlines()
    said = [line for line in lines if re.search(r"^(ERROR|error)|Error: |error while loading|Connection", line)] or lines[-10:]
    last = "\n".join(f"    {line}" for line in said)[-1500:]
    by_hand = "" if pin.sha256 == _NO_HASH else f", or put the file\ninto {folder} by hand (sha256 {pin.sha256})"
    return SourceError(
        f"{pin.archive} could not be fetched. pip said:\n{last}",
        f"Check the network and pip's index settings (`pip config list`){by_hand}.",
    )


def unpack(archive: Path, target: Path) -> int:
    """Unpack an sdist's one top folder as `target` and return the newest time in it (seconds since 1970).

    Takes plain files and folders only: an sdist needs no links or devices, and a path must stay inside.

    Raises:
        SourceError: a path that leads outside, a link, a device, more than one top folder, a bomb, or a damaged archive.
    """
    epoch, files, size = 0, 0, 0
    try:
        with budget.opened(archive) as raw, gzip.GzipFile(fileobj=raw) as plain:
            bounded = _Bounded(plain, archive)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                for member in tar:
                    path = _inside(member, archive)
                    files, size = files + 1, size + member.size
                    if files > _MAX_FILES or size > _MAX_BYTES:
                        raise _hostile(archive, f"unpacks to more than {_MAX_FILES:,} files or {_MAX_BYTES:,} bytes")
                    if not 0 <= member.mtime < _NEVER:
                        raise _hostile(archive, f"holds {member.name!r} of the year {member.mtime / 31_556_952 + 1970:.0f}")
                    if member.isdir() or path is None:
                        continue
                    source = tar.extractfile(member)
                    assert source is not None
                    destination = target / path
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    with destination.open("xb") as stream:
                        shutil.copyfileobj(source, stream)
                    epoch = max(epoch, int(member.mtime))
            while bounded.read(_MAX_PIECE):  # to the end, where gzip keeps its checksum
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError, ValueError, OverflowError) as error:
        raise SourceError(f"{archive} is damaged ({error}).", "Remove the file; the next run fetches it again.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _hostile(archive, f"holds {error.filename} twice") from error
    if not (target / "PKG-INFO").is_file():
        raise _hostile(archive, "has no PKG-INFO: it is no sdist")
    _check_name(archive, target / "PKG-INFO")
    return epoch


class _Bounded(io.RawIOBase):
    """What an archive unpacks to, as far as an sdist goes. tarfile reads a name at once, however long it says that it is."""

    def __init__(self, plain: gzip.GzipFile, archive: Path) -> None:
        self.plain, self.archive, self.left = plain, archive, _MAX_BYTES + 1024 * _MAX_FILES

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.plain.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forwards, as tarfile passes over a member, which is unpacked like one that is read.

        Raises:
            SourceError: that is too far.
        """
        where = self.plain.tell()
        if not whence and offset > where:
            self._spend(offset - where)
        return self.plain.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """As every file's.

        Raises:
            SourceError: it is too much.
        """
        if not 0 <= size <= _MAX_PIECE:
            raise _hostile(self.archive, f"has a name of {size:,} bytes")
        content = self.plain.read(size)
        self._spend(len(content))
        return content

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _hostile(self.archive, f"unpacks to more than {_MAX_BYTES:,} bytes")


def _check_name(archive: Path, file: Path) -> None:
    """Is the sdist the one of its file name, by its own PKG-INFO?

    Raises:
        SourceError: it is another project's, or another version.
    """
    name, _, version = archive.name.removesuffix(".tar.gz").rpartition("-")
    try:
        info = headers(budget.read(file))
        found = canonicalize_name(info["Name"] or ""), Version(info["Version"] or "")
        if found != (canonicalize_name(name), Version(version)):
            raise ValueError(f"it is {info['Name']} {info['Version']}")
    except ValueError as error:
        raise _hostile(archive, f"is not the sdist of {name} {version} by its PKG-INFO: {error}") from error


def _inside(member: tarfile.TarInfo, archive: Path) -> PurePosixPath | None:
    """The member's path below the top folder (None for that folder itself)."""
    path = PurePosixPath(member.name)
    if len(member.name) > 4096 or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in path.parts):
        raise _hostile(archive, f"has a name of {len(member.name):,} characters")
    if not (member.isreg() or member.isdir()):
        raise _hostile(archive, f"holds {member.name!r}, which is a link or a device")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise _hostile(archive, f"holds {member.name!r}, which leads outside")
    top = archive.name.removesuffix(".tar.gz")
    if path.parts[:1] != (top,):
        raise _hostile(archive, f"holds {member.name!r}, outside its top folder {top!r}")
    return PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 else None


def _hostile(archive: Path, why: str) -> SourceError:
    return SourceError(f"{archive} {why}.", "Do not use this file. Remove it, and check where your package index got it.")


def package_files(tree: Path) -> Iterator[PurePosixPath]:
    """Every file of upstream's Python package, relative to the tree (``llama_cpp/llama.py``)."""
    for path in sorted((tree / "llama_cpp").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.relative_to(tree).parts[1] not in ("lib", *COMPILED):
            yield PurePosixPath(path.relative_to(tree).as_posix())
