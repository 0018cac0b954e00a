"""The pages for people in real browsers, Chromium and Firefox: wide, dark, on a phone, at 200 %, printed, without JavaScript, by
keyboard, and by axe-core. What they answer is what `explain` says."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.installers.tools import ROOT, ROWS
from variants import matrix
from variants.choice import answers, explain, listing
from variants.choice.known import Row
from variants.choice.listing import Listing
from variants.choice.machine import checked

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
chromium_only = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on PATH (Debian, Ubuntu: apt-get install chromium)"
)
firefox_only = pytest.mark.skipif(FIREFOX is None, reason="there is no firefox on PATH (Debian: apt-get install firefox-esr)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
LABELS = [variant.label for variant in matrix.load().values() if variant.label and variant.published]
WIDE = {"width": 1280, "height": 900}
DARK = {"ui.systemUsesDarkTheme": 1, "layout.css.prefers-color-scheme.content-override": 0}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    # Before a screenshot Playwright waits for fonts by a script: for ever where scripts are off. The pages bring no fonts.
    os.environ["PW_TEST_SCREENSHOT_NO_FONTS_READY"] = "1"
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield started
    started.close()


@pytest.fixture(scope="module")
def pictures() -> Path:
    """Where the screenshots go, to be looked at."""
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def opened(context: BrowserContext, address: str, problems: list[str]) -> Page:
    """The page, when the browser has said what it knows of the machine."""
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(address)
    if page.locator("#choose").count():
        page.wait_for_selector("[data-ready]")
    return page


def check(page: Page) -> None:
    """Nothing is wider than the screen, and axe-core finds nothing, folded and unfolded."""
    for step in ("[]", "document.querySelectorAll('details').forEach((one) => { one.open = true; })"):
        page.evaluate(step)
        wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], "something is wider than the screen"
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": WIDE},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "phone, dark": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "color_scheme": "dark"},
    "200 %": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
    "narrowest": {"viewport": {"width": 320, "height": 256}},  # 1280 pixels at 400 % (WCAG 2.2, 1.4.10)
    "forced colors": {"viewport": WIDE, "forced_colors": "active"},
}


@chromium_only
@pytest.mark.parametrize("path", ["", "versions/llama-cpp-python/9.9.6.html"], ids=["front", "older"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, path: str, browser: Browser, offer: tuple[Path, str], pictures: Path) -> None:
    context = browser.new_context(**SCREENS[screen])
    problems: list[str] = []
    page = opened(context, offer[1] + path, problems)
    if not path:
        choose(page, maker="NVIDIA", model="A100, A30", state="12.2", installer="pip")
    page.screenshot(path=pictures / f"{screen}{' older' if path else ''}.png", full_page=True)
    check(page)
    assert not problems
    context.close()


def choose(page: Page, **answer: str) -> None:
    """Click through: `system`, `maker`, `installer`, `place` by their buttons; then `model` and `state`."""
    for name in ("system", "maker", "installer", "place"):
        if name in answer and page.locator(f"#ask-{name}").is_visible():
            page.locator(f"#ask-{name}").get_by_role("radio", name=answer[name], exact=True).check()
    for name in ("model", "state"):
        menu = page.locator(f"[data-ask={name}]:visible")
        if name in answer and menu.count():
            menu.select_option(label=answer[name])


def told(offered: Listing) -> list[Row]:
    """The machines that the questions can tell. Nobody is asked how old a system is: the answer names the oldest that it is for."""
    systems = {checked(replaced(system.platform)).platform for system in answers.questions().system}
    rows = [row for row in ROWS if row.preview]
    too_old = [row for row in rows if checked(row.machine()).platform not in systems and nothing(offered, row)]
    assert [row.name for row in too_old] == ["Linux with glibc 2.12 (CentOS 6)"]
    return [row for row in rows if row not in too_old]


def nothing(offered: Listing, row: Row) -> bool:
    return explain.choose(offered, row.machine(), "standard").spelled == "nothing"


def answered(row: Row) -> dict[str, str]:
    """What the owner of a machine of the table answers."""
    asked = answers.questions()
    platform = checked(row.machine()).platform
    (system,) = [one for one in asked.system if checked(replaced(one.platform)).platform == platform] or [asked.system[0]]
    found = {"system": system.name, "maker": answers.NO_GPU}
    nvidia, amd, intel = asked.maker
    if "Intel" in row.name and "processor" not in row.name:
        found["maker"] = intel.name
    elif row.sm or row.driver or "NVIDIA GPU in" in row.name or row.smi == "broken":
        sm = max(row.sm, key=lambda text: [int(part) for part in text.split(".")], default=None)
        newest = nvidia.drivers[0]
        state = "There is no driver" if row.driver is None else row.driver
        found["maker"] = nvidia.name
        found["model"] = next((model.name for model in nvidia.model if model.sm == sm), answers.UNKNOWN)
        found["state"] = f"{newest} or newer" if row.driver and float(row.driver) >= float(newest) else state
    elif row.gfx:
        found["maker"] = amd.name
        found["model"] = next(model.name for model in amd.model if model.gfx == row.gfx[0])
        found["state"] = str(amd.enables) if row.optional else answers.UNKNOWN
    return found


def replaced(platform: str) -> Any:
    """A machine of this platform."""
    return Row(group="", name="", gets="", platform=platform).machine()


@chromium_only
def test_each_machine_gets_what_explain_says(browser: Browser, offer: tuple[Path, str]) -> None:
    """Every machine of machines.toml, clicked through, for uv and for pip."""
    site, address = offer
    offered = listing.read(str(site))
    context = browser.new_context()
    problems: list[str] = []
    page = opened(context, address, problems)
    for row in told(offered):
        mine = answered(row)
        machine = row.machine()
        wanted = explain.choose(offered, machine, "standard").spelled
        by_uv, by_pip = (explain.choose(offered, machine, name).spelled for name in ("uv", "pip"))
        choose(page, **mine, installer="uv", place="an environment")
        command = page.locator("#command").text_content() or ""
        label = page.locator("#answer").get_attribute("data-label")
        if wanted == "nothing":
            assert (label, command) == ("nothing", ""), row.name
            continue
        if label:  # nothing is unknown
            assert label == wanted, row.name
        if by_uv == wanted:
            assert f"--index {address}simple/ " in command, row.name
            assert ("--preview-features" in command) == (wanted != by_pip), row.name
        else:
            assert f"--index {address}backends/{wanted}/simple/ " in command, row.name
        choose(page, installer="pip")
        command = page.locator("#command").text_content() or ""
        own = by_pip if mine["maker"] == answers.NO_GPU else wanted
        root = "simple/" if own == "plain" else f"backends/{own}/simple/"
        assert f"pip install --extra-index-url {address}{root} " in command, row.name
    choose(page, system="Linux x86-64", maker=answers.NO_GPU)
    assert "glibc 2.17 or newer" in (page.locator("#facts").text_content() or "")
    assert not problems
    context.close()


def test_every_answer_is_explains(offer: tuple[Path, str]) -> None:
    """Each model with each driver on each system, asked one by one."""
    offered = listing.read(str(offer[0]))
    newest = only(offered, offered.versions()[0])
    found = answers.answers(offered, offered.versions()[0])
    count = 0
    for system, grid in zip(found.systems, found.grids, strict=True):
        for one, rows in zip(found.makers, grid, strict=True):
            for model, row in zip([None, *one.maker.model], rows, strict=False):
                for number, state in enumerate(row):
                    if model is None or (one.maker.drivers and number == 0):
                        continue
                    driver = one.maker.drivers[number - 2] if one.maker.drivers and number > 1 else None
                    machine = checked(
                        Row(
                            group="", name="", gets="", platform=system.platform, driver=driver, sm=(model.sm,) if model.sm else (),
                            gfx=(model.gfx,) if model.gfx else (), optional=("amd",) if one.maker.enables and number else (),
                        ).machine()
                    )  # fmt: skip
                    outcome = found.outcomes[state]
                    assert outcome.label == explain.choose(newest, machine, "standard").spelled, (system, model, driver)
                    count += 1
    assert count > 2000


def only(offered: Listing, version: str) -> Listing:
    """One version alone: quicker to ask."""
    return Listing("", offered.by_version[version], {version: offered.variants[version]}, {})


@chromium_only
def test_sentences(browser: Browser, offer: tuple[Path, str]) -> None:
    """One command and one sentence why."""
    _, address = offer
    context = browser.new_context()
    page = opened(context, address, [])
    choose(page, system="Linux x86-64", maker="NVIDIA", model="A100, A30", state="11.8", installer="uv")
    why = "Your driver is for CUDA 11.8, but cuda13 needs 13.0 or newer and cuda12 needs 12.0 or newer, so: vulkan."
    assert page.locator("#why").text_content() == why
    assert page.locator("#hint").text_content() == "A driver for CUDA 13.0 or newer gets cuda13."
    choose(page, state="I don't know")
    assert (page.locator("#why").text_content() or "").startswith("Nothing more to choose: uv takes the wheel that fits")
    choose(page, maker="AMD", model="RX 7900", state="ROCm 7 is installed")
    assert page.locator("#why").text_content() == "ROCm 7 is installed and rocm7 has code for this GPU, so: rocm7."
    choose(page, place="a project")
    assert page.locator("#command").text_content() == f"uv add --index llama={address}backends/rocm7/simple/ llama-cpp-python"
    assert "uv.lock knows no labels" in (page.locator("#note").text_content() or "")
    choose(page, place="nothing: serve a model")
    served = '--from "llama-cpp-python[server]" python -m llama_cpp.server --model FILE'
    assert page.locator("#command").text_content() == f"uvx --index {address}backends/rocm7/simple/ {served}"
    assert "http://localhost:8000/v1" in (page.locator("#note").text_content() or "")
    choose(page, maker="I don't know")
    assert page.locator("#command").text_content() == f"uvx --preview-features wheel-variants --index {address}simple/ {served}"
    choose(page, maker="AMD", place="a project")
    choose(page, installer="Poetry")
    assert page.locator("#ask-place").get_by_role("radio", name="an environment").is_disabled()
    choose(page, installer="pip", system="Mac, Apple silicon")
    assert not page.locator("#ask-maker").is_visible(), "on this system a GPU makes no difference"
    assert "Metal" in (page.locator("#facts").text_content() or "")
    choose(page, system="Alpine Arm")
    assert page.locator("#run").is_visible()
    context.close()


GUESSES = {
    "Windows, RTX 30": ("Win32", "nvidia", "ampere", "Windows x86-64", "NVIDIA", "RTX 30, A2 to A40, RTX A"),
    "Linux, RTX 40": ("Linux x86_64", "nvidia", "lovelace", "Linux x86-64", "NVIDIA", "RTX 40, L4, L40, RTX Ada"),
    "Linux Arm": ("Linux aarch64", "", "", "Linux Arm", "I don't know", None),
    "AMD": ("Linux x86_64", "amd", "rdna-3", "Linux x86-64", "AMD", "I don't know"),
    "Intel": ("Win32", "intel", "xe-lpg", "Windows x86-64", "Intel", None),
    "Mac": ("MacIntel", "apple", "metal-3", "Mac, Apple silicon", None, None),
    "Intel Mac": ("MacIntel", "intel", "gen-9", "Mac, Intel", None, None),
}


@chromium_only
@pytest.mark.parametrize("name", GUESSES)
def test_guess(name: str, browser: Browser, offer: tuple[Path, str]) -> None:
    """What the browser says of its machine is preselected, and said to be a guess; a click is no guess any more."""
    platform, vendor, architecture, system, maker, model = GUESSES[name]
    context = browser.new_context()
    info = json.dumps({"vendor": vendor, "architecture": architecture, "device": "", "description": ""})
    context.add_init_script(
        f"Object.defineProperty(navigator, 'platform', {{ get: () => '{platform}' }});"
        "Object.defineProperty(navigator, 'userAgentData', { get: () => undefined });"
        f"Object.defineProperty(navigator, 'gpu', {{ get: () => ({{ requestAdapter: async () => ({{ info: {info} }}) }}) }});"
        "HTMLCanvasElement.prototype.getContext = () => null;"
    )
    problems: list[str] = []
    page = opened(context, offer[1], problems)
    assert page.locator("#ask-system").get_by_role("radio", name=system, exact=True).is_checked()
    assert page.locator("#ask-system .guess").text_content() == "a guess"
    assert page.locator("#guessed").is_visible()
    if maker:
        assert page.locator("#ask-maker").get_by_role("radio", name=maker, exact=True).is_checked()
        assert page.locator("#ask-maker > legend .guess").count() == (maker != answers.UNKNOWN)
    if model:
        assert page.locator("[data-ask=model]:visible option:checked").text_content() == model
        assert page.locator("[data-maker]:visible .guess").count() == (model != answers.UNKNOWN)
    choose(page, system="Windows Arm")
    assert page.locator("#ask-system .guess").count() == 0
    assert not problems
    context.close()


@chromium_only
def test_by_keyboard(browser: Browser, offer: tuple[Path, str]) -> None:
    """Tab and arrows answer each question, with a visible ring; Enter copies the command with this site's own address."""
    _, address = offer
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    page = opened(context, address, [])

    def ring() -> str:
        script = "(one) => getComputedStyle(one.matches('[type=radio]') ? one.nextElementSibling : one).outlineStyle"
        return str(page.locator(":focus").evaluate(script))

    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("name") == "system"
    assert ring() == "solid"
    page.keyboard.press("Tab")
    for _ in range(4):  # from "I don't know" round to NVIDIA and on to AMD, Intel
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#ask-maker").get_by_role("radio", name="AMD").is_checked()
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("data-ask") == "model"
    page.keyboard.type("RX 7900")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("#ask-installer").get_by_role("radio", name="pip").is_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.locator(":focus").evaluate("(one) => one.tagName") == "BUTTON"
    assert ring() == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert (
        copied == f"pip install --extra-index-url {address}backends/rocm7/simple/ --only-binary=llama-cpp-python llama-cpp-python"
    )
    context.close()


