"""The encoder equals transformers', and a text scores the same alone or in company."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
import torch
from tests.conftest import random_sequences
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from bertwright.model.batch import pack
from bertwright.model.checkpoint import empty_model, initial_state, load_classifier, load_for_training, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import SIZES, ModelConfig
from bertwright.model.heads import linear_of_any_rows

LABELS = ("clean", "toxic")


def their_logits(model: BertForSequenceClassification, sequences: list[np.ndarray]) -> torch.Tensor:
    """transformers' way: a rectangle with padding and a mask."""
    longest = max(map(len, sequences))
    token_ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for i, ids in enumerate(sequences):
        token_ids[i, : len(ids)] = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        mask[i, : len(ids)] = 1
    with torch.no_grad():
        return model.eval()(input_ids=token_ids, attention_mask=mask).logits


def our_logits(model, sequences: list[np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pack(sequences))


def random_model(config: ModelConfig, num_labels: int = 2, pooling="first", seed: int = 0):
    """Random weights larger than BERT's, and biases that are not zero, so that no mistake can hide."""
    model = empty_model(config, num_labels, pooling)
    state = initial_state(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def theirs_of(model, tmp_path, tokenizer):
    """The same weights in transformers, by way of a saved folder."""
    num_labels = model.classifier.linear.out_features
    settings = ClassifierSettings(labels=tuple(f"label {i}" for i in range(num_labels)))
    save_model(tmp_path / "saved", model.config, model.state_dict(), tokenizer, settings)
    return AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")


@pytest.fixture(scope="module")
def minilm():
    return load_for_training("all-MiniLM-L6-v2", LABELS, "first", 512, 0)


@pytest.fixture(scope="module")
def texts(examples) -> list[str]:
    """256 texts of 5 to 512 tokens: sentences of the demo data, 40 of them joined to longer ones."""
    rows = []
    for name in ("comments_train.csv", "comments_test.csv"):
        with open(examples / name, encoding="utf-8", newline="") as file:
            rows += [row["text"] for row in csv.DictReader(file)]
    joined = [" ".join(rows[i : i + 1 + i]) for i in range(1, 41)]
    return ["So good!", "Oh dear!", *joined, *rows[:214]]


def check_parity(minilm, texts: list[str], tmp_path) -> np.ndarray:
    """Ours in batches of short and long texts together, theirs padded: below 1e-5 apart. Returns the lengths."""
    ids, starts, _ = minilm.tokenizer.encode(texts, 512)
    sequences = [ids[a:b] for a, b in itertools.pairwise(starts)]
    lengths = np.diff(starts)
    theirs = theirs_of(minilm.model, tmp_path, minilm.tokenizer)
    by_length = np.argsort(-lengths, kind="stable")  # theirs in batches of like length: little padding, the same logits
    expected = torch.zeros(len(texts), 2)
    for start in range(0, len(texts), 16):
        rows = by_length[start : start + 16]
        expected[rows] = their_logits(theirs, [sequences[row] for row in rows])
    for first in range(16):
        mixed = np.arange(first, len(texts), 16)
        ours = our_logits(minilm.model, [sequences[row] for row in mixed])
        assert (ours - expected[mixed]).abs().max() < 1e-5
    return lengths


def test_logits_equal_transformers_on_real_weights_and_texts(minilm, texts, tmp_path):
    lengths = check_parity(minilm, texts, tmp_path)
    assert len(lengths) == 256
    assert lengths.min() == 5
    assert lengths.max() == 512


def test_logits_equal_transformers_on_toxic_comments(minilm, real_data, tmp_path):
    with open(real_data / "toxic_comments" / "train_1.csv", encoding="utf-8", newline="") as file:
        texts = [row["comment_text"] for row in csv.DictReader(file)][:128]
    lengths = check_parity(minilm, texts, tmp_path)
    assert lengths.min() < 12
    assert lengths.max() == 512


@pytest.mark.parametrize(
    ("size", "num_labels"),
    [("bert-tiny", 5), ("bert-mini", 2), ("bert-small", 3), ("bert-medium", 2), ("bert-base", 5)],
)
def test_logits_equal_transformers_for_random_shapes(size, num_labels, minilm, tmp_path):
    config = ModelConfig.of_size(size, 997).model_copy(update={"max_position_embeddings": 80})
    model = random_model(config, num_labels)
    theirs = theirs_of(model, tmp_path, minilm.tokenizer)
    sequences = random_sequences([1, 80, 17, 3, 44, 44, 2], config.vocab_size)
    ours, reference = our_logits(model, sequences), their_logits(theirs, sequences)
    # Logits of these loud weights reach past 1; the bound holds relative to their size.
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_text_scores_the_same_alone_or_in_company(pooling):
    config = ModelConfig.of_size("bert-mini", 500)
    model = random_model(config, pooling=pooling)
    sequences = random_sequences([9, 1, 120, 33, 34, 2, 77], config.vocab_size)
    together = our_logits(model, sequences)
    order = [3, 0, 6, 5, 1, 4, 2]
    shuffled = our_logits(model, [sequences[i] for i in order])
    for i, ids in enumerate(sequences):
        torch.testing.assert_close(our_logits(model, [ids])[0], together[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shuffled[order.index(i)], together[i], atol=1e-5, rtol=1e-5)


def test_the_last_layer_for_the_first_token_alone_is_exact():
    config = ModelConfig.of_size("bert-mini", 500)
    model = random_model(config)
    batch = pack(random_sequences([12, 5, 60], config.vocab_size))
    with torch.no_grad():
        every, first = model.encoder(batch), model.encoder(batch, only_first=True)
    assert every.shape == (77, 256)
    torch.testing.assert_close(first, every[batch.seq_starts[:-1].long()], atol=1e-5, rtol=1e-5)


def test_gradients_equal_transformers(minilm, tmp_path):
    """One backward pass through the whole model, by way of the first-token shortcut and our attention's backward."""
    config = ModelConfig.of_size("bert-mini", 300).model_copy(
        update={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    model = random_model(config).train()
    theirs = theirs_of(model, tmp_path, minilm.tokenizer).train()
    sequences = random_sequences([9, 30, 31, 2], config.vocab_size)
    targets = torch.tensor([0, 1, 1, 0])
    torch.nn.functional.cross_entropy(model(pack(sequences)), targets).backward()
    longest = 31
    token_ids = torch.zeros(4, longest, dtype=torch.long)
    mask = torch.zeros(4, longest, dtype=torch.long)
    for i, ids in enumerate(sequences):
        token_ids[i, : len(ids)], mask[i, : len(ids)] = torch.from_numpy(ids), 1
    theirs(input_ids=token_ids, attention_mask=mask, labels=targets).loss.backward()
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    pairs = {
        "encoder.embeddings.token.weight": "bert.embeddings.word_embeddings.weight",
        "encoder.embeddings.norm.weight": "bert.embeddings.LayerNorm.weight",
        "encoder.layers.0.attention.query.weight": "bert.encoder.layer.0.attention.self.query.weight",
        "encoder.layers.0.attention.key.weight": "bert.encoder.layer.0.attention.self.key.weight",
        "encoder.layers.3.attention.value.weight": "bert.encoder.layer.3.attention.self.value.weight",
        "encoder.layers.3.feed_forward.expand.weight": "bert.encoder.layer.3.intermediate.dense.weight",
        "encoder.layers.3.attention.query.bias": "bert.encoder.layer.3.attention.self.query.bias",
        "pooler.dense.weight": "bert.pooler.dense.weight",
        "classifier.linear.weight": "classifier.weight",
    }
    ours = dict(model.named_parameters())
    for name, their_name in pairs.items():
        torch.testing.assert_close(ours[name].grad, grads[their_name], atol=1e-5, rtol=1e-4)


def test_mean_pooling_is_the_mean_of_the_tokens():
    config = ModelConfig.of_size("bert-tiny", 100)
    model = random_model(config, pooling="mean")
    lengths = [4, 1, 9]
    batch = pack(random_sequences(lengths, 100))
    with torch.no_grad():
        tokens, features = model.encoder(batch), model.features(batch)
    expected = torch.stack([part.mean(0) for part in tokens.split(lengths)])
    torch.testing.assert_close(features, expected)


def test_segments_are_added():
    config = ModelConfig.of_size("bert-tiny", 100)
    model = random_model(config)
    batch = pack(random_sequences([6], 100))
    zeros = type(batch)(**{**vars(batch), "segment_ids": torch.zeros(6, dtype=torch.long)})
    ones = type(batch)(**{**vars(batch), "segment_ids": torch.ones(6, dtype=torch.long)})
    with torch.no_grad():
        torch.testing.assert_close(model(zeros), model(batch))
        assert (model(ones) - model(batch)).abs().max() > 1e-4


def test_sizes_have_the_published_numbers_of_parameters():
    """Turc et al. 2019 (arXiv 1908.08962), table 1: 4.4, 11.3, 29.1, 41.7, 110.1 million, head left out."""
    published = {"bert-tiny": 4.4, "bert-mini": 11.3, "bert-small": 29.1, "bert-medium": 41.7, "bert-base": 110.1}
    for size, millions in published.items():
        model = empty_model(ModelConfig.of_size(size, 30522), 2, "first")
        found = sum(p.numel() for p in model.encoder_parameters()) / 1e6
        # The paper's Base counts the masked-LM head's share; 0.7 is room for its rounding.
        assert abs(found - millions) < 0.7, size
    assert set(SIZES) == {*published, "bert-large"}


def test_transformers_saves_what_we_load(minilm, tmp_path):
    """The other direction: a model made and saved by transformers gives the same logits here."""
    config = BertConfig(
        vocab_size=minilm.tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        num_labels=3,
        id2label={0: "a", 1: "b", 2: "c"},
        label2id={"a": 0, "b": 1, "c": 2},
    )
    theirs = BertForSequenceClassification(config)
    theirs.save_pretrained(tmp_path / "theirs")
    minilm.tokenizer.save(tmp_path / "theirs")
    loaded = load_classifier(str(tmp_path / "theirs"))
    assert loaded.settings.labels == ("a", "b", "c")
    sequences = random_sequences([5, 80, 31], config.vocab_size)
    torch.testing.assert_close(
        our_logits(loaded.model, sequences), their_logits(theirs, sequences), atol=1e-5, rtol=1e-5
    )


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        pack([])
    with pytest.raises(ValueError, match="at least one"):
        pack([np.array([1, 2]), np.array([], dtype=np.int64)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 700])
def test_a_layer_gives_the_same_for_any_number_of_rows(monkeypatch, dtype, rows):
    """Scored in few shapes in half precision; learnt from as it is."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48).to(dtype), torch.randn(rows, 64).to(dtype)
    shapes = []
    real = functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, *rest: shapes.append(x.shape[0]) or real(x, *rest))
    plain = linear_of_any_rows(layer, x)
    with torch.no_grad():
        ours = linear_of_any_rows(layer, x)
    torch.testing.assert_close(ours, plain.detach(), atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1.6e-2)
    assert shapes == [rows, rows if dtype == torch.float32 else -(-rows // 32) * 32]
