"""Tokenised texts: ids end to end, and where each text starts; long texts cut or read in windows; pairs of texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertwright.config.parts import LongTexts, WindowPooling
from bertwright.data.spool import Spool
from bertwright.data.texts import Texts
from bertwright.errors import UserError
from bertwright.model.tokenizer import Tokenizer, cut, cut_pairs, pair_up, places_of
from bertwright.progress import Reporter

# Handed to the tokenizer at once: enough to keep all threads busy, little enough to hold little memory.
_CHUNK_BYTES = 8 << 20
_CHUNK_TEXTS = 16_384
# Tokens copied at once.
_COPIED_TOKENS = 1 << 22
_JOINED_TEXTS = 1 << 14
# Ids of more bytes than this are not held in memory: they lie in a file, and parts of them are views.
MOST_IDS_IN_MEMORY_BYTES = 64 << 20
# Room that is taken beyond what the texts so far let expect.
_SPARE_ROOM = 1.03
_LEAST_GROWTH = 1.5
# Of what is kept of a long text by head+tail: Sun et al. 2019, arXiv 1905.05583, section 5.3.1, take 128 tokens of the
# head and 382 of the tail.
_HEAD_TOKENS, _HEAD_AND_TAIL_TOKENS = 128, 510
# A window shares at most this much of itself with the next one: with more, a text costs more than four times itself.
_MOST_SHARED = 0.75


@dataclass(frozen=True)
class Ragged:
    """Token ids of many texts: of each text one sequence or, where texts are read in windows, one or more.

    Attributes:
        ids: (tokens,) uint16 where the vocabulary fits, else int32; in memory or mapped from a file.
        starts: (sequences + 1,) int64, the running sum of the sequences' lengths. Without ``places`` this is where each
            sequence starts in ``ids``.
        num_truncated: texts that lost a part.
        second_starts: (sequences,) int32, the place within each sequence from which on it is of segment 1, as the
            second text of a pair; None: no pairs, or pairs without segments (RoBERTa's).
        window_starts: (texts + 1,) int64, the first sequence of each text, which are windows; None: a sequence each.
        places: (sequences,) int64, where each sequence starts in ``ids``, for a view of some texts of a larger Ragged;
            None: they lie end to end.
    """

    ids: np.ndarray
    starts: np.ndarray
    num_truncated: int
    second_starts: np.ndarray | None = None
    window_starts: np.ndarray | None = None
    places: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.places is None and int(self.starts[-1]) != len(self.ids):
            raise ValueError(f"{len(self.ids):,} ids, but texts of {int(self.starts[-1]):,}; a view needs its places")

    def __len__(self) -> int:
        """Texts."""
        return len(self.starts if self.window_starts is None else self.window_starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(texts,) int64, tokens of each text, over all its windows."""
        return np.diff(self.starts if self.window_starts is None else self.starts[self.window_starts])

    @property
    def truncated_share(self) -> float:
        return self.num_truncated / len(self) if len(self) else 0.0

    @property
    def num_sequences(self) -> int:
        """Windows of all texts; without windows, texts."""
        return len(self.starts) - 1

    @property
    def num_in_windows(self) -> int:
        """Texts of more than one window."""
        return 0 if self.window_starts is None else int(np.count_nonzero(np.diff(self.window_starts) > 1))

    def sequences_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The sequences of the texts ``rows``, and the first of each text in that list, (rows + 1,).

        The latter is None where each text has one sequence.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if self.window_starts is None:
            return rows, None
        counts = self.window_starts[rows + 1] - self.window_starts[rows]
        sequences = places_of(self.window_starts[rows], counts)
        return sequences, None if len(sequences) == len(rows) else starts_of(counts)

    def sequence_lengths(self, rows: np.ndarray) -> np.ndarray:
        """(their sequences,) int64, tokens of each sequence of the texts ``rows``."""
        sequences = self.sequences_of(rows)[0]
        return self.starts[sequences + 1] - self.starts[sequences]

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the texts ``rows`` end to end, (their tokens,), and the lengths of their sequences."""
        return self.gather_sequences(self.sequences_of(rows)[0])

    def gather_sequences(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of ``sequences`` end to end, (their tokens,), and their lengths, (sequences,)."""
        lengths = self.starts[sequences + 1] - self.starts[sequences]
        return self.ids[places_of(self._places_of(sequences), lengths)], lengths

    def _places_of(self, sequences: np.ndarray) -> np.ndarray:
        return self.starts[sequences] if self.places is None else self.places[sequences]

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """All ids end to end, in pieces of a few million: each with its place. A view's are copied on the way."""
        if self.places is None:
            for first in range(0, len(self.ids), _COPIED_TOKENS):
                yield first, self.ids[first : first + _COPIED_TOKENS]
            return
        for first, last in parts_of(self.starts):
            yield int(self.starts[first]), self.gather_sequences(np.arange(first, last))[0]

    def take(self, rows: np.ndarray) -> Ragged:
        """The texts of ``rows`` alone; ``num_truncated`` is then not known and 0.

        What is large is not copied: the result is then a view of the same ids.
        """
        rows = np.asarray(rows, dtype=np.int64)
        sequences, _ = self.sequences_of(rows)
        window_starts = None
        if self.window_starts is not None:
            window_starts = starts_of(self.window_starts[rows + 1] - self.window_starts[rows])
        return self._with_sequences(sequences, window_starts)

    def _with_sequences(self, sequences: np.ndarray, window_starts: np.ndarray | None) -> Ragged:
        starts = starts_of(self.starts[sequences + 1] - self.starts[sequences])
        second_starts = None if self.second_starts is None else self.second_starts[sequences]
        view = Ragged(self.ids, starts, 0, second_starts, window_starts, self._places_of(sequences))
        if int(starts[-1]) * self.ids.itemsize > MOST_IDS_IN_MEMORY_BYTES:
            return view
        ids = np.empty(int(starts[-1]), dtype=self.ids.dtype)
        for place, piece in view.pieces():
            ids[place : place + len(piece)] = piece
        return Ragged(ids, starts, 0, second_starts, window_starts)

    def as_sequences(self) -> Ragged:
        """The same with each window as a text of its own."""
        return Ragged(self.ids, self.starts, 0, self.second_starts, None, self.places)

    def limited(self, most_tokens: int) -> tuple[Ragged, int]:
        """The same texts with as many windows each as ``most_tokens`` tokens hold, at least one, and how many lost any.

        The windows that stay are spread evenly over the text, its first and last ones included where there are two.
        """
        if self.window_starts is None:
            return self, 0
        counts = np.diff(self.window_starts)
        longest = int(np.diff(self.starts).max(initial=1))
        most = max(1, most_tokens // longest)
        num_limited = int(np.count_nonzero(counts > most))
        if not num_limited:
            return self, 0
        kept = np.minimum(counts, most)
        # of text t the windows round(i * (count - 1) / (kept - 1)), i from 0; rounded down at halves
        number = places_of(np.zeros_like(kept), kept)
        last, gaps = np.repeat(counts - 1, kept), np.repeat(np.maximum(kept - 1, 1), kept)
        sequences = np.repeat(self.window_starts[:-1], kept) + (2 * number * last + gaps - 1) // (2 * gaps)
        starts = starts_of(self.starts[sequences + 1] - self.starts[sequences])
        places = self._places_of(sequences)
        return Ragged(self.ids, starts, self.num_truncated, None, starts_of(kept), places), num_limited


def joined_ragged(parts: Sequence[Ragged]) -> Ragged:
    """The texts of several, one after the other; the first says whether they are pairs, or read in windows.

    Raises:
        DataError: there is no room for the ids.
    """
    if len(parts) == 1:
        return parts[0]
    made = _Parts(parts[0].ids.dtype, sum(map(len, parts)))
    pairs, windows = parts[0].second_starts is not None, parts[0].window_starts is not None
    for part in parts:
        if (part.second_starts is not None, part.window_starts is not None) != (pairs, windows):
            raise ValueError("texts that are read in different ways")
        for first in range(0, len(part), _JOINED_TEXTS):
            rows = np.arange(first, min(first + _JOINED_TEXTS, len(part)))
            sequences, _ = part.sequences_of(rows)
            ids, lengths = part.gather_sequences(sequences)
            made.add(
                _Part(
                    ids,
                    lengths,
                    0,
                    None if part.window_starts is None else np.diff(part.window_starts[first : rows[-1] + 2]),
                    None if part.second_starts is None else part.second_starts[sequences],
                )
            )
    whole = made.ragged(pairs, windows)
    return replace(whole, num_truncated=sum(part.num_truncated for part in parts))


def tokenize_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str] | Texts | pa.Array | pa.ChunkedArray,
    max_length: int,
    reporter: Reporter,
    *,
    pairs: Sequence[str] | Texts | pa.Array | pa.ChunkedArray | None = None,
    long_texts: LongTexts = "head",
    window_overlap: int = 0,
) -> Ragged:
    """Token ids of ``texts`` (strings, or an Arrow array of them) for a model that reads ``max_length`` tokens at once.

    Args:
        pairs: the second text of each pair; None: there are no pairs. Pairs that are too long are cut as
            :func:`bertwright.model.tokenizer.pair_up` says.
        long_texts, window_overlap: what is read of longer texts; see :func:`cut_to`.

    Raises:
        UserError: a text that is not valid Unicode; settings that do not go together.
        DataError: there is no room for the ids.
    """
    check_long_texts(max_length, long_texts, window_overlap, pairs=pairs is not None)
    made = _Parts(tokenizer.id_dtype, len(texts))
    with reporter.progress("Tokenising", len(texts)) as advance:
        if pairs is None:
            for ids, starts in tokenizer.encode_each(chunks_of(texts)):
                made.add(_cut_part(ids, starts, max_length, long_texts, window_overlap))
                advance(len(starts) - 1)
        else:
            pair_format = tokenizer.check_pairs()
            encoded = tokenizer.encode_each(itertools.chain.from_iterable(pairs_of_chunks(texts, pairs)))
            for first in encoded:
                ids, starts, second_starts, num_cut = pair_up(first, next(encoded), max_length, pair_format.num_marks)
                made.add(_Part(ids, np.diff(starts), num_cut, second_starts=second_starts))
                advance(len(starts) - 1)
    tokenizer.note_read(len(texts))
    return made.ragged(pairs is not None and pair_format.segments, long_texts == "windows")


