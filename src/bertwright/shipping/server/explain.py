"""Which words made a score: what the score of a label would be without each of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from bertwright.evaluation.scorer import TextOrPair
from bertwright.shipping.server.models import ServedModel
from bertwright.shipping.server.query import check_text, read_object
from bertwright.shipping.server.refusal import Refusal, type_name

# Beyond so many words, neighbours are left out together, so that a long text is no more work than a shorter one.
_MOST_PIECES = 64
# A word with the white space behind it; white space at the very start belongs to the first word.
_WORDS = re.compile(r"\s*\S+\s*")


def pieces_of(text: str, most: int) -> list[str]:
    """The text in at most ``most`` runs of words, which joined are the text."""
    words = _WORDS.findall(text) or [text]
    if len(words) > most:
        bounds = [len(words) * number // most for number in range(most + 1)]
        words = ["".join(words[first:last]) for first, last in itertools.pairwise(bounds)]
    return words


def read(body: bytes, model_named: Any) -> tuple[TextOrPair, ServedModel]:
    """The text, or pair of texts, of ``{"inputs": "a" | ["a", "b"], "model"?}``, and the model.

    Raises:
        Refusal: there is none.
    """
    document = read_object(body)
    name = document.get("model")
    if name is not None and not isinstance(name, str):
        raise Refusal("wrong", f"`model` is {type_name(name)}, expected a string", "model")
    model: ServedModel = model_named(name)
    given = document.get("inputs")
    if not model.scorer.settings.pairs:
        return check_text(given, "inputs"), model
    if not isinstance(given, list) or len(given) != 2:
        raise Refusal("wrong", "`inputs` must be a pair of texts", "inputs")
    return (check_text(given[0], "inputs"), check_text(given[1], "inputs")), model


class Occlusion:
    """A text again and again without one of its pieces (Zeiler and Fergus 2014, section 4.2).

    Args:
        text: the text, or pair of texts.
        most: how many texts may come of it; the more, the finer are the pieces. Of a pair there are two at least.
    """

    def __init__(self, text: TextOrPair, most: int) -> None:
        self.given: tuple[str, ...] = (text,) if isinstance(text, str) else text
        most_pieces = max(1, min(_MOST_PIECES, most) // len(self.given))
        self.pieces = [pieces_of(part, most_pieces) for part in self.given]

    @property
    def texts(self) -> list[TextOrPair]:
        """Without the first piece, without the second one and so on."""
        left: list[TextOrPair] = []
        for number, pieces in enumerate(self.pieces):
            for place in range(len(pieces)):
                rest = "".join(pieces[:place] + pieces[place + 1 :])
                left.append(_of([rest if other == number else part for other, part in enumerate(self.given)]))
        return left

    def answer(self, model: ServedModel, whole: np.ndarray, left: np.ndarray, recent: dict[str, Any]) -> bytes:
        """The scores of the text and, of the highest label, how much each piece adds to it.

        Args:
            whole: (labels) scores of the text.
            left: (pieces, labels) scores of what is left without each piece.
        """
        labels = model.scorer.labels
        highest = int(whole.argmax())
        effects = iter((whole[highest] - left[:, highest]).tolist())
        order = np.argsort(-whole, kind="stable").tolist()
        return orjson.dumps(
            {
                "model": model.name,
                "label": labels[highest],
                "scores": [{"label": labels[place], "score": float(whole[place])} for place in order],
                "pieces": [[{"text": piece, "effect": next(effects)} for piece in pieces] for pieces in self.pieces],
                "recent": recent,
            }
        )


def _of(parts: Sequence[str]) -> TextOrPair:
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])
