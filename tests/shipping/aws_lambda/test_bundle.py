"""A bundle holds what it says, within AWS's limit, and runs by AWS's own client with nothing else importable."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.programs import require
from tests.shipping.aws_lambda.conftest import HERE

import bertwright
from bertwright.cli import main
from bertwright.errors import RunError, UserError
from bertwright.evaluation.graph_predictor import GraphPredictor
from bertwright.shipping.aws_lambda import act, bundle
from bertwright.shipping.aws_lambda.local_function import local_function, unpack_bundle
from bertwright.shipping.aws_lambda.pruning import prune

TEXTS = ["You are a clueless clown.", "What a lovely garden.", "word " * 100]


@pytest.fixture(scope="module")
def room(tmp_path_factory, bundled) -> Path:
    """The bundle, unpacked as at AWS."""
    room = tmp_path_factory.mktemp("room")
    unpack_bundle(bundled, HERE["architecture"], room)
    return room


def test_the_record_counts_every_byte(bundled, room):
    record = json.loads((bundled / "bundle.json").read_text())
    for part in record["parts"]:
        with zipfile.ZipFile(bundled / part["name"]) as archive:
            assert part["unzipped_bytes"] == sum(info.file_size for info in archive.infolist())
        assert part["zip_bytes"] == (bundled / part["name"]).stat().st_size
    (here,) = record["architectures"]
    unpacked = sum(
        path.stat().st_size for name in ("task", "opt") for path in (room / name).rglob("*") if path.is_file()
    )
    assert here["unzipped_bytes"] == unpacked < record["limit_bytes"] == 262_144_000
    assert len(here["left_out"]) >= 7
    said = "\n".join(act.budget_lines(record))
    for left in here["left_out"]:
        assert f"{left['num_bytes']:,}   {left['reason']}" in said


def test_it_holds_no_more_than_it_needs(room):
    packages = room / "opt" / "python"
    assert {path.name for path in packages.iterdir() if "." not in path.name} == {"numpy", "onnxruntime", "tokenizers"}
    assert not list(packages.rglob("tests"))
    assert not list(packages.rglob("libonnxruntime.so*"))
    assert (packages / "onnxruntime" / "ThirdPartyNotices.txt").is_file()
    assert sorted(path.name for path in (room / "opt" / "model").iterdir()) == [
        "bertwright.json",
        "model.onnx",
        "parity.json",
        "tokenizer.json",
    ]
    assert list(packages.rglob("numpy/__pycache__/*.pyc"))


def test_nothing_but_the_bundle_and_python_itself_is_loaded(room):
    script = f"""
import sys
sys.path += [{str(room / "task")!r}, {str(room / "opt" / "python")!r}]
import lambda_function
print(lambda_function.handler({{"inputs": "a"}}))
for name in ("torch", "pyarrow", "pydantic", "nanotoken", "sklearn", "google.protobuf", "flatbuffers"):
    assert name not in sys.modules, name
    try: __import__(name)
    except ImportError: pass
    else: raise SystemExit(name + " can be imported")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        env={"BERTWRIGHT_MODEL": str(room / "opt" / "model")},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr


def http_event(shape: str, body: str, encoded: bool) -> dict:
    common = {"body": base64.b64encode(body.encode()).decode() if encoded else body, "isBase64Encoded": encoded}
    if shape == "v2":
        context = {"http": {"method": "POST", "path": "/predict"}, "stage": "$default"}
        return {"version": "2.0", "rawPath": "/predict", "rawQueryString": "", "requestContext": context, **common}
    if shape == "v1":
        context = {"stage": "prod", "httpMethod": "POST", "path": "/prod/predict"}
        return {"httpMethod": "POST", "path": "/predict", "multiValueHeaders": {}, "requestContext": context, **common}
    headers = {"multiValueHeaders" if encoded else "headers": {}}
    return {"httpMethod": "POST", "path": "/predict", "requestContext": {"elb": {}}, **headers, **common}


