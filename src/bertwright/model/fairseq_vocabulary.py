"""fairseq's vocabulary of RoBERTa as a tokenizer.json: dict.txt, encoder.json and vocab.bpe.

GPT-2's byte-level BPE (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2) makes
GPT-2 ids by encoder.json and vocab.bpe; a line of dict.txt, "<GPT-2 id> <count>", says which of fairseq's ids each one
has: <s> 0, <pad> 1, </s> 2, <unk> 3, line i (from 0) 4 + i, <mask> the last.
"""

from __future__ import annotations

import json
from pathlib import Path

from bertwright.errors import CheckpointError
from bertwright.model.byte_level import byte_level_tokenizer, read_merges, read_vocabulary
from bertwright.model.foreign import read_text

DICTIONARY = "dict.txt"
_ENCODER, _MERGES = "encoder.json", "vocab.bpe"
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"


def is_vocabulary(folder: Path) -> bool:
    """Whether the three files are there."""
    return all((folder / name).is_file() for name in (DICTIONARY, _ENCODER, _MERGES))


def read_dictionary(path: Path) -> dict[str, int]:
    """fairseq's ids by its symbols, <mask> included.

    Raises:
        CheckpointError: a line that is not a symbol and its count, or a symbol that is there twice.
    """
    ids = {symbol: i for i, symbol in enumerate(_FIRST)}
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not count.isascii() or not count.lstrip("-").isdigit():
            raise CheckpointError(f"{path}, line {number:,}: found {line[:40]!r}, expected a symbol and its count")
        if symbol in ids:
            raise CheckpointError(f"{path}, line {number:,}: {symbol!r} is there twice")
        ids[symbol] = len(ids)
    ids.setdefault(_MASK, len(ids))
    return ids


def tokenizer_files(folder: Path, max_length: int | None = None) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt, whose ids are fairseq's.

    ``max_length`` is the most tokens that the model takes, if that is known.

    Raises:
        CheckpointError: a file is missing or damaged, or the three do not belong together.
    """
    missing = [name for name in (DICTIONARY, _ENCODER, _MERGES) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: no {' and no '.join(missing)}; expected fairseq's dict.txt and GPT-2's encoder.json and "
            "vocab.bpe. Name the folder that holds them with --vocabulary (bertwright convert) or --tokenizer (every "
            "other command)"
        )
    ids = _ids_of_tokens(folder)
    merges = _merges(folder / _MERGES, ids)
    files = {
        "tokenizer.json": byte_level_tokenizer(ids, merges, {}, str(folder / DICTIONARY)).to_str(pretty=True),
        "tokenizer_config.json": json.dumps(
            {
                "tokenizer_class": "RobertaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "sep_token": "</s>",
                "cls_token": "<s>",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": _MASK,
                "add_prefix_space": False,
                "trim_offsets": True,
                **({} if max_length is None else {"model_max_length": max_length}),
            },
            indent=2,
        )
        + "\n",
        "vocab.json": json.dumps(ids, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
    }
    return {name: content.encode() for name, content in files.items()}


def _ids_of_tokens(folder: Path) -> dict[str, int]:
    """fairseq's ids by GPT-2's tokens, in the order of the ids."""
    path = folder / _ENCODER
    encoder = read_vocabulary(read_text(path), str(path))
    tokens = {str(number): token for token, number in encoder.items()}
    dictionary = read_dictionary(folder / DICTIONARY)
    unknown = next((number for number in tokens if number not in dictionary), None)
    if unknown is not None:
        raise CheckpointError(
            f"{folder / DICTIONARY}: no line for GPT-2's id {unknown} ({tokens[unknown]!r}); expected one for each of "
            f"the {len(tokens):,} tokens of {_ENCODER}: they do not belong together"
        )
    ids = {tokens.get(symbol, symbol): i for symbol, i in dictionary.items()}
    if len(ids) != len(dictionary):
        raise CheckpointError(f"{path}: a token is one of fairseq's own marks, or there twice")
    return ids


def _merges(path: Path, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = read_merges(read_text(path), str(path))
    for left, right in merges:
        if not {left, right, left + right} <= ids.keys():
            raise CheckpointError(
                f"{path}: {left!r} and {right!r} make no token of {_ENCODER}; the two do not belong together"
            )
    return merges
