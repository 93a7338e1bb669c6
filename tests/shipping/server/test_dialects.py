"""Each dialect, word for word: answers, and refusals in its own shape."""

from __future__ import annotations

import json
import math
import shutil
import struct

import pytest
from tests.shipping.server.asking import Asking, PlainScorer, ScorerWithoutLogits, run

from bertwright.config.parts import ScoringMachineSettings
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.model.checkpoint import load_classifier
from bertwright.shipping.export_onnx import write_graph
from bertwright.shipping.server.models import load_models

FLOAT32 = ScoringMachineSettings(device="cpu", dtype="float32", compile="off")
TEXT = "some words here"  # 13 letters: a logit of 1.25
TOXIC = 1 / (1 + math.exp(-1.25))
SHORT = "a"  # 1 letter: -1.75
SHORT_TOXIC = 1 / (1 + math.exp(1.75))


def scores(toxic):
    ranked = sorted([(toxic, "toxic"), (1 - toxic, "clean")], reverse=True)
    return [{"score": pytest.approx(score, abs=1e-6), "label": label} for score, label in ranked]


def ask(path, document, scorers=None, **settings):
    async def asked():
        async with Asking(scorers, **settings) as asking:
            return await asking.post(path, document)

    return run(asked())


def get(path, scorers=None, headers=None, **settings):
    async def asked():
        async with Asking(scorers, **settings) as asking:
            return await asking.get(path, headers=headers)

    return run(asked())


@pytest.mark.parametrize("path", ["/predict", "/", "/invocations", "/models/words/predict"])
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (TEXT, scores(TOXIC)),
        ([TEXT], scores(TOXIC)),
        ([[TEXT], [SHORT]], [scores(TOXIC), scores(SHORT_TOXIC)]),
    ],
)
def test_text_embeddings_inference(path, inputs, expected):
    answer = ask(path, {"inputs": inputs})
    assert (answer.status, answer.json()) == (200, expected)
    assert answer.headers["content-type"] == "application/json"
    for name in ("queue", "tokenization", "inference", "total"):
        assert answer.headers[f"x-{name}-time"].isdigit()
        assert f"{name};dur=" in answer.headers["server-timing"]
    assert answer.headers["x-compute-tokens"] == ("4" if len(expected) == 2 and inputs[0] == [TEXT] else "3")


def test_raw_scores_are_logits():
    answer = ask("/predict", {"inputs": TEXT, "raw_scores": True})
    assert answer.json() == [{"score": 1.25, "label": "toxic"}, {"score": 0.0, "label": "clean"}]


