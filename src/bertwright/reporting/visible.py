"""Texts from anywhere as they can be shown on a page, in a picture and in a file: whole, and without effect.

Control characters, which browsers drop or act upon, and those that reorder the text around them get a sign of their
own. Nothing here escapes for HTML: the templates do.
"""

from __future__ import annotations

import re
import unicodedata

_CUT = "…"
_WHITE = re.compile(r"[ \t\n\r\f\v\x1c-\x1f\x85\u2028\u2029]+")


def visible(text: object, most: int | None = None) -> str:
    """``text`` with every character that would not be seen, or that moves others, replaced by a sign.

    NUL to US and DEL become their pictures (U+2400 on), other control characters, bidirectional controls, lone
    surrogates and characters that XML cannot hold ⟨U+XXXX⟩. Line breaks and tabs stay.

    Args:
        most: cut after so many characters, the last of which is then an ellipsis; before the signs are put in.
    """
    string = text if isinstance(text, str) else str(text)
    if most is not None and len(string) > most:
        string = string[: most - 1] + _CUT
    return "".join(map(_sign, string)) if not (string.isascii() and string.isprintable()) else string


def in_one_line(text: object, most: int | None = None) -> str:
    """As ``visible``, with white space, line breaks included, as single spaces; spaces that do not break stay."""
    return visible(_WHITE.sub(" ", str(text)).strip(" "), most)


def _sign(character: str) -> str:
    if character in "\n\t":
        return character
    code = ord(character)
    if code < 0x20:
        return "\n" if character == "\r" else chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code < 0x80:
        return character
    if _reorders(code) or code in (0xFFFE, 0xFFFF) or unicodedata.category(character) in ("Cc", "Cs"):
        return f"⟨U+{code:04X}⟩"
    return character


def _reorders(code: int) -> bool:
    """Bidirectional marks, embeddings, overrides and isolates (Unicode Standard Annex 9, section 2)."""
    return 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F, 0x061C)
