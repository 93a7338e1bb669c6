"""Settings of judging a classifier, of its bias, and of scoring with it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bertwright.config.parts import (
    CostSettings,
    DataSettings,
    JudgementSettings,
    ScoringMachineSettings,
    TrainedDataSettings,
)


class EvaluateSettings(CostSettings, ScoringMachineSettings, TrainedDataSettings, JudgementSettings):
    """Settings of judging a finished run on other texts."""

    output: str | None = Field(None, description="Folder of the evaluation's own run; none is written if not given.")
    overwrite: bool = Field(False, description="Replace the output folder if it is a run.")
    num_extremes: int = Field(5, ge=0, description="How many highest and lowest scored texts to show.")
    texts: bool = Field(True, description="Keep the texts beside the scores in predictions.parquet.")


class EvaluateConfig(EvaluateSettings):
    """An evaluation as asked for: its settings, its run and its files."""

    run: str = Field(description="Folder of the run, or of a model in Hugging Face's layout.")
    data: tuple[str, ...] = Field(description="Files of labelled texts.")

    @model_validator(mode="after")
    def _what_is_settled_is_kept(self) -> Self:
        for flag, given in (("--tune-threshold", self.tune_threshold), ("--calibrate", self.calibrate)):
            if given and self.output is None:
                raise ValueError(f"{flag} makes a new classifier: name the folder of its run with --output")
        return self


class BiasSettings(ScoringMachineSettings, DataSettings):
    """Settings of judging what a classifier makes of groups of people."""

    label: str | None = Field(
        None, description="The label that is judged; of two classes the last if not given, of more it must be."
    )
    group_terms: str | None = Field(
        None, description="A .toml file of groups with their terms; a built-in list without it and without columns."
    )
    min_group_texts: int = Field(20, ge=1, description="Groups of fewer texts are named, but not judged.")


class BiasConfig(BiasSettings):
    """A judgement of bias as asked for: its settings, its run and its files, if other texts are to be judged."""

    run: str = Field(description="Folder of the run, or of a model in Hugging Face's layout.")
    data: tuple[str, ...] = Field(
        (), description="Files of labelled texts; the run's held-out texts if none are given."
    )

    @model_validator(mode="after")
    def _one_source_of_groups(self) -> Self:
        if self.positive_label is not None:
            raise ValueError("--positive-label is settled by the training; --label says which label is judged")
        if self.group_terms is not None and self.group_columns:
            raise ValueError("--group-terms and --group-columns exclude each other: give one of them")
        return self


class PredictSettings(ScoringMachineSettings):
    """Settings of scoring texts."""

    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    pair_column: str | None = Field(None, description="Column of a second text, where texts are judged in pairs.")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="At a row that cannot be used: stop and name it, or skip it and count it."
    )
    group_columns: tuple[str, ...] = Field(
        (), description="Columns of groups, such as identities, kept beside the scores; with commas between."
    )
    output: str | None = Field(
        None,
        description="File for the scores: .parquet, .csv, .tsv or .jsonl; a folder of .parquet files if it ends in /; "
        "the shell if not given.",
    )
    overwrite: bool = Field(False, description="Replace the output, and what a stopped scoring has left beside it.")
    resume: bool = Field(False, description="Go on with a scoring that was stopped, from its last whole shard.")
    shard_texts: int = Field(
        16_384,
        ge=1,
        le=1 << 20,
        description="Most texts that are read, scored and written at once: so many are lost when the power fails.",
    )
    distribute: Literal["ray"] | None = Field(
        None,
        description="Score on all cores and GPUs of a Ray cluster (that of RAY_ADDRESS, else this machine): from "
        ".parquet files to a folder of them, on any file system.",
    )
