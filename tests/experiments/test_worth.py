"""What more effort bought, the Pareto front, and how the order of the texts moved: hand-worked."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from rich.console import Console
from tests.experiments.made_runs import make_run, scores_of, texts_of

from bertwright.experiments.compare import compare
from bertwright.experiments.comparison_csv import _cell
from bertwright.experiments.pareto import pareto_of
from bertwright.experiments.show_comparison import show_comparison, tables_of
from bertwright.progress import Reporter


def contender(name, quality, latency, memory, usd, train_s=1.0):
    return {
        "name": name,
        "metrics": {"f1": quality, "log_loss": 1 - quality},
        "infer_s_per_text": latency,
        "peak_process_bytes": memory,
        "peak_gpu_bytes": None,
        "usd": usd,
        "train_s": train_s,
    }


def test_the_front_holds_what_no_other_beats_in_all():
    records = [
        contender("best", 0.9, 3, 3, 3),
        contender("cheap", 0.7, 1, 1, 1),
        contender("beaten", 0.7, 1, 2, 1),
        contender("twin", 0.7, 1, 1, 1),
    ]
    for metric in ("f1", "log_loss"):
        found = {entry["name"]: entry for entry in pareto_of(records, metric)}
        assert [entry["on_front"] for entry in found.values()] == [True, True, False, True]
        assert found["beaten"]["dominated_by"] == ["cheap", "twin"]
        assert found["best"]["compared_on"] == ["quality", "infer_s_per_text", "memory_bytes", "usd"]


def test_seconds_stand_in_for_a_cost_that_is_not_known():
    records = [contender("one", 0.7, None, 1, None, 5.0), contender("two", 0.7, 1, 1, 2, 4.0)]
    one, two = pareto_of(records, "f1")
    assert one["compared_on"] == ["quality", "memory_bytes", "train_s"]
    assert (one["dominated_by"], two["on_front"]) == (["two"], True)


def test_what_another_epoch_bought(tmp_path):
    texts = texts_of("classes", 400)
    facts = {1: (1.0, 60.0, 0.5), 2: (3.0, 180.0, 1.5), 3: (3.01, 300.0, 2.5)}
    paths = [
        make_run(
            tmp_path / f"e{n}", texts, scores_of(texts, q, 0), epochs=float(n), train_s=s, usd=usd, infer_texts_per_s=9
        )
        for n, (q, s, usd) in facts.items()
    ]
    found = compare(*reversed(paths))
    second, third = found.worth
    assert [(w["a"], w["b"], w["what"]) for w in found.worth] == [("e1", "e2", "epochs"), ("e2", "e3", "epochs")]
    assert second["verdict"] == "better"
    assert (second["extra_minutes"], second["extra_usd"]) == (2.0, 1.0)
    values = {record["run"][-2:]: record["metrics"]["roc_auc"] for record in found.records}
    assert second["gain"] == pytest.approx(values["e2"] - values["e1"])
    assert second["gain_per_minute"] == pytest.approx(second["gain"] / 2)
    assert second["gain_per_usd"] == pytest.approx(second["gain"])
    assert second["low"] < second["gain"] < second["high"]
    assert "(epochs 2 after 1)" in second["sentence"]
    assert "+2.00 min of training and +1.0000 USD" in second["sentence"]
    assert third["verdict"] == "cannot tell"
    assert third["sentence"].endswith("That it is better cannot be told.")


def test_a_step_that_is_not_among_the_tests_says_that_it_is_not_adjusted(tmp_path):
    texts = texts_of("classes", 300)
    paths = [make_run(tmp_path / f"e{n}", texts, scores_of(texts, 0.6 * n, n), epochs=float(n)) for n in (1, 2, 3)]
    for step in compare(*paths).worth:
        assert "interval, unadjusted, " in step["sentence"]
        assert "after Holm over 3 tests" in step["sentence"]
    tested, alone = compare(*paths, pairs="first").worth
    assert tested["p_adjusted"] is not None
    assert alone["p_adjusted"] is None
    assert alone["verdict"] == ("better" if alone["p"] <= 0.05 else "cannot tell")
    assert "unadjusted: this pair is not among those tested above" in alone["sentence"]


def test_what_a_larger_model_bought_and_what_else_differs(tmp_path):
    texts = texts_of("regression", 300)
    sizes = {"tiny": (0.2, 10), "small": (1.0, 40)}
    paths = [
        make_run(
            tmp_path / n, texts, scores_of(texts, q, 0), weights=w, model=n, learning_rate=w / 1000, train_s=1.0 * w
        )
        for n, (q, w) in sizes.items()
    ]
    (step,) = compare(*paths).worth
    assert (step["a"], step["b"], step["what"], step["also"]) == ("tiny", "small", "model", ["learning_rate"])
    assert step["metric"] == "mean_squared_error"
    assert step["gain"] > 0
    assert step["low"] > 0
    assert step["extra_usd"] is None
    assert "(model small after tiny; learning_rate differ too)" in step["sentence"]
    other = make_run(tmp_path / "other", texts, scores_of(texts, 1.0, 0), weights=80, model="x", max_length=5)
    assert len(compare(*paths, other).worth) == 1  # it differs in more than its size


def test_how_the_order_of_the_texts_moved(tmp_path):
    """Five texts; the second run turns the first two round and leaves the others."""
    texts = texts_of("classes", 5)
    scores = np.array([0.9, 0.8, 0.5, 0.3, 0.1])
    turned = np.array([0.8, 0.9, 0.5, 0.3, 0.1])
    paths = [
        make_run(tmp_path / name, texts, np.stack([1 - s, s], axis=1), x=name)
        for name, s in (("one", scores), ("two", turned))
    ]
    (found,) = compare(*paths, top=1).rankings
    assert found["score"] == 'probability of "label 1"'
    assert found["spearman"] == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)
    assert found["kendall"] == pytest.approx(0.8)  # one of ten pairs turned
    assert (found["k"], found["shared_highest"], found["shared_lowest"]) == (1, 0, 1)
    (entry,) = found["highest"]
    assert (entry["a"]["text"], entry["a"]["score"], entry["a"]["rank_in_other"]) == ("text 0", 0.9, 2)
    assert (entry["b"]["text"], entry["b"]["row"], entry["b"]["rank_in_other"]) == ("text 1", 1, 2)
    assert found["lowest"][0]["a"] == found["lowest"][0]["b"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    texts = texts_of("classes", 120)
    names = ("=1+1|x", "[red]b\x1b[0m", "c")
    paths = [
        make_run(folder / name, texts, scores_of(texts, 1.0 + i, i), model=name, train_s=9.0 * i, usd=0.1, seed=0)
        for i, name in enumerate(names)
    ]
    more = [make_run(folder / f"c{i}", texts, scores_of(texts, 3.0, 9 + i), model="c", seed=i) for i in (1, 2)]
    return compare(*paths, *more)


def shown(compared, form, width=None):
    reporter = Reporter()
    reporter.results = Console(file=io.StringIO(), width=width or 200)
    show_comparison(compared, reporter, form)
    return reporter.results.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_comparison_fits_the_terminal_whole(compared, width):
    text = shown(compared, "table", width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    for words in ("Quality, test texts", "Means over seeds", "Differences of roc_auc", "In words", "Pareto front"):
        assert words in text
    assert "\x1b" not in text
    assert "[red]b" in text


def test_markdown_is_never_folded(compared):
    markdown = shown(compared, "markdown")
    assert markdown.count("| :--- ") >= len(tables_of(compared, None))
    assert "=1+1\\|x" in markdown
    assert markdown == shown(compared, "markdown", 40)


def test_csv_has_one_value_a_cell_and_each_table_one_width(compared):
    text = shown(compared, "csv", 40)
    tables = {}
    for part in text.split("\n\n"):
        headings, *rows = csv.reader(io.StringIO(part))
        assert headings[0] == "table"
        assert all(len(row) == len(headings) for row in rows)
        assert len({row[0] for row in rows}) == 1
        tables[rows[0][0]] = [dict(zip(headings, row, strict=True)) for row in rows]
    assert list(tables) == ["runs", "contenders", "differences", "rankings", "texts", "pareto", "notes"]
    for row, record in zip(tables["runs"], compared.records, strict=True):
        assert float(row["roc_auc"]) == record["metrics"]["roc_auc"]
        assert (float(row["roc_auc_low"]), float(row["roc_auc_high"])) == record["intervals"]["roc_auc"]
        assert row["peak_gpu_bytes"] == ""
    assert tables["runs"][0]["model"] == "'=1+1|x"
    difference = tables["differences"][0]
    assert float(difference["difference"]) == compared.differences[0]["difference"] < 0  # without an apostrophe
    assert float(difference["p_adjusted"]) == compared.differences[0]["p_adjusted"]
    assert all(
        cell not in ("'", "-") and "*" not in cell for rows in tables.values() for row in rows for cell in row.values()
    )


def test_a_cell_that_a_spreadsheet_would_run_is_guarded():
    assert [_cell(x) for x in ("=1", "+1", "-1", "@x", "", None, -0.5, 3, True, "a\nb", "1/3")] == [
        *("'=1", "'+1", "'-1", "'@x", "", "", "-0.5", "3", "true", "a b", "1/3")
    ]


def test_the_texts_of_every_pair_of_three_are_side_by_side(compared, tmp_path):
    def pairs(found):
        return [table.columns[1:] for table in tables_of(found, None) if table.title.startswith("Highest")]

    assert len(compared.contenders) == 3
    assert pairs(compared) == [[r["a"], r["b"]] for r in compared.rankings]
    assert len(pairs(compared)) == 3
    texts = texts_of("classes", 60)
    four = compare(*[make_run(tmp_path / n, texts, scores_of(texts, 1.0, i), x=n) for i, n in enumerate("abcd")])
    assert len(pairs(four)) == 1


def test_a_star_marks_the_best_whichever_way_that_is(compared):
    table = tables_of(compared, None)[0]
    place = table.columns.index("log\nloss")
    cells = [row[place].split("\n")[0].strip() for row in table.rows]
    losses = [record["metrics"]["log_loss"] for record in compared.records]
    assert [cell.endswith("*") for cell in cells] == [loss == min(losses) for loss in losses]
