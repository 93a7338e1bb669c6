"""Settings of looking for what is wrong with texts and labels."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bertwright.config.parts import DataSettings, ScoringMachineSettings


class InspectSettings(ScoringMachineSettings, DataSettings):
    """Settings of looking for what is wrong with texts and labels."""

    test: tuple[str, ...] = Field((), description="File of test texts, to find what they share; may be repeated.")
    run: str | None = Field(
        None, description="Run whose scores tell likely label errors: of the data, or of its own held-out texts."
    )
    folds: int | None = Field(
        None, ge=2, le=100, description="Tell likely label errors by cross-validation: this many trainings on the data."
    )
    model: str = Field("all-MiniLM-L6-v2", description="Model to train with --folds.")
    epochs: float = Field(1.0, gt=0, description="Times that each training of --folds learns from each text.")
    max_length: int = Field(220, ge=3, description="Most tokens of a text with --folds; the rest is cut.")
    seed: int = Field(0, ge=0, description="Which texts are in which of the --folds.")
    similarity: float = Field(
        0.8, gt=0, le=1, description="Share of 5-character pieces in common from which texts are near-duplicates."
    )
    num_shown: int = Field(5, ge=0, description="How many groups of near-duplicates and label errors to show.")
    output: str | None = Field(None, description="File for all that is found: .jsonl, or .json for the whole record.")
    overwrite: bool = Field(False, description="Replace the output file.")


class InspectConfig(InspectSettings):
    """An inspection as asked for: its settings and its files."""

    data: tuple[str, ...] = Field((), description="Files of texts, with or without labels.")

    @model_validator(mode="after")
    def _has_something_to_inspect(self) -> Self:
        if not self.data and self.run is None:
            raise ValueError("nothing to inspect: name files of texts, or a run with --run")
        if self.test and not self.data:
            raise ValueError("--test is compared with files of texts: name them too")
        if self.folds is not None and (self.run is not None or not self.data):
            raise ValueError("--folds trains on files of labelled texts: name them, and leave out --run")
        return self
