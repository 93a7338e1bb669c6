"""Settings of making a cascade of two classifiers."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bertwright.config.parts import ScoringMachineSettings, TrainedDataSettings


class CascadeSettings(ScoringMachineSettings, TrainedDataSettings):
    """Settings of making a cascade: when its small model answers is found on validation texts."""

    validation: tuple[str, ...] = Field(
        (),
        description="File of labelled texts like those to come, which neither model learnt from and which the "
        "cascade is not judged on later; or several with commas between.",
    )
    output: str | None = Field(None, description="The new folder.")
    metric: str | None = Field(
        None,
        description="Metric that is kept; that by which the large model's training chose its best state if not given.",
    )
    max_loss: float | None = Field(
        None,
        ge=0,
        description="Most that the metric may be worse than the large model's, at the worse end of the 95 % interval "
        "of the difference: of a share such as roc_auc so much, of an error such as log_loss this share of it. Down to "
        "the worse end of the large model's own interval if not given.",
    )
    target: float | None = Field(
        None, description="In place of --max-loss: what the metric must reach on the validation texts."
    )
    overwrite: bool = Field(False, description="Replace the output folder if it is a cascade.")

    @model_validator(mode="after")
    def _one_measure_of_quality(self) -> Self:
        if self.max_loss is not None and self.target is not None:
            raise ValueError("--max-loss and --target exclude each other: give one of them")
        return self


class CascadeConfig(CascadeSettings):
    """A cascade as asked for: its settings and its two models."""

    small: str = Field(description="Folder of the small model's run, or of an exported graph.")
    large: str = Field(description="Folder of the large model's run, or of an exported graph.")

    @model_validator(mode="after")
    def _all_there(self) -> Self:
        if not self.validation:
            raise ValueError("--validation is required: name a file of labelled texts that neither model learnt from")
        if self.output is None:
            raise ValueError("--output is required: name the new folder")
        return self
