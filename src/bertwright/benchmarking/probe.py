"""A training or a scoring tried out: the texts are read and tokenised whole, and of the rest a part is done and timed.

What is tried out is the real thing, by the same code: the same batches in the same order of size, the same steps. So
little has to be assumed to foretell the whole (``forecast``).
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bertwright import hardware
from bertwright.benchmarking.operations import forward_operations, training_operations
from bertwright.config import EvaluateConfig, TrainConfig
from bertwright.data.batches import steps_per_epoch, training_batches
from bertwright.data.ragged import Ragged
from bertwright.evaluation.evaluate import texts_to_score
from bertwright.evaluation.predictor import Predictor
from bertwright.memory_trace import process_bytes
from bertwright.model.checkpoint import save_model
from bertwright.progress import Reporter
from bertwright.training.learn import whole_model
from bertwright.training.loop import HeadOnFeatures, WholeModel, num_steps_of, timed_steps
from bertwright.training.phases import Phases
from bertwright.training.prepare import Machine, Prepared, prepare
from bertwright.training.record import MOST_TRAIN_METRIC_TEXTS, held_by_weights
from bertwright.training.settings import resolve_early

# Shares of the time to try things out: the rest is for training steps, or for scoring where nothing is trained.
_SCORING_SHARE = 0.25
# Steps before the clock counts: the first ones allocate, compile and fill caches.
_WARM_UP_STEPS = 2
_FIRST_SAMPLE_TEXTS = 256
_LEAST_STEPS = 2
_MOST_PROBED_STEPS = 100_000


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
        before: held before anything was computed: libraries, texts, token ids, the model.
        weights, gradients, optimizer: what a training holds of each, by the number of weights.
        light, heavy: the most held after a step of few tokens, and after the one of the most.
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


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        phases: seconds of what was done whole: "read", "tokenize", "load" and "save", the last two of the model.
        steps: of a training; None of a scoring.
        to_score: operations of scoring each split once, by its name; of a frozen encoder's texts "features", too.
        held_out: the split whose scoring is recorded as "infer".
        num_evaluations: how often the validation texts are scored on the way.
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


def probe_training(config: TrainConfig, seconds: float, reporter: Reporter) -> Probe:
    """Try out the training that ``config`` asks for, for about ``seconds`` besides reading and tokenising.

    Nothing is left on disk.

    Raises:
        UserError: settings, texts or a model that the training would refuse, too.
    """
    started = time.perf_counter()
    config = resolve_early(config)
    output = Path(config.output or "")
    machine = Machine.of(config)
    phases = Phases(output, reporter, resumed=False)
    prepared = prepare(config, machine, phases, reporter)
    config, loaded = prepared.config, prepared.loaded
    read_s, tokenize_s = phases.seconds("read"), phases.seconds("tokenize")
    load_s = time.perf_counter() - started - read_s - tokenize_s
    model = loaded.model.to(machine.device).compute_in(machine.dtype, config.compile == "auto").train()
    frozen = config.freeze_encoder and config.cache_features
    learner: WholeModel | HeadOnFeatures
    if frozen:
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
        features = torch.full((len(prepared.learnt), model.config.hidden_size), 0.5, device=machine.device)
        learner = HeadOnFeatures(model, features, prepared.learnt.lengths, machine.device)
    else:
        learner = whole_model(prepared, reporter)
    available = _available_bytes(machine.device)
    before = _held_bytes(machine.device)
    num_steps = num_steps_of(config, prepared.objective.num_texts)
    num_evaluations = 0
    if "validation" in prepared.splits:
        every = config.eval_every or steps_per_epoch(prepared.objective.num_texts, config.batch_size)
        num_evaluations = num_steps // every + (num_steps % every > 0)
    reporter.say(f"trying out steps of the training for about {(1 - _SCORING_SHARE) * seconds:.0f} s")
    steps, marks = _try_steps(
        prepared, learner, num_steps, (1 - _SCORING_SHARE) * seconds, 2 if num_evaluations > 1 else 1, reporter
    )
    del learner
    save_s = _save_s(prepared, output)
    reporter.say(f"trying out scoring for about {_SCORING_SHARE * seconds:.0f} s")
    predictor = Predictor(model, loaded.tokenizer, loaded.settings, config)
    held_out = prepared.held_out
    scored = prepared.splits[held_out or "train"].ragged
    scoring = _try_scoring(predictor, scored, _SCORING_SHARE * seconds, config.seed)
    to_score = {name: _scoring_operations(predictor, split.ragged) for name, split in prepared.splits.items()}
    num_train = len(prepared.splits["train"].ragged)
    to_score["train"] = int(to_score["train"] * min(1.0, MOST_TRAIN_METRIC_TEXTS / num_train))
    if frozen:
        to_score["features"] = _scoring_operations(predictor, prepared.learnt)
    lengths = prepared.learnt.lengths
    epochs = num_steps * config.batch_size / len(lengths)
    num_labels = model.classifier.linear.out_features
    learnt_operations = training_operations(model.config, lengths, num_labels, model.pooling)
    memory = Memory(
        before=before,
        peak=hardware.peak_process_bytes(),
        peak_gpu=hardware.peak_gpu_bytes(machine.device),
        available=available,
        **held_by_weights(prepared),
        light=marks[0],
        heavy=marks[1],
        light_tokens=marks[2],
        heavy_tokens=marks[3],
    )
    return Probe(
        phases={"read": read_s, "tokenize": tokenize_s, "load": load_s, "save": save_s},
        steps=steps,
        scoring=scoring,
        to_score=to_score,
        held_out=held_out,
        memory=memory,
        num_texts={name: len(split.texts) for name, split in prepared.splits.items()},
        num_evaluations=num_evaluations,
        training_operations=0 if config.freeze_encoder else round(epochs * learnt_operations),
        chosen={
            "device": str(machine.device),
            "dtype": machine.dtype_name,
            "threads": torch.get_num_threads(),
            "token_budget": machine.token_budget,
            "model": loaded.description,
            **{name: model.describe()[name] for name in ("compile", "attention_kernel")},
        },
    )


def probe_scoring(config: EvaluateConfig, seconds: float, reporter: Reporter) -> Probe:
    """Try out the scoring that ``config`` asks for, for about ``seconds`` besides reading and tokenising.

    Raises:
        UserError: a run or texts that ``bertwright evaluate`` would refuse, too.
    """
    started = time.perf_counter()
    read = texts_to_score(config.run, config.data, config, config, reporter)
    load_s = time.perf_counter() - started - read.read_s - read.tokenize_s
    predictor = read.predictor
    available, before = _available_bytes(predictor.device), _held_bytes(predictor.device)
    reporter.say(f"trying out scoring for about {seconds:.0f} s")
    scoring = _try_scoring(predictor, read.ragged, seconds, 0)
    return Probe(
        phases={"read": read.read_s, "tokenize": read.tokenize_s, "load": load_s, "save": 0.0},
        steps=None,
        scoring=scoring,
        to_score={"test": _scoring_operations(predictor, read.ragged)},
        held_out="test",
        memory=Memory(
            before=before,
            peak=hardware.peak_process_bytes(),
            peak_gpu=hardware.peak_gpu_bytes(predictor.device),
            available=available,
        ),
        num_texts={"test": len(read.texts)},
        chosen={
            "device": str(predictor.device),
            "threads": torch.get_num_threads(),
            "token_budget": predictor.token_budget,
            "model": config.run,
            **{name: predictor.describe()[name] for name in ("dtype", "compile", "attention_kernel")},
        },
    )


def _try_steps(
    prepared: Prepared,
    learner: WholeModel | HeadOnFeatures,
    num_steps: int,
    seconds: float,
    num_copies: int,
    reporter: Reporter,
) -> tuple[Steps, tuple[int, int, int, int]]:
    """Steps of the training, timed; memory after a light and the heaviest one, and their tokens computed at once."""
    config, objective = prepared.config, prepared.objective
    batches = list(training_batches(objective.num_texts, config.batch_size, config.seed, num_steps))
    lengths = prepared.learnt.lengths.astype(np.int64)
    tokens = np.array([lengths[rows].sum() for rows in batches])
    pairs = np.array([(lengths[rows] ** 2).sum() for rows in batches])
    order = np.argsort(tokens, kind="stable")
    light, heavy = int(order[0]), int(order[-1])
    drawn = np.random.default_rng(0).permutation(num_steps)
    places: list[int] = []  # which step each of those tried out is
    counted: list[float] = []
    first_counted = _WARM_UP_STEPS + 1
    marks: list[int] = []
    deadline = math.inf

    def to_learn() -> Iterator[np.ndarray]:
        for place in itertools.chain([light] * _WARM_UP_STEPS, [heavy], itertools.cycle(drawn.tolist())):
            if len(counted) >= _LEAST_STEPS and time.perf_counter() > deadline:
                return
            places.append(place)
            yield batches[place]

    tried_config = config.model_copy(update={"steps": _MOST_PROBED_STEPS})
    rate = config.learning_rate or 0.0
    for step_s in timed_steps(
        learner, objective, tried_config, rate, prepared.originals, to_learn(), reporter, num_copies
    ):
        if len(places) in (_WARM_UP_STEPS, first_counted):
            marks.append(_peak_bytes(learner.device))
            deadline = time.perf_counter() + seconds
        elif len(places) > first_counted:
            counted.append(step_s)
    at_once = [
        max(int(lengths[batches[place][part]].sum()) for part in learner.parts(batches[place]))
        for place in (light, heavy)
    ]
    steps = Steps(tokens, pairs, np.array(places[first_counted:], np.int64), np.array(counted))
    return steps, (marks[0], marks[1], at_once[0], at_once[1])


def _try_scoring(predictor: Predictor, ragged: Ragged, seconds: float, seed: int) -> Scoring:
    """Score ever larger samples of the texts until one has taken a good part of the time, or all were scored."""
    order = np.random.default_rng(seed).permutation(len(ragged))
    deadline, size = time.perf_counter() + seconds, min(_FIRST_SAMPLE_TEXTS, len(ragged))
    predictor.logits(ragged.take(order[:size]))  # a first one, that does not count
    while True:
        part = ragged.take(order[:size])
        started = time.perf_counter()
        predictor.logits(part)
        took = time.perf_counter() - started
        left = deadline - time.perf_counter()
        if size == len(ragged) or left < 2 * took:
            return Scoring(size, int(part.starts[-1]), _scoring_operations(predictor, part), took)
        size = min(len(ragged), size * max(2, int(left / (2 * took))))


def _scoring_operations(predictor: Predictor, ragged: Ragged) -> int:
    model, lengths = predictor.model, ragged.as_sequences().lengths
    return forward_operations(model.config, lengths, model.classifier.linear.out_features, model.pooling)


def _save_s(prepared: Prepared, output: Path) -> float:
    """Seconds that writing the model takes, where the run would be, or else where temporary files are."""
    parents: Sequence[Path] = [parent for parent in output.absolute().parents if parent.is_dir()]
    loaded = prepared.loaded
    state = prepared.objective.unscale(dict(prepared.originals))
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=parents[0] if parents else None) as name:
        started = time.perf_counter()
        save_model(Path(name) / "model", loaded.model.config, state, loaded.tokenizer, loaded.settings)
        return time.perf_counter() - started


def _held_bytes(device: torch.device) -> int:
    """Memory held just now by the process or, where a GPU computes, on the GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return process_bytes()


def _peak_bytes(device: torch.device) -> int:
    found = hardware.peak_gpu_bytes(device)
    return hardware.peak_process_bytes() if found is None else found


def _available_bytes(device: torch.device) -> int | None:
    """Memory that could still be had: of the GPU where that computes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return hardware.available_bytes()
