"""Real installers against an index of small real wheels on the loopback address. No other index is within their reach."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from variants import archive, index, run, serve
from variants.errors import UsageError, WheelError

METADATA = "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\nRequires-Python: >=3.8\n\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\n{build}Tag: py3-none-{platform}\n"


def wheel(
    dist: Path, version: str = "9.9.7", platform: str = "manylinux_2_17_x86_64", build: str = "", text: str = "plain"
) -> Path:
    """A wheel of a tiny llama_cpp that says which one it is."""
    dist.mkdir(exist_ok=True)
    info = f"llama_cpp_python-{version}.dist-info"
    number = f"-{build}" if build else ""
    path = dist / f"llama_cpp_python-{version}{number}-py3-none-{platform}.whl"
    header = WHEEL.format(platform=platform, build=f"Build: {build}\n" if build else "")
    files = {"llama_cpp/__init__.py": f"WHICH = {text!r}\n".encode(), f"{info}/METADATA": METADATA.format(version=version).encode()}
    archive.write(path, files | {f"{info}/WHEEL": header.encode()}, 1_700_000_000)
    return path


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def url(site: Path) -> Iterator[str]:
    """The running server's address; start it after the first index."""
    (site / "simple").mkdir(parents=True)
    (site / "simple" / "index.html").touch()
    with serve.server(site, 0) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}/simple/"
        http_server.shutdown()
        thread.join()


def environment(folder: Path) -> dict[str, str]:
    """No settings of the user's, no cache of an earlier test, no other index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return {
        **kept,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(folder / "cache"),
    }


def install(installer: str, url: str, folder: Path, requirement: str = "llama-cpp-python") -> str:
    """Install in a new environment and return what the installed package says of itself."""
    python = folder / "venv" / "bin" / "python"
    for name in ("venv", "cache"):  # uv keeps an index page for ten minutes
        shutil.rmtree(folder / name, ignore_errors=True)
    env = environment(folder)
    uv = str(Path(sys.executable).parent / "uv")
    if installer == "uv":
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
            [uv, "pip", "install", "--quiet", "--python", str(python), "--default-index", url, requirement],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder / "venv")],
            [str(python), "-m", "pip", "install", "--quiet", "--index-url", url, requirement],
        ]
    for command in commands:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
    shown = subprocess.run(
        [str(python), "-c", "import llama_cpp; print(llama_cpp.WHICH)"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_install(installer: str, dist: Path, site: Path, url: str, tmp_path: Path) -> None:
    """The newest version, the highest build number, an older version by name; a yanked file is passed over."""
    wheel(dist, "9.9.6", text="older")
    wheel(dist, text="plain")
    wheel(dist, build="1", text="rebuilt")
    wheel(dist, platform="win_amd64", text="for windows")
    index.build_index(dist, site)
    assert install(installer, url, tmp_path) == "rebuilt"
    assert install(installer, url, tmp_path, "llama-cpp-python==9.9.6") == "older"
    (dist / "llama_cpp_python-9.9.7-1-py3-none-manylinux_2_17_x86_64.whl.yanked").write_text("broken loader")
    index.build_index(dist, site)
    assert install(installer, url, tmp_path) == "plain"


def test_pages(dist: Path, site: Path, url: str) -> None:
    """Both formats list every file with hash, size, Requires-Python and metadata, and every link can be followed."""
    path = wheel(dist)
    (file,) = index.build_index(dist, site)
    page = json.loads(urllib.request.urlopen(f"{url}llama-cpp-python/index.json").read())
    (row,) = page["files"]
    assert page["versions"] == ["9.9.7"]
    assert row["hashes"] == {"sha256": file.sha256}
    assert (row["size"], row["requires-python"], row["yanked"]) == (path.stat().st_size, ">=3.8", False)
    assert urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}").read() == path.read_bytes()
    metadata = urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}.metadata").read()
    assert metadata == METADATA.format(version="9.9.7").encode()
    text = urllib.request.urlopen(f"{url}llama-cpp-python/").read().decode()
    assert f'href="{path.name}#sha256={file.sha256}" data-requires-python="&gt;=3.8"' in text
    assert f'data-core-metadata="sha256={row["core-metadata"]["sha256"]}"' in text
    assert "llama-cpp-python/" in urllib.request.urlopen(url).read().decode()


def test_base_url(dist: Path, site: Path) -> None:
    """Wheels that lie elsewhere are linked there and not copied; their metadata is not promised there."""
    path = wheel(dist, "9.9.7+vulkan")
    index.build_index(dist, site, index.Options(base_url="https://example.org/files"))
    (row,) = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]
    assert row["url"] == f"https://example.org/files/{path.name.replace('+', '%2B')}"
    assert "core-metadata" not in row
    assert not list((site / "simple").glob("*/*.whl"))


def test_incremental(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a version opens the new wheel alone and rewrites only pages that change."""
    wheel(dist, "9.9.6")
    index.build_index(dist, site)
    opened: list[str] = []
    original = archive.open_wheel

    def counted(path: Path) -> zipfile.ZipFile:
        opened.append(path.name)
        return original(path)

    monkeypatch.setattr(archive, "open_wheel", counted)
    root = (site / "simple" / "index.html").stat().st_mtime_ns
    new = wheel(dist)
    index.build_index(dist, site)
    assert set(opened) == {new.name}
    assert (site / "simple" / "index.html").stat().st_mtime_ns == root
    opened.clear()
    index.build_index(dist, site)
    assert opened == []


