"""Many trainings over a grid, a search or a list: ``bertwright sweep``. Torch is never imported here."""

from __future__ import annotations

from pathlib import Path

from bertwright.errors import RunError
from bertwright.experiments.sweep_record import Sweep, Trial

__all__ = ["Sweep", "Trial", "open_sweep"]


def open_sweep(path: str | Path, storage: str | None = None) -> Sweep:
    """The sweep in the folder ``path``, finished or not.

    ``storage`` is the URL of its study's database, where the one on record lacks the password.

    Raises:
        RunError: no sweep is there, or its files are damaged.
    """
    raise RunError(f"{path}: no sweep")
