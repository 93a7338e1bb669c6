"""The addresses, as a FastAPI application: what is where, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.routing import APIRoute

from bertwright import __version__
from bertwright.shipping.server import metrics, open_inference, page, schemas
from bertwright.shipping.server.exchange import JSON_TYPE, KEY, Exchange, Receive, Scope, Send, dialect_of
from bertwright.shipping.server.models import ServedModel
from bertwright.shipping.server.refusal import Refusal
from bertwright.shipping.server.service import Service

Answer = Callable[..., Awaitable[None]]
_REFUSALS = (400, 401, 408, 413, 415, 422, 424, 429, 500, 503)
_ERRORS = {
    "hugging_face": schemas.HUGGING_FACE_ERROR,
    "open_inference": schemas.OPEN_INFERENCE_ERROR,
    "moderations": schemas.OPENAI_ERROR,
}


class _Route(APIRoute):
    """A route that hands the exchange on as it is: for one text, FastAPI's own way in takes longer than all else."""

    answer: Answer
    methods: set[str]
    allowed: str

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[KEY]
        scope["route"] = self
        if scope["method"] not in self.methods and not (scope["method"] == "HEAD" and "GET" in self.methods):
            refusal = Refusal("method", f"this address takes {self.allowed}")
            await exchange.refuse(refusal, [(b"allow", self.allowed.encode())])
            return
        await exchange.settle(self.answer(exchange, **scope["path_params"]))


def make_app(service: Service) -> FastAPI:
    """The application; around it belongs a ``Gate``, which makes the exchanges."""
    app = FastAPI(
        title="bertwright",
        version=__version__,
        description="Text classifiers, in the dialects of text-embeddings-inference, Hugging Face, the Open Inference "
        "Protocol and OpenAI's moderations.",
        docs_url=None,  # FastAPI's pages fetch their scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # served below, as everything else
        redirect_slashes=False,
    )
    app.router.default = _not_found
    routes = _Routes(app)
    models = service.models

    async def scores_of_model(exchange: Exchange, model: str) -> None:
        await service.predict(exchange, model, hugging_face_only=True)

    async def show(exchange: Exchange) -> None:
        if b"text/html" not in (exchange.header(b"accept") or b""):
            await health(exchange)
            return
        shown = page.html(list(models.by_name.values()), service.config.workers)
        await exchange.respond(200, shown, page.headers())

    async def health(exchange: Exchange) -> None:
        if service.draining:
            raise Refusal("stopping", "the server is stopping", retry_after_s=1)
        await exchange.respond(200, b"", [])

    async def live(exchange: Exchange) -> None:
        await _json(exchange, {"live": True})

    async def ready(exchange: Exchange) -> None:
        await _json(exchange, {"ready": not service.draining}, 503 if service.draining else 200)

    async def model_ready(exchange: Exchange, model: str, version: str | None = None) -> None:
        found = service.versioned(model, version)
        await _json(exchange, {"name": found.name, "ready": not service.draining}, 503 if service.draining else 200)

    async def model_metadata(exchange: Exchange, model: str, version: str | None = None) -> None:
        await _json(exchange, open_inference.metadata(service.versioned(model, version)))

    async def server(exchange: Exchange) -> None:
        await _json(exchange, open_inference.SERVER)

    async def info(exchange: Exchange, model: str | None = None) -> None:
        await _json(exchange, _info(service, models.named(model)))

    async def model_list(exchange: Exchange) -> None:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "bertwright"} for name in models.by_name]
        await _json(exchange, {"object": "list", "data": data})

    async def show_metrics(exchange: Exchange) -> None:
        service.metrics.waiting(service.batcher.waiting_texts)  # it also changes where nothing is computed
        await exchange.respond(200, service.metrics.text(), [(b"content-type", metrics.CONTENT_TYPE.encode())])

    async def recent(exchange: Exchange) -> None:
        await _json(exchange, service.metrics.recent())

    async def openapi(exchange: Exchange) -> None:
        await _json(exchange, app.openapi())

    post, get = routes.post, routes.get
    post("/predict", service.predict, "Scores of a text, a pair or a batch", schemas.PREDICT, schemas.SCORES)
    get("/", show, "A page to try the models (Accept: text/html); else whether the server is well", None)
    post(
        "/", service.predict, "Scores, as /predict; with parameters as /models/{model}", schemas.EITHER, schemas.SCORES
    )
    post("/invocations", service.predict, "Scores, as SageMaker asks for them", schemas.EITHER, schemas.SCORES)
    post(
        "/v1/moderations", service.moderate, "Moderation, as OpenAI's clients ask", schemas.MODERATE, schemas.MODERATED
    )
    for versioned in ("", "/versions/{version}"):
        at = f"/v2/models/{{model}}{versioned}"
        post(f"{at}/infer", service.infer, "Scores, by the Open Inference Protocol", schemas.INFER, schemas.INFERRED)
        get(f"{at}/ready", model_ready, "Whether a model is ready", schemas.READY)
        get(at, model_metadata, "Inputs and outputs of a model", schemas.METADATA)
    post("/models/{model}", scores_of_model, "Hugging Face's text-classification", schemas.CLASSIFY, schemas.SCORES)
    post("/models/{model}/predict", service.predict, "Scores by a named model", schemas.PREDICT, schemas.SCORES)
    post("/explain", service.explain, "Scores, and which words made them", schemas.EXPLAIN, schemas.EXPLAINED)
    get("/health", health, "Whether the server is well", None)
    get("/ping", health, "Whether the server is well", None)
    get("/v2/health/live", live, "Whether the server is alive", schemas.LIVE)
    get("/v2/health/ready", ready, "Whether the server takes requests", schemas.READY)
    get("/v2", server, "Name and version of the server", schemas.SERVER)
    get("/info", info, "What the first model is", schemas.INFO)
    get("/models/{model}", info, "What a model is", schemas.INFO)
    get("/v1/models", model_list, "All models, as OpenAI's clients ask", schemas.MODEL_LIST)
    get("/latency", recent, "How long the requests of the last minute took this worker", {"type": "object"})
    get("/metrics", show_metrics, "Prometheus metrics", None)
    get("/openapi.json", openapi, "This document", {"type": "object"})
    routes.close()
    return app


