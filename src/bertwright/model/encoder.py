"""BERT's encoder, from the formulas, on flat batches without padding; other families of models by configuration.

Sources: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv 1810.04805), section 3 and
appendix A.2; Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), sections 3.1 to 3.3. The norms stand
after each addition ("post-norm"), as in both papers. Where other families differ: ``bertwright.model.families``.
Shapes: see ``bertwright.model.batch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bertwright.config.base import Settings, build
from bertwright.errors import CheckpointError, UserError, shown
from bertwright.model.attention import Kernel, attend
from bertwright.model.batch import Batch, Readers, first_readers
from bertwright.model.families import FAMILIES, OWN_SETTINGS, Family, ModelType

# Turc et al. 2019, "Well-Read Students Learn Better" (arXiv 1908.08962), table 1, and BERT's own two sizes
# (arXiv 1810.04805, section 3): layers, hidden size, attention heads. The feed-forward width is 4 x hidden.
SIZES: dict[str, tuple[int, int, int]] = {
    "bert-tiny": (2, 128, 2),
    "bert-mini": (4, 256, 4),
    "bert-small": (4, 512, 8),
    "bert-medium": (8, 512, 8),
    "bert-base": (12, 768, 12),
    "bert-large": (24, 1024, 16),
}


# transformers' name of the exact GELU where it is written out in Python; "gelu" is the same, as one operator.
_GELU_IN_PYTHON = "gelu_python"


class ModelConfig(Settings):
    """The shape of an encoder, under the names that Hugging Face's config.json uses for BERT.

    Attributes:
        model_type: the family; see ``bertwright.model.families``.
        embedding_size: width of the embeddings, which a matrix brings to ``hidden_size``; None: they have that width.
        type_vocab_size: segments; 0: the model has none (DistilBERT).
        use_task_id: whether the embedding of a task is added to every token's (ERNIE), of ``task_type_vocab_size``.
    """

    model_type: ModelType = "bert"
    vocab_size: int = Field(30522, ge=1, le=10_000_000)
    embedding_size: int | None = Field(None, ge=1, le=65_536)
    hidden_size: int = Field(768, ge=1, le=65_536)
    num_hidden_layers: int = Field(12, ge=1, le=1_000)
    num_attention_heads: int = Field(12, ge=1, le=4_096)
    intermediate_size: int = Field(3072, ge=1, le=1_000_000)
    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1)
    classifier_dropout: float | None = Field(None, ge=0, lt=1)
    max_position_embeddings: int = Field(512, ge=1, le=1_000_000)
    type_vocab_size: int = Field(2, ge=0, le=1_000)
    use_task_id: bool = False
    task_type_vocab_size: int = Field(3, ge=1, le=1_000)
    initializer_range: float = Field(0.02, gt=0)
    layer_norm_eps: float = Field(1e-12, gt=0)
    pad_token_id: int | None = 0

    @model_validator(mode="after")
    def _fits_its_family(self) -> Self:
        if not self.type_vocab_size and self.family.missing_settings.get("type_vocab_size") != 0:
            raise ValueError(f"type_vocab_size must be 1 or more for {self.family.title}, found 0")
        if self.family.positions_follow_padding:
            pad = self.pad_token_id
            if pad is None or not 0 <= pad < self.max_position_embeddings - 1:
                raise ValueError(
                    f"pad_token_id must be from 0 to {self.max_position_embeddings - 2} for {self.family.title}, whose "
                    f"positions are counted from there; found {pad}"
                )
        return self

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings, before they are projected."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def position_offset(self) -> int:
        """Row of the first token's position in the table of positions."""
        if not self.family.positions_follow_padding:
            return 0
        assert self.pad_token_id is not None, "checked when built"
        return self.pad_token_id + 1

    @property
    def num_positions(self) -> int:
        """Most tokens of a sequence: the positions without those that are never used."""
        return self.max_position_embeddings - self.position_offset

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def of_size(cls, name: str, vocab_size: int) -> ModelConfig:
        """The configuration of one of ``SIZES``."""
        num_layers, hidden_size, num_heads = SIZES[name]
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
        )

    @classmethod
    def from_hugging_face(cls, values: Mapping[str, Any], source: str) -> ModelConfig:
        """The configuration in a config.json; settings that do not change what the encoder computes are left out.

        Raises:
            CheckpointError: another kind of model, or a setting that this encoder does not compute.
        """
        model_type = values.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise CheckpointError(f"{source}: model_type is {shown(model_type)}, expected one of {known}")
        family = FAMILIES[model_type]
        activation = family.renamed_settings.get("hidden_act", "hidden_act")
        for name, supported in (("position_embedding_type", "absolute"), ("is_decoder", False), (activation, "gelu")):
            found = values.get(name, supported)
            if found != supported and not (name == activation and found == _GELU_IN_PYTHON):
                raise CheckpointError(f"{source}: {name} is {shown(found)}; this encoder computes {supported!r} only")
        theirs = _names_in_config_json(model_type)
        given = {ours: values[name] for ours, name in theirs.items() if name in values}
        given.pop("hidden_act", None)  # checked, and there is but one
        try:
            config = build(cls, {**family.missing_settings, **family.defaults, **given}, source)
        except UserError as error:
            raise CheckpointError(str(error)) from None
        if config.hidden_size % config.num_attention_heads:
            raise CheckpointError(
                f"{source}: {theirs['hidden_size']} {config.hidden_size} is no multiple of "
                f"{theirs['num_attention_heads']} {config.num_attention_heads}"
            )
        return config

    def to_hugging_face(self) -> dict[str, Any]:
        """The settings as the family's config.json has them."""
        values = self.model_dump()
        if "embedding_size" in self.family.own_settings:
            values["embedding_size"] = self.embedding_width
        return {theirs: values[ours] for ours, theirs in _names_in_config_json(self.model_type).items()}


