"""Prometheus metrics, under text-embeddings-inference's names, of all workers together.

Where there are several workers, each writes its numbers into files of one folder (PROMETHEUS_MULTIPROC_DIR, which must
be set before this module is used), and whichever is asked adds them up.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

# From a tenth of a millisecond up: a small model answers faster than the library's first bucket.
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = tuple(float(1 << power) for power in range(17))
# The library ends the names of counters with _total; text-embeddings-inference does not.
_THEIR_COUNTERS = re.compile(rb"^((?:# (?:HELP|TYPE) )?te_request_(?:count|success|failure))_total\b", re.MULTILINE)
_RECENT_S = 60.0
_MOST_RECENT = 4_096

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What happened to requests. All but ``batch`` are called from the event loop's thread."""

    def __init__(self) -> None:
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        registry = self._registry = CollectorRegistry()
        prometheus_client.disable_created_metrics()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, registry=registry, buckets=buckets)

        self._count = counter("te_request_count", "Requests for scores.")
        self._success = counter("te_request_success", "Requests for scores that were answered with them.")
        self._failure = counter("te_request_failure", "Requests for scores that were refused or failed.", ("err",))
        self._duration = histogram("te_request_duration", "Seconds of a request for scores, in all.")
        self._parts = {
            "queue": histogram("te_predict_queue_duration", "Seconds that a request waited."),
            "tokenization": histogram("te_predict_tokenization_duration", "Seconds of tokenising a request."),
            "inference": histogram("te_predict_inference_duration", "Seconds of computing a request."),
        }
        self._predict = histogram("te_predict_duration", "Seconds of waiting, tokenising and computing together.")
        self._queue = Gauge("te_queue_size", "Texts that wait.", registry=registry, multiprocess_mode="livesum")
        self._batch_texts = histogram("te_batch_next_size", "Texts of a batch.", _SIZES)
        self._batch_tokens = histogram("te_batch_next_tokens", "Tokens of a batch.", _SIZES)
        self._responses = counter("bertwright_responses", "All responses.", ("status",))
        self._by_status: dict[int, Counter] = {}  # looked up once each
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MOST_RECENT)

    def batch(self, num_texts: int, num_tokens: int, waiting_texts: int) -> None:
        self._batch_texts.observe(num_texts)
        self._batch_tokens.observe(num_tokens)
        self.waiting(waiting_texts)

    def waiting(self, num_texts: int) -> None:
        """So many texts wait in this worker."""
        self._queue.set(num_texts)

    def response(self, status: int) -> None:
        found = self._by_status.get(status)
        if found is None:
            found = self._by_status[status] = self._responses.labels(str(status))
        found.inc()

    def scored(self, seconds: dict[str, float], total_s: float) -> None:
        """A request got its scores."""
        self._count.inc()
        self._success.inc()
        for name, histogram in self._parts.items():
            histogram.observe(seconds[name])
        self._predict.observe(sum(seconds.values()))
        self._duration.observe(total_s)
        self._recent.append((time.monotonic(), total_s))

    def refused(self, kind: str) -> None:
        """A request for scores got none."""
        self._count.inc()
        self._failure.labels(kind).inc()

    def recent(self) -> dict[str, float | int | None]:
        """How long the requests of the last minute took this worker."""
        since = time.monotonic() - _RECENT_S
        taken = sorted(seconds for moment, seconds in self._recent if moment >= since)

        def at(share: float) -> float | None:
            return round(taken[min(int(share * len(taken)), len(taken) - 1)] * 1e3, 3) if taken else None

        return {"window_s": _RECENT_S, "requests": len(taken), "p50_ms": at(0.5), "p99_ms": at(0.99)}

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        registry = self._registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return _THEIR_COUNTERS.sub(rb"\1", prometheus_client.generate_latest(registry))
