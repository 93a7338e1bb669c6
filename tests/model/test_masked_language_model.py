"""The masked language model: equal to transformers', its cross-entropy and gradients equal to the formula."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bertwright.config.base import build
from bertwright.errors import CheckpointError
from bertwright.model.batch import Readers, flat_batch
from bertwright.model.checkpoint import load_for_training
from bertwright.model.compiled import load_kernels
from bertwright.model.encoder import ModelConfig
from bertwright.model.gpu_encoder import GpuEncoder
from bertwright.model.masked_checkpoint import load_masked, save_masked
from bertwright.model.masked_language_model import TABLE, MaskedLanguageModel
from bertwright.model.tied_cross_entropy import TileCrossEntropy
from bertwright.model.tokenizer import tokenizer_from_vocabulary
from bertwright.model.word_embeddings import STANDARD_DEVIATION, principal_components

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(92)), "##s", "##ing", "##ed"]
TOKENIZER = tokenizer_from_vocabulary("\n".join(WORDS) + "\n", {}, "test")


def config_of(vocab_size=101, hidden_size=64, **others):
    return build(
        ModelConfig,
        {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 2 * hidden_size,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **others,
        },
    )


def random_model(config, seed=0):
    torch.manual_seed(seed)
    model = MaskedLanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.1)
    return model


def masked_batch(config, lengths=(20, 3, 64, 9), counts=(3, 1, 10, 0), seed=0):
    generator = np.random.default_rng(seed)
    lengths = np.array(lengths)
    ids = generator.integers(0, config.vocab_size, lengths.sum())
    places = np.cumsum(lengths) - lengths
    rows = [
        np.sort(generator.choice(length, count, replace=False)) + place
        for length, count, place in zip(lengths, counts, places, strict=True)
    ]
    starts = np.append(0, np.cumsum(counts)).astype(np.int32)
    readers = Readers(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts), max(counts))
    targets = torch.from_numpy(generator.integers(0, config.vocab_size, sum(counts)))
    return flat_batch(ids, lengths), readers, targets


def gradients_of(model):
    fast = model.cpu_encoder
    found = {} if fast is None else {"encoder." + name: value for name, value in fast.gradients().items()}
    return {name: found.get(name, parameter.grad) for name, parameter in model.named_parameters()}


def test_saved_folder_gives_the_same_logits_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = config_of(len(WORDS))
    model = random_model(config)
    save_masked(tmp_path, config, model.state_dict(), TOKENIZER)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "BertForMaskedLM"
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 30)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)[None]).logits[0]
        found = model.logits(flat_batch(ids, np.array([30])))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_checkpoint_of_transformers_is_loaded_with_its_head(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"vocab_size": len(WORDS), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = transformers.BertForMaskedLM(
        transformers.BertConfig(**settings, intermediate_size=96, max_position_embeddings=64)
    ).eval()
    with torch.no_grad():
        theirs.cls.predictions.bias.normal_()
    theirs.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    loaded = load_masked(str(tmp_path), 32, 0, None, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    assert not loaded.is_new
    assert any("head for masked tokens is taken along" in note for note in loaded.notes)
    ids = np.arange(5, 25)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)[None]).logits[0]
        found = loaded.model.logits(flat_batch(ids, np.array([20])))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_pooler_that_is_left_out_is_said(minilm_folder):
    notes = load_masked(str(minilm_folder), 32, 0, None, {}).notes
    assert any("reads whole texts, is left out" in note for note in notes)


@pytest.mark.parametrize("damage", [lambda head: head.to(torch.int64), lambda head: torch.full_like(head, torch.nan)])
def test_a_head_that_holds_no_numbers_is_refused(tmp_path, damage):
    from safetensors.torch import load_file, save_file

    config = config_of(len(WORDS))
    save_masked(tmp_path, config, random_model(config).state_dict(), TOKENIZER)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.bias"] = damage(tensors["cls.predictions.bias"])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor cls\.predictions\.bias holds what is no finite real number"):
        load_masked(str(tmp_path), 32, 0, None, {})


def test_a_saved_folder_is_a_model_for_training(tmp_path):
    config = config_of(len(WORDS))
    model = random_model(config)
    save_masked(tmp_path, config, model.state_dict(), TOKENIZER)
    loaded = load_for_training(str(tmp_path), ("0", "1"), "first", 32, 0)
    assert torch.equal(loaded.model.state_dict()[TABLE], model.state_dict()[TABLE])
    assert any("no pooler" in note for note in loaded.notes)


def test_an_untied_or_half_head_is_refused_by_name(tmp_path):
    from safetensors.torch import load_file, save_file

    config = config_of(len(WORDS))
    save_masked(tmp_path, config, random_model(config).state_dict(), TOKENIZER)
    whole = load_file(tmp_path / "model.safetensors")
    untied = {**whole, "cls.predictions.decoder.weight": torch.zeros(len(WORDS), 64)}
    save_file(untied, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.decoder\.weight differs"):
        load_masked(str(tmp_path), 32, 0, None, {})
    half = {name: tensor for name, tensor in whole.items() if name != "cls.predictions.bias"}
    save_file(half, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias is missing"):
        load_masked(str(tmp_path), 32, 0, None, {})
    misshapen = {**whole, "cls.predictions.bias": torch.zeros(3)}
    save_file(misshapen, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias has shape \(3,\)"):
        load_masked(str(tmp_path), 32, 0, None, {})


@pytest.mark.parametrize(
    ("dtype", "accelerate", "most"),
    [
        (torch.float32, False, 1e-4),
        (torch.float32, True, 1e-4),
        (torch.bfloat16, False, 0.08),
        (torch.bfloat16, True, 0.08),
    ],
)
def test_loss_and_gradients_are_those_of_the_formula(dtype, accelerate, most):
    if accelerate and load_kernels().kernels is None:
        pytest.skip(load_kernels().reason)
    config = config_of(1003, 128)
    plain = random_model(config)
    batch, readers, targets = masked_batch(config)
    expected = functional.cross_entropy(plain.logits(batch)[readers.rows], targets, reduction="sum") / 7
    expected.backward()
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    model = random_model(config).compute_in(dtype, accelerate)
    found = model.loss(batch, readers, targets, 1 / 7)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5 if dtype == torch.float32 else 3e-3)
    for name, gradient in gradients_of(model).items():
        if name.endswith("key.bias"):  # is 0: what is added to all keys changes no softmax
            continue
        difference = gradient.float().reshape(wanted[name].shape) - wanted[name]
        assert float(difference.norm() / wanted[name].norm()) < most, name
    scored = model.score(batch, readers, targets)
    assert float(scored.losses.sum()) / 7 == pytest.approx(expected.item(), rel=1e-2)


def test_scores_tell_whether_the_target_is_likeliest():
    config = config_of(1003, 128)
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model(config).compute_in(dtype)
        batch, readers, _ = masked_batch(config)
        with torch.no_grad():
            likeliest = model.logits(batch, readers).argmax(1)
        targets = likeliest.clone()
        targets[::2] = (targets[::2] + 1) % config.vocab_size
        expected = torch.ones(len(targets), dtype=torch.bool)
        expected[::2] = False
        assert torch.equal(model.score(batch, readers, targets).correct, expected)


def test_logits_of_any_size_do_not_overflow_on_tiles():
    config = config_of(1003, 128)
    model = random_model(config).compute_in(torch.bfloat16)
    if not isinstance(model.output, TileCrossEntropy):
        pytest.skip("no AMX tiles here")
    x = torch.randn(40, 128, generator=torch.Generator().manual_seed(0)).bfloat16() * 60
    targets = torch.arange(40)
    logits = x.float() @ model.encoder.embeddings.token.weight.float().T + model.head.bias
    assert float(logits.detach().max()) > 150
    expected = functional.cross_entropy(logits, targets, reduction="none")
    found = model.output.score(x, targets).losses
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_what_is_no_number_stays_none_on_tiles():
    config = config_of(1003, 128)
    model = random_model(config).compute_in(torch.bfloat16)
    x = torch.zeros(3, 128, dtype=torch.bfloat16)
    x[1, 5] = float("nan")
    losses = model.output.score(x, torch.zeros(3, dtype=torch.int64)).losses
    assert torch.isnan(losses).tolist() == [False, True, False]


@pytest.mark.parametrize("lengths", [(20, 3, 64, 9), (20, 19, 18, 20)])
def test_the_last_layer_for_some_tokens_equals_the_whole_one_compiled_too(lengths):
    config = config_of()
    batch, readers, _ = masked_batch(config, lengths)
    model = random_model(config).eval()
    with torch.no_grad():
        every = model.encoder(batch)[readers.rows]
        assert torch.allclose(model.encoder(batch, only=readers), every, atol=1e-5)
        fast = GpuEncoder(model.encoder, "blocks", graphs=False, backend="eager")
        assert torch.allclose(fast(batch, readers), every, atol=1e-5)


def test_a_loss_that_was_scaled_is_refused_where_the_table_is_already_made():
    model = random_model(config_of(1003, 128)).compute_in(torch.bfloat16)
    if model.cpu_encoder is None:
        pytest.skip("no C kernels here")
    batch, readers, targets = masked_batch(model.config)
    with pytest.raises(ValueError, match="go back from the loss as it is"):
        (2 * model.loss(batch, readers, targets, 1.0)).backward()


def test_config_names_the_class_that_transformers_loads(tmp_path):
    config = config_of(len(WORDS))
    save_masked(tmp_path, config, random_model(config).state_dict(), TOKENIZER)
    values = json.loads((Path(tmp_path) / "config.json").read_text())
    assert values["architectures"] == ["BertForMaskedLM"]
    assert (tmp_path / "vocab.txt").is_file()


def test_weights_from_nothing_may_start_wider_but_learnt_ones_stay(minilm_folder):
    wide = load_masked("bert-tiny", 32, 0, None, {}, initializer_range=0.06)
    weight = wide.model.encoder.layers[0].feed_forward.expand.weight
    assert abs(weight.std().item() - 0.06) < 0.003
    assert wide.saved_config.initializer_range == 0.06
    with pytest.raises(CheckpointError, match="have learnt already"):
        load_masked(str(minilm_folder), 32, 0, None, {}, initializer_range=0.06)


def test_a_small_model_may_start_with_the_words_of_a_large_one(minilm_folder):
    plain = load_masked("bert-tiny", 32, 0, None, {})
    given = load_masked("bert-tiny", 32, 0, None, {}, word_embeddings=str(minilm_folder))
    name = "encoder.embeddings.token.weight"
    table, others = given.model.state_dict()[name], given.model.state_dict()
    for key, tensor in plain.model.state_dict().items():
        assert key == name or torch.equal(tensor, others[key])
    assert abs(table.std().item() - STANDARD_DEVIATION) < 1e-6
    assert "% of their variance" in given.notes[-1]
    known = given.tokenizer.encode(["good great table"])[0][1:4]
    good, great, chair = torch.nn.functional.normalize(table[torch.from_numpy(known.astype("int64"))], dim=1)
    assert good @ great > good @ chair + 0.2


def test_principal_components_are_those_of_a_singular_value_decomposition():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 6, generator=generator) * torch.tensor([5.0, 1.0, 3.0, 0.2, 2.0, 0.1]) + 7.0
    found, share = principal_components(table, 3)
    left, sizes, _ = torch.linalg.svd(table - table.mean(0), full_matrices=False)
    expected = left[:, :3] * sizes[:3]
    expected = expected * (STANDARD_DEVIATION / expected.std())
    assert torch.allclose(found.abs(), expected.abs(), atol=1e-5)
    assert abs(share - ((sizes[:3] ** 2).sum() / (sizes**2).sum()).item()) < 1e-5


def test_words_of_a_model_that_cannot_give_them_are_refused(minilm_folder, tmp_path):
    with pytest.raises(CheckpointError, match="have learnt already; --word-embeddings is for bert-tiny"):
        load_masked(str(minilm_folder), 32, 0, None, {}, word_embeddings=str(minilm_folder))
    with pytest.raises(CheckpointError, match="a model from nothing knows no words"):
        load_masked("bert-tiny", 32, 0, None, {}, word_embeddings="bert-base")
    with pytest.raises(CheckpointError, match="384 numbers, expected at least 512"):
        load_masked("bert-small", 32, 0, None, {}, word_embeddings=str(minilm_folder))
    config = config_of(len(WORDS), 128)
    save_masked(tmp_path, config, random_model(config).state_dict(), TOKENIZER)
    with pytest.raises(CheckpointError, match="its vocabulary is not that of the model that starts; give --tokenizer"):
        load_masked("bert-tiny", 32, 0, None, {}, word_embeddings=str(tmp_path))
    broken = {key: torch.full_like(tensor, float("nan")) for key, tensor in random_model(config).state_dict().items()}
    save_masked(tmp_path, config, broken, TOKENIZER)
    with pytest.raises(CheckpointError, match="not finite"):
        load_masked("bert-tiny", 32, 0, str(tmp_path), {}, word_embeddings=str(tmp_path))