def test_a_pair_is_for_a_model_of_pairs():
    pairs = {"words": PlainScorer(pairs=True)}
    assert ask("/predict", {"inputs": ["some words", "here"]}, pairs).json() == scores(TOXIC)
    assert ask("/predict", {"inputs": [["some words", "here"]]}, pairs).json() == [scores(TOXIC)]
    assert ask("/predict", {"inputs": TEXT}, pairs).status == 422
    assert ask("/predict", {"inputs": ["a", "b"]}).status == 422
    nested = {"inputs": {"text": "some words", "text_pair": "here"}}
    assert ask("/models/words", nested, pairs).json() == [scores(TOXIC)]
    tensor = {"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["some words", "here"]}
    answer = ask("/v2/models/words/infer", {"inputs": [tensor]}, pairs).json()
    assert answer["outputs"][1]["data"] == ["toxic"]


def test_a_text_is_cut_as_the_model_was_trained_unless_that_is_refused():
    long = "word " * 20
    assert ask("/predict", {"inputs": long}).status == 200
    assert ask("/predict", {"inputs": TEXT, "truncate": False}).status == 200
    for more in ({"truncate": False}, {"truncation_direction": "Left"}):
        answer = ask("/predict", {"inputs": long, **more})
        assert (answer.status, answer.json()["error_type"]) == (413, "Validation")
        assert "more than 8 tokens" in answer.json()["error"]


def test_what_a_cascades_large_model_would_cut_is_refused_too(tmp_path, tiny_model):
    for name, reading in (("small", {"max_length": 16, "long_texts": "windows"}), ("large", {"max_length": 32})):
        shutil.copytree(tiny_model, tmp_path / name)
        settings = tmp_path / name / "bertwright.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | reading))
    manifest = {"sureness": 1.0, "slopes": [1.0], "biases": [0.0, 0.0], "deferred_share": 0.5}
    (tmp_path / "cascade.json").write_text(json.dumps(manifest))
    both = {"both": load_scorer(str(tmp_path), FLOAT32)}
    assert ask("/predict", {"inputs": "film " * 60}, both).status == 200
    refused = ask("/predict", {"inputs": [["film"], ["film " * 60]], "truncate": False}, both)
    assert refused.status == 413
    assert "1 of 2 texts have more than 32 tokens" in refused.json()["error"]
    assert ask("/predict", {"inputs": "film", "truncate": False}, both).status == 200


def test_an_exported_graph_is_served(tmp_path, tiny_model):
    pytest.importorskip("onnxruntime")
    write_graph(tmp_path / "graph", load_classifier(str(tiny_model)), "float32")
    models = load_models([str(tmp_path / "graph")], ScoringMachineSettings(), None)
    assert models.first.name == "graph"
    (line,) = models.described()
    assert line.startswith("graph: computing on cpu in float32: an exported graph, by ONNX Runtime")
    texts = [TEXT, SHORT, "film " * 200, "nobody asked you"]
    expected = load_scorer(str(tiny_model), FLOAT32).score(texts)
    assert expected.std() > 0.01, "nothing to tell apart"
    answer = ask("/predict", {"inputs": [[text] for text in texts]}, {"graph": models.first.scorer})
    assert answer.status == 200
    for entries, row in zip(answer.json(), expected, strict=True):
        found = {entry["label"]: entry["score"] for entry in entries}
        assert found == pytest.approx(dict(zip(("clean", "toxic"), row, strict=True)), abs=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inputs": TEXT, "parameters": {}}, [scores(TOXIC)]),
        ({"inputs": TEXT, "parameters": {"top_k": 1}}, [scores(TOXIC)[:1]]),
        ({"inputs": [TEXT, SHORT], "parameters": {"function_to_apply": "softmax"}}, None),
        (
            {"inputs": TEXT, "parameters": {"function_to_apply": "sigmoid"}},
            [[{"score": pytest.approx(TOXIC), "label": "toxic"}, {"score": 0.5, "label": "clean"}]],
        ),
        (
            {"inputs": TEXT, "parameters": {"function_to_apply": "none", "top_k": None}},
            [[{"score": 1.25, "label": "toxic"}, {"score": 0.0, "label": "clean"}]],
        ),
    ],
)
def test_hugging_face(given, expected):
    expected = [scores(TOXIC), scores(SHORT_TOXIC)] if expected is None else expected
    for path in ("/models/words", "/"):
        answer = ask(path, given)
        assert (answer.status, answer.json()) == (200, expected)


def test_what_only_logits_tell_is_refused_without_them():
    scorers = {"plain": ScorerWithoutLogits()}
    assert ask("/predict", {"inputs": TEXT}, scorers).json() == scores(TOXIC)
    answer = ask("/predict", {"inputs": TEXT, "raw_scores": True}, scorers)
    assert answer.status == 422
    assert "the model plain has scores but no logits" in answer.json()["error"]
    own = {"inputs": TEXT, "parameters": {"function_to_apply": "softmax"}}
    assert ask("/models/plain", own, scorers).status == 200
    outputs = [output["name"] for output in get("/v2/models/plain", scorers).json()["outputs"]]
    assert outputs == ["scores", "label"]


