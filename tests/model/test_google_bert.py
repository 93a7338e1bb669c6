"""Google's checkpoints, as TensorFlow wrote them (tests/golden/make_tensorflow_checkpoints.py), and broken ones."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model import bundle_writer

import bertwright
from bertwright.errors import CheckpointError
from bertwright.model import google_bert
from bertwright.model.batch import flat_batch
from bertwright.model.checkpoint import load_classifier, load_for_training
from bertwright.model.tensorflow_bundle import Bundle
from bertwright.model.tokenizer import load_tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tensorflow"
TOLERANCE = 1e-5


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the checkpoint with the heads of pretraining, to break."""
    return Path(shutil.copytree(GOLDEN / "pretraining", tmp_path / "bert"))


def expected_of(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / name / "expected.npz") as values:
        return {key: torch.from_numpy(values[key]) for key in values.files}


def outputs_of(model: Any, expected: dict[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        ids, segments = expected["token_ids"].long(), expected["segments"].long()
        return model.eval()(input_ids=ids, token_type_ids=segments, output_hidden_states=True)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["pretraining", "sharded"])
def test_pretrained_model_computes_what_tensorflow_did(name: str, tmp_path: Path) -> None:
    from transformers import BertForPreTraining

    result = bertwright.convert(GOLDEN / name, tmp_path / "out", quiet=True)
    assert (result["architecture"], result["tensors"]) == ("BertForPreTraining", 46)
    model, report = BertForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = expected_of(name)
    found = outputs_of(model, expected)
    close(found.hidden_states[-1], expected["hidden"])
    close(found.prediction_logits, expected["masked_language_model"])
    close(found.seq_relationship_logits, expected["next_sentence"])


def test_classifier_computes_what_tensorflow_did(tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    assert bertwright.convert(GOLDEN / "classifier", tmp_path / "out", quiet=True)["labels"] == 3
    expected = expected_of("classifier")
    theirs = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    close(outputs_of(theirs, expected).logits, expected["logits"])


@pytest.mark.parametrize("given", ["folder", "prefix", "index", "converted"])
def test_our_encoder_takes_it_as_it_is(given: str, tmp_path: Path) -> None:
    """Without converting first, by its folder, its prefix or its index; and converted."""
    folder = GOLDEN / "classifier"
    names = {
        "folder": folder,
        "prefix": folder / "bert_model.ckpt",
        "index": folder / "bert_model.ckpt.index",
        "converted": tmp_path / "out",
    }
    if given == "converted":
        bertwright.convert(folder, tmp_path / "out", quiet=True)
    loaded = load_classifier(str(names[given]))
    expected = expected_of("classifier")
    batch = flat_batch(expected["token_ids"].numpy().ravel(), np.full(3, 9), second_starts=np.full(3, 5))
    with torch.no_grad():
        close(loaded.model.eval()(batch), expected["logits"])
    assert loaded.settings.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_training_starts_from_it() -> None:
    loaded = load_for_training(str(GOLDEN / "pretraining"), ["a", "b"], "first", 20, seed=0)
    assert loaded.head_is_new
    table = Bundle(GOLDEN / "pretraining" / "bert_model.ckpt").read("bert/embeddings/word_embeddings")
    assert torch.equal(loaded.model.encoder.embeddings.token.weight, torch.from_numpy(table))


def test_weights_are_those_of_the_file(copied: Path) -> None:
    tensors = google_bert.find(copied).tensors()
    bundle = Bundle(copied / "bert_model.ckpt")
    layer = "bert/encoder/layer_1"
    for name, theirs, is_kernel in (
        ("bert.encoder.layer.1.attention.self.query.weight", f"{layer}/attention/self/query/kernel", True),
        ("bert.encoder.layer.1.output.dense.weight", f"{layer}/output/dense/kernel", True),
        ("bert.encoder.layer.1.output.LayerNorm.weight", f"{layer}/output/LayerNorm/gamma", False),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights", False),
        ("cls.predictions.bias", "cls/predictions/output_bias", False),
    ):
        values = torch.from_numpy(bundle.read(theirs))
        assert torch.equal(tensors[name], values.T if is_kernel else values), name
    assert not [name for name in tensors if "adam" in name or "step" in name]


@pytest.mark.parametrize(("name", "lowercase"), [("pretraining", True), ("sharded", False)])
def test_case_follows_from_the_vocabulary(name: str, lowercase: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bertwright.convert(GOLDEN / name, tmp_path / "out", quiet=True)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is lowercase
    text = "The Movie was Bad. É"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"]
    for folder in (tmp_path / "out", GOLDEN / name, GOLDEN / name / "bert_model.ckpt"):
        assert load_tokenizer(folder).encode([text])[0].tolist() == theirs
    assert (1 in theirs) is False or lowercase is False  # "é" is "e" in lower case, without its accent


# --- other kinds -----------------------------------------------------------------------------------------------------


def all_of(prefix: Path) -> dict[str, np.ndarray]:
    bundle = Bundle(prefix)
    return {name: bundle.read(name) for name in bundle.entries if name != "global_step"}


@pytest.mark.parametrize("endianness", [0, 1], ids=["little", "big"])
def test_both_byte_orders(copied: Path, endianness: int) -> None:
    values = all_of(copied / "bert_model.ckpt")
    bundle_writer.write(copied / "bert_model.ckpt", values, endianness)
    bundle = Bundle(copied / "bert_model.ckpt")
    assert bundle.is_big_endian is bool(endianness)
    for name, expected in values.items():
        np.testing.assert_array_equal(bundle.read(name), expected)


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_other_floats(tmp_path: Path, kind: str) -> None:
    values = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, -8.0]], np.float32)
    written = values if kind == "bfloat16" else values.astype(kind)
    bundle_writer.write(tmp_path / "x.ckpt", {"table": written}, bfloat16=kind == "bfloat16")
    np.testing.assert_array_equal(Bundle(tmp_path / "x.ckpt").read("table"), values)


