"""Variants with a plugin, as far as no compiler is needed: what is wanted and found, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import ziglang

from tests.installers.tools import wheel
from tests.unit.conftest import Cli
from variants import errors, matrix, platforms
from variants.backends import cuda, hip, toolkit, vulkan
from variants.compilers import toolchain
from variants.release import pipeline
from variants.upstream import source


def test_nobody_knows_the_plugin(tmp_path: Path) -> None:
    text = 'summary = "x"\nplatforms = ["linux_x86_64"]\nplugin = "zdnn"\n[smoke]\ndevice = "X"\n'
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(errors.MatrixError, match='nobody knows how to build ggml\'s backend "zdnn"') as caught:
        matrix.read(tmp_path / "x.toml")
    assert "Known: cuda, hip, metal, openvino, vulkan" in caught.value.remedy


def test_rocm(tmp_path: Path) -> None:
    """A folder laid out as AMD's packages do: too old, incomplete, complete; the matrix's list goes to the compiler. Then one as
    Debian does, where HIP's own program knows which LLVM is meant."""
    tools = toolchain.find("system", tmp_path, platforms.here())
    home = tmp_path / "rocm"

    def found() -> toolkit.Toolkit:
        return hip.find(matrix.request(matrix.load()["rocm7"], tools, tmp_path, str(home)))

    def lay(name: str, text: str = "") -> None:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)

    lay(".info/version", "6.4.1-83")
    assert {piece.what for piece in found().missing} == {"ROCm", "HIP compiler", "HIP", "hipBLAS", "rocBLAS"}
    assert found().pieces[0].seen == "6.4.1"
    lay(".info/version", "7.1.0-43")
    for name in ("hip/hip", "hipblas/hipblas", "rocblas/rocblas"):
        lay(f"lib/cmake/{name}-config.cmake")
    with pytest.raises(errors.ToolchainError, match="HIP compiler: wanted of that ROCm, found nothing") as caught:
        toolkit.require(found())
    assert "ROCM_PATH" in caught.value.remedy
    lay("llvm/bin/clang++")
    assert not found().missing
    assert any(word.startswith("-DAMDGPU_TARGETS=gfx908;gfx90a;") for word in found().cmake)
    assert f"-DCMAKE_HIP_COMPILER={home / 'llvm/bin/clang++'}" in found().cmake
    home = tmp_path / "usr"
    lay("share/hip/version", "# made by cmake\nHIP_VERSION_MAJOR=7\nHIP_VERSION_MINOR=2\nHIP_VERSION_PATCH=53211\n")
    for name in ("hip/hip", "hipblas/hipblas", "rocblas/rocblas"):
        lay(f"lib/x86_64-linux-gnu/cmake/{name}-config.cmake")
    lay("lib/llvm-22/bin/clang++")
    lay("bin/hipconfig", f"#!/bin/sh\necho {home}/lib/llvm-22/bin\n")
    assert {piece.what for piece in found().missing} == {"HIP compiler"}
    (home / "bin/hipconfig").chmod(0o755)
    assert not found().missing
    assert found().facts["rocm"] == "7.2"
    assert f"-DCMAKE_HIP_COMPILER={home / 'lib/llvm-22/bin/clang++'}" in found().cmake
    with pytest.raises(errors.UsageError, match="no ROCm compiler"):
        hip.find(matrix.request(matrix.load()["rocm7"], tools, tmp_path, "index"))


def test_dry_run_shows_the_plugin(cli: Cli, tmp_path: Path) -> None:
    compiler = _compiler(tmp_path)
    done = cli("build", "vulkan", "--dry-run", CC=str(compiler), CXX=str(compiler))
    assert done.returncode == 0
    assert "ggml-vulkan against that core" in done.stdout
    assert "label" in done.stdout


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toolchain.Toolchain:
    """A toolchain whose compiler finds no header."""
    compiler = _compiler(tmp_path)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    return toolchain.find("system", tmp_path, platforms.here())