def cut_to(
    ids: np.ndarray,
    starts: np.ndarray,
    max_length: int,
    long_texts: LongTexts = "head",
    window_overlap: int = 0,
    places: np.ndarray | None = None,
) -> Ragged:
    """What is read of whole texts by a model that reads ``max_length`` tokens at once.

    ``ids``, ``starts`` and ``places`` are as in ``Ragged``, and each text's ids are [CLS] ... [SEP], uncut. Of one of
    more than ``max_length`` tokens,

    - "head" keeps [CLS], the first tokens and [SEP];
    - "head+tail" keeps [CLS], first and last tokens and [SEP]: of n between the marks the first round(n * 128 / 510),
      at least 1, and the last ones (Sun et al. 2019, arXiv 1905.05583, section 5.3.1);
    - "windows" keeps everything, in sequences of up to ``max_length`` tokens with marks of their own, of which
      neighbours share ``window_overlap`` tokens. The last one of a text may be shorter.

    Raises:
        UserError: settings that do not go together.
        DataError: there is no room for the ids.
    """
    check_long_texts(max_length, long_texts, window_overlap)
    if not len(starts) - 1 or int(np.diff(starts).max()) <= max_length:
        window_starts = np.arange(len(starts)) if long_texts == "windows" else None
        return Ragged(ids, starts, 0, window_starts=window_starts, places=places)
    made, whole = _Parts(ids.dtype, len(starts) - 1), Ragged(ids, starts, 0, places=places)
    for first, last in parts_of(starts):
        begin = int(starts[first])
        part = ids[begin : int(starts[last])] if places is None else whole.gather(np.arange(first, last))[0]
        made.add(_cut_part(part, starts[first : last + 1] - begin, max_length, long_texts, window_overlap))
    return made.ragged(False, long_texts == "windows")


