"""Which tokens of a sequence are masked, made anew in each epoch from a seed, an epoch and the tokens' places alone.

Devlin et al. 2019, arXiv 1810.04805, section 3.1 (task 1) and appendix A.1: of a sequence's tokens 15 % are chosen, at
random, never special ones; of those 80 % become [MASK], 10 % a random token, 10 % stay. As in the authors' released
code, exactly so many of each sequence (rounded, at least one) are chosen.

Random numbers are hashes of (key, place), so that what is masked does not depend on which sequences come together, or
on what was drawn before: a training that goes on masks what it would have masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tokenizers

from bertwright.errors import CheckpointError
from bertwright.model.tokenizer import Tokenizer, places_of
from bertwright.randomness import purpose_seed

# Of a sort key: the number of the sequence, a hash, the place in the sequence.
_PLACE_BITS, _HASH_BITS = 16, 28
_MOST_SEQUENCES = 1 << (63 - _PLACE_BITS - _HASH_BITS)
_MASK_NAMES = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a tokenizer.

    Attributes:
        mask_id: of [MASK].
        is_special: (vocabulary,) bool, tokens that are never masked.
        continues: (vocabulary,) bool, tokens that go on with the word before them.
        ordinary: (ordinary tokens,) int32, ids that a random token is drawn from.
    """

    mask_id: int
    is_special: np.ndarray
    continues: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, source: str) -> Vocabulary:
        """That of ``tokenizer``, which comes from ``source``.

        Raises:
            CheckpointError: it has no mask, or its words cannot be told.
        """
        exact = tokenizers.Tokenizer.from_str(tokenizer.json_text)
        added = {i: token for i, token in exact.get_added_tokens_decoder().items() if token.special}
        masks = [i for i, token in added.items() if token.content in _MASK_NAMES]
        if not masks:
            raise CheckpointError(f"{source}: the tokenizer has no [MASK]; expected one that a masked model can use")
        tokens = exact.get_vocab(with_added_tokens=True)
        is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        is_special[list(added)] = True
        continues, known = np.zeros(tokenizer.vocab_size, dtype=bool), np.zeros(tokenizer.vocab_size, dtype=bool)
        word_piece = isinstance(exact.model, tokenizers.models.WordPiece)
        for token, number in tokens.items():
            known[number] = True
            # Byte-level BPE marks what begins a word, by the letter that stands for the space before it.
            continues[number] = token.startswith("##") if word_piece else not token.startswith(("\u0120", "\u2581"))
        continues &= ~is_special
        return cls(masks[0], is_special, continues, np.flatnonzero(known & ~is_special).astype(np.int32))


@dataclass(frozen=True)
class Masked:
    """A batch's tokens after masking.

    Attributes:
        token_ids: (tokens,) int64, with masks.
        rows: (masked,) int64, their places in the batch, in order.
        starts: (sequences + 1,) int32, where each sequence's masked tokens start in ``rows``.
        most: masked tokens of the sequence that has the most.
        targets: (masked,) int64, the tokens that stood there.
    """

    token_ids: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    most: int
    targets: np.ndarray


