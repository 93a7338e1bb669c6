"""Settings of many trainings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bertwright.config.train import TrainSettings


class SweepSettings(TrainSettings):
    """Settings of many trainings: those that they share, and in what they differ."""

    output: str | None = Field(None, description="Folder of the sweep; sweeps/<data> if not given.")
    overwrite: bool = Field(False, description="Replace the output folder if it is a sweep.")
    resume: bool = Field(False, description="Go on with the sweep in the output folder; the same command does it too.")
    grid: tuple[str, ...] = Field(
        (), description="NAME=V1,V2: values of a setting of bertwright train, or a model; may be repeated."
    )
    space: tuple[str, ...] = Field(
        (), description="NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A|B: what to search a setting in; may be repeated."
    )
    search: Literal["grid", "random", "tpe"] | None = Field(
        None, description="All of the grid, or draw: at random, or by what was good so far (tpe); tpe with --space."
    )
    num_trials: int | None = Field(None, ge=1, le=100_000, description="Trainings of a search.")
    search_seed: int = Field(0, ge=0, description="What a search draws follows from it.")
    trials: str | None = Field(None, description="A .toml, .json or .jsonl file with a list of trainings.")
    metric: str | None = Field(
        None,
        description="What to choose by, such as validation:f1; if not given, that by which a training keeps its state.",
    )
    prune: bool = Field(False, description="End a training early that is worse than others were at that point.")
    pruner: Literal["median", "hyperband"] = Field("median", description="By what rule --prune ends a training.")
    budget: str | None = Field(None, description="Most time or money, such as 30m, 2h or 5usd; then it stops.")
    jobs: str = Field("auto", description="Trainings side by side: a number, or auto.")
    storage: str | None = Field(
        None, description="URL of a PostgreSQL database for many machines; a file in the output folder if not given."
    )
    study: str | None = Field(None, description="Name of the sweep in the database; the output folder's if not given.")
    join: bool = Field(False, description="Work on a sweep that others work on too, in this folder or database.")
    retry_failed: bool = Field(False, description="Do trainings that failed again.")
    heartbeat_s: int = Field(
        15,
        ge=1,
        le=3600,
        description="Seconds between signs of life; without any for four times as long, a worker is dead.",
    )