# --- what is broken --------------------------------------------------------------------------------------------------


def refused(folder: Path, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected) as caught:
        bertwright.convert(folder, folder / "out", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()


def test_slices_and_objects_are_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "objects", tmp_path / "objects"))
    refused(folder, "checkpoint of TensorFlow 2 objects, expected TensorFlow 1's")
    with pytest.raises(CheckpointError, match=r"is saved in slices \(a partitioned variable\)"):
        Bundle(GOLDEN / "sliced" / "bert_model.ckpt").read("bert/embeddings/word_embeddings")


def test_truncated_files(copied: Path) -> None:
    index, data = copied / "bert_model.ckpt.index", copied / "bert_model.ckpt.data-00000-of-00001"
    whole, values = index.read_bytes(), data.read_bytes()
    for keep in (0, 20, 47, 48, 1000, len(whole) - 1):
        index.write_bytes(whole[:keep])
        refused(copied, r"bert_model\.ckpt\.index: damaged: .*get the file again")
    index.write_bytes(whole)
    data.write_bytes(values[: len(values) // 2])
    refused(copied, r"data-00000-of-00001: truncated: found [\d,]+ bytes, expected [\d,]+ or more")
    data.unlink()
    refused(copied, r"data-00000-of-00001: cannot be read \(No such file or directory\)")


def test_changed_bytes(copied: Path) -> None:
    index, data = copied / "bert_model.ckpt.index", copied / "bert_model.ckpt.data-00000-of-00001"
    values = bytearray(data.read_bytes())
    values[Bundle(copied / "bert_model.ckpt").entries["bert/pooler/dense/kernel"].offset] ^= 1
    data.write_bytes(values)
    refused(copied, r"tensor bert/pooler/dense/kernel: its bytes are not those that were written \(CRC-32C differs\)")
    changed = bytearray(index.read_bytes())
    changed[100] ^= 1
    index.write_bytes(changed)
    refused(copied, r"the block at byte 0 is not as it was written \(CRC-32C differs\)")


def test_any_changed_byte_of_the_index_is_refused_if_anything(copied: Path) -> None:
    index = copied / "bert_model.ckpt.index"
    whole = index.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(whole)
        for place in random.integers(len(whole) - 300, len(whole), 3):  # where the index's own sizes and places stand
            changed[place] = int(random.integers(256))
        index.write_bytes(changed)
        with contextlib.suppress(CheckpointError):  # and nothing else
            google_bert.find(copied).tensors()


def test_index_that_lies(tmp_path: Path) -> None:
    """Sizes, places and kinds that no file can have, with checks that hold."""
    prefix = tmp_path / "x.ckpt"
    index = tmp_path / "x.ckpt.index"
    data = np.ones(4, "<f4").tobytes()
    (tmp_path / "x.ckpt.data-00000-of-00001").write_bytes(data)
    header, entry = bundle_writer.header, bundle_writer.entry

    def opened(head: bytes, tensor: bytes, **table: Any) -> Bundle:
        index.write_bytes(bundle_writer.table([(b"", head), (b"t", tensor)], **table))
        return Bundle(prefix)

    good = entry(1, (4,), 0, data)
    np.testing.assert_array_equal(opened(header(), good).read("t"), np.ones(4))
    for make, expected in (
        (lambda: opened(header(), entry(1, (5,), 0, data)), r"of shape \(5,\) has 16 bytes, expected 20"),
        (lambda: opened(header(), entry(1, (1 << 40, 1 << 40), 0, data)), r"has 16 bytes, expected"),
        (lambda: opened(header(), entry(1, (1 << 40,), 0, data, size=1 << 42)), r"truncated: found 16 bytes"),
        (lambda: opened(header(), entry(1, (4,), 1 << 50, data)), r"truncated: found 16 bytes"),
        (lambda: opened(header(), entry(1, (4,), 0, data, shard=3)), r"is in data file 3, expected one of 1"),
        (lambda: opened(header(), entry(1, (1,) * 9, 0, data)), r"damaged: a tensor's shape is"),
        (lambda: opened(header(), entry(9, (2,), 0, data)), r"tensor t holds int64, expected real numbers"),
        (lambda: opened(header(), entry(77, (2,), 0, data)), r"tensor t holds type 77, expected real numbers"),
        (lambda: opened(header(endianness=2), good), r"byte order 2, expected 0 \(little-endian\) or 1 \(big-endian\)"),
        (lambda: opened(header(num_shards=0), good), r"damaged: 0 data files"),
        (lambda: opened(header(num_shards=2), good), r"data-00000-of-00002: cannot be read"),
        (lambda: opened(header(), good, compression=1), r"is compressed \(kind 1\)"),
        (lambda: opened(header(), good + b"\xff" * 11), r"damaged: a number does not end"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            make().read("t")


def test_wrong_byte_order_is_seen(tmp_path: Path) -> None:
    """Bytes of one order under a header of the other: the values would be nonsense, and nothing in them says so. The
    CRC is over the bytes, so only a size that does not fit, or a person, can tell; what is read is what is written."""
    values = {"t": np.array([1.0, 2.0], np.float32)}
    bundle_writer.write(tmp_path / "x.ckpt", values, endianness=1)
    np.testing.assert_array_equal(Bundle(tmp_path / "x.ckpt").read("t"), values["t"])
    data = tmp_path / "x.ckpt.data-00000-of-00001"
    data.write_bytes(np.array([1.0, 2.0], "<f4").tobytes())
    with pytest.raises(CheckpointError, match="CRC-32C differs"):
        Bundle(tmp_path / "x.ckpt").read("t")


def test_missing_extra_and_misshapen_tensors(copied: Path) -> None:
    prefix = copied / "bert_model.ckpt"
    values = {name: tensor for name, tensor in all_of(prefix).items() if "/adam_" not in name}
    layer = "bert/encoder/layer_1"
    cases: list[tuple[dict[str, Any], str]] = [
        ({f"{layer}/output/dense/bias": None}, r"tensor bert/encoder/layer_1/output/dense/bias is missing"),
        ({"cls/predictions/output_bias": None}, r"tensor cls/predictions/output_bias is missing"),
        ({"bert/encoder/layer_2/output/dense/bias": np.ones(16, "f4")}, r"layer_2/output/dense/bias is not one that"),
        ({f"{layer}/output/dense/kernel": np.ones((16, 32), "f4")}, r"has shape \(16, 32\), expected \(32, 16\) from"),
        ({"bert/embeddings/word_embeddings": np.ones((39, 16), "f4")}, r"shape \(39, 16\), expected \(40, 16\)"),
    ]
    for changes, expected in cases:
        bundle_writer.write(prefix, {k: v for k, v in (values | changes).items() if v is not None})
        refused(copied, expected)


def test_broken_settings_and_vocabulary(copied: Path) -> None:
    config, vocabulary = copied / "bert_config.json", copied / "vocab.txt"
    settings, tokens = json.loads(config.read_text()), vocabulary.read_text()
    for changed, expected in (
        ({"num_attention_heads": 3}, "hidden_size 16 is no multiple of num_attention_heads 3"),
        ({"num_attention_heads": None}, "num_attention_heads is None, expected a whole number above 0"),
        ({"hidden_size": 32}, r"has shape \(40, 16\), expected \(40, 32\) from .*bert_config\.json"),
    ):
        config.write_text(json.dumps(settings | changed))
        refused(copied, expected)
    config.write_text("{")
    refused(copied, r"bert_config\.json: cannot be read as JSON")
    config.unlink()
    refused(copied, r"bert_config\.json: cannot be read \(No such file")
    config.write_text(json.dumps(settings))
    vocabulary.write_text(tokens + "more\n")
    refused(copied, r"vocab\.txt: found 41 lines, expected at most the 40 of bert_config\.json")
    vocabulary.write_text("a\nb\n")
    refused(copied, r"no \[PAD\]")
    vocabulary.unlink()
    refused(copied, r"no vocab\.txt; expected Google's beside bert_config\.json")


def test_several_checkpoints(copied: Path) -> None:
    index = copied / "bert_model.ckpt.index"
    shutil.copy(index, copied / "model.ckpt-100.index")
    index.rename(copied / "model.ckpt-200.index")
    refused(copied, r"found 2 checkpoints \(model\.ckpt-100, model\.ckpt-200\), expected one; name it")
