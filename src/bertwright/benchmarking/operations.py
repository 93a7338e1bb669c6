"""How many operations the work needs: the useful ones alone, to be set beside what the machine can do at most."""

from __future__ import annotations

import numpy as np

from bertwright.config.train import Pooling
from bertwright.model.encoder import ModelConfig


def forward_operations(config: ModelConfig, lengths: np.ndarray, num_labels: int, pooling: Pooling = "first") -> int:
    """Additions and multiplications in the matrix products of scoring texts of ``lengths`` (texts,) tokens.

    Only what must be done is counted: real tokens, no padding, and matrix products alone (norms, GELU, softmax,
    embeddings and biases are left out). A product of (m, k) and (k, n) takes m k n multiplications and as many
    additions: 2 m k n. With T tokens in S texts, a text's tokens n, hidden size h, feed-forward width f and c classes:

        a layer for all tokens      query, key, value, output     4 x 2 T h h
                                    feed-forward, up and down     2 x 2 T h f
                                    attention, q k' and p v       2 x 2 h x (sum of n n)
        the last layer, where the classifier reads the first token alone (``pooling="first"``)
                                    key, value                    2 x 2 T h h
                                    query, output                 2 x 2 S h h
                                    feed-forward                  2 x 2 S h f
                                    attention                     2 x 2 h T
        embeddings of another width e, projected                  2 T e h
        head                        pooler ("first" alone)        2 S h h
                                    classifier                    2 S h c
    """
    lengths = lengths.astype(np.int64)
    tokens, texts, pairs = int(lengths.sum()), len(lengths), int((lengths**2).sum())
    hidden, width, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    whole_layer = 8 * tokens * hidden**2 + 4 * tokens * hidden * width + 4 * hidden * pairs
    other = 2 * texts * hidden * num_labels
    if config.embedding_width != hidden:
        other += 2 * tokens * config.embedding_width * hidden
    if pooling == "mean":
        return layers * whole_layer + other
    last_layer = 4 * (tokens + texts) * hidden**2 + 4 * texts * hidden * width + 4 * hidden * tokens
    return (layers - 1) * whole_layer + last_layer + 2 * texts * hidden**2 + other


def training_operations(config: ModelConfig, lengths: np.ndarray, num_labels: int, pooling: Pooling = "first") -> int:
    """As ``forward_operations``, for learning from each text once: three times as many.

    The backward pass of a product needs two of the same size: the gradients of its two factors (Kaplan et al. 2020,
    arXiv 2001.08361, section 2.1, counts alike).
    """
    return 3 * forward_operations(config, lengths, num_labels, pooling)


def pretraining_operations(config: ModelConfig, lengths: np.ndarray, mask_share: float) -> int:
    """As ``training_operations``, for guessing ``mask_share`` of the tokens of sequences of ``lengths`` (sequences,).

    The last layer and the head are needed for the masked tokens alone; with M of them and V tokens in the vocabulary:

        the last layer      key, value                    2 x 2 T h h
                            query, output, feed-forward   2 x 2 M h h + 2 x 2 M h f
                            attention                     2 x 2 h x (sum of m n)
        head                dense, output weights         2 M h h + 2 M h V
    """
    lengths = lengths.astype(np.int64)
    masked = np.maximum(1, np.rint(mask_share * (lengths - 2))).astype(np.int64)
    tokens, guessed, pairs = int(lengths.sum()), int(masked.sum()), int((lengths**2).sum())
    hidden, width, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    whole_layer = 8 * tokens * hidden**2 + 4 * tokens * hidden * width + 4 * hidden * pairs
    last_layer = 4 * (tokens + guessed) * hidden**2 + 4 * guessed * hidden * width
    last_layer += 4 * hidden * int((masked * lengths).sum())
    head = 2 * guessed * hidden * (hidden + config.vocab_size)
    return 3 * ((layers - 1) * whole_layer + last_layer + head)
