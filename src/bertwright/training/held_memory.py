"""What a training holds for its weights, counted: the memory that does not depend on the texts."""

from __future__ import annotations

from bertwright.config.train import Optimizer

# float32 numbers that an optimizer keeps for each weight: two moments, or a momentum.
_MOMENTS: dict[Optimizer, int] = {"adamw": 2, "adam": 2, "adamax": 2, "sgd": 1}


def held_bytes(num_learning: int, num_frozen: int, itemsize: int, optimizer: Optimizer) -> dict[str, int]:
    """Bytes of the weights, of the gradients and of the optimizer's state of those that learn.

    Args:
        num_learning, num_frozen: weights.
        itemsize: bytes of a number in the dtype that the encoder computes in. Where these are not 4, each weight is
            held in float32, too.
    """
    for_computing = 0 if itemsize == 4 else itemsize
    return {
        "weights": (4 + for_computing) * (num_learning + num_frozen),
        "gradients": itemsize * num_learning,
        "optimizer": 4 * _MOMENTS[optimizer] * num_learning,
    }
