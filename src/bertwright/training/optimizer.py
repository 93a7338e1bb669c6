"""The update of the weights: torch.optim on float32 masters, whatever the encoder computes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bertwright.config import TrainSettings
from bertwright.errors import TrainingError

# No trained weight comes near; a few products of weights like this leave float32.
_LARGEST_WEIGHT = 1e9


def takes_decay(name: str) -> bool:
    """Whether weight decay applies to the parameter ``name``: to weights, never to biases and norms."""
    return not (name.endswith("bias") or "norm." in name)


def weight_decay_of(settings: TrainSettings) -> float:
    """The decay asked for; 0.01 for AdamW (as BERT's own, arXiv 1810.04805, appendix A.2) and none for the others."""
    if settings.weight_decay is not None:
        return settings.weight_decay
    return 0.01 if settings.optimizer == "adamw" else 0.0


class MasterOptimizer:
    """torch.optim over float32 master copies of parameters that may be of lower precision.

    bfloat16 keeps 8 bits of a number: an update of less than a 256th of a weight would be lost. So each such parameter
    has a float32 master that takes the updates and is copied, rounded, into the parameter (Micikevicius et al. 2018,
    arXiv 1710.03740, section 3.1). A float32 parameter is its own master.

    ``originals`` holds the weights in float32 by name, unrounded; on the same device they become the masters.
    After each part of a batch call ``collect_gradients``; after the last, ``step``.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        originals: Mapping[str, Tensor],
        settings: TrainSettings,
        rate: float,
    ) -> None:
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._masters: list[nn.Parameter] = []
        for name, parameter in parameters:
            own = parameter.dtype == torch.float32
            self._names.append(name)
            self._parameters.append(parameter)
            self._masters.append(parameter if own else nn.Parameter(originals[name].to(parameter.device)))
        self._low = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if p is not m]
        self.rate = rate
        self.max_grad_norm = settings.max_grad_norm
        self.optimizer = _torch_optimizer(self._names, self._masters, settings, rate)

    def collect_gradients(self) -> None:
        """Add the gradients of lower precision to the masters' float32 gradients, and free them."""
        for parameter, master in self._low:
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate_factor: float) -> None:
        """Clip, update the masters with ``rate_factor`` times the learning rate, copy them back, drop the gradients."""
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self._masters, self.max_grad_norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._low:
            torch._foreach_copy_([p for p, _ in self._low], [m for _, m in self._low])

    @torch.no_grad()
    def check_weights(self, step: int, rate: float) -> None:
        """Make sure that every weight is a number of use after ``step``, taken with the learning rate ``rate``.

        Raises:
            TrainingError: one is not finite, or so large that products of such overflow.
        """
        largest = float(torch.stack(torch._foreach_norm(list[Tensor](self._masters), float("inf"))).max())
        if not largest < _LARGEST_WEIGHT:  # also where it is NaN
            raise TrainingError(
                f"after step {step} the largest weight is {largest:.1e}, expected a number of use (learning rate then "
                f"{rate:.1e}). Lower --learning-rate, or compute in --dtype float32. No model was saved"
            )

    def master_state(self) -> dict[str, Tensor]:
        """The float32 weights by name, copied to the CPU."""
        return {
            name: master.detach().to("cpu", copy=True) for name, master in zip(self._names, self._masters, strict=True)
        }


def _torch_optimizer(
    names: list[str], masters: list[nn.Parameter], settings: TrainSettings, rate: float
) -> torch.optim.Optimizer:
    decay = weight_decay_of(settings)
    groups: list[dict[str, Any]] = []
    for decayed in (True, False):
        chosen = [m for name, m in zip(names, masters, strict=True) if takes_decay(name) == decayed]
        if chosen:
            groups.append({"params": chosen, "weight_decay": decay if decayed else 0.0})
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.epsilon, fused=True)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=betas, eps=settings.epsilon, fused=True)
    if settings.optimizer == "adamax":
        return torch.optim.Adamax(groups, lr=rate, betas=betas, eps=settings.epsilon, foreach=True)
    return torch.optim.SGD(groups, lr=rate, momentum=settings.beta1, fused=True)
