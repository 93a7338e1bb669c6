"""bertwright inspect: duplicates within and between files, labels that are probably wrong, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.evaluation.test_bias import stored_run

import bertwright
from bertwright.config.parts import DataSettings
from bertwright.data.columns import read_labelled
from bertwright.errors import DataError, RunError, UserError
from bertwright.experiments.cross_validate import fold_of

SPAM = "you have won a prize, call this number now to get your money and your car"


@pytest.fixture
def files(tmp_path):
    """Three near-duplicates among the data, one of them with another label, of which one is in the test texts too."""
    (tmp_path / "a.csv").write_text(
        f'text,label\n"{SPAM}",spam\na quiet day at the sea,fine\n"{SPAM} today",spam\n"{SPAM.upper()}",fine\n'
    )
    (tmp_path / "b.csv").write_text(f'text,label\n"{SPAM} friend",spam\nsome other thing of all,fine\n')
    return tmp_path


def test_duplicates_within_and_between_files(files, capsys):
    record = bertwright.inspect(files / "a.csv", test=files / "b.csv")
    assert record["texts"] == {"data": 4, "test": 2}
    found = record["duplicates"]
    assert found["num_groups"] == 1
    assert found["texts_in_groups"] == 4
    assert found["same_texts"] == 2
    assert found["within"] == {"data": 3, "test": 0}
    assert found["shared"] == {"data": 3, "test": 1}
    assert found["groups_with_different_labels"] == 1
    (group,) = found["groups"]
    assert group["labels"] == ["fine", "spam"]
    assert group["least_similarity"] >= 0.8
    assert [(entry["source"], entry["row"]) for entry in group["texts"]] == [
        ("data", 0),
        ("data", 2),
        ("data", 3),
        ("test", 0),
    ]
    assert record["label_errors"] is None
    said = capsys.readouterr()
    assert "1   test texts have a near-duplicate among the other texts" in said.out
    assert "YOU HAVE WON" in said.out


def test_texts_without_labels_and_pairs_are_compared_too(tmp_path):
    (tmp_path / "a.txt").write_text(f"{SPAM}\n{SPAM}\nanother line\n")
    found = bertwright.inspect(tmp_path / "a.txt", quiet=True)["duplicates"]
    assert (found["same_texts"], found["shared"], found["groups_with_different_labels"]) == (2, None, 0)
    rows = [{"text": SPAM, "other": "yes it is so"}, {"text": SPAM, "other": "never in all of my long life, no no no"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bertwright.inspect(tmp_path / "pairs.jsonl", pair_column="other", similarity=0.95, quiet=True)
    assert found["duplicates"]["num_groups"] == 0


def test_a_folder_of_token_ids_is_read(files):
    bertwright.tokenize(files / "a.csv", output=files / "ids", quiet=True)
    found = bertwright.inspect(files / "ids", quiet=True)["duplicates"]
    assert found["texts_in_groups"] == 3


# 20 texts of each class, with scores that tell them apart but for one text
LABELS = ["clean"] * 20 + ["toxic"] * 20
OF_TOXIC = np.concatenate([np.linspace(0.05, 0.2, 19), [0.99], np.linspace(0.8, 0.95, 20)])


@pytest.fixture
def run(tmp_path):
    texts = [f"a comment about thing {number * 7919}" for number in range(40)]
    columns = {
        "row": np.arange(40),
        "text_sha256": [str(number) for number in range(40)],
        "label": LABELS,
        "score_clean": 1 - OF_TOXIC,
        "score_toxic": OF_TOXIC,
        "group_g": None,
        "text": texts,
    }
    return stored_run(tmp_path / "run", **columns)


def test_label_errors_of_a_runs_held_out_texts(run, capsys, tmp_path):
    record = bertwright.inspect(run=str(run), output=str(tmp_path / "found.jsonl"))
    errors = record["label_errors"]
    assert errors["texts"] == 40
    assert errors["pairs"] == {"clean → toxic": 1}
    (error,) = errors["examples"]
    assert (error["row"], error["label"], error["suggested"]) == (19, "clean", "toxic")
    assert error["score_of_suggested"] == pytest.approx(0.99)
    assert "labels that are probably wrong: 1 of 40 texts" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("label error") == 1
    assert next(line for line in lines if line["kind"] == "label error")["row"] == 19
    bertwright.inspect(run=str(run), output=str(tmp_path / "found.json"), num_shown=0, quiet=True)
    whole = json.loads((tmp_path / "found.json").read_text())
    assert whole["label_errors"]["examples"] == []
    assert len(whole["findings"]) == len(lines)


def test_of_several_labels_each_is_asked_for_on_its_own(run):
    import pyarrow.parquet as pq

    result = json.loads((run / "result.json").read_text())
    result |= {"task": "multi_label", "labels": ["rude", "loud"]}
    (run / "result.json").write_text(json.dumps(result))
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    truth = np.array([label == "toxic" for label in LABELS], float)
    columns = {"row": table["row"], "text_sha256": table["text_sha256"], "text": table["text"]}
    columns |= {"label_rude": truth, "label_loud": 1 - truth, "score_rude": OF_TOXIC, "score_loud": 1 - OF_TOXIC}
    import pyarrow as pa

    pq.write_table(pa.table(columns), run / "predictions.parquet")
    errors = bertwright.inspect(run=str(run), quiet=True)["label_errors"]
    assert errors["pairs"] == {"not rude → rude": 1, "loud → not loud": 1}


def test_without_texts_labels_are_still_judged(tmp_path, capsys):
    columns = {"label": ["clean", "toxic"] * 4, "text": None, "group_g": None}
    record = bertwright.inspect(run=str(stored_run(tmp_path / "run", **columns)))
    assert record["duplicates"]["num_groups"] == 0
    assert record["label_errors"] is not None
    assert "near-duplicates are not looked for" in capsys.readouterr().err


def test_what_cannot_be_inspected_is_refused(files, run):
    with pytest.raises(UserError, match="nothing to inspect"):
        bertwright.inspect()
    with pytest.raises(UserError, match="--test is compared with files"):
        bertwright.inspect(run=str(run), test=files / "b.csv")
    with pytest.raises(DataError, match="no such file"):
        bertwright.inspect(files / "none.csv")
    with pytest.raises(UserError, match=r"expected a name that ends in \.jsonl or \.json"):
        bertwright.inspect(files / "a.csv", output="found.csv")
    (files / "there.jsonl").write_text("")
    with pytest.raises(RunError, match="exists; pass another --output"):
        bertwright.inspect(files / "a.csv", output=str(files / "there.jsonl"))
    with pytest.raises(RunError, match="there is no folder"):
        bertwright.inspect(files / "a.csv", output=str(files / "nowhere" / "f.jsonl"))
    (run / "result.json").unlink()
    with pytest.raises(RunError, match=r"has no result\.json"):
        bertwright.inspect(run=str(run))


# --- cross-validation ------------------------------------------------------------------------------------------------


def write_comments(path, kind):
    generator = np.random.default_rng(0)
    rows = []
    for number in range(60):
        bad = number % 2 == 1
        text = f"{'awful nasty vile' if bad else 'fine lovely great'} thing {generator.integers(10**6)}"
        turned = bad if number not in (10, 11) else not bad
        labels = {"label": "1" if turned else "0"} if kind == "classes" else {"bad": int(turned), "text 2": 0}
        if kind == "multi-label":
            labels["text 2"] = number % 3 == 0
        rows.append({"text": text, **labels})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", ["classes", pytest.param("multi-label", marks=pytest.mark.slow)])
def test_turned_labels_are_found_by_cross_validation(tmp_path, kind):
    write_comments(tmp_path / "a.jsonl", kind)
    given = {"label_column": ("bad", "text 2")} if kind == "multi-label" else {}
    record = bertwright.inspect(
        tmp_path / "a.jsonl", folds=2, epochs=4, max_length=16, similarity=1.0, num_shown=50, quiet=True, **given
    )
    errors = record["label_errors"]
    assert errors["texts"] == 60
    wrong = {error["row"] for error in errors["examples"] if error["suggested"] not in ("text 2", "not text 2")}
    assert wrong & {10, 11}
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_folds_have_their_share_of_each_class_and_need_enough_of_them(tmp_path):
    write_comments(tmp_path / "a.jsonl", "classes")
    texts = read_labelled(tmp_path / "a.jsonl", DataSettings())
    folds = fold_of(texts, 4, 0)
    counts = np.array([np.bincount(texts.label_ids[folds == number]) for number in range(4)])
    assert counts.sum() == 60
    assert counts.max() - counts.min() <= 1
    assert (fold_of(texts, 4, 0) == folds).all()
    assert (fold_of(texts, 4, 1) != folds).any()
    with pytest.raises(DataError, match="--folds 31: found 30 texts of class '0'"):
        fold_of(texts, 31, 0)
    with pytest.raises(UserError, match="--folds trains on files"):
        bertwright.inspect(run="somewhere", folds=3)
