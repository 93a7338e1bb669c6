"""The real data sets are read and learnt from as they are, and formats of one data set give the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from bertwright import train

SMALL = {"model": "bert-tiny", "steps": 10, "batch_size": 16, "max_length": 32, "quiet": True, "seed": 3}


@pytest.mark.parametrize(
    ("files", "test", "texts", "labels", "settings"),
    [
        (["sst5/sst-train.txt"], "sst5/sst-test.txt", 8_544, 5, {}),
        (["cfimdb/cfimdb-train.txt"], "cfimdb/cfimdb-dev.txt", 1_707, 2, {}),
        (["sst2/train.tsv"], "sst2/test.tsv", 67_349, 2, {}),
        (["imdb/train.parquet"], "imdb/test.parquet", 25_000, 2, {"label_column": "label"}),
        (
            ["toxic_comments/train_1.csv", "toxic_comments/train_2.csv"],
            "toxic_comments/test_balanced.csv",
            20_000,
            2,
            {},
        ),
        (
            ["toxic_comments/multilabel_3000.csv"],
            None,
            2_400,
            6,
            {"label_column": "toxic,severe_toxic,obscene,threat,insult,identity_hate"},
        ),
        (["imdb/test.parquet"], None, 20_000, 1, {"label_column": "rating", "label_kind": "regression"}),
    ],
    ids=["sst5", "cfimdb", "sst2", "imdb", "toxic_comments", "multilabel_3000", "imdb ratings"],
)
def test_real_data_is_learnt_from(real_data, files, test, texts, labels, settings):
    held_out = {} if test is None else {"test": str(real_data / test)}
    run = train([str(real_data / name) for name in files], output="run", **held_out, **settings, **SMALL)
    assert run.result["data"]["train_texts"] == texts
    assert run.result["data"]["bad_rows"] == 0
    assert len(run.result["labels"]) == labels
    split = "validation" if test is None else "test"
    assert run.metrics[split]["num_texts"] == len(pq.read_table("run/predictions.parquet"))


def test_imdb_from_npz_parquet_csv_and_a_folder_per_class_gives_the_same_bits(real_data):
    table = pq.read_table(real_data / "imdb/train.parquet", columns=["text", "label"]).sort_by("label")
    table = table.take(pa.array(np.arange(0, len(table), 20)))
    texts, labels = table["text"].to_pylist(), table["label"].to_numpy()
    np.savez("imdb.npz", text=np.array(texts), label=labels)
    pq.write_table(table, "imdb.parquet")
    pyarrow.csv.write_csv(table, "imdb.csv")
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        path = Path("imdb") / str(label) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    weights = []
    for name in ("imdb.npz", "imdb.parquet", "imdb.csv", "imdb"):
        run = train(name, output=f"run-{name}", **SMALL)
        assert run.result["data"]["train_texts"] == 1_000
        weights.append(load_file(run.model_folder / "model.safetensors"))
    for other in weights[1:]:
        for name, values in weights[0].items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
