"""fairseq's checkpoints against transformers, with the same weights and vocabulary."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model import fairseq_files as files
from tokenizers import Tokenizer

import bertwright
from bertwright.errors import CheckpointError
from bertwright.model import fairseq, pickles
from bertwright.model.batch import flat_batch
from bertwright.model.checkpoint import load_for_training
from bertwright.model.fairseq_settings import FairseqSettings, is_record
from bertwright.model.fairseq_vocabulary import tokenizer_files
from bertwright.model.masked_checkpoint import load_masked
from bertwright.model.tokenizer import load_tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "fairseq"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    files.write_vocabulary(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(vocabulary: Path) -> Any:
    return files.random_roberta(files.vocab_size(vocabulary))


@pytest.fixture
def folder(tmp_path: Path, vocabulary: Path, roberta: Any) -> Path:
    """A folder as fairseq's releases are, with the BPE's files in it."""
    made = tmp_path / "roberta"
    shutil.copytree(vocabulary, made)
    files.save(made / "model.pt", files.fairseq_tensors(roberta))
    return made


def token_ids(size: int) -> torch.Tensor:
    return torch.randint(4, size, (3, 11), generator=torch.Generator().manual_seed(5))


def masked_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=token_ids(model.config.vocab_size)).logits


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("names", ["new", "old"])
def test_converted_model_computes_the_same(
    folder: Path, roberta: Any, tmp_path: Path, legacy: bool, names: str
) -> None:
    from transformers import RobertaForMaskedLM

    tensors = files.fairseq_tensors(roberta)
    files.save(folder / "model.pt", files.old_names(tensors) if names == "old" else tensors, legacy=legacy)
    result = bertwright.convert(folder, tmp_path / "out", quiet=True)
    assert result["architecture"] == "RobertaForMaskedLM"
    converted, report = RobertaForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(masked_logits(converted.eval()), masked_logits(roberta), atol=TOLERANCE, rtol=0)
    assert converted.config.hidden_dropout_prob == 0.1
    assert converted.config.attention_probs_dropout_prob == 0.2


def test_pretraining_takes_it_with_its_head(folder: Path, roberta: Any) -> None:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    loaded = load_masked(str(folder), 32, 0, None, off)
    assert any("head for masked tokens is taken along" in note for note in loaded.notes)
    ids = token_ids(roberta.config.vocab_size)
    with torch.no_grad():
        found = loaded.model.logits(flat_batch(ids.flatten().numpy(), np.full(len(ids), ids.shape[1])))
    expected = masked_logits(roberta).flatten(0, 1)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_half_precision_is_widened(folder: Path, roberta: Any) -> None:
    half = {name: tensor.half() for name, tensor in files.fairseq_tensors(roberta).items()}
    files.save(folder / "model.pt", half)
    bertwright.convert(folder / "model.pt", folder / "out", quiet=True)
    from safetensors.torch import load_file

    found = load_file(folder / "out" / "model.safetensors")["roberta.embeddings.word_embeddings.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, half["encoder.sentence_encoder.embed_tokens.weight"].float())


def test_untied_output_table(folder: Path, roberta: Any) -> None:
    from transformers import RobertaForMaskedLM

    tensors = files.fairseq_tensors(roberta)
    tensors["encoder.lm_head.weight"] = tensors["encoder.lm_head.weight"] * 2.0
    files.save(folder / "model.pt", tensors, files.settings(untie_weights_roberta=True))
    bertwright.convert(folder, folder / "out", quiet=True)
    converted = RobertaForMaskedLM.from_pretrained(folder / "out").eval()
    bias = roberta.lm_head.bias.detach()
    expected = (masked_logits(roberta) - bias) * 2.0 + bias
    torch.testing.assert_close(masked_logits(converted), expected, atol=TOLERANCE, rtol=0)


def with_heads(tensors: dict[str, torch.Tensor], **heads: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    for name, num_labels in heads.items():
        for layer, outputs in (("dense", files.HIDDEN), ("out_proj", num_labels)):
            prefix = f"classification_heads.{name}.{layer}"
            tensors[f"{prefix}.weight"] = torch.randn(outputs, files.HIDDEN, generator=generator)
            tensors[f"{prefix}.bias"] = torch.randn(outputs, generator=generator)
    return tensors


def test_classification_head(folder: Path, roberta: Any) -> None:
    from transformers import RobertaForSequenceClassification

    tensors = with_heads(files.fairseq_tensors(roberta), mnli=3)
    files.save(folder / "model.pt", tensors)
    result = bertwright.convert(folder, folder / "out", quiet=True)
    assert (result["architecture"], result["labels"]) == ("RobertaForSequenceClassification", 3)
    converted = RobertaForSequenceClassification.from_pretrained(folder / "out").eval()
    ids = token_ids(roberta.config.vocab_size)
    with torch.no_grad():
        first = roberta.roberta(input_ids=ids).last_hidden_state[:, 0]
        head = {part: tensors[f"classification_heads.mnli.{part}"] for part in ("dense.weight", "dense.bias")}
        out = {part: tensors[f"classification_heads.mnli.{part}"] for part in ("out_proj.weight", "out_proj.bias")}
        dense = torch.tanh(first @ head["dense.weight"].T + head["dense.bias"])
        expected = dense @ out["out_proj.weight"].T + out["out_proj.bias"]
        found = converted(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert converted.config.classifier_dropout == 0.3


def test_one_of_several_heads(folder: Path, roberta: Any, capsys: pytest.CaptureFixture[str]) -> None:
    files.save(folder / "model.pt", with_heads(files.fairseq_tensors(roberta), mnli=3, sst=2))
    assert bertwright.convert(folder, folder / "none")["labels"] == 0
    assert "left out 2 classification heads (mnli, sst)" in " ".join(capsys.readouterr().err.split())
    assert bertwright.convert(folder, folder / "sst", head="sst", quiet=True)["labels"] == 2
    with pytest.raises(CheckpointError, match=r"no classification head 'cola'; it has mnli, sst"):
        bertwright.convert(folder, folder / "cola", head="cola", quiet=True)


@pytest.mark.parametrize("given", ["folder", "file", "converted"])
def test_our_encoder_takes_it_as_it_is(folder: Path, roberta: Any, given: str) -> None:
    """Without converting first, by its folder or its file; and converted."""
    pytest.importorskip("bertwright.model.families")
    from transformers import RobertaForSequenceClassification

    files.save(folder / "model.pt", with_heads(files.old_names(files.fairseq_tensors(roberta)), mnli=3), legacy=True)
    bertwright.convert(folder, folder / "out", quiet=True)
    names = {"folder": folder, "file": folder / "model.pt", "converted": folder / "out"}
    theirs = RobertaForSequenceClassification.from_pretrained(folder / "out").eval()
    text = "What a lovely film!"
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([reference_ids(text, folder)])).logits.softmax(-1)
    found = bertwright.load(names[given], dtype="float32").score([text])
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, atol=TOLERANCE, rtol=0)


# --- settings and pickles --------------------------------------------------------------------------------------------


def test_settings_of_newer_releases(folder: Path, roberta: Any) -> None:
    """``cfg`` as a plain dict that holds a Namespace, and as omegaconf's own objects, which are not imported."""
    tensors = files.fairseq_tensors(roberta)
    torch.save({"args": None, "cfg": {"model": files.settings()}, "model": tensors}, folder / "model.pt")
    assert fairseq.find(folder).config()["num_attention_heads"] == files.HEADS
    settings = FairseqSettings(pickles.load(GOLDEN / "omegaconf.pt", is_record), "omegaconf.pt")
    assert (settings.number("encoder_layers"), settings.number("encoder_attention_heads")) == (2, 2)
    assert settings.share("dropout", 0.5) == 0.1
    assert settings.is_said("encoder_layers_to_keep") is False
    settings.check_text("activation_fn", "gelu")
    settings.check_text("_name", "roberta_base")
    with pytest.raises(CheckpointError, match=r"omegaconf\.pt: _name is 'roberta_base', expected 'x'"):
        settings.check_text("_name", "x")


