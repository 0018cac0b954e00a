"""Stands in for GitHub: a repository, releases, Pages and artifacts are folders; a run's jobs are executed one after another.

What is executed are the workflows' own lines, each job in a new folder and a new clone. Actions, which only a service has, are a
few lines each. A job for a machine that this one is not is listed as not rehearsed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.rehearsal.expressions import condition, filled

REPOSITORY = "somebody/wheels"
#: What a job may run on here.
_HERE = "ubuntu-24.04"
_SPACE = "wörk space"
Step = dict[str, Any]


class Service:
    """Everything that outlives a run, below `root`; `url`: where `root`/served is served."""

    def __init__(self, root: Path, url: str, variables: Mapping[str, str], tools: Path) -> None:
        self.root, self.url, self.tools = root, url.rstrip("/"), tools
        self.variables = dict(variables)
        self.bare = root / "repository.git"
        self.served = root / "served"
        self.pages = self.served / "pages"
        self.runs = 0
        #: Called in place of a command that compiles, with its workspace; says whether it did it.
        self.prepared: Callable[[str, Path], bool] = lambda command, workspace: False
        #: Called on each new checkout of the repository itself.
        self.checked_out: Callable[[Path], None] = lambda workspace: None
        self.environment: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        #: SHA-256 of upstream's sdists by version.
        self.sdists: dict[str, str] = {}
        self.history: dict[str, Run] = {}
        #: Do the later releases without what was done for the first; `last`: but install the last one.
        self.brief = self.last = False

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(self.bare), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def start(self, workflow: str, ref: str, event: str, inputs: Mapping[str, str] | None = None) -> Run:
        """Start a workflow on a branch or tag, and see its jobs through."""
        self.runs += 1
        kind = "tag" if ref.startswith("refs/tags/") else "branch"
        name = ref.rpartition("/")[2]
        sha = self.git("rev-parse", f"{ref}^{{commit}}")
        github = {
            "event_name": event, "ref": ref, "ref_name": name, "ref_type": kind, "sha": sha, "repository": REPOSITORY,
            "server_url": self.url, "run_id": self.runs, "event": {},
        }  # fmt: skip
        facts = {
            "event": event,
            "head_repository": {"full_name": REPOSITORY},
            "head_sha": sha,
            "path": f".github/workflows/{workflow}",
        }
        (self.root / "runs").mkdir(exist_ok=True)
        (self.root / "runs" / f"{self.runs}.json").write_text(json.dumps(facts))
        run = Run(self, workflow, github, dict(inputs or {}))
        run.go()
        return run


class Run:
    """One run of a workflow; :meth:`go` again executes what failed, and what waited for it."""

    def __init__(self, service: Service, workflow: str, github: dict[str, Any], inputs: dict[str, str]) -> None:
        self.service, self.github, self.inputs = service, github, inputs
        self.folder = service.root / "work" / str(github["run_id"])
        self.artifacts = service.root / "artifacts" / str(github["run_id"])
        self.jobs = self._read(workflow)
        self.results: dict[str, dict[str, Any]] = {}
        self.not_rehearsed: list[str] = []
        self.executed: list[str] = []

    def _read(self, workflow: str) -> dict[str, Any]:
        text = self.service.git("show", f"{self.github['sha']}:.github/workflows/{Path(workflow).name}")
        jobs: dict[str, Any] = yaml.safe_load(text)["jobs"]
        return jobs

    @property
    def failed(self) -> list[str]:
        return [name for name, result in self.results.items() if result["result"] == "failure"]

    def go(self) -> None:
        self.executed = []
        kept = {name: result for name, result in self.results.items() if result["result"] == "success"}
        self.results = self._all(self.jobs, {"inputs": self.inputs}, kept, "")

    def _all(self, jobs: Mapping[str, Any], more: Mapping[str, Any], kept: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """The results of all jobs, each after those that it needs."""
        results: dict[str, Any] = dict(kept)
        left = [name for name in jobs if name not in results]
        while left:
            name = next(name for name in left if not set(_needs(jobs[name])) & set(left))
            left.remove(name)
            results[name] = self._job(prefix + name, jobs[name], {key: results[key] for key in _needs(jobs[name])}, more)
        return results

    def _contexts(self, needs: Mapping[str, Any], more: Mapping[str, Any], permissions: Mapping[str, str]) -> dict[str, Any]:
        token = json.dumps(permissions)
        return {
            "github": {**self.github, "token": token}, "vars": self.service.variables, "secrets": {}, "needs": needs, "steps": {},
            "matrix": {}, **more,
        }  # fmt: skip

    def _job(self, name: str, job: Mapping[str, Any], needs: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        contexts = self._contexts(needs, more, job.get("permissions", {}))
        succeeded = all(result["result"] == "success" for result in needs.values())
        if not condition(job.get("if", "true"), contexts, succeeded):
            return {"result": "skipped", "outputs": {}}
        if "uses" in job:
            inputs = filled(job.get("with", {}), contexts)
            inner = self._read(job["uses"])
            results = self._all(inner, {"inputs": {"since": "", "tag": "", "gpus": "", **inputs}}, {}, f"{name}/")
            bad = any(result["result"] == "failure" for result in results.values())
            return {"result": "failure" if bad else "success", "outputs": {}}
        outputs: dict[str, Any] = {}
        good = True
        for values in _combinations(filled(job.get("strategy", {}).get("matrix", {}), contexts)):
            contexts = {**contexts, "matrix": values, "steps": {}}
            shown = str(filled(job.get("name", name), contexts)) if values else name
            if filled(job["runs-on"], contexts) != _HERE or filled(job.get("container"), contexts):
                self.not_rehearsed.append(shown)
                continue
            begin = time.monotonic()
            done = Execution(self, shown, job, contexts).go()
            self.service.seconds[f"{self.github['run_id']} {shown}"] = time.monotonic() - begin
            self.executed.append(shown)
            if done:
                shutil.rmtree(self.folder / _plain(shown) / _SPACE, ignore_errors=True)
            good = good and done
            outputs |= filled(job.get("outputs", {}), contexts)
        return {"result": "success" if good else "failure", "outputs": outputs}


class Execution:
    """One job on a machine of its own: a new folder, and nothing on PATH that it did not ask for."""

    def __init__(self, run: Run, name: str, job: Mapping[str, Any], contexts: dict[str, Any]) -> None:
        self.run, self.name, self.job, self.contexts = run, name, job, contexts
        self.service = run.service
        folder = run.folder / _plain(name)
        shutil.rmtree(folder, ignore_errors=True)
        self.workspace = folder / _SPACE
        self.workspace.mkdir(parents=True)
        self.files = {kind: folder / kind for kind in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_ENV")}
        self.log = folder / "log.txt"
        self.python = False

    def go(self) -> bool:
        """Its steps; is all well?"""
        good = True
        for step in self.job["steps"]:
            if not condition(step.get("if", "true"), self.contexts, good):
                continue
            done = self._action(step) if "uses" in step else self._run(step)
            if "id" in step:
                outcome = "success" if done else "failure"
                self.contexts["steps"][step["id"]] = {"outcome": outcome, "outputs": _outputs(self.files["GITHUB_OUTPUT"])}
            self.files["GITHUB_OUTPUT"].unlink(missing_ok=True)
            good = good and (done or bool(step.get("continue-on-error")))
        return good

    def _run(self, step: Step) -> bool:
        env = {key: _text(value) for key, value in filled(step.get("env", {}), self.contexts).items()}
        text = filled(step["run"], self.contexts)
        if self.service.prepared(env.get("COMMAND", text), self.workspace):
            return True
        script = self.workspace.parent / "step.sh"
        script.write_text(text)
        shells = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"], "sh": ["sh", "-e"]}
        tools = [self.service.tools / "with-python" if self.python else self.service.tools / "without-python", self.service.tools]
        rights = self.job.get("permissions", {})
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "VIRTUAL_ENV", "NOX", "PYTEST"))}
        whole = {
            **kept, **self.service.environment, "REHEARSAL_CONTENTS": rights.get("contents", ""), "CI": "true",
            "PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]]), **{key: str(path) for key, path in self.files.items()},
            **env,
        }  # fmt: skip
        with self.log.open("a") as stream:
            stream.write(f"\n--- {text}\n")
            stream.flush()
            command = [*shells[step.get("shell")], str(script)]
            done = subprocess.run(command, cwd=self.workspace, env=whole, stdout=stream, stderr=stream, check=False)
        return done.returncode == 0

    def _action(self, step: Step) -> bool:
        given = filled(step.get("with", {}), self.contexts)
        name, _, commit = step["uses"].partition("@")
        assert re.fullmatch("[0-9a-f]{40}", commit), f"{name} is not pinned by its hash"
        with self.log.open("a") as stream:
            stream.write(f"\n--- {name} {given}\n")
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            "actions/checkout": self._checkout,
            "actions/setup-python": self._setup_python,
            "actions/upload-artifact": self._upload,
            "actions/download-artifact": self._download,
            "actions/attest-build-provenance": self._attest,
            "actions/upload-pages-artifact": self._upload_pages,
            "actions/deploy-pages": self._deploy_pages,
            "pypa/gh-action-pypi-publish": self._to_package_index,
        }
        try:
            actions[name](given)
        except ActionError as error:
            with self.log.open("a") as stream:
                stream.write(f"{error}\n")
            return False
        return True

    def _checkout(self, given: dict[str, Any]) -> None:
        assert given["persist-credentials"] is False
        target = self.workspace / given.get("path", ".")
        reference = given.get("ref", self.run.github["sha"])
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(self.service.bare), str(target)], check=True)
        reference = f"origin/{reference}" if "ref" in given and not re.fullmatch("[0-9a-f]{40}", reference) else reference
        subprocess.run(["git", "-C", str(target), "checkout", "--quiet", "--detach", reference], check=True)
        if "path" not in given:
            self.service.checked_out(self.workspace)

    def _setup_python(self, given: dict[str, Any]) -> None:
        self.python = True

    def _upload(self, given: dict[str, Any]) -> None:
        assert given["overwrite"], "a job that is started again would not get its artifact in"
        files = dict(_asked(self.workspace, given["path"].split("\n")))
        if not files:
            raise ActionError(f"no file is in {given['path']}")
        target = self.run.artifacts / given["name"]
        shutil.rmtree(target, ignore_errors=True)
        for path, name in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)

    def _download(self, given: dict[str, Any]) -> None:
        folder = self.run.artifacts
        if "run-id" in given:
            assert json.loads(given["github-token"])["actions"] == "read"
            folder = folder.with_name(str(given["run-id"]))
        if "name" in given:
            if not (folder / given["name"]).is_dir():
                raise ActionError(f"there is no artifact {given['name']}")
            shutil.copytree(folder / given["name"], self.workspace / given["path"], dirs_exist_ok=True)
            return
        for pattern in _braces(given["pattern"]):
            for artifact in sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern)):
                below = "." if given.get("merge-multiple") else artifact.name
                shutil.copytree(artifact, self.workspace / given["path"] / below, dirs_exist_ok=True)

    def _attest(self, given: dict[str, Any]) -> None:
        rights = self.job["permissions"]
        assert rights["id-token"] == rights["attestations"] == "write"
        subjects = sorted(self.workspace.glob(given["subject-path"]))
        if not subjects:
            raise ActionError("there is nothing to attest")
        with (self.service.root / "attested.txt").open("a") as stream:
            stream.writelines(f"{path.name}\n" for path in subjects)

    def _upload_pages(self, given: dict[str, Any]) -> None:
        self._upload({"name": "github-pages", "path": given["path"], "overwrite": True})

    def _deploy_pages(self, given: dict[str, Any]) -> None:
        assert self.job["permissions"]["pages"] == self.job["permissions"]["id-token"] == "write"
        if self.service.environment.get("REHEARSAL_NO_PAGES"):
            raise ActionError("Pages does not answer")
        shutil.rmtree(self.service.pages, ignore_errors=True)
        shutil.copytree(self.run.artifacts / "github-pages", self.service.pages)

    def _to_package_index(self, given: dict[str, Any]) -> None:
        assert self.job["permissions"] == {"id-token": "write"}
        assert given["skip-existing"]
        with (self.service.root / "package-index.txt").open("a") as stream:
            stream.writelines(f"{path.name}\n" for path in sorted((self.workspace / "dist").iterdir()))


def _plain(name: str) -> str:
    return re.sub(r"\W+", "-", name)


class ActionError(Exception):
    """An action ended its job."""


def _needs(job: Mapping[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)


def _combinations(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    assert len(matrix) <= 1, "nobody here multiplies matrices"
    return [{name: value} for name, values in matrix.items() for value in values] or ([] if matrix else [{}])


def _outputs(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _braces(pattern: str) -> list[str]:
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [f"{found[1]}{word}{found[3]}" for word in found[2].split(",")] if found else [pattern]


def _asked(workspace: Path, lines: list[str]) -> Iterator[tuple[Path, str]]:
    """The files that an upload takes, and their names in it: below what all its paths have in common. Hidden ones stay."""
    wanted = [line for line in lines if line and not line.startswith("!")]
    unwanted = [line[1:] for line in lines if line.startswith("!")]
    tops = [workspace / re.split(r"/[^/]*\*", line)[0] for line in wanted]
    common = tops[0] if len(tops) == 1 else Path(os.path.commonpath(tops))
    for line in wanted:
        for found in sorted(workspace.glob(line)):
            for path in [found] if found.is_file() else sorted(found.rglob("*")):
                parts = path.relative_to(workspace)
                hidden = any(part.startswith(".") for part in parts.parts)
                if path.is_file() and not hidden and not any(_below(parts, pattern) for pattern in unwanted):
                    yield path, path.relative_to(common).as_posix()


def _below(path: Path, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(parent.as_posix(), pattern) for parent in [path, *path.parents])


def tools(folder: Path, root: Path, python: Path) -> Path:
    """Programs for the jobs: our `gh`; `sudo`, which installs nothing; Python for those alone that set it up."""
    refused = "#!/bin/sh\necho 'this job has not set Python up' >&2\nexit 1\n"
    scripts = {
        "gh": f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("gh.py")}" "{root}" "$@"\n',
        "sudo": '#!/bin/sh\necho "left out: $*"\n',
        **{f"without-python/{name}": refused for name in ("python", "python3", "pip", "nox", "uv")},
        **{f"with-python/{name}": f'#!/bin/sh\nexec "{python.parent}/{name}" "$@"\n' for name in ("python", "nox", "uv")},
    }
    for name, text in scripts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return folder
