"""Settings of planning."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bertwright.config.base import build
from bertwright.config.evaluate import EvaluateConfig
from bertwright.config.parts import ScoringDtype
from bertwright.config.train import TrainConfig, TrainSettings


class PlanSettings(TrainSettings):
    """Settings of planning: those of the training that is planned, and how it is tried out."""

    run: str | None = Field(
        None, description="Plan the scoring of the files with this run's classifier, instead of a training."
    )
    plan: str | None = Field(None, description="File of the plan; beside --output, which is not made, if not given.")
    probe_seconds: float = Field(60.0, gt=0, le=3600, description="Seconds for trying the work out on this machine.")
    machines: tuple[str, ...] = Field(
        (), description="Machines of the price table to plan for: words of their names; several with commas between."
    )
    dtype: ScoringDtype = Field(  # type: ignore[assignment]  # a scoring can do what a training can, and int8
        "auto", description="What the encoder computes in; auto takes bfloat16 where it is fast; int8 with --run alone."
    )
    num_machines: int = Field(10, ge=0, description="How many other machines to show, the cheapest first.")
    measured: tuple[str, ...] = Field(
        (), description="File of bench train or bench infer lines from another machine; may be repeated."
    )


class PlanConfig(PlanSettings):
    """What is planned: a training on files, or the scoring of them."""

    data: tuple[str, ...] = Field(description="Files of texts.")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.data:
            raise ValueError("nothing to plan: name the files that the training or scoring will read")
        if self.run is not None:
            known = {
                *EvaluateConfig.model_fields,
                *(PlanSettings.model_fields.keys() - TrainSettings.model_fields.keys()),
            }
            other = sorted(self.model_fields_set - known - {"data", "pair_column"})
            if other:
                flag = "--" + other[0].replace("_", "-")
                raise ValueError(f"{flag} is of a training, and --run plans a scoring: leave one of them out")
        return self

    def training(self) -> TrainConfig:
        """The training that is planned, as ``bertwright train`` would be given it."""
        given = {name: getattr(self, name) for name in self.model_fields_set if name in TrainConfig.model_fields}
        return build(TrainConfig, {**given, "train": self.data})

    def scoring(self) -> EvaluateConfig:
        """The scoring that is planned, as ``bertwright evaluate`` would be given it."""
        given = {name: getattr(self, name) for name in self.model_fields_set if name in EvaluateConfig.model_fields}
        return build(EvaluateConfig, {**given, "data": self.data})
