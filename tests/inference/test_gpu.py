"""The wheel's GPU plugin: does it compute on the device, and does the process live when the device fails or is not there?

``LLAMA_CPP_TEST_DEVICE`` (set by ``test_variant``) is how the name of the expected ggml device begins: ``Vulkan``. Where there is
no such device, the tests that need one are skipped with the plugin's own reason, and the others, the CPU fallback of the very same
wheel, run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import llama_cpp
import numpy as np
import projector
import pytest
import tiny
from gguf import GGMLQuantizationType as Type
from oracle import Oracle
from test_inference import FLASH, judge_greedily, load, prompt
from test_inference import TOLERANCE as CPU_TOLERANCE
from test_mtmd import chunks, encode, picture

PREFIX = os.environ.get("LLAMA_CPP_TEST_DEVICE", "CPU")
PLUGIN = next((plugin for plugin in llama_cpp._backends.state.gpu), None)
FAILING_DRIVER = os.environ.get("LLAMA_CPP_TEST_FAILING_DRIVER")
PRELOADED = "PRELOADED" if os.name == "nt" else "LD_PRELOAD"
PRETENDED = ("CUDA", "ROCm")  # those whose failing driver needs no device
#: Largest allowed difference of a logit on the GPU, which computes in F16 where it can. Measured on lavapipe: 3e-3, then 2.5e-2 to
#: 3.1e-2 (the CPU's own are in test_inference; it rounds the activations too, and is farther off).
TOLERANCE = {"F32": 1e-2, "F16": 5e-2, "Q8_0": 5e-2, "Q4_0": 5e-2, "Q4_K": 5e-2, "Q6_K": 5e-2, "IQ4_NL": 5e-2}
if PREFIX in PRETENDED:  # not measured yet: F32 is multiplied as TF32, quantised weights meet activations of 8 bits, as on the CPU
    TOLERANCE.update({"F32": 2e-2, **{kind: CPU_TOLERANCE[kind] for kind in CPU_TOLERANCE if kind[0] in "QI"}})
if PREFIX == "OPENVINO":  # measured: 3e-2, 3e-2, 8e-2, 8e-2, 8e-2; wrong for Q4_K (3.4 off), and refuses IQ4_NL
    TOLERANCE = {"F32": 6e-2, "F16": 6e-2, "Q8_0": 1e-1, "Q4_0": 1e-1, "Q6_K": 1e-1}
pytestmark = pytest.mark.skipif(PLUGIN is None, reason="this wheel has no GPU plugin")

Models = Callable[[str], Path]
#: How Python is started: emulated, where this one is.
PYTHON = json.loads(os.environ.get("LLAMA_CPP_TEST_PYTHON", "null")) or [sys.executable]
#: `preloaded`: what has the name `failing_driver`. Windows has no LD_PRELOAD: there DLLs of the drivers' names are opened first.
START = """
import ctypes, json, os, sys
if os.name == "nt":
    preloaded, *others = [ctypes.CDLL(path) for path in os.environ["PRELOADED"].split(";")] if "PRELOADED" in os.environ else [None]
else:
    preloaded = ctypes.CDLL(None)
import llama_cpp
"""
LOAD = """
def load(path, **settings):
    flash = "LLAMA_CPP_TEST_FLASH" in os.environ
    settings = {"n_ctx": 256, "n_threads": 2, "n_gpu_layers": -1, "verbose": False, "flash_attn": flash, **settings}
    return llama_cpp.Llama(path, **settings)
def generate(path, **settings):
    model = load(path, **settings)
    return model.create_completion("the hat", max_tokens=8, temperature=0.0)["choices"][0]["text"]
def loaded():
    return [plugin.name for plugin in llama_cpp._backends.state.gpu if plugin.state == "loaded"]
"""


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these words. Its output goes through files: a pipe stays open while programs of wine's, which the first
    window starts, have it too."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            [*PYTHON, *words], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=600
        )
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def python(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script, which has `load`, `generate` and `loaded`, in a new interpreter."""
    return started("-c", START + LOAD + textwrap.dedent(script), *map(str, arguments), **environment)


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON in the last line that the script printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def device() -> str:
    """Name of the device that must compute.

    Asked in another process: this one must not open a driver before the tests that say so.
    """
    done = started("-m", "llama_cpp", "--json")
    report = json.loads(done.stdout)
    found = [row["name"] for row in report["devices"] if row["name"].startswith(PREFIX)]
    if not found:
        assert PLUGIN is not None
        why = next((row.get("reason", "") for row in report["plugins"] if row["name"] == PLUGIN.name), "")
        pytest.skip(f"no {PREFIX} device here ({why or 'the plugin found none'})")
    return str(found[0])


