"""Real installers against an index of small real wheels on the loopback address. No other index is within their reach."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installers.tools import METADATA, install, labelled, ledger_of, publish, wheel
from variants import matrix
from variants.choice import metadata
from variants.errors import LedgerError, UsageError, WheelError
from variants.index import index, serve
from variants.terminal import disk
from variants.wheel import archive, records


@pytest.mark.parametrize("installer", ["uv", "old-uv", "pip", "old-pip"])
def test_install(installer: str, dist: Path, site: Path, url: str, tmp_path: Path) -> None:
    """The newest version, the highest build number, an older version by name; a yanked file is passed over."""
    wheel(dist, "9.9.6", text="older")
    wheel(dist, text="plain")
    wheel(dist, build="1", text="rebuilt")
    wheel(dist, platform="win_amd64", text="for windows")
    publish(dist, site)
    assert install(installer, url, tmp_path) == "rebuilt"
    assert install(installer, url, tmp_path, "llama-cpp-python==9.9.6") == "older"
    index.yank(ledger_of(site), "llama_cpp_python-9.9.7-1-py3-none-manylinux_2_17_x86_64.whl", "broken loader")
    publish(dist, site)
    assert install(installer, url, tmp_path) == "plain"


def test_pages(dist: Path, site: Path, url: str) -> None:
    """Both formats list every file with hash, size, Requires-Python and metadata, and every link can be followed."""
    path = wheel(dist)
    (file,) = publish(dist, site)
    page = json.loads(urllib.request.urlopen(f"{url}llama-cpp-python/index.json").read())
    (row,) = page["files"]
    assert page["versions"] == ["9.9.7"]
    assert row["hashes"] == {"sha256": file.sha256}
    assert (row["size"], row["requires-python"], row["yanked"]) == (path.stat().st_size, ">=3.8", False)
    assert urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}").read() == path.read_bytes()
    metadata = urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}.metadata").read()
    assert metadata == METADATA.format(name="llama_cpp_python", version="9.9.7", requires="").encode()
    text = urllib.request.urlopen(f"{url}llama-cpp-python/").read().decode()
    assert f'href="{path.name}#sha256={file.sha256}" data-requires-python="&gt;=3.8"' in text
    assert f'data-core-metadata="sha256={row["core-metadata"]["sha256"]}"' in text
    assert "llama-cpp-python/" in urllib.request.urlopen(url).read().decode()


def test_base_url(dist: Path, site: Path) -> None:
    """Wheels that lie elsewhere are linked there and not copied; their metadata is not promised there."""
    path = wheel(dist, "9.9.7+vulkan")
    publish(dist, site, base_url="https://example.org/files")
    (row,) = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]
    assert row["url"] == f"https://example.org/files/{path.name.replace('+', '%2B')}"
    assert "core-metadata" not in row
    assert not list((site / "simple").glob("*/*.whl"))


def test_incremental(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a version opens the new wheel alone and rewrites only pages that change."""
    wheel(dist, "9.9.6")
    publish(dist, site)
    opened: list[str] = []
    original = archive.open_wheel

    def counted(path: Path) -> zipfile.ZipFile:
        opened.append(path.name)
        return original(path)

    monkeypatch.setattr(archive, "open_wheel", counted)
    root = (site / "simple" / "index.html").stat().st_mtime_ns
    new = wheel(dist)
    publish(dist, site)
    assert set(opened) == {new.name}
    assert (site / "simple" / "index.html").stat().st_mtime_ns == root
    opened.clear()
    publish(dist, site)
    assert opened == []


def test_thousand_wheels(dist: Path, site: Path) -> None:
    for number in range(1000):
        wheel(dist, f"1.0.{number}")
    assert len(publish(dist, site)) == 1000
    assert len(json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_text())["files"]) == 1000


