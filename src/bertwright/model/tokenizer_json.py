"""A tokenizer.json as ``transformers`` 5 reads it.

For models of BERT's and RoBERTa's families it takes the vocabulary (and merges) alone out of the file, and builds
everything else by the tokenizer's class and tokenizer_config.json: ``TokenizersBackend.convert_to_native_format``. The
two files may say different things, so that texts are lower-cased by one and not by the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from bertwright.errors import CheckpointError
from bertwright.model.byte_level import byte_level_tokenizer
from bertwright.model.tokenizer_settings import CONFIG, TokenizerSettings, check_ids, read_settings
from bertwright.model.wordpiece import DEFAULTS, wordpiece_tokenizer

# Classes that build their tokenizer themselves; the other ones take tokenizer.json as it is.
_WORDPIECE = {
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
    "LxmertTokenizer",
}
_BYTE_LEVEL = {"RobertaTokenizer", "LongformerTokenizer", "BartTokenizer"}
_NEEDED = ("unk_token", "cls_token", "sep_token")
# Texts in which the usual settings show.
_PROBES = ("The Quick Brown fox", "Café naïve Ångström", "中文字符", " a  b\tc", "don't, a/b", "a <mask> [MASK] b")


@dataclass(frozen=True)
class ReadJson:
    """A tokenizer.json to use, the settings beside it, and what a user should know."""

    json_text: str
    settings: TokenizerSettings
    notes: tuple[str, ...] = ()


def as_transformers_reads(json_text: str, files: Mapping[str, str], folder: Path) -> ReadJson:
    """The tokenizer.json that gives the ids of ``transformers`` for the text of one in ``folder``.

    ``files`` are the texts of the other files, by name.

    Raises:
        CheckpointError: it is no tokenizer.json, or the files beside it are damaged or do not fit it.
    """
    source = folder / "tokenizer.json"
    values = _object(json_text, source)
    own_added = values.get("added_tokens") or []
    if not isinstance(own_added, list) or not all(isinstance(token, dict) for token in own_added):
        raise CheckpointError(f"{source}: not a tokenizer that can be used (added_tokens is no list of objects)")
    settings = read_settings(files, folder, own_added)
    built = _rebuilt(values, settings, str(source))
    if built is None:
        return ReadJson(_with_added(json_text, own_added, settings, str(source)), settings)
    rebuilt = json.loads(built.to_str())
    if _parts(values, str(source)) == _parts(rebuilt, str(source)):
        return ReadJson(json_text, settings)
    check_ids(built, settings, str(source))
    own = _parsed(json_text, str(source))
    texts = [*_PROBES, *(f"a {token.content} {token.content.upper()}b" for token in settings.added[:256])]
    built_ids = _ids(built, texts)
    if built_ids is None:
        raise CheckpointError(f"{source}: not a tokenizer that can be used (it fails at texts)")
    if _ids(own, texts) == built_ids:
        return ReadJson(built.to_str(), settings)
    return ReadJson(built.to_str(), settings, (_said(rebuilt, folder),))


def _ids(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]] | None:
    """The token ids of each text; None where it fails, as for want of the token for unknown words."""
    try:
        return [one.ids for one in tokenizer.encode_batch(texts)]
    except Exception:  # noqa: BLE001 - the Rust binding raises bare Exception
        return None


def agreeing_config(config_text: str | None, settings: TokenizerSettings, tokenizer: Mapping[str, Any]) -> str | None:
    """A tokenizer_config.json with which ``transformers`` reads ``tokenizer``, a tokenizer.json's values, as we do.

    None: the text of the given one will do. Without it, a model of another kind beside the file might be taken to say
    the class, and the class's defaults how texts are read.
    """
    config = {} if config_text is None else json.loads(config_text)
    wanted: dict[str, Any] = {}
    class_name = settings.class_name
    normalizer = tokenizer.get("normalizer") or {}
    if tokenizer["model"].get("type") == "WordPiece" and normalizer.get("type") == "BertNormalizer":
        class_name = class_name or "BertTokenizer"
        used = {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
        wanted = {name: value for name, value in used.items() if config.get(name, DEFAULTS[name]) != value}
    if class_name and not config.get("tokenizer_class"):
        wanted["tokenizer_class"] = class_name
    return json.dumps({**config, **wanted}, indent=2, ensure_ascii=False) + "\n" if wanted else None


def _rebuilt(values: dict[str, Any], settings: TokenizerSettings, source: str) -> tokenizers.Tokenizer | None:
    """The tokenizer by its vocabulary and ``settings``; None for a class that takes tokenizer.json as it is."""
    model = values.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        return None
    vocabulary, kind = model["vocab"], model.get("type")
    if kind == "WordPiece" and settings.class_name in _WORDPIECE:
        return wordpiece_tokenizer(vocabulary, settings.values, source, settings.added, _NEEDED)
    if kind == "BPE" and settings.class_name in _BYTE_LEVEL:
        merges = _merges(model, source)
        return byte_level_tokenizer(vocabulary, merges, settings.values, source, settings.added)
    return None


def _object(json_text: str, source: Path) -> dict[str, Any]:
    try:
        values = json.loads(json_text)
    except (ValueError, RecursionError) as error:
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{source}: not a tokenizer that can be used ({why})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: not a tokenizer that can be used (no object)")
    return values


def _with_added(json_text: str, own_added: list[dict[str, Any]], settings: TokenizerSettings, source: str) -> str:
    """``json_text`` with the tokens that the files beside it add to it, or say otherwise."""
    own = [{name: value for name, value in token.items() if name != "id"} for token in own_added]
    if all(_flags(token) in own for token in settings.added):
        return json_text
    built = _parsed(json_text, source)
    built.add_tokens(list(settings.added))
    check_ids(built, settings, source)
    return built.to_str()


def _flags(token: tokenizers.AddedToken) -> dict[str, Any]:
    return {
        "content": token.content,
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special,
    }


def _parts(values: dict[str, Any], source: str) -> dict[str, Any]:
    """What decides about ids beside the vocabulary, as the installed ``tokenizers`` writes it."""
    model = {**values["model"], "vocab": {}}
    if "merges" in model:
        model["merges"] = []
    small = _parsed(json.dumps({**values, "model": model, "added_tokens": []}), source)
    parts = json.loads(small.to_str())
    found = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "post_processor")}
    found["model"] = {name: value or None for name, value in parts["model"].items()}
    found["added_tokens"] = sorted(values.get("added_tokens") or [], key=lambda token: str(token.get("id")))
    return found


def _parsed(json_text: str, source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # noqa: BLE001 - the Rust binding raises bare Exception for any damaged file
        raise CheckpointError(f"{source}: not a tokenizer that can be used ({error})") from None


def _merges(model: dict[str, Any], source: str) -> list[tuple[str, str]]:
    """The merges of a BPE model: pairs of tokens, or both in one string."""
    pairs = []
    for merge in model.get("merges") or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise CheckpointError(f"{source}: found the merge {str(merge)[:40]!r}, expected two tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _said(rebuilt: dict[str, Any], folder: Path) -> str:
    """What a user should know where the two files give different ids."""
    normalizer = rebuilt["normalizer"]
    if normalizer is None:
        how = f"a space is {'' if rebuilt['pre_tokenizer']['add_prefix_space'] else 'not '}put before a text"
    else:
        lower, accents = normalizer["lowercase"], normalizer["strip_accents"]
        stripped = lower if accents is None else accents
        how = f"texts are {'' if lower else 'not '}lower-cased, accents {'left out' if stripped else 'kept'}"
    return (
        f"{folder / 'tokenizer.json'} and {CONFIG} give different token ids; taken as transformers takes them, from "
        f"{CONFIG}, or where it says nothing from its defaults: {how}"
    )
