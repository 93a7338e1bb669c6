"""The AUCs of groups: hand-worked, against scikit-learn on the subsets, with groups that have no answer."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import bertwright
from bertwright.errors import RunError, UserError
from bertwright.evaluation.bias import bias_of, power_mean, roc_auc
from bertwright.evaluation.identity_terms import IDENTITY_TERMS
from bertwright.evaluation.subgroups import groups_of_columns, groups_of_terms, read_terms

# A classifier that scores whatever speaks of group g high:  text  group  positive  score
#   0 no no 0.1   1 no no 0.3   2 no yes 0.6   3 no yes 0.8   4 g no 0.7   5 g no 0.65   6 g yes 0.9   7 g yes 0.68
POSITIVE = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
MEMBERS = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
SCORES = np.array([0.1, 0.3, 0.6, 0.8, 0.7, 0.65, 0.9, 0.68])


def test_hand_worked():
    record = bias_of(POSITIVE, SCORES, {"g": MEMBERS}, "toxic")
    (group,) = record["groups"]
    assert (group["texts"], group["positive_texts"]) == (4, 2)
    # within g: (0.7, 0.9) (0.65, 0.9) (0.65, 0.68) are in order, (0.7, 0.68) is not
    assert group["subgroup_auc"] == pytest.approx(3 / 4)
    # negatives of g 0.7, 0.65 against positives of the others 0.6, 0.8: 0.8 is above both, 0.6 above none
    assert group["bpsn_auc"] == pytest.approx(2 / 4)
    # negatives of the others 0.1, 0.3 against positives of g 0.9, 0.68
    assert group["bnsp_auc"] == 1.0
    # all: negatives 0.1 0.3 0.7 0.65; positives 0.6 (2 below), 0.8 (4), 0.9 (4), 0.68 (3)
    assert record["overall_auc"] == pytest.approx(13 / 16)
    assert record["final"] == pytest.approx(0.25 * (13 / 16 + 3 / 4 + 2 / 4 + 1))
    json.dumps(record, allow_nan=False)


def test_the_generalised_mean_by_hand():
    assert power_mean([0.5, 1.0]) == pytest.approx(((32 + 1) / 2) ** (-1 / 5))
    assert power_mean([0.9]) == pytest.approx(0.9)
    assert power_mean([0.0, 1.0]) == 0
    assert power_mean([]) is None
    with pytest.raises(ValueError, match="below 0"):
        power_mean([1.0], 2)


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.0, 0.2, 0.5, 0.5001, 0.9, 1.0])),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100)
def test_as_scikit_learn_on_the_subsets(texts):
    positive, members, scores = (np.array(column) for column in zip(*texts, strict=True))
    (group,) = bias_of(positive, scores, {"g": members}, "x", least_texts=0)["groups"]
    subsets = {
        "subgroup_auc": members,
        "bpsn_auc": members & ~positive | ~members & positive,
        "bnsp_auc": ~members & ~positive | members & positive,
    }
    for name, chosen in subsets.items():
        truth = positive[chosen]
        if truth.any() and not truth.all():
            assert group[name] == pytest.approx(roc_auc_score(truth, scores[chosen]))
        else:
            assert group[name] is None


def test_groups_without_an_answer_are_said_and_count_for_nothing():
    nobody, only_positive = np.zeros(8, bool), np.arange(8) == 2
    groups = {"empty": nobody, "one": only_positive, "g": MEMBERS}
    record = bias_of(POSITIVE, SCORES, groups, "x", least_texts=0)
    assert [group["group"] for group in record["groups"]] == ["g", "one", "empty"]
    empty = record["groups"][2]
    assert [empty[name] for name in ("texts", "subgroup_auc", "bpsn_auc", "bnsp_auc")] == [0, None, None, None]
    assert "empty: no text is of this group" in record["notes"]
    assert any(note.startswith("one: all 1 texts are positive") for note in record["notes"])
    assert record["subgroup_auc"] == pytest.approx(3 / 4)
    few = bias_of(POSITIVE, SCORES, groups, "x", least_texts=2)
    assert [group["group"] for group in few["groups"]] == ["g"]
    assert few["notes"][1:] == ["groups of fewer than 2 texts, not judged: empty (0), one (1)"]
    assert few["notes"][0].startswith("g: no interval of subgroup_auc, ")
    assert few["groups"][0]["subgroup_auc_interval"] is None
    nothing = bias_of(POSITIVE, SCORES, {}, "x")
    assert nothing["final"] is None


def test_the_worst_group_comes_first():
    groups = {"fine": ~MEMBERS, "bad": MEMBERS}
    record = bias_of(POSITIVE, SCORES, groups, "x")
    assert [group["group"] for group in record["groups"]] == ["bad", "fine"]


def test_auc_of_large_groups_is_exact():
    negative, positive = np.zeros(70_000), np.append(np.ones(69_999), 0)
    assert roc_auc(negative, positive) == pytest.approx((69_999 + 0.5) / 70_000)
    assert roc_auc(negative, positive[:0]) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must be"):
        bias_of(POSITIVE, SCORES[:3], {}, "x")
    with pytest.raises(ValueError, match="group g"):
        bias_of(POSITIVE, SCORES, {"g": MEMBERS[:3]}, "x")
    with pytest.raises(ValueError, match="finite"):
        bias_of(POSITIVE, SCORES * np.nan, {}, "x")


# --- groups ----------------------------------------------------------------------------------------------------------


def column(values, kind=None):
    return pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)])


@pytest.mark.parametrize(
    "values",
    [
        column([0.5, 0.49, None, 1.0], pa.float64()),
        column([1, 0, None, 3], pa.int64()),
        column([True, False, None, True]),
        column(["0.5", "0.4", "", "1"]),
        column(["True", "no", None, "YES "]),
        column(["1", "0", "nan", "2.5"]),
    ],
)
def test_numbers_and_truths_are_one_group(values):
    (members,) = groups_of_columns({"muslim": values}).values()
    assert members.tolist() == [True, False, False, True]


def test_words_are_a_group_each():
    found = groups_of_columns({"kind": column(["b", "a", None, "b"])})
    assert {name: members.tolist() for name, members in found.items()} == {
        "kind=a": [False, True, False, False],
        "kind=b": [True, False, False, True],
    }
    with pytest.raises(UserError, match="found 101 different groups"):
        groups_of_columns({"id": column([f"id {number}" for number in range(101)])})


def test_terms_are_whole_words_in_any_case():
    terms = {"muslim": ("muslim",), "aged": ("middle aged",), "american": ("american",), "both": ("african american",)}
    texts = ["A Muslim's house", "Muslims", "MIDDLE-AGED men", "middle of aged", "African\nAmerican", "mid", ""]
    found = {name: np.flatnonzero(members).tolist() for name, members in groups_of_terms(texts, terms).items()}
    assert found == {"muslim": [0], "aged": [2], "american": [4], "both": [4]}


def test_built_in_terms_are_found():
    found = groups_of_terms(["Two women met a Jew.", "old"])
    assert [name for name, members in found.items() if members[0]] == ["woman", "jew"]
    assert len(IDENTITY_TERMS) > 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no group"),
        ('a = "muslim"', "expected a list of words"),
        ("a = []", "expected a list of words"),
        ('a = ["!"]', "expected a list of words"),
        ("a = [1]", "expected a list of words"),
        ("a = ", "cannot be read as TOML"),
        ("\udcff", "cannot be read as TOML"),
    ],
)
def test_term_lists_that_are_none_are_refused(tmp_path, content, message):
    path = tmp_path / "terms.toml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_terms(path)
    with pytest.raises(UserError, match="no such file"):
        read_terms(tmp_path / "none.toml")


# --- the act ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run's folder as its readers know it, with the hand-worked scores."""
    return stored_run(tmp_path / "run")


