"""The page of inference engines."""

from __future__ import annotations

from tests.reporting.made_engines import engine, engines_record
from tests.reporting.test_pages import Outline

from bertwright.reporting.engines_page import engines_page
from bertwright.reporting.page import html

HOSTILE = '<img src="http://example.com/x.png" onerror=alert(1)> $x$ \u202e'


def document(*engines, **changed):
    record = engines_record(list(engines), **{"ranking": ["One.", "Two.", "Three."], **changed})
    return html(engines_page(record))


def test_the_page_shows_all_engines_and_needs_nothing_else():
    page = document(engine("fast", 300), engine("slow", 50), engine("wrong", not_run="a logit is off by 1"))
    outline = Outline(page)
    assert not outline.open
    assert len(set(outline.ids)) == len(outline.ids)
    for words in (
        "One. Two. Three.",
        "2 inference engines side by side",
        "no: a logit is off by 1",
        "Not timed: wrong",
    ):
        assert words in outline.text, words
    assert {"table-throughput-table", "table-one-text-table", "table-start-table", "table-parity-table"} <= set(
        outline.ids
    )
    assert page.count("<svg") == 3
    targets = [value for _, name, value in outline.attributes if name in ("href", "src", "action", "xlink:href")]
    assert all(target.startswith(("#", "data:,")) for target in targets)
    assert "nan" not in outline.text.lower().split()
    assert "None" not in outline.text


def test_names_have_no_effect():
    page = document(engine(HOSTILE, not_run=None), engine("b", not_run=HOSTILE), model=HOSTILE, ranking=[HOSTILE] * 3)
    outline = Outline(page)
    assert "img" not in outline.tags
    assert outline.tags.count("script") == 1
    assert "\u202e" not in page
    assert HOSTILE.split("$")[0].strip() in outline.text


def test_where_nobody_ran_the_page_says_so():
    assert "0 inference engines" in document(engine("a", not_run="no such package"))


def test_a_busy_machine_and_random_weights_are_told():
    text = Outline(document(engine("a"), busy_share_at_start=0.5, model="bert-base, random weights")).text
    assert "The machine was busy" in text
    assert "Random weights hardly tell" in text
