"""What the loader promises: silent, safe to import anywhere, plugins from the wheel's own folder, reasons for what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

import llama_cpp
import pytest

Models = Callable[[str], Path]
LIB = Path(llama_cpp.__file__).parent / "lib"

GENERATE = """
def generate(path):
    model = llama_cpp.Llama(path, n_ctx=128, n_threads=2, verbose=False)
    return model.create_completion("the hat", max_tokens=8, temperature=0.0)["choices"][0]["text"]
"""


def python(script: str, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new interpreter; fails the test where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def report(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "llama_cpp", "--json"], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def states(facts: dict[str, Any]) -> dict[str, str]:
    return {plugin["name"]: plugin["state"] for plugin in facts["plugins"]}


def test_import_is_silent() -> None:
    done = python("import llama_cpp")
    assert (done.stdout, done.stderr) == ("", "")


def test_import_loads_the_cpu_plugin_alone() -> None:
    """After the import, ggml has one backend and no GPU plugin is mapped, nor anything that could touch a driver. (The other CPU
    plugins, which were asked for their scores, stay mapped: `-z nodelete` in CMakeLists.txt.)"""
    script = """
        import llama_cpp, re
        maps = open("/proc/self/maps").read()
        print(llama_cpp._backends.state.ggml.ggml_backend_reg_count())
        print(*sorted(set(re.findall(r"/(libggml-(?!base|cpu)[a-z]+\\.so|libcuda[^/]*|libvulkan[^/]*)", maps))))
    """
    assert python(script).stdout.split() == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no dlclose")
def test_every_cpu_plugin_opens_and_closes_alone() -> None:
    """Nothing of a library that is closed runs at exit: alone, a plugin brings libggml-base and takes it away again."""
    script = "import _ctypes, ctypes, sys; _ctypes.dlclose(ctypes.CDLL(sys.argv[1])._handle)"
    for plugin in LIB.glob("*ggml-cpu-*"):
        python(script, plugin)


def test_imported_twice(gguf_file: Models) -> None:
    """Taken out of sys.modules and imported again, the package has its plugins, loaded or waiting, as the first time."""
    script = """
        import json, sys, llama_cpp
        def seen():
            state = llama_cpp._backends.state
            return [state.static, sorted((p.name, p.state) for p in state.plugins)]
        def forget():
            for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
                del sys.modules[name]
        first = seen()
        forget()
        import llama_cpp
        again = seen()
        text = generate(sys.argv[1])
        llama_cpp._backends.state.ask(gpu=True)
        asked = [(p.name, p.state, p.devices) for p in llama_cpp._backends.state.gpu]
        forget()
        import llama_cpp
        llama_cpp._backends.state.ask(gpu=True)
        print(json.dumps([first == again, first[0], text == generate(sys.argv[1]),
                          asked == [(p.name, p.state, p.devices) for p in llama_cpp._backends.state.gpu]]))
    """
    done = python(GENERATE + textwrap.dedent(script), gguf_file("F16"), PYTHONWARNINGS="ignore")
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, True, True]


def test_upstream_names_are_there() -> None:
    """Every public name that upstream's own modules define is in the package, and was not replaced by something else."""
    from llama_cpp import _ggml, llama, mtmd_cpp
    from llama_cpp import llama_cpp as bindings

    for module in (bindings, llama):
        for name in (n for n in vars(module) if not n.startswith("_")):
            assert hasattr(llama_cpp, name), name
    assert callable(llama_cpp.llama_model_load_from_file)
    assert llama_cpp.llama_model_load_from_file.argtypes == [bindings.ctypes.c_char_p, bindings.llama_model_params]
    assert mtmd_cpp.mtmd_default_marker()
    assert _ggml.libggml.ggml_backend_dev_count() >= 1


def test_threads(gguf_file: Models) -> None:
    """Imported and used in threads, first import included."""
    script = f"""
        import sys, threading
        out = []
        def work():
            import llama_cpp
            globals()["llama_cpp"] = llama_cpp
            out.append(generate(sys.argv[1]))
        {textwrap.indent(GENERATE, " " * 8).strip()}
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert len(out) == 4 and len(set(out)) == 1 and out[0], out
    """
    python(script, gguf_file("Q8_0"))


