"""Checkpoints are taken whole or refused by the name of what is wrong; nothing in them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import random_sequences
from tests.forked_python import run_python
from tests.hub_stand_in import StandIn
from tests.model.families import CASES, save_tokenizer
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaModel,
)

import bertwright
from bertwright.errors import CheckpointError
from bertwright.model import checkpoint, sources
from bertwright.model.batch import pack
from bertwright.model.checkpoint import load_classifier, load_for_training, pooler_is_missing, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.masked_checkpoint import load_masked
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import load_tokenizer

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
LABELS = ("clean", "toxic")


@pytest.fixture(scope="module")
def tokenizer(minilm_folder):
    return load_tokenizer(minilm_folder)


@pytest.fixture
def folder(tmp_path, tokenizer) -> Path:
    """A tiny BertForSequenceClassification as transformers saves it."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=tokenizer.vocab_size, **SHAPE, id2label={0: "clean", 1: "toxic"})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "tiny")
    tokenizer.save(tmp_path / "tiny")
    return tmp_path / "tiny"


def load(folder: Path, labels=LABELS, pooling="first", kind="classes"):
    return load_for_training(str(folder), labels, pooling, 128, 0, kind=kind)


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_a_missing_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match=r"tensor encoder\.layer\.1\.output\.dense\.bias is missing"):
        load(folder)


def test_an_extra_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"bert.encoder.layer.2.new.weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"tensor encoder\.layer\.2\.new\.weight is not one of BERT's"):
        load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder):
    name = "bert.encoder.layer.0.attention.self.key.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(32, 31)}))
    with pytest.raises(CheckpointError, match=r"self\.key\.weight has shape \(32, 31\), expected \(32, 32\)"):
        load(folder)


def test_a_tensor_of_whole_numbers_is_named(folder):
    name = "bert.pooler.dense.bias"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(32, dtype=torch.int64)}))
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias holds torch\.int64"):
        load(folder)


def test_known_buffers_and_other_heads_are_skipped_and_said(tmp_path, tokenizer):
    config = BertConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    model = BertForPreTraining(config)
    model.save_pretrained(tmp_path / "pretraining")
    tokenizer.save(tmp_path / "pretraining")
    position_ids = {"bert.embeddings.position_ids": torch.arange(512)}
    change_tensors(tmp_path / "pretraining", lambda tensors: tensors.update(position_ids))
    notes = " ".join(load(tmp_path / "pretraining").notes)
    assert "embeddings.position_ids" in notes
    assert "cls.predictions.transform.dense.weight" in notes
    assert "cls.seq_relationship.weight" in notes
    assert "no classifier: initialised at random" in notes


def test_a_checkpoint_without_prefix_and_pooler_gets_a_pooler(tmp_path, tokenizer):
    model = BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **SHAPE), add_pooling_layer=False)
    model.save_pretrained(tmp_path / "bare")
    tokenizer.save(tmp_path / "bare")
    assert "embeddings.word_embeddings.weight" in load_file(tmp_path / "bare" / "model.safetensors")
    loaded = load(tmp_path / "bare")
    assert any("no pooler: initialised at random" in note for note in loaded.notes)
    assert loaded.model.pooler is not None
    assert loaded.model.pooler.dense.weight.std() > 0.01
    meaned = load(tmp_path / "bare", pooling="mean")
    assert "the checkpoint has no pooler: the classifier reads the mean of all tokens" in meaned.notes
    save_model(tmp_path / "ours", meaned.model.config, meaned.model.state_dict(), meaned.tokenizer, meaned.settings)
    assert load_classifier(str(tmp_path / "ours")).notes == []  # its own classifier has learnt from the mean


def test_a_missing_pooler_is_seen_where_the_family_has_one(tmp_path, tokenizer, folder):
    shape = {"vocab_size": tokenizer.vocab_size, **SHAPE}
    BertModel(BertConfig(**shape), add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    RobertaModel(RobertaConfig(**shape), add_pooling_layer=False).save_pretrained(tmp_path / "roberta")
    assert pooler_is_missing(str(tmp_path / "bare"))
    assert not pooler_is_missing(str(tmp_path / "roberta"))
    assert not pooler_is_missing(str(folder))
    assert not pooler_is_missing("some/hub-name")
    assert not pooler_is_missing("m" * 400)
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"damaged")
    assert not pooler_is_missing(str(tmp_path / "bare"))


def test_a_classifier_is_kept_for_its_labels_and_replaced_for_others(folder):
    theirs = load_file(folder / "model.safetensors")["classifier.weight"]
    kept = load(folder)
    assert torch.equal(kept.model.classifier.linear.weight, theirs)
    other = load(folder, labels=("a", "b", "c"))
    assert other.model.classifier.linear.weight.shape == (3, 32)
    assert any("for other labels" in note for note in other.notes)


