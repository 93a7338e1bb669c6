"""Hugging Face's tokenizers."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import Turn

# Texts a call: the encodings of millions at once would need more memory than most machines have.
_CHUNK = 16_384


class Tokenizing:
    """``encode_batch_fast`` on lists of str made beforehand, with all threads. Turning its encodings into ids is left
    out of the time.
    """

    def __init__(self, case: Case) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        import tokenizers

        from bertwright.benchmarking.ours import text_bytes

        self.case = case
        self.tokenizer = tokenizers.Tokenizer.from_file(str(case.model_folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(case.max_length)
        self.texts: list[str] = case.texts.to_pylist()
        self.num_bytes = text_bytes(case)
        self.digest = ""
        self.chosen: dict[str, Any] = {"tokenizers": tokenizers.__version__, "num_threads": case.num_threads}
        self.tokenizer.encode_batch_fast(self.texts[:256])

    def run(self) -> Turn:
        seconds, lengths, ids_digest = 0.0, [], hashlib.sha256()
        for start in range(0, len(self.texts), _CHUNK):
            chunk = self.texts[start : start + _CHUNK]
            started = time.perf_counter()
            encodings = self.tokenizer.encode_batch_fast(chunk)
            seconds += time.perf_counter() - started
            for encoding in encodings:
                ids = encoding.ids
                lengths.append(len(ids))
                ids_digest.update(np.array(ids, dtype="<i4").tobytes())
        self.digest = ids_digest.hexdigest()
        return Turn(seconds, len(self.texts), sum(lengths), num_bytes=self.num_bytes)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"ids_sha256": np.array(self.digest)}
