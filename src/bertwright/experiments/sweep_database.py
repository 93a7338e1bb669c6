"""The database that the study of a sweep is in: a file, or a server elsewhere; opened, asked again, locked. Torch is
never imported."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bertwright.errors import RunError, UserError
from bertwright.evaluation.extremes import one_line
from bertwright.experiments.sweep_url import storage_url, without_password
from bertwright.runs import wait_for_lock

FILE, _LOCK = "study.db", "study.lock"
_TRIES, _TRY_AGAIN_S = 6, 0.5
_SQLITE_WAIT_S, _CONNECT_S = 60.0, 15
# A worker that gave no sign of life for so many of its intervals is taken for dead.
_MISSED_BEATS = 4

Done = TypeVar("Done")


class InTheWay(RunError):
    """A table or row that is to be made was made by another worker meanwhile, or so it may be."""


class Database:
    """Optuna's storage in the file of the sweep in ``folder``, or in the database at ``url``.

    Attributes:
        optuna: the library, which is loaded when it is needed.
        storage: with a cache of what has ended.
        shown_url: without a password.

    Raises:
        UserError: Optuna or the database's client is not installed; the database cannot be reached.
    """

    def __init__(self, folder: Path, url: str | None, heartbeat_s: int, write: bool) -> None:
        self._folder, self._is_file, self._heartbeat_s = folder, url is None, heartbeat_s
        self.optuna = _load_optuna()
        self._url = f"sqlite:///{(folder / FILE).absolute()}" if url is None else storage_url(url)
        self.shown_url = without_password(self._url)
        self._tries = 1
        self.storage = self._opened(write)
        self._tries = _TRIES if write else 1

    def _opened(self, write: bool) -> Any:
        """The storage; its tables are made if they are not there, which other workers may be doing just now."""
        for attempt in range(1, _TRIES + 1):
            try:
                with self.exclusive() if write else contextlib.nullcontext():
                    return self.ask(lambda: self._open(write))
            except InTheWay:
                if attempt == _TRIES:
                    raise
                time.sleep(_TRY_AGAIN_S * attempt)
            except RuntimeError as error:  # tables of another version of Optuna
                raise RunError(f"{self.shown_url}: cannot be read ({one_line(str(error))})") from None
        raise AssertionError

    def _open(self, write: bool) -> Any:
        engine: dict[str, Any] = {"pool_pre_ping": True}
        if self._url.startswith("sqlite:"):
            engine["connect_args"] = {"timeout": _SQLITE_WAIT_S}
        else:
            engine["connect_args"] = {"connect_timeout": _CONNECT_S}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are called experimental
            storage = self.optuna.storages.RDBStorage(
                self._url,
                engine_kwargs=engine,
                heartbeat_interval=self._heartbeat_s,
                grace_period=_MISSED_BEATS * self._heartbeat_s,
                skip_table_creation=not write,
            )
        return self.optuna.storages.get_storage(storage)  # with a cache of what has ended, as studies have it

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Within it, of the workers at a file, this one alone."""
        if not self._is_file:
            yield
            return
        with wait_for_lock(self._folder / _LOCK):
            yield

    def ask(self, act: Callable[[], Done]) -> Done:
        """What ``act`` returns; a database that does not answer is asked again some times.

        Raises:
            RunError: it does not answer.
        """
        from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

        for attempt in range(1, self._tries + 1):
            try:
                return act()
            except (self.optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                cause: BaseException = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
                if attempt == self._tries or not isinstance(cause, OperationalError):
                    kind = InTheWay if isinstance(cause, IntegrityError | ProgrammingError) else RunError
                    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
                    why = lines[0] if lines else type(cause).__name__
                    raise kind(f"{self.shown_url}: the sweep's database cannot be used ({why})") from None
                time.sleep(_TRY_AGAIN_S * attempt)
            except ImportError:
                raise UserError("--storage needs psycopg: pip install 'bertwright[postgresql]'") from None
        raise AssertionError


def _load_optuna() -> Any:
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets tqdm, which Optuna loads, warns of bars that are never shown.
            warnings.filterwarnings("ignore", message="IProgress not found")
            import optuna
    except ImportError:
        raise UserError("a sweep needs optuna: pip install 'bertwright[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