class Runs:
    """What a pickle can do: call ``function`` with ``arguments`` when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.mkdir, "mkdir"), (eval, "eval"), (exec, "exec"), (getattr, "getattr"), (Path.mkdir, "getattr")],
    ids=["mkdir", "eval", "exec", "getattr", "method"],
)
def test_malicious_pickle_is_refused(
    folder: Path, roberta: Any, function: Any, named: str, legacy: bool, tmp_path: Path
) -> None:
    made = tmp_path / "made-by-the-pickle"
    argument = f"__import__('os').mkdir({str(made)!r})" if function in (eval, exec) else str(made)
    files.save(folder / "model.pt", files.fairseq_tensors(roberta), legacy=legacy, bad=Runs(function, argument))
    with pytest.raises(CheckpointError, match=rf"refused without running it \(it names \S*{named}\)") as caught:
        bertwright.convert(folder, folder / "out", quiet=True)
    assert "\n" not in str(caught.value)
    assert not made.exists()
    assert not (folder / "out").exists()


def test_functions_under_fairseqs_name_are_not_run(folder: Path, roberta: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name that is installed, and does something, is neither imported nor called."""
    import sys
    import types

    called = []
    module = types.ModuleType("fairseq.evil")

    def spoil(*arguments: Any) -> argparse.Namespace:
        called.append(arguments)
        return argparse.Namespace()

    spoil.__module__, spoil.__qualname__ = "fairseq.evil", "spoil"
    module.spoil = spoil  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.evil", module)
    files.save(folder / "model.pt", files.fairseq_tensors(roberta), more=Runs(spoil, "x"))
    bertwright.convert(folder, folder / "out", quiet=True)
    assert not called


