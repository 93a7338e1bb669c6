"""Small random classifiers of every family, and texts of all lengths for them: what tests of exports go through."""

from __future__ import annotations

from pathlib import Path

from tests.model.families import CASES, TEXTS, save_tokenizer

from bertwright.model.checkpoint import Loaded, load_classifier
from bertwright.model.classifier_settings import ClassifierSettings

LONG = [*TEXTS, "", "film " * 200, " ".join(TEXTS * 5)]


def random_classifier(folder: Path, name: str = "bert", **settings) -> Loaded:
    """A classifier of the family with random weights, that reads 32 tokens at once."""
    case = CASES[name]
    folder.mkdir(exist_ok=True)
    vocab_size = save_tokenizer(case, folder)
    labels = settings.pop("labels", ("a", "b", "c"))
    case.model(vocab_size, num_labels=len(labels)).save_pretrained(folder)
    values = {"labels": labels, "max_length": 32, **settings}
    (folder / "bertwright.json").write_text(ClassifierSettings(**values).model_dump_json())
    return load_classifier(str(folder))