def test_same_bytes_again(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # the time of publishing
    wheel(dist, "9.9.6")
    wheel(dist)
    for name in ("one", "two"):
        publish(dist, tmp_path / name)
    for path in (p for p in (tmp_path / "one" / "simple").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_refusals(dist: Path, site: Path) -> None:
    """No wheel, a changed wheel under an old name, a file that is none, one that is another inside."""
    dist.mkdir()
    with pytest.raises(UsageError, match="no wheel in"):
        publish(dist, site)
    path = wheel(dist)
    publish(dist, site)
    before = (site / "simple" / "llama-cpp-python" / "index.html").read_text()
    wheel(dist, text="changed since")
    with pytest.raises(LedgerError, match="had ") as caught:
        publish(dist, site)
    assert str(path) in caught.value.what
    assert "--build-number" in caught.value.remedy
    assert (site / "simple" / "llama-cpp-python" / "index.html").read_text() == before
    path.unlink()
    path = dist / path.name.replace("9.9.7", "9.9.9")
    path.write_bytes(b"no wheel")
    with pytest.raises(WheelError, match="cannot be read as a wheel"):
        publish(dist, site)
    wheel(dist, "9.9.8").rename(dist / path.name)
    with pytest.raises(WheelError, match="which its name denies"):
        publish(dist, site)


def test_interrupted(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment it is interrupted at, no page links a file that is not there."""
    wheel(dist, "9.9.6")
    publish(dist, site)
    wheel(dist)
    folder = site / "simple" / "llama-cpp-python"
    original = disk.replacing
    for stop_at in range(6):
        calls = iter(range(100))

        def limited(path: Path, calls: Iterator[int] = calls, stop_at: int = stop_at) -> object:
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            return original(path)

        monkeypatch.setattr(disk, "replacing", limited)
        with contextlib.suppress(KeyboardInterrupt):
            publish(dist, site)
        for row in json.loads((folder / "index.json").read_text())["files"]:
            assert (folder / row["filename"]).is_file()
            assert (folder / f"{row['filename']}.metadata").is_file()
        assert not list(site.rglob(".*.tmp"))


def test_port_in_use(site: Path, dist: Path) -> None:
    wheel(dist)
    with pytest.raises(UsageError, match="no index"):
        serve.server(site, 0)
    publish(dist, site)
    with serve.server(site, 0) as first, pytest.raises(UsageError, match="cannot be used"):
        serve.server(site, first.server_port)


def test_backends(dist: Path, site: Path) -> None:
    """One classic index a label: made once, following a yank; wheels elsewhere are linked there."""
    plain = wheel(dist)
    made = labelled(plain, matrix.load()["vulkan"], dist)
    publish(dist, site)
    page = site / "backends" / "vulkan" / "simple" / "llama-cpp-python" / "index.json"
    (row,) = json.loads(page.read_text())["files"]
    assert row["filename"] == "llama_cpp_python-9.9.7+vulkan-py3-none-manylinux_2_17_x86_64.whl"
    assert (page.parent / row["filename"]).is_file()
    (local,) = (dist / "backends" / "vulkan").iterdir()
    before = local.stat().st_mtime_ns
    index.yank(ledger_of(site), made.name, "wrong shader")
    publish(dist, site)
    assert local.stat().st_mtime_ns == before
    assert json.loads(page.read_text())["files"][0]["yanked"] == "wrong shader"
    elsewhere = site.with_name("elsewhere")
    publish(dist, elsewhere, base_url="https://example.org/files/")
    (row,) = json.loads((elsewhere / page.relative_to(site)).read_text())["files"]
    assert row["url"] == f"https://example.org/files/{local.name.replace('+', '%2B')}"


def test_readers_of_the_page_before(dist: Path, site: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label is added to a version while somebody has read its page: what that page links is still there, with its hash."""
    plain = wheel(dist)
    labelled(plain, matrix.load()["vulkan"], dist)
    publish(dist, site)
    page = json.loads(urllib.request.urlopen(f"{url}llama-cpp-python/index.json").read())
    labelled(plain, matrix.load()["cuda12"], dist)
    publish(dist, site)
    for row in page["files"]:
        content = urllib.request.urlopen(f"{url}llama-cpp-python/{row['url']}").read()
        assert hashlib.sha256(content).hexdigest() == row["hashes"]["sha256"]
    labelled(plain, matrix.load()["cuda13"], dist)
    publish(dist, site)
    (old,) = (row["url"] for row in page["files"] if row["filename"].endswith(".json"))
    assert (site / "simple" / "llama-cpp-python" / old).exists(), "two pages later it is still there"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time()) + 15 * 24 * 3600))
    wheel(dist, "9.9.8")
    publish(dist, site)
    assert not (site / "simple" / "llama-cpp-python" / old).exists(), "a fortnight later it is gone"


def test_front_page(dist: Path, site: Path) -> None:
    """Everything from a wheel is escaped; runs are shown for exactly this file; the page is the same bytes again."""
    path = wheel(dist, requires=["numpy>=1.20", 'x; extra == "test"'])
    facts = {
        "what": "t",
        "processor": "A <CPU>",
        "system": "Debian",
        "python": "CPython 3.12",
        "installer": "uv",
        "devices": "CPU",
    }
    records.add(path, **facts, passed=40, skipped=1)
    records.add(path, **facts, passed=41, skipped=0)
    publish(dist, site, site_url="https://example.org/llama")
    text = (site / "index.html").read_text()
    assert "A &lt;CPU&gt;, Debian, CPython 3.12" in text.replace("\n", " ")
    assert "41 passed on CPU" in text
    assert "40 passed" not in text
    assert "numpy&gt;=1.20;" in text
    assert "uv pip install --index https://example.org/llama/simple/ llama-cpp-python" in re.sub("</?span>", "", text)
    publish(dist, site, site_url="https://example.org/llama/")
    assert (site / "index.html").read_text() == text
    index.yank(ledger_of(site), path.name, "<script>alert(1)</script>")
    wheel(dist, "9.9.8")
    publish(dist, site)
    text = (site / "index.html").read_text()
    assert "no record" in text
    text = (site / "versions" / "llama-cpp-python" / "9.9.7.html").read_text()
    assert "41 passed on CPU" in text
    assert "&lt;script&gt;alert" in text
    assert "<script>alert" not in text


