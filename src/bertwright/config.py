"""Every setting of every act: typed, validated when built, unknown keys refused by name.

The command line's flags derive from these classes, a ``--config FILE.toml`` is read into them, and a run's
``config.json`` holds them resolved, so that a run can be run again from its own record.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bertwright.errors import UserError

Optimizer = Literal["adamw", "adam", "adamax", "sgd"]
Schedule = Literal["linear", "cosine", "constant"]
Pooling = Literal["first", "mean"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ScoringDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
LabelKind = Literal["classes", "multi-label", "soft", "regression"]
"""What labels are: one class a text; any number of classes; a share of each class; a number."""
Recipe = Literal["fast", "best"]
"""How settings that are not given are chosen: for a short training, or for quality."""
LongTexts = Literal["head", "head+tail", "windows"]
WindowPooling = Literal["mean", "max"]


# Settings that hold paths, and those that hold a model's name or its folder's path.
_PATHS = {
    *("output", "train", "test", "validation", "data", "run", "runs", "model", "tokenizer", "figures", "tables"),
    *("teacher", "unlabelled", "teacher_scores"),
    *("checkpoint", "vocabulary"),
    *("corpus", "cache"),
    *("plan", "measured", "results", "logs", "report"),
}


def expand_home(path: str) -> str:
    """``path`` with the user's home in place of a "~" that is its first part: there may be no shell that did it."""
    return os.path.expanduser(path) if path == "~" or path.startswith(("~/", f"~{os.sep}")) else path


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about what it is given."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_paths(cls, values: Any) -> Any:
        """Paths are taken as strings, "~" as the user's home, and one file where several may stand as a list of one."""
        if not isinstance(values, Mapping):
            return values
        plain = {}
        for name, value in values.items():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if kind == tuple[str, ...] and isinstance(value, str):
                value = (value,)
            elif isinstance(value, list | tuple):
                value = tuple(os.fspath(item) if isinstance(item, os.PathLike) else item for item in value)
            if name in _PATHS:
                if isinstance(value, str):
                    value = expand_home(value)
                elif isinstance(value, tuple):
                    value = tuple(expand_home(item) if isinstance(item, str) else item for item in value)
            plain[name] = value
        return plain


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
        description="What the encoder computes in; auto takes bfloat16 where it is fast; int8 is faster on CPUs, "
        "and coarser.",
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
        "all-MiniLM-L6-v2", description="A folder, a hub name, all-MiniLM-L6-v2, or bert-tiny ... bert-large (random)."
    )
    tokenizer: str | None = Field(
        None, description="Model whose tokenizer to use with random weights; all-MiniLM-L6-v2's if not given."
    )
    output: str | None = Field(None, description="Folder of the run; runs/<data>-<model> if not given.")
    overwrite: bool = Field(False, description="Replace the output folder if it is a run.")
    recipe: Recipe = Field(
        "fast",
        description="What is not given: fast, one epoch; best, what did best on validation texts (docs/train.md).",
    )
    max_length: int = Field(220, ge=3, description="Most tokens of a text, [CLS] and [SEP] included; the rest is cut.")
    long_texts: LongTexts = Field(
        "head", description="What is read of longer texts: the head, head and tail, or all of it in windows."
    )
    window_overlap: int = Field(0, ge=0, description="Tokens that neighbouring windows of a text share.")
    window_pooling: WindowPooling = Field("mean", description="How the logits of a text's windows become one.")
    pooling: Pooling = Field("first", description="What the classifier reads: the pooled first token, or the mean.")
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


class TokenizeSettings(Settings):
    """Settings of turning texts into token ids."""

    model: str = Field(
        "all-MiniLM-L6-v2", description="Model whose tokenizer to use: a folder, a run, a hub name, or a size."
    )
    tokenizer: str | None = Field(None, description="Another model whose tokenizer to use, as in bertwright train.")
    output: str | None = Field(None, description="Folder for the token ids; required.")
    overwrite: bool = Field(False, description="Replace the output folder if it holds token ids.")
    max_length: int = Field(
        220, ge=3, le=1_000_000, description="Most tokens of a text, [CLS] and [SEP] included; the rest is cut."
    )
    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    pair_column: str | None = Field(None, description="Column of a second text, where texts are judged in pairs.")
    label_column: tuple[str, ...] = Field(
        (), description="Column of labels, or several with commas between; found by its name, if there is one."
    )
    group_columns: tuple[str, ...] = Field(
        (), description="Columns of groups, such as identities, to take along; with commas between."
    )
    labels: bool = Field(True, description="Take the labels along, as they stand in the files.")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="At a row that cannot be used: stop and name it, or skip it and count it."
    )


