"""Settings of measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings
from bertwright.config.parts import CostSettings, DataSettings, Dtype, ScoringMachineSettings
from bertwright.config.train import Pooling


class MeasuredMachineSettings(CostSettings):
    """What is recorded of the machine that it cannot tell of itself."""

    machine: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What you call this machine, such as 'aws g6.xlarge': bench merge tells it from others by that.",
    )


class BenchSettings(MeasuredMachineSettings):
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
        "all-MiniLM-L6-v2",
        description="A folder, a hub name, all-MiniLM-L6-v2, bertwright-tiny, or bert-tiny ... bert-large (random).",
    )
    tokenizer: str | None = Field(
        None, description="Model whose tokenizer to use with random weights; bert-base-uncased's if not given."
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


class BenchMlperfSettings(MeasuredMachineSettings, ScoringMachineSettings):
    """Settings of measuring with MLPerf's load generator."""

    run: str | None = Field(None, description="Score with this run's classifier, instead of --model.")
    model: str = Field(
        "all-MiniLM-L6-v2",
        description="A folder, a hub name, all-MiniLM-L6-v2, bertwright-tiny, or bert-tiny ... bert-large (random).",
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

    train_texts: int = Field(1_000_000, ge=1, le=10**12, description="Texts that the job learns from.")
    epochs: float = Field(1.0, gt=0, le=1e6, description="Times that it learns from each.")
    infer_texts: int = Field(500_000, ge=1, le=10**12, description="Texts that it scores.")
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