def test_report_names_the_tools() -> None:
    """What the plugin was built with, and for which core, stands in the report of a wheel that has one."""
    assert PLUGIN is not None
    done = started("-m", "llama_cpp", "--json")
    report = json.loads(done.stdout)
    assert report["gpu_plugin"]["name"] == PLUGIN.name
    assert report["gpu_plugin"]["core"] == report["core"]["fingerprint"]
    assert report["gpu_plugin"]["toolkit"]


@pytest.mark.parametrize("kind", list(TOLERANCE))
def test_logits(gguf_file: Models, kind: str, device: str) -> None:
    """Every layer on the device, and NumPy's logits."""
    tokens = prompt(48)
    with closing(load(gguf_file(kind), n_gpu_layers=-1, logits_all=True)) as model:
        model.eval(tokens)
        ours = np.array(model.scores[: len(tokens)], dtype=np.float64)
    assert np.abs(ours - Oracle(gguf_file(kind)).logits(tokens)).max() < TOLERANCE[kind]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_greedy_continuation(gguf_file: Models, kind: str, device: str) -> None:
    """The text that NumPy would write, wherever that is beyond doubt."""
    judge_greedily(gguf_file(kind), TOLERANCE[kind], n_gpu_layers=-1)


def test_every_layer_is_offloaded(gguf_file: Models, device: str) -> None:
    """llama.cpp's own report: all layers, the output one too, and the weights' buffer on this device."""
    script = 'model = load(sys.argv[1], verbose=True); model.create_completion("a", max_tokens=1)'
    done = python(script, gguf_file("F16"))
    assert done.returncode == 0, done.stderr
    assert "offloaded 3/3 layers to GPU" in done.stderr
    assert re.search(rf"{device} model buffer size\s*=\s*[1-9]", done.stderr), done.stderr
    assert re.search(rf"{device} compute buffer size\s*=\s*[\d.]*[1-9]", done.stderr), done.stderr


@pytest.mark.parametrize("flash", [False, True])
def test_long_batch(gguf_file: Models, flash: bool, device: str) -> None:
    """More than 512 tokens at once, with and without flash attention."""
    if FLASH and not flash:
        pytest.skip("this device computes with flash attention alone")
    tokens = prompt(700, seed=3)
    settings = {"n_ctx": 1024, "n_batch": 1024, "n_ubatch": 1024, "logits_all": True, "flash_attn": flash}
    with closing(load(gguf_file("F32"), n_gpu_layers=-1, **settings)) as model:
        model.eval(tokens)
        ours = np.array(model.scores[len(tokens) - 1], dtype=np.float64)
    assert np.abs(ours - Oracle(gguf_file("F32")).logits(tokens)[-1]).max() < TOLERANCE["F32"]


def test_partial_offload_and_two_models(gguf_file: Models, device: str) -> None:
    """One layer on the device and the rest on the CPU; a second model beside it, wholly on the device."""
    tokens = prompt(48)
    truth = Oracle(gguf_file("F32")).logits(tokens)
    with closing(load(gguf_file("F32"), n_gpu_layers=1, logits_all=True)) as one, closing(
        load(gguf_file("F32"), n_gpu_layers=-1, logits_all=True)
    ) as two:
        for model in (one, two, one):
            model.reset()
            model.eval(tokens)
            ours = np.array(model.scores[: len(tokens)], dtype=np.float64)
            assert np.abs(ours - truth).max() < TOLERANCE["F32"]


