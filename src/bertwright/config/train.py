"""Settings of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings
from bertwright.config.parts import (
    CostSettings,
    DataSettings,
    JudgementSettings,
    LongTexts,
    MachineSettings,
    WindowPooling,
)

Optimizer = Literal["adamw", "adam", "adamax", "sgd"]
Schedule = Literal["linear", "cosine", "constant"]
Pooling = Literal["first", "mean"]
Recipe = Literal["fast", "best"]
"""How settings that are not given are chosen: for a short training, or for quality."""


class LearningSettings(Settings):
    """What is learnt, from what, and how."""

    test: tuple[str, ...] = Field((), description="File of held-out texts to judge the model on; may be repeated.")
    validation: tuple[str, ...] = Field((), description="File of texts to choose the best state on; may be repeated.")
    validation_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training texts held out; 0.2 if no test or validation file is given.",
    )
    model: str = Field(
        "all-MiniLM-L6-v2",
        description="A folder, a hub name, all-MiniLM-L6-v2, bertwright-tiny, or bert-tiny ... bert-large (random).",
    )
    tokenizer: str | None = Field(
        None, description="Model whose tokenizer to use with random weights; bert-base-uncased's if not given."
    )
    output: str | None = Field(None, description="Folder of the run; runs/<data>-<model> if not given.")
    overwrite: bool = Field(False, description="Replace the output folder if it is a run.")
    recipe: Recipe = Field(
        "fast",
        description="How settings that are not given are chosen: fast, for a short training; best, for quality (more "
        "epochs, averaged weights, long texts in windows; with --freeze-encoder the mean of all tokens).",
    )
    max_length: int = Field(220, ge=3, description="Most tokens of a text, [CLS] and [SEP] included; the rest is cut.")
    long_texts: LongTexts = Field(
        "head", description="What is read of longer texts: the head, head and tail, or all of it in windows."
    )
    window_overlap: int = Field(0, ge=0, description="Tokens that neighbouring windows of a text share.")
    window_pooling: WindowPooling = Field("mean", description="How the logits of a text's windows become one.")
    pooling: Pooling = Field(
        "first",
        description="What the classifier reads: the pooled first token, or the mean, as without a pooler.",
    )
    epochs: float = Field(1.0, gt=0, description="Times that each text is learnt from.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps, instead of epochs.")
    batch_size: int = Field(32, ge=1, description="Texts per optimizer step.")
    optimizer: Optimizer = Field("adamw", description="The rule that changes the weights.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="If not given: 1e-4 below BERT-base's width, 2e-5 from there, 1e-2 with a frozen encoder.",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="Decay of weights, never of biases and norms; 0.01 for adamw and 0 for others if not given.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient's mean; momentum of sgd.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the gradient's square.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the denominator of the adaptive optimizers.")
    schedule: Schedule = Field("linear", description="How the learning rate falls after the warm-up.")
    warmup_ratio: float = Field(0.05, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the norm of all gradients to this; 0: do not.")
    clip: Literal["all", "each"] = Field(
        "all", description="Clip all gradients together, or each weight's by its own norm, as Keras' clipnorm does."
    )
    average_weights: float = Field(
        0.0, ge=0, le=1, description="Judge and keep the mean of the weights over this last share of the steps."
    )
    class_weights: tuple[str, ...] = Field(
        (), description="balanced, or LABEL=WEIGHT with commas between: how much each class counts in the loss."
    )
    hidden_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout in the encoder; the model's if not given."
    )
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout of attention weights; the fast CUDA kernel has none."
    )
    classifier_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout before the classifier; the model's if not given."
    )
    freeze_encoder: bool = Field(False, description="Train the classifier alone, on features computed once.")
    cache_features: bool = Field(
        True, description="With --freeze-encoder: compute features once. Else anew for each batch, with dropout."
    )
    eval_every: int | None = Field(None, ge=1, description="Steps between evaluations; once an epoch if not given.")
    best_metric: str | None = Field(
        None,
        description="Metric of the validation texts by which a state is kept; if not given, roc_auc for two classes "
        "and for several labels a text, accuracy for more classes, mean_squared_error for numbers.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better one; never if not given."
    )
    num_extremes: int = Field(5, ge=0, description="How many highest and lowest scored texts to show.")
    texts: bool = Field(True, description="Keep the texts beside the scores in predictions.parquet.")
    seed: int = Field(0, ge=0, description="Everything random follows from it.")
    num_processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Processes here that train together: a GPU each, or a share of the CPUs.",
    )
    resume: bool = Field(False, description="Go on with the run in the output folder, if one was stopped there.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints that a stopped run goes on from."
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="Steps between checkpoints, instead of minutes.")
    track: tuple[str, ...] = Field(
        (), description="Trackers that follow the run: tensorboard, mlflow, wandb, trackio; with commas between."
    )

    @model_validator(mode="before")
    @classmethod
    def _weights_by_label(cls, values: Any) -> Any:
        """Weights may be a mapping, as TOML and Python write them: {LABEL: WEIGHT}."""
        if not isinstance(values, Mapping) or not isinstance(values.get("class_weights"), Mapping):
            return values
        weights = values["class_weights"]
        return {**values, "class_weights": tuple(f"{label}={weight}" for label, weight in weights.items())}


class TrainSettings(CostSettings, MachineSettings, DataSettings, JudgementSettings, LearningSettings):
    """All settings of a training but its files."""

    @model_validator(mode="after")
    def _one_source_of_validation(self) -> Self:
        if self.validation and self.validation_share:
            raise ValueError("--validation and --validation-share exclude each other: give one of them")
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("--steps and --epochs exclude each other: give one of them")
        return self

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.freeze_encoder and self.cache_features:
            for name in ("hidden_dropout", "attention_dropout"):
                value = getattr(self, name)
                if name in self.model_fields_set and value:
                    flag = "--" + name.replace("_", "-")
                    raise ValueError(
                        f"{flag} {value:g} changes nothing in a frozen encoder, whose features are computed once, "
                        "without dropout; pass --no-cache-features, or leave out --freeze-encoder"
                    )
        if not self.cache_features and not self.freeze_encoder:
            raise ValueError("--no-cache-features is for --freeze-encoder, which was not given: give both or neither")
        if self.clip == "each" and self.max_grad_norm == 0:
            raise ValueError(
                "--max-grad-norm 0 turns off the clipping that --clip each asks for: give a norm above 0, or leave out "
                "--clip"
            )
        return self


class TrainConfig(TrainSettings):
    """A training as asked for: its settings and its files."""

    act: ClassVar[str] = "train"
    """The act that a run's record names."""
    keeps_later_of_equals: ClassVar[bool] = False
    """Whether of two states with the same validation metric the later one is kept."""

    train: tuple[str, ...] = Field(description="Files of labelled texts.")

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.train:
            raise ValueError("no training file given: name at least one file of labelled texts")
        return self
