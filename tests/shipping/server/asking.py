"""A scorer without a model, an application without a network, and servers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.config.base import build
from bertwright.config.serve import ServeConfig
from bertwright.data.ragged import Ragged, starts_of
from bertwright.errors import UserError
from bertwright.evaluation.predictions import predictions_of
from bertwright.evaluation.scores import scores_of
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.shipping.server.api_keys import ApiKeys
from bertwright.shipping.server.app import make_app
from bertwright.shipping.server.categories import categories_of
from bertwright.shipping.server.gate import Gate
from bertwright.shipping.server.metrics import Metrics
from bertwright.shipping.server.models import Models, ServedModel
from bertwright.shipping.server.request_log import RequestLog
from bertwright.shipping.server.service import Service

LABELS = ("clean", "toxic")
MOST_TOKENS = 8


class PlainScorer:
    """A token a word; the logit of the last label grows with the letters of a text, that of the others is 0.

    While ``closed`` is set, scoring waits. ``batches`` keeps what was computed together.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = ClassifierSettings(**{"labels": LABELS, "max_length": MOST_TOKENS, **settings})
        self.labels = self.settings.labels
        self.token_budget = 64
        self.opened = threading.Event()
        self.opened.set()
        self.batches: list[list[Any]] = []

    def tokenize(self, texts: Sequence[Any]) -> Ragged:
        joined = [" ".join(text) if isinstance(text, tuple) else text for text in texts]
        if any("no token" in text for text in joined):
            raise UserError("text 1: cannot be tokenised")
        ids = [[min(len(word), 65_535) for word in text.split()] or [0] for text in joined]
        kept = [some[:MOST_TOKENS] for some in ids]
        num_cut = sum(len(some) > MOST_TOKENS for some in ids)
        return Ragged(
            np.concatenate([np.array(some, np.uint16) for some in kept]),
            starts_of(np.array([*map(len, kept)], np.int64)),
            num_cut,
        )

    def logits(self, ragged: Ragged) -> np.ndarray:
        letters = np.add.reduceat(ragged.ids.astype(np.float32), ragged.starts[:-1])
        found = np.zeros((len(ragged), len(self.labels)), np.float32)
        found[:, -1] = letters / 4 - 2
        return found

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return scores_of(logits, self.settings.kind, self.settings.temperature)

    def score_tokenized(self, texts: Sequence[Any], ragged: Ragged) -> np.ndarray:
        assert self.opened.wait(20)
        self.batches.append(list(texts))
        if any("no score" in text for text in texts):
            raise UserError("the model's scores are not numbers")
        if any("crash" in text for text in texts):
            raise ZeroDivisionError("crash of a secret text")
        return self.probabilities(self.logits(ragged))

    def score(self, texts: Sequence[Any]) -> np.ndarray:
        return self.score_tokenized(texts, self.tokenize(texts))

    def predictions(self, scores: np.ndarray) -> list[Any]:
        return predictions_of(scores, self.settings)

    def summary(self) -> str:
        return "letters are counted"

    def describe(self) -> dict[str, str]:
        return {"dtype": "bfloat16"}


class ScorerWithoutLogits:
    """Another scorer, as a cascade is one: what only the logits tell, it cannot."""

    def __init__(self) -> None:
        inner = PlainScorer()
        self.settings, self.labels, self.token_budget = inner.settings, inner.labels, inner.token_budget
        self.tokenize, self.score_tokenized, self.score = inner.tokenize, inner.score_tokenized, inner.score
        self.predictions, self.summary, self.describe = inner.predictions, inner.summary, inner.describe


@dataclass
class Answer:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Asking:
    """The whole application, asked without a network. To be made and used within one event loop."""

    def __init__(self, scorers: dict[str, Any] | None = None, keys: Sequence[str] = (), **settings: Any) -> None:
        scorers = scorers or {"words": PlainScorer()}
        label_map = settings.get("label_map")
        models = [ServedModel(name, one, categories_of(one.settings, label_map)) for name, one in scorers.items()]
        config = build(ServeConfig, {"runs": ("none",), **settings})
        self.log = RequestLog(True)
        self.service = Service(config, Models(models), Metrics())
        self.gate = Gate(make_app(self.service), self.service, ApiKeys(keys), self.log)
        self.gone = asyncio.Event()

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.service.batcher.close()
        self.log.close()

    async def post(self, path: str, document: Any = None, **more: Any) -> Answer:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await self.ask("POST", path, [body], **more)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, [b""], **more)

    async def ask(
        self, method: str, path: str, parts: Sequence[bytes], headers: dict[str, str] | None = None
    ) -> Answer:
        """The answer to a request whose body comes in ``parts``; with ``gone`` set its client goes away."""
        sent = list(parts)
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if sent:
                return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            told.append(message)

        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": raw,
        }
        await self.gate(scope, receive, send)
        if not told:
            return Answer(0, {}, b"")
        found = {name.decode(): value.decode() for name, value in told[0]["headers"]}
        return Answer(told[0]["status"], found, b"".join(message.get("body", b"") for message in told[1:]))


def run(work: Any) -> Any:
    """What the coroutine returns."""
    return asyncio.run(work)


class Server:
    """``bertwright serve`` in a process of its own, on a free port."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bertwright", "serve", *arguments, "--port", "0", "--threads", "1", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=known,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        assert line, "\n".join(self.lines)
        self.url = json.loads(line)["url"]

    def _read(self) -> None:
        self.lines += (line.rstrip("\n") for line in iter(self.process.stderr.readline, ""))

    def ask(self, path: str, document: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """The answer to a POST of ``document``, or without one to a GET."""
        data = None if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, dict(response.headers.items()), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def events(self) -> list[dict[str, Any]]:
        """The lines of JSON that it logged."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]


def wait_until(true: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)
