"""The function's code: its scores are those of the graph predictor, and no client's mistake raises."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.random_classifiers import LONG, random_classifier
from tests.model.families import CASES

from bertwright.evaluation.graph_predictor import GraphPredictor
from bertwright.shipping.aws_lambda import events
from bertwright.shipping.aws_lambda.classifier import Classifier
from bertwright.shipping.aws_lambda.handler import Handler
from bertwright.shipping.export_onnx import write_graph


def both(tmp_path, name="bert", **values) -> tuple[GraphPredictor, Classifier]:
    write_graph(tmp_path / "graph", random_classifier(tmp_path / "weights", name, **values), "float32")
    return GraphPredictor.from_folder(tmp_path / "graph"), Classifier(tmp_path / "graph", 1)


def assert_equal(graph, ours, texts) -> None:
    np.testing.assert_allclose(ours.score(texts), graph.score(texts), rtol=0, atol=1e-6)
    assert ours.predict(texts) == graph.predict(texts) or [p.labels for p in ours.predict(texts)] == [
        p.labels for p in graph.predict(texts)
    ]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pairs", [False, True])
def test_every_family_scores_as_the_graph_predictor(tmp_path, name, pairs):
    graph, ours = both(tmp_path, name, pairs=pairs)
    assert_equal(graph, ours, [(a, b) for a in LONG for b in LONG] if pairs else LONG)


@pytest.mark.parametrize(
    "values",
    [
        {"long_texts": "head+tail"},
        {"long_texts": "head+tail", "max_length": 4},
        {"long_texts": "windows", "window_overlap": 6},
        {"long_texts": "windows", "window_pooling": "max", "max_length": 8},
        {"kind": "multi-label", "threshold": (0.2, 0.5, 0.7), "temperature": 2.5},
        {"kind": "soft"},
        {"kind": "regression", "labels": ("stars",)},
        {"labels": ("clean", "toxic"), "threshold": 0.8},
    ],
)
def test_every_way_to_read_and_decide(tmp_path, values):
    graph, ours = both(tmp_path, **values)
    words = ["film", "dog", "fox", "lazy", "brown", "amused"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(0, 90))) for _ in range(60)]
    assert_equal(graph, ours, [*LONG, *texts])


@pytest.fixture(scope="module")
def handler(tmp_path_factory) -> Handler:
    _, ours = both(tmp_path_factory.mktemp("handler"), labels=("clean", "toxic"))
    return Handler(ours, max_texts=4, max_body_bytes=2_000)


@pytest.fixture(scope="module")
def pair_handler(tmp_path_factory) -> Handler:
    return Handler(both(tmp_path_factory.mktemp("pairs"), pairs=True)[1], max_texts=4)


def v2(body, method="POST", path="/predict", **more) -> dict:
    return {"version": "2.0", "rawPath": path, "requestContext": {"http": {"method": method}}, "body": body, **more}


WRONG = {
    "nothing": (v2(""), 400, "Empty"),
    "no body": (v2(None), 400, "Empty"),
    "no JSON": (v2("{"), 400, "Validation"),
    "deep JSON": (v2("[" * 1_900), 400, "Validation"),
    "a long number": (v2('{"inputs": ' + "1" * 1_900 + "}"), 400, "Validation"),
    "a body that is no string": (v2({"inputs": "a"}), 400, "Validation"),
    "no object": (v2('"some text"'), 400, "Validation"),
    "no inputs": (v2('{"input": "some text"}'), 400, "Validation"),
    "a number": (v2('{"inputs": 3}'), 400, "Validation"),
    "no texts": (v2('{"inputs": []}'), 400, "Empty"),
    "a number among texts": (v2('{"inputs": ["a", 3]}'), 400, "Validation"),
    "a pair": (v2('{"inputs": [["a", "b"]]}'), 400, "Validation"),
    "too many texts": (v2('{"inputs": ["a", "b", "c", "d", "e"]}'), 413, "Validation"),
    "too many bytes": (v2('{"inputs": "' + "a" * 2_000 + '"}'), 413, "Validation"),
    "too many bytes in base64": (v2("A" * 4_000, isBase64Encoded=True), 413, "Validation"),
    "no base64": (v2("???", isBase64Encoded=True), 400, "Validation"),
    "no UTF-8": (v2(base64.b64encode(b'{"inputs": "\xff"}').decode(), isBase64Encoded=True), 400, "Validation"),
    "a lone surrogate": (v2('{"inputs": "\\ud800"}'), 422, "Tokenizer"),
    "a lone surrogate as it is": (v2('{"inputs": "\ud800"}'), 400, "Validation"),
    "parameters": (v2('{"inputs": "a", "parameters": 3}'), 400, "Validation"),
    "top_k": (v2('{"inputs": "a", "parameters": {"top_k": 0}}'), 400, "Validation"),
    "another method": (v2('{"inputs": "a"}', method="DELETE"), 405, "Validation"),
    "reading": (v2(None, method="GET", path="/predict"), 405, "Validation"),
    "another path": (v2('{"inputs": "a"}', path="/predictions"), 404, "Validation"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_clients_mistake_has_its_status(handler, what):
    event, status, kind = WRONG[what]
    found = handler(event)
    assert found["statusCode"] == status
    said = json.loads(found["body"])
    assert said["error_type"] == kind
    assert "\n" not in said["error"]
    assert ("allow" in found["headers"]) == (status == 405)


def test_pairs_are_read_in_every_spelling(pair_handler):
    expected = pair_handler({"inputs": ["a dog", "a fox"]})
    assert expected[0]["score"] >= expected[1]["score"]
    assert pair_handler({"inputs": {"text": "a dog", "text_pair": "a fox"}}) == expected
    assert pair_handler({"inputs": [["a dog", "a fox"]]}) == [expected]
    assert pair_handler({"inputs": [{"text": "a dog", "text_pair": "a fox"}]}) == [expected]
    assert pair_handler({"inputs": "a dog"})["status"] == 400
    assert pair_handler({"inputs": [["a dog"]]})["error"].startswith("inputs[0]: found list, expected a pair")


def test_what_is_asked_besides_scores(handler, tmp_path):
    assert handler({"inputs": [["a dog"], "a fox"]}) == handler({"inputs": ["a dog", "a fox"]})
    assert len(handler({"inputs": "a dog", "parameters": {"top_k": 1}})) == 1
    for event in ({"ping": True}, {"source": "aws.events", "detail": {}}, {"source": "serverless-plugin-warmup"}):
        assert handler(event)["warm"] is True
    for path in ("/", "/health", "/ping"):  # the first is where a load balancer looks
        assert json.loads(handler(v2(None, "GET", path))["body"]) == {"status": "ok"}
    staged = {"version": "2.0", "rawPath": "/prod/info", "requestContext": {"http": {"method": "GET"}, "stage": "prod"}}
    assert json.loads(handler(staged)["body"])["labels"] == ["clean", "toxic"]
    _, stars = both(tmp_path, kind="regression", labels=("stars",))
    assert list(Handler(stars)({"inputs": "a dog"})[0]) == ["label", "score"]


def test_our_own_failure_is_500_in_http_and_raised_in_a_direct_call(handler, monkeypatch, capsys):
    def fail(*_):
        raise AttributeError("the tokenizer choked on 'secret text'")

    monkeypatch.setattr(handler.classifier, "predict", fail)
    found = handler(v2('{"inputs": "secret text"}'))
    assert found["statusCode"] == 500
    assert json.loads(found["body"])["error_type"] == "Backend"
    with pytest.raises(RuntimeError, match="its log says why") as raised:
        handler({"inputs": "secret text"})
    assert raised.value.__suppress_context__  # AWS's client prints what it was raised from
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["error"], second["shape"]) == ("AttributeError", "direct")
    assert first["trace"][-1].endswith(" fail")
    assert "secret" not in json.dumps([first, second])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["inputs", "parameters", "a"]), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "version",
        "rawPath",
        "requestContext",
        "httpMethod",
        "path",
        "body",
        "isBase64Encoded",
        "headers",
        "source",
        "ping",
    ]
)
CONTEXTS = st.fixed_dictionaries(
    {}, optional={"http": VALUES | st.just({"method": "POST"}), "elb": VALUES, "stage": VALUES}
)


@settings(max_examples=300)
@given(
    event=VALUES | st.dictionaries(NAMES, VALUES), context=CONTEXTS | st.none(), body=VALUES.map(json.dumps) | st.text()
)
def test_whatever_comes_is_answered(handler, event, context, body):
    if isinstance(event, dict) and context is not None:
        event = {**event, "requestContext": context, "body": body}
    found = handler(event)
    json.dumps(found)
    if events.shape_of(event) != "direct":
        assert found["statusCode"] in (200, 400, 404, 405, 413, 422)
        json.loads(found["body"])
    elif isinstance(found, dict) and "status" in found:
        assert found["status"] in (400, 404, 405, 413, 422)
