"""Settings of serving classifiers over HTTP."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bertwright.config.parts import ScoringMachineSettings


class ServeSettings(ScoringMachineSettings):
    """Settings of a server of classifiers."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of this machine's.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(1, ge=1, description="Processes that answer, each with the models in its own memory.")
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads that compute in each worker; the cores shared out among the workers if not given.",
    )
    max_wait_ms: float = Field(
        2.0,
        ge=0,
        description="How long a batch waits, at most, for texts that are being tokenised; one text alone never waits.",
    )
    queue_texts: int = Field(1_024, ge=1, description="Texts that may wait; further requests are told to come back.")
    queue_tokens: int = Field(
        262_144, ge=1, description="Tokens that may wait; further requests are told to come back."
    )
    queue_seconds: float = Field(
        5.0,
        ge=0,
        description="How long what waits before a request may take to compute, at the pace so far; else the request is "
        "told to come back. 0: however long it takes.",
    )
    max_body_bytes: int = Field(2_000_000, ge=1, description="Bytes that the body of a request may have.")
    queue_bytes: int = Field(
        256_000_000, ge=1, description="Bytes that the bodies of all open requests may have together; then as above."
    )
    max_batch_texts: int = Field(256, ge=1, description="Texts that a request may hold.")
    max_request_tokens: int = Field(65_536, ge=1, description="Tokens that the texts of a request may have together.")
    read_seconds: float = Field(
        30.0, gt=0, description="How long the head of a request, and then its body, may take to arrive."
    )
    drain_seconds: float = Field(
        30.0, ge=0, description="After SIGTERM or Ctrl-C: how long accepted requests may still be worked on."
    )
    api_keys: str | None = Field(
        None,
        description="File of keys, one a line, of which a request must bring one; without it those in the environment "
        "variable BERTWRIGHT_API_KEYS, with commas between; without that, none is asked for.",
    )
    label_map: str | None = Field(
        None, description="A .toml or .json file that says which labels make which of OpenAI's moderation categories."
    )
    log: Literal["requests", "errors"] = Field(
        "requests", description="What is logged as lines of JSON on standard error: every request, or errors. No texts."
    )


class ServeConfig(ServeSettings):
    """A server as asked for: its settings and its runs."""

    runs: tuple[str, ...] = Field(
        description="Folders of runs or of models in Hugging Face's layout; NAME=FOLDER names one."
    )

    @model_validator(mode="after")
    def _something_is_served(self) -> Self:
        if not self.runs:
            raise ValueError("found no run to serve, expected at least one: bertwright serve RUN")
        return self

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> Self:
        for most, of_all, what in (
            (self.max_batch_texts, self.queue_texts, "texts"),
            (self.max_request_tokens, self.queue_tokens, "tokens"),
            (self.max_body_bytes, self.queue_bytes, "bytes"),
        ):
            if most > of_all:
                flag = {"texts": "--max-batch-texts", "tokens": "--max-request-tokens", "bytes": "--max-body-bytes"}[
                    what
                ]
                raise ValueError(f"{flag} {most} is more than --queue-{what} {of_all}: no such request could ever wait")
        return self
