"""BERT's tokenizer from its vocabulary: WordPiece (Devlin et al. 2019, arXiv 1810.04805, section 3), with the steps of
the authors' released code before it: control characters out, Chinese characters apart, lower case and accents, words
and punctuation apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tokenizers

from bertwright.errors import CheckpointError
from bertwright.model.tokenizer_settings import mark_of, with_marks

# Roles, and what stands for them where no file says otherwise.
MARKS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# What counts of a tokenizer_config.json, and what holds where it says nothing: the defaults of BertTokenizer.
DEFAULTS: dict[str, bool | None] = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}


def read_vocabulary_lines(text: str) -> dict[str, int]:
    """The tokens and ids of a vocab.txt: a line each, from 0."""
    lines = text.removesuffix("\n").split("\n")  # not splitlines: a token may be an exotic line separator
    return {token.removesuffix("\r"): i for i, token in enumerate(lines)}


def wordpiece_tokenizer(
    ids: Mapping[str, int],
    config: Mapping[str, Any],
    source: str,
    added: Sequence[tokenizers.AddedToken] = (),
    needed: Collection[str] = tuple(MARKS),
) -> tokenizers.Tokenizer:
    """A text becomes ``[CLS] ... [SEP]``, a pair ``[CLS] a [SEP] b [SEP]`` with segment 1 from b on.

    Of ``config``, a tokenizer_config.json, ``do_lower_case``, ``strip_accents``, ``tokenize_chinese_chars`` and the
    names of the marks (``cls_token`` ...) count. ``added`` are tokens beside the vocabulary; ``needed`` are the roles
    whose marks must be there.

    Raises:
        CheckpointError: a mark is missing; a setting that is neither true nor false.
    """
    settings = {name: _switch(config, name, source) for name in DEFAULTS}
    marks = {role: mark_of(config, role, default) for role, default in MARKS.items()}
    try:
        model = tokenizers.models.WordPiece(dict(ids), unk_token=marks["unk_token"], max_input_chars_per_word=100)
    except Exception as error:  # noqa: BLE001 - the Rust binding raises bare Exception
        raise CheckpointError(f"{source}: no vocabulary that can be used ({error})") from None
    built = tokenizers.Tokenizer(model)
    known = {*ids, *(token.content for token in added)}
    missing = [
        mark for role, mark in marks.items() if role in needed and mark not in (ids if role == "unk_token" else known)
    ]
    if missing:
        raise CheckpointError(f"{source}: no {', '.join(missing)} among {len(ids):,} lines; expected BERT's vocab.txt")
    built.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=bool(settings["do_lower_case"]),
        strip_accents=settings["strip_accents"],
        handle_chinese_chars=bool(settings["tokenize_chinese_chars"]),
    )
    built.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    built.decoder = tokenizers.decoders.WordPiece(prefix="##")
    present = [tokenizers.AddedToken(mark, special=True) for mark in marks.values() if mark in known]
    built.add_tokens(with_marks(added, present))
    cls, sep = marks["cls_token"], marks["sep_token"]
    try:
        built.post_processor = tokenizers.processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, built.token_to_id(cls)), (sep, built.token_to_id(sep))],
        )
    except ValueError as error:  # a mark with a colon
        raise CheckpointError(
            f"{source}: cls_token {cls!r:.40}, sep_token {sep!r:.40} cannot be used ({error})"
        ) from None
    return built


def _switch(config: Mapping[str, Any], name: str, source: str) -> bool | None:
    usual = DEFAULTS[name]
    found = config.get(name, usual)
    if not isinstance(found, bool) and not (found is None and usual is None):
        raise CheckpointError(
            f"{source}: {name} is {str(found)[:40]!r} in tokenizer_config.json, expected true or false"
        )
    return found
