"""From the encoder's tokens to a text's logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.config import Pooling
from bertwright.model.batch import Batch
from bertwright.model.encoder import Encoder, ModelConfig


class Pooler(nn.Module):
    """tanh(x W + b) of the first token (arXiv 1810.04805, section 3.2 and the authors' released code)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """(sequences, hidden)."""
        return torch.tanh(self.dense(first))


class Classifier(nn.Module):
    """Dropout, then a linear layer; in float32 whatever the encoder computes in, so that scores stay fine-grained."""

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        probability = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(probability)
        self.linear = nn.Linear(config.hidden_size, num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """(sequences, classes) float32."""
        return self.linear(self.dropout(features.float()))


class TextClassifier(nn.Module):
    """Encoder, pooling and classifier.

    ``pooling="first"``: the pooled first token, as Hugging Face's BertForSequenceClassification.
    ``pooling="mean"``: the mean of all the text's tokens, as sentence-transformers' mean pooling; no pooler.
    """

    def __init__(self, config: ModelConfig, num_labels: int, pooling: Pooling = "first") -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        self.encoder = Encoder(config)
        self.pooler = Pooler(config) if pooling == "first" else None
        self.classifier = Classifier(config, num_labels)

    def features(self, batch: Batch) -> Tensor:
        """(sequences, hidden): what the classifier reads."""
        if self.pooler is not None:
            return self.pooler(self.encoder(batch, only_first=True))
        return _mean_of_tokens(self.encoder(batch), batch)

    def forward(self, batch: Batch) -> Tensor:
        """(sequences, classes) logits, float32."""
        return self.classifier(self.features(batch))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of all but the classifier: what ``--freeze-encoder`` freezes."""
        frozen = list(self.encoder.parameters())
        return frozen if self.pooler is None else frozen + list(self.pooler.parameters())

    def compute_in(self, dtype: torch.dtype) -> TextClassifier:
        """Let encoder and pooler compute in ``dtype``; the classifier stays in float32. In place."""
        self.encoder.to(dtype)
        if self.pooler is not None:
            self.pooler.to(dtype)
        return self


def _mean_of_tokens(x: Tensor, batch: Batch) -> Tensor:
    """(sequences, hidden) float32: the mean of each text's rows of ``x`` (tokens, hidden)."""
    lengths = batch.seq_starts.diff().long()
    sequence_of_token = torch.repeat_interleave(
        torch.arange(batch.num_sequences, device=x.device), lengths, output_size=batch.num_tokens
    )
    sums = x.new_zeros(batch.num_sequences, x.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, sequence_of_token, x[: batch.num_tokens].float())
    return sums / lengths[:, None]
