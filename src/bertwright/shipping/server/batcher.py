"""The queue between requests and the model: texts wait here, tokenised, and are computed together by token budget.

A thread tokenises whatever has arrived in one call, another one computes. While one batch is computed the next one
collects; when nothing is computed, a text waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bertwright.data.ragged import Ragged, joined_ragged
from bertwright.errors import UserError
from bertwright.evaluation.cascade import Cascade
from bertwright.evaluation.scorer import LogitScorer, Scorer, TextOrPair
from bertwright.hardware import release_openmp_threads
from bertwright.shipping.server.deal import deal, quantum_of
from bertwright.shipping.server.pace import Pace
from bertwright.shipping.server.refusal import Refusal

LOGGER = logging.getLogger(__name__)
_LONGEST_RETRY_S = 60


class Job:
    """The texts of one request on their way to scores. Made in the event loop's thread, where its future is set.

    Attributes:
        uncut: refuse the texts where one is longer than the model reads.
        want_logits: the logits are asked for too.
        cancelled: nobody waits for it any more: what is not computed yet will not be.
        lengths: (texts,) tokens of each text, once it is tokenised.
        left_tokens: tokens that wait; ``tokens_ahead``, those of them that are computed before a job that comes now.
        scores: (texts, labels) float64; ``logits`` (texts, labels) float32 where they are wanted.
        submitted, tokenizing, tokenized, computing, done: moments, by ``time.perf_counter``.
    """

    __slots__ = (
        "cancelled",
        "computing",
        "done",
        "first",
        "future",
        "left_tokens",
        "lengths",
        "logits",
        "missing",
        "next",
        "num_tokens",
        "order",
        "ragged",
        "scorer",
        "scores",
        "submitted",
        "texts",
        "tokenized",
        "tokenizing",
        "tokens_ahead",
        "uncut",
        "want_logits",
    )

    def __init__(
        self, scorer: Scorer, texts: Sequence[TextOrPair], *, want_logits: bool = False, uncut: bool = False
    ) -> None:
        self.scorer = scorer
        self.texts = texts
        self.want_logits = want_logits
        self.uncut = uncut
        self.cancelled = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ragged: Ragged | None = None
        self.first = 0  # of its rows in ``ragged``, which it may share with others
        self.lengths: list[int] = []
        self.order: Sequence[int] = ()  # longest first
        self.next = 0  # how many of ``order`` are dealt out
        self.missing = len(texts)  # scores that are still to come
        self.num_tokens = self.left_tokens = self.tokens_ahead = 0
        self.scores: np.ndarray | None = None
        self.logits: np.ndarray | None = None
        self.submitted = self.tokenizing = self.tokenized = self.computing = self.done = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that it waited, was tokenised and was computed."""
        return {
            "queue": self.tokenizing - self.submitted + self.computing - self.tokenized,
            "tokenization": self.tokenized - self.tokenizing,
            "inference": self.done - self.computing,
        }


Share = tuple[Job, list[int]]  # a job and some of its rows


