"""What stands beside a tokenizer's vocabulary in a Hugging Face folder: its class, settings, marks and added tokens.

Read as ``transformers`` 5 reads them, so that both give the same ids: its ``PreTrainedTokenizerBase._from_pretrained``
says which file counts, and its ``TokenizersBackend.__init__`` in which order tokens are added. Tokens that the
vocabulary does not hold get the next free ids in that order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from bertwright.errors import CheckpointError

CONFIG, _MARKS_FILE, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SETTING_FILES = (CONFIG, _MARKS_FILE, _ADDED)
# The class that transformers takes for a model_type where no file names one.
_CLASSES = {
    "bert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the files beside a vocabulary say.

    Attributes:
        class_name: of the tokenizer, without "Fast"; "" if no file says it.
        values: tokenizer_config.json, with the marks of special_tokens_map.json where that counts.
        added: tokens beside the vocabulary, and those of it that are matched before all others, each once.
        ids: the ids that files say of them.
    """

    class_name: str
    values: dict[str, Any]
    added: tuple[tokenizers.AddedToken, ...]
    ids: dict[str, int]


def read_settings(
    files: Mapping[str, str], folder: Path, own_added: Iterable[Mapping[str, Any]] = ()
) -> TokenizerSettings:
    """The settings that ``files``, texts by name, hold. ``own_added`` are the ``added_tokens`` of a tokenizer.json.

    Raises:
        CheckpointError: a file is no JSON object, or a token in it is none.
    """
    config = _object(files, folder, CONFIG)
    values = dict(config)
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    added: dict[int, tokenizers.AddedToken] = {}
    if "added_tokens_decoder" in config:  # then the older files do not count
        for number, token in _items(config["added_tokens_decoder"], folder / CONFIG):
            added[_id(number, folder / CONFIG)] = _token(token, folder / CONFIG, special=False)
    else:
        marks = _object(files, folder, _MARKS_FILE)
        values |= marks
        more = marks.get("extra_special_tokens")
        if isinstance(more, list) and isinstance(extra, list | None):
            extra = [*(extra or []), *more]
        elif not extra:
            extra = more or marks.get("additional_special_tokens")
        special = {mark_of(values, role, "") for role in _ROLES}
        for content, number in _object(files, folder, _ADDED).items():
            added[_id(number, folder / _ADDED)] = _token(content, folder / _ADDED, content in special)
        for token in own_added:
            added[_id(token.get("id"), folder / "tokenizer.json")] = _token(token, folder / "tokenizer.json", False)
    named = list(_named(values, extra, folder / CONFIG))
    contents = {token.content for token in named}
    for token in added.values():
        token.special = token.special or token.content in contents
    ids = {token.content: number for number, token in added.items()}
    tokens = [added[number] for number in sorted(added)]
    return TokenizerSettings(_class_name(config, folder), values, tuple(with_marks(tokens, named)), ids)


def with_marks(
    added: Sequence[tokenizers.AddedToken], marks: Sequence[tokenizers.AddedToken]
) -> list[tokenizers.AddedToken]:
    """``added`` tokens, then those of ``marks`` that are not among them; each once."""
    found: dict[str, tokenizers.AddedToken] = {}
    for token in (*added, *marks):
        if token.content:
            found.setdefault(token.content, token)
    return list(found.values())


def mark_of(config: Mapping[str, Any], role: str, default: str) -> str:
    """The mark of ``role`` (``cls_token`` ...): files have it as a string, or as an object with its content."""
    found = config.get(role)
    if isinstance(found, Mapping):
        found = found.get("content")
    return found if isinstance(found, str) and found else default


def check_ids(built: tokenizers.Tokenizer, settings: TokenizerSettings, source: str) -> None:
    """Make sure that every added token has the id that the files say, and no other's.

    Raises:
        CheckpointError: it has another one: there is a gap between the vocabulary and the added tokens.
    """
    for token in settings.added:
        found = built.token_to_id(token.content)
        expected = settings.ids.get(token.content, found)
        if found is None or found != expected or built.id_to_token(found) != token.content:
            raise CheckpointError(
                f"{source}: the added token {token.content[:40]!r} gets id {found}, expected "
                f"{expected if found != expected else 'one that no other token has'}; the vocabulary and the files "
                f"beside it ({CONFIG}, {_ADDED}) do not belong together"
            )


def _class_name(config: Mapping[str, Any], folder: Path) -> str:
    """As ``AutoTokenizer`` chooses it: by tokenizer_config.json, else by config.json."""
    try:
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        model = {}
    model = model if isinstance(model, dict) else {}
    for name in (config.get("tokenizer_class"), model.get("tokenizer_class")):
        if isinstance(name, str) and name:
            return name.removesuffix("Fast")
    return _CLASSES.get(str(model.get("model_type")), "")


def _named(values: Mapping[str, Any], extra: Any, source: Path) -> Iterable[tokenizers.AddedToken]:
    """The marks that files name, those that are the model's own (``*_token``), and further special tokens."""
    names = [*_ROLES, *(name for name in values if name.endswith("_token") and name not in _ROLES)]
    for name in names:
        value = values.get(name)
        if value is None or (name not in _ROLES and not isinstance(value, str | dict)):  # add_bos_token is a switch
            continue
        yield _token(value, source)
    if extra is not None and not isinstance(extra, list | dict):
        raise CheckpointError(f"{source}: extra_special_tokens is {str(extra)[:40]!r}, expected a list of tokens")
    for value in (extra.values() if isinstance(extra, dict) else extra) or ():
        yield _token(value, source)


def _token(value: Any, source: Path, special: bool = True) -> tokenizers.AddedToken:
    """A token as files have it: a string, or an object with its content and flags."""
    given = {"content": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), str):
        raise CheckpointError(f"{source}: found {str(value)[:40]!r}, expected a token: text, or an object with content")
    flags = {name: given[name] for name in _FLAGS if isinstance(given.get(name), bool)}
    try:
        return tokenizers.AddedToken(given["content"], **{"special": special, **flags})
    except UnicodeEncodeError:
        raise CheckpointError(f"{source}: the token {value!r:.60} is no valid Unicode") from None


def _items(values: Any, source: Path) -> Iterable[tuple[str, Any]]:
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: added_tokens_decoder is no object, expected tokens by their ids")
    return values.items()


def _id(value: Any, source: Path) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CheckpointError(f"{source}: found {text[:40]!r} as an added token's id, expected a whole number from 0")
    return int(text)


def _object(files: Mapping[str, str], folder: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads(files.get(name, "{}"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / name}: not a JSON object")
    return values