@chromium_only
@pytest.mark.parametrize("screen", ["wide", "phone, dark"])
def test_without_javascript(screen: str, browser: Browser, offer: tuple[Path, str], pictures: Path) -> None:
    """The command that is right everywhere, the table of all answers, unfolded, and a command for each of them."""
    context = browser.new_context(**SCREENS[screen], java_script_enabled=False)
    page = context.new_page()
    page.goto(offer[1])
    page.screenshot(path=pictures / f"{screen}, without JavaScript.png", full_page=True)
    assert not page.locator("#choose").is_visible()
    assert page.locator("button").count() == 0
    shown = page.locator("#command").text_content()
    assert shown == "uv pip install --preview-features wheel-variants --index http://127.0.0.1:8000/simple/ llama-cpp-python"
    assert page.locator(".machines").is_visible()
    text = page.locator("main").text_content() or ""
    for label in LABELS:
        for command in ("pip install --extra-index-url ", "uv add --index llama=", "pdm config --local pypi.llama.url "):
            assert f"{command}http://127.0.0.1:8000/backends/{label}/simple/" in text
    table = [body.inner_text() for body in page.locator(".machines tbody").all()]
    offered = listing.read(str(offer[0]))
    for row in told(offered):
        found = in_table(table, answered(row))
        expected = {explain.choose(offered, row.machine(), name).spelled for name in ("standard", "uv", "pip")}
        assert found in expected | {"what fits"}, row.name
        if (row.sm and row.driver) or row.gfx:
            assert found == explain.choose(offered, row.machine(), "standard").spelled, row.name
    context.close()


