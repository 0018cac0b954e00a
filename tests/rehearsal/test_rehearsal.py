"""A project's life on a service: two releases, a rebuild, a yank, a job that dies half-way. After each: what do uv and pip get?

The tests are one story and run in this order. The wheels are those of dist/, taken apart into the parts that other jobs compile.
They are assembled and tested for the first release. The later ones have the same libraries: their wheels are the first one's under
another version, and that they were tested is only written down.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal import prepared
from tests.rehearsal.service import REPOSITORY, Run, Service, tools
from variants.upstream import source
from variants.wheel import archive

ROOT = source.ROOT
PIN = source.read_pin()
#: The release before the pinned one, by number.
OLD = re.sub(r"\d+$", lambda found: str(int(found[0]) - 1), PIN.version)
VULKAN = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
WHEELS = {
    label: path
    for path in sorted((ROOT / "dist").glob(f"llama_cpp_python-{PIN.version}-py3-none-manylinux*_x86_64*.whl"))
    if (label := archive.split_label(path.name)[1] or "cpu") == "cpu" or (label == "vulkan" and VULKAN.exists())
}
pytestmark = pytest.mark.skipif("cpu" not in WHEELS, reason="dist/ has no plain wheel: `nox -s build_variant -- cpu`")
#: What uv with wheel-variants takes.
BEST = "vulkan" if "vulkan" in WHEELS else "plain"
#: One test of each kind: what the wheels can do is not what is rehearsed.
FEW = "-k 'test_installed or (test_logits and F16)'"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves releases and pages."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a copy of this repository, in which the release before the pinned one is pinned."""
    root = tmp_path_factory.mktemp("service")
    (root / "served").mkdir()
    handler = functools.partial(Quiet, directory=str(root / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        service = made(root, f"http://127.0.0.1:{server.server_port}")
        yield service
        print("".join(f"{seconds:6.1f} s  {job}\n" for job, seconds in service.seconds.items()))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def made(root: Path, url: str) -> Service:
    """The service, with its repository, variables and Python."""
    (root / "releases").symlink_to(root / "served")
    python = root / "python"
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
    variables = {"PUBLISH": "plain", "VARIANTS": " ".join(WHEELS), "PLATFORMS": prepared.HERE.name, "SITE_URL": f"{url}/pages"}
    service = Service(root, url, variables, tools(root / "tools", root, python / "bin" / "python"))
    config = root / "gitconfig"
    config.write_text(
        f'[url "{service.bare.as_uri()}"]\n\tinsteadOf = {url}/{REPOSITORY}\n[init]\n\tdefaultBranch = main\n'
        "[user]\n\tname = maintainer\n\temail = maintainer@example.org\n[advice]\n\tdetachedHead = false\n"
    )
    service.environment = {"GIT_CONFIG_GLOBAL": str(config), "PYTEST_ADDOPTS": FEW, "GIT_TERMINAL_PROMPT": "0"}
    sdists = root / "sdists"
    sdists.mkdir()
    if not (source.VENDOR / PIN.archive).is_file():
        source.fetch(PIN, source.VENDOR)
    service.sdists = {version: archive.sha256(prepared.sdist(sdists, version)) for version in (OLD, PIN.version)}
    seed(service, root / "maintainer")
    service.checked_out = functools.partial(bring, sdists)
    service.prepared = functools.partial(prepare, service)
    return service


def bring(sdists: Path, workspace: Path) -> None:
    """Put upstream's sdists where they would be fetched to."""
    for path in sdists.iterdir():
        shutil.copy(path, workspace / "vendor")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def seed(service: Service, clone: Path) -> None:
    """What is here (also what is not committed yet, of files that git knows), with the old pin; and the branch of the ledger."""
    here = git(ROOT, "stash", "create") or git(ROOT, "rev-parse", "HEAD")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(service.bare)], check=True)
    git(ROOT, "push", "--quiet", service.bare.as_uri(), f"{here}:refs/heads/main")
    subprocess.run(["git", "clone", "--quiet", str(service.bare), str(clone)], check=True)
    for name, value in (("user.name", "maintainer"), ("user.email", "maintainer@example.org")):
        git(clone, "config", name, value)
    move(service, clone, OLD)
    git(clone, "switch", "--quiet", "--orphan", "index")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "The ledger of published files")
    git(clone, "push", "--quiet", "origin", "index")
    git(clone, "switch", "--quiet", "main")
    hook = service.bare / "hooks" / "pre-receive"  # from now on, what pushes needs the right to
    hook.write_text(
        '#!/bin/sh\n[ "${REHEARSAL_CONTENTS:-write}" = write ] || { echo "this job may not write contents"; exit 1; }\n'
    )
    hook.chmod(0o755)


