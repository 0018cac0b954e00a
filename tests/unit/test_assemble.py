"""Archives, metadata, licences, the bill of materials and the fingerprint: same inputs, same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from installer.sources import WheelFile
from packaging.requirements import Requirement

from variants import platforms
from variants.compilers import environment, toolchain
from variants.errors import WheelError
from variants.steps import assemble, core
from variants.upstream import metadata_provider, source
from variants.wheel import archive

INFO = "llama_cpp_python-9.9.7.dist-info"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n"
LINUX = platforms.PLATFORMS["linux_x86_64"]
TOOLS = toolchain.Toolchain("zig", "zig 0.0 target", LINUX, (), {}, "manylinux_2_17_x86_64", None, {})


@pytest.fixture
def upstream(tmp_path: Path) -> source.Upstream:
    """The few files of an upstream tree that a wheel's documents are made from."""
    tree = tmp_path / "tree"
    files = {
        "LICENSE.md": "MIT, llama-cpp-python",
        "vendor/llama.cpp/LICENSE": "MIT, llama.cpp",
        "vendor/llama.cpp/CMakeLists.txt": "set(LLAMA_VERSION_MAJOR 1)\nset(LLAMA_VERSION_MINOR 2)\nset(LLAMA_VERSION_PATCH 3)\n",
        "vendor/llama.cpp/ggml/CMakeLists.txt": "set(GGML_VERSION_MAJOR 4)\nset(GGML_VERSION_MINOR 5)\nset(GGML_VERSION_PATCH 6)\n",
        "vendor/llama.cpp/vendor/one/LICENSE": "BSD",
        "vendor/llama.cpp/vendor/two/two.h": "/* code */ int x; /* Permission is hereby granted, … without warranty */",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    return source.Upstream(tree, "9.9.7", "ab" * 32, 1_700_000_000, "abcdef012", "ef" * 32)


@pytest.fixture
def core_wheel(tmp_path: Path) -> Path:
    path = tmp_path / "llama_cpp_python-9.9.7-py3-none-linux_x86_64.whl"
    files = {"llama_cpp/__init__.py": b"", f"{INFO}/METADATA": b"Name: llama_cpp_python\n", f"{INFO}/WHEEL": WHEEL.encode()}
    archive.write(path, files, 0)
    return path


def test_archive(tmp_path: Path) -> None:
    """Deterministic whatever the order, the time and the umask; RECORD stands up to the installer package."""
    files = {f"{INFO}/WHEEL": b"x", "b.so": b"\x7fELF", "a, b.py": b"import x\n"}
    old = os.umask(0o077)
    try:
        archive.write(tmp_path / "one.whl", files, 1_700_000_000)
    finally:
        os.umask(old)
    archive.write(tmp_path / "two.whl", dict(reversed(files.items())), 1_700_000_000)
    assert (tmp_path / "one.whl").read_bytes() == (tmp_path / "two.whl").read_bytes()
    with archive.open_wheel(tmp_path / "one.whl") as opened:
        assert [info.filename for info in opened.infolist()] == ["a, b.py", "b.so", f"{INFO}/WHEEL", f"{INFO}/RECORD"]
        assert opened.getinfo("b.so").external_attr >> 16 == 0o100755
        assert opened.getinfo("a, b.py").date_time == (2023, 11, 14, 22, 13, 20)
    name = "llama_cpp_python-9.9.7-py3-none-any.whl"
    (tmp_path / "one.whl").rename(tmp_path / name)
    with WheelFile.open(tmp_path / name) as wheel:
        wheel.validate_record()


def test_dist_info(tmp_path: Path) -> None:
    archive.write(tmp_path / "x.whl", {f"{INFO}/WHEEL": b"", "other-1.dist-info/WHEEL": b""}, 0)
    with archive.open_wheel(tmp_path / "x.whl") as opened, pytest.raises(WheelError, match="2 dist-info folders"):
        archive.dist_info(opened)


@pytest.mark.parametrize("number", [None, 0, 3])
def test_assemble(tmp_path: Path, upstream: source.Upstream, core_wheel: Path, number: int | None) -> None:
    parts = [assemble.document(core_wheel, tmp_path / folder, upstream, TOOLS, upstream.epoch) for folder in "ab"]
    made = [assemble.assemble(part, part.parent / "raw", number, upstream.epoch) for part in parts]
    assert made[0].read_bytes() == made[1].read_bytes()
    name, version, build, _ = archive.parse_name(made[0])
    assert (name, str(version), build) == ("llama-cpp-python", "9.9.7", () if number is None else (number, ""))
    files = archive.contents(made[0])
    assert (f"Build: {number}\n" in files[f"{INFO}/WHEEL"].decode()) == (number is not None)
    assert files[f"{INFO}/WHEEL"].decode().endswith("Tag: py3-none-linux_x86_64\n")
    licences = {name.removeprefix(f"{INFO}/licenses/") for name in files if "/licenses/" in name}
    assert licences == {
        "llama-cpp-python/LICENSE.md",
        "llama.cpp/LICENSE",
        "llama.cpp/vendor/one/LICENSE",
        "llama.cpp/vendor/two/two.h.LICENSE",
    }


def test_licence_moved(upstream: source.Upstream) -> None:
    (upstream.tree / "LICENSE.md").unlink()
    with pytest.raises(WheelError, match=r"LICENSE\.md"):
        assemble.licences(upstream, TOOLS)


def test_bill_of_materials(upstream: source.Upstream) -> None:
    """Valid CycloneDX 1.6 that names llama.cpp with version and commit, and what the toolchain links in."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # a second, which no other test needs

    tools = toolchain.Toolchain("zig", "zig 0.17.1 t", LINUX, (), {}, None, None, {"zig": Path("x"), "LLVM libcxx": Path("y")})
    text = assemble.bill_of_materials(upstream, tools, upstream.epoch)
    assert text == assemble.bill_of_materials(upstream, tools, upstream.epoch)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    bom = json.loads(text)
    parts = {part["name"]: part for part in bom["components"]}
    assert parts["llama.cpp"]["version"] == "1.2.3 (commit abcdef012)"
    assert parts["llama.cpp"]["purl"] == "pkg:github/ggml-org/llama.cpp@abcdef012"
    assert parts["ggml"]["version"] == "4.5.6"
    assert parts["LLVM libcxx"]["version"] == "0.17.1"
    assert bom["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert bom["metadata"]["component"]["purl"] == "pkg:pypi/llama-cpp-python@9.9.7"


def test_fingerprint(upstream: source.Upstream) -> None:
    """Eight hexadecimal digits that change with each input, and not with the folder."""
    one = core.fingerprint(upstream, "zig 1", "linux_x86_64")
    assert len(one) == 8
    assert int(one, 16) >= 0
    elsewhere = source.Upstream(Path("/else/where"), upstream.version, "", 0, "unknown", upstream.content)
    assert core.fingerprint(elsewhere, "zig 1", "linux_x86_64") == one
    other = source.Upstream(upstream.tree, upstream.version, upstream.sha256, 0, "", "cd" * 32)
    others = [core.fingerprint(*given) for given in ((other, "zig 1", "linux_x86_64"), (upstream, "zig 2", "linux_x86_64"))]
    assert len({one, *others, core.fingerprint(upstream, "zig 1", "linux_aarch64")}) == 4


PKG_INFO = """Metadata-Version: 2.1
Name: llama_cpp_python
Version: 9.9.7
Summary: Bindings
Author-Email: A B <a@example.org>, C <c@example.org>
License: MIT
Classifier: Programming Language :: Python :: 3
Project-URL: Homepage, https://example.org
Requires-Python: >=3.8
Requires-Dist: numpy>=1.20.0
Requires-Dist: jinja2>=2; python_version >= "3.9"
Provides-Extra: server
Requires-Dist: uvicorn>=0.22.0; extra == "server"
Requires-Dist: tomli; (python_version < "3.11") and extra == "server"
Provides-Extra: all
Requires-Dist: llama_cpp_python[server]; extra == "all"
Provides-Extra: empty
Description-Content-Type: text/markdown

# Ünïcode
"""


def test_upstream_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PKG-INFO").write_text(PKG_INFO, encoding="utf-8")
    info = metadata_provider.read(tmp_path)
    monkeypatch.setattr(metadata_provider, "read", lambda: info)

    def get(field: str) -> object:
        return metadata_provider.dynamic_metadata(field, {})

    assert get("version") == "9.9.7"
    assert get("authors") == [{"name": "A B", "email": "a@example.org"}, {"name": "C", "email": "c@example.org"}]
    assert get("urls") == {"Homepage": "https://example.org"}
    assert get("dependencies") == ["numpy>=1.20.0", 'jinja2>=2; python_version >= "3.9"']
    assert get("optional-dependencies") == {
        "server": ["uvicorn>=0.22.0", 'tomli; python_version < "3.11"'],
        "all": ["llama_cpp_python[server]"],
        "empty": [],
    }
    assert get("readme") == {"text": "# Ünïcode\n", "content-type": "text/markdown"}
    for requirement in [*get("dependencies"), *get("optional-dependencies")["server"]]:  # type: ignore[misc,index]
        Requirement(requirement)
    with pytest.raises(ValueError, match="no field 'colour'"):
        get("colour")


def test_upstream_metadata_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nox -s vendor"):
        metadata_provider.read(tmp_path)


def test_zig_wrappers(tmp_path: Path) -> None:
    """The scripts find zig whatever characters are in the path, and are not rewritten when nothing changed."""
    tools = toolchain.find("zig", tmp_path / "it's a päth", LINUX)
    compiler = next(Path(word.split("=", 1)[1]) for word in tools.cmake if "C_COMPILER=" in word)
    assert compiler.is_file()
    assert tools.tag == "manylinux_2_17_x86_64"
    assert all(path.is_file() for path in tools.linked.values())
    before = compiler.stat().st_mtime_ns
    assert toolchain.find("zig", tmp_path / "it's a päth", LINUX) == tools
    assert compiler.stat().st_mtime_ns == before
    assert not (tmp_path / "not written").exists()
    toolchain.find("zig", tmp_path / "not written", LINUX, write=False)
    assert not (tmp_path / "not written").exists()


REFUSED = (
    "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS", "HIPFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "CC", "CXX",
    "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CMAKE_ARGS", "CMAKE_TOOLCHAIN_FILE", "CMAKE_BUILD_TYPE",
    "CMAKE_PREFIX_PATH", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE", "GGML_NATIVE", "CCACHE_PREFIX", "CCACHE_SLOPPINESS",
)  # fmt: skip


def test_users_flags_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's that could change a published wheel reaches CMake or a compiler; caches and proxies do."""
    for name in REFUSED:
        monkeypatch.setenv(name, "x")
    for name in ("CCACHE_DIR", "https_proxy", "TMPDIR"):
        monkeypatch.setenv(name, "y")
    env = environment.for_compiling(TOOLS, SOURCE_DATE_EPOCH="5")
    assert not set(REFUSED) & set(env)
    assert (env["CCACHE_DIR"], env["https_proxy"], env["TMPDIR"], env["SOURCE_DATE_EPOCH"]) == ("y", "y", "y", "5")
    assert {"CFLAGS", "CPLUS_INCLUDE_PATH", "CMAKE_TOOLCHAIN_FILE", "NVCC_APPEND_FLAGS"} <= set(environment.left_out())


def test_a_launcher_before_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``CXX="ccache g++"`` names g++."""
    for name in ("ccache", "g++-9"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "ccache g++-9 -O1")
    assert toolchain._compiler("CXX", ("c++",)) == str(tmp_path / "g++-9")


def test_what_llama_cpp_changed() -> None:
    """Added and dropped libraries and CPU plugins by name; only a release that nobody has looked at must be looked at."""
    known = msgspec.toml.decode((source.ROOT / "variants" / "steps" / "core.toml").read_bytes())
    plugins = [f"ggml-{name}" for name in known["plugins"]["linux_x86_64"]]
    same = assemble.Core("0123abcd", "zig", "linux_x86_64", plugins, libraries=known["libraries"])
    assert assemble.changes(same, "99.0") == ([], True)
    other = assemble.Core(
        "0123abcd", "zig", "linux_x86_64", [*plugins[1:], "ggml-cpu-new"], libraries=[*known["libraries"], "more"]
    )
    rows = ["library more: added", "CPU plugin cpu-new: added", f"CPU plugin {plugins[0].removeprefix('ggml-')}: dropped"]
    for version, again in {known["release"]: True, "99.0": True, "0.3.16": False}.items():
        assert assemble.changes(other, version) == (rows, again)