def in_table(table: list[str], mine: dict[str, str]) -> str:
    """The wheel that the table has for these answers, as a reader finds it."""
    (body,) = [body for body in table if mine["system"] in body.partition("\n")[0].split(" · ")]
    rows = re.split(r"\n(?=(?:NVIDIA|AMD|Intel|No GPU|Not known|Any))", body)[1:]
    if rows[0].startswith("Any"):
        return rows[0].split()[-1]
    rows = [row for row in rows if row.startswith(mine["maker"])]
    model = "not known" if mine.get("model") == answers.UNKNOWN else mine.get("model", "")
    (row,) = rows if len(rows) == 1 else [row for row in rows if re.search(rf"(: |; |or |model ){re.escape(model)}(;|\s)", row)]
    lines = re.findall(r"(?:CUDA|ROCm|not known|otherwise|no driver)[^\n]*: [^\n]+", row)
    if not lines:
        return row.split()[-1] if "by uv" not in row else row.split()[-6]
    state = mine["state"].removesuffix(" or newer").removesuffix(" or older")
    for line in lines:
        words, _, wheel = line.partition(": ")
        low, high = 0.0, 0.0
        if found := re.search(r"CUDA ([\d.]+) (or newer|or older|to ([\d.]+))", words):
            first = float(found[1])
            low, high = (
                (first, 99.0) if found[2] == "or newer" else (0.0, first) if found[2] == "or older" else (first, float(found[3]))
            )
        known = {"There is no driver": "no driver", answers.UNKNOWN: "not known|otherwise"}.get(state, re.escape(state))
        if re.search(known, words) or (re.fullmatch(r"[\d.]+", state) and low <= float(state) <= high):
            return "what fits" if wheel.startswith("what fits") else wheel.split()[0]
    raise AssertionError(mine)


