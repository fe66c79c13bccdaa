"""The page in a real browser: no error, no request, pictures on hover and by keyboard, accessibility."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")

WIDTHS = (640, 768, 1024, 1200)
"""Of other windows, in pixels: no part is wider than they."""
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's browser, without a window."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


class Opened:
    """A page that was opened from the disk, with what went wrong and what it asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_context(
            **{"viewport": DESKTOP, "offline": True} | options
        ).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def bubble(self) -> str:
        """What the map shows; empty if nothing."""
        shown = self.page.locator(".bubble:not([hidden])")
        return shown.inner_text() if shown.count() else ""


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_an_error_or_a_request(
    size: dict[str, int], scheme: str, browser: Any, page_file: Path
) -> None:
    opened = Opened(browser, page_file, viewport=size, color_scheme=scheme)
    page = opened.page
    assert opened.said == []
    assert [u for u in opened.requests if not u.startswith("data:")] == [page_file.as_uri()]
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("main > section").count() == 11
    assert page.locator(".doubts li").count() > 0
    for width in {size["width"], *WIDTHS} if size == DESKTOP else {size["width"]}:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
    colours = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colours) == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)"
    )


def test_a_point_shows_its_image(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file)
    page = opened.page
    assert opened.bubble() == ""
    page.locator(".canvas").scroll_into_view_if_needed()
    points = page.locator(".canvas circle")
    for i in (0, 10):
        box = points.nth(i).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert opened.bubble() in page.evaluate(
            "JSON.parse(document.querySelector('.map script').textContent)"
        )
    tile = page.locator(".bubble .tile")
    style = tile.evaluate("e => getComputedStyle(e).backgroundImage")
    assert style.startswith('url("data:image/jpeg')
    page.mouse.move(1, 1)
    assert opened.bubble() == ""


def test_the_map_is_used_by_keyboard(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file)
    page = opened.page
    page.locator(".canvas").focus()
    places = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        assert opened.bubble() == page.locator(".spoken").inner_text() != ""
        here = page.locator(".canvas circle.here")
        places.append(float(here.get_attribute("cx")))
    assert places[0] < places[1] > places[2]
    page.keyboard.press("Escape")
    assert opened.bubble() == ""


def test_one_class_is_shown_alone(browser: Any, page_file: Path) -> None:
    page = Opened(browser, page_file).page
    page.locator(".map-class").select_option("1")
    assert page.locator(".canvas circle.dim").count() == 24
    assert page.locator(".canvas circle.g1.dim").count() == 0
    page.locator(".map-class").select_option("")
    assert page.locator(".canvas circle.dim").count() == 0


def test_it_prints(browser: Any, page_file: Path) -> None:
    page = Opened(browser, page_file).page
    assert page.locator("details:not([open])").count() > 0
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("details:not([open])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, browser: Any, page_file: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    # axe is put into the page, which its Content-Security-Policy would not allow
    page = Opened(browser, page_file, color_scheme=scheme, bypass_csp=True).page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.add_script_tag(path=Path(axe.__file__).parent / "axe.min.js")
    found = page.evaluate("axe.run()")["violations"]
    assert [(v["impact"], v["id"], v["nodes"][0]["html"]) for v in found] == []
