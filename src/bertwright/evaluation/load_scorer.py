"""What scores texts, by the name that a user gives it."""

from __future__ import annotations

from bertwright.config.parts import MachineSettings
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.scorer import Scorer
from bertwright.model.checkpoint import load_classifier


def load_scorer(path: str, machine: MachineSettings | None = None) -> Scorer:
    """The classifier of a run, of a folder in Hugging Face's layout, or of a hub name, ready to score texts.

    Raises:
        UserError: no classifier is there, or it cannot be used; an unknown device or dtype.
    """
    return Predictor.from_loaded(load_classifier(path), machine)
