"""Settings that several acts share: of data, machine, cost and judgement."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ScoringDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
LabelKind = Literal["classes", "multi-label", "soft", "regression"]
"""What labels are: one class a text; any number of classes; a share of each class; a number."""
LongTexts = Literal["head", "head+tail", "windows"]
WindowPooling = Literal["mean", "max"]


class DataSettings(Settings):
    """How a file of texts is read."""

    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    pair_column: str | None = Field(None, description="Column of a second text, where texts are judged in pairs.")
    label_column: tuple[str, ...] = Field(
        (), description="Column of labels, or several with commas between; found by its name if not given."
    )
    label_kind: Literal["auto", LabelKind] = Field(
        "auto", description="What the labels are; auto: several columns are multi-label, one holds classes."
    )
    positive_label: str | None = Field(
        None, description="Of two labels, the one that precision, recall and the scores speak of; the last in order."
    )
    label_threshold: float | None = Field(
        None, description="Turn numeric labels into two classes: 1 at or above this value, else 0."
    )
    hard_labels: bool = Field(
        False, description="With --label-threshold, learn from the two classes too, not from shares between 0 and 1."
    )
    label_map: tuple[str, ...] = Field(
        (), description="Other names for labels in the files: THEIRS=OURS, with commas between."
    )
    group_columns: tuple[str, ...] = Field(
        (), description="Columns of groups, such as identities, kept beside the scores; with commas between."
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="At a row that cannot be used: stop and name it, or skip it and count it."
    )


class TrainedDataSettings(DataSettings):
    """How a file of texts is read for a classifier, whose training settled what its labels are."""

    @model_validator(mode="after")
    def _classes_are_settled(self) -> Self:
        if self.positive_label is not None:
            raise ValueError("--positive-label is settled by the training; give it to bertwright train")
        return self


class MachineSettings(Settings):
    """Where the work is done."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Dtype = Field("auto", description="What the encoder computes in; auto takes bfloat16 where it is fast.")
    token_budget: int | None = Field(
        None,
        ge=1,
        description="Most tokens computed at once; cuts a batch to fit memory: a step is the same but for dropout.",
    )
    compile: Literal["auto", "off"] = Field(
        "auto", description="Whether kernels may be compiled for this machine: C on a CPU, torch.compile on a GPU."
    )


class ScoringMachineSettings(MachineSettings):
    """Where texts are scored."""

    dtype: ScoringDtype = Field(  # type: ignore[assignment]  # scoring can do what training can, and int8
        "auto",
        description="What the encoder computes in; auto takes bfloat16 where it is fast; int8 is coarser, and faster "
        "than bfloat16 on CPUs with AVX512-VNNI but not on those with AMX.",
    )


class CostSettings(Settings):
    """What the machine costs."""

    usd_per_hour: float | None = Field(None, ge=0, description="Price of this machine, to state the cost of the run.")


class JudgementSettings(Settings):
    """What is settled on texts that the model did not learn from."""

    tune_threshold: str | None = Field(
        None,
        description="Find the threshold with the highest accuracy, f1, macro_f1 or matthews, or the highest recall at "
        "precision=0.9, or the highest precision at recall=0.8.",
    )
    calibrate: bool = Field(False, description="Find the temperature under which scores mean what they say.")