def cut_pairs_to(
    pairs: Ragged, lengths: np.ndarray, second_lengths: np.ndarray, max_length: int, num_marks: int = 3
) -> Ragged:
    """Pairs of texts cut to ``max_length`` tokens, of ``pairs`` that were cut to more.

    ``lengths`` and ``second_lengths`` (pairs,) are the tokens of both texts before any cut, ``num_marks`` the marks in
    a pair; see :func:`bertwright.model.tokenizer.cut_pairs`.

    Raises:
        DataError: there is no room for the ids.
    """
    assert pairs.second_starts is not None, "single texts"
    if int(np.diff(pairs.starts).max(initial=0)) <= max_length:
        return pairs
    made = _Parts(pairs.ids.dtype, len(pairs))
    for first, last in parts_of(pairs.starts):
        some = slice(first, last)
        ids, part_lengths = pairs.gather_sequences(np.arange(first, last))
        part = ids, starts_of(part_lengths), pairs.second_starts[some]
        ids, starts, second_starts, num_cut = cut_pairs(
            part, lengths[some], second_lengths[some], max_length, num_marks
        )
        made.add(_Part(ids, np.diff(starts), num_cut, second_starts=second_starts))
    return made.ragged(pairs=True, windows=False)


def check_long_texts(
    max_length: int,
    long_texts: LongTexts,
    window_overlap: int = 0,
    window_pooling: WindowPooling = "mean",
    *,
    pairs: bool = False,
    freeze_encoder: bool = False,
) -> None:
    """Check that these settings can be computed together.

    Raises:
        UserError: they cannot.
    """
    if pairs and long_texts != "head":
        raise UserError(f"--long-texts {long_texts} is for single texts, found pairs of texts. Pass --long-texts head")
    if long_texts == "head+tail" and max_length < 4:
        raise UserError(f"--long-texts head+tail needs a --max-length of 4 or more, found {max_length}")
    if long_texts == "windows":
        most = int((max_length - 2) * _MOST_SHARED)
        if window_overlap > most:
            raise UserError(
                f"--window-overlap: found {window_overlap} tokens, expected at most {most}, three quarters of a window "
                f"of {max_length - 2}. Lower it, or raise --max-length"
            )
        if window_pooling == "max" and freeze_encoder:
            raise UserError(
                "--window-pooling max needs the logits of every window, but with --freeze-encoder only the mean of "
                "their features is kept. Pass --window-pooling mean, or do not freeze the encoder"
            )
    elif window_overlap or window_pooling != "mean":
        name = "overlap" if window_overlap else "pooling"
        raise UserError(f"--window-{name} is for --long-texts windows, found --long-texts {long_texts}")