class TokenizeConfig(TokenizeSettings):
    """Tokenising as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(description="Files of texts, with or without labels.")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.data:
            raise ValueError("no file given: name at least one file of texts")
        if not self.output:
            raise ValueError("--output is required: name the folder for the token ids")
        if self.label_column and not self.labels:
            raise ValueError("--label-column and --no-labels exclude each other: give one of them")
        return self


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


class DistillSettings(TrainSettings):
    """All settings of teaching a student but its teacher and its files."""

    model: str = Field(
        "bert-tiny", description="The student: a folder, a hub name, all-MiniLM-L6-v2, or bert-tiny ... (random)."
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


class PretrainSettings(CostSettings, MachineSettings):
    """Settings of learning from texts without labels, by guessing masked tokens."""

    model: str = Field(
        "bert-tiny",
        description="bert-tiny ... bert-large, from nothing; or a folder or hub name, whose weights learn on.",
    )
    tokenizer: str | None = Field(
        None, description="Model, or folder with a vocab.txt, whose tokenizer to use with random weights."
    )
    train_vocabulary: int | None = Field(
        None, ge=100, le=1_000_000, description="Learn a WordPiece vocabulary of so many tokens from the corpus first."
    )
    cased: bool = Field(False, description="With --train-vocabulary: tell capital letters from small ones.")
    output: str | None = Field(None, description="Folder of the run; runs/<corpus>-<model>-pretrained if not given.")
    overwrite: bool = Field(False, description="Replace the output folder if it is a run.")
    cache: str | None = Field(
        None, description="Folder that keeps token ids of corpora; bertwright/corpora in the user's cache if not given."
    )
    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    documents: Literal["auto", "lines", "blocks"] = Field(
        "auto", description="What a document is in .txt files: a line, or a block of lines between blank ones."
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "skip", description="At a row that holds no document: stop and name it, or skip it and count it."
    )
    validation_share: float = Field(0.01, ge=0, lt=1, description="Share of the documents held out, at most.")
    max_length: int = Field(
        256, ge=8, le=65_000, description="Most tokens of a sequence, [CLS] and [SEP] included; documents are cut."
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="Share of a sequence's tokens that are to be guessed.")
    whole_words: bool = Field(False, description="Mask all tokens of a word together.")
    epochs: float | None = Field(None, gt=0, description="Times that the corpus is learnt from; 1 if nothing is given.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps, instead of epochs.")
    budget: str | None = Field(
        None, description="Time to learn, such as 30m or 2h, instead of epochs; the learning rate ends at 0 with it."
    )
    batch_tokens: int = Field(16_384, ge=1, description="Tokens per optimizer step, at most.")
    learning_rate: float | None = Field(
        None, gt=0, description="If not given, by the model's width and whether its weights are new (docs/pretrain.md)."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decay of weights, never of biases and norms.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Decay of the gradient's square.")
    epsilon: float = Field(1e-6, gt=0, description="Added to the denominator of AdamW.")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of the training in which the learning rate rises.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the norm of all gradients to this; 0: do not.")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the encoder while it learns.")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of attention weights while it learns.")
    evaluations: int = Field(20, ge=1, description="How often to look at the held-out documents, evenly over it all.")
    eval_every: int | None = Field(None, ge=1, description="Steps between looks at them, instead.")
    seed: int = Field(0, ge=0, description="Everything random follows from it.")
    resume: bool = Field(False, description="Go on with the run in the output folder, if one was stopped there.")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between checkpoints that a stopped run goes on from."
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="Steps between checkpoints, instead of minutes.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("epochs", "steps", "budget") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"--{given[0]} and --{given[1]} exclude each other: give one of them")
        if self.train_vocabulary is not None and self.tokenizer is not None:
            raise ValueError("--train-vocabulary and --tokenizer exclude each other: give one of them")
        return self


class PretrainConfig(PretrainSettings):
    """A pretraining as asked for: its settings and its files."""

    corpus: tuple[str, ...] = Field(description="Files of texts.")

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.corpus:
            raise ValueError("no file given: name at least one file of texts to learn from")
        return self


class EvaluateSettings(CostSettings, ScoringMachineSettings, DataSettings, JudgementSettings):
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
    def _classes_are_settled(self) -> Self:
        if self.positive_label is not None:
            raise ValueError("--positive-label is settled by the training; give it to bertwright train")
        return self

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
        None, description="File for the scores: .parquet, .csv, .tsv or .jsonl; the shell if not given."
    )
    overwrite: bool = Field(False, description="Replace the output file.")


class BenchSettings(CostSettings):
    """Settings of measuring that all cases share."""

    peers: bool = Field(False, description="Measure other libraries too, in turns with ours, on the same texts.")
    contenders: tuple[str, ...] = Field(
        (), description="Measure these alone, besides ours: names of the table, with commas between."
    )
    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="At a row that cannot be used: stop and name it, or skip it and count it."
    )
    max_length: int = Field(220, ge=3, description="Most tokens of a text, [CLS] and [SEP] included; the rest is cut.")
    output: str | None = Field(None, description="File, or folder for one, that the line of JSON is added to.")
    seed: int = Field(0, ge=0, description="Which texts are drawn, and random weights.")

    @model_validator(mode="before")
    @classmethod
    def _names_between_commas(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "contenders" not in values:
            return values
        named = values["contenders"]
        named = [named] if isinstance(named, str) else list(named)
        return {**values, "contenders": tuple(name.strip() for part in named for name in part.split(","))}


class BenchModelSettings(BenchSettings):
    """Settings of measuring what computes with a model."""

    model: str = Field(
        "all-MiniLM-L6-v2", description="A folder, a hub name, all-MiniLM-L6-v2, or bert-tiny ... bert-large (random)."
    )
    tokenizer: str | None = Field(
        None, description="Model whose tokenizer to use with random weights; all-MiniLM-L6-v2's if not given."
    )
    pooling: Pooling = Field("first", description="What the classifier reads: the pooled first token, or the mean.")
    batch_size: int = Field(
        32, ge=1, description="Texts of a batch: of an optimizer step, or as other libraries score."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Dtype = Field("auto", description="What our encoder computes in; auto takes bfloat16 where it is fast.")


class BenchInferSettings(BenchModelSettings):
    """Settings of measuring scoring."""

    run: str | None = Field(None, description="Score with this run's classifier, instead of --model.")
    num_texts: int = Field(2048, ge=1, description="Texts to score in a turn, drawn from the data.")
    rounds: int = Field(5, ge=1, description="Timed turns of each contender.")


class BenchInferConfig(BenchInferSettings):
    """Measuring scoring, as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(min_length=1, description="Files of texts.")


