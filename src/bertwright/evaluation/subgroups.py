"""Which texts speak of which group: by columns beside the scores, or by terms in the texts. Torch is never imported."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config.base import expand_home
from bertwright.data.numbers import NUMBER
from bertwright.data.table import show
from bertwright.errors import UserError
from bertwright.evaluation.identity_terms import IDENTITY_TERMS

_MOST_GROUPS_OF_A_COLUMN = 100
_MEMBER = 0.5
_TRUE, _FALSE = {"true", "yes", "y", "t"}, {"false", "no", "n", "f"}
_WORD = re.compile(r"\w+")

Terms = Mapping[str, Sequence[str]]
"""Groups by name, with the words or phrases that speak of them."""


def groups_of_columns(columns: Mapping[str, pa.ChunkedArray]) -> dict[str, np.ndarray]:
    """Groups by name, which texts are of each, bool (texts,).

    A column of numbers or of yes and no is one group: the texts with 0.5 or more (the share of annotators who saw the
    group, for example), "true", "yes", "y" or "t". A column of other words is a group for each of them, named
    "column=word". Texts without a value are of no group.

    Raises:
        UserError: a column of words has more than 100 different ones.
    """
    groups: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        groups.update(_groups_of(name, column))
    return groups


def _groups_of(name: str, column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    if pa.types.is_boolean(column.type):
        return {name: np.asarray(pc.fill_null(column, False)).astype(bool)}
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan))
        return {name: numbers >= _MEMBER}
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    words = [(word or "").strip() for word in encoded.dictionary.to_pylist()]
    codes = np.asarray(pc.fill_null(encoded.indices, len(words))).astype(np.int64)
    kinds = {_truth(word) for word in words if word}
    if None not in kinds:
        members = np.array([bool(_truth(word)) for word in words] + [False])
        return {name: members[codes]}
    named = sorted({word for word in words if word})
    if len(named) > _MOST_GROUPS_OF_A_COLUMN:
        raise UserError(
            f"column {show(name)}: found {len(named):,} different groups, expected at most {_MOST_GROUPS_OF_A_COLUMN}: "
            "numbers, yes and no, or names of groups. Name another with --group-columns"
        )
    return {
        f"{name}={group}": np.array([word == group for word in words] + [False], dtype=bool)[codes] for group in named
    }


def _truth(word: str) -> bool | None:
    """Whether a cell says that a text is of the group; None where it is neither a number nor yes or no."""
    if not word:
        return False
    if NUMBER.fullmatch(word):
        return float(word) >= _MEMBER
    folded = word.casefold()
    if folded in _FALSE or folded in ("nan", "null", "none"):
        return False
    return True if folded in _TRUE else None


def groups_of_terms(texts: Iterable[str], terms: Terms = IDENTITY_TERMS) -> dict[str, np.ndarray]:
    """Groups by name, which texts hold one of the terms of each, bool (texts,).

    Terms are matched as whole words, in any case; what stands between the words of a phrase does not matter, so that
    "middle aged" is found in "middle-aged", and "muslim" in "Muslim's" but not in "Muslims". A text may be of many
    groups.
    """
    phrases: dict[tuple[str, ...], list[int]] = {}
    for place, words in enumerate(terms.values()):
        for term in words:
            phrases.setdefault(_words(term), []).append(place)
    longest: dict[str, int] = {}  # the most words of a phrase that begins with a word
    for phrase in phrases:
        longest[phrase[0]] = max(longest.get(phrase[0], 0), len(phrase))
    found: list[set[int]] = []
    for text in texts:
        words = _words(text)
        groups: set[int] = set()
        for start, word in enumerate(words):
            for length in range(1, longest.get(word, 0) + 1):
                groups.update(phrases.get(tuple(words[start : start + length]), ()))
        found.append(groups)
    members = {name: np.zeros(len(found), bool) for name in terms}
    columns = list(members.values())
    for row, groups in enumerate(found):
        for place in groups:
            columns[place][row] = True
    return members


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def read_terms(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The terms in a TOML file of names of groups, each with a list of words or phrases.

    Raises:
        UserError: the file is missing or holds something else.
    """
    path = Path(expand_home(str(path)))
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"--group-terms {path}: no such file; expected a .toml file of groups with their terms"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--group-terms {path}: cannot be read as TOML ({error})") from None
    if not values:
        raise UserError(f'{path}: found no group, expected lines such as muslim = ["muslim", "muslims"]')
    return {name: _checked_terms(path, name, terms) for name, terms in values.items()}


def _checked_terms(path: Path, name: str, terms: Any) -> tuple[str, ...]:
    good = isinstance(terms, list) and terms and all(isinstance(term, str) and _words(term) for term in terms)
    if not good:
        raise UserError(f'{path}, group {show(name)}: expected a list of words or phrases, such as ["muslim"]')
    return tuple(terms)