def head_tokens(num_tokens: int) -> int:
    """How many of the ``num_tokens`` tokens that head+tail keeps between [CLS] and [SEP] are the head."""
    return min(max(1, round(num_tokens * _HEAD_TOKENS / _HEAD_AND_TAIL_TOKENS)), num_tokens - 1)


@dataclass(frozen=True)
class _Part:
    """Some texts as they are read: ids end to end, (sequences,) lengths, how many texts lost a part.

    ``num_windows`` (texts,) where they are read in windows, ``second_starts`` (sequences,) of pairs.
    """

    ids: np.ndarray
    lengths: np.ndarray
    num_truncated: int
    num_windows: np.ndarray | None = None
    second_starts: np.ndarray | None = None


def _cut_part(ids: np.ndarray, starts: np.ndarray, max_length: int, long_texts: LongTexts, overlap: int) -> _Part:
    """What ``cut_to`` says of some texts."""
    if not len(ids):
        return _Part(ids, np.diff(starts), 0, np.zeros(0, np.int64))
    if long_texts == "windows":
        return _windows(ids, starts, max_length, overlap)
    num_tail = max_length - 2 - head_tokens(max_length - 2) if long_texts == "head+tail" else 0
    kept, new_starts, num_cut = cut(ids, starts, max_length, int(ids[-1]), num_tail)
    return _Part(kept, np.diff(new_starts), num_cut)