def test_awss_own_client_answers_all_shapes_with_our_scores(room):
    graph = GraphPredictor.from_folder(room / "opt" / "model")
    expected = graph.score(TEXTS)
    alone = graph.score(TEXTS[:1])[0]

    def assert_scores(answers, scores):
        assert len(answers) == len(scores)
        for entries, row in zip(answers, scores, strict=True):
            assert [entry["score"] for entry in entries] == sorted((entry["score"] for entry in entries), reverse=True)
            named = {entry["label"]: entry["score"] for entry in entries}
            np.testing.assert_allclose([named[label] for label in graph.labels], row, atol=1e-6)
            decided = [entry["label"] for entry in entries if entry["decided"]]
            assert decided == [graph.labels[int(row[1] >= graph.settings.threshold)]]

    with local_function(room) as function:
        assert function.init_s > 0
        direct = function.api.invoke({"inputs": TEXTS})
        assert_scores(direct.answer, expected)
        assert_scores([function.api.invoke({"inputs": TEXTS[0]}).answer], [alone])
        for shape in ("v2", "v1", "alb"):
            for encoded in (False, True):
                found = function.api.invoke(http_event(shape, json.dumps({"inputs": TEXTS}), encoded)).answer
                assert found["statusCode"] == 200
                assert found["isBase64Encoded"] is False
                assert_scores(json.loads(found["body"]), expected)
                assert ("multiValueHeaders" in found) == (shape == "alb" and encoded)
                assert ("statusDescription" in found) == (shape == "alb")
        wrong = function.api.invoke(http_event("v2", '{"inputs": ', False)).answer
        assert wrong["statusCode"] == 400
        assert function.api.invoke({"ping": True}).answer["warm"]
        assert function.api.invoke(b'{"inputs": "\\ud800"}').answer["status"] == 422
        assert 20e6 < function.peak_bytes() < 400e6
    log = (room / "log").read_text()
    assert "clown" not in log
    assert '"shape": "v1", "texts": 3' in log


def test_a_function_that_cannot_start_says_why(room):
    with (
        pytest.raises(RuntimeError, match=r"bertwright\.json"),
        local_function(room, {"BERTWRIGHT_MODEL": "/nowhere"}),
    ):
        pass


