"""The texts that a model scores highest and lowest: found, recorded and shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def find_extremes(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the ``k`` highest scores, highest first, and of the ``k`` lowest, lowest first.

    Of equal scores the one with the lower index comes first, in both. With fewer than ``2 * k`` scores an index may be
    in both; neither is longer than ``scores``.

    Args:
        scores: finite numbers ``(texts,)``.
        k: how many of each, at least 0.

    Raises:
        ValueError: ``scores`` is not one-dimensional or not finite, or ``k`` is negative.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1 or k < 0:
        raise ValueError(f"scores must be (texts,) and k at least 0. Got {scores.shape} and {k}.")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite.")
    return np.argsort(-scores, kind="stable")[:k], np.argsort(scores, kind="stable")[:k]


def extremes_record(
    texts_of: Callable[[int], str] | Sequence[str],
    scores: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    label_names: Sequence[str] | None,
    k: int,
    max_characters: int = 500,
    pairs_of: Callable[[int], str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The ``extremes`` of a run's result: ``highest`` and ``lowest``, each a list of ``row, score, text, label``.

    Where there are ``pairs_of`` the texts, each has a ``pair`` too.

    The values are plain Python ones. A longer text is cut to ``max_characters``, the last of which is then an ellipsis;
    it is otherwise as it was read, line breaks and control characters included.

    Args:
        texts_of: the texts, or a function from an index to its text, which is called for the chosen indices only.
        scores: finite numbers ``(texts,)``.
        rows: where each text stands in its file ``(texts,)``.
        label_names: the true label of each text ``(texts,)``; if not given, ``label`` is ``None``.
        k: how many of each, at least 0.
        max_characters: at least 1.
        pairs_of: a function from an index to the second text of a pair.

    Raises:
        ValueError: what ``find_extremes`` refuses, lengths that differ, or ``max_characters`` below 1.
    """
    if max_characters < 1:
        raise ValueError(f"max_characters must be at least 1. Got {max_characters}.")
    highest, lowest = find_extremes(scores, k)
    if len(rows) != len(scores) or (label_names is not None and len(label_names) != len(scores)):
        raise ValueError(f"rows and label_names must be as many as the {len(scores)} scores.")
    text_at = texts_of if callable(texts_of) else texts_of.__getitem__

    def entries(indices: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "row": int(rows[index]),
                "score": float(scores[index]),
                "text": _cut(text_at(index), max_characters),
                **({} if pairs_of is None else {"pair": _cut(pairs_of(index), max_characters)}),
                "label": None if label_names is None else str(label_names[index]),
            }
            for index in indices.tolist()
        ]

    return {"highest": entries(highest), "lowest": entries(lowest)}


def show_extremes(record: Mapping[str, Sequence[Mapping[str, Any]]], describe: str) -> Group:
    """What ``extremes_record`` returned as two tables for rich to print, one text a line.

    A line is the score with four decimals, the label (where there are labels) and the text, cut at the console's width.
    Nothing in a text or label is taken as rich's markup or reaches the terminal as a control code. An empty list
    has no table.

    Args:
        record: with the keys ``highest`` and ``lowest``.
        describe: what the score is (``metrics.describe_score``); stands in the titles.
    """
    from rich.console import Group

    titles = {"highest": f"Highest {describe}", "lowest": f"Lowest {describe}"}
    return Group(*(_entries_table(record[key], title) for key, title in titles.items() if record[key]))


def one_line(text: str) -> str:
    """The text in one line that is safe to write to a terminal.

    White space of any kind and length becomes one space; control characters (C0, DEL, C1) and those that reorder
    the text around them (bidirectional embeddings, overrides and isolates) are dropped; lone surrogates, which cannot
    be encoded, become U+FFFD.
    """
    return " ".join("".join(map(_shown, text)).split())


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    if "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069":
        return ""
    category = unicodedata.category(character)
    if category == "Cc":
        return ""
    return "\ufffd" if category == "Cs" else character


def _shown_texts(entry: Mapping[str, Any]) -> str:
    """The text in one line, or both texts of a pair."""
    if entry["text"] is None:
        return "(not kept)"
    pair = entry.get("pair")
    return one_line(entry["text"]) + ("" if pair is None else " ||| " + one_line(pair))


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _entries_table(entries: Sequence[Mapping[str, Any]], title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    with_labels = any(entry["label"] is not None for entry in entries)
    scores = [f"{entry['score']:.4f}" for entry in entries]
    # Text objects throughout: a plain string would be read as markup.
    table = Table(title=Text(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD, expand=True)
    table.add_column(Text("score"), justify="right", no_wrap=True, min_width=max(map(len, scores)))
    if with_labels:
        table.add_column(Text("label"), no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column(Text("text"), no_wrap=True, overflow="ellipsis", ratio=1)
    for entry, score in zip(entries, scores, strict=True):
        label = [Text(one_line(entry["label"] or "-"))] if with_labels else []
        table.add_row(Text(score), *label, Text(_shown_texts(entry)))
    return table
