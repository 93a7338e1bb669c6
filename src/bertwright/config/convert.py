"""Settings of converting a checkpoint."""

from __future__ import annotations

from pydantic import Field

from bertwright.config.base import Settings


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