def test_cfn_lint_accepts_the_templates(bundled, tmp_path, trained, wheels):
    both = made_for_two_architectures(tmp_path, trained, wheels)
    cfn_lint = require(str(Path(sys.executable).with_name("cfn-lint")), "cfn-lint")
    command = [cfn_lint, str(bundled / "template.yaml"), str(both / "template.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    assert "!If [IsArm64, !Ref RuntimeLayerArm64, !Ref RuntimeLayerX8664]" in (both / "template.yaml").read_text()
    for text in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction\n", "HttpApi"):
        assert text in (both / "template.yaml").read_text()


def made_for_two_architectures(tmp_path, trained, wheels) -> Path:
    """A bundle for both, from the wheels of this machine under both names, with hardly any packages in it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in wheels.iterdir():
        parts = path.name.removesuffix(".whl").split("-")
        for machine in ("x86_64", "aarch64"):
            with zipfile.ZipFile(
                empty / f"{parts[0]}-{parts[1]}-{parts[2]}-{parts[3]}-linux_{machine}.whl", "w"
            ) as archive:
                archive.writestr(f"{parts[0]}/__init__.py", "")
    settings = {"architecture": ["x86_64", "arm64"], "python_version": HERE["python_version"], "wheels": empty}
    bertwright.export_lambda(trained.path, tmp_path / "both", quiet=True, **settings)
    return tmp_path / "both"


SAM = """
import sys
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse
import boto3
template = yaml_parse(open(sys.argv[1]).read())
for resource in template["Resources"].values():  # what `sam package` does: local files become places in S3
    for name in ("ContentUri", "CodeUri"):
        if name in resource.get("Properties", {}):
            resource["Properties"][name] = {"Bucket": "bucket", "Key": resource["Properties"][name]}
session = boto3.session.Session(region_name="us-east-1")
made = Translator({}, Parser(), boto_session=session).translate(template, {})
for resource in made["Resources"].values(): print(resource["Type"], resource["Properties"].get("Action", ""))
(api,) = (one for one in made["Resources"].values() if one["Type"] == "AWS::ApiGatewayV2::Api")
for path in api["Properties"]["Body"]["paths"]: print("path", path)
"""


def test_aws_sam_translates_the_template(bundled):
    python = require(os.environ.get("BERTWRIGHT_SAM_PYTHON", "python-with-aws-sam-translator"))
    command = [python, "-c", SAM, str(bundled / "template.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={"AWS_DEFAULT_REGION": "us-east-1"})
    assert not done.returncode, done.stderr
    made = done.stdout.splitlines()
    assert [line for line in made if line.startswith("AWS::Lambda::LayerVersion")] == ["AWS::Lambda::LayerVersion "] * 2
    for expected in ("AWS::Lambda::Url ", "AWS::ApiGatewayV2::Api ", "AWS::Lambda::Function "):
        assert expected in made
    for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
        assert f"AWS::Lambda::Permission {action}" in made
    paths = {line for line in made if line.startswith("path ")}
    assert paths == {"path /", "path /{proxy+}"}, "the second does not match /"


def test_the_dockerfiles_pass_their_linter(bundled):
    hadolint = require(str(Path(sys.executable).with_name("hadolint")), "hadolint")
    server = Path(__file__).resolve().parents[3] / "docker" / "server.Dockerfile"
    done = subprocess.run([hadolint, str(bundled / "Dockerfile"), str(server)], capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_more_than_aws_takes_is_refused_before_anything_is_written(trained, wheels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "MOST_UNZIPPED_BYTES", 50_000_000)
    with pytest.raises(SystemExit) as stop:
        main(["export", "lambda", str(trained.path), "large", "--wheels", str(wheels), *flags()])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: the bundle for {HERE['architecture']} has ")
    assert "expected at most 50,000,000, AWS's limit" in said
    assert not list(tmp_path.iterdir())


def flags() -> list[str]:
    return ["--architecture", HERE["architecture"], "--python-version", HERE["python_version"]]


def test_outputs_in_the_way(bundled, trained, wheels):
    with pytest.raises(RunError, match="exists; pass another folder"):
        bertwright.export_lambda(trained.path, bundled, wheels=wheels, quiet=True)
    with pytest.raises(RunError, match="is not a bundle for Lambda"):
        bertwright.export_lambda(trained.path, wheels, wheels=wheels, overwrite=True, quiet=True)
    with pytest.raises(UserError, match=r"--python-version: found '2\.7'"):
        bertwright.export_lambda(trained.path, "new", python_version="2.7", quiet=True)
    with pytest.raises(UserError, match="--architecture"):
        bertwright.export_lambda(trained.path, "new", architecture="sparc", quiet=True)


def test_a_bundle_that_aws_cannot_start_is_said_at_once(trained, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise UserError("far enough")

    monkeypatch.setattr(act, "write_certified_graph", stop)
    for name in ("numpy", "onnxruntime", "tokenizers"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
    with pytest.raises(UserError, match="far enough"):
        bertwright.export_lambda(trained.path, "new", wheels=tmp_path, python_version="3.11", quiet=True)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("WARNING: this bundle will not start at AWS, where Python 3.11 has glibc 2.26: ")


def test_equal_folders_make_equal_zip_files(tmp_path):
    for name, when in (("one", 1e9), ("two", 1.5e9)):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file.py").write_text("print(1)")
        os.utime(tmp_path / name / "sub" / "file.py", (when, when))
        bundle.write_zip(tmp_path / name, tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_library_that_is_linked_stays(tmp_path):
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime.so.1.99.0").write_bytes(b"x" * 10)
    (capi / "module.so").write_bytes(b"\0libonnxruntime.so.1\0")
    assert prune(tmp_path) == []
    (capi / "module.so").write_bytes(b"\0libonnxruntime_providers_shared.so\0")
    (left,) = prune(tmp_path)
    assert (left.num_files, left.num_bytes) == (1, 10)


def test_another_python_is_said(tmp_path):
    (tmp_path / "a.py").write_text("print(1)")
    assert "each cold start will compile them" in (bundle.compile_modules(tmp_path, "3.99") or "")
    assert not list(tmp_path.rglob("*.pyc"))
    assert bundle.compile_modules(tmp_path, HERE["python_version"]) is None
    assert list(tmp_path.rglob("*.pyc"))


@pytest.mark.slow
def test_bert_base_in_8_bits_fits_and_runs(tmp_path, examples, wheels):
    from bertwright.model.checkpoint import load_for_training, save_model

    loaded = load_for_training("bert-base", ("clean", "toxic"), "first", 220, 0)
    save_model(tmp_path / "base", loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    lines = (examples / "comments_test.csv").read_text(encoding="utf-8").splitlines()[:33]
    (tmp_path / "few.csv").write_text("\n".join(lines), encoding="utf-8")
    how = {"data": tmp_path / "few.csv", "wheels": wheels, "force": True, "quiet": True, **HERE}
    record = bertwright.export_lambda(tmp_path / "base", tmp_path / "bundle", **how)
    assert record["graph_bytes"] < 115e6
    assert record["architectures"][0]["unzipped_bytes"] < 215e6
    unpack_bundle(tmp_path / "bundle", HERE["architecture"], tmp_path / "room")
    with local_function(tmp_path / "room") as function:
        assert len(function.api.invoke({"inputs": TEXTS}).answer) == 3
        assert function.peak_bytes() < 500e6
    with pytest.raises(UserError, match=r"has 5\d\d,\d{3},\d{3} bytes unzipped"):
        bertwright.export_lambda(tmp_path / "base", tmp_path / "exact", dtype="float32", **how)
