"""The update of the weights: torch.optim on float32 masters, whatever the encoder computes in."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.config.train import TrainSettings
from bertwright.errors import TrainingError
from bertwright.model.compiled import Adam, Kernels, Weight
from bertwright.model.cpu_encoder import CpuEncoder, RowGradients
from bertwright.training.distributed import Group, SummedGradients

# No trained weight comes near; a few products of weights like this leave float32.
_LARGEST_WEIGHT = 1e9
# The moments of Adam and AdamW, as torch.optim calls them.
_ADAM = ("exp_avg", "exp_avg_sq")


def takes_decay(name: str) -> bool:
    """Whether weight decay applies to the parameter ``name``: to weights, never to biases and norms."""
    return not (name.endswith("bias") or "norm." in name)


def weight_decay_of(settings: TrainSettings) -> float:
    """The decay asked for; 0.01 for AdamW (as BERT's own, arXiv 1810.04805, appendix A.2) and none for the others."""
    if settings.weight_decay is not None:
        return settings.weight_decay
    return 0.01 if settings.optimizer == "adamw" else 0.0


class Optimizer(Protocol):
    """What the loop asks of an optimizer.

    ``can_step_again``: a ``step`` that ran out of memory has changed nothing, and may be called again.
    """

    can_step_again: bool

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go back from."""
        ...

    def collect_gradients(self, part: int = 0, num_parts: int = 1) -> None:
        """Take the gradients of part ``part`` (from 0) of a step's ``num_parts``, and free them."""
        ...

    def held(self) -> np.ndarray:
        """(1 + weights,) int64: rows of the token embeddings that have a gradient of their own; 1 for each weight that
        has one."""
        ...

    def sum_gradients(self, group: Group, held: np.ndarray) -> None:
        """Sum what was collected over all processes, whose ``held`` are the rows of ``held`` (processes, ...)."""
        ...

    def step(self, rate_factor: float) -> None:
        """Update the weights with ``rate_factor`` times the learning rate and the gradients collected."""
        ...

    def check_weights(self, step: int, rate: float) -> None: ...

    def master_state(self) -> dict[str, Tensor]:
        """The float32 weights by name, copied to the CPU."""
        ...

    def masters(self) -> dict[str, Tensor]:
        """The float32 weights by name where they lie, up to date; the next step changes them."""
        ...

    def drop_gradients(self) -> None:
        """Forget what was collected, and what lies in the parameters: the step is not taken, or begun anew."""
        ...

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """All that the next steps depend on: some numbers, and tensors by kind and name of the weight.

        "weight/NAME" are the float32 weights, "step/NAME" how often each was updated; moments are called as in
        torch.optim. Both optimizers understand each other's. The tensors are not copies.
        """
        ...

    def load_state(self, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a ``state``.

        Raises:
            ValueError: it is not of these weights and this optimizer; nothing is changed then.
        """
        ...

    def close(self) -> None:
        """Bring all weights up to date; no more steps will come."""
        ...


class MasterOptimizer:
    """torch.optim over float32 master copies of parameters that may be of lower precision.

    bfloat16 keeps 8 bits of a number: an update of less than a 256th of a weight would be lost. So each such parameter
    has a float32 master that takes the updates and is copied, rounded, into the parameter (Micikevicius et al. 2018,
    arXiv 1710.03740, section 3.1). A float32 parameter is its own master.

    ``originals`` holds the weights in float32 by name, unrounded; on the same device they become the masters.
    ``encoder`` computes the gradients of the parameters under ``encoder.`` itself, outside of autograd.
    After each part of a batch call ``collect_gradients``; after the last, ``step``.
    """

    can_step_again = False

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        originals: Mapping[str, Tensor],
        settings: TrainSettings,
        rate: float,
        encoder: CpuEncoder | None = None,
        frozen: Collection[str] = (),
    ) -> None:
        self._encoder, self._frozen = encoder, frozenset(frozen)
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._masters: list[nn.Parameter] = []
        for name, parameter in parameters:
            own = parameter.dtype == torch.float32
            self._names.append(name)
            self._parameters.append(parameter)
            self._masters.append(parameter if own else nn.Parameter(originals[name].to(parameter.device)))
        self._gradients: dict[str, Tensor] = {}  # float32, of the masters, used again by every step
        self._summed = SummedGradients()
        self._low = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if p is not m]
        self.rate = rate
        self.max_grad_norm, self.clip = settings.max_grad_norm, settings.clip
        self.optimizer = _torch_optimizer(self._names, self._masters, settings, rate)
        # float16 holds nothing below 6e-8: the loss is scaled up so that gradients stay above, and a step whose
        # gradients overflow is left out (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).
        low = any(parameter.dtype == torch.float16 for parameter in self._parameters)
        self._scaler = torch.amp.GradScaler(self._parameters[0].device.type) if low else None
        if self._scaler is not None:  # makes its factor now: a process whose share is empty scales no loss
            self._scaler.scale(torch.zeros((), device=self._parameters[0].device))

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, scaled up where float16 needs it."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    @torch.no_grad()
    def collect_gradients(self, part: int = 0, num_parts: int = 1) -> None:
        """Add the gradients of lower precision to the masters' float32 gradients, and free them."""
        ours = _by_parameter_name(self._encoder)
        fresh: list[tuple[Tensor, Tensor]] = []
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            if name in self._frozen:
                parameter.grad = None
            elif name in ours:
                gradient = _dense(ours[name], master)
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            elif parameter is not master and parameter.grad is not None:
                if master.grad is None:
                    master.grad = self._gradients.setdefault(name, torch.empty_like(master))
                    fresh.append((master.grad, parameter.grad))
                else:
                    master.grad.add_(parameter.grad)
                parameter.grad = None
        if fresh:  # all at once: on a GPU, starting a kernel for each would cost more than the copies
            torch._foreach_copy_([to for to, _ in fresh], [of for _, of in fresh])

    def held(self) -> np.ndarray:
        """As in ``Optimizer``; rows are never apart."""
        return np.array([0, *(master.grad is not None for master in self._masters)], np.int64)

    @torch.no_grad()
    def sum_gradients(self, group: Group, held: np.ndarray) -> None:
        """As in ``Optimizer``."""
        masters = [master for master, has in zip(self._masters, held[:, 1:].max(axis=0).tolist(), strict=True) if has]
        summed = self._summed.of(group, [(master, master.grad) for master in masters])
        for master, gradient in zip(masters, summed, strict=True):
            master.grad = gradient

    @torch.no_grad()
    def step(self, rate_factor: float) -> None:
        """Clip, update the masters with ``rate_factor`` times the learning rate, copy them back, drop the gradients."""
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if self.max_grad_norm > 0 and self.clip == "each":
            _clip_each([m.grad for m in self._masters if m.grad is not None], self.max_grad_norm)
        elif self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self._masters, self.max_grad_norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_factor
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._low:
            torch._foreach_copy_([p for p, _ in self._low], [m for _, m in self._low])

    @torch.no_grad()
    def check_weights(self, step: int, rate: float) -> None:
        """Make sure that every weight is a number of use after ``step``, taken with the learning rate ``rate``.

        Raises:
            TrainingError: one is not finite, or so large that products of such overflow.
        """
        _check_weights(self._masters, step, rate)

    def master_state(self) -> dict[str, Tensor]:
        """The float32 weights by name, copied to the CPU."""
        return {
            name: master.detach().to("cpu", copy=True) for name, master in zip(self._names, self._masters, strict=True)
        }

    def masters(self) -> dict[str, Tensor]:
        """As in ``Optimizer``."""
        return {name: master.detach() for name, master in zip(self._names, self._masters, strict=True)}

    def drop_gradients(self) -> None:
        """As in ``Optimizer``."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            parameter.grad = master.grad = None

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """As in ``Optimizer``."""
        numbers: dict[str, float] = {}
        if self._scaler is not None:
            found = self._scaler.state_dict()
            numbers = {"scale": float(found["scale"]), "growth_tracker": float(found["_growth_tracker"])}
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self._names, self._masters, strict=True):
            tensors[f"weight/{name}"] = master.detach()
            for kind, tensor in self.optimizer.state.get(master, {}).items():
                if isinstance(tensor, Tensor):
                    tensors[f"{kind}/{name}"] = tensor.long() if kind == "step" else tensor
        return numbers, tensors

    @torch.no_grad()
    def load_state(self, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """As in ``Optimizer``."""
        masters = dict(zip(self._names, self._masters, strict=True))
        _check_state({name: tuple(master.shape) for name, master in masters.items()}, tensors, _moments(self.optimizer))
        scale, growth = _checked_scale(numbers)
        if self._scaler is not None and "scale" in numbers:
            found = self._scaler.state_dict()
            self._scaler.load_state_dict({**found, "scale": scale, "_growth_tracker": int(growth)})
        for group in self.optimizer.param_groups:
            for master in group["params"]:
                self.optimizer.state.pop(master, None)
        fused = bool(self.optimizer.param_groups[0].get("fused"))
        for name, master in masters.items():
            master.copy_(tensors[f"weight/{name}"])
            found = {}
            for kind in ("step", *_moments(self.optimizer)):
                if f"{kind}/{name}" in tensors:
                    tensor = tensors[f"{kind}/{name}"]
                    where = "cpu" if kind == "step" and not fused else master.device
                    found[kind] = tensor.to(where, torch.float32, copy=True)
            if found:
                self.optimizer.state[master] = found
        if self._low:
            torch._foreach_copy_([p for p, _ in self._low], [m for _, m in self._low])

    def close(self) -> None:
        """Nothing is left to do."""


class KernelAdamW:
    """AdamW by C kernels on float32 masters: one pass over a weight, its gradient, its moments and its rounded copy.

    Token embeddings without a gradient are left alone until a batch holds them again; then they get all the updates
    that they missed, the same ones in the same order, so that nothing but the time changes. Clipping is as in
    ``MasterOptimizer``; by each gradient's own norm, that of the token embeddings is the whole table's.

    With ``dense_table`` the token embeddings get a gradient for all rows in each step, as where a head is tied to them:
    then they are a weight like others.
    """

    can_step_again = True  # all memory is taken before the first weight is touched
    _TABLE = "encoder.embeddings.token.weight"

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        originals: Mapping[str, Tensor],
        settings: TrainSettings,
        rate: float,
        encoder: CpuEncoder,
        num_steps: int,
        dense_table: bool = False,
        frozen: Collection[str] = (),
    ) -> None:
        self._encoder, self._kernels = encoder, encoder.kernels
        self._frozen = frozenset(frozen)
        dense_table = dense_table or self._TABLE in self._frozen  # then it never misses a step
        self._dense_table, self._num_steps = dense_table, num_steps
        self._parameters = dict(parameters)
        self._masters = {
            name: parameter.data if parameter.dtype == torch.float32 else originals[name].contiguous()
            for name, parameter in self._parameters.items()
        }
        # From numpy, whose zeros are not touched before they are used: rows that never come take no memory.
        self._moments = {
            name: (np.zeros(master.numel(), np.float32), np.zeros(master.numel(), np.float32))
            for name, master in self._masters.items()
        }
        self._rate, self._decay, self._max_grad_norm = rate, weight_decay_of(settings), settings.max_grad_norm
        self._clip = settings.clip
        self._betas, self._epsilon = (settings.beta1, settings.beta2), settings.epsilon
        self._done = 0
        self._table_steps = (Adam * (0 if dense_table else num_steps))()
        self._row_steps = np.zeros(self._masters[self._TABLE].shape[0], np.int32)
        self._gradients: dict[str, Tensor] = {}
        self._summed = SummedGradients()
        self._rows: list[RowGradients] = []
        self._weights: ctypes.Array[Weight] | None = None
        self._weight_names: list[str] = []
        encoder.before_tokens = None if dense_table else self._catch_up

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as it is: bfloat16 has float32's range."""
        return loss

    @torch.no_grad()
    def collect_gradients(self, part: int = 0, num_parts: int = 1) -> None:
        """Take the gradients of a part; those of the only part as they are, those of several added up in float32."""
        ours = _by_parameter_name(self._encoder)
        for name, parameter in self._parameters.items():
            gradient = ours.get(name, parameter.grad)
            parameter.grad = None
            if name in self._frozen:
                continue
            if isinstance(gradient, RowGradients):
                kept = gradient if num_parts == 1 else RowGradients(gradient.rows, gradient.values.clone())
                self._rows.append(kept)
            elif gradient is not None and num_parts == 1:
                self._gradients[name] = gradient
            elif gradient is not None and name in self._gradients:
                self._gradients[name].add_(gradient)
            elif gradient is not None:
                self._gradients[name] = gradient.to(torch.float32, copy=True)

    def held(self) -> np.ndarray:
        """As in ``Optimizer``."""
        merged = _merged(self._rows, self._kernels)
        self._rows = [] if merged is None else [merged]
        return np.array(
            [0 if merged is None else len(merged.rows), *(name in self._gradients for name in self._masters)], np.int64
        )

    @torch.no_grad()
    def sum_gradients(self, group: Group, held: np.ndarray) -> None:
        """As in ``Optimizer``. Rows of the token embeddings are sent as such, so that tables stay out of it."""
        names = [name for name, has in zip(self._masters, held[:, 1:].max(axis=0).tolist(), strict=True) if has]
        summed = self._summed.of(group, [(self._masters[name], self._gradients.get(name)) for name in names])
        self._gradients = dict(zip(names, summed, strict=True))
        counts = held[:, 0].tolist()
        if any(counts):
            width = self._masters[self._TABLE].shape[1]
            mine = self._rows[0] if self._rows else RowGradients(np.zeros(0, np.int32), torch.zeros(0, width))
            ids = group.gather(torch.from_numpy(np.ascontiguousarray(mine.rows, np.int32)), counts)
            values = group.gather(mine.values, counts)
            found = [RowGradients(each.numpy(), value) for each, value in zip(ids, values, strict=True)]
            self._rows = [each for each in found if len(each.rows)]

    @torch.no_grad()
    def step(self, rate_factor: float) -> None:
        """Clip, update, round; with ``rate_factor`` times the learning rate."""
        rows = _merged(self._rows, self._kernels)
        gradients = {name: gradient.contiguous() for name, gradient in self._gradients.items()}
        weights = self._weights_of(gradients)
        scales = self._clip_scales(weights, len(gradients), rows)
        for weight, scale in zip(weights, scales, strict=False):  # the last one is the table's
            weight.scale = scale
        rate, step = self._rate * rate_factor, self._done + 1
        corrections = 1 - self._betas[0] ** step, 1 - self._betas[1] ** step
        settings = (Adam * 2)(  # with decay, and without
            *(
                Adam(
                    *self._betas,
                    self._epsilon,
                    1 - rate * decay,
                    rate / corrections[0],
                    1 / math.sqrt(corrections[1]),
                )
                for decay in (self._decay, 0.0)
            )
        )
        if not self._dense_table:
            self._table_steps[self._done] = settings[0]
        self._kernels.adam_step(ctypes.byref(weights), len(gradients), ctypes.byref(settings))
        if rows is not None:
            self._update_table(rows.rows, rows.values, scales[-1])
        self._done = step
        self._gradients, self._rows = {}, []

    def _clip_scales(self, weights: ctypes.Array[Weight], count: int, rows: RowGradients | None) -> list[float]:
        """What clipping multiplies the gradients of ``count`` weights by and, last, the table's; NaN for no number."""
        if self._max_grad_norm == 0:
            return [1.0] * (count + 1)
        squares = np.append(self._squares(weights, count), 0.0)
        if rows is not None:
            table = (Weight * 1)(Weight(gradient=rows.values.data_ptr(), n=rows.values.numel()))
            squares[-1] = self._squares(table, 1)[0]
        if self._clip == "each":
            return [_clip_scale(square, self._max_grad_norm, 0.0) for square in squares.tolist()]
        return [_clip_scale(float(squares.sum()), self._max_grad_norm, 1e-6)] * (count + 1)  # as clip_grad_norm_

    def _squares(self, weights: ctypes.Array[Weight], count: int) -> np.ndarray:
        """(count,) float64: the sum of squares of each gradient."""
        threads = self._kernels.num_threads()
        shares = np.zeros((threads, count))
        self._kernels.squares_of_each(ctypes.byref(weights), count, threads, shares.ctypes.data)
        return shares.sum(0)

    def _weights_of(self, gradients: dict[str, Tensor]) -> ctypes.Array[Weight]:
        """The weights that have gradients, for the kernels; made once, but for where weights and gradients lie."""
        if self._weights is None or self._weight_names != list(gradients):
            self._weight_names = list(gradients)
            self._weights = (Weight * len(gradients))()
            for weight, name in zip(self._weights, gradients, strict=True):
                master = self._masters[name]
                weight.master = master.data_ptr()
                weight.m, weight.v = (moment.ctypes.data for moment in self._moments[name])
                weight.n, weight.decayed = master.numel(), takes_decay(name)
        for weight, (name, gradient) in zip(self._weights, gradients.items(), strict=True):
            parameter = self._parameters[name]
            assert gradient.dtype in (torch.float32, torch.bfloat16)
            weight.gradient, weight.half = gradient.data_ptr(), gradient.dtype == torch.bfloat16
            weight.rounded = parameter.data_ptr() if parameter.dtype == torch.bfloat16 else None
        return self._weights

    def _catch_up(self, ids: np.ndarray) -> None:
        """Give the rows ``ids`` the steps that they missed."""
        self._update_table(ids, None, 1.0)

    def _update_table(self, ids: np.ndarray | None, gradients: Tensor | None, scale: float) -> None:
        """Give rows of the token embeddings (all without ``ids``) the steps that they missed, and one by a gradient."""
        if self._dense_table:  # no step was missed
            return
        master, parameter = self._masters[self._TABLE], self._parameters[self._TABLE]
        m, v = self._moments[self._TABLE]
        self._kernels.adam_rows(
            None if ids is None else ids.ctypes.data,
            master.shape[0] if ids is None else len(ids),
            None if gradients is None else gradients.data_ptr(),
            scale,
            master.data_ptr(),
            m.ctypes.data,
            v.ctypes.data,
            parameter.data_ptr() if parameter.dtype == torch.bfloat16 else None,
            self._row_steps.ctypes.data,
            self._done,
            ctypes.byref(self._table_steps),
            master.shape[1],
        )

    @torch.no_grad()
    def check_weights(self, step: int, rate: float) -> None:
        """As ``MasterOptimizer.check_weights``."""
        self._update_table(None, None, 1.0)
        _check_weights(list(self._masters.values()), step, rate)

    def master_state(self) -> dict[str, Tensor]:
        """The float32 weights by name, copied."""
        return {name: master.clone() for name, master in self.masters().items()}

    def masters(self) -> dict[str, Tensor]:
        """As in ``Optimizer``."""
        self._update_table(None, None, 1.0)
        return {name: master.detach() for name, master in self._masters.items()}

    def drop_gradients(self) -> None:
        """As in ``Optimizer``."""
        for parameter in self._parameters.values():
            parameter.grad = None
        self._gradients, self._rows = {}, []

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """As in ``Optimizer``."""
        self._update_table(None, None, 1.0)
        tensors: dict[str, Tensor] = {}
        for name, master in self._masters.items():
            tensors[f"weight/{name}"] = master.detach()
            for kind, moment in zip(_ADAM, self._moments[name], strict=True):
                tensors[f"{kind}/{name}"] = torch.from_numpy(moment).view(master.shape)
            tensors[f"step/{name}"] = torch.tensor(self._done)
        return {}, tensors

    @torch.no_grad()
    def load_state(self, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """As in ``Optimizer``."""
        _check_state({name: tuple(master.shape) for name, master in self._masters.items()}, tensors, _ADAM)
        _checked_scale(numbers)
        steps = {int(tensors[f"step/{name}"]) for name in self._masters if f"step/{name}" in tensors} or {0}
        if len(steps) > 1 or max(steps) > self._num_steps:
            raise ValueError(f"its weights were updated {', '.join(map(str, sorted(steps)[:5]))} times")
        for name, master in self._masters.items():
            master.copy_(tensors[f"weight/{name}"])
            parameter = self._parameters[name]
            if parameter.dtype != torch.float32:
                parameter.copy_(master)
            for kind, moment in zip(_ADAM, self._moments[name], strict=True):
                if self._done:
                    moment.fill(0)
                found = tensors.get(f"{kind}/{name}")
                if found is None:
                    continue
                values = found.contiguous().numpy()
                if values.ndim < 2:
                    moment[:] = values.reshape(-1)
                else:  # rows of zeros are left untouched: they take no memory
                    rows = values.view(np.int32).any(axis=1)
                    moment.reshape(values.shape)[rows] = values[rows]
        self._done = max(steps)
        self._row_steps.fill(self._done)  # all rows are up to date

    def close(self) -> None:
        """Bring all rows up to date and let go of the encoder."""
        self._update_table(None, None, 1.0)
        self._encoder.before_tokens = None


def make_optimizer(
    parameters: list[tuple[str, nn.Parameter]],
    originals: Mapping[str, Tensor],
    settings: TrainSettings,
    rate: float,
    num_steps: int,
    encoder: CpuEncoder | None = None,
    dense_table: bool = False,
    frozen: Collection[str] = (),
) -> Optimizer:
    """The fastest that does what ``settings`` ask for; ``encoder``: what computes it on a CPU, if anything does.

    ``dense_table``: its gradient of the token embeddings is that of all rows. ``frozen`` names parameters that stay as
    they are, decay and all, whatever gradient they get.
    """
    decoupled = settings.optimizer == "adamw" or (settings.optimizer == "adam" and not weight_decay_of(settings))
    if encoder is not None and decoupled:
        return KernelAdamW(parameters, originals, settings, rate, encoder, num_steps, dense_table, frozen)
    return MasterOptimizer(parameters, originals, settings, rate, encoder, frozen)


def _clip_scale(squares: float, most: float, added: float) -> float:
    """What brings a gradient, whose elements' squares sum to ``squares``, to a norm of at most ``most``."""
    norm = math.sqrt(squares) if squares >= 0 else math.nan
    return min(1.0, most / max(norm + added, most)) if math.isfinite(norm) else math.nan


def _clip_each(gradients: list[Tensor], most: float) -> None:
    """Bring each gradient to a norm of at most ``most``, as Keras' ``clipnorm``: g * most / max(norm(g), most)."""
    factors = torch._foreach_norm(gradients)
    torch._foreach_clamp_min_(factors, most)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, most)
    torch._foreach_mul_(gradients, factors)


def _by_parameter_name(encoder: CpuEncoder | None) -> dict[str, Tensor | RowGradients]:
    return {} if encoder is None else {"encoder." + name: found for name, found in encoder.gradients().items()}


def _dense(gradient: Tensor | RowGradients, like: Tensor) -> Tensor:
    """A copy in float32, of the shape of the parameter."""
    if isinstance(gradient, Tensor):
        return gradient.to(torch.float32, copy=True)
    dense = torch.zeros_like(like)
    dense[torch.from_numpy(gradient.rows).long()] = gradient.values
    return dense


def _merged(parts: list[RowGradients], kernels: Kernels) -> RowGradients | None:
    """The sum of the parts' gradients, each row once."""
    if len(parts) < 2:
        return parts[0] if parts else None
    rows, values = np.concatenate([part.rows for part in parts]), torch.cat([part.values for part in parts])
    order = np.argsort(rows, kind="stable").astype(np.int32)
    in_order = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1], [True]])).astype(np.int32)
    distinct = in_order[starts[:-1]]
    merged = torch.empty(len(distinct), values.shape[1])
    kernels.sum_by_group(
        values.data_ptr(), order.ctypes.data, starts.ctypes.data, len(distinct), values.shape[1], merged.data_ptr()
    )
    return RowGradients(distinct, merged)


