"""Checkpoints of all layouts, exported graphs, cascades."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from bertwright.config.base import build
from bertwright.config.parts import ScoringMachineSettings
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.model.convert import convert
from tests.fuzz.data_targets import rezipped
from tests.fuzz.target import Case, Codec, Fault, Target, read_case, refused

_MACHINE = build(ScoringMachineSettings, {"device": "cpu", "dtype": "float32", "compile": "off"})
_TEXTS = ["a good film", "", "un café \u2028 " + "film " * 20]
_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "un", "##s", "c", "##e")
_SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def _classifier(folder: Path, pooling: str = "first", **settings: Any) -> Any:
    """A classifier of a few hundred weights."""
    from bertwright.model.checkpoint import Loaded, empty_model, initial_state, load_classifier, save_model
    from bertwright.model.classifier_settings import ClassifierSettings
    from bertwright.model.encoder import ModelConfig
    from bertwright.model.tokenizer import tokenizer_from_vocabulary

    tokenizer = tokenizer_from_vocabulary("\n".join(_WORDS), {}, "vocab.txt")
    values = {
        "model_type": "bert",
        "vocab_size": len(_WORDS),
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        **_SHAPE,
    }
    config = ModelConfig.from_hugging_face(values, "config.json")
    made = ClassifierSettings(**{"labels": ("clean", "toxic"), "max_length": 12, "pooling": pooling, **settings})
    model = empty_model(config, len(made.labels), pooling)
    save_model(folder, config, initial_state(model, config, 0), tokenizer, made)
    loaded: Loaded = load_classifier(str(folder))
    return loaded


def _score(folder: Path) -> None:
    scorer = refused(lambda: load_scorer(str(folder), _MACHINE))
    if scorer is None:
        return
    pairs = bool(scorer.settings.pairs)
    texts = [(text, "why") for text in _TEXTS] if pairs else _TEXTS
    predictions = refused(lambda: scorer.predict(texts))
    if predictions is not None and len(predictions) != len(texts):
        raise Fault(f"{len(predictions)} predictions of {len(texts)} texts")
    for prediction in predictions or ():
        if not all(np.isfinite(score) for score in prediction.scores.values()):
            raise Fault("scores that are no numbers")


def _checkpoint_seeds() -> Mapping[str, Case]:
    made: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _classifier(folder / "first")
        made["first"] = read_case(folder / "first")
        _classifier(folder / "mean", "mean", kind="multi-label", threshold=(0.5, 0.4))
        made["mean"] = read_case(folder / "mean")
        made["hugging-face"] = {name: content for name, content in made["first"].items() if name != "bertwright.json"}
        made["vocabulary"] = {
            name: content
            for name, content in made["first"].items()
            if name not in ("tokenizer.json", "bertwright.json")
        } | {"vocab.txt": "\n".join(_WORDS).encode(), "tokenizer_config.json": b'{"do_lower_case": true}'}
        from safetensors.torch import load

        tensors = load(made["first"]["model.safetensors"])
        torch.save(tensors, folder / "model.bin")
        rest = {name: content for name, content in made["first"].items() if name != "model.safetensors"}
        made["pickle"] = rest | {"pytorch_model.bin": (folder / "model.bin").read_bytes()}
        torch.save(tensors, folder / "legacy.bin", _use_new_zipfile_serialization=False)
        made["legacy-pickle"] = rest | {"pytorch_model.bin": (folder / "legacy.bin").read_bytes()}
        index = {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
        made["parts"] = rest | {
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-1.safetensors": made["first"]["model.safetensors"],
        }
        made["byte-level"] = rest | _byte_level() | {"model.safetensors": made["first"]["model.safetensors"]}
        for name in ("tokenizer.json", "vocab.txt"):
            made["byte-level"].pop(name, None)
    return made


def _byte_level() -> Case:
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*marks, "a", "b", "ab"])}
    return {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": b"#version: 0.2\na b\n",
        "tokenizer_config.json": b'{"add_prefix_space": false}',
        "special_tokens_map.json": b'{"mask_token": "<mask>"}',
        "added_tokens.json": b"{}",
    }


# The header of a .safetensors file, whose length stands before it.
_SAFETENSORS = Codec(
    lambda data: data[8 : 8 + int.from_bytes(data[:8], "little")],
    lambda new, old: len(new).to_bytes(8, "little") + new + old[8 + int.from_bytes(old[:8], "little") :],
)
_PICKLE_WORDS = (
    b"cposix\nsystem\nX\x05\0\0\0touchR", b"cbuiltins\neval\nX\x01\0\0\x001R", b"c__builtin__\nexec\n",
    b"csubprocess\nPopen\n", b"ctorch.hub\nload\n",
    b"ctorch\nload\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cos\nfork\n)R", b"\x8c\x05posix\x8c\x06system\x93",
    b"cwebbrowser\nopen\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n)R",
    b"b", b"R", b"0", b"(", b"t", b"2" * 50, b"\x81", b"s", b"u",
)  # fmt: skip


# --- TensorFlow 1 -----------------------------------------------------------------------------------------------------

_GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tensorflow"


def _tensorflow_seeds() -> Mapping[str, Case]:
    """As TensorFlow wrote them (tests/golden), and a smaller one by the tests' own writer."""
    from tests.model.bundle_writer import write

    made: dict[str, Case] = {}
    for name in ("pretraining", "sharded", "sliced"):
        case = read_case(_GOLDEN / name)
        case.pop("expected.npz", None)
        if sum(map(len, case.values())) < 120_000:
            made[name] = case
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "bert_model.ckpt"
        write(prefix, {"bert/embeddings/word_embeddings": np.ones((4, 2), np.float32), "global_step": np.array(3)})
        (Path(folder) / "vocab.txt").write_text("\n".join(_WORDS))
        (Path(folder) / "bert_config.json").write_bytes(made["pretraining"]["bert_config.json"])
        made["small"] = read_case(Path(folder))
    return made


