"""A cascade on real comments: is it as good as its large model at half the cost?

    python benchmarks/cascade.py --data DATA --runs DIR --output FILE [--small tiny=bert-tiny mini=bert-mini]

all-MiniLM-L6-v2 learns toxic comments and teaches each small model: NAME=MODEL, of random weights or a pretraining's
folder. Then a cascade is made of each with it, and judged.

- Learnt from: three quarters of toxic_comments/train_1.csv. Students also read, without its labels, test_balanced.csv.
- Tuned on: the other quarter. It has the share of toxic comments that train_2.csv has; test_balanced.csv has not.
- Judged on: toxic_comments/train_2.csv, which nothing else has seen.

A line of JSON for each attempt: ROC AUC of the large model, the small one and the cascade, with DeLong's intervals and
that of the paired difference; whether the cascade lies within the large model's interval; and its cost beside the large
model, in operations and in seconds. For the seconds both score all judged texts in turns, tokenising among it; the
median of the rounds counts.

Every training is a run in ``--runs``; those that are finished are not repeated, and neither are lines: stop it and
start it again at will.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LARGE = "all-MiniLM-L6-v2"
FOLDER = "toxic_comments"
TUNING_EVERY = 4


@dataclass(frozen=True)
class Work:
    """Where things are, and how much is done."""

    data: Path
    runs: Path
    output: Path
    seed: int
    every: int
    epochs: float
    student_epochs: float
    rounds: int

    def files(self) -> dict[str, str]:
        """The texts of each part in files of their own, written once."""
        folder = self.runs / f"texts-{self.every}"
        if not folder.is_dir():
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self._write(partial)
            os.rename(partial, folder)
        return {part: str(folder / f"{part}.jsonl") for part in ("learn", "tune", "read", "judge")}

    def _write(self, folder: Path) -> None:
        from bertwright.config.parts import DataSettings
        from bertwright.data.columns import read_labelled

        def read(name: str) -> Any:
            texts = read_labelled([str(self.data / FOLDER / name)], DataSettings())
            return texts.take(np.arange(0, len(texts), self.every))

        first, balanced, judged = read("train_1.csv"), read("test_balanced.csv"), read("train_2.csv")
        to_tune = np.arange(len(first)) % TUNING_EVERY == 0
        parts = {
            "learn": first.take(np.flatnonzero(~to_tune)),
            "tune": first.take(np.flatnonzero(to_tune)),
            "judge": judged,
        }
        for name, texts in parts.items():
            lines = [
                json.dumps({"text": text, "label": texts.labels[label]})
                for text, label in zip(texts.texts, texts.label_ids.tolist(), strict=True)
            ]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        lines = [json.dumps({"text": text}) for text in balanced.texts]
        (folder / "read.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def name(self, name: str) -> Path:
        return self.runs / f"{name}-{self.every}-{self.seed}"


def large_run(work: Work) -> Path:
    """The large model, trained unless it is there."""
    import bertwright

    path = work.name("large")
    if not (path / "result.json").is_file():
        bertwright.train(
            work.files()["learn"],
            model=LARGE,
            max_length=220,
            epochs=work.epochs,
            learning_rate=1e-4,
            validation_share=0.0,
            seed=work.seed,
            output=str(path),
            overwrite=True,
            quiet=True,
        )
    return path


def small_run(work: Work, name: str, model: str) -> Path:
    """The student of that name, taught unless it is there. Its best state is told on a tenth of the learnt texts."""
    import bertwright

    path, files = work.name(name), work.files()
    if not (path / "result.json").is_file():
        bertwright.distill(
            str(large_run(work)),
            files["learn"],
            unlabelled=files["read"],
            model=model,
            max_length=220,
            epochs=work.student_epochs,
            validation_share=0.1,
            best_metric="roc_auc",
            teacher_scores=str(work.runs / f"teacher-scores-{work.every}-{work.seed}"),
            seed=work.seed,
            output=str(path),
            overwrite=True,
            quiet=True,
        )
    return path


def attempt(work: Work, name: str, model: str, max_loss: float) -> dict[str, Any]:
    """Make the cascade of that student and the large model, and judge it."""
    import bertwright
    from bertwright.config.parts import DataSettings
    from bertwright.data.columns import read_labelled
    from bertwright.evaluation.judge import judged_of
    from bertwright.evaluation.uncertainty import difference, mean_interval, measure

    large, small, output = large_run(work), small_run(work, name, model), work.name(f"cascade-{name}-{max_loss:g}")
    files = work.files()
    tuning = bertwright.cascade(
        small, large, files["tune"], output, metric="roc_auc", max_loss=max_loss, overwrite=True, quiet=True
    )
    texts = read_labelled([files["judge"]], DataSettings())
    scorers = {"large": bertwright.load(str(large)), "cascade": bertwright.load(str(output))}
    cascade = scorers["cascade"]
    seconds: dict[str, list[float]] = {one: [] for one in scorers}
    scores: dict[str, np.ndarray] = {}
    for scorer in scorers.values():
        scorer.score(texts.texts[:64].to_pylist())
    cascade.num_texts = cascade.num_deferred = 0
    for _ in range(work.rounds):
        for one, scorer in scorers.items():
            started = time.perf_counter()
            scores[one] = scorer.score(texts.texts)
            seconds[one].append(time.perf_counter() - started)
    ragged = cascade.small.tokenize(texts.texts)
    scores["small"] = small_scores = cascade.small_scores(cascade.small.logits(ragged))
    order = ("large", "small", "cascade")
    judged = judged_of(texts, cascade.settings, np.stack([scores[one] for one in order]))
    measured = measure(judged, ["roc_auc"])["roc_auc"]
    intervals = [mean_interval(judged, measured, [place]) for place in range(3)]
    found = difference(judged, measured, [2], [0])
    assert found is not None
    assert intervals[0] is not None
    deferred = cascade.is_deferred(small_scores)
    cost_s = {one: float(np.median(many)) for one, many in seconds.items()}
    operations = operations_of(cascade, texts, ragged.lengths, deferred)
    auc = dict(zip(order, measured.values.tolist(), strict=True))
    within = intervals[0][0] <= auc["cascade"] <= 1
    costs = {
        "operations": (operations["small"] + operations["deferred"]) / operations["large"],
        "seconds": cost_s["cascade"] / cost_s["large"],
    }
    return {
        "roc_auc": auc,
        "intervals": dict(zip(order, intervals, strict=True)),
        "difference": {"value": auc["cascade"] - auc["large"], "low": found.low, "high": found.high, "p": found.p},
        "within_interval_of_large": bool(within),
        "deferred_share": float(deferred.mean()),
        "cost": costs,
        "half_the_cost": bool(costs["seconds"] <= 0.5),
        "seconds": seconds,
        "operations": operations,
        "sureness": cascade.manifest.sureness,
        "tuned": {name: tuning[name] for name in ("texts", "large_value", "large_interval", "max_loss", "chosen")},
        "texts": len(texts),
    }


def operations_of(cascade: Any, texts: Any, lengths: np.ndarray, deferred: np.ndarray) -> dict[str, int]:
    """Operations of the small model on all texts, and of the large one on all and on the deferred ones."""
    from bertwright.benchmarking.operations import forward_operations

    found = {}
    large_lengths = cascade.large.tokenize(texts.texts).lengths
    for name, scorer, some in (
        ("small", cascade.small, lengths),
        ("large", cascade.large, large_lengths),
        ("deferred", cascade.large, large_lengths[deferred]),
    ):
        model = scorer.model
        found[name] = int(forward_operations(model.config, some, len(cascade.labels), scorer.settings.pooling))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", nargs="+", default=["tiny=bert-tiny", "mini=bert-mini"], metavar="NAME=MODEL")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th text alone: to try the script out")
    parser.add_argument("--epochs", type=float, default=2.0, help="of the large model")
    parser.add_argument("--student-epochs", type=float, default=10.0)
    parser.add_argument(
        "--max-loss", type=float, nargs="+", default=[0.01], help="for each a cascade of each small model"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    work = Work(
        given.data,
        given.runs,
        given.output,
        given.seed,
        given.every,
        given.epochs,
        given.student_epochs,
        given.rounds,
    )
    work.runs.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in work.output.read_text().splitlines()] if work.output.is_file() else []
    for pair, max_loss in itertools.product(given.small, given.max_loss):
        name, _, model = pair.partition("=")
        asked = {
            "case": "cascade",
            "small": name,
            "model": model,
            "large": LARGE,
            "seed": work.seed,
            "every": work.every,
            "epochs": work.epochs,
            "student_epochs": work.student_epochs,
            "max_loss": max_loss,
        }
        if any({key: line.get(key) for key in asked} == asked for line in done):
            continue
        line = json.dumps(asked | measured_line(work, name, model, max_loss))
        with work.output.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def measured_line(work: Work, name: str, model: str, max_loss: float) -> dict[str, Any]:
    """What an attempt came to; or why there is no cascade."""
    import torch

    from bertwright import hardware
    from bertwright.errors import UserError

    try:
        found = attempt(work, name, model, max_loss)
    except UserError as error:
        found = {"refused": str(error)}
    return found | {"environment": hardware.describe(torch.device("cpu"))}


if __name__ == "__main__":
    main()
