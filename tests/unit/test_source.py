"""Upstream's source: the pin, hostile archives, stamps, moving; with real archives and a real pip on a local folder."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from variants.errors import SourceError
from variants.terminal import disk, process
from variants.upstream import metadata_provider, source

Member = tuple[str, bytes]
PYPROJECT = b"""[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# The smallest build backend that lets `pip download` read the sdist's metadata.
BACKEND = b"""
import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "llama_cpp_python-VERSION.dist-info"); info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: VERSION\\n")
    return info.name
def build_wheel(*_): raise SystemExit(1)
"""
CHANGELOG = b"## [9.9.8]\n\n- llama.cpp@1111111\n\n## [9.9.7]\n\n- fix\n- feat: update llama.cpp to ggml-org/llama.cpp@abcdef012\n"


LOCK = disk.Lock(Path())


def archive(path: Path, members: list[Member], links: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            tar.addfile(info, io.BytesIO(content))
        for link in links or []:
            tar.addfile(link)
    return path


def sdist(folder: Path, version: str = "9.9.7", extra: bytes = b"") -> Path:
    """A real, if small, sdist that pip accepts."""
    top = f"llama_cpp_python-{version}"
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n".encode(),
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND.replace(b"VERSION", version.encode()),
        "CHANGELOG.md": CHANGELOG,
        "llama_cpp/__init__.py": b"from .llama_cpp import *\n" + extra,
    }
    return archive(folder / f"{top}.tar.gz", [(f"{top}/{name}", content) for name, content in members.items()])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def vendor_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vendor folder whose pin names an sdist in a local folder, which is all that pip may look at."""
    index, folder = tmp_path / "index", tmp_path / "vendor"
    index.mkdir()
    folder.mkdir()
    file = sdist(index)
    (folder / "upstream.toml").write_text(
        f'# kept\nname    = "llama-cpp-python"\nversion = "9.9.7"\nsha256  = "{sha256(file)}"\n', encoding="utf-8"
    )
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return folder


@pytest.fixture
def fetched(vendor_dir: Path, tmp_path: Path) -> Path:
    """The same after the download, where what pip does is not the question."""
    shutil.copy(tmp_path / "index" / "llama_cpp_python-9.9.7.tar.gz", vendor_dir)
    return vendor_dir


def test_the_real_pin_is_valid() -> None:
    assert source.read_pin().name == "llama-cpp-python"


def test_fetch_once_then_work_offline(vendor_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = source.vendor(LOCK, vendor_dir=vendor_dir)
    assert (upstream.version, upstream.commit, upstream.epoch) == ("9.9.7", "abcdef012", 1_700_000_000)
    assert (upstream.tree / "llama_cpp" / "__init__.py").read_bytes().startswith(b"from .llama_cpp")
    assert [str(path) for path in source.package_files(upstream.tree)] == ["llama_cpp/__init__.py"]
    assert not list(vendor_dir.glob(".*.tmp"))

    def fail(*_: object, **__: object) -> int:
        raise AssertionError("a second run does nothing")

    monkeypatch.setattr(process, "command", fail)
    monkeypatch.setattr(source, "unpack", fail)
    assert source.vendor(LOCK, vendor_dir=vendor_dir) == upstream


def test_unpacks_again_offline(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removed or unfinished tree comes back from the archive beside it, without the network."""
    upstream = source.vendor(LOCK, vendor_dir=fetched)
    shutil.rmtree(upstream.tree)
    (fetched / ".llama_cpp_python.123.tmp").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert source.vendor(LOCK, vendor_dir=fetched) == upstream
    assert not list(fetched.glob(".*.tmp"))


def test_leftovers_of_a_killed_download_go(fetched: Path) -> None:
    (fetched / ".download.abc.tmp").mkdir()
    source.vendor(LOCK, vendor_dir=fetched)
    assert not list(fetched.glob(".download*"))


@pytest.mark.parametrize("how", ["edited", "edited and dated back", "removed", "added"])
def test_an_edited_tree_is_no_release(fetched: Path, how: str) -> None:
    """The content decides, not the stamp: what was changed by hand does not pass for what upstream released."""
    upstream = source.vendor(LOCK, vendor_dir=fetched)
    file = upstream.tree / "llama_cpp" / "__init__.py"
    times = file.stat()
    if how == "removed":
        file.unlink()
    elif how == "added":
        (upstream.tree / "vendor" / "llama.cpp" / "src").mkdir(parents=True, exist_ok=True)
        (upstream.tree / "vendor" / "llama.cpp" / "src" / "more.cpp").write_text("int x;")
    else:
        file.write_bytes(file.read_bytes() + b"# mine\n")
        if how != "edited":
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SourceError, match="is not what was unpacked there") as caught:
        source.vendor(LOCK, vendor_dir=fetched)
    assert "path = " in caught.value.remedy
    if how == "edited":
        assert "llama_cpp/__init__.py changed" in caught.value.what


