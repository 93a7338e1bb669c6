"""The training loop: batches, loss, gradients, updates, evaluations, the best state kept."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.config import TrainConfig
from bertwright.data.batches import batches_by_length, split_by_budget, steps_per_epoch, training_batches
from bertwright.data.ragged import Ragged
from bertwright.data.resident import HostTexts, ResidentTexts, StaticShape, texts_on
from bertwright.errors import TrainingError
from bertwright.evaluation.metrics import is_better
from bertwright.evaluation.predictor import compute_logits
from bertwright.model.cpu_encoder import CpuEncoder
from bertwright.model.gpu_encoder import GpuEncoder, Work
from bertwright.model.heads import TextClassifier
from bertwright.model.memory import settled_objects
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.training.loss import Objective
from bertwright.training.optimizer import make_optimizer
from bertwright.training.schedule import rate_factor

# On a GPU, looking at the loss makes the CPU wait: only this often. On a CPU it costs nothing.
_LOSS_CHECK_STEPS = {"cpu": 1, "cuda": 25}


class Learner(Protocol):
    """What the loop trains: something that turns rows of the training texts into logits."""

    device: torch.device
    cpu_encoder: CpuEncoder | None

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]: ...

    def train_mode(self, training: bool) -> None: ...

    def parts(self, rows: np.ndarray) -> list[slice]:
        """How to cut a batch of ``rows`` into parts that fit the token budget."""
        ...

    def logits(self, rows: np.ndarray) -> Tensor:
        """(rows, classes) float32, with gradients."""
        ...

    def num_tokens(self, rows: np.ndarray) -> int: ...


class WholeModel:
    """Full fine-tuning: every weight learns."""

    def __init__(self, model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int) -> None:
        self.model, self.ragged, self.device, self.token_budget = model, ragged, device, token_budget
        self.lengths = ragged.lengths
        self.cpu_encoder = model.cpu_encoder
        self._static: StaticShape | None = None

    def compile_for(self, batches: Iterable[np.ndarray], always: bool = False) -> None:
        """On a GPU, compile the model if the training on ``batches``, the rows of each step, pays for it, or always."""
        if self.device.type != "cuda":
            return
        sizes = [(len(rows), self.num_tokens(rows)) for rows in batches]
        tokens = [num_tokens for _, num_tokens in sizes]
        one_shape = max(tokens) <= self.token_budget
        self.model.compile_for(Work(sum(tokens), len(tokens)), True, varied_shapes=not one_shape, always=always)
        fast = self.model.encoder.fast
        if isinstance(fast, GpuEncoder) and fast.graphs:
            most_rows = max(num_rows for num_rows, _ in sizes)
            self._static = StaticShape.of(most_rows, sizes)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def train_mode(self, training: bool) -> None:
        self.model.train(training)

    def parts(self, rows: np.ndarray) -> list[slice]:
        return split_by_budget(self.lengths[rows], self.token_budget)

    def logits(self, rows: np.ndarray) -> Tensor:
        return self.model(self._texts.batch(rows, self._static))

    @functools.cached_property
    def _texts(self) -> ResidentTexts | HostTexts:
        """Made when first learnt from: texts that are only scored need not lie on a GPU twice."""
        return texts_on(self.ragged, self.device)

    def num_tokens(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())


class HeadOnFeatures:
    """Frozen encoder: the classifier learns from features, (texts, hidden) float32, that were computed once."""

    def __init__(self, model: TextClassifier, features: Tensor, lengths: np.ndarray, device: torch.device) -> None:
        self.model, self.features, self.lengths, self.device = model, features, lengths, device
        self.cpu_encoder: CpuEncoder | None = None  # nothing of the encoder learns

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [("classifier." + name, parameter) for name, parameter in self.model.classifier.named_parameters()]

    def train_mode(self, training: bool) -> None:
        self.model.eval()  # dropout of the encoder stays off
        self.model.classifier.train(training)

    def parts(self, rows: np.ndarray) -> list[slice]:
        return [slice(0, len(rows))]

    def logits(self, rows: np.ndarray) -> Tensor:
        return self.model.classifier(self.features[_index(rows, self)])

    def num_tokens(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())


@torch.no_grad()
def compute_features(
    model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int, reporter: Reporter
) -> Tensor:
    """(texts, hidden) float32: what the classifier reads of every text, in evaluation mode."""
    model.eval()
    model.compile_for(Work(int(ragged.starts[-1]), 1), training=False)
    features = torch.empty(len(ragged), model.config.hidden_size, device=device)
    with reporter.progress("Features", len(ragged)) as advance:
        texts = texts_on(ragged, device)
        for rows in batches_by_length(ragged.lengths, token_budget):
            features[torch.from_numpy(rows).to(device)] = model.features(texts.batch(rows)).float()
            advance(len(rows))
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # who times this must see all of it
    return features


def _index(rows: np.ndarray, learner: Learner) -> Tensor:
    return torch.from_numpy(rows).to(learner.device, non_blocking=True)


def learner_logits(learner: WholeModel | HeadOnFeatures, rows: np.ndarray, reporter: Reporter, what: str) -> np.ndarray:
    """(rows, classes) float32 logits in evaluation mode."""
    learner.train_mode(False)
    if isinstance(learner, WholeModel):
        return compute_logits(learner.model, learner.ragged, rows, learner.device, learner.token_budget, reporter, what)
    with torch.inference_mode():
        return learner.logits(rows).cpu().numpy()


@dataclass
class Outcome:
    """What a training did.

    Attributes:
        state: the float32 weights kept, by name: the best evaluation's, or the last step's.
        losses: (steps,) float32, the mean loss of each step's batch.
        steps: optimizer steps taken; ``best_step`` of them are in ``state``.
        train_s: seconds spent on steps, evaluations left out.
        num_texts, num_tokens: learnt from, counted each time.
    """

    state: dict[str, Tensor]
    losses: np.ndarray
    steps: int
    best_step: int
    train_s: float
    num_texts: int
    num_tokens: int
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


def num_steps_of(config: TrainConfig, num_texts: int) -> int:
    """Optimizer steps that ``--steps``, or ``--epochs`` rounded up to a whole step, ask for."""
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil(config.epochs * steps_per_epoch(num_texts, config.batch_size) - 1e-9))


def fit(
    learner: Learner,
    objective: Objective,
    config: TrainConfig,
    learning_rate: float,
    originals: dict[str, Tensor],
    evaluate: Callable[[], dict[str, Any]] | None,
    best_metric: str,
    record: Callable[[dict[str, Any]], None],
    reporter: Reporter,
) -> Outcome:
    """Train ``learner`` on all its texts.

    Args:
        objective: what is made small.
        originals: the weights by name as they were loaded, in float32: where the learner computes in lower precision,
            they take the updates, in place.
        evaluate: gives the validation metrics of the weights as they are; None: there is nothing to choose by, and the
            last state is kept.
        record: is handed each line of the history as soon as it is known.

    Raises:
        TrainingError: the loss, or a weight, is no longer a number.
    """
    num_texts = objective.num_texts
    num_steps = num_steps_of(config, num_texts)
    epoch_steps = steps_per_epoch(num_texts, config.batch_size)
    eval_every = config.eval_every or epoch_steps
    num_warmup = math.ceil(config.warmup_ratio * num_steps)
    check_every = _LOSS_CHECK_STEPS[learner.device.type]
    losses = torch.zeros(num_steps, device=learner.device)
    optimizer = make_optimizer(
        learner.named_parameters(), originals, config, learning_rate, num_steps, learner.cpu_encoder
    )
    outcome = Outcome({}, np.zeros(0, np.float32), 0, 0, 0.0, 0, 0)
    best: float | None = None
    worse_in_a_row = 0
    started, since_record = time.perf_counter(), 0

    torch.manual_seed(purpose_seed(config.seed, "dropout"))
    learner.train_mode(True)
    try:
        with settled_objects(), reporter.progress("Training", num_steps, "batches") as advance:
            for step, rows in enumerate(training_batches(num_texts, config.batch_size, config.seed, num_steps)):
                step_started = time.perf_counter()
                factor = rate_factor(config.schedule, step, num_steps, num_warmup)
                parts = learner.parts(rows)
                for i, part in enumerate(parts):
                    part_rows = rows[part]
                    logits = learner.logits(part_rows)
                    # Divided by the whole batch's texts, so that how it is cut into parts changes nothing.
                    loss = objective.sum(logits, _index(part_rows, learner)) / len(rows)
                    optimizer.scaled(loss).backward()
                    optimizer.collect_gradients(i, len(parts))
                    losses[step] += loss.detach()
                optimizer.step(factor)
                outcome.steps = step + 1
                outcome.num_texts += len(rows)
                outcome.num_tokens += learner.num_tokens(rows)
                last = outcome.steps == num_steps
                due = last or outcome.steps % eval_every == 0
                note = ""
                if due or outcome.steps % check_every == 0:
                    note = f"loss {_checked_loss(losses, outcome.steps, learning_rate * factor):.3f}"
                if due:  # on a GPU this also waits for all steps, so that their time is counted
                    optimizer.check_weights(outcome.steps, learning_rate * factor)
                outcome.train_s += time.perf_counter() - step_started
                advance(1, note)

                if due:
                    metrics = evaluate() if evaluate is not None else {}
                    learner.train_mode(True)
                    line = {
                        "step": outcome.steps,
                        "epoch": outcome.num_texts / num_texts,
                        "elapsed_s": time.perf_counter() - started,
                        "train_loss": float(losses[since_record : outcome.steps].mean()),
                        "learning_rate": learning_rate * factor,
                        "validation": metrics,
                    }
                    since_record = outcome.steps
                    outcome.history.append(line)
                    record(line)
                    reporter.say(_history_line(line, best_metric))
                    if evaluate is None:
                        continue
                    if best is None or is_better(best_metric, metrics.get(best_metric), best):
                        best, worse_in_a_row = metrics.get(best_metric), 0
                        outcome.state, outcome.best_step = optimizer.master_state(), outcome.steps
                    else:
                        worse_in_a_row += 1
                        if config.patience is not None and worse_in_a_row >= config.patience and not last:
                            outcome.stopped_early = True
                            break
        if evaluate is None:
            outcome.state, outcome.best_step = optimizer.master_state(), outcome.steps
    finally:
        optimizer.close()
    outcome.losses = losses[: outcome.steps].cpu().numpy()
    return outcome


def _checked_loss(losses: Tensor, steps: int, rate: float) -> float:
    """The loss of the last step.

    Raises:
        TrainingError: it, or one before it, is not a finite number.
    """
    loss = float(losses[steps - 1])
    if not math.isfinite(loss):
        first = int((~torch.isfinite(losses[:steps])).nonzero()[0]) + 1
        raise TrainingError(
            f"the loss of step {first} is {float(losses[first - 1])}, expected a number (learning rate then about "
            f"{rate:.1e}). Lower --learning-rate, or compute in --dtype float32. No model was saved"
        )
    return loss


def _history_line(line: dict[str, Any], best_metric: str) -> str:
    text = f"step {line['step']:,} (epoch {line['epoch']:.2f}): train loss {line['train_loss']:.4f}"
    shown = dict.fromkeys(("log_loss", "accuracy", "roc_auc", best_metric))
    found = [f"{name} {line['validation'][name]:.4f}" for name in shown if line["validation"].get(name) is not None]
    return text + (", validation " + ", ".join(found) if found else "")