class Batcher:
    """Takes jobs in the event loop, computes them elsewhere, and gives them back there.

    Args:
        queue_texts, queue_tokens: how much may wait; what comes on top is refused.
        max_request_tokens: tokens of one job, at most.
        max_wait_s: how long a batch that is not full waits for jobs that are being tokenised.
        queue_s: refuse a job where the tokens that are computed before it would take longer, at the pace so far. Never
            where none wait, nor before the pace is known. 0: however long it takes.
        on_batch: called from the computing thread with the texts and tokens of each batch, and the texts that wait.
    """

    def __init__(
        self,
        queue_texts: int,
        queue_tokens: int,
        max_request_tokens: int,
        max_wait_s: float,
        queue_s: float = 0.0,
        on_batch: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._queue_texts, self._queue_tokens = queue_texts, queue_tokens
        self._max_request_tokens = max_request_tokens
        self._max_wait_s = max_wait_s
        self._queue_s = queue_s
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._ready: dict[int, deque[Job]] = {}  # by the scorer's id
        self._num_tokenizing = 0  # jobs that arrived or are being tokenised
        self._waiting_texts = 0
        self._waiting_tokens = 0
        self._tokens_ahead = 0  # of those that wait: what is computed before a job that comes now
        self._pace = Pace()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        release_openmp_threads()  # this thread has loaded the models
        self._threads = [
            threading.Thread(target=self._tokenize_all, name="tokenise", daemon=True),
            threading.Thread(target=self._compute_all, name="compute", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_texts(self) -> int:
        return self._waiting_texts

    @property
    def is_full(self) -> bool:
        """Whether not one more text would be taken."""
        return (
            self._waiting_texts >= self._queue_texts
            or self._waiting_tokens >= self._queue_tokens
            or self._takes_too_long
        )

    @property
    def _takes_too_long(self) -> bool:
        return 0 < self._queue_s < self._pace.seconds(self._tokens_ahead)

    def overloaded(self) -> Refusal:
        """The refusal of a request for which there is no room, with when to come back."""
        wait = self._pace.seconds(self._waiting_tokens) or 1.0
        return Refusal(
            "overloaded",
            f"too much is waiting ({self._waiting_texts} texts); come back later",
            retry_after_s=min(max(1, math.ceil(wait)), _LONGEST_RETRY_S),
        )

    def submit(self, job: Job) -> None:
        """Take a job; its future is set when its scores are there.

        Raises:
            Refusal: too much is waiting, or the batcher is closed.
        """
        job.submitted = time.perf_counter()
        with self._changed:
            if self._closing:
                raise _stopping()
            if self.is_full or self._waiting_texts + len(job.texts) > self._queue_texts:
                raise self.overloaded()
            self._waiting_texts += len(job.texts)
            self._num_tokenizing += 1
            self._arrived.append(job)
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; what is not computed yet is refused."""
        with self._changed:
            self._closing = True
            left = [*self._arrived, *(job for jobs in self._ready.values() for job in jobs)]
            self._arrived.clear()
            self._ready.clear()
            self._changed.notify_all()
        self._fail(left, _stopping())
        for thread in self._threads:
            thread.join(timeout=1)

    # In the tokenising thread

    def _tokenize_all(self) -> None:
        while True:
            with self._changed:
                while not self._arrived and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                jobs = list(self._arrived)
                self._arrived.clear()
            ready = self._tokenize([job for job in jobs if not job.cancelled])
            with self._changed:
                if self._closing:  # meanwhile: nobody computes them any more
                    self._fail(ready, _stopping())
                    return
                self._num_tokenizing -= len(jobs)
                dropped = {id(job) for job in jobs}
                for job in ready:
                    no_room = self._waiting_tokens and self._waiting_tokens + job.num_tokens > self._queue_tokens
                    if no_room or self._takes_too_long:
                        self._fail([job], self.overloaded())
                        continue
                    dropped.discard(id(job))
                    self._add_waiting(job, job.num_tokens)
                    self._ready.setdefault(id(job.scorer), deque()).append(job)
                self._waiting_texts -= sum(len(job.texts) for job in jobs if id(job) in dropped)
                self._changed.notify_all()

    def _tokenize(self, jobs: Iterable[Job]) -> list[Job]:
        """Tokenise all jobs, those of a scorer in one call; those that can be are returned, the others refused."""
        groups: dict[int, list[Job]] = {}
        begun = time.perf_counter()
        for job in jobs:
            job.tokenizing = begun
            # Whether a text is cut is known of a call as a whole.
            groups.setdefault(id(job) if job.uncut else id(job.scorer), []).append(job)
        ready: list[Job] = []
        for group in groups.values():
            ready += self._tokenize_group(group)
        return ready

    def _tokenize_group(self, group: list[Job]) -> list[Job]:
        texts = [text for job in group for text in job.texts]
        try:
            ragged = group[0].scorer.tokenize(texts)
            cut = _cut(group[0].scorer, texts, ragged) if group[0].uncut else ""  # such a job is a group of its own
        except UserError as error:
            if len(group) > 1:  # one of them is to blame
                return [job for one in group for job in self._tokenize_group([one])]
            self._fail(group, Refusal("wrong", str(error)))
            return []
        except Exception:
            LOGGER.exception("tokenising failed")
            self._fail(group, Refusal("internal", "the texts could not be tokenised"))
            return []
        lengths = ragged.lengths.tolist()
        ended, first, ready = time.perf_counter(), 0, []
        for job in group:
            job.ragged, job.first, job.tokenized = ragged, first, ended
            job.lengths = lengths[first : first + len(job.texts)]
            first += len(job.texts)
            job.num_tokens = sum(job.lengths)
            job.order = (
                np.argsort([-length for length in job.lengths], kind="stable").tolist() if len(job.texts) > 1 else (0,)
            )
            if cut:
                self._fail([job], Refusal("too_large", f"{cut}; leave out truncate: false to have them cut"))
            elif job.num_tokens > self._max_request_tokens:
                message = f"the texts have {job.num_tokens} tokens, expected at most {self._max_request_tokens}"
                self._fail([job], Refusal("too_large", message))
            else:
                ready.append(job)
        return ready

    # In the computing thread

    def _compute_all(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                self._wait_for_company()
                scorer, shares = self._take()
            if shares:
                self._compute(scorer, shares)

    def _wait_for_company(self) -> None:
        """Wait a little for jobs that are being tokenised, if there are any and the batch has room for them."""
        if not self._max_wait_s or not self._num_tokenizing:
            return
        until = time.perf_counter() + self._max_wait_s
        while self._num_tokenizing and not self._closing:
            left = until - time.perf_counter()
            jobs = next(iter(self._ready.values()), None)
            if left <= 0 or jobs is None or self._waiting_tokens >= jobs[0].scorer.token_budget:
                return
            self._changed.wait(left)

    def _take(self) -> tuple[Scorer, list[Share]]:
        """The rows to compute next, of the scorer whose first job waits longest."""
        for key, jobs in list(self._ready.items()):
            cancelled = [job for job in jobs if job.cancelled]
            if cancelled:
                self._ready[key] = jobs = deque(job for job in jobs if not job.cancelled)
                for job in cancelled:
                    self._waiting_texts -= len(job.order) - job.next
                    self._add_waiting(job, -job.left_tokens)
            if not jobs:
                del self._ready[key]
        if not self._ready:
            return None, []  # type: ignore[return-value]  # nobody looks at the scorer of no rows
        key = min(self._ready, key=lambda key: self._ready[key][0].submitted)
        jobs = self._ready[key]
        scorer = jobs[0].scorer
        shares = deal(jobs, scorer.token_budget)
        now = time.perf_counter()
        num_texts = num_tokens = 0
        for job, rows in shares:
            job.computing = job.computing or now
            dealt_tokens = sum(job.lengths[row] for row in rows)
            self._add_waiting(job, -dealt_tokens)
            num_texts += len(rows)
            num_tokens += dealt_tokens
        self._waiting_texts -= num_texts
        left_over = deque(job for job in jobs if job.next < len(job.order))
        if left_over:
            self._ready[key] = left_over
        else:
            del self._ready[key]
        if self._on_batch is not None:
            self._on_batch(num_texts, num_tokens, self._waiting_texts)
        return scorer, shares

    def _compute(self, scorer: Scorer, shares: list[Share]) -> None:
        begun = time.perf_counter()
        try:
            self._score(scorer, shares)
        except Exception as error:
            if len(shares) > 1:  # what cannot be computed harms nobody else
                for share in shares:
                    self._compute(scorer, [share])
                return
            job = shares[0][0]
            job.cancelled = True  # of its other rows
            if isinstance(error, UserError):
                self._fail([job], Refusal("backend", str(error)))
            else:
                LOGGER.exception("scoring failed")
                self._fail([job], Refusal("internal", "the texts could not be scored"))
            return
        done = time.perf_counter()
        num_tokens = sum(job.lengths[row] for job, rows in shares for row in rows)
        self._pace.computed(num_tokens, done - begun, scorer.token_budget)
        finished = []
        for job, rows in shares:
            job.missing -= len(rows)
            if not job.missing:
                job.done = done
                finished.append(job)
        if finished:
            self._in_loop(_finish, finished)

    def _score(self, scorer: Scorer, shares: list[Share]) -> None:
        """Compute the rows of all jobs together and put the scores where they belong."""
        by_ragged: dict[int, tuple[Ragged, list[int], list[Share]]] = {}
        for job, rows in shares:
            assert job.ragged is not None, "not tokenised"
            _, places, some = by_ragged.setdefault(id(job.ragged), (job.ragged, [], []))
            places += [job.first + row for row in rows]
            some.append((job, rows))
        ordered = [share for _, _, some in by_ragged.values() for share in some]
        ragged = joined_ragged([whole.take(np.array(places)) for whole, places, _ in by_ragged.values()])
        texts = [job.texts[row] for job, rows in ordered for row in rows]
        logits = None
        if any(job.want_logits for job, _ in ordered) and isinstance(scorer, LogitScorer):
            logits = scorer.logits(ragged)
            scores = scorer.probabilities(logits)
        else:
            scores = scorer.score_tokenized(texts, ragged)
        first = 0
        for job, rows in ordered:
            last = first + len(rows)
            job.scores = _filled(job.scores, job, rows, scores[first:last])
            if job.want_logits and logits is not None:
                job.logits = _filled(job.logits, job, rows, logits[first:last])
            first = last

    # In any thread

    def _add_waiting(self, job: Job, num_tokens: int) -> None:
        """So many more of the job's tokens wait; fewer, if that is less than 0. To be called with the lock held."""
        self._waiting_tokens += num_tokens
        job.left_tokens += num_tokens
        ahead = min(job.left_tokens, quantum_of(job.scorer.token_budget))
        self._tokens_ahead += ahead - job.tokens_ahead
        job.tokens_ahead = ahead

    def _fail(self, jobs: Sequence[Job], refusal: Refusal) -> None:
        if jobs:
            self._in_loop(_refuse, jobs, refusal)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


def _stopping() -> Refusal:
    return Refusal("stopping", "the server is stopping", retry_after_s=1)


def _cut(scorer: Scorer, texts: Sequence[TextOrPair], ragged: Ragged) -> str:
    """In words, how many of the texts would be cut; "" where none. ``ragged`` is what ``scorer.tokenize`` gave.

    The large model of a cascade reads those that it gets anew, and may cut what the small one does not. Which it gets
    is known only when they are computed: here it could be all.
    """
    readers = [(ragged, scorer.settings.max_length)]
    if isinstance(scorer, Cascade):
        readers.append((scorer.large.tokenize(texts), scorer.large.settings.max_length))
    for found, most in readers:
        if found.num_truncated:
            return f"{found.num_truncated} of {len(texts)} texts have more than {most} tokens"
    return ""


def _filled(found: np.ndarray | None, job: Job, rows: Sequence[int], values: np.ndarray) -> np.ndarray:
    """``values`` (rows, labels) at the places ``rows`` of what was ``found`` of the job so far."""
    if len(rows) == len(job.texts) == 1:
        return values
    if found is None:
        found = np.empty((len(job.texts), values.shape[1]), values.dtype)
    found[list(rows)] = values
    return found


def _finish(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_result(None)


def _refuse(jobs: Sequence[Job], refusal: Refusal) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(refusal)
