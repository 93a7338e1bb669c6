"""Texts held out for validation, and texts that two sets share: to the character, but for looks, or as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged, parts_of
from bertwright.errors import DataError
from bertwright.randomness import purpose_seed

# Chunk by chunk the texts of a set, in a list, and for pairs the second texts behind them: of equal rows.
_Chunks = Callable[[], Iterator[list[pa.Array]]]

# Regular expressions of RE2, of texts in NFKD: marks, characters of no width, and control characters that are no white
# space; white space but a single space, of which there are many.
_UNSEEN = r"[\p{M}\p{Cf}\x00-\x08\x0e-\x1f\x7f-\x{84}\x{86}-\x{9f}]+"
_WHITE_SPACE = r"[\t-\r \x{85}\p{Z}]{2,}|[\t-\r\x{85}\x{1680}\x{2028}\x{2029}]"
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
    strip = pc.utf8_trim_whitespace
    return _shared(lambda: _texts_of(first, strip), lambda: _texts_of(second, strip))


def alike_texts(first: LabelledTexts, second: LabelledTexts) -> np.ndarray:
    """(texts of ``second``,) bool: which of them also stand in ``first``, but for case, accents and what is not seen.

    As ``shared_texts``, but compatible characters count as one (Unicode's NFKD), as do capital and small letters; marks
    above letters and characters of no width are left out, and any white space is one space.
    """
    return _shared(lambda: _texts_of(first, _plain), lambda: _texts_of(second, _plain))


def same_token_ids(first: Ragged, second: Ragged) -> np.ndarray:
    """(texts of ``second``,) bool: which of them a model reads exactly as one of ``first``: all their ids are the same.

    Both are by one tokenizer, and cut in one way. Memory as for ``shared_texts``.
    """
    return _shared(lambda: _ids_of(first), lambda: _ids_of(second))


def _shared(first: _Chunks, second: _Chunks) -> np.ndarray:
    """(rows of ``second``,) bool: which of them are among the rows of ``first``, byte by byte."""
    looks = np.concatenate([np.empty(0, np.uint64), *(_looks(chunks) for chunks in second())])
    shared = np.zeros(len(looks), bool)
    wanted = np.unique(looks)
    if not len(wanted):
        return shared
    found: list[np.ndarray] = [np.empty(0, f"V{_DIGEST_BYTES}")]
    alike = np.zeros(len(wanted), bool)
    for chunks in first():
        places = np.searchsorted(wanted, looks_of_first := _looks(chunks))
        places = np.minimum(places, len(wanted) - 1)
        same = wanted[places] == looks_of_first
        alike[places[same]] = True
        found.append(_digests(chunks, np.flatnonzero(same)))
    known = np.unique(np.concatenate(found))
    start = 0
    for chunks in second():
        some = looks[start : start + len(chunks[0])]
        candidates = np.flatnonzero(alike[np.searchsorted(wanted, some)])
        shared[start + candidates] = np.isin(_digests(chunks, candidates), known)
        start += len(some)
    return shared


def _texts_of(labelled: LabelledTexts, change: Callable[[pa.Array], pa.Array]) -> Iterator[list[pa.Array]]:
    """The texts, each changed, and of pairs the second texts of the same rows."""
    start = 0
    for chunk in labelled.texts.chunks(_CHUNK_BYTES):
        columns = [chunk]
        if labelled.pairs is not None:
            columns.append(pa.concat_arrays(labelled.pairs[start : start + len(chunk)].to_arrow().chunks))
        start += len(chunk)
        yield [change(column) for column in columns]


def _plain(texts: pa.Array) -> pa.Array:
    """Each text without what many tokenizers, or readers, do not see."""
    texts = pc.replace_substring_regex(pc.utf8_normalize(texts, "NFKD"), _UNSEEN, "")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), _WHITE_SPACE, " "))


def _ids_of(ragged: Ragged) -> Iterator[list[pa.Array]]:
    """The token ids of each text as bytes, those of all its windows end to end."""
    starts = ragged.starts if ragged.window_starts is None else ragged.starts[ragged.window_starts]
    for first, last in parts_of(starts):
        ids = np.ascontiguousarray(ragged.gather(np.arange(first, last))[0], "<i4")
        offsets = (starts[first : last + 1] - starts[first]) * ids.itemsize
        buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(ids)]
        yield [pa.Array.from_buffers(pa.large_binary(), last - first, buffers)]


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
