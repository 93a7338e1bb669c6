"""The URL of a sweep's database, and what of it may be shown. Torch is never imported here."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from bertwright.errors import UserError

# HOST, HOST:PORT, or several with commas; then the database's name or parameters.
_HOSTS = re.compile(r"(\[[^\]]*\]|[^:/?,]*)(:[0-9]*)?(,(\[[^\]]*\]|[^:/?,]*)(:[0-9]*)?)*([/?]|$)")
_SECRET_WORD = re.compile(r"\s*[^\s=&]*password[^\s=&]*\s*=\s*('[^']*'|\S*)", re.IGNORECASE)


def storage_url(given: str) -> str:
    """``given`` as SQLAlchemy takes it.

    Raises:
        UserError: not the URL of a database that many workers can share.
    """
    found = re.match(r"(postgresql|postgres)(\+\w+)?://", given)
    if found is None:
        shown = without_password(given)
        raise UserError(
            f"--storage: found {shown!r}, expected postgresql://USER@HOST/DATABASE (without it, a file in --output)"
        )
    if (
        given[found.end() :].partition("?")[0].partition(":")[2].count("@") > 1
    ):  # what follows the first would be taken for the host, and shown
        raise UserError("--storage: found more than one @ before the host; write one in a user or a password as %40")
    return f"postgresql{found[2] or '+psycopg'}://{given[found.end() :]}"


def without_password(url: str) -> str:
    """The URL as it may be kept and shown: no password, neither before the host nor as a parameter.

    What cannot be told from a password goes too: all between the first ":" after "//" and the last "@".
    """
    scheme, slashes, rest = url.partition("//") if "//" in url else ("", "", url)
    place, question, query = rest.partition("?")
    query = "&".join(part for part in query.split("&") if not _is_secret(part))
    shown = _SECRET_WORD.sub("", place) + (question + query if query else "")
    head, colon, tail = shown.partition(":")
    if colon and "@" in tail:
        shown = f"{head}@{tail.rpartition('@')[2]}"
    elif colon and not _HOSTS.match(shown.rpartition("@")[2]):  # the rest of a password, and no port
        shown = head
    return f"{scheme}{slashes}{shown}"


def _is_secret(parameter: str) -> bool:
    return "password" in unquote_plus(parameter.partition("=")[0]).lower()
