"""Where a training step's time goes on a CPU: matrix products, each C kernel, the optimizer, the rest.

    python benchmarks/profile_step.py comments.csv --model all-MiniLM-L6-v2

Prints milliseconds a step, the mean of ``--steps`` steps after some that do not count.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bertwright import hardware
from bertwright.config.base import build
from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.columns import read_labelled
from bertwright.data.ragged import tokenize_texts
from bertwright.model.checkpoint import load_for_training
from bertwright.progress import Reporter
from bertwright.training.learners import WholeModel
from bertwright.training.optimizer import make_optimizer

_WARM_UP_STEPS = 5
_PRODUCTS = {
    "product": "products of attention",
    "expand": "feed-forward, expand",
    "contract": "feed-forward, contract",
    "input_gradient": "products for inputs",
    "weight_gradient": "products for weights",
}


class Timed:
    """Stands before an object and adds up the seconds spent in its functions, by name."""

    def __init__(self, target: Any, seconds: dict[str, float]) -> None:
        self._target, self._seconds = target, seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        name = _PRODUCTS.get(name, name)
        return timed(name, found, self._seconds) if callable(found) else found


def timed(name: str, function: Callable[..., Any], seconds: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.perf_counter() - started

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--tokenizer", default=None)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    config = build(TrainConfig, {"train": options.data, "model": options.model})
    texts = read_labelled(options.data, config)
    tokenizer = options.tokenizer or (None if options.model == "all-MiniLM-L6-v2" else "all-MiniLM-L6-v2")
    dropouts = {"attention_probs_dropout_prob": 0.0}
    loaded = load_for_training(options.model, texts.labels, "first", config.max_length, 0, tokenizer, dropouts)
    ragged = tokenize_texts(loaded.tokenizer, texts.texts, config.max_length, Reporter(quiet=True))
    device = hardware.choose_device("cpu")
    dtype, _ = hardware.choose_dtype("auto", device)
    originals = dict(loaded.model.state_dict())
    model = loaded.model.compute_in(dtype).train()
    encoder = model.cpu_encoder
    if encoder is None:
        raise SystemExit(f"the C kernels do not compute here: {model.kernels_reason}")
    learner = WholeModel(model, ragged, device, hardware.token_budget(None, device))
    num_steps = _WARM_UP_STEPS + options.steps
    optimizer = make_optimizer(learner.named_parameters(), originals, config, 1e-4, num_steps, encoder)
    assert texts.label_ids is not None
    targets = torch.from_numpy(texts.label_ids)
    seconds: dict[str, float] = defaultdict(float)
    encoder.typed = Timed(encoder.typed, seconds)  # type: ignore[assignment]
    for name in ("attention_forward", "attention_backward"):
        setattr(encoder, name, timed(name.replace("_", " "), getattr(encoder, name), seconds))
    encoder.products = Timed(encoder.products, seconds)  # type: ignore[assignment]
    optimizer_step = timed("optimizer", optimizer.step, seconds)
    num_tokens, started = 0, 0.0
    gc.collect()
    gc.freeze()  # as the training loop does
    for step, rows in enumerate(training_batches(len(ragged), config.batch_size, 0, num_steps)):
        if step == _WARM_UP_STEPS:
            seconds.clear()
            num_tokens, started = 0, time.perf_counter()
        loss = functional.cross_entropy(learner.logits(rows), targets[torch.from_numpy(rows)])
        loss.backward()
        optimizer.collect_gradients()
        optimizer_step(1.0)
        num_tokens += learner.num_tokens(rows)
    total = time.perf_counter() - started
    rest = {"everything else": total - sum(seconds.values())}
    print(
        f"{options.model}, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, "
        f"{num_tokens / options.steps:,.0f} tokens a step: {total / options.steps * 1e3:.1f} ms a step"
    )
    for name, spent in (*sorted(seconds.items(), key=lambda item: -item[1]), *rest.items()):
        print(f"  {name:<26}{spent / options.steps * 1e3:>9.1f} ms {spent / total:>6.1%}")


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
