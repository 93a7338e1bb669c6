"""Memory from the system, and the collector of garbage left out of the way."""

import gc
import os
import sys

import pytest
import torch

from bertwright.model.memory import fresh_memory, settled_objects

LARGE = 2 * 1024 * 1024


@pytest.mark.parametrize("size", [1, 4096, LARGE, 3 * LARGE + 5])
def test_it_is_zeros_of_the_size_that_was_asked_for(size):
    memory = fresh_memory(size)
    assert memory.shape == (size,)
    assert memory.dtype == torch.uint8
    assert not memory.any()
    assert memory.data_ptr() % 64 == 0
    memory.fill_(7)
    assert memory.view(torch.uint8).sum() == 7 * size


def test_it_lives_as_long_as_what_looks_at_it():
    part = fresh_memory(LARGE)[10:20]
    gc.collect()
    part.fill_(3)
    assert part.tolist() == [3] * 10


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_a_forked_process_has_memory_of_its_own():
    memory = fresh_memory(LARGE).numpy()
    child = os.fork()
    if child == 0:
        memory[:] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not memory.any()


def test_settled_objects_are_left_alone_and_given_back():
    gc.unfreeze()  # what conftest.py left alone
    try:
        with settled_objects():
            assert gc.get_freeze_count() > 0
            with settled_objects():
                assert gc.get_freeze_count() > 0
            # Not the very same count: one that is left alone may still die, as its last user lets go of it.
            assert gc.get_freeze_count() > 0, "the inner one undoes the outer one"
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()
