"""What a comparison of runs of one seed finds: the records that are printed, and those of a run that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from bertwright.runs import Run
from bertwright.steps import Trace

ROUNDING = 1e-6
"""Of float32's 24 bits, the last ones: sums in another order differ by this much of themselves."""

# What was chosen or found on each machine, and what a difference in it can do.
MACHINE = {
    "dtype": "float32 keeps 24 bits of a number, float16 11, bfloat16 8: losses differ from the first step on",
    "device": "another device adds in another order, and its dropout may draw other numbers",
    "gpu": "another GPU may add in another order",
    "compile": "other kernels add in another order, and their dropout draws other numbers",
    "attention_kernel": "another attention kernel adds in another order",
    "num_threads": "sums are cut into one part for each thread: they are added in another order",
    "token_budget": "larger batches are cut into parts: sums in another order, and dropout draws other numbers",
    "cpu": "another processor may have other instructions, which round and add otherwise",
    "torch": "another PyTorch may add in another order, and draw other random numbers",
    "cuda": "another CUDA may add in another order",
    "numpy": "another NumPy may draw another order of texts",
    "bertwright": "another version may compute otherwise",
    "commit": "another version may compute otherwise",
    "scikit-learn": "another version may define a metric otherwise",
    "tokenizer": "compare the hash of the token ids",
    "tokenizers": "compare the hash of the token ids",
    "nanotoken": "compare the hash of the token ids",
    "system": "another system has other mathematical libraries, which may round otherwise",
}


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its value in the first run and in the other, and what that can do."""

    what: str
    first: Any
    other: Any
    effect: str = ""


@dataclass(frozen=True)
class StepsCompared:
    """Two traces side by side. Steps are counted from 1; None: at no step that both have.

    Attributes:
        num_steps: steps taken by each.
        other_rows: the first step whose batch holds other rows of the training texts, or these in another order.
        other_texts: the first step whose batch holds other texts, whatever their rows.
        other_rate: the first step with another learning rate.
        first_loss: of each.
        any_difference: the first step whose loss is not the same bit for bit.
        beyond_rounding, visible: the first step whose loss differs by more than 1e-6, or 1e-4, of itself.
        largest: the largest difference of two losses of a step, as a share of the larger.
    """

    num_steps: tuple[int, int]
    other_rows: int | None
    other_texts: int | None
    other_rate: int | None
    first_loss: tuple[float, float]
    any_difference: int | None
    beyond_rounding: int | None
    visible: int | None
    largest: float

    @property
    def parting(self) -> int | None:
        """The first step that is told apart: by its texts, its rate, or its loss beyond rounding; else by any bit."""
        told = (self.other_rows, self.other_texts, self.other_rate, self.beyond_rounding)
        found = [step for step in told if step is not None]
        return min(found) if found else self.any_difference


@dataclass(frozen=True)
class ScoresCompared:
    """The scores of the texts that both runs judged.

    Attributes:
        num_texts: texts that both judged; ``num_only_one`` more stand in one of the runs alone.
        largest: the largest difference of two scores of a text; ``num_apart`` texts have one that is not 0.0000.
        num_decisions: texts for which another label is predicted.
    """

    num_texts: int
    num_only_one: int
    largest: float
    num_apart: int
    num_decisions: int


@dataclass(frozen=True)
class Pair:
    """The run ``other`` against the run ``first``.

    Attributes:
        agree: every metric, the steps and the rows of the extremes; ``verdict`` says so, or where they part and why.
        results: those that do not agree.
        settings, data, weights, machine: differences that can be the cause.
        kept_weights_equal: whether the saved weights are the same byte by byte; None: a file is missing.
        steps: None where a run has no trace.
        scores: None where a run has no predictions.
        notes: what could not be compared, and why.
    """

    first: str
    other: str
    agree: bool
    verdict: str
    results: list[Difference]
    settings: list[Difference]
    data: list[Difference]
    weights: list[Difference]
    machine: list[Difference]
    kept_weights_equal: bool | None
    steps: StepsCompared | None
    scores: ScoresCompared | None
    notes: list[str]


@dataclass(frozen=True)
class Agreement:
    """Whether runs agree to four decimals: each against the first."""

    agree: bool
    verdict: str
    runs: list[str]
    pairs: list[Pair]
    _rows: list[tuple[str, list[str]]] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = asdict(self)
        del values["_rows"]
        return _finite(values)


def _finite(value: Any) -> Any:
    """``value`` without what JSON does not have: a loss that is NaN, or losses infinitely far apart."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class KnownRun:
    """All that is known of a run."""

    run: Run
    result: Mapping[str, Any]
    trace: Trace | None
    predictions: pa.Table | None
    notes: list[str]

    @property
    def name(self) -> str:
        return str(self.run.path)


def equal(one: Any, two: Any) -> bool:
    """Whether two values are the same, however a record spells them."""
    return plain(one) == plain(two)


def plain(value: Any) -> Any:
    """JSON has lists alone; and older records hold one value, or none, where several may stand."""
    if isinstance(value, tuple | list):
        items = [plain(item) for item in value]
        return None if not items else items[0] if len(items) == 1 else items
    return value
