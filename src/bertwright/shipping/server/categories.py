"""OpenAI's moderation categories, made of a model's own labels."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.config.base import expand_home
from bertwright.errors import UserError, shown
from bertwright.model.classifier_settings import ClassifierSettings

# All are required in an answer: specification of POST /v1/moderations, schema CreateModerationResponse.
OPENAI_CATEGORIES = (
    *("hate", "hate/threatening", "harassment", "harassment/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)


@dataclass(frozen=True)
class Categories:
    """Which labels make which category: their places in the scores' columns. A category without labels is never so.

    ``summed``: the labels exclude each other, so that one of several has the sum of their scores; else the highest.
    """

    columns: Mapping[str, tuple[int, ...]]
    summed: bool

    def scores(self, row: Sequence[float]) -> dict[str, float]:
        """The score of each category, of the labels' scores."""
        combined = sum if self.summed else max
        return {
            name: min(1.0, float(combined(row[column] for column in columns))) if columns else 0.0
            for name, columns in self.columns.items()
        }

    def decided(self, has: Sequence[bool]) -> dict[str, bool]:
        """Whether each category is so, of which labels are decided for."""
        return {name: any(has[column] for column in columns) for name, columns in self.columns.items()}


def categories_of(settings: ClassifierSettings, label_map: str | None) -> Categories | None:
    """The categories of a model with these settings; None where it cannot moderate.

    Without a map each label is a category of its own beside OpenAI's, or fills the one of its name; of two classes only
    the last. Of more classes nobody knows which of them are harmless: they need a map.

    Raises:
        UserError: the map cannot be read or does not say what it should.
    """
    labels = settings.labels
    if settings.kind == "regression" or settings.pairs:
        return None
    named: dict[str, tuple[str, ...]]
    if label_map is not None:
        named = read_label_map(label_map)
        known = {name: tuple(label for label in some if label in labels) for name, some in named.items()}
        if not any(known.values()):
            return None
        named = known
    elif settings.kind == "multi-label":
        named = {label: (label,) for label in labels}
    elif len(labels) == 2:
        named = {labels[1]: (labels[1],)}
    else:
        return None
    columns = {name: tuple(labels.index(label) for label in named.get(name, ())) for name in OPENAI_CATEGORIES}
    columns |= {name: tuple(labels.index(label) for label in some) for name, some in named.items()}
    return Categories(columns, settings.kind != "multi-label")


def read_label_map(path: str) -> dict[str, tuple[str, ...]]:
    """The labels of each category, from a .toml or .json file of CATEGORY = LABEL or CATEGORY = [LABEL, ...].

    Raises:
        UserError: the file is missing, or holds something else.
    """
    file = Path(expand_home(path))
    try:
        content: Any = file.read_text(encoding="utf-8")
        content = json.loads(content) if file.suffix == ".json" else tomllib.loads(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --label-map takes a .toml or .json file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a label map ({error})") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: found no categories, expected CATEGORY = LABEL")
    found = {}
    for category, labels in content.items():
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{path}: {category}: found {shown(labels)}, expected a label or a list of labels")
        found[category] = tuple(labels)
    return found
