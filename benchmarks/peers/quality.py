"""Is the training as good as a peer's? Real tasks learnt by bertwright and by transformers' Trainer, seed by seed.

    python benchmarks/peers/quality.py same --data DATA --output quality.jsonl
    python benchmarks/peers/quality.py own --data DATA --output quality.jsonl

``same``: both with the same settings: bfloat16, AdamW, learning rate, warm-up, linear decay, batch size, epochs and
length; Trainer with what its documentation recommends for speed: batches grouped by length, fused AdamW.
``own``: each as it comes: bertwright with ``--recipe best``, Trainer with its default hyperparameters (3 epochs of
batches of 8, learning rate 5e-5 falling to 0, no warm-up, no weight decay), in bfloat16; the same length for both.
Trainer takes hours for a seed of that. So there is a third contender, "defaults": Trainer's default hyperparameters,
and the dropout of attention weights that its models have, in a training by bertwright.

All are judged on the same held-out texts by the same scorer, in float32, but for the 25,000 reviews of IMDb: in
bfloat16, which takes a tenth of the time on this machine. A line of JSON is written for each training, and those that
are there are not repeated: stop it and start it again at will.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Row:
    """A row of the table: a task, and the settings that both sides share.

    ``every`` takes every so many-th training text; ``judge_dtype`` is the precision of the scorer.
    """

    train: str
    held_out: str
    metric: str
    epochs: float
    max_length: int
    learning_rate: float = 1e-4
    frozen: bool = False
    every: int = 1
    judge_dtype: str = "float32"


ROWS = {
    "sst5": Row("sst5/sst-train.txt", "sst5/sst-test.txt", "accuracy", 3, 128),
    "sst5_frozen": Row("sst5/sst-train.txt", "sst5/sst-test.txt", "accuracy", 10, 128, 3e-2, frozen=True),
    "cfimdb": Row("cfimdb/cfimdb-train.txt", "cfimdb/cfimdb-dev.txt", "accuracy", 4, 256),
    "cfimdb_frozen": Row("cfimdb/cfimdb-train.txt", "cfimdb/cfimdb-dev.txt", "accuracy", 10, 256, 3e-2, frozen=True),
    "toxic_comments": Row("toxic_comments/train_1.csv", "toxic_comments/train_2.csv", "roc_auc", 1, 220),
    "toxic_comments_2_epochs": Row("toxic_comments/train_1.csv", "toxic_comments/train_2.csv", "roc_auc", 2, 220),
    "sst2": Row("sst2/train.tsv", "sst2/test.tsv", "accuracy", 1, 128),
    "imdb_5000": Row("imdb/train.parquet", "imdb/test.parquet", "accuracy", 2, 256, every=5, judge_dtype="bfloat16"),
}
BATCH_SIZE, WARMUP_RATIO, WEIGHT_DECAY = 32, 0.05, 0.01
# The second table has no row for a frozen encoder or for another number of epochs: both are settings of one's own.
OWN_ROWS = ("sst5", "cfimdb", "toxic_comments", "sst2", "imdb_5000")


def files_of(row: Row, data: Path, folder: Path) -> dict[str, str]:
    """The row's texts and labels in new files, the same for all who learn."""
    from bertwright.config.parts import DataSettings
    from bertwright.data.columns import read_labelled

    files, labels = {}, None
    for part, name, every in (("train", row.train, row.every), ("test", row.held_out, 1)):
        texts = read_labelled(data / name, DataSettings(), labels)
        labels = texts.labels
        texts = texts.take(np.arange(0, len(texts), every))
        path = folder / f"{part}.jsonl"
        assert texts.label_ids is not None
        with path.open("w") as file:
            for text, label in zip(texts.texts.to_pylist(), texts.label_ids, strict=True):
                file.write(json.dumps({"text": text, "label": texts.labels[label]}) + "\n")
        files[part] = str(path)
    return files


# As transformers.TrainingArguments has them, and BertConfig the dropout.
_TRAINER_DEFAULTS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 5e-5,
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "attention_dropout": 0.1,
}


def train_defaults(row: Row, own: bool, files: dict[str, str], output: Path, seed: int) -> float:
    return train_ours(row, own, files, output, seed, _TRAINER_DEFAULTS)


def train_ours(
    row: Row, own: bool, files: dict[str, str], output: Path, seed: int, given: dict[str, Any] | None = None
) -> float:
    import bertwright

    settings: dict[str, Any] = {"validation_share": 0.0}
    if given is not None:
        settings |= given
    elif own:
        settings["recipe"] = "best"
    else:
        settings |= {
            "learning_rate": row.learning_rate,
            "epochs": row.epochs,
            "batch_size": BATCH_SIZE,
            "warmup_ratio": WARMUP_RATIO,
            "weight_decay": WEIGHT_DECAY,
            "freeze_encoder": row.frozen,
        }
    run = bertwright.train(
        files["train"],
        model=MODEL,
        max_length=row.max_length,
        seed=seed,
        output=str(output),
        quiet=True,
        **settings,
    )
    assert run.result is not None
    return run.result["seconds"]["train"]


