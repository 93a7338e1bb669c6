"""MLPerf's load generator driving our predictor: what it sends, when, and what it says of the answers.

LoadGen (``mlcommons-loadgen``) decides when a query comes, measures when its answer is there, and judges the run by its
own rules: SingleStream sends one sample at a time, Server sends them at random moments (a Poisson process) at a given
rate, Offline sends all at once. Its words stand in its summary, and are passed on as they are.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bertwright.errors import UserError
from bertwright.hardware import release_openmp_threads

if TYPE_CHECKING:
    from bertwright.data.ragged import Ragged
    from bertwright.evaluation.predictor import Predictor

Scenario = Literal["SingleStream", "Offline", "Server"]
SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "Offline", "Server")
SUMMARY = "mlperf_log_summary.txt"
# Percentiles that LoadGen's rules judge: inference_rules, "Scenarios".
_PERCENTILE = {"SingleStream": 0.9, "Server": 0.99}
# Of each scenario, the line of the summary that has its result, what that is, and what to multiply it by.
_RESULTS: dict[Scenario, tuple[str, str, float]] = {
    "SingleStream": (r"Early stopping 90\.0th percentile estimate: (\d+)", "latency_p90_ms", 1e-6),
    "Offline": (r"^Samples per second: ([\d.e+]+)", "samples_per_s", 1.0),
    "Server": (r"^Completed samples per second\s*: ([\d.e+]+)", "samples_per_s", 1.0),
}
_AFTER_FAILURE_S = 0.05
RULES_SECONDS, RULES_OFFLINE_SAMPLES = 600.0, 24_576
"""The least that MLPerf's rules ask of a scenario, and of Offline's one query. LoadGen judges by what it is given."""
_LATENCIES = {"50.00": "p50_ms", "90.00": "p90_ms", "99.00": "p99_ms"}


@dataclass(frozen=True)
class LoadSettings:
    """How a scenario is run.

    Attributes:
        seconds: the least that it lasts.
        least_samples: the least that are sent.
        expected_qps: samples a second: what Server sends, and what the others make queries for. Too few end a
            run early.
        latency_ms: Server's answers must be there within this, 99 of 100 of them.
        log_folder: where LoadGen writes.
    """

    seconds: float
    expected_qps: float
    latency_ms: float
    log_folder: Path
    seed: int = 0
    least_samples: int = 1


@dataclass(frozen=True)
class LoadResult:
    """What LoadGen found.

    Attributes:
        result_line: "Result is : VALID" or "Result is : INVALID", as it stands in the summary.
        value, unit: the scenario's result; None where there was too little to tell.
        latency_ms: p50, p90 and p99 of all samples.
        notes: what else LoadGen says of validity, its lines.
    """

    scenario: Scenario
    result_line: str
    value: float | None
    unit: str
    latency_ms: dict[str, float]
    expected_qps: float
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return self.result_line.rsplit(" ", 1)[-1] == "VALID"


class Subject:
    """What is measured: the predictor, on samples that are texts with token ids.

    One thread computes. What waits when it gets free is computed together, up to ``most_tokens`` tokens: so Server's
    batches grow with the load. Nothing is kept of the answers: LoadGen measures time alone here.
    """

    def __init__(self, predictor: Predictor, ragged: Ragged, most_tokens: int) -> None:
        self.predictor, self.ragged, self.most_tokens = predictor, ragged, most_tokens
        self.lengths = ragged.lengths
        self.failure: Exception | None = None
        self._arrived: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._lg = load_generator()
        release_openmp_threads()
        self._worker = threading.Thread(target=self._work, name="loadgen-subject", daemon=True)
        self._worker.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """Called by LoadGen, from threads of its own: take the samples and come back."""
        self._arrived.put(list(samples))

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        self._arrived.put(None)
        self._worker.join()

    def _work(self) -> None:
        ids, rows = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        over = False
        while not over or len(rows):
            if not len(rows) or not self._arrived.empty():
                over, new = self._take(over, wait=not len(rows))
                ids = np.concatenate([ids, np.array([sample.id for sample in new], np.uint64)])
                rows = np.concatenate([rows, np.array([sample.index for sample in new], np.int64)])
            ends, first = np.cumsum(self.lengths[rows]), 0
            while first < len(rows) and (first == 0 or self._arrived.empty()):
                before = ends[first - 1] if first else 0
                last = max(first + 1, int(np.searchsorted(ends, before + self.most_tokens, side="right")))
                self._answer(ids[first:last], rows[first:last])
                first = last
            ids, rows = ids[first:], rows[first:]

    def _take(self, over: bool, wait: bool) -> tuple[bool, list[Any]]:
        """All samples that have come, and whether no more will."""
        new: list[Any] = []
        while not over:
            try:
                samples = self._arrived.get(block=wait and not new)
            except queue.Empty:
                break
            over = samples is None
            new.extend(samples or ())
        return over, new

    def _answer(self, ids: np.ndarray, rows: np.ndarray) -> None:
        if self.failure is None:
            try:
                self.predictor.logits(self.ragged.take(rows))
            except Exception as failure:  # noqa: BLE001 - a process boundary
                # LoadGen waits for every answer, in C++: an exception may not pass it. ``run`` raises it afterwards.
                self.failure = failure
        else:
            time.sleep(_AFTER_FAILURE_S)  # the scenario cannot be ended sooner; it need not burn the CPU meanwhile
        self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(int(one), 0, 0) for one in ids])


def load_generator() -> Any:
    """LoadGen's module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise UserError("bench mlperf needs mlcommons-loadgen: pip install 'bertwright[mlperf]'") from None
    return mlperf_loadgen