@pytest.mark.parametrize("damage", ["requires", "variant", "truncated"])
def test_wheels_that_installers_would_refuse(damage: str, dist: Path, site: Path) -> None:
    """Refused with the file's name, and the site stays as it was."""
    wheel(dist, "9.9.6")
    publish(dist, site)
    before = (site / "simple" / "llama-cpp-python" / "index.json").read_bytes()
    if damage == "requires":
        path = wheel(dist, requires=["numpy>>1"])
    elif damage == "variant":
        content = json.loads(metadata.to_bytes(metadata.dist_info("vulkan", {"llama_cpp": {"backend": ["vulkan"]}})))
        extra = {"variant.json": json.dumps(content | {"install-time": True}).encode()}
        wheel(dist)
        path = wheel(dist / "x", extra=extra)
        path = path.rename(dist / f"{path.stem}-vulkan.whl")
    else:
        path = wheel(dist)
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WheelError) as caught:
        publish(dist, site)
    assert str(path) in caught.value.what
    assert (site / "simple" / "llama-cpp-python" / "index.json").read_bytes() == before


def test_a_mac_without_metal_is_not_published(dist: Path, site: Path) -> None:
    """zig's CPU core for Apple silicon is for tests: the plain wheel there has Metal inside (variants/metal.toml)."""
    plain = wheel(dist, platform="macosx_11_0_arm64")
    files = archive.contents(plain) | {"llama_cpp/lib/core.json": b"{}"}
    archive.write(plain, files, 1_700_000_000)
    with pytest.raises(WheelError, match=r"has no libggml-metal\.so: it was built for tests"):
        publish(dist, site)
    archive.write(plain, files | {"llama_cpp/lib/libggml-metal.so": b"x"}, 1_700_000_000)
    assert any(file.name == plain.name for file in publish(dist, site))


@pytest.mark.parametrize("name", ["cuda13", "vulkan"])
def test_a_label_without_its_plugin(name: str, dist: Path, site: Path) -> None:
    """The CPU wheel under another label, or a plugin's wheel that claims a GPU which nothing was compiled for."""
    made = labelled(wheel(dist), matrix.load()[name], dist)
    publish(dist, site.with_name("good"))
    files = archive.contents(made)
    (plugin,) = (file for file in files if "/libggml-" in file)
    archive.write(made, {file: content for file, content in files.items() if file != plugin}, 1_700_000_000)
    with pytest.raises(WheelError, match=rf"has no {plugin}, which {name} stands for"):
        publish(dist, site)
    described = json.loads(files[matrix.DESCRIPTION]) | {"core": "89abcdef"}
    archive.write(made, files | {matrix.DESCRIPTION: json.dumps(described).encode()}, 1_700_000_000)
    with pytest.raises(WheelError, match="of core 89abcdef"):
        publish(dist, site)
    if name == "cuda13":
        described = json.loads(files[matrix.DESCRIPTION]) | {"toolkit": {"architectures": ["90"], "ptx": "none"}}
        archive.write(made, files | {matrix.DESCRIPTION: json.dumps(described).encode()}, 1_700_000_000)
        with pytest.raises(WheelError, match=r"claims nvidia :: sm_arch :: .*, which its plugin was not compiled for"):
            publish(dist, site)


def test_an_unpublished_variant(dist: Path, site: Path, tmp_path: Path) -> None:
    """OpenVINO's wheel is built for tests (variants/openvino.toml); who puts it into dist/ is told."""
    labelled(wheel(tmp_path / "openvino", platform="manylinux_2_34_x86_64"), matrix.load()["openvino"], dist)
    with pytest.raises(WheelError, match=r"was built for tests: .*openvino\.toml has its platform as `unpublished`"):
        publish(dist, site)


def test_a_plugin_that_lacks_something(dist: Path, site: Path) -> None:
    """A Vulkan wheel of an old shader compiler, with the file name of a good one, stays out; the good one goes in."""
    made = labelled(wheel(dist, platform="manylinux_2_34_x86_64"), matrix.load()["vulkan"], dist)
    files = archive.contents(made)
    described = json.loads(files[matrix.DESCRIPTION])
    lacking = json.dumps(described | {"lacks": ["coopmat"]}).encode()
    archive.write(made, files | {matrix.DESCRIPTION: lacking}, 1_700_000_000)
    with pytest.raises(WheelError, match="has a plugin that lacks coopmat") as caught:
        publish(dist, site)
    assert "without --toolkit" in caught.value.remedy
    archive.write(made, files, 1_700_000_000)
    assert made.name in {file.name for file in publish(dist, site)}
