"""Every format and every kind of label is trained on, from files that the test writes; formats give the same bits."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from bertwright import evaluate, load, open_run, train
from bertwright.data.tokenize import tokenize
from bertwright.errors import DataError

SMALL = {"model": "bert-tiny", "steps": 4, "batch_size": 8, "max_length": 16, "validation_share": 0.25, "quiet": True}
WORDS = ("good", "bad", "long", "dull", "bright", "slow", "brisk", "odd", "warm", "flat")
# Class by class, as a folder for each class has them.
LABELS = ["0"] * 24 + ["1"] * 24
TEXTS = [f'a {WORDS[i % 10]} film, "{WORDS[i % 7]}"\nand {i} more' for i in range(48)]


def write_delimited(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "label"])
        writer.writerows(zip(TEXTS, LABELS, strict=True))


def write_jsonl(path: Path) -> None:
    rows = [json.dumps({"text": text, "label": int(label)}) for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(rows) + "\n")


def table() -> pa.Table:
    return pa.table({"text": TEXTS, "label": [int(label) for label in LABELS]})


def write_arrow(path: Path, stream: bool = False) -> None:
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table().schema) as writer:
        writer.write_table(table(), max_chunksize=10)


def write_folder(path: Path) -> None:
    for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}_7.txt").write_text(text + "\n")


def compressed(path: Path) -> None:
    """The .csv.gz, .csv.xz or .csv.zst ``path``."""
    plain = path.with_suffix("")
    write_delimited(plain, ",")
    data = plain.read_bytes()
    how = {
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }
    path.write_bytes(how[path.suffix](data))


FORMATS = {
    "data.csv": lambda path: write_delimited(path, ","),
    "data.tsv": lambda path: write_delimited(path, "\t"),
    "data.jsonl": write_jsonl,
    "data.ndjson": write_jsonl,
    "data.parquet": lambda path: pq.write_table(table(), path, row_group_size=10),
    "data.arrow": write_arrow,
    "data.ipc": lambda path: write_arrow(path, stream=True),
    "data.feather": lambda path: pyarrow.feather.write_feather(table(), path),
    "data.npz": lambda path: np.savez_compressed(path, text=np.array(TEXTS), label=np.array(LABELS).astype(int)),
    "bytes.npz": lambda path: np.savez(path, x=np.array([t.encode() for t in TEXTS]), y=np.array(LABELS)),
    "data.csv.gz": compressed,
    "data.csv.xz": compressed,
    "data.csv.zst": compressed,
    "folder": write_folder,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, np.ndarray]:
    """The weights that the texts give when they are read from a .csv file."""
    folder = tmp_path_factory.mktemp("expected")
    write_delimited(folder / "data.csv", ",")
    run = train(folder / "data.csv", output=folder / "run", **SMALL)
    return load_file(run.model_folder / "model.safetensors")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_bits(name, expected):
    FORMATS[name](Path(name))
    run = train(name, output="run", **SMALL)
    found = load_file(run.model_folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)
    assert run.result["data"]["train_texts"] == 36


def test_lines_of_label_and_text_are_trained_on():
    lines = [f"{label} ||| {text}".replace("\n", " ") for text, label in zip(TEXTS, LABELS, strict=True)]
    Path("data.txt").write_text("\n".join(lines) + "\n")
    assert train("data.txt", output="run", **SMALL).result["labels"] == ["0", "1"]


# --- kinds of labels --------------------------------------------------------------------------------------------------


def write_rows(name: str, header: list[str], rows: list[list]) -> str:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return name


def finished(name: str, task: str, **settings) -> dict:
    """Train on ``name``, then judge the run on the same file, score a text, and return the run's result."""
    run = train(name, output="run", **SMALL, **settings)
    result = open_run("run").result
    assert result["task"] == task
    assert all(np.isfinite(value).all() for value in load_file(run.model_folder / "model.safetensors").values())
    kept = ("text_column", "label_column", "pair_column", "label_threshold", "group_columns")
    judged = evaluate("run", name, quiet=True, **{key: settings[key] for key in kept if key in settings})
    assert judged["task"] == task
    scored = pq.read_table("run/predictions.parquet")
    assert len(scored) == result["data"]["validation_texts"]
    return {**result, "columns": scored.column_names}


def test_three_classes():
    name = write_rows("c.csv", ["text", "label"], [[t, ("low", "middle", "high")[i % 3]] for i, t in enumerate(TEXTS)])
    result = finished(name, "single_label", class_weights=("balanced",))
    assert result["labels"] == ["high", "low", "middle"]
    assert result["metrics"]["validation"]["accuracy"] is not None