def stored_run(path, **columns):
    path.mkdir()
    (path / "config.json").write_text('{"act": "train", "settings": {}}')
    empty = {name: {} for name in ("data", "rates", "metrics")}
    result = {
        **empty,
        "task": "single_label",
        "labels": ["clean", "toxic"],
        "seconds": dict.fromkeys(("read", "tokenize", "train", "infer", "total"), 1.0),
        "memory": {"peak_process_bytes": 1, "peak_gpu_bytes": None},
        "cost": {"usd_per_hour": None, "usd": None},
        "extremes": {"highest": [], "lowest": []},
    }
    (path / "result.json").write_text(json.dumps(result))
    table = {
        "row": np.arange(8),
        "text_sha256": [str(number) for number in range(8)],
        "label": ["toxic" if one else "clean" for one in POSITIVE],
        "score_clean": 1 - SCORES,
        "score_toxic": SCORES,
        "group_g": MEMBERS.astype(float),
        "text": [f"text {number} of {'gay' if member else 'some'} people" for number, member in enumerate(MEMBERS)],
        **columns,
    }
    table = pa.table({name: values for name, values in table.items() if values is not None})
    pq.write_table(table, path / "predictions.parquet")
    return path


def test_a_runs_own_scores_are_judged(run, capsys, tmp_path):
    by_column = bertwright.bias(run, min_group_texts=1)
    assert by_column["groups"][0]["bpsn_auc"] == pytest.approx(0.5)
    shown = capsys.readouterr().out
    assert "Bias of 'toxic'" in shown
    assert "0.7500" in shown
    (tmp_path / "terms.toml").write_text('gay = ["gay"]')
    by_terms = bertwright.bias(run, group_terms=str(tmp_path / "terms.toml"), min_group_texts=1, quiet=True)
    assert {**by_terms["groups"][0], "group": ""} == {**by_column["groups"][0], "group": ""}
    other = bertwright.bias(run, label="clean", min_group_texts=1, quiet=True)
    assert other["overall_auc"] == pytest.approx(by_column["overall_auc"])  # scores and truth both turned round


