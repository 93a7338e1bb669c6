"""The models that a server answers with, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bertwright.config.base import expand_home
from bertwright.config.parts import MachineSettings
from bertwright.errors import UserError
from bertwright.evaluation.cascade import Cascade
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.scorer import LogitScorer, Scorer, TextOrPair
from bertwright.shipping.server.categories import Categories, categories_of
from bertwright.shipping.server.refusal import Refusal

VERSION = "1"


@dataclass(frozen=True)
class ServedModel:
    """A model with the name that it is asked for by.

    Attributes:
        categories: None where it cannot moderate.
        notes: what was found on loading.
    """

    name: str
    scorer: Scorer
    categories: Categories | None
    notes: tuple[str, ...] = ()

    @property
    def has_logits(self) -> bool:
        return isinstance(self.scorer, LogitScorer)

    @property
    def dtype(self) -> str:
        """What it computes in, such as "bfloat16"; of a cascade, what its large model does."""
        return self.scorer.describe()["dtype"]


class Models:
    """All models of a server; the first one answers where no name is given."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.by_name = {model.name: model for model in models}
        self.first = models[0]

    def named(self, name: str | None) -> ServedModel:
        """The model of that name; the first one without a name.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            return self.first
        found = self.by_name.get(name)
        if found is None:
            known = ", ".join(self.by_name)
            raise Refusal("unknown", f"there is no model of that name; expected one of {known}", "model")
        return found

    def described(self) -> list[str]:
        """What was found on loading each model, and what was chosen for this machine, in lines that name it."""
        return [
            f"{model.name}: {line}"
            for model in self.by_name.values()
            for line in (*model.notes, model.scorer.summary())
        ]


def names_and_folders(runs: Sequence[str]) -> dict[str, str]:
    """The folder of each model by its name: NAME=FOLDER, or the folder's own name.

    Raises:
        UserError: two models have one name, or a name could not stand in an address.
    """
    found: dict[str, str] = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        if not equals or "/" in name:
            folder, name = run, Path(run).absolute().name
        if not name.strip(".") or not all(letter.isalnum() or letter in "-_." for letter in name):
            raise UserError(f"{run}: the name {name!r} cannot stand in an address; name the model: NAME=FOLDER")
        if name in found:
            raise UserError(f"{found[name]} and {folder} are both called {name}; name one of them: NAME=FOLDER")
        found[name] = expand_home(folder)
    return found


def load_models(runs: Sequence[str], machine: MachineSettings, label_map: str | None) -> Models:
    """Load all, and score a text with each: what is compiled is compiled before anybody asks.

    Raises:
        UserError: a model is missing or cannot be used, or the label map does not fit the labels.
    """
    models = []
    for name, folder in names_and_folders(runs).items():
        scorer = load_scorer(folder, machine)
        text: list[TextOrPair] = [("a", "b") if scorer.settings.pairs else "a"]
        for part in scorer.parts if isinstance(scorer, Cascade) else (scorer,):
            part.score(text)
        models.append(ServedModel(name, scorer, categories_of(scorer.settings, label_map), tuple(scorer.notes)))
    if label_map is not None and all(model.categories is None for model in models):
        raise UserError(f"{label_map}: none of its labels is a label of {', '.join(model.name for model in models)}")
    return Models(models)