def test_tree_of_another_release(fetched: Path) -> None:
    upstream = source.vendor(LOCK, vendor_dir=fetched)
    pin = source.Pin("llama-cpp-python", "9.9.8", "0" * 64)
    with pytest.raises(SourceError, match="holds another release"):
        source.read_tree(pin, upstream.tree)


def test_damaged_archive_is_fetched_anew(fetched: Path) -> None:
    source.vendor(LOCK, vendor_dir=fetched)
    shutil.rmtree(fetched / "llama_cpp_python")
    (fetched / "llama_cpp_python-9.9.7.tar.gz").write_bytes(b"half a file")
    assert source.vendor(LOCK, vendor_dir=fetched).version == "9.9.7"


def test_wrong_hash(vendor_dir: Path, tmp_path: Path) -> None:
    sdist(tmp_path / "index", extra=b"# not what was pinned\n")
    with pytest.raises(SourceError) as caught:
        source.vendor(LOCK, vendor_dir=vendor_dir)
    assert sha256(tmp_path / "index" / "llama_cpp_python-9.9.7.tar.gz") in caught.value.what
    assert "ask upstream" in caught.value.remedy
    assert [path.name for path in vendor_dir.iterdir()] == ["upstream.toml"]


def test_no_index(vendor_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(SourceError) as caught:
        source.vendor(LOCK, vendor_dir=vendor_dir)
    assert "could not be fetched" in caught.value.what
    assert "by hand" in caught.value.remedy


def test_no_network(vendor_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that nobody answers for: the error comes from a real refused connection."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SourceError) as caught:
        source.vendor(LOCK, vendor_dir=vendor_dir)
    assert "could not be fetched" in caught.value.what
    assert "Check the network" in caught.value.remedy


def test_uv_settings_reach_pip(vendor_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who has configured only uv need not configure pip."""
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    assert source.vendor(LOCK, vendor_dir=vendor_dir).version == "9.9.7"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "mirror=http://127.0.0.1:9/simple/")
    assert source._pip_environment()["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple/"


def test_move_the_pin(fetched: Path, tmp_path: Path) -> None:
    source.vendor(LOCK, vendor_dir=fetched)
    newer = sdist(tmp_path / "index", "9.9.8")
    upstream = source.vendor(LOCK, "9.9.8", fetched)
    assert (upstream.version, upstream.commit) == ("9.9.8", "1111111")
    text = (fetched / "upstream.toml").read_text(encoding="utf-8")
    assert text.startswith("# kept\n")
    assert sha256(newer) in text
    assert not (fetched / "llama_cpp_python-9.9.7.tar.gz").exists()


def test_nothing_of_a_release_runs_before_its_hash_is_known(
    vendor_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sdist's own build backend would write a file: when pip runs it, the hash of the file is already asked for."""
    marker = tmp_path / "ran"
    monkeypatch.setitem(globals(), "BACKEND", BACKEND + f"\nopen({str(marker)!r}, 'a').close()\n".encode())
    newer = sdist(tmp_path / "index", "9.9.8")
    assert source._hash_on_index(source.Pin(version="9.9.8"), vendor_dir) == sha256(newer)
    assert not marker.exists()
    assert [path.name for path in vendor_dir.iterdir()] == ["upstream.toml"]
    source.vendor(LOCK, "9.9.8", vendor_dir)
    assert marker.exists(), "the test's backend does run when pip asks for metadata"


def test_nothing_of_another_project_runs(vendor_dir: Path, tmp_path: Path) -> None:
    """An sdist that is wanted for its files alone: setuptools would run its setup.py for the metadata. Then it is used offline."""
    marker, top = tmp_path / "ran", "other-1.0"
    members = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: other\nVersion: 1.0\n",
        "pyproject.toml": b'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.py": f"open({str(marker)!r}, 'a').close()\n".encode(),
        "src/a.cpp": b"int a;\n",
    }
    path = archive(tmp_path / "index" / f"{top}.tar.gz", [(f"{top}/{name}", content) for name, content in members.items()])
    pin = source.Pin("other", "1.0", sha256(path))
    with pytest.raises(SourceError, match="pinned is 000000"):
        source.fetch(source.Pin("other", "1.0", "0" * 64), vendor_dir)
    fetched = source.fetch(pin, vendor_dir)
    assert sha256(fetched) == pin.sha256
    assert not marker.exists()
    path.unlink()
    assert source.fetch(pin, vendor_dir) == fetched
    fetched.unlink()
    with pytest.raises(SourceError, match=r"other-1\.0\.tar\.gz could not be fetched") as caught:
        source.fetch(pin, vendor_dir)
    assert f"put the file\ninto {vendor_dir} by hand" in caught.value.remedy


def test_move_to_what_is_not_there(vendor_dir: Path) -> None:
    before = (vendor_dir / "upstream.toml").read_text(encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        source.vendor(LOCK, "9.9.99", vendor_dir)
    assert "9.9.99" in caught.value.what
    assert "9.9.7" in caught.value.remedy
    with pytest.raises(SourceError, match="no version number"):
        source.vendor(LOCK, "latest", vendor_dir)
    assert (vendor_dir / "upstream.toml").read_text(encoding="utf-8") == before


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


TOP = "evil-1.0"
HOSTILE: dict[str, Callable[[Path], Path]] = {
    "leads outside": lambda path: archive(path, [(f"{TOP}/../../etc/passwd", b"x")]),
    "outside its top folder": lambda path: archive(path, [("other/file", b"x")]),
    "'/etc/passwd', which leads outside": lambda path: archive(path, [("/etc/passwd", b"x")]),
    "a link or a device": lambda path: archive(path, [(f"{TOP}/PKG-INFO", b"x")], [link(f"{TOP}/a", "/etc")]),
    f"'{TOP}/hard', which is a link": lambda path: archive(
        path, [(f"{TOP}/PKG-INFO", b"x")], [link(f"{TOP}/hard", f"{TOP}/PKG-INFO", tarfile.LNKTYPE)]
    ),
    f"'{TOP}/dev', which is a link or a device": lambda path: archive(path, [], [link(f"{TOP}/dev", "", tarfile.CHRTYPE)]),
    "twice": lambda path: archive(path, [(f"{TOP}/PKG-INFO", b"x"), (f"{TOP}/PKG-INFO", b"y")]),
    "has no PKG-INFO": lambda path: archive(path, [(f"{TOP}/setup.py", b"x")]),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_hostile_archive(tmp_path: Path, why: str) -> None:
    file = HOSTILE[why](tmp_path / f"{TOP}.tar.gz")
    with pytest.raises(SourceError) as caught:
        source.unpack(file, tmp_path / "target" / "tree")
    assert why in caught.value.what
    assert str(file) in caught.value.what


def test_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MAX_BYTES", 1_000_000)
    file = archive(tmp_path / f"{TOP}.tar.gz", [(f"{TOP}/PKG-INFO", bytes(2_000_000))])
    assert file.stat().st_size < 10_000
    with pytest.raises(SourceError, match="more than"):
        source.unpack(file, tmp_path / "tree")
    monkeypatch.setattr(source, "_MAX_FILES", 10)
    many = archive(tmp_path / f"{TOP}.tar.gz", [(f"{TOP}/{number}", b"") for number in range(20)])
    with pytest.raises(SourceError, match="more than"):
        source.unpack(many, tmp_path / "tree2")


@pytest.mark.parametrize("keep", [10, 200, -20])
def test_truncated_archive(tmp_path: Path, keep: int) -> None:
    file = sdist(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match="damaged"):
        source.unpack(file, tmp_path / "tree")


@pytest.mark.parametrize(
    "text",
    ["", "name = 'x'\nversion = '1'\n", "name='x'\nversion='one'\nsha256='00'\n", "name='x'\nversion='1'\nsha256='zz'\n", "["],
)
def test_broken_pin(tmp_path: Path, text: str) -> None:
    pin = tmp_path / "upstream.toml"
    pin.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        source.read_pin(pin)
    assert str(pin) in caught.value.what
    assert "git checkout" in caught.value.remedy


def test_scripts_of_upstream(tmp_path: Path) -> None:
    """What PKG-INFO does not have: scripts come along, and entry points that nobody has looked at stop the build."""
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "x"\n')
    assert metadata_provider.scripts("scripts", tmp_path) == {}
    file.write_text('[project]\nname = "x"\n[project.scripts]\nllama = "llama_cpp.cli:main"\n')
    assert metadata_provider.scripts("scripts", tmp_path) == {"llama": "llama_cpp.cli:main"}
    assert metadata_provider.scripts("gui-scripts", tmp_path) == {}
    file.write_text('[project]\nname = "x"\n[project.entry-points.some]\nx = "x:y"\n')
    with pytest.raises(RuntimeError, match="Upstream has entry points for some"):
        metadata_provider.scripts("scripts", tmp_path)
