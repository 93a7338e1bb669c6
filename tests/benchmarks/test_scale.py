"""What the measurement of scale is made of: repeated comments and the fitted line. No training here."""

from __future__ import annotations

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def scale():
    return load_script("scale")


@pytest.fixture(scope="module")
def bulk():
    return load_script("bulk")


def test_repeated_rows_differ_and_keep_labels(scale):
    rows = [("one", "0"), ("two words", "1"), ("and three\nwords", "0")]
    found = list(scale.repeated(rows, 20, seed=0))
    assert found[:3] == rows
    assert len({text for text, _ in found}) == 20
    assert [label for _, label in found] == [rows[number % 3][1] for number in range(20)]
    assert list(scale.repeated(rows, 10, seed=0)) == found[:10]


def test_smaller_file_is_start_of_larger_one(scale, tmp_path):
    rows = [("one", "0"), ("two words", "1"), ('a "quoted"\nline', "0")]
    paths = scale.write_files(rows, [4, 9], tmp_path, 0)
    assert [len(scale.read_rows(paths[size])) for size in (4, 9)] == [4, 9]
    assert scale.read_rows(paths[9])[:4] == scale.read_rows(paths[4])


def test_fit_finds_line_and_distances(scale):
    start, slope, off = scale.fit([10, 100, 1000], [2.1, 3.0, 12.0])
    assert (start, slope) == (pytest.approx(2.0), pytest.approx(0.01))
    assert off == pytest.approx([0, 0, 0], abs=1e-9)


def test_kills_come_after_different_shards(bulk):
    for seed in range(50):
        moments = bulk.kill_moments(5, seed)
        numbers = [number for number, _ in moments]
        assert numbers == sorted(set(numbers))
        assert 1 <= numbers[0] < numbers[-1] < 4