def test_reload(gguf_file: Models, device: str) -> None:
    """Twenty times loaded and freed: neither the process nor what the device holds grows beyond what the first loads cost."""
    script = """
        sizes, free = [], []
        for _ in range(20):
            model = load(sys.argv[1])
            model.eval([1, 50, 60])
            model.close()
            sizes.append(resident())
            free.append(device_memory())
        print(json.dumps([sizes, free]))
    """
    for _ in range(3):  # other processes take memory of the device as well (a CPU's is the machine's); a leak shows every time
        sizes, free = answer(python(MEMORY + textwrap.dedent(script), gguf_file("F16")))
        assert sizes[-1] - sizes[9] < 8_000_000, sizes
        if free[9] - free[-1] < 8_000_000:
            return
    pytest.fail(f"the device's free memory shrinks: {free}")


@pytest.fixture(scope="session")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision projector for the tiny model."""
    return projector.write(tmp_path_factory.mktemp("projector") / "mmproj.gguf", 256)


def test_projector(gguf_file: Models, mmproj: Path, device: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An image's embeddings, computed on the device, are NumPy's."""
    if PREFIX == "OPENVINO":
        pytest.skip("llama.cpp computes the projector on the CPU beside OpenVINO")
    with closing(load(gguf_file("F32"), n_gpu_layers=-1)) as model, chunks(model, mmproj, gpu=True) as (context, parts):
        ours = encode(context, parts)
    assert f"CLIP using {device} backend" in capfd.readouterr().err
    assert np.abs(ours - projector.embeddings(mmproj, picture())).max() < 5e-2


#: `resident`: bytes of this process. `device_memory`: bytes free on the first GPU. `take`: take memory of the device until less
#: than so many bytes can be had.
MEMORY = """
def resident():
    if os.name != "nt":
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    counters = (ctypes.c_size_t * 9)()  # PROCESS_MEMORY_COUNTERS, whose first two numbers are of 32 bits
    kernel = ctypes.windll.kernel32
    kernel.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, ctypes.sizeof(counters))
    return counters[2]  # WorkingSetSize
def first():
    ggml = llama_cpp._backends.state.ggml
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    llama_cpp._backends.state.ask(gpu=True)
    for index in range(ggml.ggml_backend_dev_count()):
        device = ctypes.c_void_p(ggml.ggml_backend_dev_get(ctypes.c_size_t(index)))
        if ggml.ggml_backend_dev_type(device) in (1, 2):
            return ggml, device
def device_memory():
    ggml, device = first()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return free.value
def take(rest):
    ggml, device = first()
    ggml.ggml_backend_dev_buffer_type.restype = ggml.ggml_backend_buft_alloc_buffer.restype = ctypes.c_void_p
    kind = ctypes.c_void_p(ggml.ggml_backend_dev_buffer_type(device))
    size, taken, most = 1 << 30, 0, 2 * device_memory()
    while size > rest and taken <= most:
        if ggml.ggml_backend_buft_alloc_buffer(kind, ctypes.c_size_t(size)):
            taken += size
        else:
            size //= 2
    return taken <= most
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights take 140 MB, evenly over eight layers."""
    shape = tiny.Shape(dim=512, layers=8, heads=8, kv_heads=4, hidden=2048)
    return tiny.write(tmp_path_factory.mktemp("big") / "big-F32.gguf", Type.F32, shape)


TOO_BIG = """
try:
    load(sys.argv[1])
    whole = "loaded"
except Exception as problem:
    whole = type(problem).__name__
model = load(sys.argv[1], n_gpu_layers=2, logits_all=True)
tokens = json.loads(sys.argv[2])
model.eval(tokens)
print(json.dumps([whole, model.scores[len(tokens) - 1].tolist(), loaded()]))
"""


def test_too_little_memory(big: Path, device: str) -> None:
    """A device with less memory left than the model needs: an error of Python's for the whole, NumPy's logits with what fits."""
    if PREFIX == "OPENVINO":
        pytest.skip("the device's memory is this machine's")
    script = """
        load(sys.argv[1], n_gpu_layers=1)
        if not take(100_000_000):
            print(json.dumps("this driver hands out more memory than it has"))
            sys.exit()
    """
    tokens = prompt(24)
    found = answer(python(MEMORY + textwrap.dedent(script) + TOO_BIG, big, json.dumps(tokens)))
    if isinstance(found, str):
        pytest.skip(found)
    whole, logits, _ = found
    assert whole == "ValueError"
    assert np.abs(np.array(logits) - Oracle(big).logits(tokens)[-1]).max() < TOLERANCE["F32"]


