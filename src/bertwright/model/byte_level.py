"""RoBERTa's tokenizer from its vocab.json and merges.txt: byte-level byte-pair encoding.

Sources: Sennrich et al. 2016, arXiv 1508.07909, section 3.2 (byte-pair encoding); Radford et al. 2019, "Language Models
are Unsupervised Multitask Learners", section 2.2 (on bytes); Liu et al. 2019, arXiv 1907.11692, section 4.4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from bertwright.errors import CheckpointError
from bertwright.model.tokenizer_settings import mark_of, with_marks

# Roles, and what stands for them where no file says otherwise.
_MARKS = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def byte_level_tokenizer(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    config: Mapping[str, Any],
    source: str,
    added: Sequence[tokenizers.AddedToken] | None = None,
) -> tokenizers.Tokenizer:
    """A text becomes ``<s> ... </s>``, a pair ``<s> a </s></s> b </s>``.

    Of ``config``, a tokenizer_config.json, ``add_prefix_space`` and the names of the marks (``cls_token`` ...) count.
    ``added`` are tokens beside the vocabulary, as files say; None: nothing says it, and a mask then takes the space
    before it, as the token that it stands for would (so does fairseq).

    Raises:
        CheckpointError: a mark is missing from the vocabulary, or merges do not fit it.
    """
    marks = {role: mark_of(config, role, default) for role, default in _MARKS.items()}
    known = {*vocabulary, *(token.content for token in added or ())}
    missing = [mark for mark in marks.values() if mark not in known]
    if missing:
        raise CheckpointError(
            f"{source}: no {', '.join(missing)} among {len(vocabulary):,} tokens; expected RoBERTa's vocab.json"
        )
    spaced = bool(config.get("add_prefix_space", False))
    try:
        built = tokenizers.Tokenizer(tokenizers.models.BPE(dict(vocabulary), list(merges)))
    except Exception as error:  # noqa: BLE001 - the Rust binding raises bare Exception for merges that do not fit
        raise CheckpointError(f"{source}: its merges.txt does not belong to it ({error})") from None
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    built.decoder = tokenizers.decoders.ByteLevel()
    takes_space = "mask_token" if added is None else None
    special = [tokenizers.AddedToken(mark, lstrip=role == takes_space, special=True) for role, mark in marks.items()]
    built.add_tokens(with_marks(added or (), special))
    cls, sep = marks["cls_token"], marks["sep_token"]
    cls_id, sep_id = built.token_to_id(cls), built.token_to_id(sep)
    assert cls_id is not None
    assert sep_id is not None
    ends = (sep, sep_id), (cls, cls_id)
    built.post_processor = tokenizers.processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=spaced)
    return built


def read_vocabulary(text: str, source: str) -> dict[str, int]:
    """The tokens and ids of a vocab.json.

    Raises:
        CheckpointError: it is something else, or its ids are not small whole numbers, each once.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{source}: found {type(values).__name__}, expected an object of tokens with their ids")
    ids = list(values.values())
    if not all(type(i) is int and 0 <= i < 10_000_000 for i in ids) or len(set(ids)) < len(ids):
        raise CheckpointError(f"{source}: found ids that are no whole numbers from 0, or twice; expected each once")
    return values


def read_merges(text: str, source: str) -> list[tuple[str, str]]:
    """The pairs of a merges.txt (GPT-2's vocab.bpe is the same), in their order.

    Raises:
        CheckpointError: a line is not two tokens.
    """
    merges = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a token may be an exotic line separator
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise CheckpointError(f"{source}, line {number}: found {line[:40]!r}, expected two tokens and a space")
        merges.append((parts[0], parts[1]))
    return merges