def _request(variant: str, system: toolchain.Toolchain, tree: Path, source: str | None = None) -> toolkit.Request:
    return matrix.request(matrix.load()[variant], system, tree, source)


def _compiler(folder: Path, version: str = "12.2.0") -> Path:
    path = folder / "gcc"
    text = f'#!/bin/sh\ncase "$*" in *version*) echo {version};; *) echo "no such header" >&2; exit 1;; esac\n'
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_missing_toolkit(system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error with every part, what was found of it, and the command that brings the rest."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VULKAN_SDK", raising=False)
    kit = vulkan.find(_request("vulkan", system, tmp_path, "machine"))
    assert {piece.what for piece in kit.missing} >= {"glslc", "Vulkan headers", "SPIR-V headers"}
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(kit)
    assert (
        f"glslc: wanted any; newer ones give faster shaders, found nothing in {os.path.dirname(sys.executable)}"
        in caught.value.what
    )
    assert "Leave out --toolkit" in caught.value.remedy
    assert "apt-get install glslc" in caught.value.remedy


def _sdk(folder: Path, refused: str, release: int, *macros: str) -> Path:
    """A Vulkan SDK whose glslc refuses the extension in the tests named `refused`, and whose headers have these `macros`."""
    for name in ("bin", "include/vulkan", "include/spirv/unified1", "lib"):
        (folder / name).mkdir(parents=True)
    glslc = folder / "bin" / "glslc"
    glslc.write_text(
        '#!/bin/sh\ncase "$*" in\n--version) echo "shaderc v2023.2 v2023.2-dirty"; echo "spirv-tools v2023.1";;\n'
        f'*{refused}.comp) echo "error: extension not supported: GL_X" >&2; exit 1;;\nesac\n'
    )
    glslc.chmod(0o755)
    lines = [f"VK_HEADER_VERSION {release}", "VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)"]
    core = folder / "include" / "vulkan" / "vulkan_core.h"
    core.write_text("".join(f"#define {line}\n" for line in [*lines, *(f"{name} 1" for name in macros)]))
    (folder / "include" / "spirv" / "unified1" / "spirv.h").write_text("#define SPV_REVISION 4\n")
    (folder / "lib" / "libvulkan.so").touch()
    return folder


def _feature_tests(tree: Path, *names: str) -> Path:
    tests = tree / "vendor/llama.cpp/ggml/src/ggml-vulkan/vulkan-shaders/feature-tests"
    tests.mkdir(parents=True)
    for name in names:
        (tests / f"{name}.comp").touch()
    return tree


def test_shader_features(system: toolchain.Toolchain, tmp_path: Path) -> None:
    """A glslc that refuses one extension: the others are told, by the names of upstream's own tests, and this one is lacking."""
    tree = _feature_tests(tmp_path / "tree", "coopmat", "integer_dot")
    sdk = _sdk(tmp_path / "sdk", "coopmat", 239)
    kit = toolkit.require(vulkan.find(_request("vulkan", system, tree, str(sdk))))
    assert kit.facts == {"glslc": "shaderc v2023.2", "vulkan_headers": "1.3.239", "shader_features": ["integer_dot"]}
    assert kit.lacks == ("coopmat",)
    assert f"-DVulkan_GLSLC_EXECUTABLE={sdk}/bin/glslc" in kit.cmake
    assert f"-DVulkan_INCLUDE_DIR={sdk}/include" in kit.cmake


