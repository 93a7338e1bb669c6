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
from pathlib import Path

import numpy as np
import torch

from bertwright import hardware
from bertwright.benchmarking.forecast import Memory, Probe, Scoring, Steps
from bertwright.benchmarking.operations import forward_operations, training_operations
from bertwright.config.evaluate import EvaluateConfig
from bertwright.config.train import TrainConfig
from bertwright.data.batches import epoch_order, steps_per_epoch
from bertwright.data.columns import read_unlabelled
from bertwright.data.ragged import Ragged
from bertwright.data.tokenize import token_ids_of
from bertwright.evaluation.predictor import Predictor
from bertwright.memory_trace import process_bytes
from bertwright.model.checkpoint import load_classifier, save_model
from bertwright.progress import Reporter
from bertwright.training.learn import whole_model
from bertwright.training.learners import HeadOnFeatures, WholeModel
from bertwright.training.loop import num_steps_of, timed_steps
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
    load_s = time.perf_counter() - started - read_s - tokenize_s
    available = _available_bytes(machine.device)
    before = _held_bytes(machine.device)
    num_steps = num_steps_of(config, prepared.objective.num_texts)
    judged = 0
    if "validation" in prepared.splits:
        every = config.eval_every or steps_per_epoch(prepared.objective.num_texts, config.batch_size)
        judged = num_steps // every + (num_steps % every > 0)
    # The best state, and another while it takes its place; the mean of weights, and what lies by while that is judged.
    num_copies = 1 + (judged > 1) + (config.average_weights > 0) * (1 + (judged > 0))
    reporter.say(f"trying out steps of the training for about {(1 - _SCORING_SHARE) * seconds:.0f} s")
    steps, marks, warm_up_s = _try_steps(
        prepared, learner, num_steps, (1 - _SCORING_SHARE) * seconds, num_copies, reporter
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
    epochs = num_steps * config.batch_size / len(prepared.learnt)
    num_labels = model.classifier.linear.out_features
    sequences = prepared.learnt.as_sequences().lengths
    learnt_operations = training_operations(model.config, sequences, num_labels, model.pooling)
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
        scored=_held_bytes(machine.device),
    )
    return Probe(
        phases={"read": read_s, "tokenize": tokenize_s, "load": load_s, "warm_up": warm_up_s, "save": save_s},
        steps=steps,
        scoring=scoring,
        to_score=to_score,
        held_out=held_out,
        memory=memory,
        num_texts={name: len(split.texts) for name, split in prepared.splits.items()},
        num_evaluations=min(judged, 1) if frozen else judged,
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
        UserError: a run or texts that ``bertwright predict`` would refuse, too.
    """
    started = time.perf_counter()
    predictor = Predictor.from_loaded(load_classifier(config.run), config)
    reporter.say(predictor.summary())
    load_s = time.perf_counter() - started
    started = time.perf_counter()
    texts = read_unlabelled(
        config.data, config.text_column, config.on_bad_row, config.pair_column, config.group_columns
    )
    read_s = time.perf_counter() - started
    started = time.perf_counter()
    ragged = token_ids_of(texts, predictor.tokenizer, predictor.settings, config.run, reporter)
    tokenize_s = time.perf_counter() - started
    available, before = _available_bytes(predictor.device), _held_bytes(predictor.device)
    reporter.say(f"trying out scoring for about {seconds:.0f} s")
    scoring = _try_scoring(predictor, ragged, seconds, 0)
    return Probe(
        phases={"read": read_s, "tokenize": tokenize_s, "load": load_s, "warm_up": 0.0, "save": 0.0},
        steps=None,
        scoring=scoring,
        to_score={"test": _scoring_operations(predictor, ragged)},
        held_out="test",
        memory=Memory(
            before=before,
            peak=hardware.peak_process_bytes(),
            peak_gpu=hardware.peak_gpu_bytes(predictor.device),
            available=available,
            weights=sum(parameter.nbytes for parameter in predictor.model.parameters()),
            scored=_held_bytes(predictor.device),
        ),
        num_texts={"test": len(texts)},
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
) -> tuple[Steps, tuple[int, int, int, int], float]:
    """Steps of the training, timed; memory held after a light and the heaviest one, and their tokens computed at once.

    Last, by how many seconds the first step was slower than the second.
    """
    config, num_texts, batch_size = prepared.config, prepared.objective.num_texts, prepared.config.batch_size
    lengths, squares = _lengths_and_squares(learner)
    per_epoch = steps_per_epoch(num_texts, batch_size)
    tokens, pairs = np.zeros(num_steps, np.int64), np.zeros(num_steps, np.int64)
    starts = np.arange(0, num_texts, batch_size)
    for epoch in range(-(-num_steps // per_epoch)):
        order, of_epoch = epoch_order(num_texts, config.seed, epoch), slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        count = len(tokens[of_epoch])
        tokens[of_epoch] = np.add.reduceat(lengths[order], starts)[:count]
        pairs[of_epoch] = np.add.reduceat(squares[order], starts)[:count]

    def rows_of(place: int) -> np.ndarray:
        epoch, number = divmod(place, per_epoch)
        return epoch_order(num_texts, config.seed, epoch)[number * batch_size : (number + 1) * batch_size]

    light, heavy = int(tokens.argmin()), int(tokens.argmax())
    drawn = np.random.default_rng(0).permutation(num_steps)
    places: list[int] = []  # which step each of those tried out is
    took: list[float] = []
    first_counted = _WARM_UP_STEPS + 1
    marks: list[int] = []
    deadline = math.inf

    def to_learn() -> Iterator[np.ndarray]:
        for place in itertools.chain([light] * _WARM_UP_STEPS, [heavy], itertools.cycle(drawn.tolist())):
            if len(took) >= first_counted + _LEAST_STEPS and time.perf_counter() > deadline:
                return
            places.append(place)
            yield rows_of(place)

    tried_config = config.model_copy(update={"steps": _MOST_PROBED_STEPS})
    rate = config.learning_rate or 0.0
    for step_s in timed_steps(
        learner, prepared.objective, tried_config, rate, prepared.originals, to_learn(), reporter, num_copies
    ):
        took.append(step_s)
        if len(took) in (_WARM_UP_STEPS, first_counted):
            marks.append(_held_bytes(learner.device))
            deadline = time.perf_counter() + seconds
    at_once = [
        max(int(lengths[rows[part]].sum()) for part in learner.parts(rows)) for rows in (rows_of(light), rows_of(heavy))
    ]
    steps = Steps(tokens, pairs, np.array(places[first_counted:], np.int64), np.array(took[first_counted:]))
    return steps, (marks[0], marks[1], at_once[0], at_once[1]), max(0.0, took[0] - took[1])


def _lengths_and_squares(learner: WholeModel | HeadOnFeatures) -> tuple[np.ndarray, np.ndarray]:
    """(texts,) int64 each: the tokens of a text, and the sum of the squares of its windows' tokens."""
    lengths = learner.lengths.astype(np.int64)
    ragged = None if isinstance(learner, HeadOnFeatures) else learner.ragged
    if ragged is None or ragged.window_starts is None:
        return lengths, lengths**2
    sequences = ragged.as_sequences().lengths.astype(np.int64)
    return lengths, np.add.reduceat(sequences**2, ragged.window_starts[:-1])


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
    """Memory held just now by the process or, where a GPU computes, the most that was held on it so far.

    On a CPU the memory that batches used stays with the process after a step, so that nothing is missed.
    """
    found = hardware.peak_gpu_bytes(device)
    return process_bytes() if found is None else found


def _available_bytes(device: torch.device) -> int | None:
    """Memory that could still be had: of the GPU where that computes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return hardware.available_bytes()