def _names_in_config_json(model_type: ModelType) -> dict[str, str]:
    """Of each setting that the family's config.json has, our name and its own."""
    family = FAMILIES[model_type]
    absent = set(family.missing_settings) | (OWN_SETTINGS - set(family.own_settings))
    return {name: family.renamed_settings.get(name, name) for name in ModelConfig.model_fields if name not in absent}


class _Table(nn.Embedding):
    """Embeddings that draw no numbers where there is no memory for them.

    On "meta" PyTorch would load its compiler to do so, which takes a second or two.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embeddings(nn.Module):
    """Token + position + segment, then LayerNorm and dropout (arXiv 1810.04805, section 3, figure 2).

    What only some families have: no segments; the first row of a table of tasks, added too; and a projection to
    ``hidden_size`` at the end. Else ``segment``, ``task`` and ``project`` are None as they apply.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.position_offset = config.position_offset
        self.token = _Table(config.vocab_size, width)
        self.position = _Table(config.max_position_embeddings, width)
        self.segment = _Table(config.type_vocab_size, width) if config.type_vocab_size else None
        self.task = _Table(config.task_type_vocab_size, width) if config.use_task_id else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.project = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden). A model without segments does not read ``batch.segment_ids``."""
        x = self.token(batch.token_ids) + self.position(batch.positions + self.position_offset)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if batch.segment_ids is None else self.segment(batch.segment_ids))
        if self.task is not None:
            x = x + self.task.weight[0]
        x = self.dropout(self.norm(x))
        return x if self.project is None else self.project(x)


class SelfAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O (arXiv 1706.03762, section 3.2.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = config.attention_probs_dropout_prob
        self.kernel: Kernel | None = None  # the fastest that fits

    def forward(self, x: Tensor, readers: Tensor, batch: Batch, reader_starts: Tensor, max_readers: int) -> Tensor:
        """(reading tokens, hidden): what ``readers`` (reading tokens, hidden) read from ``x`` (tokens, hidden)."""
        heads = (-1, self.num_heads, self.head_dim)
        read = attend(
            self.query(readers).view(heads),  # (reading tokens, heads, head_dim)
            self.key(x).view(heads),  # (tokens, heads, head_dim)
            self.value(x).view(heads),
            reader_starts,
            batch.seq_starts,
            max_readers,
            batch.max_len,
            self.dropout if self.training else 0.0,
            self.kernel,
        )
        return self.output(read.reshape(readers.shape))


class FeedForward(nn.Module):
    """FFN(x) = GELU(x W_1 + b_1) W_2 + b_2 (arXiv 1706.03762, equation 2, with GELU for ReLU as in BERT).

    GELU is the exact x * Phi(x) (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2), not its tanh approximation.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(reading tokens, hidden)."""
        return self.contract(functional.gelu(self.expand(x)))


class EncoderLayer(nn.Module):
    """LayerNorm(x + Sublayer(x)) twice: attention, then feed-forward (arXiv 1706.03762, section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, batch: Batch, only: Readers | None = None) -> Tensor:
        """(tokens, hidden), or (reading tokens, hidden) of ``only`` some of them.

        Keys and values are then computed for all tokens, and everything else for those: exact, since nothing reads the
        others.
        """
        if only is not None:
            readers, reader_starts, max_readers = x[only.rows], only.starts, only.most
        else:
            readers, reader_starts, max_readers = x, batch.seq_starts, batch.max_len
        attended = self.attention(x, readers, batch, reader_starts, max_readers)
        x = self.attention_norm(readers + self.dropout(attended))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class FastEncoder(Protocol):
    """Something that computes what an ``Encoder`` does, from its parameters, faster. ``name`` says what it is."""

    name: str

    def is_current(self) -> bool:
        """Whether the parameters are still those that it knows."""
        ...

    def __call__(self, batch: Batch, only: Readers | None) -> Tensor: ...


class Encoder(nn.Module):
    """Embeddings and a stack of layers.

    Attributes:
        fast: what computes in its place, if anything.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.fast: FastEncoder | None = None

    def forward(self, batch: Batch, only_first: bool = False, only: Readers | None = None) -> Tensor:
        """(tokens, hidden) of the last layer; with ``only`` (readers, hidden) of some tokens, with ``only_first``
        (sequences, hidden) of each text's first."""
        only = first_readers(batch) if only_first else only
        if self.fast is not None and self.fast.is_current():
            return self.fast(batch, only)
        return self.compute(batch, only=only)

    def compute(self, batch: Batch, only_first: bool = False, only: Readers | None = None) -> Tensor:
        """As ``forward``, by PyTorch's operators."""
        only = first_readers(batch) if only_first else only
        x = self.embeddings(batch)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, batch, only if i == last else None)
        return x
