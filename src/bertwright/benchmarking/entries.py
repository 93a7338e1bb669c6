"""Who can take part, by name: a literal table. A new contender is a class (see ``contender``) and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bertwright.benchmarking.cases import CaseName, GraphKind
from bertwright.errors import UserError

Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class Entry:
    """One contender.

    Attributes:
        name: what --contenders takes.
        target: the class, as "module:class"; loaded in the worker alone.
        options: what the class is called with, besides the case.
        what: how it is done, for the table's reader.
        peer: another library, which takes part with --peers only.
        usual: takes part without being named.
        graph: the ONNX graph that it is given; None: it needs none.
        from_texts: tokenises too, so that it is set beside ours that does.
        precision: what it computes in, by which it is judged; None: what it has chosen.
        bf16: multiplies bfloat16, however slow the device is at it.
    """

    name: str
    target: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False
    usual: bool = True
    graph: GraphKind | None = None
    from_texts: bool = False
    precision: Precision | None = "float32"
    bf16: bool = False

    @property
    def first_token_only(self) -> bool:
        """Whether its last layer is computed for the first token alone, where the classifier reads no other."""
        return not self.peer or self.graph in ("first", "first-int8")


OURS = "bertwright"
REFERENCE = f"{OURS}-float32"
OURS_FROM_TEXTS = f"{OURS}-texts"
PEAK = Entry("peak", "bertwright.benchmarking.ours:Peak", "a large matrix product")

_OURS = "bertwright.benchmarking.ours"
_PEERS = "bertwright.benchmarking.peers"
_TRAINER = f"{_PEERS}.trainer:Training"
_OPENVINO = f"{_PEERS}.openvino:Inference"

_ONNX_RUNTIME = f"{_PEERS}.onnx_runtime:Inference"
_TRANSFORMERS = f"{_PEERS}.torch_transformers:Inference"
_PIPELINE = f"{_PEERS}.pipeline:Inference"
_BF16 = {"dtype": "bfloat16"}

# name, target, what, graph, options, usual
_GRAPH_PEERS: tuple[tuple[str, str, str, GraphKind, dict[str, Any], bool], ...] = (
    ("onnxruntime-float32", _ONNX_RUNTIME, "our ONNX graph", "first", {}, True),
    ("onnxruntime-int8", _ONNX_RUNTIME, "dynamic quantisation", "first", {"precision": "int8"}, True),
    ("openvino-f32", _OPENVINO, "our ONNX graph", "first", {}, True),
    ("openvino-bf16", _OPENVINO, "our ONNX graph", "first", {"precision": "bf16"}, True),
    ("openvino-int8", _OPENVINO, "int8 weights, dynamic quantisation", "first-int8", {"precision": "int8"}, True),
    # The last layer whole, as other exporters write it. Slower, so that these do not take part by themselves.
    ("onnxruntime-float32-full", _ONNX_RUNTIME, "the last layer whole", "all", {}, False),
    ("openvino-bf16-full", _OPENVINO, "the last layer whole", "all", {"precision": "bf16"}, False),
)

_TRAINER_MASKED = f"{_PEERS}.trainer_masked:Pretraining"

_PRECISIONS: dict[str, Precision] = {"bf16": "bfloat16", "int8": "int8"}


def _transformers(name: str, what: str, options: Mapping[str, Any], usual: bool = True) -> Entry:
    precision: Precision = "bfloat16" if "dtype" in options else "float32"
    bf16 = precision == "bfloat16"
    return Entry(name, _TRANSFORMERS, what, options, peer=True, usual=usual, precision=precision, bf16=bf16)


_INFER = (
    Entry(OURS, f"{_OURS}:Inference", "ids to logits", precision=None),
    Entry(REFERENCE, f"{_OURS}:Inference", "ids to logits", {"dtype": "float32"}),
    Entry(
        f"{OURS}-int8",
        f"{_OURS}:Inference",
        "ids to logits, int8 weights and tokens",
        {"dtype": "int8"},
        precision="int8",
    ),
    Entry(OURS_FROM_TEXTS, f"{_OURS}:Inference", "texts to logits", {"tokenizes": True}, precision=None),
    Entry("pipeline", _PIPELINE, "texts to scores, at its defaults", peer=True, from_texts=True),
    Entry(
        "pipeline-batched",
        _PIPELINE,
        "texts to scores, 32 at once",
        {"batch_size": 32},
        peer=True,
        usual=False,
        from_texts=True,
    ),
    _transformers("transformers-float32", "sdpa", {}),
    _transformers("transformers-float32-eager", "eager attention", {"attention": "eager"}),
    _transformers("transformers-bf16", "bf16 weights, sdpa", _BF16),
    _transformers("transformers-bf16-eager", "bf16 weights, eager attention", {**_BF16, "attention": "eager"}),
    # Compiling takes a minute or more.
    _transformers("transformers-float32-compiled", "torch.compile, sdpa", {"compiled": True}, usual=False),
    _transformers(
        "transformers-bf16-compiled", "torch.compile, bf16 weights, sdpa", {**_BF16, "compiled": True}, usual=False
    ),
    *(
        Entry(
            name,
            target,
            what,
            {"graph": graph, **options},
            peer=True,
            usual=usual,
            graph=graph,
            precision=_PRECISIONS.get(options.get("precision", ""), "float32"),
            bf16=options.get("precision") == "bf16",
        )
        for name, target, what, graph, options, usual in _GRAPH_PEERS
    ),
    Entry("jax-float32", f"{_PEERS}.jax:Inference", "the formulas, jit", peer=True, usual=False),
    Entry(
        "tensorflow-float32", f"{_PEERS}.tensorflow:Inference", "keras-hub's BERT, tf.function", peer=True, usual=False
    ),
)
# Those of the infer case that are compared as engines: from token ids, each in its best form.
_ENGINES = (
    OURS,
    REFERENCE,
    f"{OURS}-int8",
    "transformers-float32",
    "transformers-bf16",
    "transformers-float32-compiled",
    "transformers-bf16-compiled",
    "onnxruntime-float32",
    "onnxruntime-int8",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
    "jax-float32",
)
# Of the engines too, only when named: large packages that neither `bench` nor the tests' requirements bring.
_NAMED_ENGINES = ("tensorflow-float32",)

ENTRIES: dict[CaseName, tuple[Entry, ...]] = {
    "infer": _INFER,
    "engines": (
        *(replace(entry, usual=True) for entry in _INFER if entry.name in _ENGINES),
        *(entry for entry in _INFER if entry.name in _NAMED_ENGINES),
    ),
    "pretrain": (
        Entry(OURS, f"{_OURS}:Pretraining", "documents without padding; masked tokens alone in the head"),
        Entry(
            "trainer-blocks", _TRAINER_MASKED, "bf16=True, blocks across documents, fused AdamW", peer=True, bf16=True
        ),
        Entry(
            "trainer-blocks-bf16-weights",
            _TRAINER_MASKED,
            "weights and AdamW in bf16, eager attention, blocks across documents",
            {"precision": "bfloat16_weights", "attention": "eager"},
            peer=True,
            bf16=True,
        ),
        Entry(
            "trainer-blocks-float32",
            _TRAINER_MASKED,
            "blocks across documents, fused AdamW",
            {"precision": "float32"},
            peer=True,
        ),
        Entry(
            "trainer-blocks-compiled",
            _TRAINER_MASKED,
            "as trainer-blocks-bf16-weights, with sdpa and torch_compile",
            {"precision": "bfloat16_weights", "compiled": True},
            peer=True,
            bf16=True,
            usual=False,
        ),
        Entry(
            "trainer-grouped",
            _TRAINER_MASKED,
            "bf16=True, length-grouped, padded",
            {"blocks": False},
            peer=True,
            bf16=True,
            usual=False,
        ),
    ),
    "train": (
        Entry(OURS, f"{_OURS}:Training", "without padding"),
        Entry(f"{OURS}-float32", f"{_OURS}:Training", "without padding", {"dtype": "float32"}),
        Entry("trainer-best", _TRAINER, "bf16=True, length-grouped, fused AdamW", peer=True, bf16=True),
        Entry(
            "trainer-bf16-weights",
            _TRAINER,
            "weights and AdamW in bf16, eager attention, length-grouped",
            {"precision": "bfloat16_weights", "attention": "eager"},
            peer=True,
            bf16=True,
        ),
        Entry(
            "trainer-bf16-weights-sdpa",
            _TRAINER,
            "as trainer-bf16-weights, with sdpa",
            {"precision": "bfloat16_weights"},
            peer=True,
            bf16=True,
            usual=False,
        ),
        Entry(
            "trainer-eager",
            _TRAINER,
            "as trainer-best, with eager attention",
            {"attention": "eager"},
            peer=True,
            bf16=True,
            usual=False,
        ),
        Entry("trainer-float32", _TRAINER, "length-grouped, fused AdamW", {"precision": "float32"}, peer=True),
        Entry(
            "trainer-compiled",
            _TRAINER,
            "as trainer-best, with torch_compile",
            {"compiled": True},
            peer=True,
            bf16=True,
            usual=False,
        ),
        Entry(
            "trainer-recipe",
            _TRAINER,
            "float32, padded to the maximum, 4 steps a turn",
            {"precision": "float32", "optimizer": "adamw_torch", "length_grouped": False, "steps": 4},
            peer=True,
        ),
    ),
    "tokenize": (
        Entry(OURS, f"{_OURS}:Tokenizing", "Arrow array to ids"),
        Entry(f"{OURS}-file", f"{_OURS}:FileToCache", "files to a folder of ids"),
        Entry("tokenizers", f"{_PEERS}.tokenizers:Tokenizing", "encode_batch_fast on a list of str", peer=True),
    ),
}


def choose_entries(case: CaseName, peers: bool, named: Sequence[str]) -> list[Entry]:
    """Those that take part: the ``named`` ones (ours always among them, first), else the usual ones.

    Engines always have the reference among them.

    Raises:
        UserError: a name that is none of the case's.
    """
    known = {entry.name: entry for entry in ENTRIES[case]}
    for name in named:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"the known ones are {', '.join(known)}"
            raise UserError(f"--contenders: {name!r} is no contender of bench {case}; {hint}")
    if named:
        always = (OURS, REFERENCE) if case == "engines" else (OURS,)
        return [entry for entry in ENTRIES[case] if entry.name in (*always, *named)]
    return [entry for entry in ENTRIES[case] if entry.usual and (peers or not entry.peer)]