def run(scenario: Scenario, subject: Subject, settings: LoadSettings) -> LoadResult:
    """Run a scenario to its end; what LoadGen says of it.

    Raises:
        UserError: LoadGen left no summary that can be read.
    """
    lg = load_generator()
    asked = lg.TestSettings()
    asked.scenario = getattr(lg.TestScenario, scenario)
    asked.mode = lg.TestMode.PerformanceOnly
    asked.min_duration_ms = round(1000 * settings.seconds)
    asked.min_query_count = settings.least_samples
    asked.sample_index_rng_seed = asked.schedule_rng_seed = asked.qsl_rng_seed = settings.seed + 1
    if scenario == "SingleStream":
        asked.single_stream_expected_latency_ns = round(1e9 / settings.expected_qps)
        asked.single_stream_target_latency_percentile = _PERCENTILE[scenario]
    elif scenario == "Server":
        asked.server_target_qps = settings.expected_qps
        asked.server_target_latency_ns = round(1e6 * settings.latency_ms)
        asked.server_target_latency_percentile = _PERCENTILE[scenario]
    else:
        asked.offline_expected_qps = settings.expected_qps
    written = lg.LogOutputSettings()
    written.outdir = str(settings.log_folder)
    written.copy_summary_to_stdout = False
    log = lg.LogSettings()
    log.log_output, log.enable_trace = written, False
    count = len(subject.ragged)
    subject_id = lg.ConstructSUT(subject.issue, lambda: None)
    library_id = lg.ConstructQSL(count, count, lambda rows: None, lambda rows: None)
    try:
        # Its own file of overrides is looked for where nobody keeps one.
        audit = str(settings.log_folder / "audit.config")
        lg.StartTestWithLogSettings(subject_id, library_id, asked, log, audit)
    finally:
        lg.DestroyQSL(library_id)
        lg.DestroySUT(subject_id)
    if subject.failure is not None:
        raise subject.failure
    summary = settings.log_folder / SUMMARY
    return read_summary(scenario, summary.read_text(encoding="utf-8"), settings)


def read_summary(scenario: Scenario, text: str, settings: LoadSettings) -> LoadResult:
    """The result in LoadGen's summary.

    Raises:
        UserError: it has no line of a result.
    """
    verdict = re.search(r"^Result is : (?:IN)?VALID$", text, re.MULTILINE)
    if verdict is None:
        raise UserError("LoadGen's summary has no line 'Result is'; expected one of mlcommons-loadgen 4 or later")
    pattern, unit, factor = _RESULTS[scenario]
    found = re.search(pattern, text, re.MULTILINE)
    latencies = {
        name: float(value[1]) * 1e-6
        for percentile, name in _LATENCIES.items()
        if (value := re.search(rf"^{re.escape(percentile)} percentile latency \(ns\)\s*: (\d+)", text, re.MULTILINE))
    }
    head = text.split("Additional Stats")[0]
    notes = re.findall(r"^ *(?:\* .+|[\w ]+ satisfied *: *\w+)$", head, re.MULTILINE)
    return LoadResult(
        scenario=scenario,
        result_line=verdict[0],
        value=None if found is None else float(found[1]) * factor,
        unit=unit,
        latency_ms=latencies,
        expected_qps=settings.expected_qps,
        seconds=settings.seconds,
        notes=[" ".join(note.split()) for note in notes],
    )
