"""Limits, keys, what is counted, and that the log says nothing of the texts."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from tests.shipping.server.asking import Asking, PlainScorer, run, wait_until

from bertwright.config.base import build
from bertwright.config.serve import ServeConfig
from bertwright.errors import UserError
from bertwright.shipping.server.api_keys import read_keys
from bertwright.shipping.server.categories import read_label_map
from bertwright.shipping.server.exchange import Exchange
from bertwright.shipping.server.models import names_and_folders


def asked(ask, **settings):
    async def work():
        async with Asking(**settings) as asking:
            return await ask(asking)

    return run(work())


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/predict", {"error", "error_type"}),
        ("/v2/models/words/infer", {"error"}),
        ("/v1/moderations", {"error"}),
        ("/explain", {"error", "error_type"}),
    ],
)
def test_limits_of_the_body(path, shape):
    async def ask(asking):
        large = b'{"inputs": "' + b"a" * 200 + b'"}'
        whole = await asking.post(path, large)
        told = await asking.post(path, b"{}", headers={"Content-Length": "10000000000000"})
        parts = await asking.ask("POST", path, [b"a" * 60, b"a" * 60, b"never read"])
        packed = await asking.post(path, b"x", headers={"Content-Encoding": "gzip"})
        form = await asking.post(path, b"x", headers={"Content-Type": "multipart/form-data; boundary=x"})
        return whole, told, parts, packed, form

    found = asked(ask, max_body_bytes=100)
    assert [answer.status for answer in found] == [413, 413, 413, 415, 415]
    assert all(set(answer.json()) == shape for answer in found)


@pytest.mark.parametrize("pause_s", [0.01, 60], ids=["slowly", "not at all"])
def test_a_body_that_does_not_arrive(pause_s):
    async def ask(asking):
        async def receive():
            await asyncio.sleep(pause_s)
            return {"type": "http.request", "body": b"a", "more_body": True}

        told = []

        async def send(message):
            told.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "root_path": ""}
        await asking.gate(scope, receive, send)
        return told

    told = asked(ask, read_seconds=0.1)
    assert told[0]["status"] == 408
    assert json.loads(told[1]["body"])["error_type"] == "Validation"


def test_limits_of_texts_and_tokens():
    async def ask(asking):
        return [
            await asking.post("/predict", {"inputs": [["a"]] * 5}),
            await asking.post("/models/words", {"inputs": ["a"] * 5}),
            await asking.post("/v1/moderations", {"input": ["a"] * 5}),
            await asking.post(
                "/v2/models/words/infer",
                {"inputs": [{"name": "t", "shape": [5], "datatype": "BYTES", "data": ["a"] * 5}]},
            ),
            await asking.post("/predict", {"inputs": [["a b c d"]] * 4}),
            await asking.post("/predict", {"inputs": [["a b"]] * 4}),
        ]

    found = asked(ask, max_batch_texts=4, max_request_tokens=10)
    assert [answer.status for answer in found] == [413] * 5 + [200]
    assert found[0].json()["error"] == "batch size 5 > maximum allowed batch size 4"


def test_a_full_queue_is_429_before_the_body_is_read():
    scorer = PlainScorer()

    async def work():
        async with Asking({"words": scorer}, queue_texts=2, max_batch_texts=2) as asking:
            scorer.opened.clear()
            tasks = [asyncio.create_task(asking.post("/predict", {"inputs": "first"}))]
            await asyncio.sleep(0.1)
            tasks += [asyncio.create_task(asking.post("/predict", {"inputs": text})) for text in "ab"]
            await asyncio.sleep(0.1)
            refused = [
                await asking.post(path, b"not even JSON")
                for path in ("/predict", "/v2/models/words/infer", "/v1/moderations")
            ]
            scorer.opened.set()
            answered = await asyncio.gather(*tasks)
            after = await asking.post("/predict", {"inputs": "c"})
            return refused, answered, after

    refused, answered, after = run(work())
    assert [answer.status for answer in refused] == [429] * 3
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert refused[0].json()["error_type"] == "Overloaded"
    assert refused[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert [answer.status for answer in [*answered, after]] == [200] * 4


def test_bodies_that_are_held_are_bounded_together():
    async def work():
        async with Asking(queue_bytes=250, max_body_bytes=100) as asking:
            opened = asyncio.Event()

            async def slow(length):
                sent = asyncio.Event()

                async def receive():
                    if sent.is_set():
                        await asyncio.Event().wait()  # the client stays
                    await opened.wait()
                    sent.set()
                    return {"type": "http.request", "body": b'{"inputs": "a"}'}

                told = []

                async def send(message):
                    told.append(message)

                headers = [] if length is None else [(b"content-length", b"%d" % length)]
                scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "root_path": ""}
                await asking.gate(scope, receive, send)
                return told[0]["status"]

            waiting = [asyncio.create_task(slow(length)) for length in (15, None, 100)]  # None: it may be the most
            await asyncio.sleep(0.01)
            held = asking.service.held_bytes
            refused = await asking.post("/predict", {"inputs": "a"})
            opened.set()
            answered = await asyncio.gather(*waiting)
            after = await asking.post("/predict", {"inputs": "a"})
            return held, refused, answered, after, asking.service.held_bytes

    held, refused, answered, after, left = run(work())
    assert (held, left) == (215, 0)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert [*answered, after.status] == [200] * 4


def test_keys():
    async def ask(asking):
        body = {"inputs": "a"}
        with_key = [{"Authorization": "Bearer two"}, {"authorization": "bearer one"}, {"X-API-Key": "one"}]
        without = [{}, {"Authorization": "Bearer three"}, {"Authorization": "two"}, {"X-API-Key": ""}]
        good = [await asking.post("/predict", body, headers=headers) for headers in with_key]
        bad = [await asking.post("/predict", body, headers=headers) for headers in without]
        bad += [await asking.get(path) for path in ("/info", "/v2/models/words", "/latency", "/nothing")]
        bad += [await asking.post(path, b"{}") for path in ("/", "/v1/moderations", "/explain", "/health")]
        public = [await asking.get(path) for path in ("/", "/health", "/metrics", "/v2/health/ready", "/openapi.json")]
        return good, bad, public

    good, bad, public = asked(ask, keys=("one", "two"))
    assert [answer.status for answer in good] == [200] * 3
    assert [answer.status for answer in bad] == [401] * len(bad)
    assert all(answer.headers["www-authenticate"] == "Bearer" for answer in bad)
    assert [answer.status for answer in public] == [200] * len(public)


def test_where_keys_come_from(tmp_path, monkeypatch):
    monkeypatch.delenv("BERTWRIGHT_API_KEYS", raising=False)
    assert not read_keys(None)
    monkeypatch.setenv("BERTWRIGHT_API_KEYS", "one, two")
    assert read_keys(None).allow([(b"x-api-key", b"two")])
    file = tmp_path / "keys"
    file.write_text("three\n\n")
    assert not read_keys(str(file)).allow([(b"x-api-key", b"two")])
    assert read_keys(str(file)).allow([(b"x-api-key", b"three")])
    file.write_text("\n")
    with pytest.raises(UserError, match="found no key"):
        read_keys(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(str(tmp_path / "absent"))
    monkeypatch.setenv("BERTWRIGHT_API_KEYS", "")
    with pytest.raises(UserError, match="BERTWRIGHT_API_KEYS: found no key"):
        read_keys(None)


def test_what_is_counted():
    async def ask(asking):
        await asking.post("/predict", {"inputs": [["a b"], ["c"]]})
        await asking.post("/predict", b"{")
        await asking.get("/nothing")
        return (await asking.get("/metrics")).body.decode(), (await asking.get("/latency")).json()

    text, recent = asked(ask)
    lines = text.splitlines()
    for line in (
        "te_request_count 2.0",
        "te_request_success 1.0",
        'te_request_failure{err="syntax"} 1.0',
        "te_predict_duration_count 1.0",
        "te_predict_queue_duration_count 1.0",
        "te_predict_tokenization_duration_count 1.0",
        "te_predict_inference_duration_count 1.0",
        "te_queue_size 0.0",
        "te_batch_next_size_sum 2.0",
        "te_batch_next_tokens_sum 3.0",
        'bertwright_responses_total{status="404"} 1.0',
        "# TYPE te_request_count counter",
    ):
        assert line in lines
    assert recent["requests"] == 1
    assert recent["p50_ms"] > 0


def test_the_log_says_what_happened_but_no_text(capsys):
    async def ask(asking):
        await asking.post("/predict", {"inputs": "secret words"})
        await asking.post("/predict", {"inputs": "secret crash"})
        await asking.post("/secret", {"inputs": "secret"})
        await asking.post("/explain", {"inputs": "three secret words"})
        await asking.post("/v2/models/secret/infer", {"inputs": "secret"})
        wait_until(lambda: not asking.log._lines)

    asked(ask)
    written = capsys.readouterr().err
    assert "secret" not in written
    events = [json.loads(line) for line in written.splitlines()]
    first = events[0]
    assert first["event"] == "request"
    assert (first["method"], first["path"], first["status"], first["model"]) == ("POST", "/predict", 200, "words")
    assert (first["texts"], first["tokens"]) == (1, 2)
    assert first["total_ms"] >= first["inference_ms"] > 0
    assert [event["status"] for event in events if event["event"] == "request"] == [200, 500, 404, 200, 404]
    (explained,) = (event for event in events if event.get("path") == "/explain")
    assert (explained["texts"], explained["tokens"]) == (1 + 3, 3 + 3 * 2)


def test_what_the_jobs_of_a_request_took_is_added_up():
    exchange = Exchange({}, None, None)
    assert exchange.seconds is None
    first = SimpleNamespace(done=1.0, num_tokens=3, seconds={"queue": 1.0, "inference": 2.0})
    last = SimpleNamespace(done=2.0, num_tokens=4, seconds={"queue": 0.5, "inference": 0.25})
    exchange.jobs = [first, last]
    assert (exchange.num_tokens, exchange.seconds) == (7, {"queue": 1.5, "inference": 2.25})
    last.done = 0.0
    assert exchange.seconds is None


def test_names_of_models():
    assert names_and_folders(["runs/a", "b=/x/y", "runs/c=d/e"]) == {"a": "runs/a", "b": "/x/y", "e": "runs/c=d/e"}
    with pytest.raises(UserError, match="both called a"):
        names_and_folders(["x/a", "y/a"])
    with pytest.raises(UserError, match="cannot stand in an address"):
        names_and_folders(["x/a b"])
    with pytest.raises(UserError, match="cannot stand in an address"):
        names_and_folders([".."])


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no categories"), ("hate = 1", "hate: found 1"), ("hate", "cannot be read"), ("hate = [1]", "a list")],
)
def test_wrong_label_maps(tmp_path, content, message):
    file = tmp_path / "map.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_label_map(str(file))


def test_settings_that_could_never_work():
    with pytest.raises(UserError, match="no such request could ever wait"):
        build(ServeConfig, {"runs": ("a",), "queue_texts": 10, "max_batch_texts": 11})