# --- the vocabulary --------------------------------------------------------------------------------------------------

PROBES = (
    *files.TEXTS,
    "",
    " ",
    "  two spaces,\ttabs\nand lines ",
    "Café naïve Straße 中文 😀 \u200b",
    "1,234.5 I'LL I'll don't'",
)


def bytes_as_characters() -> dict[int, str]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others from 256 on, in their order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def reference_ids(text: str, folder: Path) -> list[int]:
    """fairseq's ids, computed from its definition: the merge that was learnt first, as long as there is one."""
    encoder = json.loads((folder / "encoder.json").read_text())
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    ranks = {tuple(line.split(" ")): i for i, line in enumerate(lines) if line}
    fairseqs = {line.split(" ")[0]: 4 + i for i, line in enumerate((folder / "dict.txt").read_text().splitlines())}
    characters = bytes_as_characters()
    # The letters and numbers of the probes are Python's \w without the underscore; GPT-2's pattern has \p{L}, \p{N}.
    letter, number = r"[^\W\d_]", r"\d"
    pattern = rf"'s|'t|'re|'ve|'m|'ll|'d| ?{letter}+| ?{number}+| ?(?:(?!{letter}|{number})\S)+|\s+(?!\S)|\s+"
    ids = []
    for word in re.findall(pattern, text):
        parts = [characters[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                joined = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if joined else parts[i])
                i += 2 if joined else 1
            parts = merged
        ids += [fairseqs[str(encoder[part])] for part in parts]
    return [0, *ids, 2]


def test_ids_are_fairseqs(folder: Path) -> None:
    from transformers import AutoTokenizer

    bertwright.convert(folder, folder / "out", quiet=True)
    ours = Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(folder / "out")
    for text in PROBES:
        expected = reference_ids(text, folder)
        assert ours.encode(text).ids == expected, text
        assert theirs(text)["input_ids"] == expected, text
    assert theirs("a", "b")["input_ids"] == [*reference_ids("a", folder), 2, *reference_ids("b", folder)[1:]]
    assert theirs.mask_token_id == files.vocab_size(folder) - 1
    assert len(theirs) == files.vocab_size(folder)


def test_real_vocabulary() -> None:
    data = os.environ.get("BERTWRIGHT_DATA", "")
    folder = Path(data) / "vocabularies" / "roberta"
    if not data or not folder.is_dir():
        pytest.skip("BERTWRIGHT_DATA with vocabularies/roberta is not there")
    found = Tokenizer.from_str(tokenizer_files(folder)["tokenizer.json"].decode())
    assert found.get_vocab_size() == 50265
    assert found.token_to_id("<mask>") == 50264
    # "Hello world" is in fairseq's README of RoBERTa: [0, 31414, 232, 2]
    assert found.encode("Hello world").ids == [0, 31414, 232, 2]
    for text in PROBES:
        assert found.encode(text).ids == reference_ids(text, folder), text


# --- what is broken --------------------------------------------------------------------------------------------------


def without(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


def test_broken_tensors(folder: Path, roberta: Any) -> None:
    encoder = "encoder.sentence_encoder."
    cases: list[tuple[Any, str]] = [
        (without(f"{encoder}layers.1.fc2.bias"), r"tensor encoder\.sentence_encoder\.layers\.1\.fc2\.bias is missing"),
        (without(f"{encoder}embed_tokens.weight"), r"embed_tokens\.weight is missing; expected fairseq's RoBERTa"),
        (without("encoder.lm_head.dense.bias"), r"tensor encoder\.lm_head\.dense\.bias is missing"),
        (
            lambda t: t.update({f"{encoder}layers.0.fc1.bias": torch.ones(3)}),
            r"fc1\.bias has shape \(3,\), expected \(32,\)",
        ),
        (lambda t: t.update({f"{encoder}segment.weight": torch.ones(3)}), r"segment\.weight is not one that is known"),
        (lambda t: t.update({f"{encoder}layer_norm.weight": torch.ones(16)}), r"pre-norm"),
        (lambda t: t.update({f"decoder.{encoder[8:]}embed_tokens.weight": torch.ones(2, 2)}), r"is there twice"),
        (lambda t: t.update({f"{encoder}layers.0.self_attn.in_proj_bias": torch.ones(4)}), r"in_proj_bias has shape"),
        (lambda t: t.update({"x": 3}), r"'x' is 3, expected tensors by name"),
        (lambda t: t.update({"x": torch.ones(1).expand(10**7, 10**7)}), r"tensor x is larger than what the file holds"),
        (
            lambda t: t.update({f"x{i}": t["encoder.lm_head.weight"] for i in range(50)}),
            r"its tensors make [\d,]+ bytes of a file of [\d,]+, expected at most twice its size",
        ),
        (
            lambda t: t.update({f"{encoder}layers.0.fc1.bias": torch.ones(32, dtype=torch.int32)}),
            r"fc1\.bias holds torch\.int32, expected real numbers",
        ),
        (lambda t: t.clear(), r"no model in it"),
    ]
    for change, expected in cases:
        tensors = files.fairseq_tensors(roberta)
        change(tensors)
        files.save(folder / "model.pt", tensors)
        with pytest.raises(CheckpointError, match=expected) as caught:
            bertwright.convert(folder, folder / "out", quiet=True)
        assert "\n" not in str(caught.value)
        assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"encoder_attention_heads": 3}, "encoder_attention_heads is 3, expected a divisor of the width, 16"),
        ({"encoder_attention_heads": None}, "encoder_attention_heads is None"),
        ({"encoder_layers": 3}, r"layers\.2\..*is missing"),
        ({"activation_fn": "swish"}, "activation_fn is 'swish', expected 'gelu'"),
        *(
            ({"activation_fn": name}, f"activation_fn is '{name}', expected 'gelu'")
            for name in ("relu", "gelu_accurate", "gelu_fast")
        ),
        ({"activation_fn": ["gelu"]}, "activation_fn is a list, expected 'gelu'"),
        ({"activation_fn": {}}, "activation_fn is a dict, expected 'gelu'"),
        ({"no_scale_embedding": torch.ones(2)}, "no_scale_embedding is a Tensor, expected True"),
        ({"encoder_layers_to_keep": torch.ones(2)}, "encoder_layers_to_keep is a Tensor, expected text, or nothing"),
        ({"encoder_layers": 10**8}, "num-hidden-layers: found 100000000; input should be less than or equal to 1000"),
        ({"encoder_layers": 10**400}, r"encoder_layers is a number of 1,329 bits|less than or equal to 1000"),
        ({"encoder_layers": "2"}, "encoder_layers is '2', expected a whole number above 0"),
        ({"dropout": ["x" * 1000] * 1000}, r"dropout is a list, expected a number from 0 to below 1$"),
        ({"dropout": "a"}, "dropout is 'a', expected a number from 0 to below 1"),
        ({"no_scale_embedding": False}, "no_scale_embedding is False, expected True"),
    ],
)
def test_broken_settings(folder: Path, roberta: Any, changed: dict[str, Any], expected: str) -> None:
    files.save(folder / "model.pt", files.fairseq_tensors(roberta), files.settings(**changed))
    with pytest.raises(CheckpointError, match=expected):
        bertwright.convert(folder, folder / "out", quiet=True)


