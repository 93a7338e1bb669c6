"""The queue: what is computed together, what is refused, what is dropped."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.shipping.server.asking import Asking, PlainScorer, ScorerWithoutLogits, run

from bertwright.shipping.server.batcher import Batcher, Job
from bertwright.shipping.server.deal import deal
from bertwright.shipping.server.pace import Pace
from bertwright.shipping.server.refusal import Refusal


@dataclass(eq=False)
class Rows:
    lengths: list[int]
    next: int = 0
    order: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.order = sorted(range(len(self.lengths)), key=lambda row: -self.lengths[row])


def dealt(jobs, budget):
    return [(jobs.index(job), rows) for job, rows in deal(jobs, budget)]


def test_texts_are_dealt_in_their_order_up_to_the_budget():
    jobs = [Rows([40]), Rows([30]), Rows([50]), Rows([20])]
    assert dealt(jobs, 100) == [(0, [0]), (1, [0]), (3, [0])]  # the third does not fit any more
    assert dealt([job for job in jobs if job.next < 1], 100) == [(0, [0])]


def test_a_text_longer_than_the_budget_goes_alone():
    jobs = [Rows([500]), Rows([10])]
    assert dealt(jobs, 100) == [(0, [0])]
    assert dealt(jobs, 100) == [(1, [0])]


def test_a_large_request_leaves_room_for_small_ones():
    jobs = [Rows([10] * 50), *(Rows([10]) for _ in range(5))]
    shares = dict(dealt(jobs, 100))
    assert all(number in shares for number in range(6))
    assert len(shares[0]) == 5  # a quarter first, then what the others left


def test_a_request_gives_its_longest_texts_first():
    jobs = [Rows([5, 30, 10])]
    assert dealt(jobs, 40) == [(0, [1, 2])]
    assert dealt(jobs, 40) == [(0, [0])]


def test_all_rows_are_dealt_once_and_no_batch_is_too_large():
    generator = np.random.default_rng(0)
    jobs = [Rows(generator.integers(1, 60, generator.integers(1, 40)).tolist()) for _ in range(30)]
    seen = [set() for _ in jobs]
    for _ in range(10_000):
        left = [job for job in jobs if job.next < len(job.order)]
        if not left:
            break
        shares = deal(left, 128)
        assert sum(job.lengths[row] for job, rows in shares for row in rows) <= 128
        for job, rows in shares:
            number = next(i for i, other in enumerate(jobs) if other is job)
            assert not seen[number] & set(rows)
            seen[number] |= set(rows)
    assert [len(rows) for rows in seen] == [len(job.lengths) for job in jobs]


def batcher(**settings):
    return Batcher(**{"queue_texts": 8, "queue_tokens": 100, "max_request_tokens": 50, "max_wait_s": 0.0, **settings})


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.002)


def test_scores_come_back_to_their_texts_whatever_they_are_computed_with():
    scorer = PlainScorer()
    scorer.token_budget = 10

    async def work():
        ours = batcher(queue_texts=1000, queue_tokens=10_000, max_request_tokens=1000)
        texts = [["x" * (i % 13 + 1) + " y" * (i % 5)] * (i % 4 + 1) for i in range(40)]
        jobs = [Job(scorer, some, want_logits=i % 3 == 0) for i, some in enumerate(texts)]
        for job in jobs:
            ours.submit(job)
        await asyncio.gather(*(job.future for job in jobs))
        ours.close()
        return texts, jobs

    texts, jobs = run(work())
    for some, job in zip(texts, jobs, strict=True):
        ragged = scorer.tokenize(some)
        np.testing.assert_allclose(job.scores, scorer.probabilities(scorer.logits(ragged)))
        assert (job.logits is not None) == job.want_logits
        if job.want_logits:
            np.testing.assert_array_equal(job.logits, scorer.logits(ragged))
        assert all(seconds >= 0 for seconds in job.seconds.values())


def test_what_arrives_during_a_batch_is_the_next_one():
    scorer = PlainScorer()

    async def work():
        ours = batcher()
        scorer.opened.clear()
        jobs = [Job(scorer, [text]) for text in ("first", "second", "third")]
        ours.submit(jobs[0])
        await until(lambda: ours.waiting_texts == 0)  # it is being computed
        for job in jobs[1:]:
            ours.submit(job)
        scorer.opened.set()
        await asyncio.gather(*(job.future for job in jobs))
        ours.close()

    run(work())
    assert scorer.batches == [["first"], ["second", "third"]]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    scorer = PlainScorer()

    async def work():
        ours = batcher()
        scorer.opened.clear()
        first = Job(scorer, ["first"])
        ours.submit(first)
        await until(lambda: ours.waiting_texts == 0)
        waiting = [Job(scorer, ["a"] * 4), Job(scorer, ["b"] * 4)]
        for job in waiting:
            ours.submit(job)
        assert ours.is_full
        with pytest.raises(Refusal, match="too much is waiting") as refused:
            ours.submit(Job(scorer, ["c"]))
        assert refused.value.kind == "overloaded"
        assert 1 <= refused.value.retry_after_s <= 60
        scorer.opened.set()
        await asyncio.gather(first.future, *(job.future for job in waiting))
        assert (ours.waiting_texts, ours.is_full) == (0, False)
        again = Job(scorer, ["d"])
        ours.submit(again)
        await again.future
        ours.close()

    run(work())


def test_tokens_are_bounded_too():
    scorer = PlainScorer()

    async def work():
        ours = batcher(queue_tokens=20, max_request_tokens=20)
        scorer.opened.clear()
        ours.submit(Job(scorer, ["first"]))
        await until(lambda: ours.waiting_texts == 0)
        jobs = [Job(scorer, ["a b c d e f g h"] * 2), Job(scorer, ["a b c d e"])]
        for job in jobs:
            ours.submit(job)
        with pytest.raises(Refusal, match="too much"):
            await jobs[1].future
        too_large = Job(scorer, ["a b c d e f g h"] * 3)
        ours.submit(too_large)
        with pytest.raises(Refusal, match="24 tokens, expected at most 20"):
            await too_large.future
        scorer.opened.set()
        await jobs[0].future
        assert ours.waiting_texts == 0
        ours.close()

    run(work())


def test_a_small_batch_does_not_tell_how_long_a_large_one_takes():
    pace = Pace()
    assert pace.seconds(1_000) == 0
    pace.computed(10, 1.0, 8_000)  # one text
    assert pace.seconds(8) == pytest.approx(0.8)
    assert pace.seconds(1_000) == 0
    pace.computed(6_000, 3.0, 8_000)
    assert pace.seconds(1_000) == pytest.approx(0.5)
    assert pace.seconds(100_000) == pytest.approx(50)
    assert pace.seconds(8) == pytest.approx(0.8)
    pace.computed(6_000, 6.0, 8_000)  # slower now: the mean follows
    assert 0.5 < pace.seconds(1_000) < 1


def computing(work, **settings):
    """Runs ``work(ours, scorer)`` with a batcher that is computing a first text until ``scorer.opened`` is set."""
    scorer = PlainScorer()

    async def worked():
        ours = batcher(queue_texts=100, queue_tokens=1_000, max_request_tokens=1_000, **settings)
        scorer.opened.clear()
        ours.submit(Job(scorer, ["first"]))
        await until(lambda: ours.waiting_texts == 0)
        try:
            return await work(ours, scorer)
        finally:
            scorer.opened.set()
            ours.close()

    return run(worked())


def test_who_would_wait_too_long_is_told_at_once():
    async def work(ours, scorer):
        first = Job(scorer, ["a b c d e f"])
        ours.submit(first)
        await until(lambda: first.tokens_ahead == 6)
        assert not ours.is_full, "no pace was measured yet"
        ours._pace.computed(32, 32.0, scorer.token_budget)  # a second a token
        assert ours.is_full
        with pytest.raises(Refusal, match="too much is waiting") as refused:
            ours.submit(Job(scorer, ["b"]))
        assert (refused.value.kind, refused.value.retry_after_s) == ("overloaded", 6)
        scorer.opened.set()
        await first.future
        long = Job(scorer, ["a b c d e f g h"] * 8)  # a minute, but nothing waits before it
        ours.submit(long)
        await long.future
        assert (ours._tokens_ahead, ours._waiting_tokens, ours.waiting_texts) == (0, 0, 0)

    computing(work, queue_s=5.0)


def test_those_that_come_at_once_are_counted_too():
    async def work(ours, scorer):
        ours._pace.computed(32, 32.0, scorer.token_budget)
        jobs = [Job(scorer, ["a"]) for _ in range(20)]
        for job in jobs:  # none is tokenised yet, or hardly one
            try:
                ours.submit(job)
            except Refusal as refusal:
                job.future.set_exception(refusal)
        await until(lambda: ours.waiting_texts == 6)
        scorer.opened.set()
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)

    found = computing(work, queue_s=5.0)
    assert sum(one is None for one in found) == 6  # the last of them waits for the five before it
    assert {one.kind for one in found if one is not None} == {"overloaded"}


@pytest.mark.parametrize(("queue_s", "is_full"), [(20.0, False), (15.0, True), (0.0, False)])
def test_of_a_large_request_counts_what_is_computed_before_a_small_one(queue_s, is_full):
    async def work(ours, scorer):
        ours._pace.computed(32, 32.0, scorer.token_budget)
        large = Job(scorer, ["a b c d e f g h"] * 10)
        ours.submit(large)
        await until(lambda: large.left_tokens == 80)
        assert large.tokens_ahead == 16  # a quarter of a batch
        return ours.is_full

    assert computing(work, queue_s=queue_s) == is_full


def test_who_is_gone_is_not_computed():
    scorer = PlainScorer()

    async def work():
        async with Asking({"words": scorer}) as asking:
            scorer.opened.clear()
            asking.gone.clear()
            first = asyncio.create_task(asking.post("/predict", {"inputs": "first"}))
            await until(lambda: asking.gate.num_open and not asking.service.batcher.waiting_texts)
            await asyncio.sleep(0.05)
            second = asyncio.create_task(asking.post("/predict", {"inputs": "second"}))
            await until(lambda: asking.service.batcher.waiting_texts == 1)
            asking.gone.set()  # of both clients
            assert (await second).status == (await first).status == 0
            scorer.opened.set()
            asking.gone.clear()
            assert (await asking.post("/predict", {"inputs": "third"})).status == 200
            assert asking.service.batcher.waiting_texts == 0

    run(work())
    assert scorer.batches == [["first"], ["third"]]


def test_a_text_that_cannot_be_scored_harms_no_other():
    scorer = PlainScorer()

    async def work():
        ours = batcher()
        scorer.opened.clear()
        ours.submit(Job(scorer, ["first"]))
        await until(lambda: ours.waiting_texts == 0)
        jobs = [Job(scorer, [text]) for text in ("fine", "no score", "no token", "crash", "good")]
        for job in jobs:
            ours.submit(job)
        scorer.opened.set()
        found = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        ours.close()
        return found

    found = run(work())
    assert [None if one is None else one.kind for one in found] == [None, "backend", "wrong", "internal", None]
    assert "secret" not in str(found[3])


def test_a_scorer_without_logits_is_scored():
    async def work():
        ours = batcher()
        job = Job(ScorerWithoutLogits(), ["one"])
        ours.submit(job)
        await job.future
        ours.close()
        return job.scores

    assert run(work()).shape == (1, 2)


def test_closing_tells_who_waits():
    scorer = PlainScorer()

    async def work():
        ours = batcher()
        scorer.opened.clear()
        ours.submit(Job(scorer, ["first"]))
        await until(lambda: ours.waiting_texts == 0)
        job = Job(scorer, ["second"])
        ours.submit(job)
        await asyncio.sleep(0.05)
        scorer.opened.set()
        ours.close()
        with pytest.raises(Refusal, match="stopping"):
            await asyncio.wait_for(job.future, 5)

    run(work())


def test_what_is_being_tokenised_when_it_closes_is_told_too(monkeypatch):
    scorer = PlainScorer()
    begun, opened = threading.Event(), threading.Event()
    tokenize = scorer.tokenize

    def slow(texts):
        begun.set()
        assert opened.wait(20)
        return tokenize(texts)

    monkeypatch.setattr(scorer, "tokenize", slow)

    async def work():
        ours = batcher()
        job = Job(scorer, ["first"])
        ours.submit(job)
        await until(begun.is_set)
        closing = asyncio.get_running_loop().run_in_executor(None, ours.close)
        await until(lambda: ours._closing)
        with pytest.raises(Refusal, match="stopping"):  # its body came late
            ours.submit(Job(scorer, ["second"]))
        opened.set()
        with pytest.raises(Refusal, match="stopping"):
            await asyncio.wait_for(job.future, 5)
        await closing

    run(work())
