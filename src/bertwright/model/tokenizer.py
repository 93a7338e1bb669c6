"""Texts to token ids: WordPiece (Devlin et al. 2019, arXiv 1810.04805, section 3), by ``nanotoken`` where it gives
exactly the ids of Hugging Face's ``tokenizers``, else by ``tokenizers``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nanotoken
import numpy as np
import tokenizers

from bertwright.errors import CheckpointError, UserError

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


class Tokenizer:
    """Maps texts to token ids and remembers the files that it came from.

    Attributes:
        json_text: the tokenizer.json that defines it, without truncation and padding.
        engine: "nanotoken" or "tokenizers", and ``reason``, why.
        hugging_face_files: other tokenizer files to keep beside a saved model, by name.
    """

    def __init__(self, json_text: str, hugging_face_files: dict[str, str] | None = None, source: str = "") -> None:
        self.hugging_face_files = dict(hugging_face_files or {})
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
        self.vocab_size: int = max(exact.get_vocab(with_added_tokens=True).values()) + 1
        self._fast, self.reason = _fast_tokenizer(self.json_text, exact)
        self.engine = "tokenizers" if self._fast is None else "nanotoken"

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray, int]:
        """Token ids of ``texts``, [CLS] and [SEP] included.

        Returns:
            ids: (tokens,) int32, text after text.
            starts: (texts + 1,) int64, where each text's ids start.
            number of texts that were longer than ``max_length`` tokens and lost their end.

        Raises:
            UserError: a text that is not valid Unicode.
        """
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {i + 1}: found {type(text).__name__}, expected a string")
        try:
            if self._fast is not None:
                ragged = self._fast.encode_batch(texts)
                ids, starts = ragged.ids.astype(np.int32), ragged.offsets.astype(np.int64)
            else:
                encodings = [encoding.ids for encoding in self._exact.encode_batch_fast(list(texts))]
                starts = np.zeros(len(encodings) + 1, dtype=np.int64)
                np.cumsum([len(e) for e in encodings], out=starts[1:])
                ids = np.fromiter((i for e in encodings for i in e), dtype=np.int32, count=int(starts[-1]))
        except (UnicodeEncodeError, TypeError):
            raise UserError(_name_invalid(texts)) from None
        if max_length is None:
            return ids, starts, 0
        return cut(ids, starts, max_length, self.sep_id)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the files that came with it."""
        for name, content in self.hugging_face_files.items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "tokenizer.json").write_text(self.json_text, encoding="utf-8")


def cut(ids: np.ndarray, starts: np.ndarray, max_length: int, sep_id: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut each text to ``max_length`` ids, of which the last is [SEP]; see ``Tokenizer.encode`` for shapes."""
    lengths = np.diff(starts)
    too_long = lengths > max_length
    num_cut = int(too_long.sum())
    if not num_cut:
        return ids, starts, 0
    place = np.arange(len(ids)) - np.repeat(starts[:-1], lengths)
    kept = ids[place < max_length]
    new_starts = np.zeros_like(starts)
    np.cumsum(np.minimum(lengths, max_length), out=new_starts[1:])
    kept[new_starts[1:][too_long] - 1] = sep_id
    return kept, new_starts, num_cut


def _fast_tokenizer(json_text: str, exact: tokenizers.Tokenizer) -> tuple[Any, str]:
    """nanotoken's tokenizer if it gives the same ids on all probes, else None; and the reason."""
    try:
        fast = nanotoken.Tokenizer.from_json(json_text)
        found = [row.tolist() for row in fast.encode_batch(list(PROBES))]
    except (ValueError, TypeError, RuntimeError) as error:
        return None, f"nanotoken does not take this tokenizer ({error})"
    expected = [encoding.ids for encoding in exact.encode_batch(list(PROBES))]
    for probe, ours, theirs in zip(PROBES, found, expected, strict=True):
        if ours != theirs:
            return None, f"nanotoken gives other ids than tokenizers for {probe!r}"
    return fast, f"nanotoken gives the ids of tokenizers on {len(PROBES)} probes"


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


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: its tokenizer.json, or one built from its vocab.txt.

    Raises:
        CheckpointError: neither file is there, or what is there is not a tokenizer.
    """
    extra = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (folder / name).is_file():
            extra[name] = _read_text(folder / name)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer(_read_text(folder / "tokenizer.json"), extra, str(folder / "tokenizer.json"))
    if "vocab.txt" in extra:
        try:
            config = json.loads(extra.get("tokenizer_config.json", "{}"))
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise CheckpointError(f"{folder / 'tokenizer_config.json'}: not a JSON object")
        return tokenizer_from_vocabulary(extra["vocab.txt"], config, str(folder / "vocab.txt"), extra)
    raise CheckpointError(f"{folder}: no tokenizer.json and no vocab.txt; expected one of them beside the model")


def tokenizer_from_vocabulary(
    vocabulary: str, config: Mapping[str, Any], source: str, extra: dict[str, str] | None = None
) -> Tokenizer:
    """BERT's WordPiece tokenizer from the lines of a vocab.txt.

    Of ``config``, a tokenizer_config.json, ``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars`` count.

    Raises:
        CheckpointError: [PAD], [UNK], [CLS], [SEP] or [MASK] is missing.
    """
    lines = vocabulary.removesuffix("\n").split("\n")  # not splitlines: a token may be an exotic line separator
    ids = {token.removesuffix("\r"): i for i, token in enumerate(lines)}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    missing = [token for token in special if token not in ids]
    if missing:
        raise CheckpointError(f"{source}: no {', '.join(missing)} among {len(ids):,} lines; expected BERT's vocab.txt")
    built = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    lowercase, accents = bool(config.get("do_lower_case", True)), config.get("strip_accents")
    built.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=accents if isinstance(accents, bool) else None,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    built.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    built.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    built.decoder = tokenizers.decoders.WordPiece(prefix="##")
    built.add_special_tokens(special)
    files = dict(extra or {})
    files["vocab.txt"] = vocabulary
    files.setdefault(
        "tokenizer_config.json",
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": 512}, indent=2),
    )
    return Tokenizer(built.to_str(), files, source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