def _moments(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What torch.optim calls the moments that the optimizer keeps."""
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",)
    return ("exp_avg", "exp_inf") if isinstance(optimizer, torch.optim.Adamax) else _ADAM


def _checked_scale(numbers: Mapping[str, float]) -> tuple[float, float]:
    """The scale of the loss, and the steps since it last changed; 1 and 0 where none is needed.

    Raises:
        ValueError: they cannot be.
    """
    scale, growth = numbers.get("scale", 1.0), numbers.get("growth_tracker", 0.0)
    if not (0 < scale < 1e30 and 0 <= growth < 1e9):
        raise ValueError(f"the scale of its loss is {scale:g}")
    return scale, growth


def _check_state(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], moments: tuple[str, ...]
) -> None:
    """Make sure that ``tensors`` are a state of weights of ``shapes``, by an optimizer with these ``moments``.

    A weight that had no gradient yet has no moments.

    Raises:
        ValueError: something is missing, extra, of another shape or type, or a negative square or count.
    """
    expected: set[str] = set()
    for name, shape in shapes.items():
        for kind in ("weight", *moments, "step"):
            key = f"{kind}/{name}"
            expected.add(key)
            tensor = tensors.get(key)
            if tensor is None:
                if kind == "weight":
                    raise ValueError(f"{key} is missing")
                continue
            wanted = ((), torch.int64) if kind == "step" else (shape, torch.float32)
            if (tuple(tensor.shape), tensor.dtype) != wanted:
                raise ValueError(f"{key} has shape {tuple(tensor.shape)} of {tensor.dtype}, expected {wanted[0]}")
            if kind in ("step", "exp_avg_sq", "exp_inf") and bool((tensor < 0).any()):
                raise ValueError(f"{key} is negative")
        present = {kind for kind in moments if f"{kind}/{name}" in tensors}
        if present and len(present) < len(moments):
            raise ValueError(f"{name} has no {(set(moments) - present).pop()}")
    extra = sorted(set(tensors) - expected)
    if extra:
        raise ValueError(f"{extra[0]} is not of this training")


def _check_weights(masters: list[Tensor] | list[nn.Parameter], step: int, rate: float) -> None:
    largest = float(torch.stack(torch._foreach_norm(list[Tensor](masters), float("inf"))).max())
    if not largest < _LARGEST_WEIGHT:  # also where it is NaN
        raise TrainingError(
            f"after step {step} the largest weight is {largest:.1e}, expected a number of use (learning rate then "
            f"{rate:.1e}). Lower --learning-rate, or compute in --dtype float32. No model was saved"
        )


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