def move(service: Service, clone: Path, version: str) -> None:
    """Pin another release and push that."""
    file = clone / "vendor" / "upstream.toml"
    text = re.sub(r'(?m)^(version\s*=\s*)".*"', rf'\g<1>"{version}"', file.read_text())
    file.write_text(re.sub(r'(?m)^(sha256\s*=\s*)".*"', rf'\g<1>"{service.sdists[version]}"', text))
    git(clone, "commit", "--quiet", "--all", "--allow-empty", "--message", f"llama-cpp-python {version}")
    git(clone, "push", "--quiet", "origin", "main")


def prepare(service: Service, command: str, workspace: Path) -> bool:
    """In place of compiling: the part, of the release that is pinned there."""
    pinned = source.read_pin(workspace / "vendor" / "upstream.toml").version if (workspace / "vendor").is_dir() else ""
    if command.startswith("nox -s core "):
        prepared.core(WHEELS["cpu"], workspace / "parts", pinned)
    elif command.startswith("nox -s plugin "):
        prepared.plugin(WHEELS[command.split()[4]], workspace / "parts")
    elif command.startswith("nox -s build_variant "):
        shutil.copytree(ROOT / "dist", workspace / "dist")
    elif service.brief and command.startswith("nox -s assemble "):
        prepared.assembled(WHEELS, workspace / "dist", command, pinned)
    elif service.brief and "nox -s test_variant " in command:
        prepared.tested(workspace / "dist", command)
    elif service.brief and command.startswith("nox -s installed ") and not service.last:
        pass
    else:
        return False
    return True


def tag(service: Service, name: str) -> str:
    """Tag main as a maintainer does, and push that."""
    clone = service.root / "maintainer"
    git(clone, "tag", name)
    git(clone, "push", "--quiet", "origin", name)
    return f"refs/tags/{name}"


def log(run: Run, job: str) -> str:
    """What a job of a run printed."""
    return (run.folder / re.sub(r"\W+", "-", job) / "log.txt").read_text(errors="replace")


def expect(run: Run, *jobs: str) -> None:
    """All is well, and these jobs were among those that ran here."""
    tails = "\n".join(f"{name}:\n{path.read_text(errors='replace')[-3000:]}" for name, path in logs(run))
    assert not run.failed, f"{run.failed}\n{tails}"
    assert set(jobs) <= set(run.executed), run.executed


def logs(run: Run) -> list[tuple[str, Path]]:
    return [(path.parent.name, path) for path in sorted(run.folder.glob("*/log.txt")) if (path.parent / "wörk space").exists()]