class _Routes:
    """Adds addresses to the application, with what the OpenAPI document says of them."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: list[_Route] = []

    def post(self, path: str, answer: Answer, summary: str, body: schemas.Schema, answered: schemas.Schema) -> None:
        self._add("POST", path, answer, summary, answered, _REFUSALS, _content(body))

    def get(self, path: str, answer: Answer, summary: str, answered: schemas.Schema | None) -> None:
        self._add("GET", path, answer, summary, answered, (401, 503))

    def _add(
        self,
        method: str,
        path: str,
        answer: Answer,
        summary: str,
        answered: schemas.Schema | None,
        refusals: Sequence[int],
        content: dict[str, Any] | None = None,
    ) -> None:
        refused = _content(_ERRORS[dialect_of(path).__name__.rpartition(".")[2]])
        if path.endswith("/ready"):
            refused = _content({"anyOf": [schemas.OPEN_INFERENCE_ERROR, schemas.READY]})
        known = [*refusals, 404] if "{" in path or path.startswith("/v1/") or path == "/explain" else refusals
        responses: dict[int | str, dict[str, Any]] = {
            status: {"description": _DESCRIPTIONS[status], "content": refused} for status in sorted(known)
        }
        responses[200] = {"description": "OK"} | ({} if answered is None else {"content": _content(answered)})
        stub = _stub_of_version if "{version}" in path else _stub_of_model if "{model}" in path else _stub
        name = path.strip("/").translate(str.maketrans("/.", "__", "{}")) or "root"
        route = _Route(
            path,
            stub,
            methods=[method],
            summary=summary,
            responses=responses,
            operation_id=f"{method.lower()}_{name}",
            response_model=None,
            response_class=Response,
            openapi_extra=None if content is None else {"requestBody": {"required": True, "content": content}},
        )
        route.answer = answer
        self._made.append(route)
        self._app.router.routes.append(route)

    def close(self) -> None:
        """All are added: each learns which methods its address takes."""
        for route in self._made:
            methods = {method for other in self._made if other.path == route.path for method in other.methods}
            route.allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


_DESCRIPTIONS = {
    400: "The body is not what is expected",
    401: "A key is needed",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "Beyond a limit",
    415: "Compressed, or a form",
    422: "The body is not what is expected",
    424: "The model cannot score this",
    429: "Too many texts are waiting; Retry-After says when to come back",
    500: "The server failed",
    503: "The server is stopping",
}


# What FastAPI reads the parameters of an address from.
def _stub() -> None:
    pass


def _stub_of_model(model: str) -> None:
    pass


def _stub_of_version(model: str, version: str) -> None:
    pass


def _content(schema: schemas.Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


async def _json(exchange: Exchange, document: Any, status: int = 200) -> None:
    await exchange.respond(status, orjson.dumps(document), [JSON_TYPE])


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    exchange: Exchange = scope[KEY]
    await exchange.refuse(Refusal("unknown", "there is nothing at this address; see /openapi.json"), [])


def _info(service: Service, model: ServedModel) -> dict[str, Any]:
    """text-embeddings-inference's /info, and what else is known."""
    settings, config = model.scorer.settings, service.config
    labels = list(settings.labels)
    return {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": model.dtype,
        "model_type": {
            "classifier": {
                "id2label": {str(place): label for place, label in enumerate(labels)},
                "label2id": {label: place for place, label in enumerate(labels)},
            }
        },
        "max_concurrent_requests": config.queue_texts,
        "max_input_length": settings.max_length,
        "max_batch_tokens": model.scorer.token_budget,
        "max_batch_requests": None,
        "max_client_batch_size": config.max_batch_texts,
        "auto_truncate": True,
        "version": __version__,
        "models": list(service.models.by_name),
        "kind": settings.kind,
        "pairs": settings.pairs,
        "computes": model.scorer.summary(),
    }