def test_built_in_terms_are_taken_where_there_are_no_columns(tmp_path, capsys):
    path = stored_run(tmp_path / "other", group_g=None)
    record = bertwright.bias(path, min_group_texts=1)
    assert [group["group"] for group in record["groups"]] == ["gay"]
    assert "groups: texts that hold a term of the built-in list" in capsys.readouterr().err


def test_stored_scores_are_judged_and_inspected_without_torch(run):
    code = (
        "import sys; sys.modules['torch'] = None; import bertwright; "
        f"bertwright.bias({str(run)!r}, min_group_texts=1); bertwright.inspect(run={str(run)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_cannot_be_judged_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="--label: found rude, expected one of clean, toxic"):
        bertwright.bias(run, label="rude")
    with pytest.raises(UserError, match="found no column h; those kept are g"):
        bertwright.bias(run, group_columns="h")
    with pytest.raises(UserError, match="exclude each other"):
        bertwright.bias(run, group_columns="g", group_terms="t.toml")
    with pytest.raises(UserError, match="the run kept none"):
        bertwright.bias(stored_run(tmp_path / "no-texts", group_g=None, text=None))
    nothing = [f"text {number}" for number in range(8)]
    with pytest.raises(UserError, match="no text holds a term"):
        bertwright.bias(stored_run(tmp_path / "no-terms", group_g=None, text=nothing))
    (run / "predictions.parquet").write_bytes(b"PAR1 something else")
    with pytest.raises(RunError, match="the file is damaged"):
        bertwright.bias(run)
    (run / "predictions.parquet").unlink()
    with pytest.raises(RunError, match="no such file"):
        bertwright.bias(run)
