"""One harness for all families: ids, hidden states and logits equal those of transformers; saved models are theirs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.model.families import CASES, LENGTHS, SECOND_STARTS, TEXTS, Case, padded, random_ids, save_tokenizer

from bertwright.errors import CheckpointError, UserError
from bertwright.model.batch import Batch, flat_batch
from bertwright.model.checkpoint import (
    empty_model,
    initial_state,
    load_classifier,
    load_for_training,
    save_model,
)
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder
from bertwright.model.encoder import Encoder, ModelConfig
from bertwright.model.heads import TextClassifier
from bertwright.model.name_tables import NAMES
from bertwright.model.onnx import save_graph
from bertwright.model.tokenizer import load_tokenizer, pair_up

ALL = pytest.mark.parametrize("name", CASES)
FAMILIES = pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "ernie", "distilbert", "electra"])
VOCABULARY = 300
LABELS = ("a", "b", "c")


def saved(name: str, tmp_path: Path, vocab_size: int | None = None) -> tuple[Case, object, Path]:
    """A case, transformers' model of it, and the folder that it is saved in, with a tokenizer."""
    case, folder = CASES[name], tmp_path / name
    folder.mkdir(exist_ok=True)
    found = save_tokenizer(case, folder)
    theirs = case.model(vocab_size or found, id2label=dict(enumerate(LABELS)))
    theirs.save_pretrained(folder)
    return case, theirs, folder


def pairs_batch(case: Case, vocab_size: int) -> Batch:
    second_starts = SECOND_STARTS if case.segments else None
    return flat_batch(random_ids(vocab_size), LENGTHS, second_starts=second_starts)


