"""What the tests of stopped and of shared trainings have in common."""

from __future__ import annotations

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def kills():
    return load_script("kills")


@pytest.fixture(scope="module")
def folder(kills, tmp_path_factory):
    """A folder with texts and a tiny model."""
    path = tmp_path_factory.mktemp("texts")
    kills.prepare(path)
    return path
