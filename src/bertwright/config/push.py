"""Settings of publishing a classifier on the hub."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings


class PushSettings(Settings):
    """How a run is published."""

    private: bool = Field(False, description="Make the repository private, if it is new.")
    revision: str = Field("main", min_length=1, description="Branch to commit to.")
    message: str | None = Field(None, description="What the commit says.")
    license: str | None = Field(None, description="Licence of the model, by the hub's short name such as apache-2.0.")
    language: tuple[str, ...] = Field((), description="Language of the texts, such as en; may be repeated.")
    card: str | None = Field(None, description="File with a model card to publish in place of the one that is made.")
    bias: str | None = Field(
        None,
        description="File with the line of `bertwright bias RUN FILE --json`, whose groups stand in the card; if not "
        "given, those of the held-out texts.",
    )
    dry_run: str | None = Field(
        None, description="New folder to write what would be published to; nothing leaves the machine."
    )


class PushConfig(PushSettings):
    """A publication as asked for: its settings, its run and its name on the hub."""

    run: str = Field(description="Folder of a finished training.")
    name: str = Field(description="Name on the hub: owner/name.")

    @model_validator(mode="after")
    def _a_card_of_ones_own_has_its_own_groups(self) -> Self:
        if self.card is not None and self.bias is not None:
            raise ValueError("--card takes the place of the card that --bias would stand in: give one of them")
        return self