def test_fork(gguf_file: Models) -> None:
    """Import, infer, fork, and infer in both."""
    script = f"""
        import os, sys, llama_cpp
        {textwrap.indent(GENERATE, " " * 8).strip()}
        before = generate(sys.argv[1])
        child = os.fork()
        after = generate(sys.argv[1])
        if child == 0:
            os._exit(0 if after == before else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0 and after == before
    """
    python(script, gguf_file("Q8_0"), PYTHONWARNINGS="ignore::DeprecationWarning")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an ELF library is copied")
def test_nothing_is_opened_by_a_relative_path(tmp_path: Path) -> None:
    """Neither ``$ROCM_PATH/lib``, where that variable is not set, nor a relative entry of sys.path leads anywhere."""
    script = """
        import json, sys
        from llama_cpp import _backends
        sys.path.append("packages")
        print(_backends._open_packages(json.loads(sys.argv[1])))
        print([line.split()[-1] for line in open("/proc/self/maps") if "libodd" in line])
    """
    (library,) = LIB.glob("libggml-base-*.so")
    for folder in ("$NOT_SET_AT_ALL/lib", "packages/odd/lib"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copyfile(library, tmp_path / folder / "libodd.so.1")
    system = {"system": ["libodd.so.1"], "folders": ["$NOT_SET_AT_ALL/lib"], "brought_by": "nobody"}
    for facts in (system, {"libraries": {"odd/lib": ["libodd.so.1"]}}):
        said, mapped = python(script, json.dumps(facts), cwd=tmp_path).stdout.splitlines()
        assert mapped == "[]", mapped
        assert ("it comes with nobody" in said) == ("system" in facts)


def test_subprocess_and_read_only_install(gguf_file: Models, tmp_path: Path) -> None:
    """A copy of the package in a folder that nobody may write works from a process of its own."""
    copy = tmp_path / "read only Ünï"
    shutil.copytree(Path(llama_cpp.__file__).parent, copy / "llama_cpp", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        script = f"""
            import sys, llama_cpp
            {textwrap.indent(GENERATE, " " * 12).strip()}
            assert llama_cpp.__file__.startswith(sys.argv[2]), llama_cpp.__file__
            assert generate(sys.argv[1])
        """
        python(script, gguf_file("Q8_0"), copy, PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


def test_current_directory_is_not_searched(gguf_file: Models, tmp_path: Path) -> None:
    """A plugin lying in the current directory is never opened, not even by ggml_backend_load_all."""
    for source in LIB.glob("libggml-cpu-x64.so"):
        shutil.copy(source, tmp_path / "libggml-cpu-zzz.so")
        shutil.copy(source, tmp_path / "libggml-vulkan.so")
    assert len(list(tmp_path.iterdir())) == 2
    script = f"""
        import sys, llama_cpp, llama_cpp._ggml
        {textwrap.indent(GENERATE, " " * 8).strip()}
        llama_cpp.llama_backend_init()
        llama_cpp._ggml.libggml.ggml_backend_load_all()
        llama_cpp._ggml.libggml.ggml_backend_load_all_from_path(None)
        assert generate(sys.argv[1])
        assert sys.argv[2] not in open("/proc/self/maps").read()
    """
    python(script, gguf_file("Q8_0"), tmp_path, cwd=tmp_path)


def test_backends_variable() -> None:
    """LLAMA_CPP_BACKENDS picks plugins; an unknown name is told, an unusable CPU plugin is an error that says so."""
    assert states(report(LLAMA_CPP_BACKENDS="cpu-x64"))["cpu-x64"] == "loaded"
    assert "loaded" in states(report(LLAMA_CPP_BACKENDS="cpu")).values()
    assert report(LLAMA_CPP_BACKENDS="cpu,cuba")["unknown_backends"] == ["cuba"]
    unusable = [name for name, state in states(report()).items() if state == "skipped" and "needs instructions" in reason(name)]
    if not unusable:
        pytest.skip("this processor runs every CPU plugin")
    done = subprocess.run(
        [sys.executable, "-c", "import llama_cpp"],
        env={**os.environ, "LLAMA_CPP_BACKENDS": unusable[0]},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "ImportError: llama_cpp has no CPU plugin" in done.stderr
    assert "LLAMA_CPP_BACKENDS" in done.stderr


def reason(name: str) -> str:
    return next(str(plugin.get("reason", "")) for plugin in report()["plugins"] if plugin["name"] == name)


def test_out_of_tree_plugin(gguf_file: Models, tmp_path: Path) -> None:
    """GGML_BACKEND_PATH is honoured when a model is loaded, and both success and failure are reported."""
    plugin = shutil.copy(LIB / "libggml-cpu-x64.so", tmp_path / "libmine.so")
    assert states(report(GGML_BACKEND_PATH=str(plugin)))["GGML_BACKEND_PATH"] == "loaded"
    broken = report(GGML_BACKEND_PATH=str(tmp_path / "none.so"))
    assert states(broken)["GGML_BACKEND_PATH"] == "failed"
    script = f"""
        import sys, llama_cpp
        {textwrap.indent(GENERATE, " " * 8).strip()}
        assert "libmine" not in open("/proc/self/maps").read()
        assert generate(sys.argv[1])
        assert "libmine" in open("/proc/self/maps").read()
    """
    python(script, gguf_file("Q8_0"), GGML_BACKEND_PATH=str(plugin))
    verbose = "import sys, llama_cpp; llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=True)"  # verbose=False hides warnings too
    failing = python(verbose, gguf_file("Q8_0"), GGML_BACKEND_PATH="/none.so")
    assert "GGML_BACKEND_PATH=/none.so was not loaded" in failing.stderr


def test_plugin_of_another_core_is_refused(tmp_path: Path) -> None:
    """Its NEEDED entry names a core that is not there; the reason says which."""
    package = tmp_path / "llama_cpp"
    shutil.copytree(Path(llama_cpp.__file__).parent, package)
    base = next(p.name for p in (package / "lib").glob("libggml-base-*.so"))
    content = (package / "lib" / "libggml-cpu-x64.so").read_bytes()
    other = base[:-11] + ("00000000" if "00000000" not in base else "11111111") + ".so"
    assert content.count(base.encode()) >= 1
    (package / "lib" / "libggml-vulkan.so").write_bytes(content.replace(base.encode(), other.encode()))
    facts = report(PYTHONPATH=str(tmp_path))
    plugin = next(p for p in facts["plugins"] if p["name"] == "vulkan")
    assert plugin["state"] == "failed"
    assert other in plugin["reason"] or llama_cpp.__version__ == "0.3.16"  # whose ggml does not say why


def test_gpu_plugin_waits_until_asked(gguf_file: Models, tmp_path: Path) -> None:
    """No plugin beside the CPU's is opened by the import, a fork or a model on the CPU; the first model with layers opens it.

    The plugin here is a real one (a CPU plugin under a GPU's name): what counts is when it is opened.
    """
    package = tmp_path / "llama_cpp"
    shutil.copytree(Path(llama_cpp.__file__).parent, package)
    shutil.copy(package / "lib" / "libggml-cpu-x64.so", package / "lib" / "libggml-vulkan.so")
    script = """
        import sys, llama_cpp
        opened = lambda: "libggml-vulkan.so" in open("/proc/self/maps").read()
        assert not opened(), "by the import"
        model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_gpu_layers=0, verbose=False)
        model.create_completion("the", max_tokens=2)
        assert not opened(), "by a model without layers to offload"
        {question}
        assert opened() is {expected}, "by the question"
    """
    everywhere = {"PYTHONPATH": str(tmp_path)}
    layers = "llama_cpp.Llama(sys.argv[1], n_ctx=64, n_gpu_layers=-1, verbose=False)"
    for question, expected, settings in (
        ("llama_cpp.llama_supports_gpu_offload()", True, {}),
        (layers, True, {}),
        ("import llama_cpp._ggml; llama_cpp._ggml.libggml.ggml_backend_dev_count()", True, {}),
        (layers, False, {"LLAMA_CPP_BACKENDS": "cpu"}),
    ):
        python(script.format(question=question, expected=expected), gguf_file("Q8_0"), **{**everywhere, **settings})  # type: ignore[arg-type]


def test_report_for_people() -> None:
    done = subprocess.run([sys.executable, "-m", "llama_cpp"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for word in (metadata.version("llama_cpp_python"), "CPU plugin", "Devices", "Plugins", str(LIB), "linux_"):
        assert word in done.stdout


def test_report_for_tools() -> None:
    facts = report()
    assert facts["llama_cpp_python"]["version"] == metadata.version("llama_cpp_python")
    assert facts["core"]["llama_cpp_commit"]
    assert facts["devices"][0]["memory_total"] > 0
    assert facts["cpu"]["plugin"].startswith("cpu-")


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "xllamacpp first"])
def test_another_ggml_in_the_process(gguf_file: Models, ours_first: bool) -> None:
    """xllamacpp ships its own libllama and ggml: both packages infer in one process, whichever was imported first."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed in this environment (the uv one has it)")
    script = f"""
        import sys
        {"import llama_cpp, xllamacpp" if ours_first else "import xllamacpp, llama_cpp"}
        {textwrap.indent(GENERATE, " " * 8).strip()}
        def theirs(path):
            params = xllamacpp.CommonParams()
            params.model.path = path
            params.n_ctx, params.n_predict, params.warmup = 256, 8, False
            server = xllamacpp.Server(params)
            return server.handle_completions({{"prompt": "the hat", "max_tokens": 8, "temperature": 0.0}})["choices"][0]["text"]
        first, second = (generate, theirs) if {ours_first} else (theirs, generate)
        texts = first(sys.argv[1]), second(sys.argv[1]), first(sys.argv[1])
        assert all(texts) and texts[0] == texts[2], texts
    """
    python(script, gguf_file("Q8_0"))


def test_report_of_a_variant(tmp_path: Path) -> None:
    """Label and properties come from dist-info/variant.json (PEP 825), where the wheel has one; the build number from WHEEL."""
    package = Path(llama_cpp.__file__).parent
    shutil.copytree(package, tmp_path / "llama_cpp")
    info = next(package.parent.glob("llama_cpp_python-*.dist-info"))
    shutil.copytree(info, tmp_path / info.name)
    variants = {"vulkan": {"llama_cpp": {"backend": ["vulkan"]}}}
    (tmp_path / info.name / "variant.json").write_text(json.dumps({"variants": variants}))
    header = (info / "WHEEL").read_text().replace("Tag:", "Build: 7\nTag:", 1)
    (tmp_path / info.name / "WHEEL").write_text(header)
    facts = report(PYTHONPATH=str(tmp_path))["llama_cpp_python"]
    assert facts["variant"] == {"label": "vulkan", "properties": {"llama_cpp": {"backend": ["vulkan"]}}}
    assert facts["build"] == "7"
    people = subprocess.run(
        [sys.executable, "-m", "llama_cpp"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "llama_cpp :: backend :: vulkan" in people.stdout


def test_a_reader_that_has_read_enough() -> None:
    """``python -m llama_cpp | head -1`` and ``> /dev/full`` end without a traceback."""
    read, write = os.pipe()
    os.close(read)
    for target, expected in ((write, ""), (os.open("/dev/full", os.O_WRONLY), "python -m llama_cpp: No space left on device\n")):
        done = subprocess.run([sys.executable, "-m", "llama_cpp"], stdout=target, stderr=subprocess.PIPE, text=True)
        os.close(target)
        assert (done.stderr, done.returncode) == (expected, bool(expected))


@pytest.mark.parametrize("folder", ["", "nowhere", "."])
def test_a_wrong_folder_of_libraries(folder: str, tmp_path: Path) -> None:
    """The error names the variable, its value and the folder."""
    done = subprocess.run(
        [sys.executable, "-c", "import llama_cpp"],
        cwd=str(tmp_path), env={**os.environ, "LLAMA_CPP_LIB_PATH": folder}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert f"LLAMA_CPP_LIB_PATH={folder!r}: there is no " in done.stderr
    assert os.path.abspath(str(tmp_path / folder)) in done.stderr
