"""Labels: what reads those of a kind."""

from __future__ import annotations

from collections.abc import Sequence

from bertwright.data.class_labels import ClassLabels
from bertwright.data.label_rules import LabelReader, LabelRules
from bertwright.data.number_labels import NumberLabels


def label_reader(rules: LabelRules, path: str, columns: Sequence[str]) -> LabelReader:
    """What reads the labels in ``columns``, those of the first file.

    Raises:
        DataError: as ``LabelRules.task``.
    """
    task = rules.task(path, columns)
    if task == "classes":
        return ClassLabels(rules, path, columns[0])
    return NumberLabels(rules, task, path, tuple(columns))
