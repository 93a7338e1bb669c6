import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bertwright.evaluation.extremes import extremes_record, find_extremes, one_line, show_extremes


def render(renderable, width=80, **options):
    out = io.StringIO()
    Console(file=out, width=width, **options).print(renderable)
    return out.getvalue()


def indices(scores, k):
    highest, lowest = find_extremes(np.array(scores), k)
    return highest.tolist(), lowest.tolist()


def test_highest_descend_and_lowest_ascend():
    assert indices([0.3, 0.9, 0.1, 0.5, 0.7], 2) == ([1, 4], [2, 0])


def test_ties_are_in_the_order_of_the_texts():
    assert indices([0.5, 0.5, 0.5, 0.5], 3) == ([0, 1, 2], [0, 1, 2])
    assert indices([0.1, 0.9, 0.9, 0.1], 1) == ([1], [0])
    assert indices([0.0, -0.0], 2) == ([0, 1], [0, 1])


def test_few_texts_overlap_but_are_not_repeated():
    assert indices([0.2, 0.1], 5) == ([0, 1], [1, 0])
    assert indices([0.2], 1) == ([0], [0])
    assert indices([], 5) == ([], [])
    assert indices([0.2, 0.1], 0) == ([], [])


@given(st.lists(st.integers(-3, 3), max_size=30), st.integers(0, 40))
def test_equals_sorting_in_python(scores, k):
    order = range(len(scores))
    assert indices(scores, k) == (
        sorted(order, key=lambda index: (-scores[index], index))[:k],
        sorted(order, key=lambda index: (scores[index], index))[:k],
    )


def test_unsigned_scores_do_not_wrap_around():
    assert indices(np.array([0, 3, 1], dtype=np.uint8), 1) == ([1], [0])


@pytest.mark.parametrize(("scores", "k"), [([[0.1]], 1), ([0.1], -1), ([math.nan], 1), ([math.inf, 0.0], 1)])
def test_refuses_what_cannot_be_ranked(scores, k):
    with pytest.raises(ValueError):
        find_extremes(np.array(scores), k)


def test_record_holds_plain_values_and_rows_of_the_file():
    scores = np.array([0.25, 0.75, 0.5], dtype=np.float32)
    record = extremes_record(["a", "b\n\x1b[31m", "c"], scores, np.array([10, 20, 30]), ["clean", "toxic", "clean"], 1)
    assert record == {
        "highest": [{"row": 20, "score": 0.75, "text": "b\n\x1b[31m", "label": "toxic"}],
        "lowest": [{"row": 10, "score": 0.25, "text": "a", "label": "clean"}],
    }
    assert json.loads(json.dumps(record)) == record


def test_record_asks_only_for_the_chosen_texts():
    asked = []

    def text_at(index):
        asked.append(index)
        return f"text {index}"

    record = extremes_record(text_at, np.arange(100.0), range(100), None, 2)
    assert [entry["text"] for entry in record["highest"]] == ["text 99", "text 98"]
    assert [entry["label"] for entry in record["lowest"]] == [None, None]
    assert asked == [99, 98, 0, 1]
    assert all(type(index) is int for index in asked)


def test_record_cuts_long_texts():
    (entry,) = extremes_record(["x" * 11], np.array([1.0]), [0], None, 1, max_characters=10)["highest"]
    assert entry["text"] == "x" * 9 + "…"
    (entry,) = extremes_record(["x" * 10], np.array([1.0]), [0], None, 1, max_characters=10)["highest"]
    assert entry["text"] == "x" * 10


def test_record_refuses_lengths_that_differ():
    with pytest.raises(ValueError, match="as many"):
        extremes_record(["a"], np.array([1.0]), [0, 1], None, 1)
    with pytest.raises(ValueError, match="as many"):
        extremes_record(["a"], np.array([1.0]), [0], [], 1)
    with pytest.raises(ValueError, match="at least 1"):
        extremes_record(["a"], np.array([1.0]), [0], None, 1, max_characters=0)


def test_one_line():
    assert one_line("  a\n\tb\r\n\u2028c\x85d \x00 e ") == "a b c d e"
    assert one_line("\x1b[31mred\x1b]0;title\x07\x9b2Jx\x7f") == "[31mred]0;title2Jx"
    assert one_line("\u202eabc\u2069") == "abc"  # would turn the rest of the line around
    assert one_line("\ud800") == "\ufffd"
    assert one_line("👩‍👩‍👧 é 漢字") == "👩‍👩‍👧 é 漢字"


@given(st.text(st.characters(), max_size=60))  # surrogates too
def test_one_line_is_always_safe(text):
    line = one_line(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line
    line.encode()


def nasty_record():
    texts = [
        "[red]not markup[/red] [/]",
        "two\nlines \x1b[2J\x1b]0;title\x07 \u202e",
        ":smile: [link=x]y[/link]",
        "漢字" * 60,
    ]
    return extremes_record(texts, np.array([0.1, 0.2, 0.3, 0.98765]), range(4), ["[b]", "b\x1b[1m", "c", "d"], 4)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_shown_texts_are_neither_markup_nor_control_codes(width):
    shown = render(show_extremes(nasty_record(), 'probability of "[bold]x"'), width)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "[red]not m" in shown
    assert ":smile:" in shown
    assert "[b]" in shown
    assert 'Highest probability of "[bold]x"' in shown
    assert "two lines [2J" in shown
    assert all(cell_len(line) <= width for line in shown.splitlines())


def test_terminal_gets_no_codes_but_richs_own():
    shown = render(show_extremes(nasty_record(), "score"), 120, force_terminal=True, color_system=None)
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "\x1b[31m" not in shown


def test_one_line_a_text_with_four_decimals_and_an_ellipsis():
    lines = render(show_extremes(nasty_record(), "score"), 60).splitlines()
    (line,) = [line for line in lines if "0.9877" in line][:1]
    assert "漢字" in line
    assert line.rstrip().endswith("…")
    assert len([line for line in lines if "0." in line]) == 8  # four highest, four lowest


def test_titles_no_labels_and_empty_lists():
    record = extremes_record(["a", "b"], np.array([0.1, 0.2]), [0, 1], None, 1)
    shown = render(show_extremes(record, "score of [x]"))
    assert "Highest score of [x]" in shown
    assert "Lowest score of [x]" in shown
    assert "label" not in shown
    assert render(show_extremes({"highest": [], "lowest": []}, "score")).strip() == ""


def test_a_text_without_words_still_has_its_line():
    record = extremes_record(["\n", ""], np.array([0.1, 0.2]), [0, 1], ["", "x"], 2)
    shown = render(show_extremes(record, "score"))
    assert shown.count("0.1000") == 2
