"""Messages are one line that a terminal only shows, whatever stands in the names and values that they tell of."""

from __future__ import annotations

import pytest

from bertwright.config.parts import DataSettings
from bertwright.data.columns import read_labelled
from bertwright.errors import DataError, UserError, in_a_line


def test_a_message_is_one_line_without_control_characters():
    assert str(UserError("a.csv: found é, “b” and 你")) == "a.csv: found é, “b” and 你"
    assert str(UserError("a\r\nb\x1b[2J\u2028\u202ec\ud800\0")) == r"a\r\nb\x1b[2J\u2028\u202ec\ud800\x00"
    assert in_a_line("e\u0301 👩\u200d🚀 \u00a0") == "e\u0301 👩\u200d🚀 \u00a0"  # joined and combined characters stay


def test_a_long_message_keeps_its_beginning_and_its_end():
    found = str(DataError("a.csv: found " + "x" * 1_000_000 + ", expected a label. Name it"))
    assert found.startswith("a.csv: found xxx")
    assert " [...] " in found
    assert found.endswith(", expected a label. Name it")
    assert len(found) < 2_000


def test_the_name_of_a_file_cannot_break_a_message(tmp_path):
    for name in ("neg", "pos\r\x1b[2J"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "\n1.txt").write_text("")
    with pytest.raises(DataError) as caught:
        read_labelled(str(tmp_path), DataSettings())
    assert str(caught.value).isprintable()
