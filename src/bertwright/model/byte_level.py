"""fairseq's vocabulary of RoBERTa as a tokenizer.json: dict.txt, encoder.json and vocab.bpe.

GPT-2's byte-level BPE (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2) makes
GPT-2 ids by encoder.json and vocab.bpe; a line of dict.txt, "<GPT-2 id> <count>", says which of fairseq's ids each one
has: <s> 0, <pad> 1, </s> 2, <unk> 3, line i (from 0) 4 + i, <mask> the last.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from bertwright.errors import CheckpointError
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


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt, whose ids are fairseq's.

    Raises:
        CheckpointError: a file is missing or damaged, or the three do not belong together.
    """
    missing = [name for name in (DICTIONARY, _ENCODER, _MERGES) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: no {' and no '.join(missing)}; expected fairseq's dict.txt, GPT-2's encoder.json and vocab.bpe"
        )
    ids = _ids_of_tokens(folder)
    merges = _merges(folder / _MERGES, ids)
    files = {
        "tokenizer.json": _tokenizer(ids, merges, str(folder)).to_str(pretty=True),
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
                "model_max_length": 512,
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
    try:
        encoder = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(encoder, dict) or not all(type(number) is int for number in encoder.values()):
        raise CheckpointError(f"{path}: found {type(encoder).__name__}, expected numbers by token")
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
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = tuple(line.removesuffix("\r").split(" "))
        if len(parts) != 2 or not all(part in ids for part in (*parts, "".join(parts))):
            raise CheckpointError(f"{path}, line {number:,}: found {line[:40]!r}, expected two tokens of {_ENCODER}")
        merges.append((parts[0], parts[1]))
    return merges


def _tokenizer(ids: dict[str, int], merges: list[tuple[str, str]], source: str) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=merges))
    except Exception as error:  # noqa: BLE001 - the Rust binding raises bare Exception
        raise CheckpointError(f"{source}: not a vocabulary of a byte-level BPE ({error})") from None
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    # By place: its versions name the second argument differently.
    built.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    built.add_special_tokens([AddedToken(mark, special=True, normalized=True) for mark in _FIRST])
    built.add_special_tokens([AddedToken(_MASK, special=True, lstrip=True, normalized=False)])
    return built
