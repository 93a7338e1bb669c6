"""keras-hub's BERT gets the right tensors, and TensorFlow then computes what our float32 does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tests.conftest import REPOSITORY

from bertwright.benchmarking.peers import keras_bert


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("token_embedding/embeddings", "bert.embeddings.word_embeddings.weight"),
        ("embeddings_layer_norm/gamma", "bert.embeddings.LayerNorm.weight"),
        ("embeddings_layer_norm/beta", "bert.embeddings.LayerNorm.bias"),
        ("transformer_layer_11/self_attention_layer/value/kernel", "bert.encoder.layer.11.attention.self.value.weight"),
        ("transformer_layer_0/self_attention_layer_norm/beta", "bert.encoder.layer.0.attention.output.LayerNorm.bias"),
        ("transformer_layer_0/feedforward_layer_norm/gamma", "bert.encoder.layer.0.output.LayerNorm.weight"),
        ("pooled_dense/bias", "bert.pooler.dense.bias"),
    ],
)
def test_each_variable_has_its_tensor(path, name):
    assert keras_bert.name_of(path) == name


@pytest.mark.parametrize("path", ["seed_generator/seed_generator_state", "transformer_layer_0/new/kernel", "kernel"])
def test_an_unknown_variable_is_refused(path):
    with pytest.raises(ValueError, match=f"variable {path} is none"):
        keras_bert.name_of(path)


def test_kernels_are_turned_and_split_into_heads():
    hidden, heads, size = 6, 2, 3
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, hidden))
    name = "bert.encoder.layer.0.attention"
    weights = {f"{name}.{part}.weight": generator.normal(size=(6, 6)) for part in ("self.query", "output.dense")}
    layer = "transformer_layer_0/self_attention_layer"
    query = keras_bert.value_of(f"{layer}/query/kernel", (hidden, heads, size), weights)
    right = (x @ weights[f"{name}.self.query.weight"].T).reshape(4, heads, size)
    np.testing.assert_allclose(np.einsum("sh,hnd->snd", x, query), right)
    output = keras_bert.value_of(f"{layer}/attention_output/kernel", (heads, size, hidden), weights)
    read = right.reshape(4, hidden) @ weights[f"{name}.output.dense.weight"].T
    np.testing.assert_allclose(np.einsum("snd,ndh->sh", right, output), read)
    with pytest.raises(ValueError, match=r"self\.key\.weight is missing"):
        keras_bert.value_of(f"{layer}/key/kernel", (hidden, heads, size), weights)
    with pytest.raises(ValueError, match=r"has shape \(6, 6\)"):
        keras_bert.value_of(f"{layer}/query/kernel", (hidden, heads, 4), weights)


def test_batches_have_few_shapes(tmp_path):
    from bertwright.benchmarking.cases import Case
    from bertwright.benchmarking.peers.static_shapes import StaticShapeInference

    class Sums(StaticShapeInference):
        """A text's logits are the sum of its ids, and how many they are."""

        most_tokens = 70
        shapes: ClassVar = set()

        def compute(self, ids, mask):
            self.shapes.add(ids.shape)
            return np.stack([(ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1)

    lengths = np.resize([1, 31, 32, 33, 65, 70], 40)
    np.save(tmp_path / "ids.npy", np.arange(lengths.sum(), dtype=np.int32))
    np.save(tmp_path / "starts.npy", np.append(0, np.cumsum(lengths)))
    engine = Sums(Case("engines", str(tmp_path), 0, 70, "cpu", "auto", 1, 1e-4, "first", 2, 40, 0))
    engine.choose_size()
    assert engine.run().texts == 40
    assert {rows for rows, _ in engine.shapes} == {32}
    assert {width for _, width in engine.shapes} <= {32, 64, 70}
    ids = [np.arange(start, start + length) for start, length in zip(engine.case.ragged.starts, lengths, strict=False)]
    np.testing.assert_allclose(engine.logits, [[one.sum(), len(one)] for one in ids])
    np.testing.assert_array_equal(engine.score_alone(ids[3]), [ids[3].sum(), 33])
    assert (1, 64) in engine.shapes


FLAGS = ["--contenders=tensorflow-float32", "--num-texts=40", "--num-alone=3", "--max-length=64", "--rounds=1"]
FLAGS += ["--threads=1", "--device=cpu"]


def found_by(out):
    """What ``bertwright bench engines`` found, by contender."""
    return {one["name"]: one for one in json.loads(out.splitlines()[-1])["contenders"]}


@pytest.mark.slow
@pytest.mark.net
def test_tensorflow_equals_our_float32_on_the_real_minilm(examples, tmp_path):
    """In an environment of its own, from which ours is seen: TensorFlow is larger than all that the tests need."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = extras["optional-dependencies"]["tensorflow"]
    constraints = REPOSITORY / "constraints.txt"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", constraints, *wanted], check=True)
    command = [python, "-m", "bertwright", "bench", "engines", examples / "comments_test.csv", "--model"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(
        [*command, "all-MiniLM-L6-v2", *FLAGS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = found_by(done.stdout)["tensorflow-float32"]
    assert found["not_run"] is None
    assert found["largest_logit_difference"] < 1e-6  # with GELU approximated: 5e-5
    assert found["label_flips"] == 0
    assert found["warm_up_s"] > 0
