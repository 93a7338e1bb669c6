"""Terms by which texts speak of groups of people, for ``bertwright bias`` without columns of groups.

Everyday English words, singular and plural, each a group of its own, so that what they do to scores can be told apart.
Some have other meanings too ("black", "white", "straight", "old"): a text that holds one need not speak of people.
"""

from __future__ import annotations


def _with_plurals(*singulars: str) -> dict[str, tuple[str, ...]]:
    return {term: (term, f"{term}s") for term in singulars}


def _alone(*terms: str) -> dict[str, tuple[str, ...]]:
    return {term: (term,) for term in terms}


IDENTITY_TERMS: dict[str, tuple[str, ...]] = {
    **_with_plurals("gay", "lesbian", "bisexual", "homosexual", "heterosexual", "transgender", "queer"),
    **_alone("trans", "lgbt", "lgbtq", "straight", "nonbinary"),
    **_with_plurals("male", "female", "girl", "boy"),
    "man": ("man", "men"),
    "woman": ("woman", "women"),
    **_with_plurals("african", "african american", "american", "asian", "european", "hispanic", "indian", "canadian"),
    **_with_plurals("latino", "latina", "mexican", "arab", "immigrant", "refugee"),
    **_alone("black", "white", "chinese", "japanese", "middle eastern", "native american", "latinx"),
    **_with_plurals("christian", "muslim", "jew", "buddhist", "catholic", "protestant", "sikh", "hindu", "atheist"),
    **_with_plurals("taoist"),
    **_alone("jewish", "islamic"),
    **_alone("old", "older", "young", "younger", "elderly", "middle aged", "teenage"),
    **_with_plurals("millennial", "teenager"),
    **_alone("blind", "deaf", "disabled", "paralyzed", "autistic"),
}