def test_several_columns_are_multi_label():
    rows = [[t, i % 2, i % 3 == 0, "1.0" if i % 5 == 0 else "0"] for i, t in enumerate(TEXTS)]
    name = write_rows("m.csv", ["text", "rude", "odd", "long"], rows)
    result = finished(name, "multi_label", label_column=("rude,odd,long",), class_weights=("balanced",))
    assert result["labels"] == ["rude", "odd", "long"]
    assert {"score_rude", "score_odd", "score_long"} <= set(result["columns"])
    scores = load("run").score(["a text"])
    assert scores.shape == (1, 3)


def test_shares_of_one_column_are_soft_labels():
    name = write_rows("s.csv", ["text", "toxicity"], [[t, (i % 11) / 10] for i, t in enumerate(TEXTS)])
    result = finished(name, "soft_label", label_threshold=0.5)
    assert result["labels"] == ["0", "1"]
    hard = train(name, output="hard", label_threshold=0.5, hard_labels=True, **SMALL)
    assert hard.result["task"] == "single_label"


def test_shares_of_several_columns_are_soft_labels():
    rows = [[t, (i % 5) / 10, 0.3, 0.7 - (i % 5) / 10] for i, t in enumerate(TEXTS)]
    name = write_rows("s.csv", ["text", "for", "neutral", "against"], rows)
    result = finished(name, "soft_label", label_kind="soft", label_column=("for,neutral,against",))
    assert result["labels"] == ["for", "neutral", "against"]


def test_regression_predicts_in_the_units_of_the_labels():
    rows = [[t, 1_000 + 10 * (i % 7)] for i, t in enumerate(TEXTS)]
    name = write_rows("r.csv", ["text", "price"], rows)
    settings = {"label_kind": "regression", "label_column": ("price",)}
    result = finished(name, "regression", **settings)
    assert 900 < float(load("run").score(["a text"])[0, 0]) < 1_200
    assert result["metrics"]["validation"]["root_mean_squared_error"] < 200


def test_pairs_of_texts():
    rows = [[t, f"the reply {i % 3}", i % 2] for i, t in enumerate(TEXTS)]
    name = write_rows("p.csv", ["text", "reply", "label"], rows)
    finished(name, "single_label", pair_column="reply")
    assert load("run").score([("a text", "its reply")]).shape == (1, 2)


def test_groups_stand_beside_the_scores():
    rows = [[t, i % 2, "new" if i % 4 else "", i / 10] for i, t in enumerate(TEXTS)]
    name = write_rows("g.csv", ["text", "label", "user", "age"], rows)
    result = finished(name, "single_label", group_columns=("user,age",))
    assert {"group_user", "group_age"} <= set(result["columns"])


@pytest.mark.parametrize("policy", ["head", "head+tail", "windows"])
def test_long_texts(policy):
    rows = [[" ".join([WORDS[i % 10]] * 60), i % 2] for i in range(48)]
    name = write_rows("l.csv", ["text", "label"], rows)
    result = finished(name, "single_label", long_texts=policy)
    assert result["labels"] == ["0", "1"]


# --- token folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "kind"),
    [(("rude", "odd"), "multi-label"), (("odd",), "regression"), (("share",), "soft"), (("rude",), "classes")],
)
def test_a_token_folder_gives_the_bits_of_its_file(columns, kind):
    rows = [[t, i % 2, i % 3 == 0, (i % 4) / 3] for i, t in enumerate(TEXTS)]
    rows = [[text, rude, int(odd), share] for text, rude, odd, share in rows]
    name = write_rows("f.csv", ["text", "rude", "odd", "share"], rows)
    tokenize(name, "tokens", model="bert-tiny", max_length=16, label_column=columns, quiet=True)
    for data, output in ((name, "from-file"), ("tokens", "from-tokens")):
        train(data, output=output, label_kind=kind, label_column=columns, **SMALL)
    one, two = (load_file(f"{folder}/model/model.safetensors") for folder in ("from-file", "from-tokens"))
    for tensor, values in one.items():
        np.testing.assert_array_equal(two[tensor], values, err_msg=tensor)


def test_labels_of_another_kind_than_the_training_are_refused():
    name = write_rows("r.csv", ["text", "label"], [[t, i % 2] for i, t in enumerate(TEXTS)])
    train(name, output="run", **SMALL)
    other = write_rows("o.csv", ["text", "label"], [[t, i / 7] for i, t in enumerate(TEXTS)])
    with pytest.raises(DataError, match="frac"):
        evaluate("run", other, quiet=True)
