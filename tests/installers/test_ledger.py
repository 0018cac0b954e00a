"""What is published stays: releases accumulate in the ledger, and the site is made from it alone, at any moment whole."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from tests.installers.tools import ROOT, install, labelled, ledger_of, publish, wheel
from variants import matrix
from variants.errors import DiskError, LedgerError, UsageError
from variants.index import front, index, ledger
from variants.terminal import disk
from variants.wheel import records

FILES = "https://example.org/files/"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def links(site: Path) -> int:
    """The number of links on the site's pages, after each was followed to a file with its hash."""
    count = 0
    for page in [*site.glob("simple/*/index.json"), *site.glob("backends/*/simple/*/index.json")]:
        for row in json.loads(page.read_bytes())["files"]:
            if "://" not in row["url"]:
                target = (page.parent / unquote(row["url"])).resolve()
                assert hashlib.sha256(target.read_bytes()).hexdigest() == row["hashes"]["sha256"], row["url"]
                if "core-metadata" in row:
                    beside = target.with_name(f"{target.name}.metadata")
                    assert hashlib.sha256(beside.read_bytes()).hexdigest() == row["core-metadata"]["sha256"]
                count += 1
    return count


def release(dist: Path, version: str, build: str = "") -> None:
    """A plain and a Vulkan wheel of a version."""
    labelled(wheel(dist, version, build=build, text=f"plain {version}{build}"), matrix.load()["vulkan"], dist)


def test_releases_accumulate(dist: Path, site: Path, url: str, tmp_path: Path) -> None:
    """Each release is published from its own wheels alone; the first can still be installed."""
    for version in ("9.9.6", "9.9.7"):
        shutil.rmtree(dist, ignore_errors=True)
        release(dist, version)
        publish(dist, site)
    assert links(site) == 10  # of each release: plain, labelled, *-variants.json; again in Vulkan's and the plain wheels' own index
    for requirement, expected in (("llama-cpp-python==9.9.6", "plain 9.9.6"), ("llama-cpp-python", "plain 9.9.7")):
        assert install("pip", url, tmp_path, requirement) == expected
        assert install("uv", f"{url.removesuffix('simple/')}backends/vulkan/simple/", tmp_path, requirement) == expected


