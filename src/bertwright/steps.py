"""The trace of a training: what every step learnt from, and its loss. A table of a run's folder, steps.parquet.

By it two runs of one seed are laid side by side: with the same settings, texts, first weights and order they differ by
rounding alone, and the trace tells from which step on, and how much. Torch is never imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.errors import RunError
from bertwright.runs import written_beside

FILE = "steps.parquet"
_TYPES = {
    "step": pa.int32(),
    "loss": pa.float32(),
    "learning_rate": pa.float64(),
    "num_texts": pa.int32(),
    "num_tokens": pa.int32(),
    "rows_hash": pa.uint64(),
    "texts_hash": pa.uint64(),
}
_HASHES = ("initial_weights_sha256", "token_ids_sha256", "labels_sha256")
# More steps than any training may have (config.py).
_MOST_STEPS = 100_000_000


@dataclass(frozen=True)
class Trace:
    """What a training did, step by step; all arrays are (steps,).

    Attributes:
        losses: float32, the mean loss of the step's batch, before its update.
        learning_rates: float64, that of the step's update.
        num_texts, num_tokens: int32, of the batch.
        rows_hashes: uint64, of the batch's rows among the training texts, in order: which texts by their place.
        texts_hashes: uint64, of the token ids of the batch's texts, in order: which texts by what they say.
        hashes: ``initial_weights_sha256`` (float32, before the first step), ``token_ids_sha256`` and
            ``labels_sha256`` (of all training texts).
    """

    losses: np.ndarray
    learning_rates: np.ndarray
    num_texts: np.ndarray
    num_tokens: np.ndarray
    rows_hashes: np.ndarray
    texts_hashes: np.ndarray
    hashes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)


def write_trace(path: Path, trace: Trace) -> None:
    """Write ``trace`` beside ``path`` and rename it."""
    columns = (
        np.arange(1, len(trace) + 1),
        trace.losses,
        trace.learning_rates,
        trace.num_texts,
        trace.num_tokens,
        trace.rows_hashes,
        trace.texts_hashes,
    )
    schema = pa.schema(list(_TYPES.items()), metadata=trace.hashes)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _TYPES.values(), strict=True)]
    with written_beside(path) as partial:
        pq.write_table(pa.table(arrays, schema=schema), partial, compression="zstd")


def read_trace(path: Path) -> Trace:
    """The trace in the file ``path``.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; expected the trace of a training")
    try:
        file = pq.ParquetFile(path.absolute())  # pyarrow would take a "~" for the user's home
        found = {item.name: item.type for item in file.schema_arrow}
        if found != _TYPES or file.metadata.num_rows > _MOST_STEPS:
            raise RunError(f"{path}: found the columns {', '.join(found)}, expected {', '.join(_TYPES)}; it is damaged")
        table = file.read()
        columns = {name: table.column(name) for name in _TYPES}
        if any(column.null_count for column in columns.values()):
            raise RunError(f"{path}: holds empty places; the file is damaged")
        arrays = {name: column.to_numpy() for name, column in columns.items()}
        metadata = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[:1]
        raise RunError(f"{path}: cannot be read ({first[0] if first else error}); the file is damaged") from None
    if not np.array_equal(arrays["step"], np.arange(1, len(arrays["step"]) + 1)):
        raise RunError(f"{path}: its steps are not 1, 2, 3, ...; the file is damaged")
    if not (np.isfinite(arrays["loss"]).all() and np.isfinite(arrays["learning_rate"]).all()):
        raise RunError(f"{path}: a loss or learning rate is no number; the file is damaged")
    return Trace(
        arrays["loss"],
        arrays["learning_rate"],
        arrays["num_texts"],
        arrays["num_tokens"],
        arrays["rows_hash"],
        arrays["texts_hash"],
        {name: metadata[name] for name in _HASHES if name in metadata},
    )
