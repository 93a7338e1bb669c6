"""Texts held out for validation, and texts that two sets share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.columns import LabelledTexts
from bertwright.errors import DataError
from bertwright.randomness import purpose_seed

_CHUNK_BYTES = 8 << 20
_DIGEST_BYTES = 16
# Of a text so many of its first, middle and last bytes tell whether it is worth a hash.
_WORD = 8


def split_validation(labelled: LabelledTexts, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the texts to train on and of those held out: two sorted int64 arrays, together all texts.

    Of every class, ``share`` of its texts (rounded, a half upwards) is drawn; one at least stays for training. Texts
    without one class each are drawn as if they were of one: those without labels, multi-label ones (a rare label may
    then be held out too often or never) and numbers. The draw depends on the classes, their order and ``seed`` alone.

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
    """How many texts of ``second`` also stand in ``first``: see ``shared_texts``."""
    return int(np.count_nonzero(shared_texts(first, second)))


def shared_texts(first: LabelledTexts, second: LabelledTexts) -> np.ndarray:
    """(texts of ``second``,) bool: which of them also stand in ``first``.

    Character by character but for white space around them; of pairs both texts must be the same. Equal are texts of one
    128-bit hash (BLAKE2b). Memory is held for some bytes a text of ``second``, and a hash of each text of ``first``
    that looks like one of them.
    """
    looks = np.concatenate([np.empty(0, np.uint64), *(_looks(chunks) for chunks in _stripped(second))])
    shared = np.zeros(len(looks), bool)
    wanted = np.unique(looks)
    if not len(wanted):
        return shared
    found: list[np.ndarray] = [np.empty(0, f"V{_DIGEST_BYTES}")]
    alike = np.zeros(len(wanted), bool)
    for chunks in _stripped(first):
        places = np.searchsorted(wanted, looks_of_first := _looks(chunks))
        places = np.minimum(places, len(wanted) - 1)
        same = wanted[places] == looks_of_first
        alike[places[same]] = True
        found.append(_digests(chunks, np.flatnonzero(same)))
    known = np.unique(np.concatenate(found))
    start = 0
    for chunks in _stripped(second):
        some = looks[start : start + len(chunks[0])]
        candidates = np.flatnonzero(alike[np.searchsorted(wanted, some)])
        shared[start + candidates] = np.isin(_digests(chunks, candidates), known)
        start += len(some)
    return shared


def _stripped(labelled: LabelledTexts) -> Iterator[list[pa.Array]]:
    """Chunk by chunk the texts without white space around them and, of pairs, the second texts of the same rows."""
    start = 0
    for chunk in labelled.texts.chunks(_CHUNK_BYTES):
        columns = [chunk]
        if labelled.pairs is not None:
            columns.append(pa.concat_arrays(labelled.pairs[start : start + len(chunk)].to_arrow().chunks))
        start += len(chunk)
        yield [pc.utf8_trim_whitespace(column) for column in columns]


def _looks(columns: list[pa.Array]) -> np.ndarray:
    """(texts,) uint64: equal for equal texts, made of their lengths and some of their bytes: cheap, and no proof."""
    together = np.zeros(len(columns[0]), np.uint64)
    for texts in columns:
        offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
        starts, lengths = offsets[:-1], np.diff(offsets)
        content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        content = np.concatenate([content[: offsets[-1]], np.zeros(_WORD, np.uint8)])
        together = _mixed(together, lengths.astype(np.uint64))
        for begin in (np.zeros_like(lengths), (lengths - _WORD) // 2, lengths - _WORD):
            begin = np.clip(begin, 0, None)
            word = np.zeros(len(texts), np.uint64)
            for place in range(_WORD):
                byte = content[np.minimum(starts + begin + place, len(content) - 1)].astype(np.uint64)
                word |= np.where(begin + place < lengths, byte, 0).astype(np.uint64) << np.uint64(8 * place)
            together = _mixed(together, word)
    return together


def _mixed(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    mixed = (hashes ^ words) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _digests(columns: list[pa.Array], rows: np.ndarray) -> np.ndarray:
    """(rows,) hashes of the texts ``rows``."""
    starts_and_ends, contents = [], []
    for texts in columns:
        offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
        starts_and_ends += [offsets[rows].tolist(), offsets[rows + 1].tolist()]
        contents.append(memoryview(texts.buffers()[2] or b""))
    digests = []
    for start, end, *second in zip(*starts_and_ends, strict=True):
        digest = hashlib.blake2b(contents[0][start:end], digest_size=_DIGEST_BYTES)
        if second:
            digest.update(b"\xff")  # a byte that no UTF-8 has
            digest.update(contents[1][second[0] : second[1]])
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), f"V{_DIGEST_BYTES}")
