"""Stands in for GitHub's `gh`: releases and pull requests are folders below the one named on the command line first.

A release is a folder with its assets; an asset whose upload broke off ends in ``.part``. ``REHEARSAL_DIE_AT`` is the number of the
upload, counted from the first one ever, that breaks off. What asks for a right that the job does not have is refused.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])
RIGHTS = json.loads(os.environ.get("GH_TOKEN") or "{}")


def need(right: str, level: str = "write") -> None:
    if RIGHTS.get(right) != level:
        sys.exit(f"gh: this job may not {level} {right}; it has {RIGHTS}")


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


def release(verb: str, tag: str, words: list[str]) -> None:
    folder = ROOT / "releases" / os.environ["GH_REPO"] / "releases" / "download" / tag
    if verb == "create":
        need("contents")
        folder.mkdir(parents=True)
        return
    if not folder.is_dir():
        sys.exit("release not found")
    if verb == "view" and "--json" in words:
        assets = [(path.name.removesuffix(".part"), path.suffix == ".part") for path in sorted(folder.iterdir())]
        wanted = option(words, "--jq")
        assert wanted in ('.assets[] | select(.state != "uploaded") | .name', ".assets[] | .name"), wanted
        print("".join(f"{name}\n" for name, broken in assets if broken or "select" not in wanted), end="")
    elif verb == "upload":
        need("contents")
        (file,) = (Path(word) for word in words)
        target = folder / file.name
        if target.exists() or target.with_name(f"{file.name}.part").exists():
            sys.exit(f"asset under the same name already exists: {file.name}")
        log = ROOT / "uploads.txt"
        count = len(log.read_text().splitlines()) + 1 if log.exists() else 1
        with log.open("a") as stream:
            stream.write(f"{tag} {file.name}\n")
        content = file.read_bytes()
        if str(count) == os.environ.get("REHEARSAL_DIE_AT"):
            target.with_name(f"{file.name}.part").write_bytes(content[: len(content) // 2])
            sys.exit("connection reset by peer")
        target.write_bytes(content)
    elif verb == "download":
        assert option(words, "--output") == "-"
        sys.stdout.buffer.write((folder / option(words, "--pattern")).read_bytes())
    elif verb == "delete-asset":
        need("contents")
        (folder / f"{words[0]}.part").unlink()


def pull_requests(verb: str, words: list[str]) -> None:
    need("pull-requests")
    folder = ROOT / "pulls"
    folder.mkdir(exist_ok=True)
    file = folder / f"{option(words, '--head')}.json"
    if verb == "list":
        print(int(file.exists()))
    else:
        body = Path(option(words, "--body-file")).read_text(encoding="utf-8")
        file.write_text(json.dumps({"title": option(words, "--title"), "base": option(words, "--base"), "body": body}))


def api(path: str, words: list[str]) -> None:
    need("actions", "read")
    run = json.loads((ROOT / "runs" / f"{path.rpartition('/')[2]}.json").read_text())
    assert option(words, "--jq") == "[.event, .head_repository.full_name, .path, .head_sha] | @tsv"
    print("\t".join([run["event"], run["head_repository"]["full_name"], run["path"], run["head_sha"]]))


kind, *rest = sys.argv[2:]
if kind == "release":
    release(rest[0], rest[1], rest[2:])
elif kind == "pr":
    pull_requests(rest[0], rest[1:])
elif kind == "api":
    api(rest[0], rest[1:])
else:
    sys.exit(f"gh: nobody here knows {kind}")
