"""The loop of a pretraining: sequences packed by tokens, masks, loss, updates, looks at held-out documents."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware
from bertwright.config.pretrain import PretrainConfig
from bertwright.config.train import TrainSettings
from bertwright.data.batches import epoch_order
from bertwright.data.budget import ADVICE, smaller_budget
from bertwright.data.masking import Masking, epoch_key
from bertwright.data.packing import split_by_budget
from bertwright.data.ragged import Ragged
from bertwright.errors import TrainingError
from bertwright.model.batch import Batch, Readers, flat_batch
from bertwright.model.masked_language_model import TABLE, MaskedLanguageModel
from bertwright.model.memory import settled_objects
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.training.optimizer import make_optimizer
from bertwright.training.schedule import rate_factor, rate_factor_of_share
from bertwright.training.state import Checkpoints, Damaged, Progress, Saved, random_state, set_random_state
from bertwright.training.stop import Stop, StopNow

# With a budget of time: learning between two looks at the held-out documents, in times of what the last one took.
_LEARNING_A_LOOK = 9
# On a GPU, looking at the loss makes the CPU wait.
_LOSS_CHECK_STEPS = {"cpu": 1, "cuda": 25}
_MOST_STEPS = 100_000_000


@dataclass(frozen=True)
class MaskedBatch:
    """A batch with masks in it: which tokens are to be guessed, and what they were, (masked,) int64."""

    batch: Batch
    readers: Readers
    targets: Tensor

    @property
    def num_masked(self) -> int:
        return self.targets.shape[0]


class Sequences:
    """Sequences of a corpus, from which masked batches are cut."""

    def __init__(self, ragged: Ragged, masking: Masking, device: torch.device) -> None:
        self.ragged, self.masking, self.device = ragged, masking, device
        self.lengths = ragged.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray, key: int) -> MaskedBatch:
        """The sequences ``rows`` with the masks of ``key``; see ``epoch_key``."""
        ids, lengths = self.ragged.gather_sequences(rows)
        masked = self.masking.mask(ids, lengths, self.ragged.starts[rows], key)

        def sent(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device, non_blocking=True)

        readers = Readers(sent(masked.rows), sent(masked.starts), masked.most)
        return MaskedBatch(flat_batch(masked.token_ids, lengths, self.device), readers, sent(masked.targets))


def steps_of(lengths: np.ndarray, batch_tokens: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """(epoch, rows) of each optimizer step, epoch after epoch without end: up to ``batch_tokens`` tokens each."""
    for epoch in itertools.count():
        order = epoch_order(len(lengths), seed, epoch)
        for part in split_by_budget(lengths[order], batch_tokens):
            yield epoch, order[part]


def num_steps_of(config: PretrainConfig, lengths: np.ndarray) -> int | None:
    """Optimizer steps in all; None where the time decides."""
    if config.budget is not None:
        return None
    if config.steps is not None:
        return config.steps
    a_pass = len(split_by_budget(lengths[epoch_order(len(lengths), config.seed, 0)], config.batch_tokens))
    return max(1, math.ceil((config.epochs or 1.0) * a_pass))


@dataclass
class Pretrained:
    """What a pretraining came to; ``state`` are the float32 weights by name."""

    state: dict[str, Tensor]
    losses: np.ndarray
    progress: Progress


class Pretraining:
    """A pretraining on its way. All that the next step depends on is in ``progress``, the optimizer and torch's random
    state; what is masked follows from the step.

    Args:
        budget_s: seconds from the first step on, looks at held-out documents included; else ``num_steps``.
        record: is handed each line of the history.
    """

    def __init__(
        self,
        model: MaskedLanguageModel,
        originals: dict[str, Tensor],
        sequences: Sequences,
        held_out: Sequences | None,
        config: PretrainConfig,
        num_steps: int | None,
        budget_s: float | None,
        token_budget: int,
        record: Callable[[dict[str, Any]], None],
        reporter: Reporter,
        checkpoints: Checkpoints | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.model, self.sequences, self.held_out, self.config = model, sequences, held_out, config
        self.num_steps, self.budget_s = num_steps, budget_s
        self.record, self.reporter, self.checkpoints, self.stop = record, reporter, checkpoints, stop or Stop()
        self.rate = config.learning_rate or 0.0
        self.token_budget = token_budget
        update = ("weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm")
        self.optimizer = make_optimizer(
            list(model.named_parameters()),
            originals,
            TrainSettings(**{name: getattr(config, name) for name in update}),
            self.rate,
            num_steps or _MOST_STEPS,
            model.cpu_encoder,
            dense_table=model.has_dense_table_gradient,
            frozen=[TABLE] if config.freeze_word_embeddings else [],
        )
        self.progress = Progress(asked_budget=token_budget, token_budget=token_budget)
        self.device = sequences.device
        self.num_warmup = 0 if num_steps is None else math.ceil(config.warmup_ratio * num_steps)
        self.eval_every = config.eval_every
        if self.eval_every is None and num_steps is not None:
            self.eval_every = max(1, round(num_steps / config.evaluations))
        self.losses: list[float] = []
        self._pending: list[Tensor] = []  # on a GPU, losses that were not looked at
        self._last_rate = 0.0
        self._next_look_s = 0.0
        self.started = 0.0

    def run(self) -> Pretrained:
        """Learn to the end.

        Raises:
            TrainingError: the loss, or a weight, is no longer a number; or a single sequence does not fit in memory.
            StopNow: ``stop`` said so; the state after the last whole step is saved.
        """
        torch.manual_seed(purpose_seed(self.config.seed, "dropout"))
        if self.checkpoints is not None:
            self._resume(self.checkpoints)
        progress = self.progress
        steps = steps_of(self.sequences.lengths, self.config.batch_tokens, self.config.seed)
        steps = itertools.islice(steps, progress.steps, None)
        self.model.train()
        self.started = time.perf_counter() - progress.elapsed_s
        self._plan_look()
        total = None if self.num_steps is None else self.num_steps - progress.steps
        try:
            with self.stop.deferred(), settled_objects(), self._bar(total) as bar:
                while not self._is_over():
                    bar(*self._step(*next(steps)))
                    self.stop.check()
                    if self._judging_is_due():
                        self._judge()
                    if self.checkpoints is not None and self.checkpoints.due(progress.steps):
                        self._save(self.checkpoints)
                if progress.recorded_steps < progress.steps:
                    self._judge()
        except StopNow:
            if self.checkpoints is not None and progress.steps:
                with self.stop.uninterrupted():
                    self._save(self.checkpoints)
            raise
        finally:
            self.optimizer.close()
        progress.elapsed_s = self._elapsed()
        return Pretrained(self.optimizer.master_state(), np.asarray(self.losses, np.float32), progress)

    def _bar(self, total: int | None) -> Any:
        if total is None:
            assert self.budget_s is not None
            return self.reporter.progress("Pretraining", max(1, round(self.budget_s - self.progress.elapsed_s)), "s")
        return self.reporter.progress("Pretraining", total, "steps")

    # --- time ---------------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started

    def _is_over(self) -> bool:
        if self.num_steps is not None:
            return self.progress.steps >= self.num_steps
        assert self.budget_s is not None
        return self._elapsed() >= self.budget_s

    def _factor(self) -> float:
        """What the learning rate is multiplied by in the step that comes."""
        if self.num_steps is not None:
            return rate_factor("linear", self.progress.steps, self.num_steps, self.num_warmup)
        assert self.budget_s is not None
        return rate_factor_of_share(self._elapsed() / self.budget_s, self.config.warmup_ratio)

    def _judging_is_due(self) -> bool:
        if self.eval_every is not None:
            return self.progress.steps % self.eval_every == 0 or self.progress.steps == self.num_steps
        return self._elapsed() >= self._next_look_s

    def _plan_look(self, took_s: float = 0.0) -> None:
        """When to look next, where time decides: at the next of the planned moments, and not so soon that looking would
        take more than a tenth of the time."""
        if self.budget_s is not None:
            elapsed, between = self._elapsed(), self.budget_s / self.config.evaluations
            self._next_look_s = max((elapsed // between + 1) * between, elapsed + _LEARNING_A_LOOK * took_s)

    # --- a step -------------------------------------------------------------------------------------------------

    def _step(self, epoch: int, rows: np.ndarray) -> tuple[int, str]:
        """Learn from the sequences ``rows``; gives how far the bar moves, and a note for it."""
        progress, began = self.progress, time.perf_counter()
        before_s, factor = self._elapsed(), self._factor()
        self._last_rate = self.rate * factor
        key = epoch_key(self.config.seed, epoch)
        while not self._collected_gradients(rows, key):
            self._use_less_memory(rows)
        try:
            self.optimizer.step(factor)
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory while the weights were updated in step {progress.steps + 1}: {ADVICE}. Go on from the "
                "last checkpoint with --resume"
            ) from None
        progress.steps += 1
        progress.num_texts += len(rows)
        progress.num_tokens += int(self.sequences.lengths[rows].sum())
        note = ""
        if progress.steps % _LOSS_CHECK_STEPS[self.device.type] == 0:
            note = f"loss {self._checked_loss(factor * self.rate):.3f}"
        progress.train_s += time.perf_counter() - began
        moved = 1 if self.num_steps is not None else int(self._elapsed()) - int(before_s)
        return moved, note

    def _collected_gradients(self, rows: np.ndarray, key: int) -> bool:
        """Whether memory sufficed for the gradients of a step. Else nothing of it is left."""
        random = random_state(self.device)
        lengths = self.sequences.lengths[rows]
        parts = split_by_budget(lengths, self.token_budget)
        try:
            batches = [self.sequences.batch(rows[part], key) for part in parts]
            # Divided by the masked tokens of the whole step, so that how it is cut into parts changes nothing.
            scale = 1.0 / max(1, sum(batch.num_masked for batch in batches))
            total = torch.zeros((), device=self.device)
            for i, batch in enumerate(batches):
                loss = self.model.loss(batch.batch, batch.readers, batch.targets, scale)
                self.optimizer.scaled(loss).backward()
                self.optimizer.collect_gradients(i, len(batches))
                total += loss.detach()
                self.stop.check()
        except BaseException as error:
            self.optimizer.drop_gradients()
            set_random_state(random, self.device)
            if not hardware.is_out_of_memory(error):
                raise
            return False
        self._pending.append(total)
        return True

    def _use_less_memory(self, rows: np.ndarray) -> None:
        smaller = smaller_budget(self.sequences.lengths[rows], self.token_budget)
        if smaller is None:
            raise TrainingError(
                f"out of memory in step {self.progress.steps + 1}, in learning from a single sequence: {ADVICE}"
            )
        self.reporter.warn(
            f"out of memory in step {self.progress.steps + 1}, which is done again: --token-budget {smaller:,} from "
            f"here on, not {self.token_budget:,}"
        )
        self.token_budget = smaller
        self.model.release_memory()

    def _checked_loss(self, rate: float) -> float:
        """The loss of the last step.

        Raises:
            TrainingError: it, or one before it, is not a finite number.
        """
        new = torch.stack(self._pending).tolist() if self._pending else []
        first, self._pending = len(self.losses) + 1, []
        self.losses += new
        found = next((i for i, loss in enumerate(new) if not math.isfinite(loss)), None)
        if found is not None:
            raise TrainingError(
                f"the loss of step {first + found} is {new[found]}, expected a number (learning rate then about "
                f"{rate:.1e}). Lower --learning-rate, or compute in --dtype float32. No model was saved"
            )
        return self.losses[-1]

    # --- between steps ------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Look at the held-out documents, and add a line to the history."""
        progress, rate, began = self.progress, self._last_rate, time.perf_counter()
        self._checked_loss(rate)
        self.optimizer.check_weights(progress.steps, rate)
        found: dict[str, Any] = {}
        if self.held_out is not None:
            with self.stop.immediate():
                found = judge(self.model, self.held_out, self.token_budget, self.config.seed)
            self.model.train()
        recent = self.losses[progress.recorded_steps :]
        line = {
            "step": progress.steps,
            "epoch": progress.num_texts / len(self.sequences),
            "elapsed_s": self._elapsed(),
            "train_s": progress.train_s,
            "tokens": progress.num_tokens,
            "train_loss": float(np.mean(recent)),
            "learning_rate": rate,
            "validation": found,
        }
        progress.recorded_steps = progress.steps
        progress.history.append(line)
        self._plan_look(time.perf_counter() - began)
        self.record(line)
        self.reporter.say(history_line(line))

    def _save(self, checkpoints: Checkpoints) -> None:
        self._checked_loss(0.0)
        self.progress.elapsed_s = self._elapsed()
        self.progress.token_budget = self.token_budget
        numbers, tensors = self.optimizer.state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float32)
        for kind, state in random_state(self.device).items():
            tensors["random/" + kind] = state
        with self.stop.uninterrupted():
            checkpoints.save(self.progress, numbers, tensors, {})

    def _resume(self, checkpoints: Checkpoints) -> None:
        if checkpoints.load(self.num_steps or _MOST_STEPS, self._use) is None:
            return
        for line in self.progress.history:
            self.record(line)
        of = "" if self.num_steps is None else f" of {self.num_steps:,}"
        self.reporter.say(f"going on after step {self.progress.steps:,}{of}, from {checkpoints.folder}")

    def _use(self, saved: Saved) -> None:
        """Go on from ``saved``; raises ``Damaged`` before anything is changed."""
        if saved.best_state or saved.average:
            raise Damaged("it is of another kind of training")
        before = random_state(self.device)
        set_random_state(saved.random, self.device)
        try:
            self.optimizer.load_state(saved.optimizer, saved.tensors)
        except ValueError as error:
            set_random_state(before, self.device)
            raise Damaged(str(error)) from None
        self.losses = saved.losses.tolist()
        progress = saved.progress
        if progress.asked_budget == self.progress.asked_budget:
            self.token_budget = progress.token_budget
        else:
            progress.asked_budget = self.progress.asked_budget
        self.progress = progress


def judge(model: MaskedLanguageModel, held_out: Sequences, token_budget: int, seed: int) -> dict[str, float]:
    """Mean loss (nats a masked token), perplexity and masked accuracy; the masks are always the same."""
    model.eval()
    key = epoch_key(seed, "held out")
    order = np.argsort(-held_out.lengths, kind="stable")
    total, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for part in split_by_budget(held_out.lengths[order], token_budget):
            batch = held_out.batch(order[part], key)
            scored = model.score(batch.batch, batch.readers, batch.targets)
            total += float(scored.losses.double().sum())
            correct += int(scored.correct.sum())
            count += batch.num_masked
    loss = total / max(count, 1)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "masked_accuracy": correct / max(count, 1)}


def history_line(line: dict[str, Any]) -> str:
    """A line of the history in words."""
    text = f"step {line['step']:,} (epoch {line['epoch']:.2f}): train loss {line['train_loss']:.4f}"
    found = line["validation"]
    if not found:
        return text
    return (
        f"{text}, held out: loss {found['loss']:.4f}, perplexity {found['perplexity']:.1f}, masked accuracy "
        f"{found['masked_accuracy']:.4f}"
    )
