"""What is too large for memory on its way: a temporary file that takes bytes, then is mapped into memory."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
import weakref
from typing import Any

from bertwright.errors import DataError


class Appended(io.RawIOBase):
    """A file that bytes are added to, as Arrow does it: of what is written, all of it.

    Attributes:
        num_bytes: that were written.
    """

    _close: Any = None

    def __init__(self, descriptor: int) -> None:
        """``descriptor``, open for writing, is closed with this, or when nothing refers to it any more."""
        self.descriptor = descriptor
        self.num_bytes = 0
        self._close = weakref.finalize(self, os.close, descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if not view.nbytes:  # then it cannot be cast
            return 0
        rest = view.cast("B")
        while len(rest):
            rest = rest[os.write(self.descriptor, rest) :]
        self.num_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.num_bytes

    def close(self) -> None:
        if self._close is not None:  # it was opened
            self._close()
        super().close()


class Spool(Appended):
    """A temporary file without a name: nothing is left behind, come what may."""

    def __init__(self, what: str) -> None:
        """``what`` is to be held, for messages, such as "the texts".

        Raises:
            DataError: it cannot be made.
        """
        self._what = what
        try:
            with tempfile.TemporaryFile(buffering=0) as file:  # has no name from the start, where the system can
                descriptor = os.dup(file.fileno())
        except OSError as error:
            raise self._refusal(error) from None
        super().__init__(descriptor)

    def write(self, data: Any) -> int:
        """Add all of ``data``.

        Raises:
            DataError: it cannot be written, as on a full disk.
        """
        try:
            return super().write(data)
        except OSError as error:
            raise self._refusal(error) from None

    def mapped(self) -> mmap.mmap:
        """All that was written (at least one byte), which is read from the file where it is used; this is then closed.

        Raises:
            DataError: it cannot be mapped.
        """
        try:
            return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._refusal(error) from None
        finally:
            self.close()

    def _refusal(self, error: OSError) -> DataError:
        try:
            folder = tempfile.gettempdir()
        except OSError:  # there is none
            folder = os.environ.get("TMPDIR", "the folder for temporary files")
        return DataError(
            f"{folder}: cannot hold {self._what} ({(error.strerror or str(error)).lower()}), expected room for all of "
            "them. Free some, or name a larger folder: TMPDIR=/path bertwright ..."
        )