class DictConfig:
    """What omegaconf's files name as its own."""


def test_settings_that_hold_themselves_or_each_other_many_times(
    folder: Path, roberta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^60 ways through 60 objects, and a circle: nothing is followed further than to the setting asked for."""
    import sys
    import types

    module = types.ModuleType("omegaconf.dictconfig")
    monkeypatch.setattr(DictConfig, "__module__", module.__name__)
    module.DictConfig = DictConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def node(content: dict[str, Any]) -> DictConfig:
        made = DictConfig()
        made.__dict__["_content"] = content
        return made

    laughs = node({})
    for _ in range(60):
        laughs = node({"a": laughs, "b": laughs})
    circle = node({})
    circle.__dict__["_content"] = {"model": circle, "encoder_attention_heads": files.HEADS, "dropout": circle}
    for cfg, expected in (
        (node({"model": laughs}), "encoder_attention_heads is None"),
        (circle, "dropout is a DictConfig, expected a number from 0 to below 1"),
    ):
        tensors = files.fairseq_tensors(roberta)
        torch.save({"args": None, "cfg": cfg, "model": tensors}, folder / "model.pt")
        with pytest.raises(CheckpointError, match=expected):
            bertwright.convert(folder, folder / "out", quiet=True)


def test_many_heads_are_not_all_listed(folder: Path, roberta: Any, capsys: pytest.CaptureFixture[str]) -> None:
    heads = {f"h{i:02}": 2 for i in range(15)}
    files.save(folder / "model.pt", with_heads(files.fairseq_tensors(roberta), **heads))
    bertwright.convert(folder, folder / "out")
    assert "h08, h09 and 5 more)" in " ".join(capsys.readouterr().err.split())


def test_tokenizer_json_beside_the_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that has one is converted too, and keeps it."""
    bertwright.convert(folder, folder / "first", quiet=True)
    expected = load_tokenizer(folder / "first")
    for name in ("dict.txt", "encoder.json", "vocab.bpe"):
        (folder / name).unlink()
    shutil.copy(folder / "first" / "tokenizer.json", folder)
    (folder / "optimizer.pt").write_bytes(b"of a training")
    bertwright.convert(folder, folder / "out")
    assert f"the tokenizer is that of {folder / 'tokenizer.json'}" in " ".join(capsys.readouterr().err.split())
    assert load_tokenizer(folder / "out").sha256 == expected.sha256
    direct = load_for_training(str(folder), ["a", "b"], "first", 20, seed=0)
    assert direct.tokenizer.sha256 == expected.sha256
    (folder / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"nothing that is known; expected a folder in Hugging Face's layout"):
        bertwright.convert(folder, folder / "again", quiet=True)


def test_tokenizer_json_of_another_model(folder: Path, roberta: Any) -> None:
    bertwright.convert(folder, folder / "first", quiet=True)
    values = json.loads((folder / "first" / "tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][-1], "id": 5000, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"the tokenizer knows [\d,]+ tokens, the model \d+; they do not belong"):
        bertwright.convert(folder, folder / "out", quiet=True)


def test_model_max_length_is_the_models(folder: Path) -> None:
    bertwright.convert(folder, folder / "out", quiet=True)
    settings = json.loads((folder / "out" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == files.POSITIONS - 2
    assert "model_max_length" not in json.loads(tokenizer_files(folder)["tokenizer_config.json"])


def test_missing_vocabulary_names_the_flag_of_each_command(folder: Path) -> None:
    (folder / "vocab.bpe").unlink()
    with pytest.raises(CheckpointError, match=r"--vocabulary \(bertwright convert\) or --tokenizer \(every other"):
        load_tokenizer(folder)


def test_other_activation_names_the_file_that_says_it(folder: Path, roberta: Any) -> None:
    """Also without converting first, where there is no config.json that could be named."""
    files.save(folder / "model.pt", files.fairseq_tensors(roberta), files.settings(activation_fn="relu"))
    with pytest.raises(CheckpointError, match=r"model\.pt: activation_fn is 'relu', expected 'gelu'"):
        load_for_training(str(folder), ["a", "b"], "first", 20, seed=0)


def test_casing_is_not_for_fairseq(folder: Path) -> None:
    for settings, flag in (({"cased": False}, "--cased"), ({"strip_accents": True}, "--strip-accents")):
        with pytest.raises(CheckpointError, match=rf"^{flag}: only TensorFlow 1's checkpoints"):
            bertwright.convert(folder, folder / "out", quiet=True, **settings)


def test_no_settings(folder: Path, roberta: Any) -> None:
    torch.save({"model": files.fairseq_tensors(roberta)}, folder / "model.pt")
    with pytest.raises(CheckpointError, match="neither args nor cfg in it"):
        bertwright.convert(folder, folder / "out", quiet=True)


def test_broken_dictionary(folder: Path) -> None:
    path = folder / "dict.txt"
    lines = path.read_text().splitlines(keepends=True)
    for content, expected in (
        (lines[:-1], r"makes \d+ ids .* expected the \d+ of model\.pt; they do not belong together"),
        ([*lines, "extra 1\n"], r"they do not belong together"),
        (["x\n", *lines[1:]], r"dict\.txt, line 1: found 'x', expected a symbol and its count"),
        ([lines[1], *lines[1:]], r"dict\.txt, line 2: .* is there twice"),
        (["replaced 1\n", *lines[1:]], r"no line for GPT-2's id"),
    ):
        path.write_text("".join(content))
        with pytest.raises(CheckpointError, match=expected):
            bertwright.convert(folder, folder / "out", quiet=True)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no dict\.txt; expected fairseq's"):
        bertwright.convert(folder, folder / "out", quiet=True)


def test_broken_bpe(folder: Path) -> None:
    kept = (folder / "vocab.bpe").read_text(encoding="utf-8")
    (folder / "vocab.bpe").write_text(kept + "only-one\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.bpe, line \d+: found 'only-one', expected two tokens"):
        bertwright.convert(folder, folder / "out", quiet=True)
    (folder / "vocab.bpe").write_text(kept + "z z\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.bpe: 'z' and 'z' make no token of encoder\.json"):
        bertwright.convert(folder, folder / "out", quiet=True)
    (folder / "vocab.bpe").write_text(kept, encoding="utf-8")
    (folder / "encoder.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match=r"encoder\.json: cannot be read as JSON"):
        bertwright.convert(folder, folder / "out", quiet=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_files_end_in_one_line(folder: Path, roberta: Any, legacy: bool) -> None:
    files.save(folder / "model.pt", files.fairseq_tensors(roberta), legacy=legacy)
    whole = (folder / "model.pt").read_bytes()
    for keep in (0, 1, 10, 100, 1000, len(whole) // 2, len(whole) - 1):
        (folder / "model.pt").write_bytes(whole[:keep])
        with pytest.raises(CheckpointError) as caught:
            bertwright.convert(folder, folder / "out", quiet=True)
        assert "\n" not in str(caught.value)
