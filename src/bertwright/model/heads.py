"""From the encoder's tokens to a text's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertwright import hardware
from bertwright.config.parts import WindowPooling
from bertwright.config.train import Pooling
from bertwright.errors import UserError
from bertwright.model.attention import choose_kernel
from bertwright.model.batch import Batch
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder, why_not
from bertwright.model.cpu_int8 import quantize_weights
from bertwright.model.encoder import Encoder, EncoderLayer, ModelConfig
from bertwright.model.families import Activation
from bertwright.model.gpu_encoder import GpuEncoder, Work, is_small, why_not_compile

HEAD_WEIGHT, HEAD_BIAS = "classifier.linear.weight", "classifier.linear.bias"
"""The names of the last linear layer's weights, (labels, hidden) and (labels,), in a ``TextClassifier``'s state."""


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
}


_ROWS_STEP = 32


def linear_of_any_rows(layer: nn.Linear, x: Tensor) -> Tensor:
    """(rows, outputs): ``layer`` of ``x`` (rows, inputs), where the number of rows differs from batch to batch.

    In half precision PyTorch's library for a CPU compiles code for each new number of rows and keeps 1,024 of them. To
    score it gets multiples of 32, as from ``CpuEncoder``; a training's batches have one size, nearly all.
    """
    missing = -x.shape[0] % _ROWS_STEP
    if not missing or x.device.type != "cpu" or x.dtype == torch.float32 or torch.is_grad_enabled():
        return functional.linear(x, layer.weight, layer.bias)
    return functional.linear(functional.pad(x, (0, 0, 0, missing)), layer.weight, layer.bias)[: x.shape[0]]


class Pooler(nn.Module):
    """tanh(x W + b) of the first token (arXiv 1810.04805, section 3.2 and the authors' released code)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """(sequences, hidden)."""
        return torch.tanh(linear_of_any_rows(self.dense, first))


class Classifier(nn.Module):
    """Dropout, then a linear layer; in float32 whatever the encoder computes in, so that scores stay fine-grained.

    Families without a pretrained pooler have a layer of their own before that, ``dense`` with an activation: RoBERTa
    and ELECTRA after dropout, DistilBERT without (``bertwright.model.families``).
    """

    def __init__(self, config: ModelConfig, num_labels: int, pooling: Pooling = "first") -> None:
        super().__init__()
        probability = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(probability)
        self.drops_input = config.family.head_drops_input
        self.activation = _ACTIVATIONS[config.family.head_activation]
        own_layer = pooling == "first" and config.family.head_learns_alone
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if own_layer else None
        self.linear = nn.Linear(config.hidden_size, num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """(sequences, classes) float32."""
        x = features.float()
        if self.dense is not None:
            x = self.activation(self.dense(self.dropout(x) if self.drops_input else x))
        return self.linear(self.dropout(x))


class TextClassifier(nn.Module):
    """Encoder, pooling and classifier.

    ``pooling="first"``: the first token, as Hugging Face's classes for sequence classification: through the pooler that
    was pretrained with the encoder (BERT, ERNIE), or through a layer that belongs to the classifier.
    ``pooling="mean"``: the mean of all the text's tokens, as sentence-transformers' mean pooling, straight to the last
    linear layer.

    Attributes:
        window_pooling: how the windows of a text that is read in several become one: "mean", or "max" of each logit.
    """

    def __init__(self, config: ModelConfig, num_labels: int, pooling: Pooling = "first") -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        self.encoder = Encoder(config)
        has_pooler = pooling == "first" and not config.family.head_learns_alone
        self.pooler = Pooler(config) if has_pooler else None
        self.classifier = Classifier(config, num_labels, pooling)
        self.window_pooling: WindowPooling = "mean"
        self.kernels_reason = "compute_in was not called yet"
        self.may_compile = False

    def features(self, batch: Batch) -> Tensor:
        """(texts, hidden): what the classifier reads. Of a text in several windows it is their mean.

        The classifier must be linear, so that this gives the mean of the windows' logits.

        Raises:
            ValueError: of a text's windows the largest logits are asked for, or logits by a classifier that is not
                linear: they have no features in common.
        """
        if batch.text_starts is None:
            return self._sequence_features(batch)
        if not self.windows_have_features:
            raise ValueError(f"texts in windows have no features with window_pooling {self.window_pooling!r}")
        return pooled_windows(self._sequence_features(batch).float(), batch.text_starts, "mean")

    @property
    def windows_have_features(self) -> bool:
        """Whether the logits of a text in several windows follow from the mean of what the classifier reads of them."""
        return self.window_pooling == "mean" and self.classifier.dense is None

    def _sequence_features(self, batch: Batch) -> Tensor:
        """(sequences, hidden), each window by itself."""
        if self.pooling == "mean":
            return _mean_of_tokens(self.encoder(batch), batch)
        first = self.encoder(batch, only_first=True)[: batch.num_real_sequences]
        return first if self.pooler is None else self.pooler(first)

    def forward(self, batch: Batch) -> Tensor:
        """(texts, classes) logits, float32."""
        if batch.text_starts is None or self.windows_have_features:
            return self.classifier(self.features(batch))
        logits = self.classifier(self._sequence_features(batch))
        return pooled_windows(logits, batch.text_starts, self.window_pooling)

    def describe(self) -> dict[str, str]:
        """What computes the encoder, and why: for a run's environment.json."""
        return describe_encoder(self.encoder, self.training, self.kernels_reason)

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


def describe_encoder(encoder: Encoder, training: bool, compile_reason: str) -> dict[str, str]:
    """What computes an encoder, and why."""
    weight, fast = encoder.embeddings.token.weight, encoder.fast
    if isinstance(fast, CpuEncoder):
        kernel, reason = "kernels", fast.describe()
    else:
        dropout = encoder.config.attention_probs_dropout_prob if training else 0.0
        kernel, reason = choose_kernel(weight.device, weight.dtype, dropout, encoder.config.head_dim)
    return {
        "attention_kernel": kernel,
        "attention_kernel_reason": reason,
        "compile": "off" if fast is None else fast.name,
        "compile_reason": compile_reason,
    }


def _mean_of_tokens(x: Tensor, batch: Batch) -> Tensor:
    """(sequences, hidden) float32: the mean of each sequence's rows of ``x`` (tokens, hidden), without fillers'."""
    num_tokens = x.shape[0] if batch.num_fillers else batch.num_tokens
    return _means(x[:num_tokens].float(), batch.seq_starts)[: batch.num_real_sequences]


def pooled_windows(x: Tensor, text_starts: Tensor, pooling: WindowPooling) -> Tensor:
    """(texts, width) float32: the mean, or in each column the largest, of each text's rows of ``x`` (sequences, width).

    ``text_starts`` (texts + 1,) int64: the first row of each text.
    """
    if pooling == "mean":
        return _means(x, text_starts)
    owners = _owners(text_starts, x.shape[0])[:, None].expand_as(x)
    largest = x.new_zeros(text_starts.shape[0] - 1, x.shape[1])
    return largest.scatter_reduce(0, owners, x, "amax", include_self=False)


def _means(x: Tensor, starts: Tensor) -> Tensor:
    """(groups, width) float32: the means of the rows of ``x`` (rows, width) that begin at ``starts`` (groups + 1,)."""
    sums = x.new_zeros(starts.shape[0] - 1, x.shape[1], dtype=torch.float32)
    return sums.index_add(0, _owners(starts, x.shape[0]), x) / starts.diff()[:, None]


def _owners(starts: Tensor, num_rows: int) -> Tensor:
    """(rows,) int64: of each row the group that it is in, by where groups begin, ``starts`` (groups + 1,)."""
    groups = torch.arange(starts.shape[0] - 1, device=starts.device)
    return torch.repeat_interleave(groups, starts.diff().long(), output_size=num_rows)
