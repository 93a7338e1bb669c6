"""What a saved classifier needs beyond Hugging Face's files. Needs no torch, as not every runtime has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings, build
from bertwright.config.parts import LabelKind, LongTexts, WindowPooling
from bertwright.config.train import Pooling
from bertwright.errors import CheckpointError, UserError

Share = Annotated[float, Field(ge=0, le=1)]


SETTINGS = "bertwright.json"


class ClassifierSettings(Settings):
    """What a saved classifier needs beyond Hugging Face's files: bertwright.json."""

    format: Literal[1] = 1
    labels: tuple[str, ...] = Field(min_length=1)
    kind: LabelKind = "classes"
    pooling: Pooling = "first"
    max_length: int = Field(220, ge=3, le=1_000_000)
    pairs: bool = False
    long_texts: LongTexts = "head"
    window_overlap: int = Field(0, ge=0)
    window_pooling: WindowPooling = "mean"
    label_threshold: float | None = None
    hard_labels: bool = False
    threshold: Share | tuple[Share, ...] = 0.5
    """Of the last of two classes, or of any number of labels: one for all, or one for each in their order."""
    temperature: float = Field(1.0, ge=1e-3, le=1e3)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        least = {"classes": 2, "soft": 2}.get(self.kind, 1)
        if len(self.labels) < least:
            raise ValueError(f"labels must be {least} or more, found {', '.join(self.labels)}")
        if self.kind == "regression" and len(self.labels) > 1:
            raise ValueError(f"labels must be one for a regression, found {', '.join(self.labels)}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, found {', '.join(self.labels)}")
        return self

    @model_validator(mode="after")
    def _a_threshold_for_each_label(self) -> Self:
        if isinstance(self.threshold, tuple):
            if self.kind != "multi-label":
                raise ValueError(f"threshold must be one number for labels of kind {self.kind}, found a list")
            if len(self.threshold) != len(self.labels):
                raise ValueError(
                    f"threshold must be one number, or {len(self.labels)}: one for each label, found "
                    f"{len(self.threshold)}"
                )
        return self


def read_classifier_settings(folder: Path) -> ClassifierSettings | None:
    """The bertwright.json of a model's folder; None where there is none.

    Raises:
        CheckpointError: it is damaged, or of a later version.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        return build(ClassifierSettings, read_object(path), str(path))
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file of JSON that belongs to a model.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: found {type(values).__name__}, expected an object")
    return values