def train_trainer(row: Row, own: bool, files: dict[str, str], output: Path, seed: int) -> float:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from bertwright.config.parts import DataSettings
    from bertwright.data.columns import read_labelled
    from bertwright.model.sources import find_folder

    set_seed(seed)
    texts = read_labelled(files["train"], DataSettings())
    assert texts.label_ids is not None
    source = str(find_folder(MODEL)[0])
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = dict(enumerate(texts.labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        source,
        dtype=torch.float32,
        # The same attention as "sdpa", and on a processor the faster one in training.
        attn_implementation="eager",
        num_labels=len(names),
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    if row.frozen:
        for parameter in model.bert.parameters():
            parameter.requires_grad_(False)
    ids = tokenizer(texts.texts.to_pylist(), truncation=True, max_length=row.max_length)["input_ids"]
    items = [{"input_ids": row_ids, "labels": int(label)} for row_ids, label in zip(ids, texts.label_ids, strict=True)]
    num_steps = math.ceil(len(items) / BATCH_SIZE) * math.ceil(row.epochs)
    chosen: dict[str, Any] = {}
    if not own:
        chosen = {
            "per_device_train_batch_size": BATCH_SIZE,
            "learning_rate": row.learning_rate,
            "num_train_epochs": row.epochs,
            "warmup_steps": math.ceil(WARMUP_RATIO * num_steps),
            "weight_decay": WEIGHT_DECAY,
            "train_sampling_strategy": "group_by_length",
        }
    arguments = TrainingArguments(
        output_dir=str(output / "scratch"),
        bf16=True,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **chosen,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=items, data_collator=DataCollatorWithPadding(tokenizer)
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    return seconds


TRAIN = {"ours": train_ours, "trainer": train_trainer, "defaults": train_defaults}


def judge(row: Row, folder: Path, files: dict[str, str]) -> float:
    """The row's metric of a trained model on the held-out texts."""
    from bertwright.config.parts import DataSettings, MachineSettings
    from bertwright.data.columns import read_labelled
    from bertwright.data.ragged import tokenize_texts
    from bertwright.evaluation.judge import judge as metrics_of
    from bertwright.evaluation.predictor import Predictor
    from bertwright.model.checkpoint import load_classifier
    from bertwright.progress import Reporter

    loaded = load_classifier(str(folder))
    predictor = Predictor.from_loaded(loaded, MachineSettings(dtype=row.judge_dtype))
    texts = read_labelled(files["test"], DataSettings(), tuple(loaded.settings.labels))
    # What Trainer saved knows no length of its own: all are judged at the length that they were trained with.
    ragged = tokenize_texts(predictor.tokenizer, texts.texts, row.max_length, Reporter(quiet=True))
    found = metrics_of(texts, predictor.probabilities(predictor.logits(ragged)), loaded.settings.threshold)
    return float(found[row.metric])


def wanted(table: str, rows: list[str], contenders: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """What to do, seed by seed, so that all rows have something soon."""
    for seed in seeds:
        for name in rows:
            for contender in contenders:
                yield {"table": table, "task": name, "contender": contender, "seed": seed}


def done(output: Path) -> list[dict[str, Any]]:
    """What has been done, as ``wanted`` gives it."""
    if not output.is_file():
        return []
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.strip()]
    return [{key: line.get(key) for key in ("table", "task", "contender", "seed")} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("same", "own"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contenders", nargs="+", choices=list(TRAIN), default=["ours", "trainer"])
    options = parser.parse_args()
    own = options.table == "own"
    rows = options.rows or (list(OWN_ROWS) if own else list(ROWS))

    import torch

    from bertwright import hardware

    for work in wanted(options.table, rows, options.contenders, options.seeds):
        if work in done(options.output):
            continue
        row = ROWS[work["task"]]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = files_of(row, options.data, folder)
            seconds = TRAIN[work["contender"]](row, own, files, folder / "run", work["seed"])
            found = judge(row, folder / "run" / "model", files)
        line = {
            "case": "quality",
            **work,
            "model": MODEL,
            "row": asdict(row),
            "metrics": {row.metric: found},
            "train_s": seconds,
            "num_threads": torch.get_num_threads(),
            "commit": hardware.source_commit(),
            "torch": torch.__version__,
        }
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
