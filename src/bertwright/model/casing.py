"""Whether a WordPiece vocabulary is for texts in lower case, and for texts without accents.

Google's files do not say it. A vocabulary was learnt from texts as its tokenizer wrote them, so that it shows: one for
lower-cased texts holds no capital letters, but for a few tokens that somebody added.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# bert-base-uncased has no token with a capital letter and none with an accent. Of a vocabulary for texts as they stand,
# a tenth or more have capitals; of one for lower-cased German or French with accents, a tenth or more have accents.
_LEAST_SHARE_WITH_CAPITALS = 0.05
_LEAST_SHARE_WITH_ACCENTS = 0.002


@dataclass(frozen=True)
class Casing:
    """How texts are written before they are cut into tokens; None: that is not said.

    Attributes:
        lowercase: whether they are lower-cased.
        strip_accents: whether they lose their accents; if it is not said, where they are lower-cased, as Google's
            tokenizer and ``transformers`` do.
    """

    lowercase: bool | None = None
    strip_accents: bool | None = None


def words_of(vocabulary: str) -> list[str]:
    """The lines of a vocab.txt without its marks ([CLS] ...)."""
    return [token for token in vocabulary.split("\n") if token and not token.startswith("[")]


def guess_lowercase(words: Sequence[str]) -> tuple[bool, str]:
    """Whether a vocabulary is for lower-cased texts, and how that was seen."""
    cased = [word for word in words if word.lower() != word.upper()]
    capitals = sum(word != word.lower() for word in cased)
    counts = f"{capitals:,} of {len(cased):,} tokens with letters"
    if capitals and capitals >= _LEAST_SHARE_WITH_CAPITALS * len(cased):
        return False, f"the vocabulary has capital letters ({counts}): texts are not lower-cased"
    found = f"few capital letters ({counts})" if capitals else "no capital letters"
    return True, f"the vocabulary has {found}: texts are lower-cased"


def guess_keeps_accents(words: Sequence[str]) -> tuple[bool, str | None]:
    """Whether a vocabulary for lower-cased texts is for texts with accents, and how that was seen if it has any."""
    accents = sum(map(_has_accent, words))
    if not accents:
        return False, None
    keeps = accents >= _LEAST_SHARE_WITH_ACCENTS * len(words)
    return keeps, (
        f"the vocabulary has {'' if keeps else 'few '}letters with accents ({accents:,} of {len(words):,} tokens): "
        f"texts {'keep' if keeps else 'lose'} them"
    )


def _has_accent(word: str) -> bool:
    """Whether the tokenizer's stripping of accents (decomposed by NFD, without category Mn) would change it."""
    return any(unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", word))
