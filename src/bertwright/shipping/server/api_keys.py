"""Keys that requests must bring."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from bertwright.config.base import expand_home
from bertwright.errors import UserError

ENVIRONMENT = "BERTWRIGHT_API_KEYS"


class ApiKeys:
    """Which keys are good. Only their hashes are kept, and how long a look takes says nothing about them."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def allow(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether one of the headers Authorization: Bearer KEY and X-API-Key brings a good key."""
        good = False
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                value = value[7:].strip()
            elif name != b"x-api-key":
                continue
            found = hashlib.sha256(value).digest()
            for known in self._hashes:  # all of them, each compared in constant time
                good |= hmac.compare_digest(found, known)
        return good


def read_keys(path: str | None) -> ApiKeys:
    """The keys in a file, one a line, or without one those in BERTWRIGHT_API_KEYS; none if that is not set either.

    Raises:
        UserError: the file is missing or holds no key, or the variable is set and holds none.
    """
    if path is not None:
        try:
            lines = Path(expand_home(path)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"{path}: cannot be read ({reason}); --api-keys takes a file of keys, one a line") from None
        source = path
    elif ENVIRONMENT in os.environ:
        lines, source = os.environ[ENVIRONMENT].split(","), ENVIRONMENT
    else:
        return ApiKeys(())
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise UserError(f"{source}: found no key, expected at least one; leave it out to ask for none")
    return ApiKeys(keys)
