"""The command itself: started, asked by real clients, stopped under load."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.shipping.server.asking import Server, wait_until

import bertwright
from bertwright.cli import main
from bertwright.config.base import build
from bertwright.config.serve import ServeConfig
from bertwright.progress import Reporter
from bertwright.shipping.server import worker
from bertwright.shipping.server.act import run_server

TEXTS = ["a kind word", "nobody asked you", "word " * 100]


@pytest.fixture(scope="module")
def expected(tiny_model):
    """(texts, labels) what the model says of the texts."""
    return bertwright.load(str(tiny_model), dtype="float32").score(TEXTS)


def test_scores_are_those_of_the_model(server, expected):
    answers = server.ask("/predict", {"inputs": [[text] for text in TEXTS]}).json()
    for answer, row in zip(answers, expected, strict=True):
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(
            {"clean": row[0], "toxic": row[1]}, abs=1e-5
        )


def test_what_was_chosen_is_said_and_told(server):
    wait_until(lambda: any(line.startswith("serving tiny") for line in server.lines))
    (line,) = (line for line in server.lines if "computing on" in line)
    assert line.startswith("tiny: computing on cpu in float32; compiled: ")
    info = server.ask("/info").json()
    assert info["model_dtype"] == "float32"
    assert line == f"tiny: {info['computes']}"


def test_hugging_faces_client(server, expected, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # this server is no hub
    from huggingface_hub import InferenceClient

    for address in (server.url, f"{server.url}/models/tiny"):
        found = InferenceClient(model=address).text_classification(TEXTS[0], top_k=2)
        scores = {one.label: one.score for one in found}
        assert scores == pytest.approx({"clean": expected[0][0], "toxic": expected[0][1]}, abs=1e-5)
    (first,) = InferenceClient(model=server.url).text_classification(TEXTS[0], function_to_apply="none", top_k=1)
    assert first.label == ("clean", "toxic")[int(expected[0].argmax())]


def test_openais_client(server, expected):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0)
    found = client.moderations.create(model="omni-moderation-latest", input=TEXTS)
    assert [result.flagged for result in found.results] == (expected[:, 1] >= 0.5).tolist()
    assert found.results[0].category_scores.model_extra["toxic"] == pytest.approx(expected[0][1], abs=1e-5)
    assert found.results[0].categories.harassment is False
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        client.moderations.create(model="absent", input="a")
    with pytest.raises(openai.BadRequestError, match="cannot be empty"):
        client.moderations.create(input="")


def test_tritons_client(server, expected):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(urlsplit(server.url).netloc)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.get_model_metadata("tiny")["inputs"][0]["datatype"] == "BYTES"
        for binary in (True, False):
            asked = triton.InferInput("text", [len(TEXTS)], "BYTES")
            asked.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=binary)
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("scores", "label")]
            found = client.infer("tiny", [asked], outputs=outputs, request_id="seven")
            np.testing.assert_allclose(found.as_numpy("scores"), expected, atol=1e-5)
            names = [name.decode() if binary else name for name in found.as_numpy("label").tolist()]
            assert names == [("clean", "toxic")[int(row.argmax())] for row in expected]
        with pytest.raises(Exception, match="no model of that name"):
            client.infer("absent", [asked])
    finally:
        client.close()


def test_a_client_that_hangs_up_costs_nothing_and_the_next_is_answered(server):
    address = urlsplit(server.url)
    for _ in range(5):
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert server.ask("/predict", {"inputs": "a"}).status == 200


def test_a_stream_without_end_is_refused(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
        for _ in range(40):
            client.sendall(chunk)
        assert client.recv(100).startswith(b"HTTP/1.1 413")


class Load:
    """Threads that ask again and again, each on a connection of its own, until they are told to stop or refused.

    ``outcomes`` counts statuses; "refused" are connections that were not taken or were closed between requests, "lost"
    requests that were sent and got no answer.
    """

    def __init__(self, url: str, num_clients: int, texts: int = 1) -> None:
        self.address = urlsplit(url)
        self.body = json.dumps({"inputs": [["some words to be scored " * 5]] * texts})
        self.outcomes: Counter = Counter()
        self.stopping = False
        self.threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        while not self.stopping:
            connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)
            try:
                connection.connect()
            except OSError:
                self.outcomes["refused"] += 1
                return
            try:
                while not self.stopping:
                    connection.request("POST", "/predict", self.body)
                    response = connection.getresponse()
                    response.read()
                    self.outcomes[response.status] += 1
                    if response.status == 503:
                        return
                    if response.status == 429:
                        assert int(response.headers["Retry-After"]) >= 1
                        time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                self.outcomes["lost"] += 1
                return
            finally:
                connection.close()

    def end(self) -> Counter:
        self.stopping = True
        for thread in self.threads:
            thread.join(30)
        return self.outcomes


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_accepted_request_is_lost_when_it_is_told_to_stop(tiny_model, workers):
    served = Server(str(tiny_model), "--workers", str(workers), "--compile", "off", "--quiet")
    load = Load(served.url, 8)
    wait_until(lambda: load.outcomes[200] > 50)
    code = served.stop(signal.SIGTERM)
    outcomes = load.end()
    assert code == 0
    assert outcomes["lost"] == 0, outcomes
    assert set(outcomes) <= {200, 503, "refused", "lost"}, outcomes
    events = served.events()
    assert [event["event"] for event in events if event["event"].startswith("stop")].count("stopped") == workers
    answered = sum(event["event"] == "request" and event["status"] == 200 for event in events)
    assert answered == outcomes[200]


@pytest.mark.slow
def test_workers_that_are_told_twice_lose_nothing_either(tiny_model):
    """Ctrl-C in a shell, and systemd, signal the supervisor and each of its workers."""
    served = Server(str(tiny_model), "--workers", "2", "--compile", "off")
    workers = [int(pid) for pid in children_of(served.process.pid) if "spawn_main" in command_of(pid)]
    assert len(workers) == 2
    load = Load(served.url, 8)
    wait_until(lambda: load.outcomes[200] > 50)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    code = served.stop(signal.SIGTERM)
    outcomes = load.end()
    assert (code, outcomes["lost"]) == (0, 0), outcomes


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def command_of(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_overload_is_429_and_over_at_once(tiny_model):
    limits = ("--queue-texts", "16", "--max-batch-texts", "16", "--token-budget", "128")
    served = Server(str(tiny_model), "--compile", "off", *limits)
    try:
        load = Load(served.url, 12, texts=8)
        wait_until(lambda: load.outcomes[429] > 20 and load.outcomes[200] > 20)
        outcomes = load.end()
        assert set(outcomes) <= {200, 429}, outcomes
        assert served.ask("/predict", {"inputs": "a"}).status == 200
        assert b"te_queue_size 0.0" in served.ask("/metrics").body
    finally:
        assert served.stop() == 0


@pytest.mark.slow
def test_workers_are_one_server(tiny_model):
    served = Server(str(tiny_model), "--workers", "2", "--compile", "off")
    try:
        for _ in range(40):
            assert served.ask("/predict", {"inputs": "a"}).status == 200
        assert sum("computing on" in line for line in served.lines) == 1, "said once, not by each worker"
        assert b"te_request_count 40.0" in served.ask("/metrics").body
    finally:
        assert served.stop() == 0


def test_cores_are_shared_out_where_the_system_does_not_tell_which_may_be_used(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    for settings, expected in (({}, 6), ({"workers": 4}, 1), ({"threads": 5, "workers": 4}, 5)):
        assert worker.num_threads(build(ServeConfig, {"runs": ("a",), **settings})) == expected


@pytest.mark.parametrize(
    ("host", "keys", "is_warned"),
    [
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("0.0.0.0", "one", False),
        ("127.0.0.1", None, False),
        ("127.9.9.9", None, False),
        ("localhost", None, False),
        ("::1", None, False),
    ],
)
def test_a_server_that_is_open_to_all_says_so_once(monkeypatch, capsys, host, keys, is_warned):
    monkeypatch.delenv("BERTWRIGHT_API_KEYS", raising=False)
    if keys is not None:
        monkeypatch.setenv("BERTWRIGHT_API_KEYS", keys)
    loaded = worker.Loaded(["tiny"], ["tiny: computing"])
    monkeypatch.setattr(worker, "run_alone", lambda config, announce: announce(8000, loaded))
    run_server(build(ServeConfig, {"runs": ("a",), "host": host}), Reporter())
    said = capsys.readouterr().err
    assert said.count("--api-keys") == said.count("WARNING") == is_warned
    assert said.startswith("tiny: computing\n")
    assert said.splitlines()[-1].startswith("serving tiny on http://")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_mistakes_are_told_in_one_line(capsys, tmp_path, tiny_model):
    assert "found no run to serve" in refused(capsys)
    absent = refused(capsys, tmp_path / "absent", "--port", "0")
    assert absent.startswith("error: ")
    assert absent.count("\n") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = refused(capsys, tiny_model, "--port", taken.getsockname()[1])
    assert "cannot listen there" in found
    assert "no such file" in refused(capsys, tiny_model, "--port", "0", "--label-map", tmp_path / "absent.toml")
