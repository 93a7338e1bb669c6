"""Google's checkpoints, as TensorFlow wrote them (tests/golden/make_tensorflow_checkpoints.py), and broken ones."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model import bundle_writer

import bertwright
from bertwright.errors import CheckpointError
from bertwright.model import casing, google_bert
from bertwright.model.batch import flat_batch
from bertwright.model.checkpoint import load_classifier, load_for_training
from bertwright.model.masked_checkpoint import load_masked
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


def test_pretraining_takes_it_with_its_head() -> None:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    loaded = load_masked(str(GOLDEN / "pretraining"), 8, 0, None, off)
    assert any("head for masked tokens is taken along" in note for note in loaded.notes)
    expected = expected_of("pretraining")
    ids, segments = (expected[name].long() for name in ("token_ids", "segments"))
    second_starts = np.array([int((row == 0).sum()) for row in segments])
    batch = flat_batch(ids.flatten().numpy(), np.full(len(ids), ids.shape[1]), second_starts=second_starts)
    with torch.no_grad():
        found = loaded.model.logits(batch)
    close(found, expected["masked_language_model"].flatten(0, 1))


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


def converted(folder: Path, **how: Any) -> tuple[dict[str, Any], Any, Any]:
    """tokenizer_config.json, our tokenizer and transformers' of what a checkpoint is converted to."""
    from transformers import AutoTokenizer

    out = folder.with_name(f"{folder.name}-out")
    shutil.rmtree(out, ignore_errors=True)
    bertwright.convert(folder, out, **how)
    ours, theirs = load_tokenizer(out), AutoTokenizer.from_pretrained(out)
    for text in ("GOOD film für schön", "The Movie was Bad. É é e"):
        assert ours.encode([text])[0].tolist() == theirs(text)["input_ids"], text
    return json.loads((out / "tokenizer_config.json").read_text()), ours, theirs


def last_tokens(folder: Path, *tokens: str) -> None:
    """Put ``tokens`` in the place of the last ones of a vocabulary."""
    lines = (folder / "vocab.txt").read_text().splitlines()[: -len(tokens)]
    (folder / "vocab.txt").write_text("\n".join([*lines, *tokens]) + "\n")


