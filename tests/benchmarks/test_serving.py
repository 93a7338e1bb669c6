"""The measurement of servers: what is called recovered, and what its lines name."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from tests.scripts import load_script

import bertwright


@pytest.fixture(scope="module")
def serving():
    return load_script("peers/serving")


def recovered(serving, monkeypatch, answers):
    """With answers (status, seconds that it took), of a load that ended when the clock said 100."""
    clock = [100.0]
    left = list(answers)

    def ask():
        status, took = left.pop(0)
        clock[0] += took
        return status

    def sleep(seconds):
        clock[0] += seconds

    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    return serving.recovered(ask, 100.0)


def test_recovered_is_the_first_good_answer_within_a_second(serving, monkeypatch):
    seconds, asked = recovered(serving, monkeypatch, [(429, 0.01), (200, 3.0), (0, 0.5), (200, 0.4), (200, 0.1)])
    assert seconds == pytest.approx(0.01 + 3.0 + 0.5 + 0.4 + 3 * serving.PAUSE_S)
    assert [one["status"] for one in asked] == [429, 200, 0, 200]
    assert [one["took_s"] for one in asked] == [0.01, 3.0, 0.5, 0.4]
    assert asked[0]["sent_s"] == 0


def test_a_server_that_does_not_recover_is_not_waited_for_without_end(serving, monkeypatch):
    seconds, asked = recovered(serving, monkeypatch, [(200, 50.0)] * 9)
    assert seconds is None
    assert len(asked) == 3


def test_lines_name_the_versions_of_what_computes(serving):
    found = serving.versions_of("bertwright", sys.executable)
    assert found["bertwright"] == bertwright.__version__
    assert found["torch"].startswith("2.")
    assert "litserve" not in found