def _drawn_bundle() -> st.SearchStrategy[Case]:
    """An index with right checksums whose entries are drawn."""
    from tests.model import bundle_writer as writer

    names = st.sampled_from(
        ["bert/embeddings/word_embeddings", "bert/pooler/dense/kernel", "a", "../../outside/secret", "é", "x" * 5_000]
    )
    numbers = st.sampled_from([0, 1, 2, 4, 8, 2**31, 2**40, 2**63, 2**64 - 1])
    shapes = st.lists(numbers, max_size=9)
    entries = st.tuples(
        names, st.integers(0, 25), shapes, numbers, st.binary(max_size=32), numbers, st.one_of(st.none(), numbers)
    )

    def made(rows: list[Any], shards: int, order: int, extra: bytes, per_block: int) -> Case:
        table = [(b"", writer.header(shards, order) + extra)]
        data = b""
        for name, dtype, shape, offset, content, shard, size in rows:
            table.append((name.encode(), writer.entry(dtype, tuple(shape), offset, content, shard, size)))
            data += content
        return {
            "bert_model.ckpt.index": writer.table(sorted(table), per_block=per_block),
            "bert_model.ckpt.data-00000-of-00001": data,
            "vocab.txt": "\n".join(_WORDS).encode(),
            "bert_config.json": json.dumps(
                {"vocab_size": len(_WORDS), "max_position_embeddings": 16, **_SHAPE}
            ).encode(),
        }

    return st.builds(
        made,
        st.lists(entries, max_size=4),
        numbers,
        st.sampled_from([0, 1, 2**40]),
        st.binary(max_size=6),
        st.integers(1, 5),
    )


def _convert(folder: Path) -> None:
    output = folder / "converted"
    before = {path.name for path in folder.iterdir()}
    done = refused(lambda: convert(str(folder), str(output), quiet=True))
    left = {path.name for path in folder.iterdir()} - before
    if left != ({"converted"} if done is not None else set()):
        raise Fault(f"left {sorted(left)}")


# --- fairseq ----------------------------------------------------------------------------------------------------------


