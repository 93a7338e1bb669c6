"""Write the small TensorFlow 1 checkpoints under tests/golden/tensorflow, and what TensorFlow computes from them.

Needs TensorFlow, which nothing else here does: python -m venv /tmp/tfenv && /tmp/tfenv/bin/pip install tensorflow-cpu,
then /tmp/tfenv/bin/python tests/golden/make_tensorflow_checkpoints.py. The committed files are of TensorFlow 2.21.0.

Each folder has the names of Google's BERT release (github.com/google-research/bert, modeling.py and
run_pretraining.py), a bert_config.json, a vocab.txt, and expected.npz: token ids, segments, and what the graph here,
written from the formulas of arXiv 1810.04805 and 1706.03762, computes of them in float32.

    pretraining   masked-language-model and next-sentence heads, AdamWeightDecay's slots, global_step; one data file
    sharded       the same in two data files, cased
    classifier    a fine-tuned classifier's output_weights and output_bias
    sliced        its word embeddings saved as two slices of a partitioned variable
    objects       what TensorFlow 2 writes: names of Python objects, not of BERT
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_v2_behavior()

LAYERS, HIDDEN, HEADS, WIDE, POSITIONS = 2, 16, 2, 32, 24
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": WIDE,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNCASED = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "the", "movie", "was", "good", "bad", "##s", "##ing", ".", ","]
CASED = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "The", "the", "Movie", "was", "good", "Bad", "##s", ".", "É"]
FOLDER = Path(__file__).parent / "tensorflow"


def variable(name: str, *shape: int, near: float = 0.0, slots: bool = True) -> tf.Tensor:
    """A variable with the slots that Google's optimizer keeps for it; values far from any initial ones."""
    random = np.random.default_rng(sum(name.encode()) * 7919 + len(name))
    made = v1.get_variable(name, initializer=(near + 0.3 * random.standard_normal(shape)).astype(np.float32))
    if slots:
        for slot in ("adam_m", "adam_v"):
            v1.get_variable(f"{name}/{slot}", initializer=random.standard_normal(shape).astype(np.float32))
    return made


def dense(x: tf.Tensor, name: str, inputs: int, outputs: int, slots: bool) -> tf.Tensor:
    return x @ variable(f"{name}/kernel", inputs, outputs, slots=slots) + variable(f"{name}/bias", outputs, slots=slots)


def norm(x: tf.Tensor, name: str, slots: bool) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    scaled = (x - mean) / tf.sqrt(variance + 1e-12)
    gamma = variable(f"{name}/LayerNorm/gamma", HIDDEN, near=1.0, slots=slots)
    return scaled * gamma + variable(f"{name}/LayerNorm/beta", HIDDEN, slots=slots)


def gelu(x: tf.Tensor) -> tf.Tensor:
    return x * 0.5 * (1.0 + tf.math.erf(x / np.sqrt(2.0).astype(np.float32)))


