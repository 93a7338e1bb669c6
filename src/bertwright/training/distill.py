"""The act of distilling: a fine-tuned teacher into a smaller student, on texts with and without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright.config.distill import DistillConfig
from bertwright.progress import Reporter
from bertwright.runs import Run
from bertwright.training.resume import config_of
from bertwright.training.train import run_training


def distill(
    teacher: str | Path | Run | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Teach a student what ``teacher``, a run or its folder, says of the texts in ``data``, and return its run.

    ``settings`` are those of ``bertwright distill``, with underscores: ``distill("runs/large", "reviews.csv",
    unlabelled="more.parquet", model="bert-tiny")``. The result is a run like any other. ``distill(resume=True,
    output="runs/small")`` goes on with one that was stopped.

    Raises:
        UserError: as ``bertwright.train``; also a teacher without a classifier, or for other labels than the texts
            have.
    """
    given = dict(settings)
    if teacher is not None:
        given["teacher"] = os.fspath(teacher.path if isinstance(teacher, Run) else teacher)
    if data is not None:
        given["train"] = data
    return run_training(distill_config(given), Reporter(quiet=quiet, results=not quiet))


def distill_config(given: dict[str, Any], source: str = "") -> DistillConfig:
    """The settings of a distillation from those that were given: see ``config_of``."""
    return config_of(DistillConfig, given, source)