def test_accents_stay_where_an_uncased_vocabulary_has_them(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last_tokens(copied, "für", "schön", "film")
    settings, _, theirs = converted(copied)
    assert (settings["do_lower_case"], settings["strip_accents"]) == (True, False)
    assert theirs.convert_ids_to_tokens(theirs("FILM für schön")["input_ids"])[1:-1] == ["film", "für", "schön"]
    said = " ".join(capsys.readouterr().err.split())
    assert "the vocabulary has no capital letters: texts are lower-cased" in said
    assert "the vocabulary has letters with accents (2 of 35 tokens): texts keep them" in said


@pytest.mark.parametrize("odd", ["COVID", "Ꭰ", "<S>"])
def test_one_odd_token_does_not_make_a_model_cased(copied: Path, odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    last_tokens(copied, odd)
    assert converted(copied)[0]["do_lower_case"] is True
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"few capital letters \(1 of 3\d tokens with letters\): texts are lower-cased", said)


def test_tokenizer_config_beside_the_files_is_followed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "tokenizer_config.json"
    path.write_text(json.dumps({"do_lower_case": False}))
    assert converted(copied)[0]["do_lower_case"] is False
    assert f"texts are not lower-cased, as {path} says" in " ".join(capsys.readouterr().err.split())
    assert load_tokenizer(copied).sha256 == converted(copied, quiet=True)[1].sha256
    path.write_text(json.dumps({"strip_accents": False, "model_max_length": 7}))
    assert converted(copied)[0] == {
        "strip_accents": False,
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 24,
    }
    path.write_text(json.dumps({"do_lower_case": "no"}))
    refused(copied, r"tokenizer_config\.json: do_lower_case is 'no', expected true or false")


def test_casing_can_be_asked_for(copied: Path) -> None:
    (copied / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert converted(copied, cased=True)[0]["do_lower_case"] is False
    (copied / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert converted(copied, cased=False)[0]["do_lower_case"] is True
    settings = converted(copied, cased=False, strip_accents=False)[0]
    assert (settings["do_lower_case"], settings["strip_accents"]) == (True, False)
    (copied / "tokenizer_config.json").unlink()
    last_tokens(copied, "für", "schön")
    assert converted(copied, strip_accents=True)[0]["strip_accents"] is True
    assert converted(copied, cased=False)[0]["strip_accents"] is False


def test_real_vocabulary_is_for_lower_case_without_accents() -> None:
    path = Path(os.environ.get("BERTWRIGHT_DATA", "")) / "vocabularies" / "bert-base-uncased" / "vocab.txt"
    if not path.is_file():
        pytest.skip("BERTWRIGHT_DATA with vocabularies/bert-base-uncased is not there")
    words = casing.words_of(path.read_text())
    assert casing.guess_lowercase(words) == (True, "the vocabulary has no capital letters: texts are lower-cased")
    assert casing.guess_keeps_accents(words) == (False, None)


def test_settings_beside_the_weights_and_vocabulary_elsewhere(copied: Path, tmp_path: Path) -> None:
    """--vocabulary names where the vocabulary is, and takes nothing away from the weights."""
    other = tmp_path / "vocabulary"
    other.mkdir()
    (copied / "vocab.txt").rename(other / "vocab.txt")
    expected = load_tokenizer(GOLDEN / "pretraining").sha256
    assert converted(copied, vocabulary=other)[1].sha256 == expected
    (copied / "bert_config.json").rename(other / "bert_config.json")
    assert converted(copied, vocabulary=other)[1].sha256 == expected
    (other / "vocab.txt").rename(copied / "vocab.txt")
    assert converted(copied, vocabulary=other)[1].sha256 == expected


def test_tokenizer_json_beside_tensorflows_files(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bertwright.convert(copied, copied / "first", cased=True, quiet=True)
    shutil.copy(copied / "first" / "tokenizer.json", copied)
    expected = load_tokenizer(copied / "first").sha256
    assert expected != load_tokenizer(GOLDEN / "pretraining").sha256
    bertwright.convert(copied, copied / "second")
    assert f"the tokenizer is that of {copied / 'tokenizer.json'}" in " ".join(capsys.readouterr().err.split())
    assert load_tokenizer(copied / "second").sha256 == expected
    for given in (copied, copied / "bert_model.ckpt"):
        assert load_for_training(str(given), ["a", "b"], "first", 20, seed=0).tokenizer.sha256 == expected
    with pytest.raises(CheckpointError, match=r"tokenizer\.json says already how texts are written"):
        bertwright.convert(copied, copied / "third", cased=True, quiet=True)


def test_model_max_length_is_the_models(copied: Path) -> None:
    assert converted(copied)[0]["model_max_length"] == 24
    assert json.loads(load_tokenizer(copied).hugging_face_files["tokenizer_config.json"])["model_max_length"] == 24


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


def opened_index(prefix: Path, index: bytes) -> Bundle:
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    return Bundle(prefix)


def index_of(blocks: bytes, handles: list[tuple[int, int]]) -> bytes:
    """An index whose data blocks are said to be at ``handles`` (place, size)."""
    varint = bundle_writer.varint
    index = bundle_writer.block([(b"z%09d" % i, varint(at) + varint(size)) for i, (at, size) in enumerate(handles)])
    nothing = bundle_writer.block([])
    footer = varint(len(blocks)) + varint(len(nothing) - 5)
    footer += varint(len(blocks) + len(nothing)) + varint(len(index) - 5)
    return blocks + nothing + index + footer.ljust(40, b"\0") + bundle_writer.MAGIC.to_bytes(8, "little")


def block_of_shared_keys(keys: list[bytes]) -> bytes:
    """A block whose keys are written without the beginning that they share with the one before."""
    varint, head, before = bundle_writer.varint, bundle_writer.header(), b""
    content = varint(0) + varint(0) + varint(len(head)) + head
    for key in keys:
        shared = next((i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), len(before))
        content += varint(shared) + varint(len(key) - shared) + varint(0) + key[shared:]
        before = key
    trailed = content + (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\0"
    return trailed + bundle_writer.masked(bundle_writer.crc32c(trailed))


def test_keys_that_grow_with_each_entry(tmp_path: Path) -> None:
    """60,000 entries of a byte each would be 1.8 GB of keys."""
    block = block_of_shared_keys([b"a" * i for i in range(1, 5000)])
    with pytest.raises(CheckpointError, match=r"damaged: a key of 4,097 bytes, expected at most 4,096"):
        opened_index(tmp_path / "x.ckpt", index_of(block, [(0, len(block) - 5)]))
    block = block_of_shared_keys([b"a" * 4000 + b"%05d" % i for i in range(5000)])
    with pytest.raises(CheckpointError, match=r"more than 100,000 entries, or 16,777,216 bytes of keys"):
        opened_index(tmp_path / "x.ckpt", index_of(block, [(0, len(block) - 5)]))


def test_block_that_is_named_many_times(tmp_path: Path) -> None:
    block = bundle_writer.block([(b"", bundle_writer.header()), (b"a", b"")])
    handles = [(0, len(block) - 5)] * 20_000
    with pytest.raises(CheckpointError, match=r"the block at byte 0 begins before the end of the one before it"):
        opened_index(tmp_path / "x.ckpt", index_of(block, handles))


def test_keys_that_do_not_ascend(tmp_path: Path) -> None:
    for keys in ((b"", b"b", b"a"), (b"", b"a", b"a")):
        block = bundle_writer.block([(key, b"" if key else bundle_writer.header()) for key in keys])
        with pytest.raises(CheckpointError, match=r"damaged: key b'a' is not after the one before it"):
            opened_index(tmp_path / "x.ckpt", index_of(block, [(0, len(block) - 5)]))


def test_tensors_at_the_same_place(tmp_path: Path) -> None:
    """A small data file that many tensors are read from, each in full."""
    data = np.ones(4, "<f4").tobytes()
    entries = [(b"", bundle_writer.header())]
    entries += [(b"t%d" % i, bundle_writer.entry(1, (4,), 0, data)) for i in range(3)]
    with pytest.raises(CheckpointError, match="tensors t0 and t1 are at the same place of a data file"):
        opened_index(tmp_path / "x.ckpt", bundle_writer.table(entries))


def test_name_that_breaks_the_line(tmp_path: Path) -> None:
    data = np.ones(4, "<f4").tobytes()
    entries = [(b"", bundle_writer.header()), (b"a\nb", bundle_writer.entry(1, (4,), 0, data))]
    with pytest.raises(CheckpointError, match=r"damaged: 'a\\nb' is no tensor's name"):
        opened_index(tmp_path / "x.ckpt", bundle_writer.table(entries))


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
        ({"num_hidden_layers": 10**7}, "num-hidden-layers: found 10000000; input should be less than or equal to 1000"),
        ({"vocab_size": 0}, "vocab-size: found 0"),
        ({"hidden_act": "relu"}, r"bert_config\.json: hidden_act is 'relu'; this encoder computes 'gelu' only"),
        ({"hidden_act": ["x"]}, "hidden_act is a list; this encoder computes 'gelu' only"),
        ({"hidden_dropout_prob": "abc"}, "hidden-dropout-prob: found 'abc'"),
        ({"attention_probs_dropout_prob": 7}, "attention-probs-dropout-prob: found 7"),
        ({"initializer_range": float("inf")}, "initializer-range: found inf"),
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
