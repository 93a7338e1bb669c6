"""Settings of pretraining."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bertwright.config.parts import CostSettings, MachineSettings


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
        None,
        gt=0,
        description="If not given: 1e-3 from nothing, less for widths from 512 on; 1e-4 for weights that learn on.",
    )
    initializer_range: float | None = Field(
        None, gt=0, lt=1, description="From nothing: the weights' standard deviation at the start; 0.02 if not given."
    )
    word_embeddings: str | None = Field(
        None, description="From nothing: a wider model with the same vocabulary, whose token embeddings to start with."
    )
    freeze_word_embeddings: bool = Field(False, description="Leave the token embeddings as they start.")
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
        if self.train_vocabulary is not None and self.word_embeddings is not None:
            raise ValueError("--word-embeddings belong to a vocabulary, and --train-vocabulary makes another: give one")
        return self


class PretrainConfig(PretrainSettings):
    """A pretraining as asked for: its settings and its files."""

    corpus: tuple[str, ...] = Field(description="Files of texts.")

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.corpus:
            raise ValueError("no file given: name at least one file of texts to learn from")
        return self
