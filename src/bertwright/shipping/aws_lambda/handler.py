"""The Lambda function: an event in, scores out, as text-embeddings-inference and Hugging Face's endpoints give them.

    {"inputs": "some text"}                    ->  [{"label": "toxic", "score": 0.9, "decided": true}, ...]
    {"inputs": ["some text", "another"]}       ->  a list of such lists

The entries of a text are in descending order of their scores; ``decided`` says which labels the threshold decides for.
What a client does wrong is answered with a status and a line of JSON. The texts are never logged.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from bertwright.cpus import num_usable_cpus
from bertwright.evaluation.predictions import Prediction
from bertwright.shipping.aws_lambda.cascade import CascadeClassifier, load
from bertwright.shipping.aws_lambda.classifier import Classifier
from bertwright.shipping.aws_lambda.events import Request, RequestError, json_of, request_of, response_of, shape_of

_PREDICT = ("/", "/predict", "/invocations")
_HEALTH = ("/", "/health", "/ping")  # the first is where a load balancer looks unless told otherwise
# What keeps a function warm: an event of ours, of the plugin of that name, and of a schedule.
_WARM_UP_SOURCES = ("serverless-plugin-warmup", "aws.events", "aws.scheduler")
_LIMITS = {"BERTWRIGHT_MAX_TEXTS": 256, "BERTWRIGHT_MAX_BODY_BYTES": 1_000_000}


class Handler:
    """What Lambda calls for each event.

    Args:
        max_texts: in a request.
        max_body_bytes: of a request; a direct invocation has AWS's own limit alone.
    """

    def __init__(
        self, classifier: Classifier | CascadeClassifier, max_texts: int = 256, max_body_bytes: int = 1_000_000
    ) -> None:
        self.classifier, self.max_texts, self.max_body_bytes = classifier, max_texts, max_body_bytes
        self.num_calls = 0

    @classmethod
    def from_environment(cls) -> Handler:
        """The classifier in the folder that BERTWRIGHT_MODEL names, with the limits that other variables set."""
        folder = Path(os.environ.get("BERTWRIGHT_MODEL", "/opt/model"))
        limits = [int(os.environ.get(name) or default) for name, default in _LIMITS.items()]
        classifier = load(folder, num_usable_cpus())
        # Before the first event nobody waits for it, in part.
        classifier.warm_up(("a", "b") if classifier.settings.pairs else "a")
        return cls(classifier, *limits)

    def __call__(self, event: Any, context: Any = None) -> Any:
        """The answer to ``event``. Raises nothing that a client could cause."""
        started = time.perf_counter()
        self.num_calls += 1
        shape, num_texts = shape_of(event), 0
        value: Any
        headers: dict[str, str] = {}
        try:
            request = request_of(event, self.max_body_bytes)
            if shape == "direct" and _is_warm_up(event):
                status, value = 200, {"warm": True, "calls": self.num_calls}
            elif shape != "direct" and request.path in (*_HEALTH, "/info") and request.method in ("GET", "HEAD"):
                status, value = 200, self._about(request.path)
            else:
                value, num_texts = self._scores(request)
                status, headers = 200, {"x-compute-ms": f"{(time.perf_counter() - started) * 1e3:.1f}"}
        except RequestError as error:
            status, value = error.status, error.record()
            headers = {"allow": "GET, HEAD, POST"} if status == 405 else {}
        except Exception as error:  # noqa: BLE001 - the boundary of the process: nothing may be left unanswered
            # Where it happened, without the message, which may quote a text.
            trace = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            _log({"status": 500, "shape": shape, "error": type(error).__name__, "trace": trace})
            said = "the classifier failed; its log says why"
            if shape == "direct":
                raise RuntimeError(said) from None  # so that Lambda counts it as failed
            return response_of(event, 500, {"error": said, "error_type": "Backend"})
        _log(
            {
                "status": status,
                "shape": shape,
                "texts": num_texts,
                "ms": round((time.perf_counter() - started) * 1e3, 1),
            }
        )
        if shape != "direct":
            return response_of(event, status, value, headers)
        return value if status == 200 else {"status": status, **value}

    def _scores(self, request: Request) -> tuple[Any, int]:
        if request.path not in _PREDICT:
            known = ", ".join(dict.fromkeys((*_PREDICT, *_HEALTH, "/info")))
            raise RequestError(404, "Validation", f"no such path; the known ones are {known}")
        if request.method != "POST":
            raise RequestError(405, "Validation", f"method {request.method[:20]}, expected POST")
        value = request.value if request.body is None else json_of(request.body)
        if not isinstance(value, dict) or "inputs" not in value:
            found = "no inputs" if isinstance(value, dict) else type(value).__name__
            raise RequestError(
                400, "Validation", f'found {found}, expected an object such as {{"inputs": "some text"}}'
            )
        pairs = bool(self.classifier.settings.pairs)
        texts, is_batch = texts_of(value["inputs"], pairs, self.max_texts)
        most = _most_labels(value.get("parameters"), len(self.classifier.labels))
        answers = [entries_of(prediction, most) for prediction in self.classifier.predict(texts)]
        return (answers if is_batch else answers[0]), len(texts)

    def _about(self, path: str) -> dict[str, Any]:
        if path != "/info":
            return {"status": "ok"}
        settings, session = self.classifier.settings, self.classifier.session
        return {
            "labels": list(self.classifier.labels),
            "kind": settings.kind,
            "pairs": settings.pairs,
            "max_length": settings.max_length,
            "dtype": session.dtype,
            "onnxruntime": session.version,
            "max_texts": self.max_texts,
            "max_body_bytes": self.max_body_bytes,
        }


def texts_of(inputs: Any, pairs: bool, most: int) -> tuple[list[Any], bool]:
    """The texts, or pairs of texts, in ``inputs``, and whether they are a batch.

    One text is a string, and a batch a list of strings or of lists of one. Of a classifier of pairs, one pair is a list
    of two strings or an object with ``text`` and ``text_pair``, and a batch a list of such.

    Raises:
        RequestError: they are something else, too many, or no Unicode.
    """
    if pairs:
        is_batch = _pair(inputs) is None
        texts = inputs if is_batch else [inputs]
        expected = "a pair [text, second text], or a list of pairs"
    else:
        is_batch = not isinstance(inputs, str)
        texts = inputs if is_batch else [inputs]
        expected = "a string, or a list of strings"
    if not isinstance(texts, list):
        raise RequestError(400, "Validation", f"inputs: found {type(texts).__name__}, expected {expected}")
    if not texts:
        raise RequestError(400, "Empty", f"inputs: found an empty list, expected {expected}")
    if len(texts) > most:
        raise RequestError(413, "Validation", f"inputs: found {len(texts):,} texts, expected at most {most:,}")
    found = []
    for place, text in enumerate(texts):
        if not pairs and isinstance(text, list) and len(text) == 1:
            text = text[0]
        one: str | tuple[str, str] | None = _pair(text) if pairs else text if isinstance(text, str) else None
        if one is None:
            raise RequestError(400, "Validation", f"inputs[{place}]: found {type(text).__name__}, expected {expected}")
        try:
            "".join(one).encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError(422, "Tokenizer", f"inputs[{place}]: not valid Unicode (a lone surrogate)") from None
        found.append(one)
    return found, is_batch


def _pair(value: Any) -> tuple[str, str] | None:
    if isinstance(value, dict):
        value = [value.get("text"), value.get("text_pair")]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value):
        return value[0], value[1]
    return None


def _most_labels(parameters: Any, num_labels: int) -> int:
    """How many labels of each text are wanted: Hugging Face's ``top_k``."""
    if parameters is None:
        return num_labels
    if not isinstance(parameters, dict):
        raise RequestError(400, "Validation", f"parameters: found {type(parameters).__name__}, expected an object")
    most = parameters.get("top_k")
    if most is None:
        return num_labels
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise RequestError(400, "Validation", "parameters.top_k: expected a whole number from 1 on")
    return min(most, num_labels)


def entries_of(prediction: Prediction, most: int) -> list[dict[str, Any]]:
    """The ``most`` highest labels of a text; of a regression, its number."""
    ordered = sorted(prediction.scores.items(), key=lambda entry: -entry[1])[:most]
    if prediction.value is not None:
        return [{"label": label, "score": score} for label, score in ordered]
    return [{"label": label, "score": score, "decided": label in prediction.labels} for label, score in ordered]


def _is_warm_up(event: Any) -> bool:
    if not isinstance(event, dict) or "inputs" in event:
        return False
    return bool(event.get("ping")) or event.get("source") in _WARM_UP_SOURCES


def _log(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)
