"""What scores texts, by the name that a user gives it. Torch is loaded only where it is what scores."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bertwright.config.base import build
from bertwright.config.parts import MachineSettings, ScoringMachineSettings
from bertwright.errors import CheckpointError
from bertwright.evaluation.cascade import LARGE, SMALL, Cascade, is_cascade, read_cascade_manifest
from bertwright.evaluation.graph_predictor import GraphPredictor, is_exported
from bertwright.evaluation.logit_scorer import ScorerByLogits


def load_scorer(path: str, machine: MachineSettings | None = None) -> ScorerByLogits | Cascade:
    """The classifier of a run, of a folder in Hugging Face's layout, of an exported graph, or of a hub name; a cascade.

    Raises:
        UserError: no classifier is there, or it cannot be used; an unknown device or dtype.
    """
    if is_cascade(path):
        folder = Path(path).expanduser()
        manifest = read_cascade_manifest(folder)
        small, large = (load_classifier_scorer(str(folder / name), machine) for name in (SMALL, LARGE))
        return Cascade(small, large, manifest, path)
    return load_classifier_scorer(path, machine)


def load_classifier_scorer(path: str, machine: MachineSettings | None = None) -> ScorerByLogits:
    """As :func:`load_scorer`, of one classifier.

    Raises:
        UserError: as :func:`load_scorer`; also a cascade.
    """
    if is_cascade(path):
        raise CheckpointError(f"{path}: a cascade, expected one classifier")
    if is_exported(path):
        return GraphPredictor.from_folder(path, machine)
    # By name: these load torch, which an exported graph does without.
    load_classifier: Any = importlib.import_module("bertwright.model.checkpoint").load_classifier
    predictor: Any = importlib.import_module("bertwright.evaluation.predictor").Predictor
    found: ScorerByLogits = predictor.from_loaded(load_classifier(path), machine)
    return found


def load(
    path: str, device: str = "auto", dtype: str = "auto", token_budget: int | None = None
) -> ScorerByLogits | Cascade:
    """The classifier of a run, of a folder in Hugging Face's layout, of an exported graph, or of a hub name; a cascade.

    With ``dtype="auto"`` scores are those of bfloat16 where the machine multiplies it fast; ``dtype="float32"`` gives
    the digits that other libraries give for the same folder. A graph computes in what it was exported in.

    Raises:
        UserError: no classifier is there, or it cannot be used; an unknown device or dtype.
    """
    machine = build(ScoringMachineSettings, {"device": device, "dtype": dtype, "token_budget": token_budget})
    return load_scorer(str(path), machine)
