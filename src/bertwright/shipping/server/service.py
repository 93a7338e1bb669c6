"""What the server answers: each request's texts through the batcher, in the dialect that it speaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertwright.config.serve import ServeConfig
from bertwright.evaluation.scorer import TextOrPair
from bertwright.shipping.server import explain, hugging_face, moderations, open_inference
from bertwright.shipping.server.batcher import Batcher, Job
from bertwright.shipping.server.exchange import JSON_TYPE, Exchange
from bertwright.shipping.server.metrics import Metrics
from bertwright.shipping.server.models import Models, ServedModel
from bertwright.shipping.server.refusal import Refusal


class Service:
    """The models, their queue, and what is said of them."""

    def __init__(self, config: ServeConfig, models: Models, metrics: Metrics) -> None:
        self.config, self.models, self.metrics = config, models, metrics
        self.batcher = Batcher(
            config.queue_texts,
            config.queue_tokens,
            config.max_request_tokens,
            config.max_wait_ms / 1e3,
            config.queue_seconds,
            metrics.batch,
        )
        self.draining = False
        self.held_bytes = 0  # of the bodies of all open requests

    async def body(self, exchange: Exchange) -> bytes:
        """The body of a request for scores, if there is room for one more."""
        exchange.scores = True
        if self.batcher.is_full:  # before anything is read: a refusal must cost little
            raise self.batcher.overloaded()
        config = self.config
        expected = exchange.expected_bytes(config.max_body_bytes)
        if self.held_bytes + expected > config.queue_bytes:
            raise self.batcher.overloaded()
        self._hold(exchange, expected)
        body = await exchange.body(config.max_body_bytes, config.read_seconds)
        self._hold(exchange, len(body))
        return body

    def _hold(self, exchange: Exchange, num_bytes: int) -> None:
        self.held_bytes += num_bytes - exchange.held_bytes
        exchange.held_bytes = num_bytes

    def release(self, exchange: Exchange) -> None:
        """The exchange is over: its body is no longer held."""
        self._hold(exchange, 0)

    async def score(
        self,
        exchange: Exchange,
        model: ServedModel,
        texts: Sequence[TextOrPair],
        *,
        want_logits: bool = False,
        uncut: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(texts, labels) scores, and the logits if they are wanted."""
        job = Job(model.scorer, texts, want_logits=want_logits, uncut=uncut)
        exchange.jobs.append(job)
        exchange.model = model.name
        self.batcher.submit(job)
        await exchange.wait_for(job)
        if job.scores is None:
            raise Refusal("internal", "there are no scores")
        return job.scores, job.logits

    async def predict(self, exchange: Exchange, model: str | None = None, *, hugging_face_only: bool = False) -> None:
        """POST /predict and the like."""
        served = self.models.named(model)
        body = await self.body(exchange)
        query = hugging_face.read(body, served, self.config.max_batch_texts, hugging_face=hugging_face_only)
        logits_too = query.wants_logits(served)
        scores, logits = await self.score(exchange, served, query.texts, want_logits=logits_too, uncut=query.uncut)
        await exchange.respond(200, hugging_face.write(query, served, scores, logits), [JSON_TYPE, *exchange.timing()])

    async def infer(self, exchange: Exchange, model: str, version: str | None = None) -> None:
        """POST /v2/models/{model}/infer."""
        served = self.versioned(model, version)
        body = await self.body(exchange)
        length = exchange.header(open_inference.HEADER_LENGTH)
        query = open_inference.read(body, length, served, self.config.max_batch_texts)
        logits_too = query.wants_logits(served)
        scores, logits = await self.score(exchange, served, query.texts, want_logits=logits_too)
        answer, header_length = open_inference.write(query, served, scores, logits)
        headers = exchange.timing()
        if header_length is None:
            headers.append(JSON_TYPE)
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((open_inference.HEADER_LENGTH, b"%d" % header_length))
        await exchange.respond(200, answer, headers)

    def versioned(self, model: str, version: str | None) -> ServedModel:
        """The model, of which there is one version.

        Raises:
            Refusal: there is no such model, or not in this version.
        """
        served = self.models.named(model)
        if version not in (None, open_inference.VERSION):
            raise Refusal("unknown", f"the model {served.name} has no such version, expected {open_inference.VERSION}")
        return served

    async def moderate(self, exchange: Exchange) -> None:
        """POST /v1/moderations."""
        query, served = moderations.read(await self.body(exchange), self.models, self.config.max_batch_texts)
        scores, _ = await self.score(exchange, served, query.texts)
        await exchange.respond(200, moderations.write(served, scores), [JSON_TYPE, *exchange.timing()])

    async def explain(self, exchange: Exchange) -> None:
        """POST /explain."""
        text, served = explain.read(await self.body(exchange), self.models.named)
        whole, _ = await self.score(exchange, served, [text])
        # What is left of a text has no more tokens than it: so many times it are not too large either.
        most = max(1, min(self.config.max_batch_texts, self.config.max_request_tokens // max(exchange.num_tokens, 1)))
        occlusion = explain.Occlusion(text, most)
        texts = occlusion.texts  # of a pair two, also where only one has room in a request
        left = [(await self.score(exchange, served, texts[at : at + most]))[0] for at in range(0, len(texts), most)]
        answer = occlusion.answer(served, whole[0], np.concatenate(left), self.metrics.recent())
        await exchange.respond(200, answer, [JSON_TYPE, *exchange.timing()])