def test_the_head_follows_from_the_seed(folder):
    first = load_for_training(str(folder), ("a", "b"), "first", 128, 1).model.classifier.linear.weight
    again = load_for_training(str(folder), ("a", "b"), "first", 128, 1).model.classifier.linear.weight
    other = load_for_training(str(folder), ("a", "b"), "first", 128, 2).model.classifier.linear.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bin_files_give_the_same_weights(folder):
    expected = load(folder).model.state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load(folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_old_norm_names_are_understood(folder):
    expected = load(folder).model.state_dict()
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load(folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpoints_in_parts_are_read(folder):
    expected = load(folder).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for part, part_names in parts.items():
        save_file({name: tensors[name] for name in part_names}, folder / part)
    weight_map = {name: part for part, part_names in parts.items() for name in part_names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    found = load(folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    outside = {name: "../" + part for name, part in weight_map.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": outside}))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        load(folder)


class Explosive:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_no_code_in_a_bin_file_is_run(folder, tmp_path, writer):
    (folder / "model.safetensors").unlink()
    trap = tmp_path / "sprung"
    if writer == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.x": Explosive(trap)}, protocol=2))
    else:
        torch.save({"bert.x": Explosive(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*refused without running it") as caught:
        load(folder)
    assert not trap.exists()
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_one_clear_error(folder, damage, name):
    if name == "pytorch_model.bin":
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "garbage": b"\xff" * 1000, "empty": b""}[damage]
    (folder / name).write_bytes(damaged)
    with pytest.raises(CheckpointError, match=name) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 5}, "no multiple of num_attention_heads 5"),
        ({"num_hidden_layers": 10**9}, "num.hidden.layers"),
        ({"hidden_size": "wide"}, "hidden.size"),
        ({"num_hidden_layers": 3}, r"encoder\.layer\.2\..* is missing"),
        ({"vocab_size": 1000}, r"word_embeddings\.weight has shape"),
    ],
)
def test_configurations_that_cannot_be_computed_are_refused(folder, values, message):
    change_config(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "\x00"])
def test_a_broken_config_is_one_clear_error(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(folder)


def test_a_tokenizer_is_needed(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load(folder)


def test_a_length_beyond_the_positions_is_refused(folder):
    with pytest.raises(CheckpointError, match="512 positions"):
        load_for_training(str(folder), LABELS, "first", 513, 0)


def test_random_weights_are_said_loudly():
    loaded = load_for_training("bert-tiny", LABELS, "first", 128, 0)
    assert any("RANDOM" in warning for warning in loaded.warnings)
    assert loaded.model.config.num_hidden_layers == 2
    weight = loaded.model.encoder.layers[0].feed_forward.expand.weight
    assert abs(weight.std().item() - 0.02) < 0.001
    assert torch.equal(loaded.model.encoder.embeddings.norm.weight, torch.ones(128))


def test_minilm_is_the_official_model_or_refused(minilm_folder, tmp_path, monkeypatch):
    folder, description = find_folder("all-MiniLM-L6-v2")
    assert folder == minilm_folder
    assert "hashes checked" in description
    monkeypatch.setitem(sources.MINILM_SHA256, "tokenizer.json", "0" * 64)
    with pytest.raises(CheckpointError, match="not to be trusted"):
        find_folder("all-MiniLM-L6-v2")


def test_mean_pooling_is_saved_where_transformers_cannot_mistake_it(tmp_path):
    loaded = load_for_training("bert-tiny", LABELS, "mean", 128, 0)
    save_model(tmp_path / "mean", loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    assert json.loads((tmp_path / "mean" / "config.json").read_text())["architectures"] == ["BertModel"]
    assert not any(name.startswith("classifier") for name in load_file(tmp_path / "mean" / "model.safetensors"))
    again = load_classifier(str(tmp_path / "mean"))
    batch = pack(random_sequences([4, 9], 1000))
    with torch.no_grad():
        torch.testing.assert_close(again.model.eval()(batch), loaded.model.eval()(batch))


def test_saved_folders_can_be_read_by_others(tmp_path):
    loaded = load_for_training("bert-tiny", LABELS, "first", 128, 0)
    save_model(tmp_path / "m", loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    expected = 0o666 & ~checkpoint._umask()
    assert (tmp_path / "m" / "model.safetensors").stat().st_mode & 0o777 == expected
    assert not list((tmp_path / "m").glob("*.partial"))


def test_unusable_settings_of_a_saved_classifier_are_refused(folder):
    (folder / "bertwright.json").write_text('{"labels": ["a"], "colour": 1}')
    with pytest.raises(CheckpointError, match="colour"):
        load_classifier(str(folder))


def test_settings_round_trip():
    settings = ClassifierSettings(labels=("a", "b"), pooling="mean", max_length=9, threshold=0.3, temperature=2.0)
    assert ClassifierSettings(**json.loads(settings.model_dump_json())) == settings


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def hub(folder):
    """A stand-in for the hub on loopback that holds the tiny model as stand/in."""
    with StandIn() as hub:
        hub.repositories["stand/in"] = files_of(folder)
        yield hub


def fetch(name: str, cache: Path, **environment: str) -> subprocess.CompletedProcess:
    """Loads a model in a process of its own, since huggingface_hub reads its environment once."""
    program = f"""
import sys
from bertwright.errors import UserError
from bertwright.model.checkpoint import load_classifier
try:
    loaded = load_classifier({name!r})
    print(loaded.description, loaded.settings.labels)
except UserError as error:
    print(error)
    sys.exit(2)
"""
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP", "http"))}
    env = {**cleared, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return run_python(["-c", program], env=env, timeout=120)


def test_hub_names_are_fetched_cached_and_then_found_offline(hub, tmp_path):
    done = fetch("stand/in", tmp_path / "cache", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stand/in from the hub ('clean', 'toxic')" in done.stdout
    assert any("model.safetensors" in path for path in hub.asked)
    asked = len(hub.asked)
    offline = fetch("stand/in", tmp_path / "cache", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stdout + offline.stderr
    assert len(hub.asked) == asked


def test_byte_level_tokenizers_are_fetched_with_their_model(hub, folder, tmp_path):
    shutil.rmtree(folder)
    folder.mkdir()
    case = CASES["roberta"]
    case.model(save_tokenizer(case, folder), id2label=dict(enumerate("abc"))).save_pretrained(folder)
    hub.repositories["stand/in"] = files_of(folder)
    done = fetch("stand/in", tmp_path / "cache", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stand/in from the hub ('a', 'b', 'c')" in done.stdout
    for name in ("vocab.json", "merges.txt"):
        assert any(path.endswith(name) for path in hub.asked)


def test_hub_names_that_are_not_there_are_one_clear_line(hub, tmp_path):
    done = fetch("nobody/nothing", tmp_path / "cache", HF_ENDPOINT=hub.url)
    assert done.returncode == 2, done.stderr
    assert "nobody/nothing: no such folder, and no such public model on the hub" in done.stdout
    offline = fetch("nobody/nothing", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2, offline.stderr
    assert "HF_HUB_OFFLINE is set" in offline.stdout
    unreachable = fetch("nobody/nothing", tmp_path / "cache", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.returncode == 2, unreachable.stderr
    assert "cannot be reached" in unreachable.stdout


def test_a_run_folder_names_its_model(folder, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(folder, tmp_path / "run" / "model")
    assert find_folder(str(tmp_path / "run"))[0] == tmp_path / "run" / "model"


def saved_by_transformers(path: Path, tokenizer, **values) -> BertForSequenceClassification:
    """A small random classifier, saved as transformers does; louder than BERT's first weights: its logits differ."""
    torch.manual_seed(0)
    theirs = BertForSequenceClassification(BertConfig(vocab_size=tokenizer.vocab_size, **SHAPE, **values)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(path)
    tokenizer.save(path)
    return theirs


def their_logits(theirs: BertForSequenceClassification, sequences) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([theirs(input_ids=torch.from_numpy(ids)[None]).logits for ids in sequences])


THREE = {0: "toxic", 1: "obscene", 2: "threat"}


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ({"id2label": THREE, "problem_type": "multi_label_classification"}, "multi-label", tuple(THREE.values())),
        ({"id2label": THREE, "problem_type": "single_label_classification"}, "classes", tuple(THREE.values())),
        ({"id2label": THREE}, "classes", tuple(THREE.values())),
        ({"id2label": {0: "stars"}, "problem_type": "regression"}, "regression", ("stars",)),
        ({"num_labels": 1}, "regression", ("LABEL_0",)),
        ({"id2label": {0: "toxic"}, "problem_type": "multi_label_classification"}, "multi-label", ("toxic",)),
    ],
)
def test_classifiers_of_transformers_of_every_kind_give_their_logits(tmp_path, tokenizer, values, kind, labels):
    theirs = saved_by_transformers(tmp_path / "theirs", tokenizer, **values)
    loaded = load_classifier(str(tmp_path / "theirs"))
    assert (loaded.settings.kind, loaded.settings.labels) == (kind, labels)
    assert any("no problem_type" in note for note in loaded.notes) == (values == {"num_labels": 1})
    sequences = random_sequences([3, 17, 40], 1000)
    with torch.no_grad():
        ours = loaded.model.eval()(pack(sequences))
    torch.testing.assert_close(ours, their_logits(theirs, sequences), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels", "problem"),
    [
        ("classes", ("a", "b"), "single_label_classification"),
        ("soft", ("a", "b"), "single_label_classification"),
        ("multi-label", ("a", "b", "c"), "multi_label_classification"),
        ("multi-label", ("a",), "multi_label_classification"),
        ("regression", ("stars",), "regression"),
    ],
)
def test_saved_classifiers_of_every_kind_are_read_by_transformers_and_by_us(tmp_path, kind, labels, problem):
    loaded = load_for_training("bert-tiny", labels, "first", 128, 0, kind=kind)
    assert loaded.head_is_new
    folder = tmp_path / "saved"
    save_model(folder, loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    theirs = BertForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.problem_type == problem
    assert theirs.config.num_labels == len(labels)
    assert theirs.config.id2label == dict(enumerate(labels))
    again = load_classifier(str(folder))
    assert again.settings == loaded.settings
    assert again.settings.kind == kind
    sequences = random_sequences([3, 17], 1000)
    with torch.no_grad():
        ours = again.model.eval()(pack(sequences))
    torch.testing.assert_close(ours, their_logits(theirs, sequences), atol=1e-5, rtol=1e-5)
    # And transformers' own training takes it for what it is.
    targets = {
        "single_label_classification": torch.tensor([1]),
        "multi_label_classification": torch.ones(1, len(labels)),
        "regression": torch.tensor([2.5]),
    }[problem]
    assert torch.isfinite(theirs(input_ids=torch.from_numpy(sequences[0])[None], labels=targets).loss)


@pytest.mark.parametrize(
    ("saved", "asked", "kept"),
    [
        ("multi-label", "multi-label", True),
        ("multi-label", "classes", False),
        ("classes", "multi-label", False),
        ("soft", "classes", True),
        ("classes", "soft", True),
        ("soft", "multi-label", False),
    ],
)
def test_training_goes_on_with_the_head_of_the_same_kind_only(tmp_path, saved, asked, kept):
    first = load_for_training("bert-tiny", LABELS, "first", 128, 7, kind=saved)
    folder = tmp_path / "first"
    save_model(folder, first.model.config, first.model.state_dict(), first.tokenizer, first.settings)
    again = load(folder, kind=asked)
    assert again.settings.kind == asked
    assert again.head_is_new == (not kept)
    same = torch.equal(again.model.classifier.linear.weight, first.model.classifier.linear.weight)
    assert same == kept
    said = "goes on from it" if kept else "labels of another kind"
    assert any(said in note for note in again.notes)


def test_heads_of_transformers_are_kept_by_kind(tmp_path, tokenizer):
    values = {"id2label": {0: "clean", 1: "toxic"}, "problem_type": "multi_label_classification"}
    theirs = saved_by_transformers(tmp_path / "theirs", tokenizer, **values)
    assert torch.equal(
        load(tmp_path / "theirs", kind="multi-label").model.classifier.linear.weight, theirs.classifier.weight
    )
    other = load(tmp_path / "theirs")
    assert other.head_is_new
    assert any("multi_label_classification, not single_label_classification" in note for note in other.notes)
    saved_by_transformers(tmp_path / "number", tokenizer, id2label={0: "stars"})
    assert not load(tmp_path / "number", labels=("stars",), kind="regression").head_is_new
    assert load(tmp_path / "number", labels=("grade",), kind="regression").head_is_new


def test_kinds_that_cannot_be_are_one_clear_error(folder):
    change_config(folder, problem_type="token_classification")
    with pytest.raises(CheckpointError, match="problem_type is 'token_classification', expected one of single_label"):
        load_classifier(str(folder))
    change_config(folder, problem_type="regression")
    with pytest.raises(CheckpointError, match="one for a regression, found clean, toxic"):
        load_classifier(str(folder))
    change_config(folder, problem_type="single_label_classification", id2label={"0": "score"}, label2id={"score": 0})
    with pytest.raises(CheckpointError, match="labels must be 2 or more"):
        load_classifier(str(folder))


def test_tensors_that_share_their_memory_are_made_whole(folder):
    """An expanded tensor has one number for all places; learning in place would write over itself."""
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.pooler.dense.bias"] = torch.ones(1).expand(32)
    shared = tensors["bert.encoder.layer.0.attention.self.key.weight"]
    tensors["bert.encoder.layer.0.attention.self.query.weight"] = shared
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = load(folder).model
    assert model.pooler.dense.bias.stride() == (1,)
    attention = model.encoder.layers[0].attention
    assert attention.query.weight.data_ptr() != attention.key.weight.data_ptr()


def test_a_sparse_tensor_is_refused_by_name(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.pooler.dense.weight"] = tensors["bert.pooler.dense.weight"].to_sparse()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.weight is not a plain dense tensor"):
        load(folder)


def test_a_classifier_on_means_is_not_taken_for_one_on_first_tokens(tmp_path):
    loaded = load_for_training("bert-tiny", LABELS, "mean", 128, 3)
    save_model(tmp_path / "mean", loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    theirs = loaded.model.classifier.linear.weight
    kept = load_for_training(str(tmp_path / "mean"), LABELS, "mean", 128, 0)
    assert torch.equal(kept.model.classifier.linear.weight, theirs)
    assert any("training goes on from it" in note for note in kept.notes)
    other = load_for_training(str(tmp_path / "mean"), LABELS, "first", 128, 0)
    assert not torch.equal(other.model.classifier.linear.weight, theirs)


@pytest.mark.parametrize(
    "values",
    [
        {"max_length": 0},
        {"max_length": 5000},
        {"temperature": 0},
        {"temperature": -1},
        {"threshold": 9},
        {"format": 99},
        {"labels": ["a", "a"]},
        {"labels": ["a"]},
        {"labels": ["a"], "kind": "soft"},
        {"labels": ["a", "b"], "kind": "regression"},
        {"labels": [], "kind": "multi-label"},
        {"kind": "ranks"},
    ],
)
def test_impossible_settings_of_a_saved_classifier_are_refused(folder, values):
    (folder / "bertwright.json").write_text(json.dumps({"labels": ["clean", "toxic"], **values}))
    with pytest.raises(CheckpointError):
        load_classifier(str(folder))


@pytest.mark.parametrize("content", ["9" * 5000, "[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"])
def test_json_made_to_break_its_reader_is_one_clear_error(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_a_huge_shape_is_refused_before_memory_is_asked_for(folder):
    change_config(folder, vocab_size=10_000_000, hidden_size=65_536)
    with pytest.raises(CheckpointError, match=r"has shape .*, expected \(10000000, 65536\)"):
        load(folder)


def test_a_tokenizer_with_ids_beyond_the_model_is_refused(folder):
    tokenizer_json = json.loads((folder / "tokenizer.json").read_text())
    tokenizer_json["model"]["vocab"]["zebra"] = 40_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json))
    with pytest.raises(CheckpointError, match="40,001 tokens"):
        load(folder)


def test_names_that_are_no_names_are_one_clear_error():
    for name in ("x" * 300, "~nobody-of-that-name/model", "a/b/c/d"):
        with pytest.raises(CheckpointError):
            find_folder(name)


def test_a_run_without_a_model_says_so(tmp_path):
    from bertwright.runs import RunWriter

    RunWriter(tmp_path / "run", "evaluate", {})
    with pytest.raises(CheckpointError, match="a run without a model"):
        find_folder(str(tmp_path / "run"))


@pytest.mark.parametrize("use", ["train", "classifier", "masked", "tokenizer"])
def test_notes_of_a_checkpoint_in_another_layout_are_said_when_it_is_used_directly(use, tmp_path, capsys):
    """What bertwright convert says of it: how its texts are cased, what was left out."""
    folder = Path(__file__).resolve().parents[1] / "golden" / "tensorflow"
    folder = shutil.copytree(folder / ("classifier" if use == "classifier" else "pretraining"), tmp_path / "bert")
    bertwright.convert(folder, tmp_path / "converted")
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if "TensorFlow 1 checkpoint" not in line and "written in" not in line]
    assert said
    if use == "tokenizer":
        notes = load_tokenizer(folder).notes
        assert notes
        assert set(notes) <= set(said)
        return
    if use == "masked":
        notes = load_masked(str(folder), 16, 0, None, {}).notes
    elif use == "train":
        notes = load_for_training(str(folder), ("a", "b"), "first", 16, 0).notes
    else:
        notes = load_classifier(str(folder)).notes
    assert sorted(note for note in notes if note in said) == sorted(said)


def test_loading_a_model_does_not_load_pytorchs_compiler(minilm_folder):
    program = (
        "import sys\nfrom bertwright.model.checkpoint import load_for_training\n"
        f"load_for_training({str(minilm_folder)!r}, ('0', '1'), 'first', 32, 0)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
