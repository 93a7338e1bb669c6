"""BERT's masked language model: the encoder, and a head that names the token behind each mask.

    h = LayerNorm(GELU(x W + b)),  logits = h E^T + c

Devlin et al. 2019, arXiv 1810.04805, sections 3.1 and A.1 (task 1), and the authors' released code: the output weights
E are the token embeddings. Only masked tokens are read: the last layer and the head are computed for them alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bertwright.model.attention import choose_kernel
from bertwright.model.batch import Batch, Readers
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder, why_not
from bertwright.model.encoder import Encoder, EncoderLayer, ModelConfig
from bertwright.model.gpu_encoder import GpuEncoder, Work, why_not_compile
from bertwright.model.heads import describe_encoder
from bertwright.model.tied_cross_entropy import PlainCrossEntropy, Scored, TileCrossEntropy

TABLE = "encoder.embeddings.token.weight"
"""The name of the token embeddings, (vocabulary, hidden), in a ``MaskedLanguageModel``'s state."""


class PredictionHead(nn.Module):
    """What comes before the tied output weights, and their bias (vocabulary,), which stays in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """(readers, hidden)."""
        return self.norm(functional.gelu(self.dense(x)))


class MaskedLanguageModel(nn.Module):
    """Encoder and head; the output weights are the token embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = PredictionHead(config)
        self.kernels_reason = "compute_in was not called yet"
        self._output: PlainCrossEntropy | TileCrossEntropy | None = None

    def logits(self, batch: Batch, only: Readers | None = None) -> Tensor:
        """(readers, vocabulary) float32, whole: for few tokens. All tokens are read without ``only``."""
        x = self.head(self.encoder(batch, only=only))
        return (x @ self.encoder.embeddings.token.weight.T).float() + self.head.bias

    def loss(self, batch: Batch, only: Readers, targets: Tensor, scale: float) -> Tensor:
        """The cross-entropy of ``targets`` (readers,) int64, the tokens behind the masks, summed, times ``scale``.

        Go back from it as it is.
        """
        return self.output.loss(self.head(self.encoder(batch, only=only)), targets, scale)

    @torch.no_grad()
    def score(self, batch: Batch, only: Readers, targets: Tensor) -> Scored:
        """The loss of each of ``targets`` (readers,), and whether it was the likeliest token."""
        return self.output.score(self.head(self.encoder(batch, only=only)), targets)

    @property
    def output(self) -> PlainCrossEntropy | TileCrossEntropy:
        """What computes the cross-entropy."""
        if self._output is None or not self._output.is_current():
            self._output = PlainCrossEntropy(self.encoder.embeddings.token.weight, self.head.bias)
        return self._output

    @property
    def cpu_encoder(self) -> CpuEncoder | None:
        """What computes the encoder on a CPU, if the C kernels do."""
        fast = self.encoder.fast
        return fast if isinstance(fast, CpuEncoder) else None

    @property
    def has_dense_table_gradient(self) -> bool:
        """Whether the gradient of the token embeddings that ``cpu_encoder`` gives is that of all rows."""
        return self.output.encoder is not None

    def compute_in(self, dtype: torch.dtype, accelerate: bool = True) -> MaskedLanguageModel:
        """Let everything but the output bias compute in ``dtype``. In place.

        Args:
            accelerate: on a CPU, let C kernels compute what they can.
        """
        bias = self.head.bias
        self.to(dtype)
        self.head.bias = nn.Parameter(bias.detach().float())
        self.encoder.fast, self._output = None, None
        for layer in self.encoder.layers:
            assert isinstance(layer, EncoderLayer)
            layer.attention.kernel = None  # the fastest that fits where it now is
        device = self.head.bias.device
        reason = why_not(self.encoder, device, dtype) if accelerate else "switched off by --compile off"
        found = load_kernels() if reason is None else None
        if found is not None and found.kernels is not None:
            fast = self.encoder.fast = CpuEncoder.of(self.encoder)
            if TileCrossEntropy.fits(found.kernels, fast):
                self._output = TileCrossEntropy(found.kernels, fast, self.head.bias)
            else:
                self._output = PlainCrossEntropy(self.encoder.embeddings.token.weight, self.head.bias, fast)
            reason = found.reason
        self.kernels_reason = reason or ""
        return self

    def compile_for(self, work: Work, always: bool = False) -> MaskedLanguageModel:
        """On a GPU, let torch.compile make the layers' kernels if ``work`` pays for it, or ``always``. In place."""
        weight = self.encoder.embeddings.token.weight
        if weight.device.type != "cuda":
            return self
        dropout = self.config.attention_probs_dropout_prob
        kernel, _ = choose_kernel(weight.device, weight.dtype, dropout, self.config.head_dim)
        reason = why_not_compile(self.encoder, kernel, None if always else work, training=True)
        if reason is None:
            self.encoder.fast = GpuEncoder(self.encoder, kernel, graphs=False)
            reason = "the work pays for compiling"
        self.kernels_reason = reason
        return self

    def describe(self) -> dict[str, str]:
        """What computes the model, and why: for a run's environment.json."""
        found = describe_encoder(self.encoder, self.training, self.kernels_reason)
        return {**found, "cross_entropy": self.output.name}

    def release_memory(self) -> None:
        """Let go of the memory that is kept for the next batch."""
        if self.cpu_encoder is not None:
            self.cpu_encoder.release_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
