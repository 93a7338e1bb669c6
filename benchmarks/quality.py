"""Is the fast training as good? One task learnt by bertwright, by bertwright in float32 and by transformers' Trainer.

Each training is repeated over seeds and judged on the same held-out texts by the same scorer (float32). A line of JSON
is written for each training, and those that are there are not repeated: stop it and start it again at will.

    python benchmarks/quality.py toxic_comments --data DATA --output quality.jsonl

Trainer runs at the settings that its documentation recommends for speed: bf16 autocast, batches grouped by length,
fused AdamW; learning rate, warm-up, decay, batch size and number of epochs are the same for all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "all-MiniLM-L6-v2"
TASKS = {
    "toxic_comments": {
        "train": "toxic_comments/train_1.csv",
        "test": "toxic_comments/train_2.csv",
        "metrics": ("roc_auc", "accuracy"),
    },
    "sst5": {"train": "sst5/sst-train.txt", "test": "sst5/sst-test.txt", "metrics": ("accuracy",)},
}
CONTENDERS = ("trainer", "ours_float32", "ours")
SETTINGS = {"learning_rate": 1e-4, "epochs": 1.0, "batch_size": 32, "max_length": 220, "warmup_ratio": 0.05}


def first_rows(task: str, data: Path, folder: Path, num_texts: int | None) -> dict[str, str]:
    """The task's files, or new ones with their first ``num_texts`` texts."""
    from bertwright.config import DataSettings
    from bertwright.data.columns import read_labelled

    files = {}
    for part in ("train", "test"):
        texts = read_labelled(data / TASKS[task][part], DataSettings())
        if num_texts is not None:
            texts = texts.take(np.arange(min(num_texts, len(texts))))
        path = folder / f"{part}.jsonl"
        assert texts.label_ids is not None
        with path.open("w") as file:
            for text, label in zip(texts.texts.to_pylist(), texts.label_ids, strict=True):
                file.write(json.dumps({"text": text, "label": texts.labels[label]}) + "\n")
        files[part] = str(path)
    return files


def train_ours(files: dict[str, str], output: Path, seed: int, dtype: str) -> float:
    import bertwright

    run = bertwright.train(
        files["train"],
        model=MODEL,
        validation_share=0.0,
        seed=seed,
        dtype=dtype,
        output=str(output),
        quiet=True,
        **SETTINGS,
    )
    assert run.result is not None
    return run.result["seconds"]["train"]


def train_trainer(files: dict[str, str], output: Path, seed: int) -> float:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from bertwright.config import DataSettings
    from bertwright.data.columns import read_labelled
    from bertwright.model.sources import find_folder

    set_seed(seed)
    texts = read_labelled(files["train"], DataSettings())
    assert texts.label_ids is not None
    source = str(find_folder(MODEL)[0])
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = dict(enumerate(texts.labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, dtype=torch.float32, num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
    )
    ids = tokenizer(texts.texts.to_pylist(), truncation=True, max_length=SETTINGS["max_length"])["input_ids"]
    items = [{"input_ids": row, "labels": int(label)} for row, label in zip(ids, texts.label_ids, strict=True)]
    num_steps = math.ceil(len(items) / SETTINGS["batch_size"] * SETTINGS["epochs"])
    arguments = TrainingArguments(
        output_dir=str(output / "scratch"),
        per_device_train_batch_size=SETTINGS["batch_size"],
        learning_rate=SETTINGS["learning_rate"],
        num_train_epochs=SETTINGS["epochs"],
        warmup_steps=math.ceil(SETTINGS["warmup_ratio"] * num_steps),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        train_sampling_strategy="group_by_length",
        seed=seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
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


def judge(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Metrics of a trained model on the test texts, in float32."""
    from bertwright.config import DataSettings, MachineSettings
    from bertwright.data.columns import read_labelled
    from bertwright.evaluation.judge import judge as metrics_of
    from bertwright.evaluation.predictor import Predictor
    from bertwright.model.checkpoint import load_classifier

    loaded = load_classifier(str(folder))
    predictor = Predictor.from_loaded(loaded, MachineSettings(dtype="float32"))
    texts = read_labelled(files["test"], DataSettings(), tuple(loaded.settings.labels))
    ragged = predictor.tokenize(texts.texts)
    # What Trainer saved knows no length of its own; all are judged at the length that they were trained with.
    if int(ragged.lengths.max()) > SETTINGS["max_length"]:
        from bertwright.data.ragged import tokenize_texts
        from bertwright.progress import Reporter

        ragged = tokenize_texts(predictor.tokenizer, texts.texts, SETTINGS["max_length"], Reporter(quiet=True))
    return metrics_of(texts, predictor.probabilities(predictor.logits(ragged)), loaded.settings.threshold)


def done(output: Path) -> set[tuple[str, str, int, int | None]]:
    if not output.is_file():
        return set()
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.strip()]
    return {(line["task"], line["contender"], line["seed"], line["num_texts_asked"]) for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-texts", type=int, help="train and judge on the first so many texts of each file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    options = parser.parse_args()

    import torch

    from bertwright import hardware

    for contender in options.contenders:
        for seed in options.seeds:
            if (options.task, contender, seed, options.num_texts) in done(options.output):
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                files = first_rows(options.task, options.data, folder, options.num_texts)
                output = folder / "run"
                if contender == "trainer":
                    seconds = train_trainer(files, output, seed)
                else:
                    dtype = "float32" if contender == "ours_float32" else "auto"
                    seconds = train_ours(files, output, seed, dtype)
                found = judge(output / "model", files)
            line = {
                "case": "quality",
                "task": options.task,
                "contender": contender,
                "seed": seed,
                "num_texts_asked": options.num_texts,
                "model": MODEL,
                "settings": SETTINGS,
                "metrics": {metric: found[metric] for metric in TASKS[options.task]["metrics"]},
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
