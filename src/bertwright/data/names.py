"""The names of columns: those by which texts and labels are found, and that no two may be the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bertwright.data.table import show
from bertwright.errors import DataError

TEXT_COLUMN_NAMES = (
    "text",
    "comment_text",
    "comment",
    "sentence",
    "content",
    "review",
    "review_text",
    "review_body",
    "body",
    "message",
    "tweet",
    "document",
    "utterance",
    "phrase",
    "post",
    "question",
    "headline",
    "description",
    "abstract",
    "title",
    "texts",
    "sentences",
    "comments",
    "reviews",
)
"""Names by which a text column is found, the first that is there wins; case, spaces and hyphens do not count."""

LABEL_COLUMN_NAMES = (
    "label",
    "labels",
    "target",
    "toxic",
    "toxicity",
    "is_toxic",
    "sentiment",
    "class",
    "category",
    "classification",
    "polarity",
    "emotion",
    "intent",
    "topic",
    "stars",
    "rating",
    "score",
    "targets",
)
"""Names by which a label column is found, the first that is there wins; case, spaces and hyphens do not count."""


def fold_name(name: str) -> str:
    """A column name as it is looked up in the lists of known names."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def refuse_duplicates(path: str, names: Sequence[str]) -> None:
    """Raise a DataError if two columns of the file ``path`` have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: found two columns named {show(twice[0])}, expected each name once. Rename one of them"
        )
