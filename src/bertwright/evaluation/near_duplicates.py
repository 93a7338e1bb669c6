"""Texts that are nearly the same: within some texts, and between training and test texts.

Two texts are near-duplicates where the sets of their 5-character pieces, in lower case and with single spaces, have a
Jaccard similarity (pieces in common over pieces in either) of at least a threshold. Pairs that may be so are found with
MinHash signatures (Broder 1997, "On the resemblance and containment of documents") and locality-sensitive hashing by
datasketch (``MinHashLSH``); each is then compared exactly, so that there are no false alarms. A pair right at the
threshold may be missed, by chance of the hashing.

Signatures are computed here, by numpy over many texts at once: datasketch computes them text by text.

Torch is never imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertwright.errors import UserError
from bertwright.progress import Reporter

SIMILARITY = 0.8
NUM_HASHES = 128
PIECE = 5
_PIECES_AT_ONCE = 1 << 16
_MOST_CHARACTERS = 5_000
# Above it datasketch has too few bands.
_HIGHEST_THRESHOLD = 0.9
# A text of a large family is compared with this many of it, the first ones.
_MOST_CANDIDATES = 200
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.uint64(2**64 - 1)
# What stands for a text that is shorter than a piece is filled up with: no character of a text.
_FILLER = "\0"


@dataclass(frozen=True)
class NearDuplicates:
    """Groups of texts that are nearly the same.

    Attributes:
        groups: (texts,) int64: the number of the group of each text, counted from 0; -1 for a text like no other.
        similarities: (texts,) float64: of each text in a group its highest similarity to a text of it that was
            compared; 1 for texts that are the same but for case and white space, NaN for a text like no other.
    """

    groups: np.ndarray
    similarities: np.ndarray

    def members(self) -> list[np.ndarray]:
        """The texts of each group, in their order; the largest groups first."""
        order = np.argsort(self.groups, kind="stable")
        order = order[self.groups[order] >= 0]
        if not len(order):
            return []
        members = np.split(order, np.flatnonzero(np.diff(self.groups[order])) + 1)
        return sorted(members, key=lambda rows: (-len(rows), rows[0]))


def find_near_duplicates(
    texts: Sequence[str], similarity: float = SIMILARITY, reporter: Reporter | None = None
) -> NearDuplicates:
    """The groups of near-duplicates among ``texts``; a group holds what is linked by a chain of near-duplicates.

    Of a text longer than 5,000 characters the first 5,000 are compared.

    Args:
        similarity: the least Jaccard similarity of near-duplicates, above 0 and at most 1.

    Raises:
        UserError: datasketch is not installed.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1. Got {similarity}.")
    reporter = reporter or Reporter(quiet=True)
    cleaned = [cleaned_text(text) for text in texts]
    firsts: dict[bytes, int] = {}
    same_as = np.array([firsts.setdefault(_digest(text), row) for row, text in enumerate(cleaned)], dtype=np.int64)
    unique = np.unique(same_as)
    sets = _Sets(len(texts))
    for row, first in enumerate(same_as.tolist()):
        if row != first:
            sets.join(first, row, 1.0)
    different = [cleaned[row] for row in unique.tolist()]
    for one, other in _candidates(different, similarity, reporter):
        if sets.linked(unique[one], unique[other]):
            continue
        found = jaccard(different[one], different[other])
        if found >= similarity:
            sets.join(int(unique[one]), int(unique[other]), found)
    return sets.finish()


def cleaned_text(text: str) -> str:
    """What is compared: in lower case, with single spaces, and no longer than 5,000 characters."""
    return " ".join(text.casefold().split())[:_MOST_CHARACTERS].rstrip()


def pieces(cleaned: str) -> set[str]:
    """The different 5-character pieces of a cleaned text; of a shorter one it is itself."""
    if len(cleaned) < PIECE:
        return {cleaned}
    return {cleaned[start : start + PIECE] for start in range(len(cleaned) - PIECE + 1)}


def jaccard(one: str, other: str) -> float:
    """The similarity of two cleaned texts: pieces in common over pieces in either."""
    first, second = pieces(one), pieces(other)
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class _Signature:
    """What datasketch's index reads of a MinHash."""

    hashvalues: np.ndarray

    def __len__(self) -> int:
        return len(self.hashvalues)