@dataclass(frozen=True)
class Masking:
    """The rule: which ``share`` of the tokens, and whether ``whole_words`` are chosen together."""

    vocabulary: Vocabulary
    share: float = 0.15
    whole_words: bool = False

    def mask(self, token_ids: np.ndarray, lengths: np.ndarray, places: np.ndarray, key: int) -> Masked:
        """Masks in the sequences whose ids lie end to end in ``token_ids`` (tokens,), of ``lengths`` (sequences,).

        Args:
            places: (sequences,) int64, where each sequence starts in the corpus: what is masked depends on it.
            key: of ``epoch_key``.

        A sequence of special tokens alone has no masked tokens.
        """
        if len(lengths) >= _MOST_SEQUENCES or lengths.max(initial=0) >= 1 << _PLACE_BITS:
            raise ValueError(f"too many sequences, or too long: {len(lengths):,}, {lengths.max():,}")
        ids = token_ids.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        usable = ~self.vocabulary.is_special[ids]
        hashes = _hashes(places_of(places, lengths), key)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        counts = np.add.reduceat(usable.astype(np.int64), starts) if len(lengths) else np.zeros(0, np.int64)
        wanted = np.where(counts > 0, np.maximum(1, np.rint(counts * self.share)), 0).astype(np.int64)
        candidates = np.flatnonzero(usable)
        if self.whole_words:
            rows = self._words(ids, candidates, owners, wanted, hashes, starts)
        else:
            rows = _smallest(candidates, owners, wanted, hashes, starts)
        per_sequence = np.bincount(owners[rows], minlength=len(lengths))
        targets = ids[rows]
        self._replace(ids, rows, hashes[rows])
        first = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(per_sequence, out=first[1:])
        return Masked(ids, rows, first, int(per_sequence.max(initial=0)), targets)

    def _words(
        self,
        ids: np.ndarray,
        candidates: np.ndarray,
        owners: np.ndarray,
        wanted: np.ndarray,
        hashes: np.ndarray,
        starts: np.ndarray,
    ) -> np.ndarray:
        """Rows of whole words, in order: words at random, until there are as many tokens as wanted, to half a word."""
        # A word begins where a token continues nothing, or nothing usable stands before it.
        begins = ~self.vocabulary.continues[ids[candidates]]
        begins |= np.diff(candidates, prepend=-2) != 1
        begins[1:] |= owners[candidates[1:]] != owners[candidates[:-1]]
        heads = np.flatnonzero(begins)  # among the candidates
        sizes = np.diff(np.append(heads, len(candidates)))
        first_tokens = candidates[heads]
        order = np.argsort(_sort_keys(first_tokens, owners, hashes, starts), kind="stable")
        sorted_sizes, sorted_owners = sizes[order], owners[first_tokens[order]]
        before = np.cumsum(sorted_sizes) - sorted_sizes
        new = np.flatnonzero(np.diff(sorted_owners, prepend=-1))
        base = np.repeat(before[new], np.diff(np.append(new, len(order))))
        taken_before = before - base  # of the same sequence
        chosen = 2 * taken_before + sorted_sizes <= 2 * wanted[sorted_owners]
        chosen[new] = True  # at least one
        words = np.sort(order[chosen])
        return candidates[places_of(heads[words], sizes[words])]

    def _replace(self, ids: np.ndarray, rows: np.ndarray, hashes: np.ndarray) -> None:
        """80 % become [MASK], 10 % a random token, 10 % stay."""
        draws = _mixed(hashes ^ np.uint64(0x5851F42D4C957F2D))
        fate = (draws >> np.uint64(40)).astype(np.float64) / (1 << 24)
        ids[rows[fate < 0.8]] = self.vocabulary.mask_id
        random = (fate >= 0.8) & (fate < 0.9)
        ordinary = self.vocabulary.ordinary
        low = (draws[random] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        ids[rows[random]] = ordinary[(low * len(ordinary)) >> 32]


def epoch_key(seed: int, purpose: object) -> int:
    """What the masks of an epoch, or of the held-out documents, follow from."""
    return purpose_seed(seed, "masks", purpose)


def _smallest(
    candidates: np.ndarray, owners: np.ndarray, wanted: np.ndarray, hashes: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Of each sequence's candidates the ``wanted`` (sequences,) with the smallest hashes: rows, in order."""
    keys = np.sort(_sort_keys(candidates, owners, hashes, starts))
    of = keys >> (_PLACE_BITS + _HASH_BITS)
    first = np.searchsorted(of, np.arange(len(wanted)))
    chosen = keys[places_of(first, wanted)]
    sequence = chosen >> (_PLACE_BITS + _HASH_BITS)
    return np.sort(starts[sequence] + (chosen & ((1 << _PLACE_BITS) - 1)))


def _sort_keys(rows: np.ndarray, owners: np.ndarray, hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(rows,) int64 whose order is by sequence, then by hash."""
    of = owners[rows]
    high = (hashes[rows] >> np.uint64(64 - _HASH_BITS)).astype(np.int64)
    return (of << (_PLACE_BITS + _HASH_BITS)) | (high << _PLACE_BITS) | (rows - starts[of])


def _hashes(places: np.ndarray, key: int) -> np.ndarray:
    """(places,) uint64, a hash of each place and the key: SplitMix64 (Steele et al. 2014), read at these places."""
    return _mixed(np.uint64(key) + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