def test_each_release_has_its_own_place(dist: Path, site: Path, tmp_path: Path) -> None:
    """Every file keeps the address that it was published with; the same ledger makes the same site where no wheel is."""
    for version in ("9.9.6", "9.9.7"):
        shutil.rmtree(dist, ignore_errors=True)
        release(dist, version)
        publish(dist, site, base_url=f"{FILES}v{version}/")
    page = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_bytes())
    urls = [row["url"] for row in page["files"] if row["filename"].endswith(".whl")]
    assert [url.removeprefix(FILES).partition("/")[0] for url in urls] == ["v9.9.6"] * 2 + ["v9.9.7"] * 2
    assert not list(site.rglob("*.whl"))
    local = json.loads((site / "backends" / "vulkan" / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert [row["url"].startswith(FILES) and "%2Bvulkan" in row["url"] for row in local] == [True, True]
    book = ledger_of(site)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "dist").mkdir(parents=True)
    shutil.copy(book, elsewhere / "published.jsonl")
    shutil.copytree(book.with_suffix(".texts"), elsewhere / "published.texts")
    index.publish(elsewhere / "dist", elsewhere / "site", elsewhere / "published.jsonl")
    assert content(elsewhere / "site") == content(site)
    assert (elsewhere / "published.jsonl").read_bytes() == book.read_bytes()


def test_a_published_file_never_changes(dist: Path, site: Path) -> None:
    """Neither by another build under its name nor by a link: what was copied stays, and the refusal shows both."""
    path = wheel(dist)
    publish(dist, site)
    before = content(site)
    with path.open("r+b") as stream:  # in place: a hard link would change with it
        stream.write(b"PK\3\5")
    assert content(site) == before
    with pytest.raises(LedgerError, match=r"the published file of this name had \d+ and [0-9a-f]{64}") as caught:
        publish(dist, site)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in caught.value.what
    assert "--build-number" in caught.value.remedy
    assert content(site) == before


def test_symlinked_wheel_is_copied(dist: Path, site: Path, tmp_path: Path) -> None:
    path = wheel(tmp_path / "elsewhere")
    dist.mkdir()
    (dist / path.name).symlink_to(path)
    publish(dist, site)
    path.unlink()
    assert links(site) == 2
    assert not any(found.is_symlink() for found in site.rglob("*"))


def test_yank_is_an_edit_of_one_line(dist: Path, site: Path) -> None:
    """By hand or by the command; the wheel with the local version follows; taken back, the site is as it was."""
    release(dist, "9.9.7")
    publish(dist, site)
    before = content(site)
    book = ledger_of(site)
    name = next(dist.glob("*vulkan.whl")).name
    lines = [json.loads(line) for line in book.read_text().splitlines()]
    edited = [line | ({"yanked": "wrong shader"} if line["name"] == name else {}) for line in lines]
    book.write_text("".join(json.dumps(line) + "\n" for line in edited))
    publish(dist, site)
    rows = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert {row["filename"]: row["yanked"] for row in rows if row["filename"].endswith(".whl")}[name] == "wrong shader"
    (row,) = json.loads((site / "backends" / "vulkan" / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert row["yanked"] == "wrong shader"
    index.yank(book, name, None)
    publish(dist, site)
    assert content(site) == before
    with pytest.raises(UsageError, match="has no never"):
        index.yank(book, "never-1.0-py3-none-any.whl", "x")


@pytest.mark.parametrize(
    "address",
    [
        "file:///tmp/x/",
        "javascript:alert(1)",
        "https://",
        "/files/",
        "https://a/?x=",
        "files/#x",
        "ftp://a/b",
        "a b/",
        "https://[/",
        "",
    ],
)
def test_addresses_that_are_none(address: str, dist: Path, site: Path) -> None:
    wheel(dist)
    with pytest.raises(UsageError):
        publish(dist, site, base_url=address)
    assert not site.exists()
    assert not ledger_of(site).exists()


def test_relative_address(dist: Path, site: Path) -> None:
    """A path from the site's root, from each page."""
    release(dist, "9.9.7")
    publish(dist, site, base_url="../files/v1")
    (row, *_) = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert row["url"].startswith("../../../files/v1/llama_cpp_python-9.9.7-")
    (row,) = json.loads((site / "backends" / "vulkan" / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert row["url"].startswith("../../../../../files/v1/llama_cpp_python-9.9.7%2Bvulkan-")


@pytest.mark.parametrize("foreign", ["index.html", "backends/api/secret.txt", "notes", "link"])
def test_what_is_not_ours_stays(foreign: str, dist: Path, site: Path) -> None:
    """In a folder that holds anything else nothing is written; nor is anything of the user's in dist/ touched."""
    release(dist, "9.9.7")
    mine = dist / "backends" / "mine" / "llama_cpp_python-9.9.7+mine-py3-none-any.whl"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    path = site / foreign
    path.parent.mkdir(parents=True)
    if foreign == "link":
        path.symlink_to(dist)
    else:
        path.write_text("mine")
    with pytest.raises(DiskError, match=f"holds {foreign}, which no run of `index` wrote"):
        publish(dist, site)
    assert [found.name for found in site.rglob("*") if not found.is_dir() or found.is_symlink()] == [path.name]
    path.unlink()
    publish(dist, site)
    publish(dist, site)
    assert mine.read_bytes() == b"mine"


def test_a_lost_note_costs_nothing(dist: Path, site: Path) -> None:
    """Without the note of what we wrote, what is there is known by its bytes; another file under one of its names is refused."""
    release(dist, "9.9.7")
    publish(dist, site)
    before = content(site)
    (site / ".written.json").unlink()
    publish(dist, site)
    assert content(site) == before
    (site / ".written.json").unlink()
    (site / "simple" / "index.html").write_text("another")
    with pytest.raises(DiskError, match=r"holds simple/index\.html"):
        publish(dist, site)


def test_a_damaged_site_is_mended(dist: Path, site: Path) -> None:
    """A wheel of the right size and other bytes is copied again; one that is nowhere any more is asked for."""
    path = wheel(dist)
    publish(dist, site)
    (copy,) = site.glob("simple/*/*.whl")
    copy.write_bytes(bytes(copy.stat().st_size))
    publish(dist, site)
    assert links(site) == 2
    path.unlink()
    copy.unlink()
    with pytest.raises(LedgerError, match="is neither there nor in the folder of wheels"):
        publish(dist, site)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`"),
        ('{"name": "x"}', "missing required field"),
        ('{"name": "../x-1-py3-none-any.whl", "url": "u", "sha256": "%s", REST}', "name of no wheel"),
        ('{"name": "x-1-py3-none-any.whl", "url": "u", "sha256": "%s", REST}', "has `metadata`"),
        ('{"name": "x-1-variants.json", "url": "u", "sha256": "1", REST}', "matching regex"),
        ('{"name": "x-variants.json", "url": "u", "sha256": "%s", REST}', "Invalid version"),
        ('{"name": "x-1-variants.json", "url": "a:b", "sha256": "%s", REST}', "no address"),
    ],
)
def test_broken_ledger(line: str, why: str, dist: Path, site: Path) -> None:
    """The file and the line are named, and nothing is written."""
    wheel(dist)
    book = ledger_of(site)
    line = line.replace("%s", "0" * 64).replace("REST", '"size": 1, "date": "2026-01-01T00:00:00Z"')
    book.write_text(f"\n{line}\n")
    before = book.read_bytes()
    with pytest.raises(LedgerError, match=why) as caught:
        publish(dist, site)
    assert f"{book}, line 2: " in caught.value.what
    assert book.read_bytes() == before
    assert not site.exists()


def test_a_file_twice_in_the_ledger(dist: Path, site: Path) -> None:
    wheel(dist)
    publish(dist, site)
    book = ledger_of(site)
    book.write_bytes(book.read_bytes() * 2)
    with pytest.raises(LedgerError, match="lines 1 and 2: both are llama_cpp_python-"):
        publish(dist, site)


def test_a_changed_text(dist: Path, site: Path) -> None:
    wheel(dist)
    publish(dist, site)
    (text,) = ledger_of(site).with_suffix(".texts").iterdir()
    text.write_text("Metadata-Version: 2.1\nName: another\n")
    with pytest.raises(LedgerError, match="is not what its name says"):
        publish(dist, site)


def run_index(dist: Path, site: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command, in a process that may write no file of more than `limit` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "variants", "index", "--dist", dist, "--site", site, "--ledger", ledger_of(site)]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, preexec_fn=limited, check=False)


def test_a_full_disk_is_named(dist: Path, site: Path) -> None:
    """Whatever cannot be written is named, the site stays whole, and the same command goes on later."""
    release(dist, "9.9.6")
    publish(dist, site)
    before = links(site)
    release(dist, "9.9.7")
    for limit in (100, 700, 1300, 2500):
        done = run_index(dist, site, limit)
        assert done.returncode == 9, done.stderr + done.stdout
        assert str(site.parent) in done.stdout.replace("\n", "")
        assert "Traceback" not in done.stderr
        assert links(site) == before
    assert run_index(dist, site).returncode == 0
    assert links(site) > before


def test_two_at_once(dist: Path, site: Path) -> None:
    """Each waits for the other, and both end well."""
    release(dist, "9.9.7")
    command = [sys.executable, "-m", "variants", "index", "--dist", dist, "--site", site, "--ledger", ledger_of(site)]
    running = [subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert links(site) == 5
    assert len(ledger_of(site).read_text().splitlines()) == 4


def test_killed_at_any_moment(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 times: a version or a rebuild comes, the run is killed, and every link of the pages leads to its file.

    Without the pages for people, which take most of a run and are written last: so most of them die while they write.
    """
    monkeypatch.setattr(front, "pages", lambda *_: ())
    chance = random.Random(15)
    killed = 0
    for number in range(200):
        if number % 40 == 0:  # small again, so that it is quick
            for folder in (dist, site, ledger_of(site).with_suffix(".texts")):
                shutil.rmtree(folder, ignore_errors=True)
            ledger_of(site).unlink(missing_ok=True)
            release(dist, "1.0")
            longest = timed(lambda: publish(dist, site))
        elif number % 10 == 0:  # let one run to its end
            longest = timed(lambda: publish(dist, site))
        if number % 4 == 0:
            release(dist, f"1.{number}")
        else:
            wheel(dist, f"1.{number - number % 4}", build=str(number))
        child = os.fork()
        if child == 0:
            publish(dist, site)
            os._exit(0)
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        links(site)
    assert killed > 100, f"{killed} runs were killed: too few to say anything"
    publish(dist, site)
    assert links(site) > 50
    assert not list(site.rglob(".*.tmp"))


def test_a_hundred_releases(offer: tuple[Path, str], tmp_path: Path) -> None:
    """The front page stays below 100 kB, with every label and a few runs of each wheel; each older version has a page."""
    book = ledger.read(ledger_of(offer[0]))
    run = {
        "date": "2026-11-25", "sha256": "0" * 64, "what": "smoke", "processor": "AMD EPYC 9R14, plugin cpu-zen4", "passed": 40,
        "system": "Debian GNU/Linux 12 (bookworm), x86_64", "python": "CPython 3.12.7", "devices": "CPU, Vulkan0 (llvmpipe)",
    }  # fmt: skip
    lines = []
    for line in book.wheels.values():
        if line.project == "llama-cpp-python" and line.version == "9.9.7":
            runs = [records.Record(**run, installer=installer) for installer in ("uv 0.13.9", "pip 26.3")]  # type: ignore[arg-type]
            for number in range(100):
                name = line.name.replace("9.9.7", f"1.{number}")
                url = f"{FILES}{name}"
                lines.append(msgspec.structs.replace(line, name=name, url=url, runs=runs))
    new = ledger.Ledger(tmp_path / "published.jsonl", lines)
    with disk.queued(new.file) as lock:
        new.write(lock)
    shutil.copytree(book.folder, new.folder, dirs_exist_ok=True)
    (tmp_path / "dist").mkdir()
    index.publish(tmp_path / "dist", tmp_path / "site", new.file)
    page = tmp_path / "site" / "index.html"
    assert page.stat().st_size < 100_000
    text = page.read_text()
    older = sorted((tmp_path / "site" / "versions").rglob("*.html"))
    assert len(older) == 99
    for path in older:
        assert f'href="{path.relative_to(page.parent).as_posix()}"' in text
        assert path.stat().st_size < 100_000
    before = content(page.parent)
    index.publish(tmp_path / "dist", tmp_path / "site", new.file)
    assert content(page.parent) == before


def timed(do: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    do()
    return time.monotonic() - began


def test_time_of_publishing(dist: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages say when a file was published (PEP 700), by which uv leaves out what is newer; a second run does not change it."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    wheel(dist)
    publish(dist, site)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    wheel(dist, "9.9.8")
    publish(dist, site)
    rows = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    assert [row["upload-time"] for row in rows] == ["2023-11-14T22:13:20Z", "2027-01-15T08:00:00Z"]
    assert {line.date for line in ledger.read(ledger_of(site)).lines} == {row["upload-time"] for row in rows}