def _candidates(texts: Sequence[str], similarity: float, reporter: Reporter) -> Iterator[tuple[int, int]]:
    """Pairs of texts, the earlier one first, that share a bucket of the locality-sensitive hashing."""
    try:
        from datasketch import MinHashLSH
    except ModuleNotFoundError:
        raise UserError("finding near-duplicates needs datasketch: pip install 'bertwright[judgement]'") from None
    # A false alarm costs a comparison, a pair that is missed is lost: for how many bands datasketch is to take.
    index = MinHashLSH(threshold=min(similarity, _HIGHEST_THRESHOLD), num_perm=NUM_HASHES, weights=(0.1, 0.9))
    row = 0
    with reporter.progress("Comparing", len(texts)) as advance:
        for signatures in _signature_parts(texts):
            for hashes in signatures:
                signature = _Signature(hashes)
                for other in sorted(index.query(signature))[:_MOST_CANDIDATES]:
                    yield other, row
                index.insert(row, signature, check_duplication=False)
                row += 1
            advance(len(signatures))


def signatures_of(texts: Sequence[str]) -> np.ndarray:
    """(texts, hashes) uint64: MinHash signatures of cleaned texts.

    Two of them agree in about as large a share of their places as the similarity of their texts. One hash of each piece
    gives all places: its upper bits say which place it may fill, and the lowest of a place fills it (Li, Owen and Zhang
    2012, "One permutation hashing", arXiv 1208.1259). Places that are left empty borrow from a filled one, always by
    the same order of search (Shrivastava 2017, "Optimal densification", arXiv 1703.04664).
    """
    return np.concatenate([*_signature_parts(texts), np.zeros((0, NUM_HASHES), np.uint64)])


def _signature_parts(texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The signatures of the texts, in parts of about 65,536 pieces, which a processor's cache holds."""
    start = total = 0
    for place, text in enumerate(texts):
        total += max(len(text) - PIECE + 1, 1)
        if total >= _PIECES_AT_ONCE:
            yield _signatures(texts[start : place + 1])
            start, total = place + 1, 0
    if start < len(texts):
        yield _signatures(texts[start:])


def _signatures(texts: Sequence[str]) -> np.ndarray:
    padded = [text.ljust(PIECE, _FILLER) for text in texts]
    lengths = np.array([len(text) for text in padded])
    # One code point a place (characters,), all texts end to end.
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    counts = lengths - PIECE + 1
    owners = np.repeat(np.arange(len(texts)), counts)  # of each piece (pieces,) its text
    points = _mixed(points)
    hashes = points[: len(points) - PIECE + 1].copy()  # of what begins at each place, a polynomial of its characters
    for offset in range(1, PIECE):
        hashes *= _FACTOR
        hashes += points[offset : len(points) - PIECE + 1 + offset]
    # Kept is what begins where a piece does: no piece reaches into the next text.
    hashes = _mixed(hashes[np.arange(len(owners)) + owners * (PIECE - 1)])
    places = owners * NUM_HASHES + (hashes >> np.uint64(64 - NUM_HASHES.bit_length() + 1)).astype(np.int64)
    found = np.full(len(texts) * NUM_HASHES, _EMPTY)
    np.minimum.at(found, places, hashes)
    return _filled(found.reshape(len(texts), NUM_HASHES))


def _filled(signatures: np.ndarray) -> np.ndarray:
    """``signatures`` (texts, hashes), of which each has a place that is not empty, with the empty ones filled.

    Place i looks at the places first_i + k step_i for k = 0, 1, ...; an odd step meets each of them once.
    """
    generator = np.random.default_rng(7)  # the same in every process
    firsts = generator.integers(0, NUM_HASHES, NUM_HASHES)
    steps = generator.integers(0, NUM_HASHES // 2, NUM_HASHES) * 2 + 1
    filled = signatures.copy()
    rows, empty = np.nonzero(signatures == _EMPTY)
    for attempt in range(NUM_HASHES):
        if not len(rows):
            break
        borrowed = signatures[rows, (firsts[empty] + attempt * steps[empty]) % NUM_HASHES]
        filled[rows, empty] = borrowed
        still = borrowed == _EMPTY
        rows, empty = rows[still], empty[still]
    return filled


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits that spreads each bit over all (the finalizer of splitmix64: Steele et al. 2014)."""
    values = values + _FACTOR
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class _Sets:
    """Texts that are joined in sets (disjoint sets with path halving)."""

    def __init__(self, num_texts: int) -> None:
        self._parents = list(range(num_texts))
        self._similarities = np.full(num_texts, np.nan)

    def _root(self, row: int) -> int:
        parents = self._parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    def linked(self, one: int, other: int) -> bool:
        return self._root(int(one)) == self._root(int(other))

    def join(self, one: int, other: int, similarity: float) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._parents[second] = first
        for row in (one, other):
            self._similarities[row] = np.fmax(self._similarities[row], similarity)

    def finish(self) -> NearDuplicates:
        roots = np.array([self._root(row) for row in range(len(self._parents))], dtype=np.int64)
        joined = ~np.isnan(self._similarities)
        groups = np.full(len(roots), -1, np.int64)
        groups[joined] = np.unique(roots[joined], return_inverse=True)[1]
        return NearDuplicates(groups, self._similarities)
