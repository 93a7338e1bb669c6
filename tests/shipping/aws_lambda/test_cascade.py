"""A bundle of a cascade holds both graphs."""

from __future__ import annotations

import zipfile

from tests.shipping.aws_lambda.conftest import HERE

import bertwright


def test_a_bundle_of_a_cascade(trained, wheels, examples):
    data = examples / "comments_test.csv"
    bertwright.cascade(trained.path, trained.path, data, "both", max_loss=0.5, quiet=True)
    record = bertwright.export_lambda("both", "bundle", data=data, wheels=wheels, force=True, quiet=True, **HERE)
    with zipfile.ZipFile("bundle/layer-model.zip") as archive:
        names = {info.filename: info.file_size for info in archive.infolist()}
    files = ("bertwright.json", "model.onnx", "tokenizer.json")
    assert set(names) == {
        "model/cascade.json",
        "model/parity.json",
        *(f"model/{part}/{name}" for part in ("small", "large") for name in files),
    }
    assert record["graph_bytes"] == names["model/small/model.onnx"] + names["model/large/model.onnx"]
    with zipfile.ZipFile("bundle/function.zip") as archive:
        assert "bertwright/evaluation/deferral.py" in archive.namelist()
    with open("bundle/README.md", encoding="utf-8") as file:
        assert "clean, toxic" in file.read()
