"""The act of measuring as MLPerf does: its load generator, its scenarios, its rules of validity."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright import hardware
from bertwright.benchmarking.bench import append_line, busy_share, result_file
from bertwright.benchmarking.cases import check_kind, describe_texts, sample
from bertwright.benchmarking.loadgen import LoadResult, LoadSettings, Scenario, Subject, load_generator, run
from bertwright.benchmarking.mlperf_published import DIFFERENCES, Published, load_published
from bertwright.benchmarking.show_mlperf import show_mlperf
from bertwright.config import BenchMlperfConfig
from bertwright.data.columns import read_unlabelled
from bertwright.data.ragged import Ragged
from bertwright.errors import UserError
from bertwright.evaluation.predictor import Predictor
from bertwright.model.checkpoint import load_classifier, load_for_training
from bertwright.progress import Reporter

OFFICIAL_MODEL, OFFICIAL_LENGTH = "bert-large", 384
_OFFICIAL_SAMPLES = 64
# Samples of Offline's query that are computed together, in token budgets: what is said once for many costs little.
_OFFLINE_BUDGETS = 8
_TRY_S = 1.0
# The search: from this share of Offline's rate down or up, until two rates are this near to each other.
_FIRST_SHARE, _NEAR, _MOST_SEARCHES = 0.6, 1.04, 10
# A rate that a short run held may be too high for a long one: then a little less.
_LESS, _MOST_LOWERED = 0.95, 8


def run_mlperf(config: BenchMlperfConfig, reporter: Reporter) -> dict[str, Any]:
    """Run the scenarios; shows a table and gives the record.

    Raises:
        UserError: texts or a model that cannot be used, or LoadGen is not installed.
    """
    load_generator()  # before any work
    busy = busy_share()
    predictor, ragged, description = _subject(config, reporter)
    reporter.say(predictor.summary())
    offline_qps = _try_rate(predictor, ragged)
    single_qps = _try_single(predictor, ragged)
    with ExitStack() as stack:
        if config.logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bertwright-loadgen-")))
        else:
            logs = Path(config.logs)
        measure = _Measure(config, predictor, ragged, logs, reporter)
        results: list[LoadResult] = []
        searched: list[dict[str, Any]] = []
        for scenario in config.scenarios:
            if scenario == "SingleStream":
                results.append(measure.run(scenario, single_qps, config.seconds))
            elif scenario == "Offline":
                results.append(measure.offline(offline_qps))
                offline_qps = results[-1].value or offline_qps
            else:
                found, searched = measure.server(offline_qps)
                results.append(found)
    result = {
        "case": "mlperf",
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "unofficial": True,
        "official_shape": config.official_shape,
        "differences": list(DIFFERENCES) if config.official_shape else [],
        **description,
        "dtype": predictor.describe()["dtype"],
        "seconds": config.seconds,
        "latency_limit_ms": config.latency_ms,
        "scenarios": [{**asdict(one), "valid": one.valid} for one in results],
        "server_search": searched,
        "busy_share_at_start": busy,
        "usd_per_hour": config.usd_per_hour,
        "environment": hardware.describe(predictor.device),
        "chosen": predictor.describe(),
        "peak_bytes": hardware.peak_process_bytes(),
    }
    published: dict[str, list[Published]] = {}
    if config.official_shape:
        published |= {one.scenario: load_published(one.scenario) for one in results}
    show_mlperf(result, published, reporter)
    if config.output is not None:
        append_line(result_file(config.output, result), result)
    return result


class _Measure:
    """The scenarios on one subject."""

    def __init__(
        self, config: BenchMlperfConfig, predictor: Predictor, ragged: Ragged, logs: Path, reporter: Reporter
    ) -> None:
        self.config, self.predictor, self.ragged, self.logs, self.reporter = config, predictor, ragged, logs, reporter

    def run(self, scenario: Scenario, qps: float, seconds: float, folder: str = "") -> LoadResult:
        config = self.config
        logs = self.logs / (folder or scenario)
        logs.mkdir(parents=True, exist_ok=True)
        budgets = _OFFLINE_BUDGETS if scenario == "Offline" else 1
        subject = Subject(self.predictor, self.ragged, budgets * self.predictor.token_budget)
        self.reporter.say(f"{scenario}: {seconds:g} s or more, {qps:,.1f} samples/s expected")
        try:
            found = run(scenario, subject, LoadSettings(seconds, qps, config.latency_ms, logs, config.seed))
        finally:
            subject.close()
        self.reporter.say(f"{scenario}: {found.result_line}")
        return found

    def offline(self, qps: float) -> LoadResult:
        """One query, made for a tenth more than is expected; again, larger, where that was over too soon."""
        found = self.run("Offline", qps, self.config.seconds)
        if not found.valid and found.value:
            found = self.run("Offline", 1.1 * found.value, self.config.seconds)
        return found

    def server(self, offline_qps: float) -> tuple[LoadResult, list[dict[str, Any]]]:
        """Server at the highest rate that holds: searched for in short runs, then run whole, and a little less until
        it holds; and what was tried."""
        config = self.config
        tried: list[dict[str, Any]] = []

        def attempt(qps: float, seconds: float, folder: str) -> LoadResult:
            found = self.run("Server", qps, seconds, folder)
            tried.append(
                {"qps": qps, "seconds": seconds, "valid": found.valid, "p99_ms": found.latency_ms.get("p99_ms")}
            )
            return found

        qps = config.server_qps
        if qps is None:
            qps = search_rate(
                _FIRST_SHARE * offline_qps,
                lambda rate: _holds(attempt(rate, config.search_seconds, "Server-search"), config.latency_ms),
            )
            if qps is None:
                raise UserError(
                    f"Server: no rate was found that holds {config.latency_ms:g} ms; the slowest tried was "
                    f"{min(one['qps'] for one in tried):,.2f} samples/s. Pass a larger --latency-ms"
                )
        found = attempt(qps, config.seconds, "Server")
        for _ in range(_MOST_LOWERED):
            if found.valid or config.server_qps is not None:
                break
            qps *= _LESS
            found = attempt(qps, config.seconds, "Server")
        return found, tried


def _holds(found: LoadResult, latency_ms: float) -> bool:
    """Whether a short run held the latency: LoadGen's early stopping asks for more queries than it may have."""
    return found.latency_ms.get("p99_ms", float("inf")) <= latency_ms


