"""Texts: the same in memory, in a temporary file and after any choice of rows; and nothing is left behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data import texts as texts_module
from bertwright.data.texts import Texts, TextsWriter
from bertwright.errors import DataError

STRINGS = ["", "one", "two words", "naïve café " * 30, " ", "last\nline", "語" * 5]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """A folder for temporary files, in which nothing may stay."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def written(strings, sizes=(2, 3)) -> Texts:
    """The strings through a writer, in arrays of these sizes by turns."""
    writer = TextsWriter()
    start = number = 0
    while start < len(strings):
        end = start + sizes[number % len(sizes)]
        writer.append(pa.chunked_array([pa.array(strings[start:end], pa.string())]))
        start, number = end, number + 1
    return writer.finish()


@pytest.fixture(params=["memory", "spooled", "small pieces"])
def texts(request, monkeypatch, temporary) -> Texts:
    if request.param != "memory":
        monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 30)
    if request.param == "small pieces":
        monkeypatch.setattr(texts_module, "_LEAST_WRITTEN_BYTES", 1)
    found = written(STRINGS)
    assert bool(found._files) == (request.param != "memory")
    assert list(temporary.iterdir()) == []
    return found


def test_all_ways_to_the_texts(texts):
    assert len(texts) == 7
    assert texts.to_pylist() == list(texts) == STRINGS
    assert texts[0] == ""
    assert texts[-1] == "語" * 5
    assert texts[np.int64(3)] == STRINGS[3]
    assert texts.to_arrow().to_pylist() == STRINGS
    assert texts.to_arrow().type == pa.large_string()
    assert pa.table({"text": texts}).column("text").to_pylist() == STRINGS
    assert pa.array(texts[:2]).to_pylist() == STRINGS[:2]
    for place in (7, -8):
        with pytest.raises(IndexError):
            texts[place]
    assert Texts.joined([texts, Texts.of(["x"])]).to_pylist() == [*STRINGS, "x"]
    assert Texts.joined([texts.take([3, 1]), texts[5:], texts.take([])]).to_pylist() == [
        STRINGS[3],
        STRINGS[1],
        *STRINGS[5:],
    ]


@pytest.mark.parametrize("max_bytes", [1, 7, 20, 1 << 20])
def test_chunks_are_all_texts_in_order_and_no_larger_than_asked(texts, max_bytes):
    order = np.array([6, 0, 3, 3, 1])
    for some, expected in (
        (texts, STRINGS),
        (texts.take(order), [STRINGS[i] for i in order]),
        (texts[2:6], STRINGS[2:6]),
    ):
        chunks = list(some.chunks(max_bytes))
        assert [text for chunk in chunks for text in chunk.to_pylist()] == expected
        for chunk in chunks:
            assert chunk.type == pa.large_string()
            assert len(chunk) == 1 or sum(len(text.encode()) for text in chunk.to_pylist()) <= max_bytes
    assert list(texts[3:3].chunks(max_bytes)) == []


@settings(max_examples=100)
@given(
    strings=st.lists(st.text(max_size=8), max_size=20),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    picks=st.lists(st.lists(st.integers(0, 1 << 20), max_size=30), max_size=3),
    cut=st.slices(20),
    most=st.sampled_from([1, 1 << 30]),
)
def test_any_choice_of_rows_is_that_of_a_list(strings, sizes, picks, cut, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts_module, "MOST_MEMORY_BYTES", most)
        patch.setattr(texts_module, "_BLOCK_ROWS", 4)
        found, expected = written(strings, sizes), list(strings)
        for picked in picks:
            rows = [pick % len(expected) for pick in picked] if expected else []
            found, expected = found.take(np.array(rows, np.int64)), [expected[row] for row in rows]
            assert found.to_pylist() == expected
        assert found[cut].to_pylist() == expected[cut]
        assert [found[row] for row in range(len(expected))] == expected


def test_rows_that_are_not_there_are_refused(texts):
    for rows in ([7], [-1], [0, 9]):
        with pytest.raises(IndexError):
            texts.take(rows)
        with pytest.raises(IndexError):
            texts[:0].take(rows)
    assert texts.take(pa.array([2, 2])).to_pylist() == [STRINGS[2]] * 2


def test_of_takes_lists_and_arrays():
    array = pa.array(STRINGS, pa.large_string())
    for given_texts in (STRINGS, array, array.cast(pa.string()), pa.chunked_array([array[:3], array[3:]])):
        assert Texts.of(given_texts).to_pylist() == STRINGS
    texts = Texts.of(array)
    assert Texts.of(texts) is texts
    assert texts.to_arrow().chunk(0).buffers()[2].address == array.buffers()[2].address


def test_going_through_a_file_of_texts_gives_its_memory_back(monkeypatch):
    monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(texts_module, "_LEAST_WRITTEN_BYTES", 1 << 24)
    texts = written([f"{number} " + "x" * 10_000 for number in range(8_000)], [500])
    resident = []
    for chunk in texts.chunks(4 << 20):
        np.frombuffer(chunk.buffers()[2], np.uint8)[::512].sum()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert len(resident) >= 19
    assert max(resident) - resident[0] < 30 << 20  # of 80 MB


def test_a_full_disk_is_one_line(monkeypatch, temporary):
    monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 10)
    monkeypatch.setattr(texts_module, "_LEAST_WRITTEN_BYTES", 1)
    before = len(os.listdir("/proc/self/fd"))

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError) as caught:
        written(STRINGS)
    monkeypatch.undo()
    assert str(caught.value).startswith(f"{temporary}: cannot hold the texts (no space left on device)")
    assert "\n" not in str(caught.value)
    del caught
    assert len(os.listdir("/proc/self/fd")) <= before


def test_no_folder_for_temporary_files_is_one_line(monkeypatch, temporary):
    monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 10)
    temporary.rmdir()
    with pytest.raises(DataError, match="cannot hold the texts"):
        written(STRINGS)
