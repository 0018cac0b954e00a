"""A plugin that fails in every function and in every way, with the real core: the process lives, and says why (llama_cpp/boundary).

The plugin (fake.cpp) computes on the CPU, so that a model runs on its device; it is compiled as real ones are, by each compiler
that is here. Wants the CPU wheel in dist/.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import projector
import pytest
import tiny
from gguf import GGMLQuantizationType as Type

from variants import matrix, platforms
from variants.compilers import toolchain
from variants.release import pipeline
from variants.upstream import source
from variants.upstream.source import ROOT

HERE = Path(__file__).parent
BOUNDARY = ROOT / "llama_cpp" / "boundary"
GGML = source.TREE / "vendor" / "llama.cpp" / "ggml"
RENAMED = ("-Dggml_backend_init=llama_cpp_plugin_init", "-Dggml_abort=llama_cpp_plugin_abort")
INCLUDED = ("-I", GGML / "include", "-I", GGML / "src", "-I", BOUNDARY, "-I", HERE)
DEFINED = ("-DGGML_BACKEND_DL", "-DGGML_BACKEND_SHARED", "-DGGML_SHARED", "-DGGML_BACKEND_BUILD")
FUNCTIONS = sorted(set(re.findall(r'act\("([\w.]+)"', (HERE / "fake.cpp").read_text(encoding="utf-8"))))
#: Told, and no error: llama.cpp says that nothing of a state was saved, and upstream's save_state does not look; the report of what
#: a backend was compiled for is empty.
QUIET = {"buffer.get_tensor", "proc.ggml_backend_get_features"}
#: "No" is an answer here, and not known for a lie: of memory of the device itself, ggml ends the process (ggml-backend.cpp).
MAY_SAY_NO = {"device.supports_op", "device.supports_buft"}


class World(msgspec.Struct, frozen=True):
    """An environment with the CPU wheel: its Python, the folder of its libraries, its libggml-base, and a model."""

    python: Path
    lib: Path
    base: Path
    model: Path


@pytest.fixture(scope="session")
def zig() -> toolchain.Toolchain:
    return toolchain.find("zig", pipeline.BUILD / "toolchains", platforms.here())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    (wheel,) = pipeline.wheels([matrix.load()["cpu"]])
    folder = tmp_path_factory.mktemp("world")
    uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    uv("pip", "install", "--python", python, wheel)
    (lib,) = folder.glob("venv/lib/python*/site-packages/llama_cpp/lib")
    (base,) = lib.glob("libggml-base-*.so")
    return World(python, lib, base, tiny.write(folder / "tiny.gguf", Type.F16))


def uv(*arguments: object) -> None:
    program = shutil.which("uv")
    assert program
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def linking(folder: Path) -> list[object]:
    """As CMakeLists.txt links a plugin."""
    (folder / "plugin.map").write_text("{ global: ggml_backend_init; llama_cpp_boundary; local: *; };\n")
    return ["-shared", f"-Wl,--version-script,{folder / 'plugin.map'}", "-Wl,-z,defs", "-Wl,-z,now", "-Wl,-z,nodelete"]


@pytest.fixture(scope="session", params=["zig", "gcc", "gcc, linked by zig", "clang"])
def fake(request: pytest.FixtureRequest, world: World, zig: toolchain.Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, by one compiler."""
    folder = tmp_path_factory.mktemp("fake")
    compiler = zig.cxx if request.param == "zig" else shutil.which("g++")
    if not compiler:
        pytest.skip("there is no g++ here, whose C++ library this one is compiled with")
    plugin = folder / "libggml-fake.so"
    sources = (BOUNDARY / "boundary.cpp", HERE / "fake.cpp")
    options = ("-std=c++17", "-O2", "-fPIC", *DEFINED, *RENAMED, *INCLUDED)
    if request.param in ("zig", "gcc"):
        run(compiler, *options, *sources, world.base, *linking(folder), "-o", plugin)
        return plugin
    compiling = clang() if request.param == "clang" else (compiler,)
    for file in sources:
        run(*compiling, *options, "-c", file, "-o", folder / f"{file.stem}.o")
    if request.param == "clang":
        run(compiler, *sorted(folder.glob("*.o")), world.base, *linking(folder), "-o", plugin)
        return plugin
    run(toolchain.linker(zig, "2.28"), "-c", "-O2", "-fPIC", BOUNDARY / "glibc.c", "-o", folder / "glibc.o")
    static = subprocess.run([compiler, "-print-file-name=libstdc++.a"], capture_output=True, text=True).stdout.strip()
    run(toolchain.linker(zig, "2.28"), *sorted(folder.glob("*.o")), static, "-lunwind", world.base, *linking(folder), "-o", plugin)
    return plugin


