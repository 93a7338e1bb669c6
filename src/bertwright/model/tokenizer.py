"""Texts to token ids: WordPiece (``bertwright.model.wordpiece``), byte-level byte-pair encoding
(``bertwright.model.byte_level``) or whatever else a tokenizer.json says; by ``nanotoken`` where it gives exactly the
ids of Hugging Face's ``tokenizers``, else by ``tokenizers``.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nanotoken
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from bertwright.cpus import num_usable_cpus
from bertwright.errors import CheckpointError, DataError, UserError
from bertwright.model.byte_level import byte_level_tokenizer, read_merges, read_vocabulary
from bertwright.model.rust_panics import refusing_panics
from bertwright.model.tokenizer_json import agreeing_config, as_transformers_reads
from bertwright.model.tokenizer_settings import (
    CONFIG,
    SETTING_FILES,
    TokenizerSettings,
    check_ids,
    read_settings,
)
from bertwright.model.wordpiece import read_vocabulary_lines, wordpiece_tokenizer

# Compared on load: whatever differs between the two tokenizers sends everything to the slower one.
PROBES = (
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "Don't you DARE!!! #1 @user https://example.org/a?b=c&d=%20 <br /> 50% $3.99",
    "Café naïve résumé Ångström Straße İstanbul ﬁne",
    "e\u0301 n\u0303 a\u030a\u0323 (combining marks)",
    "中文字符 日本語テキスト 한국어 русский العربية עברית हिन्दी ไทย",
    "emoji 😀 👩‍👩‍👧‍👦 🏳️‍🌈 and \u200b zero\u200dwidth\ufeff",
    "control\x00\x01\x1f\x7f characters\tand\r\nbreaks\u2028here\u00a0",
    "[CLS] [SEP] [MASK] [PAD] [UNK] [unused1] cls]",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "antidisestablishmentarianism" * 4,
    "x̶̧͓̱͇̲̜͍ ｆｕｌｌｗｉｄｔｈ ①②③ ½ … — ‘quotes’ “double” ⁉ \U000e0001",
    "1,234,567.89 2024-05-06T07:08:09Z +49(0)30-123 C++/C# x_y_z ~`^|\\",
)

# Added tokens that are probed too, but for those that every tokenizer has.
_USUAL_MARKS = frozenset(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<mask>"])
_MOST_PROBED_TOKENS = 256

# Stands after each text in what nanotoken reads: no byte of valid UTF-8 (RFC 3629, section 1), so it is in no text.
_TEXT_END = b"\xff"
# What a thread of nanotoken remembers of the words that it met: twice what it takes by itself, which is about 100 MB
# more once 1.5 million texts were read, and a fifth faster when they are read again. Only where threads are few.
_LARGE_CACHE_ENTRIES = 1 << 21
_MOST_THREADS_WITH_LARGE_CACHES = 8
# So many texts are read before the words of them are forgotten.
_FORGOTTEN_AFTER = 1 << 17


@dataclass(frozen=True)
class PairFormat:
    """How a tokenizer joins two texts: with 3 marks, [CLS] a [SEP] b [SEP], or with 4, [CLS] a [SEP] [SEP] b [SEP].

    ``segments``: whether b and the last [SEP] are of segment 1; else all is of segment 0.
    """

    num_marks: int
    segments: bool


class Tokenizer:
    """Maps texts to token ids and remembers the files that it came from.

    Attributes:
        json_text: the tokenizer.json that defines it, without truncation and padding.
        sha256: of its vocabulary and the ids that it gives for ``PROBES``: the same for the same tokenizer, whatever
            version of ``tokenizers`` wrote its file.
        engine: "nanotoken" or "tokenizers", and ``reason``, why.
        hugging_face_files: other tokenizer files to keep beside a saved model, by name.
        notes: what a user should know about how its files were read.
    """

    def __init__(
        self,
        json_text: str,
        hugging_face_files: dict[str, str] | None = None,
        source: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.hugging_face_files = dict(hugging_face_files or {})
        self.notes = list(notes)
        self._source = source
        with refusing_panics(source):
            self._read(json_text)

    def _read(self, json_text: str) -> None:
        source = self._source
        try:
            exact = tokenizers.Tokenizer.from_str(json_text)
        except Exception as error:  # noqa: BLE001 - the Rust binding raises bare Exception for any damaged file
            raise CheckpointError(f"{source}: not a tokenizer that can be used ({error})") from None
        exact.no_truncation()
        exact.no_padding()
        self.json_text: str = exact.to_str()
        self._exact = exact
        special = exact.encode("").ids
        if len(special) != 2:
            raise CheckpointError(f"{source}: a text must become [CLS] ... [SEP]; found {len(special)} ids around it")
        self.cls_id, self.sep_id = special
        known = sorted(exact.get_vocab(with_added_tokens=True).items())
        probed = [encoding.ids for encoding in exact.encode_batch(list(PROBES))]
        self.sha256 = hashlib.sha256(json.dumps([known, probed]).encode()).hexdigest()
        self.vocab_size: int = max(exact.get_vocab(with_added_tokens=True).values()) + 1
        self._fast, self.reason = _fast_tokenizer(self.json_text, exact)
        self.engine = "tokenizers" if self._fast is None else "nanotoken"
        self._num_read = 0  # texts, since words were forgotten

    @property
    def id_dtype(self) -> np.dtype:
        """The smallest of uint16 and int32, little-endian, that holds every id."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<i4")

    def encode(
        self, texts: Sequence[str] | pa.Array | pa.ChunkedArray, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Token ids of ``texts``, [CLS] and [SEP] included.

        ``texts`` are strings, or an Arrow array of them; from the latter no Python object is made for a text.

        Returns:
            ids: (tokens,) int32, text after text.
            starts: (texts + 1,) int64, where each text's ids start.
            number of texts that were longer than ``max_length`` tokens and lost their end.

        Raises:
            UserError: a text that is not valid Unicode, or is none.
        """
        with _TextsFile() as file:
            ids, starts = self._encode_prepared(self._prepare(texts, file))
        if max_length is None:
            return ids, starts, 0
        return cut(ids, starts, max_length, self.sep_id)

    def encode_each(
        self, parts: Iterable[Sequence[str] | pa.Array | pa.ChunkedArray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each of ``parts`` the ids and starts that :meth:`encode` gives, one part after the other.

        While one part is encoded, the next one is got ready in a thread: better than a call of ``encode`` for each.

        Raises:
            UserError: as :meth:`encode`.
        """
        waiting = iter(parts)
        begun = list(itertools.islice(waiting, 2))
        if len(begun) < 2:  # nothing to get ready meanwhile: a thread would cost more than a short text
            yield from ((ids, starts) for ids, starts, _ in map(self.encode, begun))
            return
        waiting = itertools.chain(begun, waiting)
        with ExitStack() as stack:
            files = itertools.cycle((stack.enter_context(_TextsFile()), stack.enter_context(_TextsFile())))
            pool = stack.enter_context(ThreadPoolExecutor(1))  # ends before the files that it fills are closed
            ready: deque[Future[_Ready]] = deque()
            for part in itertools.islice(waiting, 1):
                ready.append(pool.submit(self._prepare, part, next(files)))
            while ready:
                prepared = ready.popleft().result()
                for part in itertools.islice(waiting, 1):
                    ready.append(pool.submit(self._prepare, part, next(files)))
                yield self._encode_prepared(prepared)

    def note_read(self, num_texts: int) -> None:
        """Count texts that were read. After many, the ids of the words in them are forgotten.

        nanotoken remembers the words that it has met, about 0.4 kB for each new text: in a server or a scoring that
        goes on and on, hundreds of megabytes. To meet them anew takes a tenth longer than to know them all.
        """
        self._num_read += num_texts
        if self._num_read >= _FORGOTTEN_AFTER and self._fast is not None:
            self._fast.clear_cache()
            self._num_read = 0

    def _prepare(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray, file: _TextsFile) -> _Ready:
        """Arrow's texts in a file that nanotoken reads by itself; other texts, and those for tokenizers, as a list."""
        if not isinstance(texts, pa.Array | pa.ChunkedArray):
            return _Ready(texts, len(texts), None)
        chunks = _checked_chunks(texts)
        if self._fast is None or not chunks:
            return _Ready(texts.to_pylist(), len(texts), None)
        file.fill(map(_with_text_ends, chunks))
        return _Ready([], len(texts), file.path)

    def _encode_prepared(self, texts: _Ready) -> tuple[np.ndarray, np.ndarray]:
        with refusing_panics(self._source):
            return self._encode_ready(texts)

    def _encode_ready(self, texts: _Ready) -> tuple[np.ndarray, np.ndarray]:
        if texts.path is None:
            return self._encode_strings(texts.strings)
        ragged = self._fast.encode_files(nanotoken.TextFileSource(texts.path, separator=_TEXT_END))
        assert len(ragged) == texts.num_texts, f"{len(ragged)} texts came back of {texts.num_texts}"
        return _as_int32(ragged.ids), ragged.offsets.astype(np.int64, copy=False)

    def _encode_strings(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {i + 1}: found {type(text).__name__}, expected a string")
        try:
            if self._fast is not None:
                ragged = self._fast.encode_batch(texts)
                return _as_int32(ragged.ids), ragged.offsets.astype(np.int64, copy=False)
            encodings = [encoding.ids for encoding in self._exact.encode_batch_fast(list(texts))]
        except (UnicodeEncodeError, TypeError):
            raise UserError(_name_invalid(texts)) from None
        starts = np.zeros(len(encodings) + 1, dtype=np.int64)
        np.cumsum([len(e) for e in encodings], out=starts[1:])
        return np.fromiter((i for e in encodings for i in e), dtype=np.int32, count=int(starts[-1])), starts

    def check_pairs(self) -> PairFormat:
        """How a pair of texts is joined: in one of the ways that are computed here.

        Raises:
            CheckpointError: it becomes something else.
        """
        with refusing_panics(self._source):
            found = self._exact.encode("a", "b")
            (a, b) = (self._exact.encode(text, add_special_tokens=False).ids for text in ("a", "b"))
        for num_marks in (3, 4):
            ids = [self.cls_id, *a, *[self.sep_id] * (num_marks - 2), *b, self.sep_id]
            segments = [0] * (len(ids) - len(b) - 1) + [1] * (len(b) + 1)
            if found.ids == ids and found.type_ids in (segments, [0] * len(ids)):
                return PairFormat(num_marks, found.type_ids == segments)
        raise CheckpointError(
            f"the tokenizer makes {found.tokens} with segments {found.type_ids} of a pair of texts, expected "
            "[CLS] a [SEP] b [SEP] with segment 1 from b on, or <s> a </s></s> b </s>. Take a tokenizer of BERT's or "
            "RoBERTa's"
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the files that came with it."""
        for name, content in self.hugging_face_files.items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "tokenizer.json").write_text(self.json_text, encoding="utf-8")


def cut(
    ids: np.ndarray, starts: np.ndarray, max_length: int, sep_id: int, num_tail: int = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut each text to ``max_length`` ids, of which the last is [SEP]; see ``Tokenizer.encode`` for shapes.

    Of what is kept of a longer text, ``num_tail`` ids and [SEP] are its end, all others its beginning.
    """
    lengths = np.diff(starts)
    too_long = lengths > max_length
    num_cut = int(np.count_nonzero(too_long))
    if not num_cut:
        return ids, starts, 0
    # What is kept lies in runs, from the end of one text that is cut to the gap in the next one.
    cuts, resumes = starts[:-1][too_long] + (max_length - num_tail - 1), starts[1:][too_long] - (num_tail + 1)
    begins, ends = [0, *resumes.tolist()], [*cuts.tolist(), len(ids)]
    kept = np.concatenate([ids[begin:end] for begin, end in zip(begins, ends, strict=True)])
    new_starts = np.zeros_like(starts)
    np.cumsum(np.minimum(lengths, max_length), out=new_starts[1:])
    kept[new_starts[1:][too_long] - 1] = sep_id
    return kept, new_starts, num_cut


def pair_up(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], max_length: int, num_marks: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Pairs of texts as one sequence each, from the ids and starts of all a and of all b.

    A pair is [CLS] a [SEP] b [SEP] or, with ``num_marks`` 4, [CLS] a [SEP] [SEP] b [SEP]. One of more than
    ``max_length`` ids is cut as ``tokenizers`` does by the strategy "longest_first": the longer text loses its end
    until both are of one length, then both do; of an odd number of places the longer text gets one more, of two equally
    long ones the second.

    Returns:
        ids: (tokens,), pair after pair, of the dtype of the given ones.
        starts: (pairs + 1,) int64, where each pair starts.
        second starts: (pairs,) int32, the place of b's first token, counted from the start of its pair.
        number of pairs that were cut.

    Raises:
        UserError: the marks alone are longer than ``max_length``.
    """
    ids = np.concatenate([first[0], second[0]])
    begins, ends = first[1][:-1], first[1][1:]  # (pairs,) where a lies in ``ids``, [CLS] and [SEP] included
    second_begins, second_ends = second[1][:-1] + len(first[0]), second[1][1:] + len(first[0])
    lengths, second_lengths = ends - begins - 2, second_ends - second_begins - 2
    runs = begins, ends - 1, second_begins + 1, second_ends - 1
    return _pairs_of_runs(ids, runs, lengths, second_lengths, max_length, num_marks)


def cut_pairs(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    lengths: np.ndarray,
    second_lengths: np.ndarray,
    max_length: int,
    num_marks: int = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Pairs that :func:`pair_up` cut before, cut to fewer tokens: what it gives of the whole texts at once.

    ``pairs`` are their ids, starts and second starts; ``lengths`` and ``second_lengths`` (pairs,) the tokens of all a
    and all b before they were cut, without marks: of two texts that were cut to one length, the longer one keeps more.
    Nothing else is needed, because of neither text less is kept when the pair may be longer.

    Returns:
        as :func:`pair_up`; cut are all pairs that are shorter than they once were.
    """
    ids, starts, second_starts = pairs
    seconds = starts[:-1] + second_starts
    runs = starts[:-1], seconds - 1, seconds, starts[1:] - 1
    return _pairs_of_runs(ids, runs, lengths, second_lengths, max_length, num_marks)


def kept_of_pairs(
    lengths: np.ndarray, second_lengths: np.ndarray, max_length: int, num_marks: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each a and of each b, (pairs,), :func:`pair_up` keeps of so many; none are marks."""
    most = max_length - num_marks
    too_long = lengths + second_lengths > most
    shorter = np.minimum(np.minimum(lengths, second_lengths), most // 2)
    first_is_longer = lengths > second_lengths
    kept = np.where(too_long, np.where(first_is_longer, most - shorter, shorter), lengths)
    return kept, np.where(too_long, most - kept, second_lengths)


def _pairs_of_runs(
    ids: np.ndarray,
    run_begins: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    lengths: np.ndarray,
    second_lengths: np.ndarray,
    max_length: int,
    num_marks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """What :func:`pair_up` returns; ``run_begins`` (pairs,) is where in ``ids`` [CLS] a, [SEP], b and [SEP] start."""
    if max_length < num_marks:
        raise UserError(f"a pair of texts has {num_marks} marks: found --max-length {max_length}, expected more")
    kept, second_kept = kept_of_pairs(lengths, second_lengths, max_length, num_marks)
    one = np.ones_like(kept)
    begin, mark, second, end = run_begins
    begins = [begin, *[mark] * (num_marks - 2), second, end]
    run_lengths = np.stack([kept + 1, *[one] * (num_marks - 2), second_kept, one], axis=1).ravel()
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(kept + second_kept + num_marks, out=starts[1:])
    joined = ids[places_of(np.stack(begins, axis=1).ravel(), run_lengths)]
    num_cut = int(np.count_nonzero(lengths + second_lengths > max_length - num_marks))
    return joined, starts, (kept + num_marks - 1).astype(np.int32), num_cut


def places_of(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(sum of lengths,) int64: the numbers from each of ``begins`` (runs,) on, as many as its length, run after run."""
    new_begins = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(begins - new_begins, lengths)


def _as_int32(ids: np.ndarray) -> np.ndarray:
    """nanotoken's uint32 ids as int32, without a copy."""
    return ids.view(np.int32) if ids.dtype == np.uint32 else ids.astype(np.int32)


def _checked_chunks(texts: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """The texts as arrays of large_string that hold UTF-8 and no null; without empty arrays.

    Raises:
        UserError: a text is null or not UTF-8.
    """
    chunks = []
    before = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if chunk.null_count:
            place = int(np.flatnonzero(np.asarray(chunk.is_null()))[0])
            raise UserError(f"text {before + place + 1}: found null, expected a string")
        try:
            chunk = chunk.cast(pa.large_string())
            chunk.validate(full=True)
        except pa.ArrowInvalid:
            raise UserError(_name_not_utf8(chunk.cast(pa.large_binary()).to_pylist(), before)) from None
        if len(chunk):
            chunks.append(chunk)
        before += len(chunk)
    return chunks


def _with_text_ends(texts: pa.Array) -> memoryview:
    """The bytes of the texts, with a text end after each."""
    kind = pa.large_binary()
    # joins the text and the first scalar, which is empty, with the second one
    ended = pc.binary_join_element_wise(texts.cast(kind), pa.scalar(b"", kind), pa.scalar(_TEXT_END, kind))
    _, offsets, content = ended.buffers()
    first, last = np.frombuffer(offsets, np.int64)[[ended.offset, ended.offset + len(ended)]].tolist()
    return memoryview(content)[first:last]


@dataclass(frozen=True)
class _Ready:
    """Texts ready to be encoded: in the file at ``path``, or where that is None as ``strings``."""

    strings: Sequence[str]
    num_texts: int
    path: str | None


class _TextsFile:
    """A file for texts: in memory where the system can, else in its folder for temporary files. Filled again and again.

    Attributes:
        path: by which it can be opened, from the first ``fill`` on.
    """

    def __init__(self) -> None:
        self.path = ""
        self._descriptor = -1
        self._on_disk = False

    def __enter__(self) -> _TextsFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._on_disk:
            os.unlink(self.path)

    def fill(self, pieces: Iterable[memoryview]) -> None:
        """Put these bytes, and nothing else, into the file. Nobody may be reading it.

        Raises:
            DataError: there is no room for them.
        """
        if self._descriptor < 0:
            self._open()
        place = 0
        for piece in pieces:
            while len(piece):
                try:
                    written = os.pwrite(self._descriptor, piece, place)
                except OSError as error:
                    raise self._no_room(error) from None
                place += written
                piece = piece[written:]
        os.ftruncate(self._descriptor, place)

    def _no_room(self, error: OSError) -> DataError:
        """As of token ids (data/ragged.py), which are kept in the same folder."""
        reason = error.strerror or error
        if not self._on_disk and self._descriptor >= 0:
            return DataError(
                f"memory: cannot hold texts to tokenise ({reason}), expected room for them. Free memory, or raise the "
                "limit on the size of files (ulimit -f)"
            )
        return DataError(
            f"{tempfile.gettempdir()}: cannot hold texts to tokenise ({reason}), expected room for them in the folder "
            "for temporary files. Make room, or name another folder in the environment variable TMPDIR"
        )

    def _open(self) -> None:
        if hasattr(os, "memfd_create"):
            with suppress(OSError):
                self._descriptor = os.memfd_create("bertwright-texts")
                self.path = f"/proc/self/fd/{self._descriptor}"
                if os.path.exists(self.path):
                    return
                os.close(self._descriptor)
        try:
            self._descriptor, self.path = tempfile.mkstemp(prefix="bertwright-texts-")
        except OSError as error:
            raise self._no_room(error) from None
        self._on_disk = True


def _fast_tokenizer(json_text: str, exact: tokenizers.Tokenizer) -> tuple[Any, str]:
    """nanotoken's tokenizer if it gives the same ids on all probes, else None; and the reason."""
    if num_usable_cpus() <= _MOST_THREADS_WITH_LARGE_CACHES:
        nanotoken.set_cache_entries(_LARGE_CACHE_ENTRIES)
    probes = [*PROBES, *_probes_of_added_tokens(exact)]
    try:
        fast = nanotoken.Tokenizer.from_json(json_text)
        found = [row.tolist() for row in fast.encode_batch(probes)]
    except (ValueError, TypeError, RuntimeError) as error:
        return None, f"nanotoken does not take this tokenizer ({error})"
    expected = [encoding.ids for encoding in exact.encode_batch(probes)]
    for probe, ours, theirs in zip(probes, found, expected, strict=True):
        if ours != theirs:
            return None, f"nanotoken gives other ids than tokenizers for {probe!r}"
    # Once more on the way that Arrow's texts go.
    with _TextsFile() as file:
        file.fill([_with_text_ends(pa.array(probes, pa.large_string()))])
        read = fast.encode_files(nanotoken.TextFileSource(file.path, separator=_TEXT_END)).to_list()
    if read != expected:
        return None, "nanotoken gives other ids than tokenizers for texts that it reads from a file"
    return fast, f"nanotoken gives the ids of tokenizers on {len(probes)} probes"


def _probes_of_added_tokens(exact: tokenizers.Tokenizer) -> list[str]:
    """Texts with the added tokens but for the usual marks, in words and apart, in either case."""
    tokens = [token.content for token in exact.get_added_tokens_decoder().values()]
    others = [token for token in tokens if token not in _USUAL_MARKS][:_MOST_PROBED_TOKENS]
    return [f"a {one} b{one}c {one}{one} {one.upper()} {one.lower()}d" for one in others]


def _name_invalid(texts: Sequence[str]) -> str:
    for i, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return (
                f"text {i + 1}: not valid Unicode (a lone surrogate at character {error.start + 1}); "
                "expected text that UTF-8 can hold"
            )
    return "a text could not be tokenised"


def _name_not_utf8(texts: Sequence[bytes], before: int) -> str:
    for i, text in enumerate(texts, before + 1):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"text {i}: not UTF-8 (byte 0x{text[error.start]:02x}); expected text that is"
    return "a text could not be tokenised"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: its tokenizer.json, or one built from vocab.txt, or vocab.json and merges.txt,
    or from the files of a checkpoint in another layout (``bertwright.model.foreign``).

    Raises:
        CheckpointError: none of them is there, or what is there is not a tokenizer.
    """
    with refusing_panics(str(folder)):
        return _load_tokenizer(folder)


def _load_tokenizer(folder: Path) -> Tokenizer:
    # By name: that module can read weights too, for which it loads torch; reading a tokenizer does not.
    has_own = (folder / "tokenizer.json").is_file()  # also beside the weights of another layout
    foreign = None if has_own else importlib.import_module("bertwright.model.foreign").find_foreign(folder)
    if foreign is not None:
        files = {name: content.decode() for name, content in foreign.tokenizer_files().items()}
        return Tokenizer(files.pop("tokenizer.json"), files, str(foreign.path), list(dict.fromkeys(foreign.notes)))
    extra = {}
    for name in (*SETTING_FILES, "vocab.txt", "vocab.json", "merges.txt"):
        if (folder / name).is_file():
            extra[name] = _read_text(folder / name)
    if (folder / "tokenizer.json").is_file():
        return _from_json(_read_text(folder / "tokenizer.json"), extra, folder)
    if "vocab.txt" in extra:
        settings = read_settings(extra, folder)
        source = str(folder / "vocab.txt")
        return tokenizer_from_vocabulary(extra["vocab.txt"], settings.values, source, extra, settings)
    if "vocab.json" in extra and "merges.txt" in extra:
        settings = read_settings(extra, folder)
        source = str(folder / "vocab.json")
        return tokenizer_from_merges(extra["vocab.json"], extra["merges.txt"], settings.values, source, extra, settings)
    pieces = [name for name in _SENTENCEPIECE_FILES if (folder / name).is_file()]
    if pieces:
        raise CheckpointError(
            f"{folder}: found {pieces[0]}, which only sentencepiece reads, expected a tokenizer.json beside it. "
            "Save the tokenizer with transformers, which writes one"
        )
    raise CheckpointError(
        f"{folder}: no tokenizer.json, no vocab.txt, and no vocab.json with merges.txt; expected one of them beside "
        "the model"
    )


_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


def _from_json(json_text: str, files: dict[str, str], folder: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, with what the files beside it say."""
    source = str(folder / "tokenizer.json")
    read = as_transformers_reads(json_text, files, folder)
    built = Tokenizer(read.json_text, files, source, read.notes)
    config = agreeing_config(files.get(CONFIG), read.settings, json.loads(built.json_text))
    if config is not None:
        built.hugging_face_files[CONFIG] = config
    return built


def tokenizer_from_merges(
    vocabulary: str,
    merges: str,
    config: Mapping[str, Any],
    source: str,
    extra: dict[str, str] | None = None,
    settings: TokenizerSettings | None = None,
) -> Tokenizer:
    """RoBERTa's byte-level tokenizer from the text of a vocab.json and of a merges.txt.

    ``config`` is a tokenizer_config.json; see :func:`bertwright.model.byte_level.byte_level_tokenizer`. ``settings``
    say which tokens there are beside the vocabulary.

    Raises:
        CheckpointError: they are damaged, or do not belong together.
    """
    ids = read_vocabulary(vocabulary, source)
    pairs = read_merges(merges, str(Path(source).with_name("merges.txt")))
    built = byte_level_tokenizer(ids, pairs, config, source, None if settings is None else settings.added)
    if settings is not None:
        check_ids(built, settings, source)
    files = {**(extra or {}), "vocab.json": vocabulary, "merges.txt": merges}
    files.setdefault(
        "tokenizer_config.json",
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}, indent=2),
    )
    return Tokenizer(built.to_str(), files, source)


def tokenizer_from_vocabulary(
    vocabulary: str,
    config: Mapping[str, Any],
    source: str,
    extra: dict[str, str] | None = None,
    settings: TokenizerSettings | None = None,
) -> Tokenizer:
    """BERT's WordPiece tokenizer from the lines of a vocab.txt.

    ``config`` is a tokenizer_config.json; see :func:`bertwright.model.wordpiece.wordpiece_tokenizer`. ``settings`` say
    which tokens there are beside the vocabulary.

    Raises:
        CheckpointError: [PAD], [UNK], [CLS], [SEP] or [MASK] is missing; a setting or an added token that cannot be.
    """
    ids = read_vocabulary_lines(vocabulary)
    built = wordpiece_tokenizer(ids, config, source, () if settings is None else settings.added)
    if settings is not None:
        check_ids(built, settings, source)
    files = dict(extra or {})
    files["vocab.txt"] = vocabulary
    said = {"tokenizer_class": "BertTokenizer", "do_lower_case": config.get("do_lower_case", True)}
    files.setdefault(CONFIG, json.dumps({**said, "model_max_length": 512}, indent=2))
    return Tokenizer(built.to_str(), files, source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
