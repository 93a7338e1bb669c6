"""What pages say, of every kind of run, of comparisons and of sweeps."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.reporting.made_runs import HOSTILE, comparison_record, make_run, sweep_record

from bertwright.experiments.sweep_record import Sweep, Trial
from bertwright.reporting.comparison_page import comparison_page
from bertwright.reporting.material import read_material
from bertwright.reporting.page import html
from bertwright.reporting.run_page import run_page
from bertwright.reporting.sweep_page import sweep_page
from bertwright.runs import open_run

KINDS = (
    "two classes", "many classes", "multi-label", "soft", "regression", "hostile", "old", "without texts",
    "without predictions",
)  # fmt: skip
_VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "rect", "line", "circle"}


class Outline(HTMLParser):
    """Elements, ids, and the words outside of style and script."""

    def __init__(self, document):
        super().__init__()
        self.ids, self.tags, self.open, self.words, self.attributes = [], [], [], [], []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_has_a_sound_page(made, kind):
    document = html(run_page(read_material(made[kind])))
    outline = Outline(document)
    assert not outline.open
    assert len(set(outline.ids)) == len(outline.ids)
    assert 20_000 < len(document) < 600_000
    assert outline.tags.count("script") == 1
    assert outline.tags.count("h1") == 1
    assert not [tag for tag in ("img", "iframe", "object", "embed", "form", "base") if tag in outline.tags]
    targets = [value for _, name, value in outline.attributes if name in ("href", "src", "action", "xlink:href")]
    assert all(target.startswith(("#", "data:,")) for target in targets)
    assert {target[1:] for target in targets if target.startswith("#")} <= set(outline.ids)
    assert not [value for _, name, value in outline.attributes if name == "style" or name.startswith("on")]
    for words in ("In short", "How to do it again", "bertwright train"):
        assert words in outline.text
    assert "nan" not in re.findall(r"[a-z]+", outline.text.lower())
    assert "None" not in outline.text


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("two classes", {"roc", "precision-recall", "confusion", "reliability", "histogram", "length", "loss",
                         "validation", "learning-rate", "phases", "memory"}),
        ("many classes", {"roc", "confusion", "reliability", "histogram"}),
        ("multi-label", {"roc", "precision-recall", "reliability", "histogram", "length"}),
        ("soft", {"roc", "confusion", "reliability", "histogram"}),
        ("regression", {"truth", "histogram", "length", "validation"}),
        ("without predictions", {"confusion", "loss", "memory"}),
        ("old", {"roc", "loss", "phases"}),
    ],
)  # fmt: skip
def test_each_kind_has_its_pictures(made, kind, names):
    page = run_page(read_material(made[kind]))
    found = {plot.name for plot in page.plots()}
    assert names <= found
    assert ("memory" in found) == (kind != "old")
    assert ("roc" in found) == (kind not in ("regression", "without predictions"))


def test_the_figures_are_the_runs_own(made):
    run = made["two classes"]
    metrics = run.metrics["test"]
    page = run_page(read_material(run))
    text = Outline(html(page)).text
    for name in ("accuracy", "roc_auc", "f1", "log_loss"):
        assert f"{metrics[name]:.4f}" in text
    (_, false_toxic), (_, true_toxic) = metrics["confusion"]
    called = false_toxic + true_toxic
    assert f"Of {called:,} that it calls “toxic”, {true_toxic:,} are" in page.summary[1]
    assert f"{100 * metrics['accuracy']:.1f}" in page.summary[0]
    reliability = next(plot for plot in page.plots() if plot.name == "reliability")
    assert "Before, the two differ by 11.0" in reliability.description
    assert "After, the two differ by 2.0" in reliability.description
    groups = next(table for table in page.tables() if table.name == "bias")
    assert groups.headings[:4] == ("group", "subgroup AUC", "95 % interval", "BPSN AUC")
    assert groups.rows[0][0].shown == "<b>them</b>"  # the worst first
    worst = next(table for table in page.tables() if table.name == "mistakes")
    probabilities = [float(row[2].value) for row in worst.rows]
    assert probabilities == sorted(probabilities, reverse=True)


def test_hostile_texts_and_labels_are_shown_and_nothing_more(made):
    document = html(run_page(read_material(made["hostile"])))
    outline = Outline(document)
    assert "\x00" not in document
    assert "\u202e" not in document
    assert "\ufffe" not in document
    for words in ("<script>document.title", "␀", "⟨U+202E⟩", "{{ 7 * 7 }}", "שלום", "<b>fine</b>", "⟨U+FFFE⟩"):
        assert words in outline.text
    assert outline.tags.count("b") == 0
    pictures = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    assert any("$x$" in picture for picture in pictures)  # not taken for mathematics


def test_damaged_files_are_named_and_the_rest_is_shown(made, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(made["two classes"].path, path)
    (path / "predictions.parquet").write_bytes(b"PAR1")
    (path / "steps.parquet").write_bytes(b"")
    (path / "memory.parquet").write_bytes(b"PAR1PAR1")
    result = json.loads((path / "result.json").read_text())
    result["judgement"] = {
        "calibration": {"test": {"before": {"bins": [3, {"low": "x"}]}}},
        "bias": [1],
        "threshold": 7,
    }
    result["extremes"] = {"highest": [1, {"text": 5, "row": "x"}], "lowest": None}
    result["metrics"]["test"]["per_class"] = {"clean": 3}
    result["metrics"]["test"]["confusion"] = [["x"]]
    result["best_step"] = "forty"
    (path / "result.json").write_text(json.dumps(result))
    page = run_page(read_material(open_run(path)))
    assert sum("damaged" in caution for caution in page.cautions) == 3
    assert Outline(html(page)).tags.count("figure") >= 2


def test_a_run_that_goes_on_shows_what_is_known(made, tmp_path):
    path = tmp_path / "unfinished"
    shutil.copytree(made["two classes"].path, path)
    for name in ("result.json", "predictions.parquet"):
        (path / name).unlink()
    page = run_page(read_material(open_run(path)))
    assert "has not finished" in page.summary[0]
    assert {"loss", "validation"} <= {plot.name for plot in page.plots()}
    assert "has not finished" in Outline(html(page)).text


def test_what_makes_figures_too_good_is_said(tmp_path):
    run = make_run(tmp_path / "few", num=50)
    path = run.path / "result.json"
    result = json.loads(path.read_text())
    result["data"] |= {"shared_texts": 3, "truncated_share": 0.4, "bad_rows": 1}
    result["metrics"]["train"] = result["metrics"]["test"] | {"accuracy": 1.0}
    path.write_text(json.dumps(result))
    cautions = " ".join(run_page(read_material(open_run(run.path))).cautions)
    for words in (
        "3 held-out texts also stand",
        "50 texts are few",
        "40.0",
        "1 row could not be used and was",
        "by heart",
    ):
        assert words in cautions


def test_a_page_is_the_same_each_time(made):
    first, second = (html(run_page(read_material(made["soft"]))) for _ in range(2))
    assert first == second


def test_a_comparison(made, tmp_path):
    runs = [make_run(tmp_path / f"run-{i}", seed=i) for i in range(3)]
    record = comparison_record(runs)
    page = comparison_page(record, [read_material(run) for run in runs])
    best = max(record["contenders"], key=lambda item: item["metrics"]["accuracy"])
    assert page.summary[0].startswith(f"{best['name']} has the highest accuracy")
    assert {"intervals", "roc-of-all", "pareto-usd", "validation-of-all"} <= {plot.name for plot in page.plots()}
    tables = {table.name: table for table in page.tables()}
    assert {"contenders", "differences", "worth", "pareto", "rankings", "resources"} <= set(tables)
    marked = [row[0].shown for row in tables["contenders"].rows if row[3].best]
    assert marked == [best["name"]]
    outline = Outline(html(page))
    assert not outline.open
    assert HOSTILE[0] in outline.text
    assert "cannot tell" in outline.text
    assert len(set(outline.ids)) == len(outline.ids)


def test_a_comparison_of_records_alone(made):
    record = comparison_record([made["two classes"], made["old"]])
    for name in ("contenders", "differences", "rankings", "worth", "pareto", "notes"):
        record[name] = []
    record["metric"] = None
    page = comparison_page(record, [read_material(made[name]) for name in ("two classes", "old")])
    assert "has the highest ROC AUC" in page.summary[0]
    assert not Outline(html(page)).open


def test_few_texts_of_a_class_leave_no_word_on_the_page_of_a_run(made, tmp_path):
    pages = [run_page(read_material(make_run(tmp_path / str(num), num=num))) for num in (4, 24, 300)]
    none, narrow, many = (" ".join(page.cautions) for page in pages)
    assert 'No intervals and tests of roc_auc and average_precision: "toxic" has 1 negative text;' in none
    assert "Intervals of macro_f1 are too narrow" in none
    assert '"toxic" has 9 negative texts: with fewer than 20 of a kind an interval of ROC AUC' in narrow
    others = [" ".join(run_page(read_material(made[kind])).cautions) for kind in ("soft", "regression")]
    assert not any("of a kind" in cautions for cautions in (many, *others))


def test_a_sweep(tmp_path):
    record = sweep_record(tmp_path)
    page = sweep_page(record)
    finished = [trial for trial in record["trials"] if trial["state"] == "finished"]
    best = max(finished, key=lambda trial: trial["value"])
    assert f"Trial {best['number']} is the best of {len(finished)}" in page.summary[0]
    assert {"search", "pareto", "importance"} <= {plot.name for plot in page.plots()}
    assert "What mattered most is learning rate" in page.summary[2]
    trials = next(table for table in page.tables() if table.name == "trial-list")
    assert len(trials.rows) == len(record["trials"])
    assert trials.rows[0][2].best
    outline = Outline(html(page))
    assert not outline.open
    assert "<b>out of memory</b>" in outline.text
    assert "toxic <script>" in outline.text


@pytest.mark.parametrize(
    ("test", "said"), [({"accuracy": 0.75}, "Its test figure is the one"), ({}, "There is no test figure")]
)
def test_the_best_of_a_sweep_is_named_by_its_settings_alone(tmp_path, test, said):
    trials = [
        Trial(number, None, {"train": ["a.csv"], "epochs": number + 1}, "finished", "validation:accuracy",
              0.9 - number / 100, 3.0, None, tmp_path, metrics={"test": test}, data={"train": ["a.csv"]})
        for number in range(4)
    ]  # fmt: skip
    page = sweep_page(Sweep(tmp_path, "swept", {}, trials, "grid", 6.0, None).record())
    assert page.summary[0].endswith("with epochs 1.")
    assert "a.csv" not in page.summary[0]
    assert any(said in caution for caution in page.cautions)


def test_times_of_trials_that_went_side_by_side_look_like_those_of_trials_alone(tmp_path):
    def trial(number, **values):
        return Trial(number, None, {"seed": number}, "finished", None, None, 3.0, None, tmp_path, **values)

    def cautions(*trials):
        return sweep_page(Sweep(tmp_path, "swept", {}, trials, "grid", 6.0, None).record()).cautions

    shared = [trial(number, side_by_side=1.9, threads=1) for number in (0, 1)]
    said = "Times are of 2 trials side by side, of 1 thread each: alone one may be faster."
    assert cautions(*shared) == (said,)
    elsewhere = trial(2, side_by_side=2.0, threads=1, data={"train": ["other.csv"]})
    assert cautions(*shared, elsewhere) == (said,)
    assert cautions(*(trial(number, side_by_side=1.0, threads=2) for number in (0, 1))) == ()


@pytest.mark.parametrize(("trials", "num_said"), [(1.9, 1), (1.0, 0)])
def test_a_trial_that_went_side_by_side_looks_like_one_alone(tmp_path, trials, num_said):
    run = make_run(tmp_path / "run")
    result = json.loads((run.path / "result.json").read_text())
    result["side_by_side"] = {"trials": trials, "threads": 1}
    (run.path / "result.json").write_text(json.dumps(result))
    cautions = run_page(read_material(open_run(run.path))).cautions
    assert sum("about 2 trials went side by side" in caution for caution in cautions) == num_said


def test_what_a_setting_explains():
    from bertwright.reporting.sweep_page import _explained

    def trial(value, **settings):
        return {"state": "finished", "value": value, "settings": settings}

    # Values 1 1 3 3 by rate, whose groups explain all; batch explains nothing.
    trials = [
        trial(1, rate=1, batch=1),
        trial(1, rate=1, batch=2),
        trial(3, rate=2, batch=1),
        trial(3, rate=2, batch=2),
    ]
    assert dict(_explained(trials)) == pytest.approx({"rate": 1.0, "batch": 0.0})
    # Total 2*(1.5^2 + .5^2) = 5; between rates 4 * 1^2 = 4; between batches 4 * .5^2 = 1.
    trials = [trial(v, rate=r, batch=b) for v, r, b in ((0, 1, 1), (1, 1, 2), (2, 2, 1), (3, 2, 2))]
    assert dict(_explained(trials)) == pytest.approx({"rate": 0.8, "batch": 0.2})


def test_a_sweep_of_nothing_yet(tmp_path):
    record = sweep_record(tmp_path, 3)
    for trial in record["trials"]:
        trial |= {"state": "waiting", "value": None, "seconds": None, "usd": None, "metrics": {}}
    record["groups"][0] |= {"best": None, "metric": None, "seeds": []}
    page = sweep_page(record)
    assert "nothing is known to be best" in page.summary[0]
    assert not Outline(html(page)).open


def test_the_command_is_the_runs_own(made):
    from bertwright.reporting.run_page import command_of

    words = command_of(
        {"train": ["my data.csv"], "model": "bert-tiny", "seed": 3, "epochs": 2.0, "label_column": ["a", "b"],
         "texts": False, "output": "x"}
    )  # fmt: skip
    assert words.startswith("bertwright train 'my data.csv'")
    for part in ("--model bert-tiny", "--seed 3", "--epochs 2.0", "--label-column a", "--label-column b", "--no-texts"):
        assert part in words
    assert "--output" not in words
    assert np.size(words) == 1


def test_a_pretraining_tells_how_well_it_guesses_and_claims_no_classifier(tmp_path):
    history = [
        {"step": 10 * i, "epoch": i / 2, "elapsed_s": 90.0 * i, "train_s": 80.0 * i, "tokens": 1_000 * i,
         "train_loss": 9.0 - i, "learning_rate": 1e-3,
         "validation": {"loss": 8.5 - i, "perplexity": 5000.0 - 900 * i, "masked_accuracy": 0.05 * i}}
        for i in range(1, 5)
    ]  # fmt: skip
    result = {
        "task": "masked_language_model", "labels": [], "model": "bert-tiny, random weights",
        "data": {"documents": 900, "validation_sequences": 40, "tokens_learnt_from": 123_456},
        "seconds": {"read": 1.0, "tokenize": 2.0, "train": 320.0, "infer": None, "total": 330.0},
        "rates": {"train_tokens_per_s": 385.8}, "memory": {"peak_process_bytes": 6e8, "peak_gpu_bytes": None},
        "cost": {"usd_per_hour": 2.0, "usd": 0.18}, "metrics": {"validation": history[-1]["validation"]},
        "extremes": {"highest": [], "lowest": []}, "steps": 40, "best_step": 40,
    }  # fmt: skip
    folder = tmp_path / "words"
    (folder / "model").mkdir(parents=True)
    record = {"act": "pretrain", "bertwright": "0", "started": "2026-01-01T00:00:00+00:00",
              "settings": {"model": "bert-tiny", "corpus": ["a.txt"]}}  # fmt: skip
    for name, values in (("config.json", record), ("environment.json", {}), ("result.json", result)):
        (folder / name).write_text(json.dumps(values))
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    page = run_page(read_material(open_run(folder)))
    outline = Outline(html(page))
    assert "it guesses 20.0 % of the hidden words right" in outline.text
    assert "from 123,456 tokens in 5 min 20 s" in outline.text
    assert "sorts texts" not in outline.text
    assert "predictions.parquet" not in outline.text
    assert "40 sequences held out: few to judge by." in outline.text
    plots = {plot.name: plot.description for plot in page.plots()}
    assert "from 0.0500 to 0.2000 after 5 min 20 s" in plots["masked-accuracy"]
    assert "The validation loss is lowest, 4.500, at step 40" in plots["loss"]
    assert f"bertwright pretrain --config {folder / 'config.json'}" in outline.text
