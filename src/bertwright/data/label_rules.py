"""What is asked of labels: of which kind they are, and what they become. What a reader of labels does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from bertwright.config.parts import DataSettings, LabelKind
from bertwright.data.rows import Part
from bertwright.data.table import BadRow, show
from bertwright.errors import DataError

Task = Literal["classes", "threshold", "soft", "multi-label", "regression"]
"""How labels are read; "threshold": one column whose kind its numbers decide."""


@dataclass(frozen=True)
class LabelRules:
    """What is asked of the labels of some files; ``labels`` and ``kind`` are those of a training that they follow.

    Attributes:
        asked: the kind that the user named, or "auto".
        threshold: from which number on a label is 1.
        hard: learn from what the threshold says, not from shares.
        positive: of two classes, the one that goes last.
        kept: the threshold is that of the training, nobody asked for it.
        notes: what the user must be told of them.
    """

    asked: Literal["auto", LabelKind] = "auto"
    threshold: float | None = None
    hard: bool = False
    positive: str | None = None
    labels: tuple[str, ...] | None = None
    kind: LabelKind | None = None
    kept: bool = False
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        settings: DataSettings,
        labels: tuple[str, ...] | None,
        kind: LabelKind | None,
        kept_threshold: float | None = None,
        kept_hard: bool = False,
    ) -> LabelRules:
        """Those of ``settings``; a training's own threshold and ``--hard-labels`` hold where these say nothing.

        Raises:
            DataError: they exclude each other, or another kind than that of the training was asked for.
        """
        asked, threshold = settings.label_kind, settings.label_threshold
        notes: list[str] = []
        kept = threshold is None and kept_threshold is not None
        if kept:
            threshold = kept_threshold
            notes.append(f"labels count as 1 from {threshold:g} on, as in the training (--label-threshold)")
        elif kept_threshold is not None and threshold != kept_threshold:
            notes.append(f"labels count as 1 from {threshold:g} on, in the training from {kept_threshold:g} on")
        if kept_hard and kind == "classes" and asked == "auto" and threshold is None:
            asked = "soft"  # shares, of which the training made classes
        rules = LabelRules(
            asked,
            threshold,
            settings.hard_labels or kept_hard,
            settings.positive_label,
            labels,
            kind,
            kept,
            tuple(notes),
        )
        rules._check()
        return rules

    def _check(self) -> None:
        asked = self.asked
        if self.kind is not None and asked not in ("auto", self.kind) and (asked, self.kind) != ("soft", "classes"):
            raise DataError(f"--label-kind {asked}: the training's labels are of kind {self.kind}, expected the same")
        self._check_kind(self.wanted)

    def _check_kind(self, kind: str) -> None:
        """Refuse settings that labels of this kind do not have."""
        if kind == "regression" and (self.threshold is not None or self.hard):
            flag = "--hard-labels" if self.threshold is None else "--label-threshold"
            raise DataError(f"{flag} makes classes and regression learns numbers: give one of them")
        if kind in ("multi-label", "regression") and self.positive is not None:
            raise DataError(f"--positive-label names one of two classes, found {kind} labels: leave it out")
        if kind in ("soft", "multi-label") and self.threshold is not None and not 0 < self.threshold <= 1:
            raise DataError(f"--label-threshold: found {self.threshold:g}, for shares expected above 0 and at most 1")

    @property
    def wanted(self) -> Literal["auto", LabelKind]:
        """The kind that is known before the columns are."""
        return self.asked if self.asked != "auto" else self.kind or "auto"

    def preferred_columns(self) -> tuple[tuple[str, ...], bool]:
        """Label columns to take if none were asked for, and whether they must be there."""
        if self.labels is None or self.wanted not in ("multi-label", "soft", "regression"):
            return (), False
        return self.labels, self.wanted == "multi-label"

    def task(self, path: str, columns: Sequence[str]) -> Task:
        """How the labels in ``columns`` of the file ``path`` are read.

        Raises:
            DataError: labels of the kind that is wanted cannot be in so many columns, or do not have a setting given.
        """
        wanted, several = self.wanted, len(columns) > 1
        if wanted == "auto":
            wanted = "multi-label" if several else "classes"
            if not several and self.threshold is not None:
                return "threshold"
        if several and wanted in ("classes", "regression"):
            raise DataError(
                f"{path}: found {len(columns)} label columns ({', '.join(map(show, columns[:10]))}), expected one for "
                f"{wanted} labels. Name one with --label-column"
            )
        self._check_kind(wanted)
        if wanted == "classes" and self.threshold is not None:
            return "threshold"
        if wanted == "classes" and self.hard:
            raise DataError(
                f"--hard-labels: found one label column, {show(columns[0])}, whose classes are hard already. Leave it "
                "out, or say of which numbers to make classes with --label-threshold or --label-kind soft"
            )
        one_class = not several and self.labels is not None and set(self.labels) != {"0", "1"}
        if wanted == "soft" and (several or one_class) and self.threshold is not None:
            raise DataError(
                "--label-threshold: found shares of several classes, of which the class with the largest share "
                "counts. Leave it out"
            )
        if wanted == "soft" and one_class:
            return "classes"  # the one right class of each text, for a training of shares of several classes
        return wanted


@dataclass(frozen=True)
class Settled:
    """Labels of all rows, as ``LabelledTexts`` holds them."""

    kind: LabelKind
    labels: tuple[str, ...]
    label_ids: np.ndarray | None
    targets: np.ndarray | None = None
    hard_targets: np.ndarray | None = None


class LabelReader(Protocol):
    """Takes the labels of one part of a file after the other."""

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """``names``, the label columns of the file ``path``, in the order in which they are read.

        Raises:
            DataError: they are others than in the first file, or than those of the training.
        """
        ...

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        """Mark the rows of ``part`` whose label is none, and keep the labels of the usable ones."""
        ...

    def check(self) -> tuple[np.ndarray | None, dict[int, list[BadRow]], Counter[int]]:
        """Once all is added: refuse labels that are none, and say which of the kept rows cannot be used after all.

        Returns (kept rows,) bool or None for none of them, by file the first of these rows, and how many there are.
        """
        ...

    def settle(self, dropped: np.ndarray | None, notes: list[str]) -> Settled:
        """The labels of the rows that are not ``dropped``; what the user must be told goes to ``notes``.

        Raises:
            DataError: there is one class only, or another thing that a training cannot learn from.
        """
        ...