def test_thousand_wheels(dist: Path, site: Path) -> None:
    for number in range(1000):
        wheel(dist, f"1.0.{number}")
    assert len(index.build_index(dist, site)) == 1000
    assert len(json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]) == 1000


def test_same_bytes_again(dist: Path, tmp_path: Path) -> None:
    wheel(dist, "9.9.6")
    wheel(dist)
    for name in ("one", "two"):
        index.build_index(dist, tmp_path / name)
    for path in (p for p in (tmp_path / "one" / "simple").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_refusals(dist: Path, site: Path) -> None:
    """No wheel, a changed wheel under an old name, a file that is none, one that is another inside."""
    dist.mkdir()
    with pytest.raises(UsageError, match="no wheel in"):
        index.build_index(dist, site)
    path = wheel(dist)
    index.build_index(dist, site)
    before = (site / "simple" / "llama-cpp-python" / "index.html").read_text()
    wheel(dist, text="changed since")
    with pytest.raises(WheelError, match="had ") as caught:
        index.build_index(dist, site)
    assert str(path) in caught.value.what
    assert "--build-number" in caught.value.remedy
    assert (site / "simple" / "llama-cpp-python" / "index.html").read_text() == before
    path.write_bytes(b"no wheel")
    with pytest.raises(WheelError, match="cannot be read as a wheel"):
        index.build_index(dist, site)
    wheel(dist, "9.9.8").rename(dist / path.name)
    with pytest.raises(WheelError, match="which its name denies"):
        index.build_index(dist, site)


def test_interrupted(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment it is interrupted at, no page links a file that is not there."""
    wheel(dist, "9.9.6")
    index.build_index(dist, site)
    wheel(dist)
    folder = site / "simple" / "llama-cpp-python"
    original = run.replacing
    for stop_at in range(6):
        calls = iter(range(100))

        def limited(path: Path, calls: Iterator[int] = calls, stop_at: int = stop_at) -> object:
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            return original(path)

        monkeypatch.setattr(run, "replacing", limited)
        with contextlib.suppress(KeyboardInterrupt):
            index.build_index(dist, site)
        for row in json.loads((folder / "index.json").read_text())["files"]:
            assert (folder / row["filename"]).is_file()
            assert (folder / f"{row['filename']}.metadata").is_file()
        assert not list(site.rglob(".*.part"))


def test_removed_wheel_leaves_the_index(dist: Path, site: Path) -> None:
    old = wheel(dist, "9.9.6")
    wheel(dist)
    index.build_index(dist, site)
    old.unlink()
    index.build_index(dist, site)
    folder = site / "simple" / "llama-cpp-python"
    assert not list(folder.glob(f"{old.name}*"))
    assert old.name not in (folder / "index.html").read_text()


def test_port_in_use(site: Path, dist: Path) -> None:
    wheel(dist)
    with pytest.raises(UsageError, match="no index"):
        serve.server(site, 0)
    index.build_index(dist, site)
    with serve.server(site, 0) as first, pytest.raises(UsageError, match="cannot be used"):
        serve.server(site, first.server_port)