@chromium_only
def test_print(browser: Browser, offer: tuple[Path, str], pictures: Path) -> None:
    """On paper: no questions and no buttons, black on white, and what was folded is unfolded."""
    context = browser.new_context(viewport=WIDE, color_scheme="dark")
    page = opened(context, offer[1], [])
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#choose").is_visible()
    assert not page.locator(".command button").first.is_visible()
    assert page.locator("#wheels table").is_visible()
    assert page.locator("body").evaluate("(one) => getComputedStyle(one).backgroundColor") == "rgb(255, 255, 255)"
    page.screenshot(path=pictures / "print.png", full_page=True)
    assert Axe().run(page).violations_count == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#wheels table").is_visible()
    assert len(page.pdf()) > 10_000
    context.close()


@chromium_only
def test_links(browser: Browser, offer: tuple[Path, str]) -> None:
    """Every link of the pages answers, and they ask for nothing else."""
    _, address = offer
    context = browser.new_context()
    asked: list[str] = []
    for path in ("", "versions/llama-cpp-python/9.9.6.html"):
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}{path}")
        for link in {str(link.evaluate("(one) => one.href")) for link in page.locator("a").all()}:
            assert context.request.head(link).ok, link
    assert [url for url in asked if not url.startswith("data:")] == [address, f"{address}versions/llama-cpp-python/9.9.6.html"]
    context.close()


