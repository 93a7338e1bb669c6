"""The picture of memory: which part of it is what, where that can be told."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.memory_trace import MemoryTrace
from bertwright.reporting.svg import page_svg
from bertwright.reporting.training_plots import memory_plot
from bertwright.training.held_memory import held_bytes

MIB = 2**20
HELD = {"weights": 100 * MIB, "gradients": 30 * MIB, "optimizer": 60 * MIB}


def trace(process_mib, phases, gpu=None):
    count = len(phases)
    gpu_bytes = None if gpu is None else np.full(count, gpu * MIB)
    return MemoryTrace(np.arange(count, dtype=float), tuple(phases), np.array(process_mib) * MIB, gpu_bytes)


PHASES = ("reading", "tokenising", "training", "training", "training", "scoring")


def test_the_parts_add_up_to_what_was_held_while_it_learnt():
    plot = memory_plot(trace([200, 400, 500, 600, 590, 700], PHASES), HELD)
    assert "held most, 700 MiB, while scoring" in plot.description
    words = "libraries and texts 300 MiB, weights 100 MiB, gradients 30 MiB, optimizer 60 MiB, activations 110 MiB"
    assert words in plot.description
    assert "activations" in page_svg(plot)


def test_on_a_gpu_its_memory_is_taken_apart():
    gpu = np.array([0, 110, 300, 420, 410, 350]) * MIB
    seen = trace([200, 400, 500, 600, 590, 700], PHASES)
    seen = MemoryTrace(seen.elapsed_s, seen.phases, seen.process_bytes, gpu)
    plot = memory_plot(seen, HELD)
    words = "the GPU held at most: texts and what else lay there 10 MiB, weights 100 MiB, gradients 30 MiB, "
    assert words + "optimizer 60 MiB, activations 220 MiB" in plot.description
    picture = page_svg(plot)
    assert "activations" in picture
    assert "GPU" in picture


@pytest.mark.parametrize(
    ("process_mib", "phases", "held", "gpu"),
    [
        ([200, 400, 500, 600, 590, 700], PHASES, None, None),  # an older run
        ([200, 400, 500, 600, 590, 700], PHASES, HELD, 50),  # too little on the GPU to hold them
        ([200, 400, 500, 700], ("reading", "tokenising", "training", "scoring"), HELD, None),  # too short to tell
        ([400, 500, 600], ("training",) * 3, HELD, None),  # nothing before it
        ([200, 400, 410, 410, 410, 410], PHASES, HELD, None),  # less than what counting says: swapped out
    ],
)
def test_where_it_cannot_be_told_the_picture_is_the_plain_one(process_mib, phases, held, gpu):
    plot = memory_plot(trace(process_mib, phases, gpu), held)
    assert "activations" not in plot.description
    assert "held most" in plot.description


def test_weights_are_counted_in_both_precisions():
    assert held_bytes(10, 90, 4, "sgd") == {"weights": 400, "gradients": 40, "optimizer": 40}
    assert held_bytes(100, 0, 2, "adamw") == {"weights": 600, "gradients": 200, "optimizer": 800}
