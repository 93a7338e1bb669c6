"""The file of a training's steps: written whole, read with care."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.errors import RunError
from bertwright.steps import FILE, Trace, read_trace, write_trace


def trace(n=5):
    return Trace(
        losses=np.linspace(0.7, 0.1, n, dtype=np.float32),
        learning_rates=np.linspace(1e-3, 1e-5, n),
        num_texts=np.full(n, 8, np.int32),
        num_tokens=np.arange(n, dtype=np.int32) + 100,
        rows_hashes=np.array([2**64 - 1 - i for i in range(n)], np.uint64),
        texts_hashes=np.arange(n, dtype=np.uint64),
        hashes={"initial_weights_sha256": "ab" * 32, "token_ids_sha256": "cd" * 32, "labels_sha256": "ef" * 32},
    )


def test_what_is_written_is_read(tmp_path):
    written = trace()
    write_trace(tmp_path / FILE, written)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    found = read_trace(tmp_path / FILE)
    assert len(found) == 5
    assert found.hashes == written.hashes
    for name in ("losses", "learning_rates", "num_texts", "num_tokens", "rows_hashes", "texts_hashes"):
        one, two = getattr(written, name), getattr(found, name)
        assert one.dtype == two.dtype, name
        np.testing.assert_array_equal(one, two, err_msg=name)
    table = pq.read_table(tmp_path / FILE)
    assert table.column_names[:5] == ["step", "loss", "learning_rate", "num_texts", "num_tokens"]
    assert table.column("step").to_pylist() == [1, 2, 3, 4, 5]
    assert [str(table.schema.field(name).type) for name in ("step", "loss", "learning_rate")] == [
        "int32",
        "float",
        "double",
    ]


def damaged(path, how):
    write_trace(path, trace())
    table = pq.read_table(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "text":
        path.write_text("step,loss\n1,0.5\n")
    elif how == "column":
        pq.write_table(table.drop_columns(["rows_hash"]), path)
    elif how == "type":
        pq.write_table(table.set_column(1, "loss", table.column("loss").cast(pa.float64())), path)
    elif how == "empty places":
        pq.write_table(table.set_column(1, "loss", pa.array([0.5, None, 0.5, 0.5, 0.5], pa.float32())), path)
    elif how == "order":
        pq.write_table(table.set_column(0, "step", pa.array([1, 2, 4, 3, 5], pa.int32())), path)
    elif how == "nan":
        pq.write_table(table.set_column(1, "loss", pa.array([float("nan")] * 5, pa.float32())), path)
    elif how == "metadata":
        pq.write_table(table.replace_schema_metadata({b"\xff": b"\xff"}), path)
    else:
        path.unlink()


@pytest.mark.parametrize(
    "how", ["cut", "text", "column", "type", "empty places", "order", "nan", "metadata", "missing"]
)
def test_a_damaged_trace_is_refused_in_one_line(tmp_path, how):
    damaged(tmp_path / FILE, how)
    with pytest.raises(RunError, match=r"damaged|no such file") as caught:
        read_trace(tmp_path / FILE)
    assert "\n" not in str(caught.value)
    assert FILE in str(caught.value)