class BenchEnginesSettings(BenchInferSettings):
    """Settings of comparing inference engines."""

    peers: bool = Field(True, description="Measure other libraries' engines too; --no-peers leaves ours alone.")
    batch_size: int = Field(
        0, ge=0, description="Texts of a batch, of engines that pad; 0: each takes the fastest of 8, 32 and 128."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each engine; all usable CPUs if not given.")
    num_alone: int = Field(200, ge=1, description="Texts that are scored one at a time, for the time of one text.")
    report: str | None = Field(None, description="Write what was measured as a page too: an .html file.")
    overwrite: bool = Field(False, description="Replace the file of --report.")


class BenchEnginesConfig(BenchEnginesSettings):
    """Comparing inference engines, as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(min_length=1, description="Files of texts.")


class BenchTrainSettings(BenchModelSettings):
    """Settings of measuring training."""

    label_column: tuple[str, ...] = Field(
        (), description="Column that holds the labels; found by its name if not given."
    )
    positive_label: str | None = Field(None, description="Of two labels, the one that counts as positive.")
    label_threshold: float | None = Field(
        None, description="Turn numeric labels into two classes: 1 at or above this value, else 0."
    )
    num_texts: int = Field(640, ge=1, description="Texts to learn from in a turn, drawn from the data.")
    rounds: int = Field(3, ge=1, description="Timed turns of each contender.")


class BenchTrainConfig(BenchTrainSettings, DataSettings):
    """Measuring training, as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(min_length=1, description="Files of labelled texts.")


class BenchPretrainSettings(BenchSettings):
    """Settings of measuring pretraining."""

    model: str = Field("bert-tiny", description="bert-tiny ... bert-large, or a folder or hub name.")
    tokenizer: str | None = Field(None, description="Model whose tokenizer to use with random weights.")
    max_length: int = Field(128, ge=8, description="Most tokens of a sequence, [CLS] and [SEP] included.")
    batch_tokens: int = Field(8_192, ge=1, description="Tokens per optimizer step.")
    num_steps: int = Field(4, ge=1, description="Optimizer steps of a turn.")
    rounds: int = Field(3, ge=1, description="Timed turns of each contender.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Dtype = Field("auto", description="What our encoder computes in; auto takes bfloat16 where it is fast.")


class BenchPretrainConfig(BenchPretrainSettings):
    """Measuring pretraining, as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(min_length=1, description="Files of texts.")


class BenchMlperfSettings(CostSettings, ScoringMachineSettings):
    """Settings of measuring with MLPerf's load generator."""

    run: str | None = Field(None, description="Score with this run's classifier, instead of --model.")
    model: str = Field(
        "all-MiniLM-L6-v2", description="A folder, a hub name, all-MiniLM-L6-v2, or bert-tiny ... bert-large (random)."
    )
    official_shape: bool = Field(
        False, description="BERT-large with random weights on 384 tokens, as MLPerf's samples have: no texts are read."
    )
    scenarios: tuple[Literal["SingleStream", "Offline", "Server"], ...] = Field(
        ("SingleStream", "Offline", "Server"), description="Which scenarios are run; may be repeated."
    )
    seconds: float = Field(600.0, gt=0, description="The least that each scenario lasts; MLPerf's rules ask for 600.")
    latency_ms: float = Field(130.0, gt=0, description="Server: 99 of 100 answers are there within this.")
    server_qps: float | None = Field(None, gt=0, description="Server: samples a second; searched for if not given.")
    search_seconds: float = Field(20.0, gt=0, description="Server: seconds of each run that searches for the rate.")
    num_texts: int = Field(2048, ge=1, description="Texts that samples are drawn from.")
    max_length: int = Field(220, ge=3, description="Most tokens of a text, [CLS] and [SEP] included; the rest is cut.")
    text_column: str | None = Field(None, description="Column that holds the texts; found by its name if not given.")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="At a row that cannot be used: stop and name it, or skip it and count it."
    )
    logs: str | None = Field(None, description="Folder for LoadGen's logs; they are not kept if not given.")
    output: str | None = Field(None, description="File, or folder for one, that the line of JSON is added to.")
    seed: int = Field(0, ge=0, description="Which texts are drawn, random weights, and when LoadGen sends.")


class BenchMlperfConfig(BenchMlperfSettings):
    """What is measured with MLPerf's load generator."""

    data: tuple[str, ...] = Field((), description="Files of texts.")

    @model_validator(mode="after")
    def _texts_or_shape(self) -> Self:
        if self.official_shape and (self.data or self.run is not None or "model" in self.model_fields_set):
            raise ValueError("--official-shape takes no texts, --model or --run: its samples and its model are given")
        if not self.official_shape and not self.data:
            raise ValueError("no file given: name at least one file of texts, or pass --official-shape")
        if self.run is not None and "model" in self.model_fields_set:
            raise ValueError("--run and --model exclude each other: give one of them")
        return self


class BenchTokenizeSettings(BenchSettings):
    """Settings of measuring tokenising."""

    model: str = Field("all-MiniLM-L6-v2", description="Model whose tokenizer to use: a folder, a hub name.")
    num_texts: int | None = Field(None, ge=1, description="Texts to tokenise in a turn; all of the data if not given.")
    rounds: int = Field(3, ge=1, description="Timed turns of each contender.")


class BenchTokenizeConfig(BenchTokenizeSettings):
    """Measuring tokenising, as asked for: its settings and its files."""

    data: tuple[str, ...] = Field(min_length=1, description="Files of texts.")


class BenchMergeSettings(Settings):
    """How results of many machines are set side by side."""

    train_texts: int = Field(1_000_000, ge=1, description="Texts that the job learns from.")
    epochs: float = Field(1.0, gt=0, description="Times that it learns from each.")
    infer_texts: int = Field(500_000, ge=1, description="Texts that it scores.")
    price: tuple[str, ...] = Field(
        (), description="MACHINE=USD: an hour of the machine whose name has this in it; may be repeated."
    )
    output: str | None = Field(None, description="File for the whole record, .json.")
    report: str | None = Field(None, description="File for a page of it, .html.")
    overwrite: bool = Field(False, description="Replace these files.")


class BenchMergeConfig(BenchMergeSettings):
    """Which results are set side by side."""

    results: tuple[str, ...] = Field(
        min_length=1, description="Files that bertwright bench wrote, and folders of runs."
    )


class ReportSettings(Settings):
    """Settings of a report."""

    output: str = Field("report.html", description="File of the page.")
    figures: str | None = Field(None, description="Folder for its pictures, each as SVG and PNG.")
    tables: str | None = Field(None, description="Folder for its tables, each as Markdown and CSV.")
    overwrite: bool = Field(False, description="Replace the page, and files of the same names in these folders.")


class ReportConfig(ReportSettings):
    """A report as asked for: its settings and what it is about."""

    runs: tuple[str, ...] = Field(description="Folders of runs, or of one sweep.")

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        if not self.runs:
            raise ValueError("no run given: name the folder of a run, of several to compare, or of a sweep")
        return self


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


class ConvertSettings(Settings):
    """Settings of converting a checkpoint into Hugging Face's layout."""

    vocabulary: str | None = Field(
        None,
        description="Folder of the tokenizer's files (dict.txt, encoder.json, vocab.bpe; or bert_config.json, "
        "vocab.txt), if they are not beside the weights.",
    )
    head: str | None = Field(None, description="Which of a fairseq model's classification heads to keep.")
    cased: bool | None = Field(
        None,
        description="Of a TensorFlow checkpoint: tell capital letters from small ones, or not; by default as its files "
        "say, or as its vocabulary looks.",
    )
    strip_accents: bool | None = Field(
        None, description="Of a TensorFlow checkpoint: take the accents off letters, or not; by default as above."
    )


class ConvertConfig(ConvertSettings):
    """Converting as asked for: its settings, the checkpoint and the folder to write."""

    checkpoint: str = Field(description="fairseq's model.pt, the prefix of TensorFlow 1's files, or their folder.")
    output: str = Field(description="The new folder.")


AnySettings = TypeVar("AnySettings", bound=Settings)


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with those of ``over`` in their place; of settings that exclude each other, the one in ``over``."""
    kept = dict(values)
    for one, other in (
        *(("steps", "epochs"), ("validation", "validation_share")),
        *(("budget", "epochs"), ("budget", "steps")),
    ):
        if one in over:
            kept.pop(other, None)
        if other in over:
            kept.pop(one, None)
    return {**kept, **over}


def build(kind: type[AnySettings], values: Mapping[str, Any], source: str = "") -> AnySettings:
    """Settings of ``kind`` from a mapping of names to values.

    ``source`` says where the values come from (a file's name) and opens the error message.

    Raises:
        UserError: an unknown name (with the nearest known one), or a value that its setting refuses.
    """
    prefix = f"{source}: " if source else ""
    known = kind.model_fields
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; the known ones are {', '.join(sorted(known))}"
            raise UserError(f"{prefix}unknown setting {name!r}{hint}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(prefix + explain(error)) from None


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence in this project's words."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = "--" + str(first["loc"][0]).replace("_", "-")
    if first["type"] == "missing":
        return f"{name} is required"
    return f"{name}: found {first['input']!r}; {message[0].lower()}{message[1:]}"


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The settings in a .toml file, or in a run's config.json.

    Raises:
        UserError: the file is missing or is not TOML (or JSON).
    """
    path = Path(expand_home(os.fspath(path)))
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict):
                values = values.get("settings", values)
        else:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --config takes a .toml file or a run's config.json") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no TOML, no JSON, or a huge integer
        raise UserError(f"{path}: cannot be read as settings ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, expected names with values")
    return values
