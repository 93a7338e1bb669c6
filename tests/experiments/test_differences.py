"""Contenders, intervals, tests and verdicts of runs that were made, not trained."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.experiments.made_runs import make_run, scores_of, texts_of

from bertwright import runs as write_runs
from bertwright.config.distill import DistillConfig
from bertwright.errors import UserError
from bertwright.evaluation.judge import write_predictions
from bertwright.evaluation.significance import delong, delong_test, mcnemar
from bertwright.experiments.compare import compare
from bertwright.experiments.contenders import contenders_of
from bertwright.experiments.differences import pairs_of, probability, rounded, signed
from bertwright.runs import open_run
from bertwright.training.resume import HOW_KEPT


def make_many(folder, texts, settings, **same):
    """A run for each name, of the quality and seed in ``settings``."""
    return [
        make_run(folder / name, texts, scores_of(texts, quality, number), **{"seed": number, **more, **same})
        for number, (name, (quality, more)) in enumerate(settings.items())
    ]


KINDS = [("classes", 2), ("classes", 4), ("soft", 3), ("multi-label", 3), ("regression", 1)]
MAIN = {"classes": "accuracy", "soft": "accuracy", "multi-label": "roc_auc", "regression": "mean_squared_error"}


@pytest.mark.parametrize(("kind", "num_labels"), KINDS)
def test_a_much_better_run_is_told_in_every_kind_of_labels(tmp_path, kind, num_labels):
    texts = texts_of(kind, 300, num_labels)
    qualities = {"good": (1.0 if kind == "regression" else 1.5, {"x": 1}), "bad": (0.2, {"x": 2})}
    good, bad = make_many(tmp_path, texts, qualities)
    found = compare(good, bad)
    assert found.metric == ("roc_auc" if (kind, num_labels) == ("classes", 2) else MAIN[kind])
    (record,) = found.differences
    assert record["verdict"] == "better"
    assert record["low"] < record["difference"] < record["high"]
    assert record["p_adjusted"] == record["p"] < 0.001
    assert record["texts_needed"] is None
    assert record["sentence"].startswith(f"good is better than bad: {found.metric} ")
    (turned,) = compare(bad, good).differences
    assert turned["verdict"] == "worse"
    assert turned["difference"] == pytest.approx(-record["difference"])
    for own in found.records:
        assert set(own["intervals"]) == {
            name for name, value in own["metrics"].items() if name != "num_texts" and value
        }
        assert all(low < own["metrics"][name] < high for name, (low, high) in own["intervals"].items())
    assert json.loads(json.dumps(found.record(), allow_nan=False))["metric"] == found.metric


def test_the_tests_are_delongs_and_mcnemars(tmp_path):
    texts = texts_of("classes", 200)
    scores = [scores_of(texts, quality, seed) for seed, quality in enumerate((1.0, 1.2))]
    paths = [make_run(tmp_path / str(i), texts, s, x=i) for i, s in enumerate(scores)]
    auc, accuracy = compare(*paths, metrics=("roc_auc", "accuracy")).differences
    areas = delong(texts.label_ids == 1, np.stack([s[:, 1] for s in scores]))
    assert (auc["difference"], auc["p"]) == pytest.approx(delong_test(areas))
    right = [(s[:, 1] >= 0.5) == texts.label_ids for s in scores]
    assert accuracy["p"] == pytest.approx(mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())))
    assert [auc["test"], accuracy["test"]] == ["DeLong", "McNemar, mid-p"]
    lower, higher = sorted((auc, accuracy), key=lambda record: record["p"])
    assert lower["p_adjusted"] == pytest.approx(min(1, 2 * lower["p"]))
    assert higher["p_adjusted"] == pytest.approx(max(higher["p"], lower["p_adjusted"]))


def test_what_cannot_be_told_says_how_many_texts_would(tmp_path):
    texts = texts_of("classes", 200)
    paths = make_many(tmp_path, texts, {"one": (1.0, {"x": 1}), "two": (1.02, {"x": 2})})
    (record,) = compare(*paths).differences
    assert record["verdict"] == "cannot tell"
    assert record["texts_needed"] == record["more_texts"] + 200 > 200
    assert f"about {rounded(record['more_texts'])} more test texts would tell" in record["sentence"]
    same = make_run(tmp_path / "same", texts, scores_of(texts, 1.0, 0), x=3)
    (record,) = compare(paths[0], same).differences
    assert (record["difference"], record["p"], record["more_texts"]) == (0, 1, None)
    assert record["sentence"].startswith("Cannot tell one from same at 200 texts: both have roc_auc")


def test_the_order_of_predictions_does_not_matter(tmp_path):
    texts = texts_of("multi-label", 150, 3)
    first, second = (scores_of(texts, quality, seed) for seed, quality in enumerate((1.0, 1.3)))
    one = make_run(tmp_path / "one", texts, first, x=1)
    two = make_run(tmp_path / "two", texts, second, x=2)
    order = np.random.default_rng(5).permutation(150)
    shuffled = make_run(tmp_path / "shuffled", texts, second, order=order, x=2)
    plain, other = compare(one, two), compare(one, shuffled)
    assert not other.notes[1:]
    for key in ("difference", "low", "high", "p"):
        assert other.differences[0][key] == plain.differences[0][key]
    assert other.rankings[0]["spearman"] == plain.rankings[0]["spearman"]
    assert other.rankings[0]["highest"] == plain.rankings[0]["highest"]


def test_runs_that_differ_in_their_seed_alone_are_one_contender(tmp_path):
    texts = texts_of("classes", 200)
    settings = {f"small-{seed}": (1.0, {"model": "small"}) for seed in range(3)}
    settings |= {f"large-{seed}": (2.0, {"model": "large"}) for seed in range(3)}
    paths = make_many(tmp_path, texts, settings)
    found = compare(*paths)
    assert [(party["name"], len(party["runs"])) for party in found.contenders] == [("small", 3), ("large", 3)]
    small = found.contenders[0]
    assert small["seeds"] == [0, 1, 2]
    assert small["metrics"]["f1"] == pytest.approx(np.mean([record["metrics"]["f1"] for record in found.records[:3]]))
    assert [record["contender"] for record in found.records] == ["small"] * 3 + ["large"] * 3
    (record,) = found.differences
    assert record["verdict"] == "worse"
    assert record["seeds"] == [3, 3]
    assert "seeds" in record["test"]
    assert not any("another seed" in note for note in found.notes)
    one_each = compare(paths[0], paths[3])
    assert any("not what another seed would" in note for note in one_each.notes)


def test_how_a_run_is_kept_and_followed_makes_no_other_setting(tmp_path):
    texts = texts_of("classes", 60)
    settings = DistillConfig(teacher="t", train=("x",), model="m").model_dump(mode="json")
    assert set(settings) > HOW_KEPT
    paths = [make_run(tmp_path / "s-0", texts, scores_of(texts, 1.0, 0), seed=0)]
    for seed, name in enumerate(sorted(HOW_KEPT - {"output"}), start=1):
        paths.append(make_run(tmp_path / f"s-{seed}", texts, scores_of(texts, 1.0, seed), seed=seed, **{name: "other"}))
    assert [len(c.members) for c in contenders_of([open_run(path) for path in paths])] == [len(HOW_KEPT)]
    other = make_run(tmp_path / "other", texts, scores_of(texts, 1.0, 0), seed=99, dtype="float32")
    assert len(contenders_of([open_run(path) for path in (*paths, other)])) == 2


def test_the_same_seed_again_is_no_further_seed(tmp_path):
    texts = texts_of("classes", 60)
    paths = [make_run(tmp_path / name, texts, scores_of(texts, 1.0, 0), seed=0) for name in ("cheap", "dear")]
    assert [c.name for c in contenders_of([open_run(path) for path in paths])] == ["cheap", "dear"]


def test_seeds_that_differ_much_cannot_be_made_up_for_by_texts(tmp_path):
    texts = texts_of("classes", 400)
    qualities = {"a-0": 0.5, "a-1": 3.0, "a-2": 1.0, "b-0": 0.7, "b-1": 2.9, "b-2": 1.4}
    paths = make_many(tmp_path, texts, {name: (q, {"model": name[0]}) for name, q in qualities.items()})
    (record,) = compare(*paths).differences
    assert record["verdict"] == "cannot tell"
    assert record["seeds_hide_it"]
    assert "train more seeds" in record["sentence"]


def test_an_evaluation_counts_as_the_training_that_it_judged(tmp_path):
    texts = texts_of("classes", 60)
    trained = [make_run(tmp_path / f"t-{s}", texts, scores_of(texts, 1.0, s), seed=s) for s in (0, 1)]
    for seed, path in enumerate(trained):
        judged = tmp_path / f"judged-{seed}"
        writer = write_runs.RunWriter(judged, "evaluate", {"run": str(path), "data": ["x"], "output": str(judged)})
        writer.result(json.loads((path / "result.json").read_text()))
        (judged / "predictions.parquet").write_bytes((path / "predictions.parquet").read_bytes())
    other = make_run(tmp_path / "other", texts, scores_of(texts, 1.5, 4), model="n")
    found = compare(tmp_path / "judged-0", tmp_path / "judged-1", other)
    assert [(party["name"], party["seeds"], party["model"]) for party in found.contenders] == [
        ("judged", [0, 1], "m"),
        ("other", [0], "n"),
    ]


def test_which_pairs_are_tested(tmp_path):
    assert pairs_of(3, "all") == [(0, 1), (0, 2), (1, 2)]
    assert pairs_of(3, "neighbours") == [(0, 1), (1, 2)]
    assert pairs_of(3, "first") == [(0, 1), (0, 2)]
    texts = texts_of("classes", 80)
    paths = make_many(tmp_path, texts, {name: (1.0, {"x": name}) for name in "abc"})
    assert [(r["a"], r["b"]) for r in compare(*paths, pairs="neighbours").differences] == [("a", "b"), ("b", "c")]
    found = compare(*paths, metrics=("f1", "log_loss"), pairs="first", bootstrap_samples=200)
    assert [(r["metric"], r["b"]) for r in found.differences] == [(m, b) for m in ("f1", "log_loss") for b in "bc"]
    assert found.metric == "f1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ("acuracy",)}, "--metric acuracy: the runs have no such metric; expected one of accuracy, "),
        ({"metrics": ("r2",)}, "--metric r2: the runs have no such metric"),
        ({"alpha": 0.0}, "--alpha 0.0: expected a number above 0"),
        ({"pairs": "some"}, "--pairs some: expected one of all, neighbours, first"),
        ({"bootstrap_samples": 5}, "--bootstrap-samples 5: expected a number from 100"),
        ({"top": -1}, "--top -1: expected a number from 0"),
    ],
)
def test_an_argument_that_is_none_is_refused(tmp_path, arguments, message):
    texts = texts_of("classes", 40)
    paths = make_many(tmp_path, texts, {"a": (1.0, {"x": 1}), "b": (1.0, {"x": 2})})
    with pytest.raises(UserError, match=message):
        compare(*paths, **arguments)


def test_predictions_that_are_not_those_of_the_record_give_no_intervals(tmp_path):
    texts = texts_of("classes", 100)
    one, two = make_many(tmp_path, texts, {"one": (1.0, {"x": 1}), "two": (1.5, {"x": 2})})
    result = json.loads((two / "result.json").read_text())
    result["metrics"]["test"]["roc_auc"] += 0.01
    (two / "result.json").write_text(json.dumps(result))
    found = compare(one, two)
    assert "roc_auc" not in found.records[0]["intervals"]
    assert "accuracy" in found.records[0]["intervals"]
    assert found.differences[0]["p"] is None
    assert any("on record" in note for note in found.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["score_label 1"]),
        lambda table: table.drop_columns(["predicted"]),
        lambda table: table.set_column(3, "predicted", pa.array(["?"] * len(table))),
        lambda table: table.set_column(4, "score_label 0", pa.array([float("nan")] * len(table))),
        lambda table: table.set_column(4, "score_label 0", pa.array(["a"] * len(table))),
    ],
)
def test_predictions_that_cannot_be_used_are_said_and_left_out(tmp_path, change):
    texts = texts_of("classes", 50)
    paths = make_many(tmp_path, texts, {"one": (1.0, {"x": 1}), "two": (1.5, {"x": 2})})
    table = pq.read_table(paths[1] / "predictions.parquet")
    assert table.column_names[3:5] == ["predicted", "score_label 0"]
    write_predictions(paths[1] / "predictions.parquet", iter([change(table)]))
    found = compare(*paths)
    assert "cannot be used" in found.notes[0]
    assert found.records[0]["intervals"]
    assert not found.records[1]["intervals"]


def test_numbers_are_shown_with_as_many_digits_as_they_bear():
    assert [signed(x) for x in (0.01234, -0.00001, 0.0, None)] == ["+0.0123", "-1.0e-05", "+0.0000", "-"]
    assert [rounded(x) for x in (7, 94, 1234, 98765)] == ["7", "94", "1,200", "99,000"]
    assert [probability(p) for p in (0.00001, 0.01234, 0.5)] == ["p < 0.0001", "p = 0.0123", "p = 0.50"]


def test_what_is_not_adjusted_says_so_and_no_verdict_contradicts_its_interval(tmp_path):
    texts = texts_of("classes", 200)
    paths = make_many(tmp_path, texts, {name: (1.0 + 0.1 * i, {"x": name}) for i, name in enumerate("abcdef")})
    several = compare(*paths).differences
    apart = 0
    for record in several:
        assert "95 % interval, unadjusted, " in record["sentence"]
        assert "unadjusted; p" in record["sentence"]
        assert "after Holm over 15 tests" in record["sentence"]
        without_zero = record["low"] > 0 or record["high"] < 0
        if without_zero and record["verdict"] == "cannot tell":
            apart += 1
            assert "it is of this pair alone" in record["sentence"]
        else:
            assert "pair alone" not in record["sentence"]
    assert apart
    (one,) = compare(*paths[:2]).differences
    assert "unadjusted" not in one["sentence"]


def test_a_test_that_is_left_out_says_why(tmp_path):
    texts = texts_of("classes", 60)
    texts.label_ids[:] = 0
    texts.label_ids[3] = 1
    paths = make_many(tmp_path, texts, {name: (1.0, {"x": name}) for name in "ab"})
    found = compare(*paths)
    (record,) = found.differences
    assert (record["metric"], record["p"], record["low"]) == ("roc_auc", None, None)
    assert record["sentence"].startswith("Cannot tell a from b")
    assert '"label 1" has 1 positive text; at least 3 texts of each kind are needed' in record["sentence"]
    assert "roc_auc" not in found.records[0]["intervals"]
    assert any(note.startswith("No intervals and tests of roc_auc") for note in found.notes)
