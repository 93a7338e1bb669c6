"""Settings of distilling."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bertwright.config.train import TrainConfig, TrainSettings


class DistillSettings(TrainSettings):
    """All settings of teaching a student but its teacher and its files."""

    model: str = Field(
        "bertwright-tiny", description="The student: a folder, a hub name, a model's name, or bert-tiny ... (random)."
    )
    epochs: float = Field(10.0, gt=0, description="Times that each text, labelled or not, is learnt from.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="If not given: 5e-4 from random weights, else 2e-4, below BERT-base's width; 5e-5 from there, 1e-2 "
        "with a frozen encoder.",
    )
    validation_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the labelled texts held out; if no validation file is given 0.1, or 0.2 without a test.",
    )
    unlabelled: tuple[str, ...] = Field(
        (), description="File of texts without labels that the teacher scores; may be repeated."
    )
    unlabelled_text_column: str | None = Field(
        None, description="Column of their texts, where it is called otherwise than in the labelled files."
    )
    soft_weight: float = Field(
        0.9, gt=0, le=1, description="Weight of the teacher's scores for a labelled text; its label has the rest."
    )
    temperature: float = Field(
        2.0, gt=0, le=1000, description="Of teacher and student while it learns: higher shows more of the small scores."
    )
    match_hidden: bool = Field(
        False, description="Learn too what the teacher's classifier reads of each text, by a projection of the student."
    )
    hidden_weight: float = Field(1.0, gt=0, description="Weight of what --match-hidden adds to the loss.")
    teacher_scores: str | None = Field(
        None, description="Folder that keeps the teacher's scores for other students; in the run if not given."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.positive_label is not None:
            raise ValueError("--positive-label is settled by the teacher's training; leave it out")
        if self.hidden_weight != 1 and not self.match_hidden:
            raise ValueError("--hidden-weight is for --match-hidden, which was not given: give both or neither")
        if self.match_hidden and self.freeze_encoder:
            raise ValueError("--match-hidden teaches the encoder, which --freeze-encoder keeps as it is: give one")
        if self.unlabelled_text_column is not None and not self.unlabelled:
            raise ValueError("--unlabelled-text-column is for --unlabelled, which was not given: give both or neither")
        return self


class DistillConfig(DistillSettings, TrainConfig):
    """A student's training as asked for: its settings, its teacher and its files."""

    act: ClassVar[str] = "distill"
    # Few labels are soon all known, by which time a student has much to learn of its teacher yet.
    keeps_later_of_equals: ClassVar[bool] = True

    teacher: str = Field(description="Folder of the teacher's run, or of a classifier in Hugging Face's layout.")