def attention(x: tf.Tensor, name: str, slots: bool) -> tf.Tensor:
    """(texts, tokens, hidden)."""
    texts, tokens = x.shape[0], x.shape[1]
    heads = []
    for part in ("query", "key", "value"):
        made = dense(x, f"{name}/self/{part}", HIDDEN, HIDDEN, slots)
        heads.append(tf.transpose(tf.reshape(made, [texts, tokens, HEADS, HIDDEN // HEADS]), [0, 2, 1, 3]))
    query, key, value = heads
    weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / np.float32(np.sqrt(HIDDEN // HEADS)))
    return tf.reshape(tf.transpose(weights @ value, [0, 2, 1, 3]), [texts, tokens, HIDDEN])


def graph(token_ids: np.ndarray, segments: np.ndarray, vocab_size: int, head: str, slots: bool) -> dict[str, tf.Tensor]:
    table = variable("bert/embeddings/word_embeddings", vocab_size, HIDDEN, slots=slots)
    segment_table = variable("bert/embeddings/token_type_embeddings", 2, HIDDEN, slots=slots)
    positions = variable("bert/embeddings/position_embeddings", POSITIONS, HIDDEN, slots=slots)
    x = tf.gather(table, token_ids) + tf.gather(segment_table, segments) + positions[: token_ids.shape[1]]
    x = norm(x, "bert/embeddings", slots)
    for i in range(LAYERS):
        layer = f"bert/encoder/layer_{i}"
        read = dense(
            attention(x, f"{layer}/attention", slots), f"{layer}/attention/output/dense", HIDDEN, HIDDEN, slots
        )
        x = norm(x + read, f"{layer}/attention/output", slots)
        wide = gelu(dense(x, f"{layer}/intermediate/dense", HIDDEN, WIDE, slots))
        x = norm(x + dense(wide, f"{layer}/output/dense", WIDE, HIDDEN, slots), f"{layer}/output", slots)
    pooled = tf.tanh(dense(x[:, 0], "bert/pooler/dense", HIDDEN, HIDDEN, slots))
    made = {"hidden": x, "pooled": pooled}
    if head == "classifier":
        weights = variable("output_weights", 3, HIDDEN, slots=slots)
        made["logits"] = tf.matmul(pooled, weights, transpose_b=True) + variable("output_bias", 3, slots=slots)
        return made
    changed = norm(
        gelu(dense(x, "cls/predictions/transform/dense", HIDDEN, HIDDEN, slots)), "cls/predictions/transform", slots
    )
    bias = variable("cls/predictions/output_bias", vocab_size, slots=slots)
    made["masked_language_model"] = tf.matmul(changed, table, transpose_b=True) + bias
    weights = variable("cls/seq_relationship/output_weights", 2, HIDDEN, slots=slots)
    next_bias = variable("cls/seq_relationship/output_bias", 2, slots=slots)
    made["next_sentence"] = tf.matmul(pooled, weights, transpose_b=True) + next_bias
    return made


def on_two_devices(operation: tf.Operation) -> str:
    return (
        f"/cpu:{sum(operation.name.encode()) % 2}" if "Variable" in operation.type or "Read" in operation.type else ""
    )


def write(name: str, vocabulary: list[str], head: str, slots: bool, sharded: bool = False) -> None:
    folder = FOLDER / name
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "bert_config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(vocabulary)}, indent=2) + "\n")
    random = np.random.default_rng(1)
    token_ids = random.integers(0, len(vocabulary), (3, 9)).astype(np.int32)
    segments = np.repeat((np.arange(9) > 4).astype(np.int32)[None], 3, axis=0)
    with tf.Graph().as_default(), v1.device(on_two_devices if sharded else None):
        made = graph(token_ids, segments, len(vocabulary), head, slots)
        v1.train.get_or_create_global_step()
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=sharded).save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
            values = session.run(made)
    np.savez(folder / "expected.npz", token_ids=token_ids, segments=segments, **values)
    (folder / "checkpoint").unlink(missing_ok=True)


def write_sliced() -> None:
    folder = FOLDER / "sliced"
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "bert/embeddings/word_embeddings",
            shape=(40, HIDDEN),
            initializer=v1.ones_initializer(),
            partitioner=v1.fixed_size_partitioner(2),
            use_resource=False,
        )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    shutil.copy(FOLDER / "classifier" / "bert_config.json", folder)
    shutil.copy(FOLDER / "classifier" / "vocab.txt", folder)
    (folder / "checkpoint").unlink(missing_ok=True)


def write_objects() -> None:
    folder = FOLDER / "objects"
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), v1.Session() as session:
        kept = v1.train.Checkpoint(
            table=v1.get_variable("table", initializer=np.ones((4, 2), np.float32), use_resource=True)
        )
        session.run(v1.global_variables_initializer())
        kept.write(str(folder / "bert_model.ckpt"), session=session)
    shutil.copy(FOLDER / "classifier" / "bert_config.json", folder)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    write("pretraining", UNCASED, "pretraining", slots=True)
    write("sharded", CASED, "pretraining", slots=False, sharded=True)
    write("classifier", UNCASED, "classifier", slots=False)
    write_sliced()
    write_objects()
