"""Settings of tokenising."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings


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
