"""Texts held out for validation, and texts that two sets share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.columns import LabelledTexts
from bertwright.errors import DataError
from bertwright.randomness import purpose_seed


def split_validation(labelled: LabelledTexts, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the texts to train on and of those held out: two sorted int64 arrays, together all texts.

    Of every class, ``share`` of its texts (rounded, a half upwards) is drawn; one at least stays for training. Texts
    without labels are one class. The draw depends on the labels, their order and ``seed`` alone.

    Raises:
        DataError: ``share`` is not at least 0 and below 1, or so small that it holds out no text.
    """
    if not 0 <= share < 1:
        raise DataError(f"--validation-share: found {share:g}, expected at least 0 and below 1")
    ids = np.zeros(len(labelled), np.int64) if labelled.label_ids is None else labelled.label_ids
    generator = np.random.default_rng(purpose_seed(seed, "split"))
    order = np.argsort(ids, kind="stable")
    classes = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    held_out = np.zeros(len(ids), bool)
    for members in classes:
        count = min(int(np.floor(len(members) * share + 0.5)), len(members) - 1)
        held_out[generator.permutation(members)[: max(count, 0)]] = True
    if share > 0 and not held_out.any():
        raise DataError(
            f"--validation-share {share:g} of {len(ids):,} texts in {len(classes):,} classes holds out none, expected "
            "at least one. Give a larger share, more texts, or a file with --validation"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def count_shared_texts(first: LabelledTexts, second: LabelledTexts) -> int:
    """How many texts of ``second`` also stand in ``first``, character by character but for white space around them."""
    known: pa.ChunkedArray = pc.utf8_trim_whitespace(first.texts)
    found = pc.is_in(pc.utf8_trim_whitespace(second.texts), value_set=known)
    return int(pc.sum(found).as_py() or 0)