def test_hashes(offer: tuple[Path, str]) -> None:
    """Each version's page has the whole hash of each of its wheels."""
    site, _ = offer
    rows = json.loads((site / "simple" / "llama-cpp-python" / "index.json").read_bytes())["files"]
    for version, page in (("9.9.7", "index.html"), ("9.9.6", "versions/llama-cpp-python/9.9.6.html")):
        text = (site / page).read_text()
        wheels = [row for row in rows if row["filename"].endswith(".whl") and f"-{version}-" in row["filename"]]
        assert len(wheels) == sum(len(variant.published) for variant in matrix.load().values())
        for row in wheels:
            assert row["hashes"]["sha256"] in text


# -- Firefox -------------------------------------------------------------------------------------------------------------------
# Debian's own, by WebDriver BiDi. It knows no media features and no disabled scripts there: those are its own settings.


@firefox_only
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_firefox(dark: bool, playwright: Playwright, offer: tuple[Path, str], pictures: Path) -> None:
    """Wide, on a narrow screen, by keyboard, by axe-core."""
    _, address = offer
    firefox = playwright.firefox.launch(channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs=DARK if dark else {})
    for name, viewport in {"wide": WIDE, "phone": {"width": 360, "height": 740}, "200 %": {"width": 640, "height": 450}}.items():
        context = bare(firefox, viewport)
        problems: list[str] = []
        page = opened(context, address, problems)
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == dark
        choose(page, system="Linux x86-64", maker="NVIDIA", model="A100, A30", state="11.8", installer="uv")
        assert page.locator("#answer").get_attribute("data-label") == "vulkan"
        page.locator("#ask-installer").get_by_role("radio", name="uv").focus()
        page.keyboard.press("ArrowRight")
        assert f"{address}backends/vulkan/simple/" in (page.locator("#command").text_content() or "")
        page.screenshot(path=pictures / f"Firefox {name}{', dark' if dark else ''}.png", full_page=True)
        check(page)
        assert not problems
        context.close()
    firefox.close()


@firefox_only
def test_firefox_without_javascript(playwright: Playwright, offer: tuple[Path, str], pictures: Path) -> None:
    firefox = playwright.firefox.launch(
        channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs={"javascript.enabled": False}
    )
    page = bare(firefox, WIDE).new_page()
    page.goto(offer[1])
    page.screenshot(path=pictures / "Firefox, without JavaScript.png", full_page=True)
    assert page.locator(".machines").is_visible()
    assert not page.locator("#choose").is_visible()
    firefox.close()


def bare(firefox: Browser, viewport: Any) -> BrowserContext:
    """A context without the settings that Firefox does not know."""
    return firefox.new_context(viewport=viewport, color_scheme="null", reduced_motion="null", forced_colors="null")
