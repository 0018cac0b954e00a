"""The front page in a real browser, Chromium: wide, dark, on a phone, without JavaScript, by keyboard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.installers.tools import ROOT
from variants import matrix
from variants.choice import known

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on PATH (Debian, Ubuntu: `apt-get install chromium`)"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
LABELS = [variant.label for variant in matrix.load().values() if variant.label and variant.published]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pictures() -> Path:
    """Where the screenshots go, to be looked at."""
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "phone, dark, without JavaScript": {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "dark",
        "java_script_enabled": False,
    },
}


@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, browser: Browser, offer: tuple[Path, str], pictures: Path) -> None:
    """Everything is there and readable: labels, hashes, commands, the table of machines; nothing is wider than the screen."""
    site, address = offer
    context = browser.new_context(**SCREENS[screen])
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(address)
    page.screenshot(path=pictures / f"{screen}.png", full_page=True)
    text = page.locator("main").text_content() or ""
    for label in LABELS:
        assert label in text
        assert f"{address if 'without' not in screen else 'http://127.0.0.1:8000/'}backends/{label}/simple/" in text
    assert "uv pip install --preview-features wheel-variants --index" in text
    for row in known.table():
        if row.preview:
            shown = page.locator("details[open] tr", has_text=row.name).first.locator("td").all_text_contents()
            assert shown[1:] == [row.gets, row.uv or row.gets, "nothing" if row.gets == "nothing" else "plain"], row.name
    digest = page.locator("details[open] tbody details code").nth(1).text_content() or ""
    assert len(digest) == 64
    assert f'"sha256": "{digest}"' in (site / "simple" / "llama-cpp-python" / "index.json").read_text()
    assert page.locator("button").count() == (0 if "without" in screen else page.locator(".command").count())
    if "without" not in screen:
        wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], "something is wider than the screen"
        assert not problems
        assert _contrast(page) >= 4.5
    context.close()


def _contrast(page: Page) -> float:
    """The lowest contrast ratio of text and background in use (WCAG 2.2, 1.4.3; at least 4.5)."""
    script = """() => {
      const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const back = (node) => {
        for (; node; node = node.parentElement) {
          const color = getComputedStyle(node).backgroundColor;
          if (!/, 0\\)$|transparent/.test(color)) return color;
        }
        return "rgb(255, 255, 255)";
      };
      let lowest = 21;
      for (const node of document.querySelectorAll("h1, h2, h3, p, td, th, pre, button, a, code, summary")) {
        const [a, b] = [light(getComputedStyle(node).color), light(back(node))].sort((x, y) => y - x);
        lowest = Math.min(lowest, (a + 0.05) / (b + 0.05)); }
      return lowest; }"""
    return float(page.evaluate(script))


def test_copy_by_keyboard(browser: Browser, offer: tuple[Path, str]) -> None:
    """Tab reaches the first button, with a visible ring; Enter copies the command with this site's own address."""
    _, address = offer
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    page = context.new_page()
    page.goto(address)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.evaluate("node => node.tagName") == "BUTTON"
    assert (focused.get_attribute("aria-label") or "").startswith("Copy: uv pip install")
    assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"uv pip install --preview-features wheel-variants --index {address}simple/ llama-cpp-python"
    context.close()


def test_links(browser: Browser, offer: tuple[Path, str]) -> None:
    """Every link of the page answers."""
    _, address = offer
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    for link in {link.get_attribute("href") or "" for link in page.locator("a").all()}:
        if not link.startswith("#"):
            assert context.request.head(f"{address}{link}").ok, link
    context.close()