def their_logits(case: Case, theirs, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return theirs(**padded(case, batch, theirs.config.pad_token_id)).logits


@ALL
@pytest.mark.parametrize("kernels", [True, False])
def test_logits_equal_transformers(name, kernels, tmp_path):
    case, theirs, folder = saved(name, tmp_path, VOCABULARY)
    loaded = load_classifier(str(folder))
    loaded.model.eval().compute_in(torch.float32, accelerate=kernels)
    if kernels and load_kernels().kernels is not None:
        assert isinstance(loaded.model.encoder.fast, CpuEncoder)
    assert loaded.settings.labels == LABELS
    assert loaded.settings.max_length == 64
    batch = pairs_batch(case, VOCABULARY)
    with torch.no_grad():
        found = loaded.model(batch)
    expected = their_logits(case, theirs, batch)
    assert float(expected.std()) > 0.1
    assert float((found - expected).abs().max()) < 1e-5


@ALL
def test_hidden_states_equal_transformers(name, tmp_path):
    case, theirs, folder = saved(name, tmp_path, VOCABULARY)
    encoder = load_classifier(str(folder)).model.eval().encoder
    batch = pairs_batch(case, VOCABULARY)
    with torch.no_grad():
        given = padded(case, batch, theirs.config.pad_token_id)
        expected = theirs(**given, output_hidden_states=True).hidden_states
        x = encoder.embeddings(batch)
        found = [x]
        for layer in encoder.layers:
            found.append(x := layer(x, batch))
    real = given["attention_mask"].bool()
    assert len(found) == len(expected) == 4
    for ours, states in zip(found, expected, strict=True):
        assert float((ours - states[real]).abs().max()) < 1e-5


def model_of(config: ModelConfig, pooling: str = "first", kernels: bool = True) -> TextClassifier:
    model = empty_model(config, 3, pooling)
    generator = torch.Generator().manual_seed(0)
    state = initial_state(model, config, 0)
    state = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.compute_in(torch.float32, accelerate=kernels).eval()


def config_of(name: str) -> ModelConfig:
    values = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    return ModelConfig.from_hugging_face(CASES[name].config(VOCABULARY).to_dict(), name).model_copy(update=values)


@pytest.mark.skipif(load_kernels().kernels is None, reason="no C kernels here")
@ALL
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_kernels_learn_as_the_plain_encoder_does(name, pooling):
    plain, ours = (model_of(config_of(name), pooling, kernels).train() for kernels in (False, True))
    config = plain.config
    second_starts = None if config.type_vocab_size == 1 else SECOND_STARTS
    batch = flat_batch(random_ids(VOCABULARY), LENGTHS, second_starts=second_starts)
    for model in (plain, ours):
        torch.nn.functional.cross_entropy(model(batch), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    found = ours.cpu_encoder.gradients()
    for parameter_name, parameter in plain.encoder.named_parameters():
        gradient = found.pop(parameter_name)
        if parameter_name == "embeddings.token.weight":
            gradient = torch.zeros(parameter.shape).index_copy(
                0, torch.from_numpy(gradient.rows).long(), gradient.values
            )
        assert float((gradient - parameter.grad).abs().max()) < 2e-5, parameter_name
    assert not found


@pytest.mark.skipif(
    load_kernels().kernels is None or not load_kernels().kernels.has_bf16_products, reason="no fast bfloat16 here"
)
@ALL
def test_the_kernels_in_bfloat16_err_like_the_plain_encoder(name):
    """Low precision is right when its error is under three times the plain one's of the same precision."""
    exact, plain, ours = (model_of(config_of(name), kernels=kernels) for kernels in (False, False, True))
    plain.compute_in(torch.bfloat16, accelerate=False)
    ours.compute_in(torch.bfloat16)
    assert isinstance(ours.encoder.fast, CpuEncoder)
    batch = flat_batch(random_ids(VOCABULARY), LENGTHS)
    with torch.no_grad():
        expected, by_plain, found = (model.encoder(batch).float() for model in (exact, plain, ours))
    assert float((found - expected).abs().mean()) < 3 * float((by_plain - expected).abs().mean())


@ALL
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_onnx_graph_gives_the_same_logits(name, pooling, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_of(config_of(name), pooling, kernels=False)
    state = {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}
    save_graph(tmp_path / "graph.onnx", model.config, state, pooling)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    batch = flat_batch(random_ids(VOCABULARY), LENGTHS)
    given = padded(CASES[name], batch, model.config.pad_token_id)
    found = session.run(None, {key: given[key].numpy() for key in ("input_ids", "attention_mask")})[0]
    with torch.no_grad():
        assert float((torch.from_numpy(found) - model(batch)).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["roberta", "ernie-with-tasks", "distilbert", "electra-narrow"])
def test_the_embeddings_compile_whole(name):
    """What a GPU computes by torch.compile can be traced without a break; all else is the same for all families."""
    encoder = model_of(config_of(name), kernels=False).encoder
    compiled = torch.compile(encoder.embeddings, backend="eager", fullgraph=True, dynamic=True)
    batch = pairs_batch(CASES[name], VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch), encoder.embeddings(batch))


@ALL
def test_gradients_of_the_head_equal_transformers(name, tmp_path):
    case, theirs, folder = saved(name, tmp_path, VOCABULARY)
    model = load_classifier(str(folder)).model
    batch, targets = pairs_batch(case, VOCABULARY), torch.tensor([0, 1, 2, 0, 1, 2])
    for found in (model.eval()(batch), theirs(**padded(case, batch, theirs.config.pad_token_id)).logits):
        torch.nn.functional.cross_entropy(found, targets).backward()
    ours = dict(model.named_parameters())
    names, prefix = NAMES[case.model_type], ModelConfig(model_type=case.model_type).family.tensor_prefix
    expected = {name.removeprefix(prefix): parameter.grad for name, parameter in theirs.named_parameters()}
    for our_name, their_name in (*names.classifier, *names.pooler, *names.encoder(3)):
        if our_name in ours and our_name != "encoder.embeddings.token.weight":
            assert float((ours[our_name].grad - expected[their_name]).abs().max()) < 2e-5, their_name


@ALL
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_windows_are_pooled(name, pooling):
    model = model_of(config_of(name), pooling)
    text_starts = np.array([0, 1, 4, 6])
    with torch.no_grad():
        each = model(flat_batch(random_ids(VOCABULARY), LENGTHS))
        for window_pooling in ("mean", "max"):
            model.window_pooling = window_pooling
            found = model(flat_batch(random_ids(VOCABULARY), LENGTHS, text_starts=text_starts))
            pool = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}[window_pooling]
            expected = torch.stack([pool(each[a:b]) for a, b in itertools.pairwise(text_starts)])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@ALL
def test_a_saved_model_is_a_model_of_its_family(name, tmp_path):
    """transformers loads what we save, without a missing or an extra tensor, and gives the same logits."""
    case, _, folder = saved(name, tmp_path)
    loaded = load_for_training(str(folder), LABELS, "first", 32, 0)
    model, config = loaded.model.eval(), loaded.model.config
    save_model(tmp_path / "ours", config, model.state_dict(), loaded.tokenizer, loaded.settings)
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(theirs).__name__ == f"{case.class_prefix}ForSequenceClassification"
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    batch = pairs_batch(case, config.vocab_size)
    with torch.no_grad():
        assert float((model(batch) - their_logits(case, theirs.eval(), batch)).abs().max()) < 1e-5
        again = load_classifier(str(tmp_path / "ours"))
        assert torch.equal(again.model.eval()(batch), model(batch))
    assert again.model.config == config
    assert again.settings.max_length == 32


@ALL
def test_a_model_over_the_mean_is_the_bare_encoder_and_a_file_beside(name, tmp_path):
    case, _, folder = saved(name, tmp_path)
    loaded = load_for_training(str(folder), LABELS, "mean", 32, 0)
    assert any("over another pooling" in note for note in loaded.notes)
    save_model(tmp_path / "mean", loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    values = json.loads((tmp_path / "mean" / "config.json").read_text())
    assert values["architectures"] == [f"{case.class_prefix}Model"]
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path / "mean", output_loading_info=True)
    assert all("pooler" in missing for missing in report["missing_keys"])
    assert not report["unexpected_keys"]
    again = load_classifier(str(tmp_path / "mean"))
    batch = pairs_batch(case, loaded.model.config.vocab_size)
    with torch.no_grad():
        assert torch.equal(again.model.eval()(batch), loaded.model.eval()(batch))
        given = padded(case, batch, loaded.model.config.pad_token_id)
        states = theirs.eval()(**given).last_hidden_state[given["attention_mask"].bool()]
        assert float((again.model.encoder(batch) - states).abs().max()) < 1e-5


# --- what is in a checkpoint ------------------------------------------------------------------------------------------

PRETRAINING = {
    "bert": ("ForPreTraining", "cls.predictions.transform.dense.weight"),
    "roberta": ("ForMaskedLM", "lm_head.layer_norm.weight"),
    "xlm-roberta": ("ForMaskedLM", "lm_head.dense.bias"),
    "ernie": ("ForPreTraining", "cls.seq_relationship.weight"),
    "distilbert": ("ForMaskedLM", "vocab_transform.weight"),
    "electra": ("ForPreTraining", "discriminator_predictions.dense_prediction.weight"),
    "electra-narrow": ("ForMaskedLM", "generator_predictions.dense.weight"),
}


@pytest.mark.parametrize("name", PRETRAINING)
def test_heads_of_pretraining_are_skipped_and_said(name, tmp_path):
    case, _, folder = saved(name, tmp_path)
    head, example = PRETRAINING[name]
    case.model(VOCABULARY, head).save_pretrained(folder)
    loaded = load_for_training(str(folder), LABELS, "first", 32, 0)
    said = " ".join(loaded.notes)
    assert example in said
    assert "no classifier: initialised at random" in said
    assert loaded.head_is_new
    with torch.no_grad():
        assert loaded.model.eval()(pairs_batch(case, VOCABULARY)).shape == (6, 3)


def test_what_roberta_base_and_an_ernie_file_hold_besides_is_skipped(tmp_path):
    for name, extra in (
        ("roberta", {"roberta.pooler.dense.weight": torch.zeros(64, 64), "roberta.pooler.dense.bias": torch.zeros(64)}),
        ("ernie", {"ernie.embeddings.task_type_embeddings.weight": torch.zeros(3, 64)}),
    ):
        _, _, folder = saved(name, tmp_path)
        change_tensors(folder, lambda tensors, extra=extra: tensors.update(extra))
        notes = " ".join(load_for_training(str(folder), LABELS, "first", 32, 0).notes)
        assert all(name.split(".", 1)[1] in notes for name in extra)


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@ALL
def test_missing_extra_and_misshapen_tensors_are_named(name, tmp_path):
    case, _, folder = saved(name, tmp_path)
    whole = load_file(folder / "model.safetensors")
    last = dict(NAMES[case.model_type].classifier)["classifier.linear.weight"]
    for dropped in whole:
        if dropped in ("bert.pooler.dense.weight", "bert.pooler.dense.bias", last) or "ernie.pooler" in dropped:
            continue  # may be missing
        save_file({key: value for key, value in whole.items() if key != dropped}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"tensor \S+ is missing") as caught:
            load_for_training(str(folder), LABELS, "first", 32, 0)
        assert dropped.split(".", 1)[1] in str(caught.value)
    save_file({**whole, "another.head.weight": torch.zeros(2)}, folder / "model.safetensors")
    title = ModelConfig(model_type=case.model_type).family.title
    with pytest.raises(CheckpointError, match=rf"another\.head\.weight is not one of {title}'s"):
        load_for_training(str(folder), LABELS, "first", 32, 0)
    save_file({**whole, last: torch.zeros(3, 63)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{last} has shape \(3, 63\), expected \(3, 64\)"):
        load_for_training(str(folder), LABELS, "first", 32, 0)


@FAMILIES
def test_a_classifier_for_other_labels_is_left_out_whole(name, tmp_path):
    _, _, folder = saved(name, tmp_path)
    loaded = load_for_training(str(folder), ("x", "y"), "first", 32, 0)
    assert any("for other labels" in note for note in loaded.notes)
    assert loaded.head_is_new
    if loaded.model.classifier.dense is not None:  # at BERT's rule, not the checkpoint's larger weights
        assert float(loaded.model.classifier.dense.weight.detach().std()) < 0.05


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("roberta", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("distilbert", {"activation": "relu"}, "activation is 'relu'"),
        ("distilbert", {"n_heads": 5}, "dim 64 is no multiple of n_heads 5"),
        ("roberta", {"pad_token_id": None}, "pad_token_id must be from 0"),
        ("roberta", {"pad_token_id": 65}, "pad_token_id must be from 0 to 64"),
        ("electra", {"type_vocab_size": 0}, "type_vocab_size must be 1 or more"),
        ("electra-narrow", {"embedding_size": 16}, r"word_embeddings\.weight has shape"),
        ("ernie", {"use_task_id": True}, r"task_type_embeddings\.weight is missing"),
        ("bert", {"model_type": "gpt2"}, "model_type is 'gpt2', expected one of bert, roberta, xlm-roberta, ernie"),
        ("bert", {"model_type": ["bert"]}, "model_type is"),
        ("bert", {"model_type": "electra"}, "missing|shape"),
    ],
)
def test_configurations_that_cannot_be_computed_are_refused(name, values, message, tmp_path):
    _, _, folder = saved(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(CheckpointError, match=message):
        load_for_training(str(folder), LABELS, "first", 32, 0)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_gelu_written_out_in_python_is_the_same_gelu(name, tmp_path):
    case, theirs, folder = saved(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["activation" if name == "distilbert" else "hidden_act"] = "gelu_python"
    (folder / "config.json").write_text(json.dumps(config))
    theirs = type(theirs).from_pretrained(folder).eval()
    loaded = load_for_training(str(folder), LABELS, "first", 32, 0)
    batch = flat_batch(random_ids(loaded.model.config.vocab_size), LENGTHS)
    with torch.no_grad():
        assert float((loaded.model.eval()(batch) - their_logits(case, theirs, batch)).abs().max()) < 1e-5


@FAMILIES
def test_a_length_beyond_the_positions_is_refused(name, tmp_path):
    _, _, folder = saved(name, tmp_path)
    assert load_for_training(str(folder), LABELS, "first", 64, 0).settings.max_length == 64
    with pytest.raises(CheckpointError, match=r"the length is 65 tokens, but .* has 64 positions"):
        load_for_training(str(folder), LABELS, "first", 65, 0)


def test_settings_that_a_config_leaves_out_are_the_family_s(tmp_path):
    for name, case in CASES.items():
        theirs = case.config_class()
        found = ModelConfig.from_hugging_face({"model_type": case.model_type}, name)
        for setting, value in found.to_hugging_face().items():
            known = 50265 if (name, setting) == ("roberta", "vocab_size") else getattr(theirs, setting)
            assert known == value or (name, setting) == ("xlm-roberta", "vocab_size"), (name, setting)


def test_no_family_has_an_encoder_of_its_own():
    for name in CASES:
        assert type(model_of(config_of(name)).encoder) is Encoder


# --- tokenizers -------------------------------------------------------------------------------------------------------


def their_tokenizer(folder: Path):
    return transformers.AutoTokenizer.from_pretrained(folder)


@FAMILIES
def test_ids_equal_transformers(name, tmp_path):
    case, _, folder = saved(name, tmp_path)
    ours = load_tokenizer(folder)
    theirs = their_tokenizer(folder)
    texts = [*TEXTS, "", " ", "  leading and trailing  ", "a\nb\tc", "x" * 300, "\u0301 e\u0301", "<br /> & <s>"]
    ids, starts, num_cut = ours.encode(texts, 16)
    expected = [theirs(text, truncation=True, max_length=16)["input_ids"] for text in texts]
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(starts)] == expected
    assert num_cut > 0
    assert {row[-1] for row in expected} == {ours.sep_id}
    marks = ("[CLS]", "[SEP]") if case.tokenizer == "wordpiece" else ("<s>", "</s>")
    assert (ours.cls_id, ours.sep_id) == tuple(theirs.convert_tokens_to_ids(marks))


@FAMILIES
@pytest.mark.parametrize("max_length", [8, 13, 16, 64])
def test_pairs_equal_transformers(name, max_length, tmp_path):
    case, _, folder = saved(name, tmp_path)
    ours, theirs = load_tokenizer(folder), their_tokenizer(folder)
    first, second = [*TEXTS, "a", "", TEXTS[0]], [*TEXTS[::-1], "b", TEXTS[1], ""]
    pair_format = ours.check_pairs()
    ids, starts, second_starts, _ = pair_up(
        ours.encode(first)[:2], ours.encode(second)[:2], max_length, pair_format.num_marks
    )
    expected = theirs(first, second, truncation="longest_first", max_length=max_length)
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(starts)] == expected["input_ids"]
    if case.segments:
        lengths = np.diff(starts).tolist()
        segments = [[int(i >= begin) for i in range(n)] for begin, n in zip(second_starts, lengths, strict=True)]
        assert segments == expected["token_type_ids"]
    assert pair_format.num_marks == (3 if case.tokenizer == "wordpiece" else 4)
    assert pair_format.segments == (case.tokenizer == "wordpiece")
    with pytest.raises(UserError, match="marks"):
        pair_up(ours.encode(first)[:2], ours.encode(second)[:2], 2, pair_format.num_marks)


@FAMILIES
def test_a_saved_tokenizer_gives_the_same_ids(name, tmp_path):
    _, _, folder = saved(name, tmp_path)
    ours = load_tokenizer(folder)
    (tmp_path / "again").mkdir()
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.sha256 == ours.sha256
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "again" / "tokenizer.json"))
    assert their_tokenizer(tmp_path / "again")(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]
    assert theirs(TEXTS)["input_ids"] == their_tokenizer(folder)(TEXTS)["input_ids"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", "expected an object of tokens"),
        ("vocab.json", "{", "cannot be read as JSON"),
        ("vocab.json", '{"<s>": 0, "<pad>": 1}', "no </s>, <unk>, <mask> among 2 tokens"),
        ("vocab.json", '{"<s>": 0, "<pad>": 0}', "twice"),
        ("vocab.json", '{"<s>": "0"}', "no whole numbers"),
        ("merges.txt", "#version: 0.2\na b c\n", "merges.txt, line 2: found 'a b c'"),
        ("merges.txt", "#version: 0.2\nzzz yyy\n", "merges.txt does not belong to it"),
        ("tokenizer_config.json", "[]", "not a JSON object"),
    ],
)
def test_damaged_byte_level_files_are_one_clear_error(name, content, message, tmp_path):
    save_tokenizer(CASES["roberta"], tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_sentencepiece_alone_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\x0a")
    with pytest.raises(CheckpointError, match=r"only sentencepiece reads, expected a tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_the_real_roberta_vocabulary_gives_transformers_ids(real_data, tmp_path):
    """vocab.json by the rule of fairseq's dict.txt: four marks, then line i is id 4 + i, and <mask> comes last."""
    folder = real_data / "vocabularies" / "roberta"
    numbers = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    words = {str(number): token for token, number in numbers.items()}
    ids = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for line in (folder / "dict.txt").read_text().splitlines():
        number = line.split(" ")[0]
        ids[words.get(number, number)] = len(ids)
    ids["<mask>"] = len(ids)
    assert len(ids) == 50265
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (tmp_path / "merges.txt").write_text((folder / "vocab.bpe").read_text(encoding="utf-8"), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    assert ours.encode(["Hello world"])[0].tolist() == [0, 31414, 232, 2]  # as transformers' documentation has it
    from bertwright.model.tokenizer import PROBES

    for text in (*PROBES, *TEXTS):
        assert ours.encode([text])[0].tolist() == theirs(text)["input_ids"], text
    assert ours.vocab_size == 50265