def offered(service: Service, folder: Path, installer: str, requirement: str = "llama-cpp-python") -> tuple[str, str, str]:
    """Version, label and build number that the real installer takes from the published index."""
    shutil.rmtree(folder, ignore_errors=True)
    simple = f"{service.variables['SITE_URL']}/simple/"
    if installer == "uv":
        uv = str(service.root / "python" / "bin" / "uv")
        command = [uv, "pip", "install", "--quiet", "--no-cache", "--python", sys.executable, "--target", str(folder)]
        command += ["--no-deps", "--default-index", simple, "--preview-features", "wheel-variants", requirement]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--target", str(folder), "--no-deps"]
        command += ["--index-url", simple, requirement]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "NV_"))}
    env = {**kept, "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (info,) = folder.glob("llama_cpp_python-*.dist-info")
    number = re.search(r"(?m)^Build: (\S+)$", (info / "WHEEL").read_text())
    label = "vulkan" if (info / "variant.json").exists() else "plain"
    return info.name.removesuffix(".dist-info").partition("-")[2], label, number[1] if number else ""


def offers(service: Service, folder: Path, uv: tuple[str, str, str], pip: tuple[str, str, str]) -> None:
    assert offered(service, folder, "uv") == uv
    assert offered(service, folder, "pip") == pip


def test_first_release(service: Service, tmp_path: Path) -> None:
    run = service.start("release.yml", tag(service, f"v{OLD}"), "push")
    expect(run, "index", "attest", "upload", "ledger", "pages", "installed on ubuntu-24.04")
    assert {"installed on windows-2022", "installed on macos-15"} <= set(run.not_rehearsed)
    offers(service, tmp_path / "x", (OLD, BEST, ""), (OLD, "plain", ""))
    ledger = service.git("show", "index:published.jsonl")
    assert ledger.count('"passed":') >= 2 * len(WHEELS), "what ran is in the ledger: each wheel, installed by uv and by pip"

    service.brief = True


def test_another_tag_than_the_pin(service: Service) -> None:
    run = service.start("release.yml", tag(service, "v9.9.9"), "push")
    assert run.failed == ["wheels"]
    assert f"is not of {OLD}" in log(run, "wheels/matrix")
    assert run.executed == ["wheels/matrix"]


def test_second_release(service: Service, tmp_path: Path) -> None:
    """It has its own wheels alone, and the first one stays."""
    move(service, service.root / "maintainer", PIN.version)
    expect(service.start("release.yml", tag(service, f"v{PIN.version}"), "push"), "installed on ubuntu-24.04")
    offers(service, tmp_path / "x", (PIN.version, BEST, ""), (PIN.version, "plain", ""))
    for installer, label in (("uv", BEST), ("pip", "plain")):
        assert offered(service, tmp_path / "x", installer, f"llama-cpp-python=={OLD}") == (OLD, label, "")
    asked = [sys.executable, "-m", "variants", "installed", service.variables["SITE_URL"], "--lists", "nobody.whl"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "does not list nobody.whl" in done.stdout


def test_rebuild(service: Service, tmp_path: Path) -> None:
    expect(service.start("release.yml", tag(service, f"v{PIN.version}-1"), "push"), "installed on ubuntu-24.04", "package-index")
    plain = [WHEELS["cpu"].name.replace(f"-{PIN.version}-", f"-{text}-") for text in (OLD, PIN.version, f"{PIN.version}-1")]
    assert (service.root / "package-index.txt").read_text().splitlines() == plain, "no label and no local version"
    offers(service, tmp_path / "x", (PIN.version, BEST, "1"), (PIN.version, "plain", "1"))


def test_yank(service: Service, tmp_path: Path) -> None:
    """The plain wheel of the rebuild: pip goes back to the one before; whoever takes a label is not concerned."""
    name = WHEELS["cpu"].name.replace(f"-{PIN.version}-", f"-{PIN.version}-1-")
    run = service.start("release.yml", "refs/heads/main", "workflow_dispatch", {"yank": name, "reason": "it was not tried"})
    service.history["yank"] = run
    expect(run, "index", "ledger", "pages")
    assert not {"attest", "upload"} & set(run.executed)
    assert offered(service, tmp_path / "x", "pip") == (PIN.version, "plain", "")
    assert offered(service, tmp_path / "x", "uv") == (PIN.version, BEST, "1" if BEST != "plain" else "")
    assert "it was not tried" in service.git("show", "index:published.jsonl")


def test_a_job_that_dies(service: Service, tmp_path: Path) -> None:
    """The second file of an upload breaks off: nothing new is offered. Started again, the run goes on where it was."""
    before = service.git("rev-parse", "index")
    count = len((service.root / "uploads.txt").read_text().splitlines())
    service.environment["REHEARSAL_DIE_AT"] = str(count + 2)
    name = tag(service, f"v{PIN.version}-2")
    run = service.start("release.yml", name, "push")
    assert run.failed == ["upload"]
    assert service.git("rev-parse", "index") == before
    assert offered(service, tmp_path / "x", "pip") == (PIN.version, "plain", "")
    del service.environment["REHEARSAL_DIE_AT"]
    there = sorted((service.served / REPOSITORY / "releases" / "download" / f"v{PIN.version}-2").glob("*.whl"))
    assert len(there) == 1
    content = there[0].read_bytes()

    there[0].write_bytes(b"other bytes under a published name")
    run.go()
    assert run.failed == ["upload"]
    assert run.executed == ["upload"]
    assert "with other bytes" in log(run, "upload")
    assert service.git("rev-parse", "index") == before
    there[0].write_bytes(content)

    service.environment["REHEARSAL_NO_PAGES"] = "1"
    run.go()
    assert run.failed == ["pages"], log(run, "upload")[-3000:]
    assert run.executed == ["upload", "ledger", "pages", "package-index"]
    assert f"{there[0].name} is there already" in log(run, "upload")
    assert offered(service, tmp_path / "x", "pip") == (PIN.version, "plain", "")
    del service.environment["REHEARSAL_NO_PAGES"]
    run.results["ledger"]["result"] = "failure"  # as if the machine had died after the push
    service.last = True
    run.go()
    expect(run, "pages", "installed on ubuntu-24.04")
    assert run.executed[:2] == ["ledger", "pages"]
    assert "The ledger is there already" in log(run, "ledger")
    offers(service, tmp_path / "x", (PIN.version, BEST, "2"), (PIN.version, "plain", "2"))
    uploads = (service.root / "uploads.txt").read_text().splitlines()
    assert len(uploads) - len(set(uploads)) == 1, "the file that broke off, and no other, came twice"


def test_an_old_run_started_again(service: Service) -> None:
    """The ledger has moved on since: nothing of it is lost."""
    run = service.history["yank"]
    run.results["ledger"]["result"] = "failure"
    before = service.git("rev-parse", "index")
    run.go()
    assert run.failed == ["ledger"]
    assert run.executed == ["ledger"]
    assert "has moved since" in log(run, "ledger")
    assert service.git("rev-parse", "index") == before


def test_gpu_takes_trusted_runs_alone(service: Service) -> None:
    service.variables["GPU_RUNNERS"] = "nvidia amd"
    run = service.start("gpu.yml", "refs/heads/main", "workflow_dispatch", {"run": "1"})
    expect(run, "trusted", "matrix")
    asked = [name for name in run.not_rehearsed if name.startswith("test-")]
    assert len(asked) == (2 if BEST == "vulkan" else 0), asked
    stranger = service.root / "runs" / "1.json"
    stranger.write_text(stranger.read_text().replace(REPOSITORY, "stranger/wheels"))
    run = service.start("gpu.yml", "refs/heads/main", "workflow_dispatch", {"run": "1"})
    assert run.failed == ["trusted"]
    assert run.executed == ["trusted"]
    service.variables["GPU_RUNNERS"] = ""


def test_upstream_has_a_new_release(service: Service) -> None:
    """The pin is moved in a pull request that says what changed; the next day nothing more happens."""
    move(service, service.root / "maintainer", OLD)
    before = service.git("rev-parse", "main")
    run = service.start("upstream.yml", "refs/heads/main", "schedule")
    expect(run, "look", "try", "propose")
    new = run.results["look"]["outputs"]["new"]
    pull = json.loads((service.root / "pulls" / f"upstream-{new}.json").read_text())
    assert pull["title"] == f"llama-cpp-python {new}"
    assert pull["body"].startswith(f"llama-cpp-python {OLD} → {new}")
    for title in ("Libraries that CMake builds", "CPU plugins", "Functions that the bindings bind", "CMake options"):
        assert f"### {title}\n" in pull["body"]
    assert "was built and tested" in pull["body"]
    assert service.git("diff", "--name-only", "main", f"upstream-{new}") == "vendor/upstream.toml"
    assert f'"{new}"' in service.git("show", f"upstream-{new}:vendor/upstream.toml")
    assert service.git("rev-parse", "main") == before
    run.results["propose"]["result"] = "failure"  # as if the machine had died at the end
    run.go()
    expect(run, "propose")
    assert "is there already" in log(run, "propose")


def test_nothing_new(service: Service) -> None:
    run = service.start("upstream.yml", f"refs/heads/upstream-{source.newest(PIN.name)}", "schedule")
    assert run.executed == ["look"]
    assert not run.failed