def clang() -> tuple[object, ...]:
    """A clang that compiles with gcc's C++ library: the machine's, or the one inside zig."""
    if found := shutil.which("clang++"):
        return (found,)
    import ziglang

    home = Path(ziglang.__file__).parent
    words = ("clang", "--driver-mode=g++", "-target", "x86_64-linux-gnu", "-nobuiltininc", "-isystem", home / "lib" / "include")
    return (sys.executable, "-m", "ziglang", *words)


@pytest.fixture(scope="session")
def every(world: World, zig: toolchain.Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that calls every function."""
    program = tmp_path_factory.mktemp("every") / "every"
    run(zig.cxx, "-std=c++17", "-O1", *DEFINED, *INCLUDED, HERE / "every.cpp", world.base, f"-Wl,-rpath,{world.lib}", "-o", program)
    return program


def test_every_function(every: Path, fake: Path, tmp_path: Path) -> None:
    """Each function thrice, alone, beside a second copy with a core of its own, in threads, and in a forked child."""
    second = shutil.copyfile(fake, tmp_path / "second.so")
    done = subprocess.run([every, fake, second], capture_output=True, text=True, timeout=300)
    assert done.stdout == "0 mistakes\n", done.stdout + done.stderr


def test_every_function_is_among_them() -> None:
    """The program calls what the plugin has, the plugin has what the boundary wraps, and the boundary names what ggml has."""
    program = (HERE / "every.cpp").read_text(encoding="utf-8")
    assert {one for one in FUNCTIONS if f'"{one}"' not in program} == {"init"}
    boundary = (BOUNDARY / "boundary.cpp").read_text(encoding="utf-8")
    wrapped = set(re.findall(r"field::(\w+)", "".join(re.findall(r"using wrapped = (.*?);", boundary, re.DOTALL))))
    assert wrapped == {one.partition(".")[2] for one in FUNCTIONS if not one.startswith(("proc.", "init"))}
    procs = set(re.findall(r"PROC\((\w+),", boundary)) - {"NAME"}
    assert {one for one in procs if "rpc" not in one} == {one.partition(".")[2] for one in FUNCTIONS if one.startswith("proc.")}


@pytest.mark.parametrize("backend", ["cuda", "vulkan", "rpc", "openvino"])
def test_functions_behind_get_proc_address(backend: str) -> None:
    """Those that upstream's backends have are known to the boundary. (Metal's others are for llama.cpp's own programs.)"""
    (file,) = (GGML / "src" / f"ggml-{backend}").glob(f"ggml-{backend}.c*")
    table = file.read_text(encoding="utf-8").rpartition("get_proc_address(ggml_backend_reg_t reg")[2]
    names = re.findall(r'strcmp\(name, "(\w+)"\) == 0', table)
    assert names or backend in ("vulkan", "openvino")
    boundary = (BOUNDARY / "boundary.cpp").read_text(encoding="utf-8")
    assert not {name for name in names if f"PROC({name}," not in boundary}


START = """
import ctypes, json, os, sys, threading
class Control(ctypes.Structure):
    _fields_ = [("function", ctypes.c_char * 64), ("without", ctypes.c_char * 64), ("how", ctypes.c_int), ("hits", ctypes.c_int),
                ("device", ctypes.c_int), ("opened", ctypes.c_int)]
control = Control()
os.environ["FAKE_CONTROL"] = hex(ctypes.addressof(control))
import llama_cpp
state = llama_cpp._backends.state
os.environ["FAKE_CPU"] = next(str(plugin.path) for plugin in state.cpu if plugin.state == "loaded")
THROW, THROW_INT, ABORT, HANG, LIE, WRONG = range(1, 7)
def order(function, how, device=0):
    control.function, control.how, control.hits, control.device = function.encode(), how, 0, device
lines = []
@llama_cpp.llama_log_callback
def log(level, text, data):
    lines.append(text.decode("utf-8", "replace"))
llama_cpp.llama_log_set(log, ctypes.c_void_p())
def load(**settings):
    settings = {"n_ctx": 64, "n_gpu_layers": -1, "n_threads": 1, "verbose": True, "logits_all": True, **settings}
    return llama_cpp.Llama({model!r}, **settings)
def compute(model):
    model.reset()
    model.eval([1, 50, 60])
    return [float(x) for x in model.scores[2][:4]]
""".replace("{{", "{").replace("}}", "}")


def script(world: World, text: str, *arguments: str, timeout: float = 300) -> Any:
    """Run it in the environment; the JSON in its last line."""
    start = START.replace("{model!r}", repr(str(world.model)))
    command = [str(world.python), "-c", start + textwrap.dedent(text), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (done.returncode, done.stdout[-1500:], done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def plugged(world: World, fake: Path) -> Any:
    """The environment with the plugin in it."""
    target = world.lib / fake.name
    shutil.copyfile(fake, target)
    yield world
    target.unlink()


def test_the_device_computes(plugged: World) -> None:
    """Nothing fails: every layer on the plugin's device, the CPU's bits. Else the others would show nothing."""
    found = script(
        plugged,
        """
        gpu = compute(load())
        print(json.dumps([gpu == compute(load(n_gpu_layers=0)), [p.devices for p in state.gpu], "Fake" in "".join(lines)]))
        """,
    )
    assert found == [True, [1], True]


FAILING = """
def attempt(function, how):
    "Everything that a model does, while that function fails; what came of it, and how often it was called."
    order(function, how)
    del lines[:]
    try:
        model = load()
        try:
            first = compute(model)
            model.load_state(model.save_state())
            model.kv_cache_seq_rm = llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(model.ctx), 0, 1, -1)
            result = "fine" if first == expected else "wrong numbers"
        except Exception as error:
            result = type(error).__name__
        hits = control.hits
        order("", 0)
        model.close()
    except Exception as error:
        result, hits = type(error).__name__, control.hits
        order("", 0)
    return result, hits, any(function in line or "unknown exception" in line for line in lines if "the backend failed" in line)
expected = compute(load(n_gpu_layers=0))
again = load()
rows = {}
for function in sys.argv[1:]:
    for how in (THROW, THROW_INT) if function in may_say_no else (THROW, THROW_INT, LIE):
        rows[f"{function} {how}"] = attempt(function, how)
after = compute(load()) == expected and compute(again) == expected
print(json.dumps([rows, after]))
"""


def test_every_failure_while_a_model_runs(plugged: World) -> None:
    """Whatever function throws: a living process, and an error of Python's with the reason in the log; afterwards all is well."""
    functions = [one for one in FUNCTIONS if one != "init"]
    rows, after = script(plugged, f"may_say_no = {MAY_SAY_NO}\n{FAILING}", *functions)
    assert after
    wrong = {}
    called = 0
    for name, (result, hits, told) in rows.items():
        called += bool(hits)
        lied = name.endswith(" 5")
        quiet = result == "fine" and name.split()[0] in QUIET
        if hits and not lied and (not told or not (quiet or result in ("RuntimeError", "ValueError"))):
            wrong[name] = (result, hits, told)
        if not hits and result != "fine":
            wrong[name] = (result, hits, told)
    assert not wrong
    assert called > 75, called  # 29 functions are called for a model, the others only by every.cpp


GIVES_UP = """
function = sys.argv[1]
expected = compute(load(n_gpu_layers=0))
model = load()
compute(model)
order(function, ABORT)
seen = []
for _ in range(3):
    try:
        compute(model)
        seen.append("fine")
    except Exception as error:
        seen.append(type(error).__name__)
hits = control.hits
order("", 0)
said = any("fake.cpp:" in line and function in line for line in lines)
model.close()
try:
    load()
    refused = "loaded"
except Exception as error:
    refused = type(error).__name__
print(json.dumps([seen, hits > 0, said, refused, compute(load(n_gpu_layers=0)) == expected]))
"""


@pytest.mark.parametrize("function", ["backend.graph_compute", "backend.synchronize", "backend.get_tensor_async", "buffer.reset"])
def test_a_device_that_gives_up(plugged: World, function: str) -> None:
    """GGML_ABORT: an error each time, its place in the log, the device is not asked again, and the CPU goes on."""
    seen, called, said, refused, cpu = script(plugged, GIVES_UP, function)
    if not called:
        pytest.skip(f"this llama.cpp does not call {function} here")
    assert seen[0] == "RuntimeError"
    assert said
    assert refused == "ValueError"
    assert cpu


@pytest.mark.parametrize("how", ["THROW", "THROW_INT", "ABORT"])
@pytest.mark.parametrize("function", ["init", "reg.get_device_count", "reg.get_device", "device.init_backend"])
def test_a_plugin_that_cannot_start(plugged: World, function: str, how: str) -> None:
    """It is given up with its own reason, and models are computed on the CPU."""
    state, reason, same = script(
        plugged,
        f"""
        import warnings
        warnings.simplefilter("ignore")
        order({function!r}, {how})
        gpu = compute(load())
        (plugin,) = state.gpu
        print(json.dumps([plugin.state, plugin.reason, gpu == compute(load(n_gpu_layers=0))]))
        """,
    )
    assert state == "failed"
    assert ("unknown exception" if how == "THROW_INT" else f"fake failure of {function}") in reason
    assert same


TWO = """
import warnings
os.environ["FAKE_DEVICES"] = "2"
said = []
warnings.showwarning = lambda message, *others: said.append(str(message))
warnings.simplefilter("always")
def used():
    return [line.split("using device ")[1].split(" ")[0] for line in lines if "using device " in line]
def refused(**settings):
    try:
        load(**settings)
        return "loaded"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
NONE, ROW, TENSOR = llama_cpp.LLAMA_SPLIT_MODE_NONE, llama_cpp.LLAMA_SPLIT_MODE_ROW, 3
"""


def two(world: World, text: str, *arguments: str) -> Any:
    """The same with two devices, and what is said of them."""
    return script(world, TWO + textwrap.dedent(text), *arguments)


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize(
    ("function", "how", "reason"),
    [
        ("backend.graph_compute", "THROW", "fake failure of backend.graph_compute"),
        ("backend.graph_compute", "ABORT", "fake failure of backend.graph_compute"),
        ("backend.graph_compute", "LIE", "it cannot compute"),
        ("backend.graph_compute", "WRONG", "it computes wrongly: nan instead of"),
        ("device.init_backend", "THROW", "fake failure of device.init_backend"),
        ("device.init_backend", "LIE", "it cannot be initialised"),
    ],
)
def test_one_of_two_devices(plugged: World, function: str, how: str, reason: str, bad: int) -> None:
    """It is left out before the first model, for good, and the other one computes; a warning says it once, the report always."""
    found = two(
        plugged,
        f"""
        order({function!r}, {how}, {bad})
        first = compute(load())
        hits = control.hits
        order("", 0)
        same = [first, compute(load()), compute(load(tensor_split=[1, 3]))] == [compute(load(n_gpu_layers=0))] * 3
        from llama_cpp import __main__ as report
        devices = {{row["name"]: row.get("left_out") for row in report.report()["devices"]}}
        print(json.dumps([same, sorted(set(used())), hits, said, devices, [p.state for p in state.gpu]]))
        """,
    )
    same, used, hits, said, devices, states = found
    assert same
    assert used == [f"Fake{1 - bad}"]
    assert hits == 1
    (warning,) = said
    assert f"Fake{bad} (a device that fails): " in warning
    assert reason in warning
    assert devices["CPU"] is devices[f"Fake{1 - bad}"] is None
    assert reason in devices[f"Fake{bad}"]
    assert states == ["loaded"]


def test_a_device_that_the_user_named(plugged: World) -> None:
    """`main_gpu`, `devices` and a `tensor_split` for it alone are refused with its reason; a model on the CPU is not."""
    found = two(
        plugged,
        """
        order("backend.graph_compute", THROW, 1)
        state.ask(gpu=True)
        get = state.ggml.ggml_backend_dev_get
        by_name = {state.ggml.ggml_backend_dev_name(get(i)): get(i) for i in range(state.ggml.ggml_backend_dev_count())}
        def with_devices(*names):
            params = llama_cpp.llama_model_default_params()
            params.n_gpu_layers = -1
            named = (ctypes.c_void_p * (len(names) + 1))(*[by_name[name] for name in names])
            params.devices = ctypes.addressof(named)
            try:
                return bool(llama_cpp.llama_model_load_from_file(os.fsencode(sys.argv[1]), params))
            except RuntimeError as error:
                return str(error)
        opened = [control.opened]
        good = [compute(load(split_mode=NONE, main_gpu=0)), with_devices(b"Fake0")]
        opened.append(control.opened)
        expected = compute(load(n_gpu_layers=0, split_mode=NONE, main_gpu=-1))
        opened.append(control.opened)
        bad = [refused(split_mode=NONE, main_gpu=1), with_devices(b"Fake1"), with_devices(b"Fake0", b"Fake1")]
        bad.append(refused(tensor_split=[0, 1]))
        on_cpu = compute(load(n_gpu_layers=0, split_mode=NONE, main_gpu=1))
        print(json.dumps([opened, good == [expected, True], bad, on_cpu == expected, refused(split_mode=NONE, main_gpu=2)]))
        """,
        str(plugged.model),
    )
    opened, good, bad, on_cpu, no_such = found
    assert opened == [0, 1, 1], "nothing that main_gpu and devices exclude is opened"
    assert good
    for text in bad:
        assert "Fake1 (a device that fails) cannot be used: fake failure of backend.graph_compute" in text
    assert on_cpu
    assert no_such.startswith("ValueError"), "llama.cpp's own"


def test_ways_to_split(plugged: World) -> None:
    """By rows and by tensors, with the device that is left."""
    found = two(
        plugged,
        """
        order("backend.graph_compute", THROW, 0)
        expected = compute(load(n_gpu_layers=0))
        rows = compute(load(split_mode=ROW)) == expected
        print(json.dumps([rows, sorted(set(used())), refused(split_mode=TENSOR, flash_attn=True), control.opened]))
        """,
    )
    assert found == [True, ["Fake1"], "loaded", 3]


def test_no_device_computes(plugged: World) -> None:
    """The plugin is given up; a model that names its device is refused, the others are on the CPU."""
    state, reason, said, same, named, again = two(
        plugged,
        """
        os.environ["FAKE_DEVICES"] = "1"
        order("backend.graph_compute", WRONG)
        same = compute(load()) == compute(load()) == compute(load(n_gpu_layers=0))
        (plugin,) = state.gpu
        named = refused(split_mode=NONE, main_gpu=0)
        print(json.dumps([plugin.state, plugin.reason, said, same, named, llama_cpp.llama_supports_gpu_offload()]))
        """,
    )
    assert state == "failed"
    assert reason.startswith("its device fails: it computes wrongly")
    assert len(said) == 1
    assert "layers were to go to a GPU, but the fake plugin was not loaded (its device fails: it computes wrongly" in said[0]
    assert same
    assert "Fake0 (a device that fails) cannot be used: it computes wrongly" in named
    assert again is False


def test_projector_on_a_device_that_computes(plugged: World, tmp_path: Path) -> None:
    """The first device that computes, the CPU where none does; one that the user named is refused."""
    mmproj = projector.write(tmp_path / "mmproj.gguf", 256)
    found = two(
        plugged,
        """
        from llama_cpp import mtmd_cpp
        said = []
        mtmd_cpp.mtmd_log_set(log, ctypes.c_void_p())
        model = load(n_gpu_layers=0)
        order("backend.graph_compute", THROW, 0)
        def context(device=None):
            params = mtmd_cpp.mtmd_context_params_default()
            params.use_gpu, params.warmup, params.device = True, False, device
            del lines[:]
            try:
                made = mtmd_cpp.mtmd_init_from_file(os.fsencode(sys.argv[1]), model._model.model, params)
            except RuntimeError as error:
                return str(error)
            return next((line.split("CLIP using ")[1].split(" ")[0] for line in lines if "CLIP using" in line), str(made))
        first = context()
        get, name = state.ggml.ggml_backend_dev_get, state.ggml.ggml_backend_dev_name
        bad = next(get(i) for i in range(state.ggml.ggml_backend_dev_count()) if name(get(i)) == b"Fake0")
        print(json.dumps([first, context(bad)]))
        """,
        str(mmproj),
    )
    assert found[0] == "Fake1"
    assert "Fake0 (a device that fails) cannot be used" in found[1]


def test_a_hanging_device_holds_nobody_else(plugged: World) -> None:
    """One thread hangs in the device; another one's model on the CPU computes, and the process can be ended."""
    script(
        plugged,
        """
        model, cpu = load(), load(n_gpu_layers=0)
        expected = compute(cpu)
        order("backend.graph_compute", HANG)
        threading.Thread(target=compute, args=(model,), daemon=True).start()
        while not control.hits:
            pass
        same = compute(cpu) == expected
        print(json.dumps(same), flush=True)
        os._exit(not same)
        """,
        timeout=60,
    )


def test_in_a_child_and_in_threads(plugged: World) -> None:
    """A failure is told in the thread and the process in which it happened, and nowhere else."""
    found = script(
        plugged,
        """
        def in_thread(rows):
            try:
                rows.append(compute(load()))
            except RuntimeError as error:
                rows.append("RuntimeError")
        def both():
            order("backend.graph_compute", THROW)
            rows = []
            threads = [threading.Thread(target=in_thread, args=(rows,)) for _ in range(4)]
            [thread.start() for thread in threads]
            cpu = compute(load(n_gpu_layers=0))
            [thread.join() for thread in threads]
            order("", 0)
            return [rows.count("RuntimeError") + rows.count("ValueError"), cpu == expected, compute(load()) == expected]
        expected = compute(load(n_gpu_layers=0))
        load()  # the device is trusted
        parent = both()
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, json.dumps(both()).encode())
            os._exit(0)
        print(json.dumps([parent, json.loads(os.read(reader, 4096))]))
        """,
    )
    assert found == [[4, True, True], [4, True, True]]


def compiled(zig: toolchain.Toolchain, world: World, folder: Path, header: str | None, *sources: Path) -> Path:
    """The plugin by zig from other sources: without the boundary, or with another boundary.h."""
    (folder / "include").mkdir(parents=True)
    renamed = RENAMED if header else ()
    if header:
        (folder / "include" / "boundary.h").write_text(header)
        sources = (Path(shutil.copy(BOUNDARY / "boundary.cpp", folder)), *sources)
    plugin = folder / "libggml-fake.so"
    linked = [word for word in linking(folder) if "version-script" not in str(word)]
    compiling = (zig.cxx, "-std=c++17", "-O1", "-fPIC", *DEFINED, *renamed, "-I", folder / "include", *INCLUDED)
    run(*compiling, *sources, world.base, *linked, "-o", plugin)
    return plugin


STATE = """
import warnings
warnings.simplefilter("ignore")
text = compute(load())
(plugin,) = state.gpu or [state.out_of_tree]
print(json.dumps([plugin.state, plugin.reason, text == compute(load(n_gpu_layers=0))]))
"""


def test_another_boundary(world: World, zig: toolchain.Toolchain, tmp_path: Path) -> None:
    """A plugin with another boundary, or none, is refused before anything of it runs. One that the user names may have none."""
    target = world.lib / "libggml-fake.so"
    header = (BOUNDARY / "boundary.h").read_text(encoding="utf-8")
    newer = compiled(zig, world, tmp_path / "newer", header.replace("BOUNDARY 1", "BOUNDARY 2"), HERE / "fake.cpp")
    none = compiled(zig, world, tmp_path / "none", None, HERE / "fake.cpp")
    try:
        shutil.copyfile(newer, target)
        state, reason, same = script(world, 'order("init", ABORT)' + STATE)
        assert (state, same) == ("failed", True)
        assert "the plugin is built for boundary 2, this core has 1" in reason
        shutil.copyfile(none, target)
        state, reason, same = script(world, 'order("init", ABORT)' + STATE)
        assert (state, same) == ("failed", True)
        assert "the plugin has no boundary" in reason
    finally:
        target.unlink()
    named = f"os.environ['GGML_BACKEND_PATH'] = {str(none)!r}"
    assert script(world, named + STATE) == ["loaded", "", True]


def test_a_core_without_hooks(plugged: World) -> None:
    """Loaded by ggml alone, the plugin's failures are told on stderr; the caller gets what means failure, and why."""
    found = script(
        plugged,
        """
        state.gpu_asked = True
        state.ggml.ggml_backend_load(os.fsencode(str(state.gpu[0].path)))
        model = load()
        compute(model)
        order("backend.graph_compute", ABORT)
        try:
            compute(model)
            print(json.dumps("fine"))
        except RuntimeError as error:
            print(json.dumps(str(error)))
        """,
    )
    assert found.startswith("llama_decode returned -3")


@pytest.mark.parametrize("interface", ["buffer_type", "buffer", "device", "reg", ""])
def test_a_new_function_of_ggml(zig: toolchain.Toolchain, interface: str, tmp_path: Path) -> None:
    """A function that a new llama.cpp adds to an interface does not compile, with what to do; one that an old one lacks, does."""
    header = (GGML / "src" / "ggml-backend-impl.h").read_text(encoding="utf-8")
    struct = f"struct ggml_backend_{interface}_i {{" if interface else "struct ggml_backend_i {"
    compiling = [zig.cxx, "-std=c++17", "-O0", *DEFINED, *RENAMED, "-I", tmp_path, *INCLUDED, "-c", BOUNDARY / "boundary.cpp"]
    compiling += ["-o", tmp_path / "boundary.o"]
    for text, message in (
        (header.replace(struct, f"{struct} void (*brand_new)(void);"), "add it to the interface's list"),
        (re.sub(r"bool +\(\*cpy_tensor\) *\(.*\n", "", header), ""),
    ):
        assert text != header
        (tmp_path / "ggml-backend-impl.h").write_text(text)
        done = subprocess.run([*map(str, compiling)], capture_output=True, text=True)
        assert bool(message) == bool(done.returncode), done.stderr[-2000:]
        assert message in " ".join(done.stderr.split()).replace('" "', "")


@pytest.mark.parametrize("name", ["linux_aarch64", "musllinux_x86_64", "win_amd64", "win_arm64", "macosx_arm64"])
def test_one_source_for_every_platform(name: str, tmp_path: Path) -> None:
    """It compiles for ELF, PE and Mach-O. (Run on Linux x86-64 alone.)"""
    other = toolchain.find("zig", pipeline.BUILD / "toolchains", platforms.get(name))
    run(
        other.cxx,
        "-std=c++17",
        "-O1",
        "-c",
        *DEFINED,
        *RENAMED,
        *INCLUDED,
        BOUNDARY / "boundary.cpp",
        "-o",
        tmp_path / "boundary.o",
    )
