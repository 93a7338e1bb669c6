"""ONNX Runtime on a classifier's graph: from token ids to logits. Needs NumPy and ONNX Runtime alone.

The graph is that of :mod:`bertwright.model.onnx`. Sequences are padded to the longest of their batch, and batches hold
sequences of like length.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertwright.data.packing import padded_batches
from bertwright.errors import CheckpointError, UserError

GRAPH = "model.onnx"
"""The name of the graph in an exported folder."""

TOKEN_BUDGET = 8_192
"""Most tokens computed at once, padding included, where nothing else is asked for: more fall out of the caches."""

_INPUTS = {"input_ids", "attention_mask"}
_SEGMENTS = "token_type_ids"


class GraphSession:
    """A graph that is ready to compute.

    Attributes:
        takes_segments: whether it tells the second text of a pair from the first.
        num_labels: columns of the logits.
        dtype: what its matrices are in: "float32" or "int8".
    """

    def __init__(self, path: Path, num_threads: int | None = None) -> None:
        """Load the graph.

        Args:
            num_threads: to compute with; None: those that OMP_NUM_THREADS says, else as ONNX Runtime finds best.

        Raises:
            UserError: ONNX Runtime is not installed.
            CheckpointError: the file is no graph of a classifier.
        """
        self._path = path
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(
                f"{path}: scoring with an ONNX graph needs onnxruntime: pip install 'bertwright[onnx]'"
            ) from None
        self.version: str = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or _threads_of_environment()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the binding raises kinds of its own for any damaged file
            raise CheckpointError(f"{path}: not a graph that ONNX Runtime can load ({_first_line(error)})") from None
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        if inputs not in (_INPUTS, {*_INPUTS, _SEGMENTS}) or [value.name for value in outputs] != ["logits"]:
            raise CheckpointError(
                f"{path}: found inputs {', '.join(sorted(inputs))} and outputs "
                f"{', '.join(value.name for value in outputs)}, expected input_ids, attention_mask, perhaps "
                "token_type_ids, and logits"
            )
        width = outputs[0].shape[1] if len(outputs[0].shape) == 2 else None
        if not isinstance(width, int):
            raise CheckpointError(f"{path}: logits have shape {outputs[0].shape}, expected (sequences, labels)")
        self.num_labels = width
        self.takes_segments = _SEGMENTS in inputs
        self.num_threads: int = options.intra_op_num_threads
        self.dtype: str = self._session.get_modelmeta().custom_metadata_map.get("dtype", "float32")

    def run(self, ids: np.ndarray, lengths: np.ndarray, second_starts: np.ndarray | None) -> np.ndarray:
        """(sequences, labels) float32 logits of one batch.

        Args:
            ids: (tokens,), sequence after sequence.
            lengths: (sequences,) tokens of each.
            second_starts: (sequences,) the place in each from which on it is the second text; None: there is none.

        Raises:
            CheckpointError: the graph cannot compute it: the files of its folder do not belong together.
        """
        places = np.arange(int(lengths.max()))
        is_token = places < lengths[:, None]  # (sequences, longest)
        padded = np.zeros(is_token.shape, np.int64)
        padded[is_token] = ids
        given = {"input_ids": padded, "attention_mask": is_token.astype(np.int64)}
        if self.takes_segments:
            second = np.zeros_like(padded) if second_starts is None else places >= second_starts[:, None]
            given[_SEGMENTS] = (second & is_token).astype(np.int64)
        try:
            found: np.ndarray = self._session.run(["logits"], given)[0]
        except Exception as error:  # noqa: BLE001 - as above; of an id or a place that the graph does not know
            raise CheckpointError(
                f"{self._path}: cannot compute sequences of {len(places)} tokens, with ids up to {padded.max()}; "
                f"the graph does not belong to the tokenizer and settings beside it ({_first_line(error)})"
            ) from None
        if found.shape != (len(lengths), self.num_labels):
            raise CheckpointError(
                f"{self._path}: gave logits of shape {found.shape}, expected ({len(lengths)}, {self.num_labels})"
            )
        return found

    def logits(
        self,
        lengths: np.ndarray,
        batch_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
        token_budget: int,
        advance: Callable[[np.ndarray], object] = lambda rows: None,
    ) -> np.ndarray:
        """(sequences, labels) float32 logits of all sequences of ``lengths`` (sequences,).

        Args:
            batch_of: of the sequences at these places, their ids end to end and their ``second_starts``.
            token_budget: how many tokens are computed at once, padding included, at most.
            advance: is told the sequences that are done, batch by batch.
        """
        found = np.zeros((len(lengths), self.num_labels), np.float32)
        for rows in padded_batches(lengths, token_budget):
            ids, second_starts = batch_of(rows)
            found[rows] = self.run(ids, lengths[rows], second_starts)
            advance(rows)
        return found


def pooled_windows(logits: np.ndarray, text_starts: np.ndarray, pooling: str) -> np.ndarray:
    """(texts, labels): of each text's windows in ``logits`` (windows, labels) the mean or, by "max", the largest.

    ``text_starts`` (texts + 1,): the first window of each text. As ``bertwright.model.heads.pooled_windows`` does.
    """
    if len(text_starts) < 2:
        return logits[:0]
    if pooling == "max":
        return np.asarray(np.maximum.reduceat(logits, text_starts[:-1], axis=0))
    return np.asarray(np.add.reduceat(logits, text_starts[:-1], axis=0) / np.diff(text_starts)[:, None], np.float32)


def _threads_of_environment() -> int:
    """What OMP_NUM_THREADS says, as torch takes it too; 0, ONNX Runtime's own choice, where it says nothing."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
