"""Settings of exporting a classifier."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from bertwright.config.parts import TrainedDataSettings

GraphDtype = Literal["float32", "int8"]
Architecture = Literal["x86_64", "arm64"]


class ParitySettings(TrainedDataSettings):
    """How an exported graph is compared with the classifier that it was made of."""

    data: tuple[str, ...] = Field(
        (),
        description="File of labelled texts to compare on, or several with commas between; the run's held-out texts if "
        "not given.",
    )
    num_texts: int = Field(10_000, ge=1, description="Most texts to compare on; drawn by chance where there are more.")
    metric: str | None = Field(
        None, description="Metric whose loss is judged; that by which the training chose its best state if not given."
    )
    max_loss: float = Field(
        0.01,
        ge=0,
        description="Most that the metric may lose: of a share such as accuracy so much, of an error such as log_loss "
        "this share of it.",
    )
    force: bool = Field(False, description="Write the graph whatever it loses; the loss is on record.")
    overwrite: bool = Field(False, description="Replace the output folder if it is one that this act made.")


class ExportOnnxSettings(ParitySettings):
    """Settings of exporting a classifier as an ONNX graph."""

    dtype: GraphDtype = Field(
        "float32", description="What the graph's matrices are in; int8 is smaller and faster on most CPUs, and coarser."
    )


class ExportOnnxConfig(ExportOnnxSettings):
    """An export as asked for: its settings, its run and its folder."""

    run: str = Field(description="Folder of the run, or of a model in Hugging Face's layout.")
    output: str = Field(description="The new folder.")


class ExportLambdaSettings(ParitySettings):
    """Settings of packing a classifier for AWS Lambda."""

    dtype: GraphDtype = Field(
        "int8", description="What the graph's matrices are in; float32 is exact and four times as large."
    )
    architecture: tuple[Architecture, ...] = Field(
        ("x86_64",), min_length=1, description="Processor that the function runs on; may be repeated."
    )
    python_version: str = Field(
        "3.13",
        pattern=r"^3\.[0-9]{1,2}$",
        description="Python of the function's runtime. At AWS 3.12 or later; an older one is to try a bundle out here.",
    )
    wheels: str | None = Field(
        None, description="Folder of wheels of onnxruntime, numpy and tokenizers; fetched with pip if not given."
    )

    @field_validator("architecture", mode="before")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, str) else value
        return tuple(dict.fromkeys(given)) if isinstance(given, list | tuple) else given


class ExportLambdaConfig(ExportLambdaSettings):
    """A bundle as asked for: its settings, its run and its folder."""

    run: str = Field(description="Folder of the run, or of a model in Hugging Face's layout.")
    output: str = Field(description="The new folder.")
