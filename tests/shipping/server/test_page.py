"""The page in a real browser: scores and words are seen, texts stay texts, nothing is asked of anybody else."""

from __future__ import annotations

import pytest
from tests.programs import require

HOSTILE = '<img src=x onerror="window.ran=1"> <script>window.ran=2</script> {{7*7}} &amp; clown \u202e'


@pytest.fixture(scope="module")
def browser():
    program = require("chromium", "chromium-browser")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def open_page(browser, server):
    opened = []

    def open_one(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.told = []
        page.on("console", lambda message: page.told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.told.append(f"error: {error}"))
        page.on("dialog", lambda dialog: page.told.append("a dialog"))
        page.on(
            "request", lambda request: request.url.startswith(server.url) or page.told.append(f"to {request.url[:80]}")
        )
        page.goto(server.url)
        return page

    yield open_one
    for page in opened:
        assert [line for line in page.told if not line.startswith("to data:,")] == []
        page.close()


def score(page, text):
    page.locator("#text").fill(text)
    page.get_by_role("button", name="Score it").click()
    page.wait_for_selector("#result:not([hidden])")


def test_a_text_is_scored_and_stays_a_text(open_page, server):
    page = open_page()
    score(page, HOSTILE)
    assert page.evaluate("window.ran") is None
    assert page.locator("#words").inner_text().strip() == HOSTILE.strip()
    assert page.locator("#words img, #words script, #effects img").count() == 0
    answer = server.ask("/predict", {"inputs": HOSTILE}).json()
    shown = page.locator("#scores tr").all_inner_texts()
    assert [line.split()[:2] for line in shown] == [[one["label"], f"{one['score']:.4f}"] for one in answer]
    assert page.locator("#status").inner_text().startswith(answer[0]["label"])
    assert page.locator("#words .up, #words .down").count() >= 1
    page.get_by_role("button", name="Score it").click()
    page.get_by_text("Median of your last 2").wait_for()
    times = page.locator("#times").inner_text()
    assert "Computing" in times
    assert "All of the last minute" in times
    page.evaluate("document.getElementById('latency').dataset.workers = '2'")  # as where there are two
    page.get_by_role("button", name="Score it").click()
    page.get_by_text("All of this worker’s last minute").wait_for()


def test_a_keyboard_is_enough(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("nobody asked you")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result:not([hidden])")
    page.locator("#details summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#effects tr").count() == 3


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_axe_finds_nothing_serious(open_page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(width, scheme)
    score(page, "nobody asked you, you clueless clown " * 5)
    page.evaluate("document.querySelector('details').open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(page).response["violations"]
    assert [(item["id"], item["nodes"][0]["html"][:200]) for item in found] == []


def test_what_went_wrong_is_said(open_page, server):
    page = open_page()
    page.locator("#text").fill("a")
    page.route("**/explain", lambda route: route.abort())
    page.get_by_role("button", name="Score it").click()
    page.locator("#status.error").wait_for()
    assert page.locator("#status").inner_text() == "The server did not answer."
    page.told.clear()  # the browser's own line about it