def search_rate(first: float, holds: Any) -> float | None:
    """The highest rate that ``holds``, to within a few per cent: doubled or halved from ``first``, then bisected.

    None: none of those tried did.
    """
    low, high, rate = None, None, first
    for _ in range(_MOST_SEARCHES):
        if holds(rate):
            low = rate
        else:
            high = rate
        if low is not None and high is not None:
            if high / low <= _NEAR:
                break
            rate = (low * high) ** 0.5
        else:
            rate = rate * 2 if high is None else rate / 2
    return low


def _subject(config: BenchMlperfConfig, reporter: Reporter) -> tuple[Predictor, Ragged, dict[str, Any]]:
    """The predictor, the samples, and what is said of them."""
    if config.official_shape:
        loaded = load_for_training(OFFICIAL_MODEL, ("0", "1"), "mean", OFFICIAL_LENGTH, config.seed, None)
        generator = np.random.default_rng(config.seed)
        count = _OFFICIAL_SAMPLES * OFFICIAL_LENGTH
        ids = generator.integers(1, loaded.model.config.vocab_size, count).astype(np.uint16)
        ragged = Ragged(ids, np.arange(_OFFICIAL_SAMPLES + 1, dtype=np.int64) * OFFICIAL_LENGTH, 0)
        description = describe_texts((), "", loaded, ragged.lengths)
        return Predictor.from_loaded(loaded, config), ragged, {**description, "max_length": OFFICIAL_LENGTH}
    found = read_unlabelled(config.data, config.text_column, config.on_bad_row)
    if config.run is not None:
        loaded = load_classifier(config.run)
        check_kind(config.run, loaded.settings.kind)
    else:
        loaded = load_for_training(config.model, ("0", "1"), "first", config.max_length, config.seed, None)
    texts = found.texts.take(pa.array(sample(len(found), config.num_texts, config.seed)))
    predictor = Predictor.from_loaded(loaded, config)
    ragged = predictor.tokenize(texts, reporter)
    description = describe_texts(config.data, found.sha256, loaded, ragged.lengths)
    return predictor, ragged, {**description, "max_length": loaded.settings.max_length}


def _try_rate(predictor: Predictor, ragged: Ragged) -> float:
    """Samples a second when many are computed together, from about a second of it."""
    rows = np.arange(min(len(ragged), 32))
    predictor.logits(ragged.take(rows))
    started, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _TRY_S:
        predictor.logits(ragged.take(rows))
        done += len(rows)
    return done / spent


def _try_single(predictor: Predictor, ragged: Ragged) -> float:
    """Samples a second when each is computed alone."""
    started, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _TRY_S:
        predictor.logits(ragged.take(np.array([done % len(ragged)])))
        done += 1
    return done / spent
