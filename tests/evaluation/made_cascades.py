"""Cascades of two small random classifiers with different tokenizers: what tests of all that scores go through.

The logits of such models are nearly alike, so that the slopes are steep.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation.random_classifiers import random_classifier

WORDS = ["quick", "brown", "fox", "dog", "film", "café", "hours", "amused", "over", "lazy", "two", "the", "an", "and"]
TEXTS = [" ".join(WORDS[i * j % len(WORDS)] for j in range(1, 2 + i % 9)) for i in range(40)]
PAIRS = [(TEXTS[i], TEXTS[-1 - i]) for i in range(len(TEXTS))]


def made_cascade(folder: Path, sureness: float = 0.8, large: str = "roberta", small_settings=None, **settings) -> Path:
    """A cascade's folder; the small model is a BERT that reads windows of 16 tokens, unless told otherwise."""
    folder.mkdir()
    reading = {} if settings.get("pairs") else {"long_texts": "windows", "window_overlap": 4}
    small = {"max_length": 16, **reading, **settings, **(small_settings or {})}
    loaded = random_classifier(folder / "small", "bert", **small)
    random_classifier(folder / "large", large, **settings)
    labels = loaded.settings.labels
    slopes = [20.0] * (len(labels) if loaded.settings.kind == "multi-label" else 1)
    manifest = {"format": 1, "sureness": sureness, "slopes": slopes, "biases": [0.1 * i for i in range(len(labels))]}
    (folder / "cascade.json").write_text(json.dumps(manifest | {"deferred_share": 0.5}))
    return folder
