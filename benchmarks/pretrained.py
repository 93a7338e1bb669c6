"""What pretraining and distilling gain: classifiers from our miniatures beside random weights, seed by seed.

    python benchmarks/pretrained.py start  --models tiny=runs/tiny mini=runs/mini minilm=all-MiniLM-L6-v2 \\
        --data DATA --runs DIR --output FILE
    python benchmarks/pretrained.py intask --models adapted=runs/adapted          --data DATA --runs DIR --output FILE
    python benchmarks/pretrained.py distill --models tiny=runs/tiny               --data DATA --runs DIR --output FILE

``start``: each of ``--models`` (NAME=FOLDER of a pretraining; NAME begins with tiny, mini or small) beside random
weights of its size, with the same settings but for the learning rate and the number of epochs: they are the best on a
tenth of the training texts, with seed 0, for each model, start and small task. Weights from nothing need more of both.
Large tasks have the rate of a small one, and a number of epochs of their own. The one that is called minilm has no
twin, and learns at 1e-4 for 2 epochs. All read the mean of a text's tokens: a model that has only guessed words has put
nothing into the first one.
``intask``: all-MiniLM-L6-v2 as it is beside what became of it by pretraining on texts of the task, on IMDb.
``record``: a line of what each pretraining in ``--models`` came to.
``distill``: all-MiniLM-L6-v2 learns 5,000 IMDb reviews and teaches each model with 50,000 reviews without labels more;
beside it the same model learns the 5,000 alone: for 20 epochs, of which its validation texts choose the best, and as in
``start``.

Every training is a run in ``--runs``; those that are finished are not repeated: stop it and start it again at will.
``--output`` gets a line of JSON for each seed, and one for each difference, by ``bertwright compare``'s paired test
over texts and seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers.quality import MODEL, Row, files_of

RATES = {"tiny": (1e-4, 3e-4, 1e-3), "mini": (1e-4, 3e-4), "small": (5e-5, 1e-4, 3e-4)}
# Beside the row's own number of epochs.
MORE_EPOCHS = {"sst5": (3,), "toxic_2000": (3, 10)}
# Large tasks have their own number of epochs, and the rate that is best on a small one.
RATE_OF = {"toxic_comments": "toxic_2000", "sst2": "sst5", "imdb_5000": "sst5"}
TASKS = {
    "sst5": Row("sst5/sst-train.txt", "sst5/sst-test.txt", "accuracy", 5, 128),
    "toxic_2000": Row("toxic_comments/train_1.csv", "toxic_comments/train_2.csv", "roc_auc", 5, 220, every=5),
    "toxic_comments": Row("toxic_comments/train_1.csv", "toxic_comments/train_2.csv", "roc_auc", 3, 220),
    "imdb_5000": Row("imdb/train.parquet", "imdb/test.parquet", "accuracy", 4, 256, every=5),
    "sst2": Row("sst2/train.tsv", "sst2/test.tsv", "accuracy", 2, 128),
}
STUDENT_EPOCHS, ALONE_EPOCHS = 2, 20
MINILM_SETTINGS = {"learning_rate": 1e-4, "validation_share": 0.0, "epochs": 2}


@dataclass(frozen=True)
class Work:
    """Where things are, and what has been said."""

    data: Path
    runs: Path
    output: Path
    seeds: list[int]

    def files(self, task: str) -> dict[str, str]:
        """The task's texts, written once."""
        folder = self.runs / "texts" / task
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as name:
                files_of(TASKS[task], self.data, Path(name))
                os.rename(name, folder)
                Path(name).mkdir()
        return {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}

    def note(self, line: dict[str, Any]) -> None:
        """Write ``line`` unless it is there."""
        text = json.dumps({"case": "pretrained", **line})
        before = self.output.read_text().splitlines() if self.output.is_file() else []
        if text not in before:
            with self.output.open("a") as file:
                file.write(text + "\n")
            print(text, flush=True)


def trained(work: Work, name: str, task: str, seed: int, **settings: Any) -> Any:
    """The run ``name`` of ``task``, trained unless it is there."""
    import bertwright

    path = work.runs / task / f"{name}-{seed}"
    if (path / "result.json").is_file():
        found = bertwright.open_run(path)
        model = settings.get("model")
        if model is not None and found.settings["model"] != model:
            sys.exit(f"{path} was trained from {found.settings['model']}, expected {model}: name other --runs")
        return found
    row, files = TASKS[task], work.files(task)
    given = {"test": files["test"], "max_length": row.max_length, "epochs": row.epochs, "batch_size": 32}
    given |= {"pooling": "mean"} | settings
    if given.get("validation_share"):
        given.setdefault("best_metric", row.metric)
    given = {key: value for key, value in given.items() if value is not None}
    return bertwright.train(files["train"], seed=seed, output=str(path), overwrite=True, quiet=True, **given)


def best_of(work: Work, name: str, task: str, rates: tuple[float, ...], model: str) -> dict[str, float]:
    """The learning rate and epochs with the best metric on a tenth of the training texts; no test text is looked at."""
    if task in RATE_OF:
        rate = best_of(work, name, RATE_OF[task], rates, model)["learning_rate"]
        return {"learning_rate": rate, "epochs": TASKS[task].epochs}
    row, found = TASKS[task], {}
    for epochs in (row.epochs, *MORE_EPOCHS.get(task, ())):
        for rate in rates:
            run = trained(
                work,
                f"{name}-rate-{rate:g}-epochs-{epochs:g}",
                task,
                0,
                model=model,
                learning_rate=rate,
                epochs=epochs,
                validation_share=0.1,
                test=None,
            )
            found[rate, epochs] = run.metrics["validation"][row.metric]
    rate, epochs = max(found, key=lambda one: found[one])
    return {"learning_rate": rate, "epochs": epochs}