def _windows(ids: np.ndarray, starts: np.ndarray, max_length: int, overlap: int) -> _Part:
    lengths = np.diff(starts)
    step = max_length - 2 - overlap
    # one window, and the rest over the step, rounded up
    counts = 1 - (-np.maximum(lengths - max_length, 0) // step)
    if counts.max() == 1:
        return _Part(ids, lengths, 0, counts)
    # A window is a run of the text's ids, of which then the first is made [CLS] and the last [SEP].
    number = places_of(np.zeros_like(counts), counts)  # of each window, from 0 in its text
    begins = np.repeat(starts[:-1], counts) + number * step
    ends = np.minimum(begins + max_length, np.repeat(starts[1:], counts))
    breaks = np.flatnonzero(begins[1:] != ends[:-1])  # copied at once: what lies end to end
    runs = zip([0, *begins[breaks + 1].tolist()], [*ends[breaks].tolist(), len(ids)], strict=True)
    kept = np.concatenate([ids[begin:end] for begin, end in runs])
    new_lengths = ends - begins
    last = np.cumsum(new_lengths)
    kept[last - new_lengths], kept[last - 1] = ids[0], ids[-1]
    return _Part(kept, new_lengths, 0, counts)


class _Parts:
    """Parts of a Ragged that is being made of ``num_texts`` texts: in memory or, from
    ``MOST_IDS_IN_MEMORY_BYTES`` on, in a temporary file without a name, which goes with the last who uses it.
    """

    def __init__(self, dtype: np.dtype, num_texts: int) -> None:
        self._room = np.empty(0, dtype)
        self._end = 0
        self._num_texts, self._done = num_texts, 0
        self._spool: Spool | None = None
        self._lengths = [np.zeros(0, np.int64)]
        self._second_starts = [np.zeros(0, np.int32)]
        self._num_windows = [np.zeros(0, np.int64)]
        self._num_truncated = 0

    def add(self, part: _Part) -> None:
        self._lengths.append(part.lengths)
        self._num_truncated += part.num_truncated
        self._done += len(part.lengths if part.num_windows is None else part.num_windows)
        if part.num_windows is not None:
            self._num_windows.append(part.num_windows)
        if part.second_starts is not None:
            self._second_starts.append(part.second_starts)
        end = self._end + len(part.ids)
        if self._spool is None and end > len(self._room):
            self._make_room(end)
        if self._spool is None:
            self._room[self._end : end] = part.ids
        else:
            self._spool.write(np.ascontiguousarray(part.ids, self._room.dtype))
        self._end = end

    def _make_room(self, needed: int) -> None:
        expected = needed * self._num_texts / max(self._done, 1) * _SPARE_ROOM
        expected = max(needed, int(expected), int(len(self._room) * _LEAST_GROWTH))
        most = MOST_IDS_IN_MEMORY_BYTES // self._room.itemsize
        before = self._room[: self._end]
        if needed > most:
            self._spool = Spool("the token ids")
            self._spool.write(before)
            self._room = np.empty(0, before.dtype)
            return
        self._room = np.empty(min(expected, most), before.dtype)
        self._room[: self._end] = before

    def ragged(self, pairs: bool, windows: bool) -> Ragged:
        """All parts; nothing may be added any more."""
        spool = self._spool
        return Ragged(
            self._room[: self._end] if spool is None else np.frombuffer(spool.mapped(), self._room.dtype),
            starts_of(np.concatenate(self._lengths)),
            self._num_truncated,
            np.concatenate(self._second_starts) if pairs else None,
            starts_of(np.concatenate(self._num_windows)) if windows else None,
        )


def parts_of(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last + 1 of consecutive sequences, by their ``starts``, of a few million tokens together."""
    first, count = 0, len(starts) - 1
    while first < count:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _COPIED_TOKENS, side="right")) - 1)
        yield first, last
        first = last


def pairs_of_chunks(
    texts: Sequence[str] | Texts | pa.Array | pa.ChunkedArray,
    pairs: Sequence[str] | Texts | pa.Array | pa.ChunkedArray,
) -> Iterator[tuple[Sequence[str] | pa.Array | pa.ChunkedArray, Sequence[str] | pa.Array]]:
    """Parts of the first texts, each with the second texts that belong to them, none of them large."""
    if len(texts) != len(pairs):
        raise ValueError(f"{len(texts)} first texts, but {len(pairs)} second ones")
    first = 0
    for part in chunks_of(texts):
        done = 0
        for second in chunks_of(pairs[first : first + len(part)]):
            yield part[done : done + len(second)], second
            done += len(second)
        first += len(part)


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(texts + 1,) int64: where each text starts, from the (texts,) lengths."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def chunks_of(texts: Sequence[str] | Texts | pa.Array | pa.ChunkedArray) -> Iterator[Sequence[str] | pa.Array]:
    """``texts`` in consecutive parts that are worth a call of the tokenizer each, without a copy of an Arrow array."""
    if isinstance(texts, Texts):
        yield from texts.chunks(_CHUNK_BYTES)
        return
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        for start in range(0, len(texts), _CHUNK_TEXTS):
            yield texts[start : start + _CHUNK_TEXTS]
        return
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        yield from Texts([chunk.cast(pa.large_string())]).chunks(_CHUNK_BYTES)