def test_open_inference_protocol():
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [TEXT, SHORT]}
    answer = ask("/v2/models/words/versions/1/infer", {"id": "seven", "inputs": [tensor]})
    assert answer.json() == {
        "model_name": "words",
        "model_version": "1",
        "id": "seven",
        "outputs": [
            {
                "name": "scores",
                "datatype": "FP64",
                "shape": [2, 2],
                "data": [pytest.approx(x) for x in (1 - TOXIC, TOXIC, 1 - SHORT_TOXIC, SHORT_TOXIC)],
            },
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["toxic", "clean"]},
        ],
    }
    asked = {"inputs": [{**tensor, "shape": [2, 1]}], "outputs": [{"name": "logits"}]}
    logits = ask("/v2/models/words/infer", asked).json()["outputs"]
    assert logits == [{"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [0.0, 1.25, 0.0, -1.75]}]


def test_logits_of_a_regression_are_its_numbers():
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    asked = {"inputs": [tensor], "outputs": [{"name": "logits"}, {"name": "scores"}]}
    answer = ask("/v2/models/stars/infer", asked, {"stars": PlainScorer(labels=("stars",), kind="regression")})
    assert answer.status == 200, answer
    assert [output["data"] for output in answer.json()["outputs"]] == [[1.25], [1.25]]


def test_binary_tensors():
    strings = b"".join(struct.pack("<I", len(text)) + text.encode() for text in (TEXT, SHORT))
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(strings)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()

    async def asked():
        async with Asking() as asking:
            headers = {"Inference-Header-Content-Length": str(len(head))}
            whole = await asking.post("/v2/models/words/infer", head + strings, headers=headers)
            broken = [
                await asking.post("/v2/models/words/infer", head + end, headers=headers)
                for end in (b"", strings[:-1], strings + b"x", struct.pack("<I", 4_000_000_000) + strings[4:])
            ]
            return whole, broken

    whole, broken = run(asked())
    length = int(whole.headers["inference-header-content-length"])
    outputs = json.loads(whole.body[:length])["outputs"]
    assert [output["parameters"]["binary_data_size"] for output in outputs] == [32, 18]
    assert struct.unpack("<4d", whole.body[length : length + 32])[1] == pytest.approx(TOXIC)
    assert whole.body[length + 32 :] == struct.pack("<I", 5) + b"toxic" + struct.pack("<I", 5) + b"clean"
    assert [answer.status for answer in broken] == [400] * 4
    assert all(set(answer.json()) == {"error"} for answer in broken)


def test_open_inference_metadata_and_health():
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert get("/v2/models/words/ready").json() == {"name": "words", "ready": True}
    assert get("/v2/models/words/versions/2").status == 404
    found = get("/v2/models/words").json()
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert found["parameters"] == {"labels": ["clean", "toxic"], "kind": "classes"}


def test_moderations():
    answer = ask("/v1/moderations", {"input": [TEXT, SHORT], "model": "omni-moderation-latest"}).json()
    assert answer["id"].startswith("modr-")
    assert answer["model"] == "words"
    first, second = answer["results"]
    assert (first["flagged"], second["flagged"]) == (True, False)
    assert len(first["categories"]) == 14
    assert [name for name, is_so in first["categories"].items() if is_so] == ["toxic"]
    assert first["category_scores"]["toxic"] == pytest.approx(TOXIC)
    assert first["category_scores"]["self-harm/intent"] == 0
    assert first["category_applied_input_types"] == {name: ["text"] * (name == "toxic") for name in first["categories"]}
    parts = [{"type": "text", "text": "some words"}, {"type": "text", "text": "here"}]
    assert ask("/v1/moderations", {"input": parts}).json()["results"][0]["category_scores"] == first["category_scores"]


def test_a_label_map_fills_the_categories(tmp_path):
    file = tmp_path / "map.toml"
    file.write_text('harassment = "toxic"\n"hate" = ["toxic", "absent"]\nspam = "clean"\n')
    answer = ask("/v1/moderations", {"input": TEXT}, label_map=str(file)).json()["results"][0]
    so = {name: is_so for name, is_so in answer["categories"].items() if name in ("harassment", "hate", "spam")}
    assert so == {"harassment": True, "hate": True, "spam": False}
    assert "toxic" not in answer["categories"]
    assert answer["category_scores"]["spam"] == pytest.approx(1 - TOXIC)


def test_labels_of_which_a_text_may_have_several():
    several = {"m": PlainScorer(kind="multi-label", labels=("hate", "sexual"), threshold=0.5)}
    answer = ask("/v1/moderations", {"input": TEXT}, several).json()["results"][0]
    assert [name for name, is_so in answer["categories"].items() if is_so] == ["hate", "sexual"]  # 0.5 is enough
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [SHORT]}
    assert ask("/v2/models/m/infer", {"inputs": [tensor]}, several).json()["outputs"][1]["data"] == ["hate"]


@pytest.mark.parametrize("settings", [{"kind": "regression", "labels": ("stars",)}, {"labels": ("a", "b", "c")}])
def test_a_model_without_categories_does_not_moderate(settings):
    answer = ask("/v1/moderations", {"input": TEXT}, {"m": PlainScorer(**settings)})
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert ask("/predict", {"inputs": TEXT}, {"m": PlainScorer(**settings)}).status == 200


def test_several_models():
    two = {"one": PlainScorer(), "two": PlainScorer(labels=("no", "yes"))}
    assert ask("/predict", {"inputs": TEXT}, two).json()[0]["label"] == "toxic"
    assert ask("/models/two/predict", {"inputs": TEXT}, two).json()[0]["label"] == "yes"
    assert ask("/v1/moderations", {"input": TEXT, "model": "two"}, two).json()["model"] == "two"
    assert ask("/v1/moderations", {"input": TEXT, "model": "text-moderation-007"}, two).json()["model"] == "one"
    theirs = {**two, "text-moderation-ours": PlainScorer()}
    found = ask("/v1/moderations", {"input": TEXT, "model": "text-moderation-ours"}, theirs)
    assert found.json()["model"] == "text-moderation-ours"
    assert ask("/v1/moderations", {"input": TEXT, "model": "three"}, two).json()["error"]["code"] == "model_not_found"
    assert [model["id"] for model in get("/v1/models", two).json()["data"]] == ["one", "two"]
    info = get("/models/two", two).json()
    assert info["model_dtype"] == "bfloat16"  # what is computed in, not the "auto" that was asked for
    assert (info["model_id"], info["model_type"]["classifier"]["id2label"]) == ("two", {"0": "no", "1": "yes"})


def test_words_add_up_to_the_text():
    answer = ask("/explain", {"inputs": "  one two\nthree "}).json()
    assert answer["label"] == "toxic"
    (pieces,) = answer["pieces"]
    assert [piece["text"] for piece in pieces] == ["  one ", "two\n", "three "]
    one, two, three = (piece["effect"] for piece in pieces)
    assert three > one > 0
    assert two == pytest.approx(one)
    assert ask("/explain", {"inputs": "one two three"}).headers["x-compute-tokens"] == str(3 + 3 * 2)
    many = ask("/explain", {"inputs": "word " * 1000}, max_batch_texts=10).json()["pieces"][0]
    assert len(many) == 10
    assert "".join(piece["text"] for piece in many) == "word " * 1000


def test_words_of_a_long_text_are_no_larger_request_than_it_may_be():
    text = "word " * 100  # of which 8 tokens are read
    for most, num_pieces in ((8, 1), (39, 4), (40, 5)):
        answer = ask("/explain", {"inputs": text}, max_request_tokens=most)
        assert answer.status == 200
        assert len(answer.json()["pieces"][0]) == num_pieces
    assert ask("/explain", {"inputs": text}, max_request_tokens=7).status == 413
    pair = ask("/explain", {"inputs": [text, text]}, {"words": PlainScorer(pairs=True)}, max_request_tokens=8)
    assert [len(pieces) for pieces in pair.json()["pieces"]] == [1, 1]


WRONG = [
    (b"", 400),
    (b"{", 400),
    (b"NaN", 400),
    (b'{"inputs": NaN}', 400),
    (b'{"inputs": "\xff"}', 400),
    (b'{"inputs": "\\ud800"}', 400),
    (b'{"inputs": "a", "inputs2": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    (b"[" * 200_000, 400),
    (b"[]", 422),
    (b'"text"', 422),
    (b"null", 422),
    (b"1e400", None),
    (b"{}", 422),
    (b'{"inputs": null}', 422),
    (b'{"inputs": 7}', 422),
    (b'{"inputs": 123456789012345678901234567890}', 422),
    (b'{"inputs": {}}', 422),
    (b'{"inputs": true}', 422),
    (b'{"inputs": [1]}', 422),
    (b'{"inputs": [["a"], 1]}', 422),
    (b'{"inputs": [["a", null]]}', 422),
    (b'{"inputs": [[["a"]]]}', 422),
    (b'{"inputs": ["a", "b", "c"]}', 422),
    (b'{"inputs": ""}', 400),
    (b'{"inputs": []}', 400),
    (b'{"inputs": [[]]}', 400),
    (b'{"inputs": [[""]]}', 400),
    (b'{"inputs": "a", "raw_scores": "yes"}', 422),
    (b'{"inputs": "a", "truncation_direction": 1}', 422),
    (b'{"inputs": "a", "parameters": 1}', 422),
    (b'{"inputs": "a", "parameters": {"top_k": 0}}', 422),
    (b'{"inputs": "a", "parameters": {"top_k": true}}', 422),
    (b'{"inputs": "a", "parameters": {"function_to_apply": ["none"]}}', 422),
    (b'{"inputs": "no token"}', 422),
    (b'{"inputs": "no score"}', 424),
]


def test_what_is_wrong_is_refused_in_the_dialects_own_shape():
    async def asked():
        async with Asking() as asking:
            return [await asking.post("/predict", body) for body, _ in WRONG]

    for (body, status), answer in zip(WRONG, run(asked()), strict=True):
        assert answer.status == status if status else 400 <= answer.status < 500, (body[:60], answer)
        assert set(answer.json()) == {"error", "error_type"}, body[:60]
        assert answer.json()["error_type"] in ("Empty", "Validation", "Backend")


def test_nul_and_strange_texts_are_texts():
    for text in ("\0", "a\0b", "\u202e\U000e0001", "😀" * 50, " "):
        assert ask("/predict", {"inputs": text}).status == 200


GOOD = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"inputs": []},
        {"inputs": [GOOD, GOOD]},
        {"inputs": [7]},
        {"inputs": [{**GOOD, "name": 1}]},
        {"inputs": [{**GOOD, "datatype": "FP32"}]},
        {"inputs": [{**GOOD, "shape": [2]}]},
        {"inputs": [{**GOOD, "shape": []}]},
        {"inputs": [{**GOOD, "shape": [0]}]},
        {"inputs": [{**GOOD, "shape": [-1]}]},
        {"inputs": [{**GOOD, "shape": [1, 1, 1]}]},
        {"inputs": [{**GOOD, "shape": [True]}]},
        {"inputs": [{**GOOD, "shape": [1e400]}]},
        {"inputs": [{**GOOD, "data": "a"}]},
        {"inputs": [{**GOOD, "data": [1]}]},
        {"inputs": [{**GOOD, "data": [["a", "b"]]}]},
        {"inputs": [{**GOOD, "data": [""]}]},
        {"inputs": [{name: value for name, value in GOOD.items() if name != "data"}]},
        {"inputs": [GOOD], "id": 7},
        {"inputs": [GOOD], "parameters": 7},
        {"inputs": [GOOD], "parameters": {"binary_data_output": "yes"}},
        {"inputs": [GOOD], "outputs": [{"name": "more"}]},
        {"inputs": [GOOD], "outputs": [{"name": ["scores"]}]},
        {"inputs": [GOOD], "outputs": 7},
        [],
    ],
)
def test_wrong_tensors(document):
    answer = ask("/v2/models/words/infer", document)
    assert answer.status == 400, answer
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"input": None},
        {"input": []},
        {"input": ""},
        {"input": [1]},
        {"input": ["a", {}]},
        {"input": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"input": [{"type": "text"}]},
        {"input": [{"type": "audio"}]},
        {"input": [{"type": "text", "text": "a"}, "b"]},
        {"input": "a", "model": 7},
        7,
    ],
)
def test_wrong_moderations(document):
    answer = ask("/v1/moderations", document)
    assert answer.status == 400, answer
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_unknown_addresses_and_methods():
    async def asked():
        async with Asking() as asking:
            return [
                await asking.ask(method, path, [b""])
                for method, path in [
                    ("GET", "/x"),
                    ("GET", "/v2/x"),
                    ("POST", "/v1/x"),
                    ("PUT", "/"),
                    ("GET", "/predict"),
                ]
            ]

    found = run(asked())
    assert [answer.status for answer in found] == [404, 404, 404, 405, 405]
    assert set(found[0].json()) == {"error", "error_type"}
    assert set(found[1].json()) == {"error"}
    assert found[2].json()["error"]["type"] == "invalid_request_error"
    assert [answer.headers["allow"] for answer in found[3:]] == ["GET, HEAD, POST", "POST"]


def test_the_root_is_a_page_or_a_sign_of_health():
    assert (get("/").status, get("/").body) == (200, b"")
    page = get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"http" not in page.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b'data-workers="1"' in page.body
    assert b'data-workers="3"' in get("/", headers={"Accept": "text/html"}, workers=3).body
    for path in ("/health", "/ping"):
        assert get(path).status == 200
