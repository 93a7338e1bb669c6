"""Runs of every kind of labels, written without training: scores that know something, and texts of any sort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.evaluation.extremes import extremes_record
from bertwright.evaluation.judge import TASKS
from bertwright.evaluation.metrics import (
    classification_metrics,
    decide,
    decide_each,
    multilabel_metrics,
    positive_score,
    regression_metrics,
    soft_metrics,
)
from bertwright.memory_trace import MemoryTrace, write_memory_trace
from bertwright.runs import Run, open_run
from bertwright.steps import Trace, write_trace

HOSTILE = (
    '<script>document.title = "run"; window.ran = true</script>',
    "<img src=x onerror='window.ran = true'> ]]> </style></script><!-- &amp; {{ 7 * 7 }} {% raw %}",
    "NUL \x00 and bell \x07 and delete \x7f and \x1b[31mred",
    "reversed \u202e olleh \u2066 and \u200f marks",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 hello",
    "W" * 5000,
    "=cmd|' /C calc'!A0",
    "Z\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321\u0321 algo \ud7ff \ufffe",
    "line one\nline two\r\n\ttabbed | piped",
    "",
    "https://example.com/?a=1&b=2 javascript:alert(1)",
    "$\\alpha$ `code` *bold* [link](http://example.com)",
)


def make_run(
    path: Path,
    kind: str = "classes",
    labels: tuple[str, ...] = ("clean", "toxic"),
    num: int = 300,
    seed: int = 0,
    texts: bool | tuple[str, ...] = True,
    predictions: bool = True,
    old: bool = False,
    judgement: dict[str, Any] | None = None,
    **settings: Any,
) -> Run:
    """A finished run of ``num`` test texts. ``old``: without traces and judgement, as earlier versions wrote it."""
    generator = np.random.default_rng(seed)
    truth = np.random.default_rng(7)  # the same texts and labels for every seed
    words = [f"text {i} " + "word " * int(truth.integers(1, 60)) for i in range(num)]
    if isinstance(texts, tuple):
        words = [texts[i % len(texts)] for i in range(num)]
    columns: dict[str, Any] = {
        "row": pa.array(np.arange(num)),
        "text_sha256": pa.array([f"{i:064x}" for i in range(num)]),
    }
    scores, metrics, names = _SCORES[kind](columns, labels, num, truth, generator)
    for i, label in enumerate(labels):
        columns[f"score_{label}"] = pa.array(scores[:, i])
    if texts:
        columns["text"] = pa.array(words)
    path.mkdir(parents=True)
    if predictions:
        pq.write_table(pa.table(columns), path / "predictions.parquet")
    extremes = extremes_record(words, positive_score(scores, labels, kind), np.arange(num), names, 5)
    if not texts:
        for entry in (*extremes["highest"], *extremes["lowest"]):
            entry["text"] = None
    result = _result(TASKS[kind], labels, metrics, extremes, num)
    if judgement is not None:
        result["judgement"] = judgement
    config = {
        "act": "train",
        "bertwright": "0.1.0",
        "started": "2026-01-02T03:04:05+00:00",
        "settings": {"train": ["data.csv"], "test": ["test.csv"], "model": "bert-tiny", "seed": seed, "epochs": 1.0}
        | settings,
    }
    for name, values in (("config", config), ("environment", {"cpu": "A CPU", "dtype": "float32"}), ("result", result)):
        (path / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _history(kind, metrics)))
    if not old:
        _write_traces(path, generator)
    return open_run(path)


def _of_classes(columns, labels, num, truth, generator):
    ids = truth.integers(0, len(labels), num)
    logits = generator.normal(size=(num, len(labels)))
    logits[np.arange(num), ids] += 1.8
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [labels[i] for i in ids]
    columns["label"] = pa.array(names)
    columns["predicted"] = pa.array([labels[i] for i in decide(scores)])
    return scores, classification_metrics(ids, scores, labels), names


def _of_soft(columns, labels, num, truth, generator):
    shares = truth.dirichlet(np.ones(len(labels)), num)
    scores = 0.7 * shares + 0.3 * generator.dirichlet(np.ones(len(labels)), num)
    ids = shares.argmax(axis=1)
    names = [labels[i] for i in ids]
    columns["label"] = pa.array(names)
    for i, label in enumerate(labels):
        columns[f"label_{label}"] = pa.array(shares[:, i])
    columns["predicted"] = pa.array([labels[i] for i in decide(scores)])
    return scores, soft_metrics(ids, shares, scores, labels), names


def _of_many(columns, labels, num, truth, generator):
    has = truth.random((num, len(labels))) < 0.3
    scores = np.clip(0.25 + 0.4 * has + 0.2 * generator.normal(size=has.shape), 0, 1)
    for i, label in enumerate(labels):
        columns[f"label_{label}"] = pa.array(has[:, i].astype(float))
    decided = decide_each(scores)
    columns["predicted"] = pa.array(
        [[label for label, one in zip(labels, row, strict=True) if one] for row in decided], pa.list_(pa.string())
    )
    names = ["|".join(label for label, one in zip(labels, row, strict=True) if one) for row in has]
    return scores, multilabel_metrics(has.astype(float), scores, labels), names


def _of_numbers(columns, labels, num, truth, generator):
    targets = truth.normal(5, 2, num)
    scores = (targets + generator.normal(0, 1, num))[:, None]
    columns[f"label_{labels[0]}"] = pa.array(targets)
    columns["predicted"] = pa.array(scores[:, 0])
    return scores, regression_metrics(targets, scores[:, 0]), [str(value) for value in targets]


_SCORES = {"classes": _of_classes, "soft": _of_soft, "multi-label": _of_many, "regression": _of_numbers}


def _result(task: str, labels: tuple[str, ...], metrics: dict[str, Any], extremes: Any, num: int) -> dict[str, Any]:
    return {
        "task": task,
        "labels": list(labels),
        "model": "bert-tiny",
        "data": {"train_texts": 1000, "validation_texts": 0, "test_texts": num, "shared_texts": 0,
                 "train_sha256": "0", "test_sha256": "1", "truncated_share": 0.01, "bad_rows": 0},
        "seconds": {"read": 0.1, "tokenize": 0.2, "train": 30.0, "infer": 2.0, "total": 35.0},
        "rates": {"train_texts_per_s": 33.3, "infer_texts_per_s": 150.0},
        "memory": {"peak_process_bytes": 900 << 20, "peak_gpu_bytes": None},
        "cost": {"usd_per_hour": None, "usd": None},
        "metrics": {"train": metrics, "validation": {}, "test": metrics},
        "extremes": extremes,
        "steps": 60,
        "best_step": 40,
    }  # fmt: skip


def _history(kind: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    name = "r2" if kind == "regression" else "accuracy"
    return [
        {"step": step, "epoch": step / 60, "elapsed_s": step / 2, "train_loss": 1 / step, "learning_rate": 1e-4,
         "validation": {name: (metrics[name] or 0) * step / 60, "log_loss": 1 - step / 100}}
        for step in (20, 40, 60)
    ]  # fmt: skip


def _write_traces(path: Path, generator: np.random.Generator) -> None:
    steps = np.arange(60)
    zeros = np.zeros(60, np.uint64)
    losses = (np.exp(-steps / 20) + 0.1 * generator.random(60)).astype(np.float32)
    rates, counts = 1e-4 * (1 - steps / 60), np.full(60, 32, np.int32)
    write_trace(path / "steps.parquet", Trace(losses, rates, counts, counts * 9, zeros, zeros, {}))
    memory = (np.linspace(2e8, 9e8, 40)).astype(np.int64)
    phases = ("reading",) * 5 + ("training",) * 30 + ("scoring the test texts",) * 5
    write_memory_trace(path / "memory.parquet", MemoryTrace(np.arange(40.0), phases, memory, None))


JUDGEMENT = {
    "threshold": {"value": 0.42, "metric": "f1", "tuned_on": "validation"},
    "temperature": 1.6,
    "calibration": {
        "test": {
            "before": {
                "expected_calibration_error": 0.11,
                "bins": [
                    {"low": i / 10, "high": (i + 1) / 10, "count": 30 + i, "mean_score": i / 10 + 0.05,
                     "share": min(max(1.4 * (i / 10 - 0.45) + 0.5, 0), 1)}
                    for i in range(10)
                ],
            },
            "after": {
                "expected_calibration_error": 0.02,
                "bins": [
                    {"low": i / 10, "high": (i + 1) / 10, "count": 30 + i, "mean_score": i / 10 + 0.05,
                     "share": i / 10 + 0.04}
                    for i in range(10)
                ],
            },
        }
    },
    "bias": {
        "label": "toxic", "power": -5, "overall_auc": 0.97, "final": 0.91,
        "groups": [
            {"group": "us", "texts": 800, "positive_texts": 90, "subgroup_auc": 0.95, "subgroup_auc_interval": None,
             "bpsn_auc": 0.96, "bpsn_auc_interval": None, "bnsp_auc": None, "bnsp_auc_interval": None},
            {"group": "<b>them</b>", "texts": 120, "positive_texts": 20, "subgroup_auc": 0.71,
             "subgroup_auc_interval": [0.6, 0.8], "bpsn_auc": 0.62, "bpsn_auc_interval": None, "bnsp_auc": 0.99,
             "bnsp_auc_interval": None},
        ],
        "notes": ["groups of fewer than 10 texts, not judged: few (3)"],
    },
}  # fmt: skip


def comparison_record(runs: list[Run]) -> dict[str, Any]:
    """What ``compare`` says of runs, with all that it may say."""
    assert all(run.result is not None for run in runs)
    records = [
        {"run": str(run.path), "act": "train", "task": run.result["task"], "model": "bert-tiny",
         "seed": run.settings["seed"], "epochs": 1.0, "steps": 60, "judged_on": "test",
         "metrics": {k: v for k, v in run.metrics["test"].items() if v is None or isinstance(v, int | float)},
         "train_accuracy": 0.9, "device": "A CPU", "dtype": "float32", "seconds": run.result["seconds"],
         "peak_process_bytes": 900 << 20, "peak_gpu_bytes": None, "usd": 0.5, "intervals": {}}
        for run in runs
    ]  # fmt: skip
    names = [run.path.name for run in runs]
    contenders = [
        {"name": name, "runs": [record["run"]], "seeds": [0], "model": "bert-tiny", "epochs": 1.0,
         "metrics": record["metrics"], "train_s": 30.0 + i, "total_s": 35.0, "infer_s_per_text": 0.01 * (i + 1),
         "intervals": {"accuracy": (record["metrics"]["accuracy"] - 0.03, record["metrics"]["accuracy"] + 0.03)},
         "peak_process_bytes": 900 << 20, "peak_gpu_bytes": None, "usd": 0.5 * (i + 1)}
        for i, (name, record) in enumerate(zip(names, records, strict=True))
    ]  # fmt: skip
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    ranked = {"row": 3, "score": 0.98, "text": HOSTILE[0], "label": "toxic", "rank_in_other": 17}
    return {
        "records": records,
        "contenders": contenders,
        "differences": [
            {"a": a, "b": b, "metric": "accuracy", "difference": 0.012, "low": -0.01, "high": 0.034, "p": 0.21,
             "p_adjusted": 0.42, "test": "mid-p McNemar", "verdict": ("cannot tell", "better")[i % 2],
             "texts_needed": 3400, "more_texts": 3100, "num_texts": 300,
             "sentence": f"{a} against {b}: cannot tell at 300 texts."}
            for i, (a, b) in enumerate(pairs)
        ],
        "rankings": [
            {"a": a, "b": b, "score": "probability of toxic", "spearman": 0.91, "kendall": 0.77, "k": 5,
             "shared_highest": 2, "shared_lowest": 3, "highest": [{"rank": 1, "a": ranked, "b": ranked}],
             "lowest": [{"rank": 1, "a": ranked, "b": ranked}]}
            for a, b in pairs
        ],
        "worth": [
            {"a": pairs[0][0], "b": pairs[0][1], "what": "epochs", "also": [], "metric": "accuracy", "gain": 0.004,
             "low": -0.01, "high": 0.02, "verdict": "cannot tell", "extra_minutes": 2.5, "extra_usd": 0.5,
             "gain_per_minute": 0.0016, "gain_per_usd": 0.008, "sentence": "One more epoch bought nothing sure."}
        ],
        "pareto": [
            {"name": item["name"], "quality": item["metrics"]["accuracy"], "metric": "accuracy",
             "infer_s_per_text": item["infer_s_per_text"], "memory_bytes": 900 << 20, "usd": item["usd"],
             "train_s": item["train_s"], "on_front": i == 0, "dominated_by": names[:1] if i else [],
             "compared_on": ["quality", "usd"]}
            for i, item in enumerate(contenders)
        ],
        "metric": "accuracy",
        "alpha": 0.05,
        "notes": ["no cost is known of one run"],
    }  # fmt: skip


def sweep_record(folder: Path, num: int = 18) -> dict[str, Any]:
    """What ``Sweep.record`` says of a search that is under way."""
    generator = np.random.default_rng(0)
    trials = []
    for number in range(num):
        rate, batch = [1e-5, 3e-5, 1e-4][number % 3], [16, 32][number // 3 % 2]
        state = "pruned" if number % 7 == 6 else "failed" if number == 11 else "finished"
        value = 0.8 + 0.03 * (number % 3) + 0.005 * float(generator.random())
        trials.append(
            {"number": number, "name": None, "settings": {"learning_rate": rate, "batch_size": batch, "seed": number},
             "state": state, "metric": "validation:roc_auc", "value": None if state == "failed" else value,
             "seconds": 20.0 + 3 * number % 11, "usd": 0.01, "run": str(folder / "trials" / f"{number:04}"),
             "error": "<b>out of memory</b>" if state == "failed" else None, "data": {"train": ["data.csv"]},
             "metrics": {"test": {"roc_auc": value - 0.01}} if state == "finished" else {}, "steps": 60,
             "pruned_at": None, "worker": "here"}
        )  # fmt: skip
    order = sorted(trials, key=lambda trial: -(trial["value"] or 0) if trial["state"] == "finished" else 1)
    group = {
        "data": {"train": ["data.csv"]},
        "metric": "validation:roc_auc",
        "trials": [trial["number"] for trial in order],
        "best": order[0]["number"],
        "seeds": [{"settings": {"learning_rate": 1e-4}, "trials": [2, 5], "mean": 0.861, "sd": 0.002, "test": {}}],
    }
    return {
        "sweep": str(folder),
        "name": "toxic <script>",
        "search": "tpe",
        "asked": {"train": ["data.csv"], "num_trials": num},
        "seconds": 400.0,
        "usd": 0.2,
        "trials": trials,
        "groups": [group],
        "importances": {},
    }
