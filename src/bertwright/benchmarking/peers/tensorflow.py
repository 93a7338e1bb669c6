"""TensorFlow on keras-hub's BERT."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers import keras_bert
from bertwright.benchmarking.peers.static_shapes import StaticShapeInference


class Inference(StaticShapeInference):
    """The model as a tf.function, in float32 on CPUs.

    Args:
        compiled: by XLA, for each shape.
    """

    def __init__(self, case: Case, compiled: bool = True) -> None:
        if case.device != "cpu":
            raise NotPossible("measured on CPUs only")
        if case.pooling != "first":
            raise NotPossible("written for a classifier over the first token")
        # Keras reads these when it is loaded; it writes its settings where it is told to, not into the user's home.
        os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": case.folder}
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras_hub
        import tensorflow as tf

        super().__init__(case)
        tf.config.threading.set_intra_op_parallelism_threads(case.num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        try:
            encoder, weight, bias = keras_bert.load(case.model_folder)
        except ValueError as error:
            raise NotPossible(f"written for BERT alone: {error}") from None
        self.most_tokens = encoder.max_sequence_length
        weight_of_columns, bias = tf.constant(weight.T), tf.constant(bias)

        @tf.function(jit_compile=compiled, reduce_retracing=False)
        def logits(ids: Any, mask: Any) -> Any:
            inputs = {"token_ids": ids, "segment_ids": tf.zeros_like(ids), "padding_mask": mask}
            return encoder(inputs, training=False)["pooled_output"] @ weight_of_columns + bias

        self.constant, self.int32, self.logits_of = tf.constant, tf.int32, logits
        self.chosen |= {
            "tensorflow": tf.__version__,
            "keras_hub": keras_hub.__version__,
            "dtype": "float32",
            "compiled": compiled,
        }
        self.choose_size()

    def compute(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        return self.logits_of(self.constant(ids, self.int32), self.constant(mask, self.int32))
