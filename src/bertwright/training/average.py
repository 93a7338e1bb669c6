"""The mean of the weights over the last part of a training.

Weights that are averaged along the way lie nearer to the middle of a flat region than those of the last step, and often
do better on other texts (Izmailov et al. 2018, arXiv 1803.05407, section 3.2).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

# So many states are averaged: more bring no better mean, and each costs a pass over all weights.
_STATES = 100


class WeightAverage:
    """The running mean of the float32 weights after every ``every``-th step of the last ``share`` of the steps.

    The last step is always one of them. Nothing is kept before the first.
    """

    def __init__(self, share: float, num_steps: int) -> None:
        averaged = math.floor(share * num_steps + 1e-9)
        self.first_step = num_steps - averaged + 1
        self.every = max(1, math.ceil(averaged / _STATES))
        self.num_steps = num_steps
        self.num_states = 0
        self.mean: dict[str, Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether the weights after ``step``, counted from 1, are one of those averaged."""
        return step >= self.first_step and (self.num_steps - step) % self.every == 0

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take the float32 ``weights`` by name into the mean."""
        if not self.mean:
            self.mean = {name: weight.detach().clone() for name, weight in weights.items()}
        else:
            torch._foreach_lerp_(
                list(self.mean.values()), [weights[name].detach() for name in self.mean], 1 / (self.num_states + 1)
            )
        self.num_states += 1

    def state(self) -> dict[str, Tensor]:
        """The mean by name of the weight, copied to the CPU; empty before the first step that counts."""
        return {name: mean.to("cpu", copy=True) for name, mean in self.mean.items()}

    def load(self, mean: Mapping[str, Tensor], num_states: int, device: torch.device) -> None:
        """Go on from the ``state`` that ``num_states`` states gave."""
        self.mean, self.num_states = {name: tensor.to(device) for name, tensor in mean.items()}, num_states

    @contextlib.contextmanager
    def shown(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> Iterator[None]:
        """The ``parameters`` hold the mean for a while, then again the same bits as before."""
        if not self.mean:
            yield
            return
        held = [(parameter, parameter.detach().clone()) for _, parameter in parameters]
        with torch.no_grad():
            for name, parameter in parameters:
                parameter.copy_(self.mean[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, before in held:
                    parameter.copy_(before)
