"""From the encoder's tokens to a text's logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright import hardware
from bertwright.config import Pooling
from bertwright.errors import UserError
from bertwright.model.attention import choose_kernel
from bertwright.model.batch import Batch
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder, why_not
from bertwright.model.cpu_int8 import quantize_weights
from bertwright.model.encoder import Encoder, EncoderLayer, ModelConfig
from bertwright.model.gpu_encoder import GpuEncoder, Work, is_small, why_not_compile


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
        self.kernels_reason = "compute_in was not called yet"
        self.may_compile = False

    def features(self, batch: Batch) -> Tensor:
        """(sequences, hidden): what the classifier reads."""
        if self.pooler is not None:
            return self.pooler(self.encoder(batch, only_first=True)[: batch.num_texts])
        return _mean_of_tokens(self.encoder(batch), batch)

    def forward(self, batch: Batch) -> Tensor:
        """(sequences, classes) logits, float32."""
        return self.classifier(self.features(batch))

    def describe(self) -> dict[str, str]:
        """What computes the encoder, and why: for a run's environment.json."""
        weight = self.encoder.embeddings.token.weight
        if self.cpu_encoder is not None:
            kernel, reason = "kernels", self.cpu_encoder.describe()
        else:
            dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
            kernel, reason = choose_kernel(weight.device, weight.dtype, dropout, self.config.head_dim)
        return {
            "attention_kernel": kernel,
            "attention_kernel_reason": reason,
            "compile": "off" if self.encoder.fast is None else self.encoder.fast.name,
            "compile_reason": self.kernels_reason,
        }

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of all but the classifier: what ``--freeze-encoder`` freezes."""
        frozen = list(self.encoder.parameters())
        return frozen if self.pooler is None else frozen + list(self.pooler.parameters())

    def compute_in(self, dtype: torch.dtype, accelerate: bool = True, int8: bool = False) -> TextClassifier:
        """Let encoder and pooler compute in ``dtype``; the classifier stays in float32. In place.

        Args:
            accelerate: on a CPU, let C kernels compute the encoder where they can.
            int8: multiply the encoder's matrices in 8 bits, for scoring: of the weights each output has a scale, of the
                tokens each. Made from the weights as they are now, so best from float32.

        Raises:
            UserError: ``int8`` where it cannot be computed fast.
        """
        small = quantize_weights(self.encoder) if int8 else None
        self.encoder.to(dtype)
        if self.pooler is not None:
            self.pooler.to(dtype)
        self.encoder.fast = None
        for layer in self.encoder.layers:
            assert isinstance(layer, EncoderLayer)
            layer.attention.kernel = None  # the fastest that fits where it now is
        device = next(self.encoder.parameters()).device
        reason = why_not(self.encoder, device, dtype) if accelerate else "switched off by --compile off"
        if int8 and (reason is not None or hardware.cpu_int8_feature() is None):
            why = reason or "this CPU has neither AVX512-VNNI nor AMX"
            raise UserError(f"--dtype int8 cannot be computed here: {why}. Pass --dtype auto")
        if reason is None:
            self.encoder.fast = CpuEncoder.of(self.encoder, small)
            reason = load_kernels().reason
        self.kernels_reason = reason
        self.may_compile = accelerate
        return self

    def compile_for(
        self, work: Work, training: bool, varied_shapes: bool = True, always: bool = False
    ) -> TextClassifier:
        """On a GPU, let torch.compile make the encoder's kernels if ``work`` pays for it, or ``always``. In place.

        With ``varied_shapes=False`` the batches are promised to have one shape, and small models run as CUDA graphs.
        """
        weight = self.encoder.embeddings.token.weight
        if weight.device.type != "cuda":
            return self
        if self.encoder.fast is not None and self.encoder.fast.is_current():
            return self
        if not self.may_compile:
            self.kernels_reason = "switched off by --compile off"
            return self
        dropout = self.config.attention_probs_dropout_prob if training else 0.0
        kernel, _ = choose_kernel(weight.device, weight.dtype, dropout, self.config.head_dim)
        reason = why_not_compile(self.encoder, kernel, None if always else work, training)
        if reason is None:
            graphs = not varied_shapes and is_small(self.encoder)
            self.encoder.fast = GpuEncoder(self.encoder, kernel, graphs)
            reason = "the work pays for compiling" + (", as CUDA graphs: this model is small" if graphs else "")
        self.kernels_reason = reason
        return self

    def release_memory(self) -> None:
        """Let go of the memory that is kept for the next batch."""
        if self.cpu_encoder is not None:
            self.cpu_encoder.release_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def cpu_encoder(self) -> CpuEncoder | None:
        """What computes the encoder on a CPU, if the C kernels do."""
        fast = self.encoder.fast
        return fast if isinstance(fast, CpuEncoder) else None


def _mean_of_tokens(x: Tensor, batch: Batch) -> Tensor:
    """(texts, hidden) float32: the mean of each text's rows of ``x`` (tokens, hidden)."""
    num_tokens = x.shape[0] if batch.num_fillers else batch.num_tokens
    lengths = batch.seq_starts.diff().long()
    sequence_of_token = torch.repeat_interleave(
        torch.arange(batch.num_sequences, device=x.device), lengths, output_size=num_tokens
    )
    sums = x.new_zeros(batch.num_sequences, x.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, sequence_of_token, x[:num_tokens].float())
    return (sums / lengths[:, None])[: batch.num_texts]
