"""Texts on their way through any scorer: their token ids, then their scores, portion by portion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bertwright.data.packing import split_by_budget
from bertwright.data.ragged import Ragged
from bertwright.data.reading import LabelledTexts
from bertwright.data.tokenize import check_pairs_match, token_ids_of
from bertwright.evaluation.scorer import Scorer, TextOrPair, taken
from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter

# Scored at once, of as many tokens each as fit the budget: enough that what a call costs besides does not count, few
# enough that progress shows.
_BATCHES_IN_PORTION = 32


def ids_of(scorer: Scorer, texts: LabelledTexts, name: str, reporter: Reporter) -> Ragged:
    """The token ids of ``texts`` for ``scorer``, which is called ``name``: those that came with them, else made now.

    Ids that came with the texts are taken by a scorer that has a ``tokenizer``, with which they are compared. Others
    read the texts again, which is said.

    Raises:
        DataError: ids that came with them do not fit; pairs where single texts are expected, or the other way round.
    """
    tokenizer = getattr(scorer, "tokenizer", None)
    if texts.tokens is not None and isinstance(tokenizer, Tokenizer):
        return token_ids_of(texts, tokenizer, scorer.settings, name, reporter)
    check_pairs_match(texts, scorer.settings, name)
    if texts.tokens is not None:
        reporter.say(f"token ids of {texts.tokens.folder} are not used: {name} reads the texts themselves")
    return scorer.tokenize(texts.texts if texts.pairs is None else texts_or_pairs(texts))


def texts_or_pairs(texts: LabelledTexts) -> Sequence[TextOrPair]:
    """What a scorer reads: the texts, or (text, second text) of each."""
    return texts.texts if texts.pairs is None else list(zip(texts.texts, texts.pairs, strict=True))


def score_in_portions(
    scorer: Scorer,
    texts: Sequence[TextOrPair],
    ragged: Ragged,
    advance: Callable[[int], object],
    check: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """(texts, labels) float64 scores of ``texts``, whose token ids are ``ragged``: longest first, portion by portion.

    Args:
        advance: told after each portion how many texts it had.
        check: called then too; what it raises ends the work.
    """
    lengths = ragged.lengths
    order = np.argsort(-lengths, kind="stable")
    scores = np.zeros((len(ragged), len(scorer.labels)))
    # Whole batches, as the scorer will cut them: no portion ends in a small one.
    batches = split_by_budget(lengths[order], scorer.token_budget)
    for first in range(0, len(batches), _BATCHES_IN_PORTION):
        last = min(first + _BATCHES_IN_PORTION, len(batches)) - 1
        rows = order[batches[first].start : batches[last].stop]
        scores[rows] = scorer.score_tokenized(taken(texts, rows), ragged.take(rows))
        advance(len(rows))
        check()
    return scores
