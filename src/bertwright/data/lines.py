"""Lines of text: ``label ||| text`` in a .txt file, or one text a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from bertwright.data.file_bytes import cut, cut_texts, line_bounds
from bertwright.data.table import BadRow, Table
from bertwright.data.text_stream import TextStream

_SEPARATOR = " ||| "
_EXPECTED = "expected label ||| text"
_MOST_BLANK = 1 << 20
"""So many blank lines are one part of a table, if a text follows them."""


def read_lines_of_text(stream: TextStream, plain_text: bool) -> Iterator[Table]:
    """The parts of a .txt file: ``label ||| text`` lines or, where asked for and most lines say so, one text a line.

    The first part decides.
    """
    data = stream.peek()
    assert data is not None
    return read_plain(stream) if plain_text and is_plain(data, stream.line_end) else read_separated(stream)


def is_plain(data: bytes, line_end: bytes) -> bool:
    """Whether most lines lack the separator: then the lines are texts, and a separator in one is part of it."""
    starts, ends = line_bounds(data, line_end)
    (lines,) = cut(data, starts[:, None], ends[:, None])
    with_separator = pc.sum(pc.match_substring(lines, _SEPARATOR)).as_py() or 0
    blank = int((ends == starts).sum())
    return with_separator * 2 < len(starts) - blank


def read_plain(stream: TextStream) -> Iterator[Table]:
    """One text a line, in column "text".

    Blank lines are (bad) rows too, so that row and line agree, but for those at the end: they wait for another text.
    """
    rows = waiting = 0
    while not stream.done:
        data = stream.peek()
        assert data is not None
        starts, ends = line_bounds(data, stream.line_end)
        full = np.flatnonzero(ends > starts)
        last = int(full[-1]) + 1 if len(full) else 0
        if last:
            while waiting:
                num = min(waiting, _MOST_BLANK)
                nothing, lines = np.zeros(num, np.int64), np.arange(num)
                yield _table(stream, data, {"text": (nothing, nothing)}, lines - waiting, lines + rows, num)
                rows += num
                waiting -= num
            lines = np.arange(last)
            yield _table(stream, data, {"text": (starts[:last], ends[:last])}, lines, lines + rows, last)
            rows += last
        waiting += len(starts) - last
        stream.take(data)


def read_separated(stream: TextStream) -> Iterator[Table]:
    """``label ||| text`` lines, in columns "label" and "text"; blank lines are no rows."""
    rows = 0
    while not stream.done:
        data = stream.peek()
        assert data is not None
        starts, ends = line_bounds(data, stream.line_end)
        full = np.flatnonzero(ends > starts)
        starts, ends = starts[full], ends[full]
        (lines,) = cut(data, starts[:, None], ends[:, None])
        at = np.asarray(pc.find_substring(lines, _SEPARATOR)).astype(np.int64)  # (rows,) in bytes, -1: there is none
        has = at >= 0
        split = starts[has] + at[has]
        cells = {"label": (starts[has], split), "text": (split + len(_SEPARATOR), ends[has])}
        no_separator = [
            BadRow(stream.path, line + stream.lines + 1, f'no "{_SEPARATOR}" between label and text, {_EXPECTED}')
            for line in full[~has].tolist()
        ]
        if len(full):
            yield _table(stream, data, cells, full[has], np.flatnonzero(has) + rows, len(full), no_separator)
            rows += len(full)
        stream.take(data)


def _table(
    stream: TextStream,
    data: bytes,
    cells: dict[str, tuple[np.ndarray, np.ndarray]],
    lines: np.ndarray,
    row_numbers: np.ndarray,
    num_rows: int,
    bad_rows: Sequence[BadRow] = (),
) -> Table:
    """A part of one row a line, stripped, with the lines that are not UTF-8 among its bad rows.

    ``cells`` gives, of each column, (rows,) starts and (rows,) ends in ``data``; ``lines`` (rows,) counts from 0
    in ``data``, what the stream gives next.
    """
    columns, kept, faults = cut_texts(
        data,
        np.stack([starts for starts, _ in cells.values()], axis=1),
        np.stack([ends for _, ends in cells.values()], axis=1),
    )
    numbers = lines + stream.lines + 1
    not_utf8 = [BadRow(stream.path, int(numbers[row]), fault) for row, fault in faults.items()]
    return Table(
        stream.path,
        "txt",
        {name: pc.utf8_trim_whitespace(column) for name, column in zip(cells, columns, strict=True)},
        False,
        row_numbers[kept],
        num_rows,
        lambda: numbers[kept],
        sorted([*bad_rows, *not_utf8], key=lambda bad: bad.line),
    )
