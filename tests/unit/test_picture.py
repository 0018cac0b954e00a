"""The picture of the README: what it is made of, and that it fetches nothing and gives nothing away."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from variants.errors import CommandError, UsageError
from variants.trial import picture
from variants.upstream.source import ROOT

RECORDED = "\x1b[1;32m$\x1b[0m \x1b[1mpython -m llama_cpp doctor\x1b[0m\n\n\x1b[1mGPUs\x1b[0m\n  \x1b[32m✓\x1b[0m a < b & c\n"


def shown(text: str) -> str:
    """What stands in a picture to be read, with plain spaces."""
    return "".join(xml.fromstring(text).itertext()).replace("\xa0", " ")


def test_same_text_same_picture() -> None:
    made = picture.svg(RECORDED)
    assert made == picture.svg(RECORDED)
    assert made != picture.svg(RECORDED.replace("GPUs", "CPUs"))
    assert "python -m llama_cpp doctor" in shown(made)
    assert "a < b & c" in shown(made)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/simple/", "https://example.org/"])
def test_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="would show"):
        picture.svg(f"{RECORDED}from {address}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals that a program can open")
def test_terminal(tmp_path: Path) -> None:
    """The command has a terminal of that width; colours stay, what moves the cursor goes; a failure shows what was printed."""
    asks = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size(1).columns, '\\x1b[2K\\x1b[1mbold\\x1b[0m')"
    assert picture._terminal([sys.executable, "-c", asks], tmp_path, {}) == "True 90 \x1b[1mbold\x1b[0m\n"
    with pytest.raises(CommandError, match="it broke"):
        picture._terminal([sys.executable, "-c", "import sys; sys.exit('it broke')"], tmp_path, {})


def test_the_picture_in_the_readme() -> None:
    text = (ROOT / "docs" / "picture.svg").read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!#)|@import|/tmp/|/home/|/root/|127\.0", text)
    assert picture._INSTALL in shown(text)
    assert "It works" in shown(text)
    assert "(docs/picture.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
