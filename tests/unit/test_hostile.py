"""Files that somebody sends do not hurt: one line with the file, the fact and what to do, a code, little memory, little time."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import shutil
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installers.tools import ledger_of, publish
from tests.unit import hostile
from tests.unit.hostile import INFO, NAME, flipped, members, page, plain, refused, rewritten, run, vulkan, zipped
from variants import matrix
from variants.choice import listing, metadata
from variants.errors import LedgerError, UsageError, VariantsError, WheelError
from variants.steps import assemble, label, verify
from variants.terminal.console import clean
from variants.upstream import source
from variants.wheel import archive, binary, budget, records

Make = Callable[[Path], Path]


def stored(folder: Path, **fields: int) -> Path:
    return zipped(folder / NAME, members(folder, []), **fields)


def added(name: bytes, content: bytes = b"", **fields: int) -> Make:
    return lambda folder: zipped(folder / NAME, members(folder, [(name, content)]), **fields)


def changed(name: str, content: bytes) -> Make:
    return lambda folder: rewritten(plain(folder), lambda files: files.update({name: content}))


def bomb(folder: Path) -> Path:
    """Members that say that they unpack to 6 GB: quoted from 6 MB of zeros, which are never looked at."""
    return zipped(folder / NAME, members(folder, [(b"llama_cpp/lib/libx%d.so" % n, b"\0" * 10_000_000) for n in range(7)]))


def quoted(folder: Path) -> Path:
    """Two entries of the directory that are one member: it unpacks twice, for the bytes of one."""
    path = zipped(folder / NAME, members(folder, [(b"llama_cpp/a", b"a" * 100), (b"llama_cpp/b", b"a" * 100)]))
    content = path.read_bytes()
    first, second = content.index(b"llama_cpp/a") - 30, content.index(b"llama_cpp/b") - 30
    at = content.rindex(b"llama_cpp/b") - 4
    assert content[at : at + 4] == struct.pack("<L", second)
    path.write_bytes(content[:at] + struct.pack("<L", first) + content[at + 4 :])
    return path


def many(folder: Path) -> Path:
    return zipped(folder / NAME, members(folder, [(b"llama_cpp/%d.py" % n, b"") for n in range(12_000)]))


def prefixed(folder: Path) -> Path:
    path = plain(folder)
    path.write_bytes(b"#!/bin/sh\necho hello\n" + path.read_bytes())
    return path


def suffixed(folder: Path) -> Path:
    path = plain(folder)
    path.write_bytes(path.read_bytes() + b"more")
    return path


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / NAME)
    return folder / NAME


def directory(folder: Path) -> Path:
    (folder / NAME).mkdir()
    return folder / NAME


def record_field(folder: Path) -> Path:
    """A field of RECORD that is longer than the csv module takes."""
    path = plain(folder)
    files = archive.contents(path)
    files[f"{INFO}/RECORD"] += b'llama_cpp/x,"' + b"x" * 400_000 + b'",1\n'
    return zipped(path, [(name.encode(), content) for name, content in files.items()])


#: What is wrong with a wheel, and a word of what is said of it. Every command that opens one says it.
WHEELS: dict[str, tuple[Make, str]] = {
    "unknown compression": (lambda folder: stored(folder, method=99), "number 99"),
    "lzma, which zipfile knows": (lambda folder: stored(folder, method=14), "number 14"),
    "encryption": (lambda folder: stored(folder, flags=1), "is encrypted"),
    "setuid": (lambda folder: stored(folder, mode=0o104755), "is setuid"),
    "symbolic links": (lambda folder: stored(folder, mode=0o120777), "a link or a device"),
    "4 GB of METADATA": (lambda folder: stored(folder, size=0xFFFFFFF0), "cannot unpack to 4295 MB"),
    "a bomb": (bomb, "which no wheel of"),
    "one member quoted twice": (quoted, "lies in another member"),
    "12,000 members": (many, "no more than 10,000 are read"),
    "bytes before the archive": (prefixed, "bytes before the archive"),
    "bytes behind it": (suffixed, "does not end as a zip archive does"),
    "a name of 300 bytes": (added(b"llama_cpp/" + b"x" * 300), "a member's name has 310 characters"),
    "3,000 folders": (added(b"x/" * 3000 + b"y"), "a member's name has 6001 characters"),
    "a name that leads outside": (added(b"../x"), "leads elsewhere"),
    "an absolute name": (added(b"/etc/x"), "leads elsewhere"),
    "a backslash": (added(b"llama_cpp\\x.py"), "characters that a file name cannot have"),
    "NUL in a name": (added(b"llama_cpp/x.py\0.txt"), "characters that a file name cannot have"),
    "escapes in a name": (added(b"llama_cpp/\x1b[31mx.py"), "characters that a file name cannot have"),
    "the same name twice": (added(b"llama_cpp/__init__.py"), "two members are one file"),
    "a name that differs in case": (added(b"llama_cpp/__INIT__.py"), "two members are one file"),
    "a file and a folder": (added(b"llama_cpp/__init__.py/x"), "is a file and a folder"),
    "no regular file": (fifo, "it is no regular file"),
    "a folder": (directory, "it is no regular file"),
}
#: The same, where only who reads that file can say it; `verify` and `index` both do.
TEXTS: dict[str, tuple[Make, str]] = {
    "a flipped bit in METADATA": (lambda folder: flipped(plain(folder), f"{INFO}/METADATA"), "damaged"),
    "METADATA in Latin-1": (changed(f"{INFO}/METADATA", b"Name: \xe9\n"), "utf-8"),
    "METADATA of 5 MB": (changed(f"{INFO}/METADATA", os.urandom(5_000_000)), "no more than 4 MB of a text is read"),
    "no version": (
        changed(f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: not a version\n"),
        "not a version",
    ),
    "another project": (changed(f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: evil\nVersion: 9.9.7\n"), "evil"),
}


@pytest.mark.parametrize("name", [*WHEELS, *TEXTS])
def test_every_reader_of_a_wheel(name: str, tmp_path: Path) -> None:
    """In this process: `verify`, `label`, `unlabel`, `index`, `assemble`, `repair` refuse it, and say the same."""
    make, word = {**WHEELS, **TEXTS}[name]
    path = make(tmp_path)
    readers: list[Callable[[], object]] = [lambda: publish(tmp_path, tmp_path / "site")]
    if name in WHEELS:
        labelled = path.rename(path.with_name(path.name.replace(".whl", "-vulkan.whl")))
        path = Path(shutil.copy(labelled, tmp_path / "plain.whl")).rename(path) if labelled.is_file() else path
        readers += [
            lambda: verify.verify(path, None),
            lambda: label.label(path, matrix.load()["vulkan"], tmp_path / "out"),
            lambda: label.unlabel(labelled, tmp_path / "out"),
            lambda: assemble.read_core(path),
            lambda: assemble.assemble(path, tmp_path / "out", 1, 0),
            lambda: verify.describe_plugin(path),
        ]
    for reader in readers if path.exists() else readers[:1]:
        with pytest.raises(WheelError) as caught:
            reader()
        assert word in caught.value.what
        assert "llama_cpp_python-9.9.7" in caught.value.what
    if name in TEXTS:
        with contextlib.suppress(WheelError):
            assert any(word in str(finding) for finding in verify.verify(path, None))
    assert not list((tmp_path / "out").glob("*"))


def test_what_it_costs(tmp_path: Path) -> None:
    """In a process of its own, whose memory and time are measured."""
    names = ["a bomb", "12,000 members", "no regular file", "4 GB of METADATA"]
    paths = [folder / "x" for folder in (tmp_path / name for name in names)]
    for path in paths:
        path.mkdir(parents=True)
    commands = [["verify", str(WHEELS[name][0](path))] for name, path in zip(names, paths, strict=True)]
    refused(run(*commands, ["verify", "/tmp/\x1b[31m\x07[bold]x[/] \u202e\udcff.whl"]), *(WHEELS[name][1] for name in names),
            r"/tmp/\x1b[31m\x07[bold]x[/] \u202e\udcff.whl")  # fmt: skip


def test_record(tmp_path: Path) -> None:
    """RECORD with a field that is too long, damaged, and one that names what is not there."""
    path = record_field(tmp_path)
    assert any("RECORD cannot be read (field larger" in str(row) for row in verify.verify(path, None))
    with pytest.raises(WheelError, match="damaged: field larger than field limit"):
        archive.rewrite(path, tmp_path / "new.whl", {})
    path = flipped(vulkan(tmp_path / "two"), f"{INFO}/RECORD")
    with pytest.raises(WheelError, match="damaged"):
        verify.verify(path, None)
    with pytest.raises(WheelError, match="damaged"):
        label.unlabel(path, tmp_path / "out")
    for row, what in ((b"gone.py,sha256=x,1\n", "mentions gone.py"), (b"a,b\n", "a row has 2 fields"), (b"\xff\n", "utf-8")):
        path = plain(tmp_path)
        files = archive.contents(path)
        files[f"{INFO}/RECORD"] += row
        zipped(path, [(name.encode(), content) for name, content in files.items()])
        assert any(what in str(finding) for finding in verify.record(verify.read(path)))
    assert not (tmp_path / "new.whl").exists()


def test_wheel_file(tmp_path: Path) -> None:
    """WHEEL that is not UTF-8, or has no tag, where a build number goes in."""
    path = changed(f"{INFO}/WHEEL", b"\xb7")(tmp_path)
    assert any("WHEEL: cannot be read" in str(finding) for finding in verify.names(verify.read(path)))
    with pytest.raises(WheelError, match="has no readable"):
        assemble.assemble(path, tmp_path / "out", 1, 0)
    path = changed(f"{INFO}/WHEEL", b"")(tmp_path)
    assert assemble.assemble(path, tmp_path / "out", 1, 0).is_file()


#: Members that no wheel of ours has, in one that says that it is of the release that somebody has looked at.
STRANGE = [
    "evil.pth", "llama_cpp/evil.pth", "llama_cpp_python-0.3.36.data/scripts/evil", "llama_cpp/evil.py", "llama_cpp/Llama.py",
    "evil.py", "evil/__init__.py", "llama_cpp/lib/evil.txt", "llama_cpp/server/evil.pyc", "{info}/entry_points.txt",
    "{info}/licenses/evil.pth", "{info}/sboms/evil.py", "{info}/INSTALLER", "{info}/direct_url.json", "{info}/variant.json",
    "llama_cpp/llama.cpython-312-x86_64-linux-gnu.so.txt",
]  # fmt: skip


def test_every_member_is_known(tmp_path: Path) -> None:
    version = assemble.known_core().release
    info = f"llama_cpp_python-{version}.dist-info"
    path = hostile.wheel(tmp_path, version, requires=assemble.known_core().requires)
    rewritten(path, lambda files: files.pop(f"{info}/entry_points.txt"))
    assert list(verify.members(verify.read(path))) == []
    for name in (name.format(info=info) for name in STRANGE):
        other = tmp_path / "other" / path.name
        other.parent.mkdir(exist_ok=True)
        archive.write(other, archive.contents(path) | {name: b"x"}, 0)
        assert [finding.file for finding in verify.members(verify.read(other))] == [name], name


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("[pyinstaller40]\nhook-dirs = llama_cpp.__pyinstaller:hook_dirs\n", True),
        ("[pyinstaller40]\nhook-dirs = evil:hook_dirs\n", False),
        ("[pyinstaller40]\nhook-dirs = llama_cpp.__pyinstaller:hook_dirs\n[console_scripts]\npip = llama_cpp.evil:main\n", False),
        ("[DEFAULT]\npip = evil:main\n[pyinstaller40]\nhook-dirs = llama_cpp.__pyinstaller:hook_dirs\n", False),
        ("[pyinstaller40\n", False),
        ("", False),
    ],
)
def test_entry_points(text: str, fine: bool, tmp_path: Path) -> None:
    """Those that somebody has looked at, and no script of another name."""
    path = plain(tmp_path)
    rewritten(path, lambda files: files.update({f"{INFO}/entry_points.txt": text.encode()}))
    found = [finding.file for finding in verify.members(verify.read(path))]
    assert (f"{INFO}/entry_points.txt" in found) is not fine


@pytest.mark.parametrize(
    "line", ["Requires-Dist: evil", "Requires-Dist: numpy>=1", "Requires-Dist: numpy @ https://example.org/x", "Requires-Dist: ?"]
)
def test_another_requirement(line: str, tmp_path: Path) -> None:
    known = assemble.known_core()
    path = hostile.wheel(tmp_path, known.release, requires=known.requires)
    assert list(verify.requirements(verify.read(path), None)) == []
    name = f"llama_cpp_python-{known.release}.dist-info/METADATA"
    rewritten(
        path, lambda files: files.update({name: files[name].replace(b"Requires-Python", line.encode() + b"\nRequires-Python")})
    )
    (finding,) = verify.requirements(verify.read(path), None)
    assert f"requires {line[15:]}, which neither upstream nor the matrix names" in finding.fact
    less = hostile.wheel(tmp_path, known.release, requires=known.requires[1:])
    assert [row.fact for row in verify.requirements(verify.read(less), None)] == [f"does not require {known.requires[0]}"]


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"[" * 100_000, b'{"fingerprint": 1}', b"\xff", b'{"fingerprint":"../x","plugins":[]}']
)
def test_core_json(content: bytes, tmp_path: Path) -> None:
    path = changed("llama_cpp/lib/core.json", content)(tmp_path)
    assert [finding.file for finding in verify.promised_plugins(verify.read(path))][:1]
    with pytest.raises(WheelError, match=r"has no readable llama_cpp/lib/core\.json"):
        assemble.read_core(path)
    assert list(verify.same_core([path])) == []


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 100_000, b'{"toolkit": 1}', b'{"lacks": [1]}', b"\xff"])
def test_plugin_json(content: bytes, tmp_path: Path) -> None:
    path = rewritten(vulkan(tmp_path), lambda files: files.update({matrix.DESCRIPTION: content}))
    assert list(verify.stands_for(verify.read(path)))
    assert verify.lacks(content) == []
    with pytest.raises(WheelError):
        publish(tmp_path, tmp_path / "site", allow_no_fallback=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps({"$schema": "x", "default-priorities": {"namespace": ["a"]}, "providers": {"a": {"requires": ["x"]}},
                     "variants": {"vulkan": {"a": {f"f{n}": ["v"] for n in range(20_000)}}}}).encode(), "and 20,000 properties"),
        (b"[" * 300_000, "lists and objects in each other"),
        (b"[]", "Expected `object`"),
        (b"\xff", "invalid"),
        (b"{" + b" " * 5_000_000, "longer than 4 MB"),
    ],
)  # fmt: skip
def test_variant_json(content: bytes, what: str) -> None:
    for reader in (metadata.check, lambda text: metadata.read_wheel(text, "vulkan")):
        with pytest.raises(ValueError, match=what):
            reader(content)


@pytest.mark.parametrize("bad", ["Latin-1", "a folder", "a long line", "a FIFO", "brackets", "a long reason"])
def test_ledger(bad: str, tmp_path: Path) -> None:
    plain(tmp_path)
    publish(tmp_path, tmp_path / "site")
    book = ledger_of(tmp_path / "site")
    line = book.read_bytes()
    book.unlink()
    if bad == "a folder":
        book.mkdir()
    elif bad == "a FIFO":
        os.mkfifo(book)
    elif bad == "a long reason":
        book.write_bytes(line.replace(b'"date"', b'"yanked":"' + b"x" * 20_000 + b'","date"'))
    else:
        book.write_bytes(
            {"Latin-1": "é".encode("latin-1"), "a long line": b" " * 2_000_000 + line, "brackets": b"[" * 300_000}[bad]
        )
    with pytest.raises(LedgerError) as caught:
        publish(tmp_path, tmp_path / "site")
    assert str(book) in caught.value.what
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("python", [">=3.٨", "not one", ">=" + "9" * 5000])
def test_requires_python(python: str, tmp_path: Path) -> None:
    text = f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 9.9.7\nRequires-Python: {python}\n"
    path = changed(f"{INFO}/METADATA", text.encode())(tmp_path)
    with pytest.raises(WheelError, match="METADATA cannot be used") as caught:
        publish(tmp_path, tmp_path / "site")
    assert str(path) in caught.value.what


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff", b'[{"date": "x"}]'])
def test_runs_json(content: bytes, tmp_path: Path) -> None:
    path = plain(tmp_path)
    path.with_name(path.name + records.SUFFIX).write_bytes(content)
    with pytest.raises(WheelError, match=r"runs\.json has no records of runs"):
        records.read(path)
    with pytest.raises(WheelError, match=r"runs\.json has no records of runs"):
        publish(tmp_path, tmp_path / "site")


GOOD = 'summary = "x"\nplatforms = ["linux_x86_64"]\nlabel = "x"\nplugin = "cuda"\n[smoke]\ndevice = "X"\n[cuda]\nnvcc = ">=13"\n'


@pytest.mark.parametrize(
    "text",
    [
        GOOD + 'architectures = ["90"]\nptx = "x"\n',
        GOOD + 'architectures = ["90"]\nptx = "٩٠"\n',
        GOOD + 'architectures = ["٩٠"]\n',
        GOOD + "architectures = " + "[" * 5000 + "]" * 5000,
        GOOD + "architectures = [1]",
        GOOD + f'architectures = ["{"9" * 5000}"]',
        GOOD.replace('"x"\np', '"x\x1b[31m"\np'),
        "a.b.c" * 1_000_000,
        "x = 1\n" * 2,
    ],
)
def test_matrix(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(VariantsError) as caught:
        matrix.read(file)
    assert "x.toml" in caught.value.what
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(VariantsError, match="it is no regular file"):
        matrix.load(tmp_path)


def sdist(folder: Path, info: bytes = b"Name: llama_cpp_python\nVersion: 9.9.7\n", **fields: object) -> Path:
    path = folder / "llama_cpp_python-9.9.7.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("PKG-INFO", info), (str(fields.pop("name", "x")), b"x")):
            member = tarfile.TarInfo(f"llama_cpp_python-9.9.7/{name}")
            member.size = len(content)
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: sdist(folder, b"Name: evil\nVersion: 9.9.7\n"), "is not the sdist of llama_cpp_python 9.9.7"),
        (lambda folder: sdist(folder, b"Name: llama_cpp_python\nVersion: 9.9.8\n"), "is not the sdist of llama_cpp_python 9.9.7"),
        (lambda folder: sdist(folder, b"\xff"), "is not the sdist of llama_cpp_python 9.9.7"),
        (lambda folder: sdist(folder, mtime=10**11), "of the year"),
        (lambda folder: sdist(folder, name="x" * 300), "has a name of"),
        (lambda folder: sdist(folder, name="x/" * 3000), "has a name of"),
        (lambda folder: sdist(folder, name="x" * 3_000_000), "has a name of"),
        (lambda folder: sdist(folder, name="PKG-INFO/x"), "twice"),
    ],
)
def test_sdist(make: Make, what: str, tmp_path: Path) -> None:
    with pytest.raises(VariantsError, match=what):
        source.unpack(make(tmp_path), tmp_path / "tree")


class _Pages(http.server.BaseHTTPRequestHandler):
    """Answers with what the server was given: a kind of content, and the content or a function that writes it."""

    def do_GET(self) -> None:
        kind, content, *headers = self.server.answer  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if callable(content):
                content(self.wfile)
            else:
                self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Serve one answer, and say where."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def answer(*what: object) -> str:
            server.answer = what  # type: ignore[attr-defined]
            return f"http://127.0.0.1:{server.server_port}/simple/"

        yield answer
        server.shutdown()
        thread.join()


JSON = "application/vnd.pypi.simple.v1+json"
TAGS = ".".join(f"t{n}" for n in range(30))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ((JSON, b"[" * 300_000), "lists and objects in each other"),
        ((JSON, page([], "evil")), "it is the page of 'evil'"),
        ((JSON, b"[]"), "Expected `object`"),
        ((JSON, b"\xff"), "does not answer as an index"),
        ((JSON, b" " * 17_000_000), "more than 16 MB"),
        ((JSON, page([{"filename": "x"}] * 30_000)), "no more than 20,000 are read"),
        (("text/html; charset=nonsense", b"x"), "nonsense"),
        (("image/png", b"x"), "it answers with 'image/png'"),
        ((JSON, b"x", ("Content-Encoding", "br")), "it answers in 'br'"),
        (("text/html", b'<meta name="pypi:repository-version" content="9.9">'), "9.9"),
        (("text/html", b"", ("Location", "/simple/llama-cpp-python/")), None),
        (("text/html", b"<" * 300_000), None),
        (("text/html", b'<a "' * 300_000), None),
        (("text/html", b"<!--" * 300_000), None),
        (("text/html", b"<a href=x>" * 300_000), None),
        (("text/html", b"<div>" * 300_000), None),
        ((JSON, page([{"filename": f"llama_cpp_python-9.9.7-{TAGS}-{TAGS}-{TAGS}.whl"}, {"filename": "a-b-variants.json"}])), None),
        ((JSON, page([{"filename": "evil-9.9.7-py3-none-any.whl"}, {"filename": "llama_cpp_python-x-variants.json"}])), None),
        (("text/html", b'<a href="http://[x">evil-9.9.7-py3-none-any.whl</a>'), None),
    ],
)
def test_pages(answer: tuple[object, ...], what: str | None, served: Callable[..., str]) -> None:
    """Refused, or nothing is found on it; and soon."""
    address = served(*answer)
    if what is None:
        with contextlib.suppress(UsageError):
            assert listing.read(address).wheels == []
    else:
        with pytest.raises(UsageError) as caught:
            listing.read(address)
        assert what in caught.value.what
        assert address in caught.value.what


def test_an_honest_page(served: Callable[..., str]) -> None:
    """Both formats give the same, with a yanked file, a base, and Requires-Python."""
    names = [NAME, NAME.replace("9.9.7", "9.9.8")]
    rows: list[dict[str, object]] = [
        {"filename": names[0], "url": names[0], "requires-python": ">=3.8"},
        {"filename": names[1], "url": "x", "yanked": "why"},
    ]
    first = listing.read(served(JSON, page(rows)))
    links = (
        f'<a href="{names[0]}#sha256=0" data-requires-python="&gt;=3.8">{names[0]}</a>\n<A HREF=x data-yanked="why">{names[1]}</A>'
    )
    second = listing.read(served("text/html", f'<!doctype html><base href="/x/"><body>{links}'.encode()))
    assert first.wheels == second.wheels
    assert [(wheel.yanked, wheel.requires_python) for wheel in first.wheels] == [(False, ">=3.8"), (True, None)]


def test_a_site(tmp_path: Path) -> None:
    """A site on disk whose links lead out of it, or to a device."""
    folder = tmp_path / "llama-cpp-python"
    folder.mkdir()
    for url in ("../../../../../../../../dev/zero", "/dev/zero", "https://example.org/x", "x\0y", "."):
        name = "llama_cpp_python-9.9.7-variants.json"
        (folder / "index.json").write_bytes(page([{"filename": name, "url": url}]))
        assert listing.read(str(tmp_path)).problems["9.9.7"].fatal
    (folder / "index.json").write_bytes(b"[" * 300_000)
    with pytest.raises(UsageError, match="lists and objects in each other"):
        listing.read(str(tmp_path))


def test_names_on_the_terminal() -> None:
    """They are shown, and not obeyed. (:func:`test_what_it_costs` has one on a command line.)"""
    assert clean("a\tb\nc\x9b1m\r") == "a\tb\nc\\x9b1m\\r"


def test_names_of_wheels(tmp_path: Path) -> None:
    for name in (
        f"llama_cpp_python-9.9.7-{TAGS}-{TAGS}-any.whl", "a-1-py3-none-any\n.whl", f"a-{'9' * 5000}-py3-none-any.whl",
        "llama_cpp_python-9.9.7-py3-none-äny.whl", "a.whl", ".whl", "-" * 200 + ".whl", "a-1--none-any.whl",
    ):  # fmt: skip
        with pytest.raises(WheelError, match="not the name of a wheel"):
            archive.parse_name(Path(name))
        assert listing.parse(name) is None


@pytest.mark.parametrize("damage", range(24))
def test_libraries(damage: int, tmp_path: Path) -> None:
    """ELF headers that claim more than there is: an error or an answer, soon."""
    head = bytearray(
        b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<2HL3QL6H", 3, 62, 1, 0, 64, 64, 0, 64, 56, 2, 64, 2, 1) + bytes(4096)
    )
    at = 16 + damage * 2
    head[at : at + 2] = b"\xff\xff"
    path = tmp_path / "x.so"
    path.write_bytes(head)
    with contextlib.suppress(ValueError):
        binary.read(path)
    with contextlib.suppress(ValueError):
        binary.read(bytes(head))


def test_libraries_of_other_systems(tmp_path: Path) -> None:
    magic = struct.pack("<2L", 0xFEEDFACF, 0x1000007)
    for content in (
        magic,
        magic + b"\xff" * 200,
        magic + struct.pack("<6L", 3, 6, 2**31, 2**31, 0, 0) + bytes(100),
        b"MZ",
        b"MZ" + b"\xff" * 300,
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            binary.read(content)


def test_budget(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(11))
    with pytest.raises(ValueError, match="longer than"):
        budget.read(tmp_path / "x", 10)
    assert budget.json(b'["\\"[[[[", "' + b"[" * 500 + b'"]', list[str])[1] == "[" * 500, "brackets in strings count for nothing"
    assert budget.json(b"[" * 60 + b"]" * 60, object)
    with pytest.raises(ValueError, match="in each other"):
        budget.json(b"[" * 65 + b"]" * 65, object)
