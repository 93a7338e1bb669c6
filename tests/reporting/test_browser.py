"""Pages in a real browser: nothing fails or is fetched, everything is seen, and a keyboard and a reader get along."""

from __future__ import annotations

import itertools

import pytest
from tests.programs import require
from tests.reporting.made_runs import comparison_record, make_run, sweep_record

from bertwright.reporting.comparison_page import comparison_page
from bertwright.reporting.material import read_material
from bertwright.reporting.page import write_page
from bertwright.reporting.run_page import run_page
from bertwright.reporting.sweep_page import sweep_page

NAMES = (
    "two classes",
    "many classes",
    "multi-label",
    "regression",
    "hostile",
    "without predictions",
    "comparison",
    "sweep",
)
# Those that are looked at without --run-slow.
IN_SHORT = ("two classes", "comparison")
LOOKS = [(width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]


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


@pytest.fixture(scope="module")
def pages(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [make_run(folder / f"run-{i}", seed=i) for i in range(3)]
    written = {name: run_page(read_material(made[name])) for name in NAMES[:-2]}
    written["comparison"] = comparison_page(comparison_record(runs), [read_material(run) for run in runs])
    written["sweep"] = sweep_page(sweep_record(folder))
    for name, page in written.items():
        write_page(page, folder / f"{name}.html")
    return folder


@pytest.fixture
def open_page(browser, pages):
    opened = []

    def open_one(name, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.told = []
        page.on("console", lambda message: page.told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.told.append(f"error: {error}"))
        page.on("dialog", lambda dialog: page.told.append("a dialog"))
        page.on("request", lambda request: page.told.append(f"request: {request.url}"))
        page.goto((pages / f"{name}.html").as_uri())
        assert page.told.pop(0).startswith("request: file://")
        return page

    yield open_one
    for page in opened:
        assert page.told == []
        page.close()


# Of each picture: its box, and for its shapes whether any has a colour that is seen, and the least contrast of texts.
_SEEN = """() => [...document.querySelectorAll("svg.plot")].map((svg) => {
  const box = svg.getBoundingClientRect();
  const rgb = (text) => { const n = text.match(/[\\d.]+/g); return n ? n.map(Number) : [0, 0, 0, 0]; };
  const light = ([r, g, b]) => {
    const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = rgb(getComputedStyle(svg.closest("figure")).backgroundColor);
  const colour = (element, name) => {
    const style = getComputedStyle(element);
    const value = style[name];
    if (value === "none" || Number(style[name + "Opacity"] || 1) === 0) return null;
    const found = rgb(value);
    return found.length > 3 && found[3] === 0 ? null : found;
  };
  const shapes = [...svg.querySelectorAll("path, use, rect")].filter((e) => !e.closest("defs, clipPath"));
  const strong = shapes.filter((e) => ["fill", "stroke"].some((n) => {
    const c = colour(e, n); return c && contrast(c, behind) >= 3;
  }));
  const texts = [...svg.querySelectorAll("text")];
  const size = (e) => e.getBoundingClientRect().height;
  const outside = texts.filter((e) => {
    const b = e.getBoundingClientRect();
    return b.left < box.left - 3 || b.right > box.right + 3 || b.top < box.top - 3 || b.bottom > box.bottom + 3;
  });
  return {
    name: svg.querySelector("title").textContent, width: box.width, height: box.height,
    visible: svg.checkVisibility({ opacityProperty: true, visibilityProperty: true }),
    strong: strong.length, texts: texts.length, outside: outside.map((e) => e.textContent),
    contrast: Math.min(...texts.map((e) => { const c = colour(e, "fill"); return c ? contrast(c, behind) : 0; })),
    fontSize: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize))) * box.width
      / svg.viewBox.baseVal.width,
  };
})"""


@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_picture_is_seen_everywhere(open_page, name):
    for width, scheme in LOOKS:
        page = open_page(name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = page.evaluate(_SEEN)
        assert len(found) >= 3
        for picture in found:
            where = (name, width, scheme, picture)
            assert picture["visible"], where
            assert picture["width"] >= 250, where
            assert picture["height"] >= 60, where
            assert picture["strong"] >= 2, where
            assert picture["texts"] >= 3, where
            assert picture["contrast"] >= 4.5, where
            assert picture["fontSize"] >= 7.5, where
            assert picture["outside"] == [], where
        assert page.evaluate("window.ran === undefined && document.title.endsWith('bertwright')")


@pytest.mark.parametrize(
    "name",
    ["hostile", "comparison", *(pytest.param(name, marks=pytest.mark.slow) for name in ("many classes", "sweep"))],
)
def test_axe_finds_nothing_serious(open_page, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for width, scheme in ((360, "dark"), (1280, "light")):
        page = open_page(name, width, scheme)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        # The page's own policy forbids further scripts; axe comes in by the browser's debugging interface.
        found = axe.run(page).response["violations"]
        bad = [
            (item["id"], item["nodes"][0]["html"][:200]) for item in found if item["impact"] in ("serious", "critical")
        ]
        assert bad == []


def test_tables_are_sorted_by_keyboard(open_page):
    page = open_page("sweep")
    cells = "table#table-trial-list tbody tr td:nth-child(3)"
    first = page.locator(cells).all_inner_texts()
    button = page.locator("table#table-trial-list thead button").nth(2)
    button.focus()
    heading = page.locator("table#table-trial-list thead th").nth(2)
    orders = []
    for _ in range(3):
        page.keyboard.press("Enter")
        orders.append((heading.get_attribute("aria-sort"), page.locator(cells).all_inner_texts()))
    numbers = [[float(text.split()[0]) for text in texts if text != "–"] for _, texts in orders]
    assert [order for order, _ in orders] == ["descending", "ascending", None]
    assert numbers[0] == sorted(numbers[0], reverse=True)
    assert numbers[1] == sorted(numbers[1])
    assert orders[0][1][-1] == orders[1][1][-1] == "–"  # what is not known comes last
    assert orders[2][1] == first
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_way_by_keyboard_and_reader(open_page):
    page = open_page("two classes")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.locator("main").count() == page.locator("header").count() == page.locator("footer").count() == 1
    names = page.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].map((s) => s.getAttribute('aria-labelledby').split(' ')"
        ".map((id) => document.getElementById(id).textContent))"
    )
    assert all(len(title) > 3 and len(description) > 30 for title, description in names)


def test_hostile_texts_do_nothing(open_page):
    page = open_page("hostile", 360)
    shown = page.locator("main").inner_text()
    for words in ("<script>document.title", "␀", "⟨U+202E⟩", "{{ 7 * 7 }}", "]]> </style></script>"):
        assert words in shown
    page.keyboard.press("Tab")
    page.mouse.wheel(0, 5000)
    assert page.evaluate("window.ran === undefined")
    # The page's policy stops a script even if one were to get in.
    page.evaluate(
        "document.body.append(document.createRange().createContextualFragment("
        "'<script>window.ran = 1</scr' + 'ipt><img src=x onerror=\"window.ran = 1\">'))"
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in line for line in page.told)
    page.told.clear()


def test_in_print_all_is_there(open_page):
    page = open_page("two classes", scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#table-settings").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#table-settings").is_visible()
    assert page.pdf().startswith(b"%PDF")