@pytest.mark.skipif(PREFIX not in PRETENDED or FAILING_DRIVER is None, reason="no driver that pretends a device, with a size")
def test_too_little_memory_on_a_pretended_device(big: Path) -> None:
    """The same without a GPU, as far as that goes: the whole is refused as upstream does, two layers are accepted."""
    assert FAILING_DRIVER is not None
    assert PLUGIN is not None
    done = python(TOO_BIG, big, json.dumps(prompt(24)), **{PRELOADED: FAILING_DRIVER}, DEVICE_MEMORY="100000000")
    whole, _, plugins = answer(done)
    assert whole == "ValueError"
    assert plugins == [PLUGIN.name]


def test_cpu_only_never_opens_the_plugin(gguf_file: Models) -> None:
    """`n_gpu_layers=0`: no driver is touched, with big batches neither."""
    script = """
        model = load(sys.argv[1], n_gpu_layers=0, n_ctx=1024, n_batch=1024)
        model.eval([1, *range(3, 380)] * 2)
        if os.name == "nt":
            find = ctypes.windll.kernel32.GetModuleHandleW
            drivers = [name for name in ("vulkan-1.dll", "nvcuda.dll") if find(name)]
        else:
            maps = open("/proc/self/maps").read()
            drivers = [name for name in ("libvulkan", "libcuda", "libamdhip64") if name in maps]
        print(json.dumps([loaded(), drivers]))
    """
    assert answer(python(script, gguf_file("F16"))) == [[], []]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_import_fork_infer(gguf_file: Models) -> None:
    """A server that imports, forks, and uses the device in its children."""
    script = """
        texts = []
        for _ in range(2):
            reader, writer = os.pipe()
            if not os.fork():
                os.write(writer, json.dumps([generate(sys.argv[1]), loaded()]).encode())
                os._exit(0)
            os.close(writer)
            texts.append(json.loads(os.fdopen(reader).read()))
        print(json.dumps(texts))
    """
    first, second = answer(python(script, gguf_file("F16")))
    assert first == second
    assert first[0]


def test_without_driver(gguf_file: Models) -> None:
    """The same wheel where there is no driver: the CPU goes on, and the report says so."""
    nothing = {"VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json", "CUDA_VISIBLE_DEVICES": "",
               "HIP_VISIBLE_DEVICES": ""}  # fmt: skip
    script = "print(json.dumps([generate(sys.argv[1]), generate(sys.argv[1], n_gpu_layers=0)]))"
    with_layers, without = answer(python(script, gguf_file("F32"), **nothing))
    assert with_layers == without


def test_plugin_of_another_core(gguf_file: Models, tmp_path: Path) -> None:
    """A plugin that was linked against another core is not loaded; the reason names the library that it wants."""
    assert PLUGIN is not None
    lib = tmp_path / "lib"
    lib.mkdir()
    for file in PLUGIN.path.parent.iterdir():  # not by shutil, which asks a function of Windows that wine 8 lacks
        (lib / file.name).write_bytes(file.read_bytes())
    fingerprint = json.loads((lib / "core.json").read_text())["fingerprint"].encode()
    path = lib / PLUGIN.path.name
    path.write_bytes(path.read_bytes().replace(b"ggml-base-" + fingerprint, b"ggml-base-" + fingerprint[::-1]))
    script = """
        text = generate(sys.argv[1])
        (plugin,) = llama_cpp._backends.state.gpu
        print(json.dumps([text, plugin.state, plugin.reason]))
    """
    text, state, reason = answer(python(script, gguf_file("F16"), LLAMA_CPP_LIB_PATH=str(lib), PYTHONWARNINGS="ignore"))
    assert text
    assert state == "failed"
    if "(it comes with " in reason:
        pytest.skip(f"the driver is missed before the core: {reason}")
    assert (f"libggml-base-{fingerprint[::-1].decode()}.so" if os.name != "nt" else "error 126 of Windows") in reason


failing = pytest.mark.skipif(FAILING_DRIVER is None, reason="no driver that fails on command was compiled (it takes a C compiler)")