def start(work: Work, models: dict[str, str], tasks: list[str]) -> None:
    for task in tasks:
        for one, folder in models.items():
            if one == "minilm":
                several(work, "start", one, task, model=folder, **MINILM_SETTINGS)
                continue
            size = one.partition("-")[0]
            for name, model in ((one, folder), (f"{size}-random", f"bert-{size}")):
                best = best_of(work, name, task, RATES[size], model)
                several(work, "start", name, task, model=model, validation_share=0.0, **best)
            beside(work, "start", task, one, f"{size}-random")


def record(work: Work, models: dict[str, str]) -> None:
    import bertwright

    for name, folder in models.items():
        run = bertwright.open_run(folder)
        kept = ("model", "word_embeddings", "freeze_word_embeddings", "learning_rate", "batch_tokens", "budget")
        work.note(
            {
                "table": "record",
                "contender": name,
                "settings": {key: run.settings.get(key) for key in (*kept, "initializer_range", "max_length", "seed")},
                **{key: run.result[key] for key in ("data", "seconds", "metrics", "steps")},
                "cpu": run.environment.get("cpu"),
                "commit": run.environment.get("commit"),
            }
        )


def intask(work: Work, models: dict[str, str]) -> None:
    several(work, "intask", "minilm", "imdb_5000", model=MODEL, **MINILM_SETTINGS)
    for name, folder in models.items():
        several(work, "intask", name, "imdb_5000", model=folder, **MINILM_SETTINGS)
        beside(work, "intask", "imdb_5000", name, "minilm")


def distill(work: Work, models: dict[str, str]) -> None:
    import bertwright

    task = "imdb_5000"
    teacher = trained(work, "minilm", task, 0, model=MODEL, **MINILM_SETTINGS)
    files = work.files(task)
    for size, folder in models.items():
        name, taught = f"{size}-alone", f"{size}-taught"
        rate = best_of(work, size, task, RATES[size], folder)["learning_rate"]
        several(
            work, "distill", name, task, model=folder, learning_rate=rate, epochs=ALONE_EPOCHS, validation_share=0.1
        )
        for seed in work.seeds:
            path = work.runs / task / f"{taught}-{seed}"
            if not (path / "result.json").is_file():
                bertwright.distill(
                    teacher,
                    files["train"],
                    unlabelled=str(work.data / "imdb" / "unsup.parquet"),
                    test=files["test"],
                    model=folder,
                    max_length=TASKS[task].max_length,
                    pooling="mean",
                    epochs=STUDENT_EPOCHS,
                    learning_rate=rate,
                    validation_share=0.1,
                    best_metric="accuracy",
                    teacher_scores=str(work.runs / "teacher_scores"),
                    seed=seed,
                    output=str(path),
                    overwrite=True,
                    quiet=True,
                )
        several(work, "distill", taught, task)
        beside(work, "distill", task, taught, name)
        several(
            work,
            "distill",
            size,
            task,
            model=folder,
            validation_share=0.0,
            **best_of(work, size, task, RATES[size], folder),
        )
        beside(work, "distill", task, taught, size)  # the better one of those that learn alone, here


def several(work: Work, table: str, name: str, task: str, **settings: Any) -> None:
    """The run of each seed, and its line."""
    for seed in work.seeds:
        run = trained(work, name, task, seed, **settings)
        metric = TASKS[task].metric
        work.note(
            {
                "table": table,
                "task": task,
                "contender": name,
                "seed": seed,
                "metrics": {metric: run.metrics["test"][metric]},
                "learning_rate": run.settings["learning_rate"],
                "epochs": run.settings["epochs"],
                "train_texts": run.result["data"]["train_texts"],
                "train_s": run.result["seconds"]["train"],
                "commit": run.environment.get("commit"),
            }
        )


def beside(work: Work, table: str, task: str, name: str, other: str) -> None:
    """The line of a difference, paired over texts and seeds."""
    from bertwright.experiments.compare import compare

    metric = TASKS[task].metric
    runs = [work.runs / task / f"{one}-{seed}" for one in (name, other) for seed in work.seeds]
    found = compare(*runs, metrics=[metric]).record()["differences"]
    assert len(found) == 1, found
    values = {
        one: [_metric(work.runs / task / f"{one}-{seed}", metric) for seed in work.seeds] for one in (name, other)
    }
    work.note(
        {
            "table": table,
            "task": task,
            "contender": name,
            "beside": other,
            "metric": metric,
            "means": {one: float(np.mean(many)) for one, many in values.items()},
            "difference": {
                key: found[0][key] for key in ("a", "b", "difference", "low", "high", "p", "test", "verdict")
            },
        }
    )


def _metric(path: Path, metric: str) -> float:
    return float(json.loads((path / "result.json").read_text())["metrics"]["test"][metric])


def pairs(values: list[str]) -> Iterator[tuple[str, str]]:
    for value in values:
        name, _, folder = value.partition("=")
        yield name, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("start", "intask", "distill", "record"))
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    work = Work(options.data, options.runs, options.output, options.seeds)
    models = dict(pairs(options.models))
    if options.table == "start":
        start(work, models, options.tasks)
    elif options.table == "intask":
        intask(work, models)
    elif options.table == "record":
        record(work, models)
    else:
        distill(work, models)


if __name__ == "__main__":
    main()