def _fairseq_seeds() -> Mapping[str, Case]:
    import argparse

    names = "embed_tokens.weight", "embed_positions.weight", "layernorm_embedding.weight", "layernorm_embedding.bias"
    prefix = "encoder.sentence_encoder."
    shapes: dict[str, tuple[int, ...]] = dict(zip(names, ((12, 8), (18, 8), (8,), (8,)), strict=True))
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"layers.0.self_attn.{part}.weight": (8, 8), f"layers.0.self_attn.{part}.bias": (8,)}
    for part, (rows, columns) in {"fc1": (8, 8), "fc2": (8, 8)}.items():
        shapes |= {f"layers.0.{part}.weight": (rows, columns), f"layers.0.{part}.bias": (rows,)}
    for part in ("self_attn_layer_norm", "final_layer_norm"):
        shapes |= {f"layers.0.{part}.weight": (8,), f"layers.0.{part}.bias": (8,)}
    model = {prefix + name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    heads = {"lm_head.dense.weight": (8, 8), "lm_head.dense.bias": (8,), "lm_head.layer_norm.weight": (8,)}
    heads |= {"lm_head.layer_norm.bias": (8,), "lm_head.weight": (12, 8), "lm_head.bias": (12,)}
    model |= {f"encoder.{name}": torch.full(shape, 0.5) for name, shape in heads.items()}
    arguments = argparse.Namespace(
        arch="roberta_base", encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8, encoder_attention_heads=2,
        max_positions=16, activation_fn="gelu", dropout=0.1, attention_dropout=0.1,
    )  # fmt: skip
    tokens = ["a", "b", "ab", "Ġ", "c", "d", "e"]
    files = {
        "dict.txt": "".join(f"{i} 9\n" for i in range(len(tokens))).encode(),
        "encoder.json": json.dumps({token: i for i, token in enumerate(tokens)}).encode(),
        "vocab.bpe": b"#version: 0.2\na b\n",
    }
    made: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, legacy in (("zip", False), ("legacy", True)):
            path = Path(folder) / f"{name}.pt"
            torch.save(
                {"args": arguments, "model": model, "extra_state": {"epoch": 1}},
                path,
                _use_new_zipfile_serialization=not legacy,
            )
            made[name] = {"model.pt": path.read_bytes(), **files}
    return made


# --- exported graphs and cascades -------------------------------------------------------------------------------------


def _graph_seeds() -> Mapping[str, Case]:
    from bertwright.shipping.export_onnx import write_graph

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_graph(folder / "graph", _classifier(folder / "model"), "float32")
        write_graph(folder / "pairs", _classifier(folder / "pair-model", pairs=True), "float32")
        return {"single": read_case(folder / "graph"), "pairs": read_case(folder / "pairs")}


def _cascade_seeds() -> Mapping[str, Case]:
    graph = _graph_seeds()["single"]
    manifest = {"format": 1, "sureness": 0.8, "slopes": [1.5], "biases": [0.0, 0.1], "deferred_share": 0.5}
    with tempfile.TemporaryDirectory() as name:
        _classifier(Path(name) / "model")
        weights = read_case(Path(name) / "model")
    return {
        kind: {f"{size}/{file}": content for size in ("small", "large") for file, content in files.items()}
        | {"cascade.json": json.dumps(manifest).encode()}
        for kind, files in (("graphs", graph), ("weights", weights))
    }


TARGETS = (
    Target(
        "checkpoint",
        _score,
        _checkpoint_seeds,
        codecs={".safetensors": _SAFETENSORS, ".bin": rezipped()},
        words=_PICKLE_WORDS,
    ),
    Target("tensorflow", _convert, _tensorflow_seeds, _drawn_bundle),
    Target("fairseq", _convert, _fairseq_seeds, codecs={".pt": rezipped()}, words=_PICKLE_WORDS),
    Target("graph", _score, _graph_seeds),
    Target("cascade", _score, _cascade_seeds, codecs={".safetensors": _SAFETENSORS}),
)