@pytest.fixture
def failing_device(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment in which the device fails on command. CUDA's and ROCm's pretend one; Vulkan's stands before a real driver."""
    assert FAILING_DRIVER is not None
    if PREFIX not in PRETENDED:
        request.getfixturevalue("device")
    return {PRELOADED: FAILING_DRIVER}


@failing
@pytest.mark.parametrize(("where", "number"), [("compute", 2), ("synchronize", 3)])
def test_failing_device(gguf_file: Models, where: str, number: int, failing_device: dict[str, str]) -> None:
    """The device fails at that moment: upstream's Python error each time, a living process, and the CPU still computes."""
    script = """
        driver = ctypes.c_int.in_dll(preloaded, "failing_driver")
        path = sys.argv[1]
        model = load(path)
        model.eval([1, 50, 60])
        driver.value = int(sys.argv[2])
        seen = []
        for _ in range(3):
            try:
                model.eval([70, 71])
                model.sample(temp=0.0)
                seen.append("nothing")
            except Exception as problem:
                seen.append(type(problem).__name__)
        driver.value = 0
        model.close()
        print(json.dumps([seen, generate(path, n_gpu_layers=0)]))
    """
    done = python(script, gguf_file("F16"), number, **failing_device)
    seen, text = answer(done)
    assert seen[0] == "RuntimeError", (seen, done.stderr[-2000:])
    assert "nothing" not in seen
    assert text


@failing
def test_failing_projector(gguf_file: Models, mmproj: Path, failing_device: dict[str, str]) -> None:
    """The device fails while an image is encoded: an error code each time, a living process, and a projector on the CPU works."""
    script = f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_mtmd
        driver = ctypes.c_int.in_dll(preloaded, "failing_driver")
        model = load(sys.argv[1])
        with test_mtmd.chunks(model, sys.argv[2], gpu=True) as (context, parts):
            test_mtmd.encode(context, parts)
            driver.value = 2
            seen = []
            for _ in range(2):
                try:
                    test_mtmd.encode(context, parts)
                    seen.append("nothing")
                except RuntimeError as problem:
                    seen.append(str(problem))
        driver.value = 0
        with test_mtmd.chunks(load(sys.argv[1], n_gpu_layers=0), sys.argv[2], gpu=False) as (context, parts):
            print(json.dumps([seen, test_mtmd.encode(context, parts).shape[0]]))
    """
    seen, tokens = answer(python(script, gguf_file("F16"), mmproj, **failing_device))
    assert [text.rpartition(" ")[0] for text in seen] == ["mtmd_encode_chunk returned"] * 2, seen
    assert tokens == 16


@failing
def test_device_that_cannot_be_made(gguf_file: Models, failing_device: dict[str, str]) -> None:
    """The plugin is given up with the driver's own reason, a warning says so, and every model computes on the CPU."""
    script = """
        import warnings
        ctypes.c_int.in_dll(preloaded, "failing_driver").value = 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            texts = [generate(sys.argv[1]), generate(sys.argv[1]), generate(sys.argv[1], n_gpu_layers=0)]
        (plugin,) = llama_cpp._backends.state.gpu
        print(json.dumps([texts, plugin.state, plugin.reason, [str(row.message) for row in caught]]))
        sys.exit(7)
    """
    done = python(script, gguf_file("F16"), **failing_device)
    if "LLAMA_CPP_TEST_WINE" in os.environ and done.returncode == 3 and "winevulkan" in done.stderr.replace("\0", ""):
        pytest.skip("wine's own loader ends the process where a device is not made: an assertion in winevulkan")
    assert done.returncode == 7, done.stderr
    texts, state, reason, warned = json.loads(done.stdout.splitlines()[-1])
    assert texts[0] == texts[1] == texts[2]
    assert state == "failed"
    assert {"CUDA": "CUDA error", "ROCm": "ROCm error", "Vulkan": "ErrorInitializationFailed"}[PREFIX] in reason
    assert any("they stay on the CPU" in text for text in warned)


#: Two pretended GPUs; `used`: names of the devices that llama.cpp says it uses, `opened`: a bit for each that was the current one.
TWO = """
import warnings
driver = preloaded
opened = ctypes.c_int.in_dll(driver, "opened")
said, lines = [], []
warnings.showwarning = lambda message, *others: said.append(str(message))
warnings.simplefilter("always")
@llama_cpp.llama_log_callback
def log(level, text, data):
    lines.append(text.decode("utf-8", "replace"))
llama_cpp.llama_log_set(log, ctypes.c_void_p())
def attempt(**settings):
    del lines[:]
    try:
        load(sys.argv[1], verbose=True, **settings)
    except Exception as problem:
        return str(problem)
    return [line.split("using device ")[1].split(" ")[0] for line in lines if "using device " in line]
NONE = llama_cpp.LLAMA_SPLIT_MODE_NONE
"""
pretended = pytest.mark.skipif(PREFIX != "CUDA" or FAILING_DRIVER is None, reason="no CUDA driver that pretends two devices")


@pretended
def test_a_gpu_without_code(gguf_file: Models) -> None:
    """A GTX 960 beside an H100: the plugin's real kernels start on one only. The other is left out, with CUDA's reason."""
    assert FAILING_DRIVER is not None
    script = """
        named = [attempt(split_mode=NONE, main_gpu=0), opened.value, attempt(split_mode=NONE, main_gpu=1), opened.value]
        from llama_cpp import __main__ as report
        rows = {row["name"]: row.get("left_out") for row in report.report()["devices"]}
        print(json.dumps([named, attempt(), attempt(tensor_split=[1, 0]), attempt(n_gpu_layers=0), said, rows]))
    """
    done = python(TWO + textwrap.dedent(script), gguf_file("F16"), **{PRELOADED: FAILING_DRIVER}, DEVICES="5.2 9.0")
    named, both, first, on_cpu, said, rows = answer(done)
    reason = "CUDA0 (pretended GPU) cannot be used: CUDA error: no kernel image is available for execution on the device"
    assert named == [reason, 1, ["CUDA1"], 3]
    assert both == on_cpu == ["CUDA1"]
    assert first == reason
    (warning,) = said
    assert "CUDA0 (pretended GPU): CUDA error: no kernel image is available" in warning
    assert rows["CUDA1"] is None
    assert "no kernel image" in rows["CUDA0"]


@pretended
@pytest.mark.parametrize(("number", "reason"), [(6, "it computes wrongly"), (7, "out of memory")])
def test_a_gpu_that_computes_wrongly_or_not(gguf_file: Models, number: int, reason: str) -> None:
    """One of two GPUs of a kind: without memory for a context, say, since another process took it all."""
    assert FAILING_DRIVER is not None
    script = f"""
        for name, value in (("failing_driver", {number}), ("failing_device", 0)):
            ctypes.c_int.in_dll(driver, name).value = value
        print(json.dumps([attempt(), said]))
    """
    used, said = answer(python(TWO + textwrap.dedent(script), gguf_file("F16"), **{PRELOADED: FAILING_DRIVER}, DEVICES="9.0 9.0"))
    assert used == ["CUDA1"]
    assert len(said) == 1
    assert reason in said[0]


@failing
@pytest.mark.parametrize("number", [4, 5])
def test_driver_that_crashes_or_hangs(gguf_file: Models, number: int, failing_device: dict[str, str]) -> None:
    """While devices are listed. Import and models on the CPU list none; `LLAMA_CPP_BACKENDS=cpu` keeps the plugin out for good."""
    script = """
        import threading
        threading.Timer(20, lambda: os._exit(99)).start()  # ends a process that hangs
        ctypes.c_int.in_dll(preloaded, "failing_driver").value = int(sys.argv[2])
        print(json.dumps([generate(sys.argv[1], n_gpu_layers=0), loaded()]), flush=True)
        if "asking" in sys.argv:
            print(json.dumps([generate(sys.argv[1]), loaded()]), flush=True)
        os._exit(0)
    """
    text, loaded = answer(python(script, gguf_file("F16"), number, **failing_device))
    assert text
    assert not loaded
    switched_off = python(script, gguf_file("F16"), number, "asking", **failing_device, LLAMA_CPP_BACKENDS="cpu")
    assert answer(switched_off) == [text, []]
    code = python(script, gguf_file("F16"), number, "asking", **failing_device).returncode
    crashed = code not in (0, 99) if os.name == "nt" else code == -signal.SIGSEGV
    if number == 4 and code == 99 and "LLAMA_CPP_TEST_WINE" in os.environ:
        pytest.skip("under wine a process whose driver crashes hangs instead, also without wine's debugger")
    assert code == 99 if number == 5 else crashed, f"this driver does fail, but the exit code is {code}"
