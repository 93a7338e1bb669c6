"""From what was tried out to what the whole will take: seconds, memory, the largest batch. Torch is never imported.

A training step costs a part that is always the same, a part for each token and a part for each pair of tokens of a
text, which attention computes. The three are found from the steps that were tried out; the tokens of every step that
will be taken are known, since the order of the texts follows from the seed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t

# How much faster or slower a machine is from one minute to the next, as a share: others use it, too. The steps that
# were tried out cannot tell. A first value, from a few small trainings.
_DRIFT = 0.15
# What takes a moment is off by a moment: files that are in memory already or not, first calls.
_SLACK_S = 0.3
_MEMORY_SPREAD = 0.10
# Of the memory that a data sheet or a seller names, what drivers, error correction and the system may take.
_TAKEN_SHARE = 0.10
_LEAST_FOR_THREE_COSTS = 12


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a training, and those that were tried out.

    Attributes:
        tokens, pairs: (steps,) of every step of the training: its tokens, and the sum of its texts' squared lengths.
        tried: (tried,) int64, which of them were timed.
        seconds: (tried,) how long each took.
    """

    tokens: np.ndarray
    pairs: np.ndarray
    tried: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Scoring:
    """A part of the texts that was scored: their ``operations``, ``tokens``, number, and the seconds that took."""

    texts: int
    tokens: int
    operations: int
    seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes of the process, or of the GPU where that computes.

    Attributes:
        before: held before the first step: libraries, texts, token ids, the model.
        weights, gradients, optimizer: what a training holds of each, by the number of weights.
        light, heavy: held after a step of few tokens, and after the one of the most.
        scored: held after texts were scored.
        light_tokens, heavy_tokens: the tokens of those two, as many as are computed at once.
        peak: the most held by the end.
        available: what could still be had at the start.
    """

    before: int
    peak: int
    peak_gpu: int | None
    available: int | None
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    light: int = 0
    heavy: int = 0
    light_tokens: int = 0
    heavy_tokens: int = 0
    scored: int = 0


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        phases: seconds of what was done whole: "read", "tokenize", "load" and "save", the last two of the model, and
            "warm_up", by which the first step was slower than the second.
        steps: of a training; None of a scoring.
        to_score: operations of scoring each split once, by its name; of a frozen encoder's texts "features", too.
        held_out: the split whose scoring is recorded as "infer".
        num_evaluations: how often the encoder computes the validation texts on the way: once, if it is frozen.
        training_operations: useful ones of the whole training; 0 of a scoring.
        chosen: what was chosen for this machine.
    """

    phases: dict[str, float]
    steps: Steps | None
    scoring: Scoring
    to_score: dict[str, int]
    held_out: str | None
    memory: Memory
    num_texts: dict[str, int]
    num_evaluations: int = 0
    training_operations: int = 0
    chosen: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What is expected, and between which bounds it should lie."""

    value: float
    low: float
    high: float

    @classmethod
    def within(cls, value: float, share: float, slack: float = 0.0) -> Estimate:
        """``value``, less or more by the factor 1 + ``share``, and by ``slack`` besides."""
        return cls(value, max(0.0, value / (1 + share) - slack), value * (1 + share) + slack)

    def record(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Needs:
    """Bytes that a job holds at its peak, by what computes it.

    Attributes:
        accelerator: weights, gradients, the optimizer and activations, which an accelerator holds.
        machine: of the whole process, which a machine without one holds.
    """

    accelerator: int
    machine: int

    def fit(self, memory_gib: float | None, has_accelerator: bool) -> bool | None:
        """Whether so much memory does, but for a tenth that the driver or the system takes; None: too near to say."""
        if memory_gib is None:
            return None
        needed = Estimate.within(self.accelerator if has_accelerator else self.machine, _MEMORY_SPREAD)
        if needed.high <= (1 - _TAKEN_SHARE) * memory_gib * 2**30:
            return True
        return False if needed.low > memory_gib * 2**30 else None


@dataclass(frozen=True)
class Forecast:
    """What a job will take on this machine.

    Attributes:
        seconds: by phase, as result.json names them: "read", "tokenize", "train", "infer", "total".
        compute_s: the seconds of ``seconds["total"]`` that the encoder computes; the rest is reading and writing.
        memory: "peak_process_bytes" and, on a GPU, "peak_gpu_bytes".
        held: bytes at the peak of a training, by what holds them.
        needs: bytes at the peak of any job, for other machines.
        most_tokens: as many could be computed at once before memory runs out; None: not known.
    """

    seconds: dict[str, Estimate]
    compute_s: Estimate
    memory: dict[str, Estimate]
    held: dict[str, int]
    needs: Needs
    most_tokens: int | None


def forecast(probe: Probe) -> Forecast:
    """Foretell the whole from a part."""
    scoring_s = {name: _scoring_s(probe, operations) for name, operations in probe.to_score.items()}
    train_s, train_error = 0.0, 0.0
    if probe.steps is not None:
        train_s, train_error = steps_s(probe.steps)
    train_s += scoring_s.pop("features", 0.0)
    judging_s = probe.num_evaluations * scoring_s.get("validation", 0.0)
    compute_s = train_s + judging_s + sum(scoring_s.values())
    share = math.hypot(_DRIFT, train_error)
    seconds = {name: Estimate.within(probe.phases[name], _DRIFT, _SLACK_S) for name in ("read", "tokenize")}
    if probe.steps is not None:
        seconds["train"] = Estimate.within(train_s, share, _SLACK_S)
    if probe.held_out is not None:
        seconds["infer"] = Estimate.within(scoring_s[probe.held_out], _DRIFT, _SLACK_S)
    seconds["total"] = Estimate.within(compute_s + sum(probe.phases.values()), share, _SLACK_S)
    memory = {"peak_process_bytes": Estimate.within(probe.memory.peak, _MEMORY_SPREAD)}
    if probe.memory.peak_gpu is not None:
        memory["peak_gpu_bytes"] = Estimate.within(probe.memory.peak_gpu, _MEMORY_SPREAD)
    return Forecast(
        seconds=seconds,
        compute_s=Estimate.within(compute_s, share),
        memory=memory,
        held={} if probe.steps is None else held(probe.memory),
        needs=needs(probe),
        most_tokens=most_tokens(probe.memory),
    )


def _scoring_s(probe: Probe, operations: int) -> float:
    return probe.scoring.seconds * operations / probe.scoring.operations


def steps_s(steps: Steps) -> tuple[float, float]:
    """The seconds of all steps, and by which share they may be off, by the steps that were tried out (95 %).

    With fewer than 12 of those, a step is taken to cost as much for each token: three costs could not be told apart.
    """
    amounts = np.stack([np.ones(len(steps.tokens)), steps.tokens, steps.pairs], axis=1)
    amounts = amounts / amounts.max(axis=0)
    count = len(steps.seconds)
    if count < _LEAST_FOR_THREE_COSTS:
        amounts = amounts[:, 1:2]
    tried = amounts[steps.tried]
    # Divided by their own size: a step counts by how far it is off in per cent, and a hiccup in a long one for no more.
    costs, _ = nnls(tried / steps.seconds[:, None], np.ones(count))
    expected = tried @ costs
    # What such a fit leaves out, the odd step that takes much longer, is part of what the whole will take.
    correction = steps.seconds.sum() / expected.sum()
    freedom = max(1, count - amounts.shape[1])
    spread = math.sqrt(float(((steps.seconds / expected - 1) ** 2).sum()) / freedom)
    share = float(t.ppf(0.975, freedom)) * spread / math.sqrt(count)
    return float((amounts @ costs).sum() * correction), share


def held(memory: Memory) -> dict[str, int]:
    """The bytes at the heaviest step by what holds them.

    Weights, their gradients and the optimizer's moments are counted; activations are what is left.
    """
    below = max(0, memory.before - memory.weights)
    activations = memory.heavy - below - memory.weights - memory.gradients - memory.optimizer
    return {
        "libraries, texts and token ids": below,
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": max(0, activations),
    }


def needs(probe: Probe) -> Needs:
    """What the job needs on other machines, as far as this one tells.

    Where a CPU computes, an accelerator's share is what is held besides libraries, texts and token ids: at the heaviest
    step or, where the encoder only scores, after that.
    """
    memory = probe.memory
    if memory.peak_gpu is not None:
        return Needs(memory.peak_gpu, memory.peak + memory.peak_gpu)
    at_most = memory.heavy if probe.training_operations else max(memory.heavy, memory.scored)
    counted = memory.weights + memory.gradients + memory.optimizer
    return Needs(max(counted, at_most - max(0, memory.before - memory.weights)), memory.peak)


def most_tokens(memory: Memory) -> int | None:
    """How many tokens could be computed at once; None where two steps of different size tell nothing of it."""
    more_tokens, more_bytes = memory.heavy_tokens - memory.light_tokens, memory.heavy - memory.light
    if memory.available is None or more_tokens <= 0 or more_bytes <= 0:
        return None
    room = memory.before + memory.available - memory.light
    return max(0, memory.light_tokens + int(room * more_tokens / more_bytes))


def usd(seconds: Estimate, usd_per_hour: float) -> Estimate:
    """What so many seconds cost."""
    return Estimate(*(usd_per_hour * value / 3600 for value in (seconds.value, seconds.low, seconds.high)))


def record(found: Forecast) -> dict[str, Any]:
    """As it goes into a plan."""
    return {
        "seconds": {name: one.record() for name, one in found.seconds.items()},
        "compute_s": found.compute_s.record(),
        "memory": {name: one.record() for name, one in found.memory.items()},
        "held": found.held,
        "needs_bytes": asdict(found.needs),
        "most_tokens": found.most_tokens,
    }
