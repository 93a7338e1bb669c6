"""Lines of text: ``label ||| text`` in a .txt file, or one text a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from bertwright.data.file_bytes import cut, cut_texts, line_bounds
from bertwright.data.table import BadRow, Table

_SEPARATOR = " ||| "


def is_plain(data: bytes) -> bool:
    """Whether most lines lack the separator: then the lines are texts, and a separator in one is part of it."""
    starts, ends = line_bounds(data)
    (lines,) = cut(data, starts[:, None], ends[:, None])
    with_separator = pc.sum(pc.match_substring(lines, _SEPARATOR)).as_py() or 0
    blank = int((ends == starts).sum())
    return with_separator * 2 < len(starts) - blank


def read_plain(path: str, data: bytes) -> Table:
    """One text a line, in column "text".

    Blank lines are (bad) rows too, so that row and line agree, but for those at the end.
    """
    starts, ends = line_bounds(data)
    last = int(np.flatnonzero(ends > starts)[-1]) + 1
    lines = np.arange(last)
    return _table(path, data, {"text": (starts[:last], ends[:last])}, lines, lines, last)


def read_separated(path: str, data: bytes) -> Table:
    """``label ||| text`` lines, in columns "label" and "text"; blank lines are no rows."""
    starts, ends = line_bounds(data)
    full = np.flatnonzero(ends > starts)
    starts, ends = starts[full], ends[full]
    (lines,) = cut(data, starts[:, None], ends[:, None])
    at = np.asarray(pc.find_substring(lines, _SEPARATOR)).astype(np.int64)  # (rows,) in bytes, -1 where there is none
    has = at >= 0
    split = starts[has] + at[has]
    cells = {"label": (starts[has], split), "text": (split + len(_SEPARATOR), ends[has])}
    no_separator = [
        BadRow(path, line + 1, f'no "{_SEPARATOR}" between label and text, expected label ||| text')
        for line in full[~has].tolist()
    ]
    return _table(path, data, cells, full[has], np.flatnonzero(has), len(full), no_separator)


def _table(
    path: str,
    data: bytes,
    cells: dict[str, tuple[np.ndarray, np.ndarray]],
    lines: np.ndarray,
    row_numbers: np.ndarray,
    num_rows: int,
    bad_rows: Sequence[BadRow] = (),
) -> Table:
    """A table of one row a line, stripped, with the lines that are not UTF-8 among its bad rows.

    ``cells`` gives, of each column, (rows,) starts and (rows,) ends in ``data``; ``lines`` (rows,) counts from 0.
    """
    columns, kept, faults = cut_texts(
        data,
        np.stack([starts for starts, _ in cells.values()], axis=1),
        np.stack([ends for _, ends in cells.values()], axis=1),
    )
    not_utf8 = [BadRow(path, int(lines[row]) + 1, fault) for row, fault in faults.items()]
    return Table(
        path,
        "txt",
        {name: pc.utf8_trim_whitespace(column) for name, column in zip(cells, columns, strict=True)},
        False,
        row_numbers[kept],
        num_rows,
        lambda: lines[kept] + 1,
        sorted([*bad_rows, *not_utf8], key=lambda bad: bad.line),
    )
