"""Which of PyTorch's ways of multiplying a weight's gradient is fastest on this CPU.

All give dy' x, of dy (tokens, outputs) and x (tokens, inputs), in bfloat16. Rates are the best of ``--repeats``, as a
share of that of the forward product of the same size.

    python benchmarks/weight_gradient_layouts.py --tokens 2304

as it is    torch.mm(dy.t(), x), which bertwright does where the CPU has no AMX tiles
copied      torch.mm(dy.t().contiguous(), x); the copy is part of the time
mirrored    torch.mm(x.t(), dy), the transpose of it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

_SHAPES = (
    *((128, 128), (128, 384), (128, 512), (512, 128)),
    *((384, 384), (384, 1152), (384, 1536), (1536, 384)),
    *((768, 768), (768, 3072), (3072, 768)),
)


def rate(compute: Callable[[], object], operations: float, repeats: int) -> float:
    """Operations a second of the fastest of ``repeats`` calls, after one that does not count."""
    compute()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        compute()
        best = min(best, time.perf_counter() - started)
    return operations / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2304)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print(
        f"{torch.cpu.get_capabilities().get('cpu_name')}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'inputs x outputs':>16} {'forward TFLOP/s':>16} {'as it is':>9} {'copied':>9} {'mirrored':>9}")
    for inputs, outputs in _SHAPES:
        x = torch.randn(options.tokens, inputs).bfloat16()
        dy = torch.randn(options.tokens, outputs).bfloat16()
        weight = torch.randn(outputs, inputs).bfloat16()
        operations = 2.0 * options.tokens * inputs * outputs

        def forward(x: torch.Tensor = x, weight: torch.Tensor = weight) -> torch.Tensor:
            return torch.mm(x, weight.t())

        def as_it_is(x: torch.Tensor = x, dy: torch.Tensor = dy) -> torch.Tensor:
            return torch.mm(dy.t(), x)

        def copied(x: torch.Tensor = x, dy: torch.Tensor = dy) -> torch.Tensor:
            return torch.mm(dy.t().contiguous(), x)

        def mirrored(x: torch.Tensor = x, dy: torch.Tensor = dy) -> torch.Tensor:
            return torch.mm(x.t(), dy)

        reference = rate(forward, operations, options.repeats)
        shares = [rate(way, operations, options.repeats) / reference for way in (as_it_is, copied, mirrored)]
        cells = " ".join(f"{share:>9.2f}" for share in shares)
        print(f"{f'{inputs} x {outputs}':>16} {reference / 1e12:>16.2f} {cells}")


if __name__ == "__main__":
    main()
