"""What the tests of stopped and of shared trainings have in common."""

from __future__ import annotations

import importlib.util

import pytest
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def kills():
    spec = importlib.util.spec_from_file_location("kills", REPOSITORY / "benchmarks" / "kills.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(kills, tmp_path_factory):
    """A folder with texts and a tiny model."""
    path = tmp_path_factory.mktemp("texts")
    kills.prepare(path)
    return path
