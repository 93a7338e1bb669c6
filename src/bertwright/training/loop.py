"""The training loop: batches, loss, gradients, updates, evaluations, the best state kept."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware
from bertwright.config.train import TrainConfig
from bertwright.data.batches import steps_per_epoch, training_batches
from bertwright.data.budget import ADVICE
from bertwright.errors import TrainingError
from bertwright.evaluation.metrics import is_better
from bertwright.model.memory import settled_objects
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.training.average import WeightAverage
from bertwright.training.distributed import ALONE, Group, own_share
from bertwright.training.learners import Learner, rows_on
from bertwright.training.loss import Objective
from bertwright.training.optimizer import make_optimizer
from bertwright.training.schedule import rate_factor
from bertwright.training.state import Checkpoints, Damaged, Progress, Saved, random_state, set_random_state
from bertwright.training.stop import Stop, StopNow

Done = TypeVar("Done")

# On a GPU, looking at the loss makes the CPU wait: only this often. On a CPU it costs nothing.
_LOSS_CHECK_STEPS = {"cpu": 1, "cuda": 25}


@dataclass
class Outcome:
    """What a training did.

    Attributes:
        state: the float32 weights kept, by name: the best evaluation's, or the last step's.
        losses: (steps,) float32, the mean loss of each step's batch.
        steps: optimizer steps taken; ``best_step`` of them are in ``state``.
        train_s: seconds spent on steps, evaluations left out.
        num_texts, num_tokens: learnt from, counted each time.
        token_budget: most tokens computed at once, at the end.
    """

    state: dict[str, Tensor]
    losses: np.ndarray
    steps: int
    best_step: int
    train_s: float
    num_texts: int
    num_tokens: int
    stopped_early: bool = False
    token_budget: int = 0
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
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
    group: Group = ALONE,
) -> Outcome:
    """Train ``learner`` on all its texts.

    In a ``group`` every process calls this with the same arguments, but for what the leading one alone does: only its
    ``checkpoints`` are used, and only its outcome has a state.

    Args:
        objective: what is made small.
        originals: the weights by name as they were loaded, in float32: where the learner computes in lower precision,
            they take the updates, in place.
        evaluate: gives the validation metrics of the weights as they are; None: there is nothing to choose by, and the
            last state is kept. Of a group, those that the leading process gives count.
        record: is handed each line of the history as soon as it is known, also those of before, where the training goes
            on from a checkpoint.
        checkpoints: where the state is saved, and read from. Neither changes the numbers of the training.
        stop: asked after each part of a step whether to end; then the state after the last whole step is saved.

    Raises:
        TrainingError: the loss, or a weight, is no longer a number; or a single text does not fit in memory.
        StopNow: ``stop`` said so.
    """
    training = _Training(
        learner,
        objective,
        config,
        learning_rate,
        originals,
        evaluate,
        best_metric,
        record,
        reporter,
        checkpoints,
        stop,
        group,
    )
    try:
        training.run()
        return training.outcome()
    finally:
        training.optimizer.close()


def timed_steps(
    learner: Learner,
    objective: Objective,
    config: TrainConfig,
    learning_rate: float,
    originals: dict[str, Tensor],
    batches: Iterable[np.ndarray],
    reporter: Reporter,
    num_copies: int = 0,
) -> Iterator[float]:
    """Learn from ``batches``, the rows of each, as ``fit`` would; gives the seconds of each step, one by one.

    To find out what a training costs: the weights change, and nothing of it is kept. ``num_copies`` of the weights are
    made at the end, as ``fit`` keeps them beside those that learn.
    """
    training = _Training(
        learner, objective, config, learning_rate, originals, None, "", lambda line: None, reporter, None, None
    )
    try:
        learner.train_mode(True)
        with settled_objects():
            for rows in itertools.islice(batches, training.num_steps):
                started = time.perf_counter()
                training.try_step(rows)
                yield time.perf_counter() - started
            copies = [training.optimizer.master_state() for _ in range(num_copies)]
            del copies
    finally:
        training.optimizer.close()


class _Training:
    """A training on its way; see ``fit``. All that the next step depends on is in ``progress``, the optimizer, the
    losses, the averaged weights, the best state and torch's random state."""

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        config: TrainConfig,
        learning_rate: float,
        originals: dict[str, Tensor],
        evaluate: Callable[[], dict[str, Any]] | None,
        best_metric: str,
        record: Callable[[dict[str, Any]], None],
        reporter: Reporter,
        checkpoints: Checkpoints | None,
        stop: Stop | None,
        group: Group = ALONE,
    ) -> None:
        self.group, self._stop_asked, self._save_asked = group, 0, False
        self.learner, self.objective, self.config, self.learning_rate = learner, objective, config, learning_rate
        self.evaluate, self.best_metric, self.record, self.reporter = evaluate, best_metric, record, reporter
        self.checkpoints, self.stop = checkpoints, stop or Stop()
        self.num_steps = num_steps_of(config, objective.num_texts)
        self.eval_every = config.eval_every or steps_per_epoch(objective.num_texts, config.batch_size)
        self.num_warmup = math.ceil(config.warmup_ratio * self.num_steps)
        self.check_every = _LOSS_CHECK_STEPS[learner.device.type]
        self.losses = torch.zeros(self.num_steps, device=learner.device)
        self.optimizer = make_optimizer(
            learner.named_parameters(), originals, config, learning_rate, self.num_steps, learner.cpu_encoder
        )
        self.progress = Progress(asked_budget=learner.token_budget, token_budget=learner.token_budget)
        self.average = WeightAverage(config.average_weights, self.num_steps)
        self.best_state: dict[str, Tensor] = {}
        self.started = 0.0

    def run(self) -> None:
        place = () if self.group.leads else (self.group.rank,)
        torch.manual_seed(purpose_seed(self.config.seed, "dropout", *place))
        self._resume()
        progress = self.progress
        self.learner.train_mode(True)
        self.started = time.perf_counter() - progress.elapsed_s
        batches = training_batches(self.objective.num_texts, self.config.batch_size, self.config.seed, self.num_steps)
        remaining = itertools.islice(batches, progress.steps, None)
        left = self.num_steps - progress.steps
        try:
            with self.stop.deferred(), settled_objects(), self.reporter.progress("Training", left, "batches") as bar:
                if self._judging_is_due() and progress.recorded_steps < progress.steps:
                    self._judge()  # stopped while it was judged
                while not self._is_over():
                    note = self._step(next(remaining))
                    bar(1, note)
                    self._check_stop()
                    if self._judging_is_due():
                        self._judge()
                    if self._saving_is_due():
                        self._save()
        except StopNow:
            if progress.steps:
                with self.stop.uninterrupted():
                    self._save()
            raise

    def _check_stop(self) -> None:
        """Between steps: raise ``StopNow`` if the process, or one of the group, has been asked to stop."""
        if self.group.size == 1:
            self.stop.check()
        elif self._stop_asked:
            raise StopNow(self._stop_asked)

    def _saving_is_due(self) -> bool:
        if self.group.size > 1:  # by the leading process' clock
            return self._save_asked
        return self.checkpoints is not None and self.checkpoints.due(self.progress.steps)

    def outcome(self) -> Outcome:
        progress = self.progress
        if self.evaluate is None:
            self._keep_state()
        return Outcome(
            state=self.best_state,
            losses=self.losses[: progress.steps].cpu().numpy(),
            steps=progress.steps,
            best_step=progress.best_step,
            train_s=progress.train_s,
            num_texts=progress.num_texts,
            num_tokens=progress.num_tokens,
            stopped_early=progress.steps < self.num_steps,
            token_budget=self.learner.token_budget,
            history=progress.history,
        )

    def _keep_state(self) -> None:
        """Keep the weights as they are, which only the leading process of a group needs."""
        if self.group.leads:
            self.best_state = self._with_room(self._state)
        self.progress.best_step = self.progress.steps

    def _state(self) -> dict[str, Tensor]:
        """The weights that are judged and kept: their mean, once there is one."""
        return self.average.state() or self.optimizer.master_state()

    def _is_over(self) -> bool:
        progress, patience = self.progress, self.config.patience
        return progress.steps >= self.num_steps or (patience is not None and progress.worse_in_a_row >= patience)

    def _judging_is_due(self) -> bool:
        steps = self.progress.steps
        return steps > 0 and (steps == self.num_steps or steps % self.eval_every == 0)

    # --- a step -------------------------------------------------------------------------------------------------

    def try_step(self, rows: np.ndarray) -> None:
        """A step that is waited for, whatever the device."""
        self._step(rows)
        if self.learner.device.type == "cuda":
            torch.cuda.synchronize(self.learner.device)

    def _step(self, rows: np.ndarray) -> str:
        """Learn from a batch, the texts ``rows``; returns a note for whoever watches."""
        progress, optimizer = self.progress, self.optimizer
        started = time.perf_counter()
        step = progress.steps
        rate = self.learning_rate * (factor := rate_factor(self.config.schedule, step, self.num_steps, self.num_warmup))
        mine = rows
        if self.group.size > 1:
            mine = own_share(self.group, self.learner.lengths, rows)
        while not self._have_gradients(mine, len(rows)):
            pass
        self._update_weights(factor)
        progress.steps = step + 1
        if self.average.is_due(progress.steps):
            self._with_room(lambda: self.average.add(optimizer.masters()))
        progress.num_texts += len(rows)
        progress.num_tokens += self.learner.num_tokens(rows)
        note = ""
        due = self._judging_is_due()
        if due or progress.steps % self.check_every == 0:
            note = f"loss {_checked_loss(self.losses, progress.steps, rate):.3f}"
        if due:  # on a GPU this also waits for all steps, so that their time is counted
            optimizer.check_weights(progress.steps, rate)
        progress.train_s += time.perf_counter() - started
        return note

    def _update_weights(self, rate_factor: float) -> None:
        def update() -> None:
            self.optimizer.step(rate_factor)

        try:
            if self.optimizer.can_step_again:
                self._with_room(update)
            else:
                update()
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory while the weights were updated in step {self.progress.steps + 1}. Lower "
                "--token-budget, and go on from the last checkpoint with --resume"
            ) from None

    def _with_room(self, act: Callable[[], Done]) -> Done:
        """``act()``, which leaves nothing half-done where memory runs out, at once or without the memory of batches."""
        try:
            return act()
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
        self.learner.use_budget(self.learner.token_budget)  # lets go of it
        return act()

    def _have_gradients(self, rows: np.ndarray, num_texts: int) -> bool:
        """Whether the gradients of a batch of ``num_texts``, of which ``rows`` are this process' share, are there.

        Else nothing of the step is left, and memory was short: here, where less is used from now on, or elsewhere.
        """
        group, step = self.group, self.progress.steps
        random = random_state(self.learner.device)
        fits = self._collected_gradients(rows, num_texts)
        if not fits:
            self._use_less_memory(rows)
        if group.size == 1:
            return fits
        save = group.leads and self.checkpoints is not None and self.checkpoints.due(step + 1)
        found = group.exchange(np.array([fits, self.stop.requested or 0, save, *self.optimizer.held()], np.int64))
        self._stop_asked, self._save_asked = int(found[:, 1].max()), bool(found[0, 2])
        if not found[:, 0].all():
            if fits:
                self._forget_step(random)
            return False
        self.optimizer.sum_gradients(group, found[:, 3:])
        group.sum_(self.losses[step : step + 1])
        return True

    def _forget_step(self, random: dict[str, Tensor]) -> None:
        """Let nothing be left of a step, before which torch's generators were in the state ``random``."""
        self.optimizer.drop_gradients()
        self.losses[self.progress.steps] = 0.0
        set_random_state(random, self.learner.device)

    def _collected_gradients(self, rows: np.ndarray, num_texts: int) -> bool:
        """Whether memory sufficed for the gradients of ``rows``. Else nothing of the step is left."""
        learner, optimizer, step = self.learner, self.optimizer, self.progress.steps
        random = random_state(learner.device)
        parts = learner.parts(rows)
        try:
            for i, part in enumerate(parts):
                part_rows = rows[part]
                logits = learner.logits(part_rows)
                # Divided by the whole batch's texts, so that how it is cut into parts changes nothing.
                loss = self.objective.sum(logits, rows_on(part_rows, learner.device)) / num_texts
                optimizer.scaled(loss).backward()
                optimizer.collect_gradients(i, len(parts))
                self.losses[step] += loss.detach()
                if self.group.size == 1:  # in a group all stop behind the same step
                    self.stop.check()
        except BaseException as error:
            self._forget_step(random)
            if not hardware.is_out_of_memory(error):
                raise
            return False
        return True

    def _use_less_memory(self, rows: np.ndarray) -> None:
        learner = self.learner
        smaller = learner.smaller_budget(rows)
        if smaller is None:
            longest = max(learner.num_tokens(rows[i : i + 1]) for i in range(len(rows)))
            raise TrainingError(
                f"out of memory in step {self.progress.steps + 1}, in learning from a single text (the longest has "
                f"{longest:,} tokens): {ADVICE}"
            )
        self.reporter.warn(
            f"out of memory in step {self.progress.steps + 1}, which is done again: --token-budget {smaller:,} from "
            f"here on, not {learner.token_budget:,} (the same training but for which numbers dropout draws)"
        )
        learner.use_budget(smaller)

    # --- between steps ------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Add a line to the history, and keep the state if it is the best so far."""
        progress = self.progress
        rate = self.learning_rate * rate_factor(
            self.config.schedule, progress.steps - 1, self.num_steps, self.num_warmup
        )
        metrics: dict[str, Any] = {}
        if self.evaluate is not None:
            if self.average.mean:
                self.optimizer.masters()  # so that no weight is brought up to date while the mean is judged
            # In a group none may leave: the others wait for its share.
            leaving = self.stop.immediate() if self.group.size == 1 else contextlib.nullcontext()
            with self.average.shown(self.learner.named_parameters()), leaving:
                metrics = self.group.broadcast(self.evaluate())
        self.learner.train_mode(True)
        line = {
            "step": progress.steps,
            "epoch": progress.num_texts / self.objective.num_texts,
            "elapsed_s": time.perf_counter() - self.started,
            "train_loss": float(self.losses[progress.recorded_steps : progress.steps].mean()),
            "learning_rate": rate,
            "validation": metrics,
        }
        progress.recorded_steps = progress.steps
        progress.history.append(line)
        self.record(line)
        self.reporter.say(_history_line(line, self.best_metric))
        if self.evaluate is None:
            return
        value = metrics.get(self.best_metric)
        better = progress.best is None or is_better(self.best_metric, value, progress.best)
        if better or (self.config.keeps_later_of_equals and value == progress.best):
            progress.best = value
            self._keep_state()
        progress.worse_in_a_row = 0 if better else progress.worse_in_a_row + 1

    def _save(self) -> None:
        random_states = {
            kind: self.group.gather(state, [len(state)] * self.group.size)
            for kind, state in random_state(self.learner.device).items()
        }
        checkpoints = self.checkpoints
        if checkpoints is None or not self.group.leads:
            return
        self.progress.elapsed_s = time.perf_counter() - self.started
        self.progress.token_budget = self.learner.token_budget
        numbers, tensors = self.optimizer.state()
        tensors["losses"] = self.losses[: self.progress.steps]
        self.progress.averaged_states = self.average.num_states
        for name, mean in self.average.mean.items():
            tensors["average/" + name] = mean
        for kind, states in random_states.items():
            for rank, state in enumerate(states):
                tensors[f"random/{kind}" + (f"/{rank}" if rank else "")] = state
        with self.stop.uninterrupted():
            checkpoints.save(self.progress, numbers, tensors, self.best_state)

    def _resume(self) -> None:
        saved = None
        if self.checkpoints is not None and self.group.leads:
            saved = self.checkpoints.load(self.num_steps, self._use)
        if self.group.size > 1:
            asked = self.progress.asked_budget
            sent = self.group.broadcast(None if saved is None else saved.for_others())
            if sent is not None and not self.group.leads:
                other = Saved.sent(sent)
                self._take(other, other.random_of(self.group.rank) or None)
                self.progress.asked_budget = self.progress.token_budget = asked
        if saved is None or self.checkpoints is None:
            return
        for line in self.progress.history:
            self.record(line)
        self.reporter.say(
            f"going on after step {self.progress.steps:,} of {self.num_steps:,}, from {self.checkpoints.folder}"
        )

    def _use(self, saved: Saved) -> None:
        """Go on from ``saved``; raises ``Damaged`` before anything is changed."""
        progress = saved.progress
        if bool(saved.best_state) != (self.evaluate is not None and progress.best_step > 0):
            raise Damaged("its best state is that of another training")
        shapes = {name: tuple(parameter.shape) for name, parameter in self.learner.named_parameters()}
        if saved.best_state and shapes != {name: tuple(tensor.shape) for name, tensor in saved.best_state.items()}:
            raise Damaged("its best state has other weights")
        if saved.average and shapes != {name: tuple(tensor.shape) for name, tensor in saved.average.items()}:
            raise Damaged("its averaged weights are other weights")
        asked = self.progress.asked_budget
        self._take(saved, saved.random)
        self.best_state = saved.best_state
        if progress.asked_budget == asked:
            self.learner.use_budget(progress.token_budget)
        else:
            progress.asked_budget = asked

    def _take(self, saved: Saved, random: dict[str, Tensor] | None) -> None:
        """Go on from ``saved``, drawing random numbers as after ``random``; None: as from the start."""
        before = random_state(self.learner.device)
        if random is not None:
            set_random_state(random, self.learner.device)
        try:
            self.optimizer.load_state(saved.optimizer, saved.tensors)
        except ValueError as error:
            set_random_state(before, self.learner.device)
            raise Damaged(str(error)) from None
        progress = saved.progress
        self.losses[: progress.steps] = saved.losses.to(self.losses.device)
        self.average.load(saved.average, progress.averaged_states, self.learner.device)
        self.progress = progress


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