def test_new_compiler_with_old_headers(system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml asks glslc alone what it can do: such a plugin computes gibberish on real GPUs. Newer headers or an older glslc are
    taken."""
    tree = _feature_tests(tmp_path / "tree", "bfloat16", "coopmat", "integer_dot")
    monkeypatch.setenv("VULKAN_SDK", str(_sdk(tmp_path / "mixed", "nothing", 239, "VK_KHR_cooperative_matrix")))
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(vulkan.find(_request("vulkan", system, tree, "machine")))
    assert "found 1.3.239, older than glslc: without VK_KHR_shader_bfloat16" in caught.value.what
    assert "both old, or both new" in caught.value.remedy
    new = _sdk(tmp_path / "new", "nothing", 312, "VK_KHR_cooperative_matrix", "VK_KHR_shader_bfloat16")
    assert toolkit.require(vulkan.find(_request("vulkan", system, tree, str(new)))).lacks == ()
    old = _sdk(tmp_path / "old", "bfloat16", 255, "VK_KHR_cooperative_matrix")
    assert toolkit.require(vulkan.find(_request("vulkan", system, tree, str(old)))).lacks == ("bfloat16",)


def test_vulkan_of_the_index_is_told_before_it_is_made(
    system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without anything of the system's. Nothing is fetched for the telling."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(tmp_path / "cache"))
    kit = toolkit.require(vulkan.find(_request("vulkan", system, tmp_path)))
    assert "glslang of ncnn" in str(kit.pieces[0].found)
    assert "to be compiled once" in str(kit.pieces[0].found)
    assert not (tmp_path / "cache").exists()


# -- CUDA -----------------------------------------------------------------------------------------------------------------------


def _toolkit(folder: Path, version: str, architectures: str, newest_gcc: int = 15) -> Path:
    """A folder that looks like an installed CUDA toolkit."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    listed = "; ".join(f"echo compute_{one}" for one in architectures.split())
    said = f'echo "Cuda compilation tools, release {version[:4]}, V{version}"'
    nvcc.write_text(f'#!/bin/sh\ncase "$1" in --version) {said};; *) {listed};; esac\n')
    nvcc.chmod(0o755)
    for name in ("include/cublas_v2.h", "lib64/stubs/libcuda.so", "include/crt/host_config.h"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#if __GNUC__ > {newest_gcc}\n#endif\n")
    return folder


ALL = "50 61 70 75 80 86 89 90 100 120"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nothing but the test's own toolkits is found."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cuda, "_USUAL", (tmp_path / "usr" / "local",))
    monkeypatch.setenv("PATH", f"{tmp_path}/path/bin")


def test_toolkit_of_the_machine(bare: None, system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that fits is taken, from CUDA_HOME, PATH and the usual folders, however new the others are."""
    monkeypatch.setenv("CUDA_HOME", str(_toolkit(tmp_path / "home", "13.0.88", ALL)))
    _toolkit(tmp_path / "path", "11.8.89", "50 61 70 75 80 86 89 90")
    good = _toolkit(tmp_path / "usr" / "local" / "cuda-12.9", "12.9.86", ALL)
    kit = toolkit.require(cuda.find(_request("cuda12", system, tmp_path)))
    assert f"-DCMAKE_CUDA_COMPILER={good}/bin/nvcc" in kit.cmake
    assert (
        "-DCMAKE_CUDA_ARCHITECTURES=61-real;70-real;75-real;80-real;86-real;89-real;90-real;100-real;120-real;90-virtual"
        in kit.cmake
    )
    assert kit.facts["compiler"] == "nvcc 12.9.86"


def test_no_fitting_toolkit(bare: None, system: toolchain.Toolchain, tmp_path: Path) -> None:
    """What was found, where it was looked for, and what to install."""
    _toolkit(tmp_path / "path", "11.8.89", "50 90")
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(cuda.find(_request("cuda12", system, tmp_path, "machine")))
    assert "wanted >=12.4,<13, found 11.8.89" in caught.value.what
    assert str(tmp_path / "path" / "bin" / "nvcc") in caught.value.what
    assert "--toolkit /usr/local/cuda-12.9" in caught.value.remedy


def test_named_toolkit(bare: None, system: toolchain.Toolchain, tmp_path: Path) -> None:
    """A folder that the user names is the only one that is looked at."""
    _toolkit(tmp_path / "path", "13.0.88", ALL)
    kit = cuda.find(_request("cuda13", system, tmp_path, str(tmp_path / "nowhere")))
    assert [part.what for part in kit.missing] == ["nvcc"]
    assert f"nothing in {tmp_path / 'nowhere'}" in kit.missing[0].seen


def test_nvcc_too_old_for_an_architecture(bare: None, system: toolchain.Toolchain, tmp_path: Path) -> None:
    _toolkit(tmp_path / "path", "12.4.131", "50 61 70 75 80 86 89 90")
    request = _request("cuda12", system, tmp_path, "machine")
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(cuda.find(request))
    assert "nvcc 12.4.131, which does not know 100, 120" in caught.value.what
    assert "--arch native" in caught.value.remedy
    own = matrix.request(matrix.narrowed(matrix.load()["cuda12"], ["86"]), system, tmp_path, "machine")
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real" in toolkit.require(cuda.find(own)).cmake


def test_host_compiler_too_new(bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = _compiler(tmp_path, "16.1.0")
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    _toolkit(tmp_path / "path", "12.9.86", ALL, newest_gcc=14)
    with pytest.raises(errors.ToolchainError) as caught:
        toolkit.require(cuda.find(_request("cuda12", toolchain.find("system", tmp_path, platforms.here()), tmp_path, "machine")))
    assert "host compiler: wanted gcc 14 or older, found gcc 16.1.0, too new for this nvcc" in caught.value.what
    assert "CC=gcc-13" in caught.value.remedy


def test_where_a_toolkit_comes_from(
    bare: None, system: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA 13 from the index unless a machine's is asked for; CUDA 12 from the machine, else with clang."""
    monkeypatch.setenv("LLAMA_CPP_VARIANTS_CACHE", str(tmp_path / "cache"))
    assert "to be assembled once" in str(cuda.find(_request("cuda13", system, tmp_path)).pieces[0].found)
    assert "of zig" in str(cuda.find(_request("cuda12", system, tmp_path)).pieces[0].found)
    _toolkit(tmp_path / "usr" / "local" / "cuda-13.0", "13.0.88", "75 80 86 89 90 100 110 120 121")
    assert cuda.find(_request("cuda13", system, tmp_path, "machine")).facts["compiler"] == "nvcc 13.0.88"
    assert "to be assembled once" in str(cuda.find(_request("cuda13", system, tmp_path)).pieces[0].found)
    _toolkit(tmp_path / "usr" / "local" / "cuda-12.8", "12.8.93", ALL)
    assert cuda.find(_request("cuda12", system, tmp_path)).facts["compiler"] == "nvcc 12.8.93"
    (tmp_path / "usr" / "local" / "cuda-12.8" / "include" / "cublas_v2.h").unlink()
    assert "of zig" in str(cuda.find(_request("cuda12", system, tmp_path)).pieces[0].found)
    assert "of zig" in str(cuda.find(_request("cuda12", system, tmp_path, "index")).pieces[0].found)


def test_zigs_own_headers_for_clang(tmp_path: Path) -> None:
    """Those that zig compiles C++ with for that glibc, in its order; a zig that does not say is no such compiler."""
    host = toolchain.for_glibc(toolchain.find("zig", tmp_path, platforms.here()), "2.28")
    assert host.platform.zig.endswith("-linux-gnu.2.28")
    assert not any("CMAKE_SYSTEM_NAME" in word for word in host.cmake), "it is not for another machine"
    assert "-linux-gnu.2.28" in Path(host.cxx).read_text(encoding="utf-8")
    zig = Path(ziglang.__file__).parent / "zig"
    flags = cuda._headers(zig, host)
    folders = [word for word in flags if word.startswith("/")]
    assert [folder.removeprefix(f"{zig.parent}/lib/") for folder in folders[:2]] == ["libcxx/include", "libcxxabi/include"]
    assert any(Path(folder, "gnu", "stubs.h").is_file() for folder in folders[2:])
    assert all(flags[flags.index(folder) - 1] == "-idirafter" for folder in folders[2:])
    assert {"-D__GLIBC_MINOR__=28", "-D_LIBCPP_ABI_NAMESPACE=__1"} < set(flags)
    (tmp_path / "zig").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "zig").chmod(0o755)
    with pytest.raises(errors.ToolchainError, match="does not say which headers it compiles C\\+\\+ with: hello"):
        cuda._headers(tmp_path / "zig", host)


def test_architectures_of_one_gpu(cli: Cli, tmp_path: Path) -> None:
    compiler = _compiler(tmp_path)
    system = {"CC": str(compiler), "CXX": str(compiler)}
    done = cli("build", "vulkan", "--arch", "86", **system)
    assert done.returncode == errors.UsageError.exit_code
    assert "vulkan has no list of GPU architectures" in done.stdout
    done = cli("build", "rocm7", "--arch", "1100", **system)
    assert done.returncode == errors.UsageError.exit_code
    assert '"1100" is no AMD architecture' in done.stdout
    done = cli("build", "cuda13", "--arch", "8.6", **system)
    assert done.returncode == errors.UsageError.exit_code
    assert 'Write compute capability 8.6 as "86"' in done.stdout
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    done = cli("build", "cuda13", "--arch", "native", PATH=str(nowhere), **system)
    assert done.returncode == errors.UsageError.exit_code
    assert "nvidia-smi shows no GPU" in done.stdout
    done = cli("build", "rocm7", "--arch", "native", PATH=str(nowhere), **system)
    assert done.returncode == errors.UsageError.exit_code
    assert "the kernel shows no GPU" in done.stdout


def test_arm_architectures() -> None:
    """Machine code for GPUs beside Arm processors goes where they are; the properties of a label are the same everywhere."""
    table = matrix.load()["cuda13"].lists
    assert table is not None
    assert {"110", "121"} <= set(table.compiled("linux_aarch64"))
    assert not {"110", "121"} & set(table.compiled("linux_x86_64"))
    assert {"110_real", "121_real"} <= set(table.properties()["nvidia"]["sm_arch"])


def test_narrowed_properties() -> None:
    """A wheel for one architecture says so; one for the whole list stands for what the matrix says, on every platform."""
    variant = matrix.load()["cuda13"]
    assert variant.lists is not None

    def built(architectures: list[str], ptx: str, platform: str) -> matrix.Variant:
        facts = {"toolkit": {"architectures": architectures, "ptx": ptx}}
        return matrix.as_built(variant, json.dumps(facts).encode(), [platform])

    assert built(["86"], "none", "manylinux_2_35_x86_64").properties["nvidia"]["sm_arch"] == ["86_real"]
    assert built(["86"], "none", "manylinux_2_35_x86_64").properties["nvidia"]["cuda_version_lower_bound"] == ["13.0"]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64"):
        whole = built(variant.lists.compiled(platform), "90", platform)
        assert whole.properties == variant.properties
    radeon = matrix.load()["rocm7"]
    described = json.dumps({"toolkit": {"architectures": ["gfx1100"]}}).encode()
    assert matrix.as_built(radeon, described, ["manylinux_2_35_x86_64"]).properties["amd"]["gfx_arch"] == ["gfx1100"]


def test_wheels_of_other_platforms_stay_out(tmp_path: Path) -> None:
    """What `test_variant` installs here; `test_foreign` wants the others."""
    wheel(tmp_path, source.read_pin().version, "win_amd64")
    cpu = [matrix.load()["cpu"]]
    with pytest.raises(errors.UsageError, match="There is no cpu wheel"):
        pipeline.wheels(cpu, tmp_path)
    with pytest.raises(errors.UsageError, match=r"win_amd64\.whl is stale"):
        pipeline.wheels(cpu, tmp_path, everywhere=True)


def test_wheels_of_another_release(tmp_path: Path) -> None:
    """`test_variant -- cpu --upstream 0.3.20` takes that release's, not the pinned one's, and says how it is built."""
    wheel(tmp_path, source.read_pin().version)
    with pytest.raises(errors.UsageError, match=r"no cpu wheel of 0\.3\.20") as caught:
        pipeline.wheels([matrix.load()["cpu"]], tmp_path, upstream="0.3.20")
    assert "nox -s build_variant -- cpu --upstream 0.3.20" in caught.value.remedy
