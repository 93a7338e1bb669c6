"""Folders of finished runs, made without any training: scores as asked for, metrics that are true of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bertwright.data.columns import LabelledTexts
from bertwright.data.texts import Texts
from bertwright.evaluation.judge import TASKS, judge, prediction_tables, write_predictions
from bertwright.runs import RunWriter


def texts_of(kind, num_texts=200, num_labels=2, seed=0):
    """Labelled texts of any kind, each text a different one."""
    random = np.random.default_rng(seed)
    names = tuple(f"label {i}" for i in range(num_labels)) if kind != "regression" else ("stars",)
    label_ids = targets = None
    if kind in ("classes", "soft"):
        label_ids = random.integers(0, num_labels, num_texts)
        targets = (
            (0.6 * np.eye(num_labels)[label_ids] + 0.4 / num_labels).astype(np.float32) if kind == "soft" else None
        )
    elif kind == "regression":
        targets = random.normal(size=(num_texts, 1)).astype(np.float32)
    else:
        targets = (random.random((num_texts, num_labels)) < 0.4).astype(np.float32)
    strings = Texts([pa.array([f"text {i}" for i in range(num_texts)], pa.large_string())])
    return LabelledTexts(strings, label_ids, names, np.arange(num_texts), [], [], "0" * 64, kind=kind, targets=targets)


def scores_of(texts, quality, seed):
    """(texts, labels) float64; the noise has a part that is the same for all seeds."""
    random, common = np.random.default_rng([1, seed]), np.random.default_rng(999)
    shape = (len(texts), len(texts.labels))
    noise = 0.8 * common.normal(size=shape) + 0.6 * random.normal(size=shape)
    if texts.kind == "regression":
        return quality * texts.targets + noise
    if texts.kind == "multi-label":
        return 1 / (1 + np.exp(-(quality * (2 * texts.targets - 1) + noise)))
    logits = np.exp(quality * np.eye(len(texts.labels))[texts.label_ids] + noise)
    return logits / logits.sum(axis=1, keepdims=True)


def make_run(folder, texts, scores, order=None, predictions=True, weights=None, **settings):
    """A finished training in ``folder`` that gave the ``texts`` these ``scores``; its path.

    ``order``: of the predictions; ``weights``: bytes of the model's file; of ``settings``, train_s, usd,
    infer_texts_per_s and bytes go into the result.
    """
    facts = {name: settings.pop(name, None) for name in ("train_s", "usd", "infer_texts_per_s", "bytes")}
    writer = RunWriter(folder, "train", {"model": "m", "seed": 0, "epochs": 1.0, "output": str(folder), **settings})
    if predictions:
        (table,) = prediction_tables(texts, scores, texts.labels, 0.5, True)
        write_predictions(folder / "predictions.parquet", iter([table if order is None else table.take(order)]))
    if weights is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"0" * weights)
    seconds = {"read": 1.0, "tokenize": 1.0, "train": facts["train_s"], "infer": 1.0, "total": 5.0}
    writer.result(
        {
            "task": TASKS[texts.kind],
            "labels": list(texts.labels),
            "data": {"test_texts": len(texts), "test_sha256": "0" * 64},
            "seconds": seconds,
            "rates": {"infer_texts_per_s": facts["infer_texts_per_s"]},
            "memory": {"peak_process_bytes": facts["bytes"] or 2**30, "peak_gpu_bytes": None},
            "cost": {"usd_per_hour": None, "usd": facts["usd"]},
            "metrics": {"train": {}, "validation": {}, "test": judge(texts, scores, 0.5)},
            "extremes": {"highest": [], "lowest": []},
            "steps": 10,
        }
    )
    return folder
