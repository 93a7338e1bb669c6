"""The act of measuring as MLPerf does: its load generator, its scenarios, its rules of validity."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright import hardware
from bertwright.benchmarking.bench import append_line, busy_share, check_output, result_file
from bertwright.benchmarking.cases import describe_texts, load_run, sample
from bertwright.benchmarking.loadgen import (
    RULES_OFFLINE_SAMPLES,
    RULES_SECONDS,
    LoadResult,
    LoadSettings,
    Scenario,
    Subject,
    load_generator,
    run,
)
from bertwright.benchmarking.mlperf_published import DIFFERENCES, Published, load_published
from bertwright.benchmarking.show_mlperf import show_mlperf
from bertwright.config.bench import BenchMlperfConfig
from bertwright.data.columns import read_unlabelled
from bertwright.data.ragged import Ragged
from bertwright.evaluation.predictor import Predictor
from bertwright.model.checkpoint import load_for_training
from bertwright.progress import Reporter

OFFICIAL_MODEL, OFFICIAL_LENGTH = "bert-large", 384
_OFFICIAL_SAMPLES = 64
# Samples of Offline's query that are computed together, in token budgets: what is said once for many costs little.
_OFFLINE_BUDGETS = 8
_TRY_S = 1.0
# The search: from this share of Offline's rate down or up, until two rates are this near to each other.
_FIRST_SHARE, _NEAR, _MOST_SEARCHES = 0.6, 1.04, 10
# A rate that a short run held may be too high for a long one: then less. A run that held the latency can be invalid all
# the same: so near to the limit, LoadGen's early stopping asks for more queries to be sure. Then a little less. Of so
# few queries as here it is hardly ever sure: of 460 or more, if none of them is late.
_LESS, _LITTLE_LESS, _MOST_LOWERED, _FEW_QUERIES = 0.85, 0.95, 8, 700
# LoadGen makes as many queries beforehand as it expects, and ends when they or the time are over: too few make a run
# too short, too many cost nothing.
_SINGLE_MARGIN = 3
# How often Offline's query is made larger, where it was over too soon.
_MOST_RAISED, _OFFLINE_MARGIN = 4, 1.25


def run_mlperf(config: BenchMlperfConfig, reporter: Reporter) -> dict[str, Any]:
    """Run the scenarios; shows a table and gives the record.

    Raises:
        UserError: texts or a model that cannot be used, or LoadGen is not installed.
    """
    load_generator()  # before any work
    check_output(config.output)
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
        rates = {"SingleStream": single_qps, "Offline": offline_qps}
        try:
            for scenario in config.scenarios:
                measure.scenario(scenario, rates)
        finally:  # what was measured is kept, whatever becomes of the next
            if measure.results:
                result = _record(config, predictor, description, measure, busy)
                show_mlperf(result, _published(config, measure.results), reporter)
                if config.output is not None:
                    append_line(result_file(config.output, result), result)
    return result


def _record(
    config: BenchMlperfConfig,
    predictor: Predictor,
    description: dict[str, Any],
    measure: _Measure,
    busy: float | None,
) -> dict[str, Any]:
    differences = list(DIFFERENCES) if config.official_shape else []
    if "Server" not in config.scenarios:
        differences = [one for one in differences if not one.startswith("Server: ")]
    if config.seconds < RULES_SECONDS:
        differences.insert(0, f"shorter than the rules ask: {config.seconds:g} s, not {RULES_SECONDS:g} s")
    return {
        "case": "mlperf",
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "unofficial": True,
        "official_shape": config.official_shape,
        "differences": differences,
        **description,
        "dtype": predictor.describe()["dtype"],
        "seconds": config.seconds,
        "latency_limit_ms": config.latency_ms,
        "scenarios": [{**asdict(one), "valid": one.valid} for one in measure.results],
        "server_search": measure.searched,
        "busy_share_at_start": busy,
        "usd_per_hour": config.usd_per_hour,
        "machine": config.machine,
        "usd_per_million_samples": {
            one.scenario: config.usd_per_hour / 3600 / one.value * 1e6
            for one in measure.results
            if config.usd_per_hour is not None and one.unit == "samples_per_s" and one.value
        },
        "environment": hardware.describe(predictor.device),
        "chosen": predictor.describe(),
        "peak_bytes": hardware.peak_process_bytes(),
    }


def _published(config: BenchMlperfConfig, results: Sequence[LoadResult]) -> dict[str, list[Published]]:
    """What may stand beside the results: nothing, but where they are of the official shape and by the rules."""
    if not config.official_shape or config.seconds < RULES_SECONDS:
        return {}
    return {one.scenario: load_published(one.scenario) for one in results if one.valid}


class _Measure:
    """The scenarios on one subject."""

    def __init__(
        self, config: BenchMlperfConfig, predictor: Predictor, ragged: Ragged, logs: Path, reporter: Reporter
    ) -> None:
        self.config, self.predictor, self.ragged, self.logs, self.reporter = config, predictor, ragged, logs, reporter
        self.results: list[LoadResult] = []
        self.searched: list[dict[str, Any]] = []

    def scenario(self, scenario: Scenario, rates: dict[str, float]) -> None:
        """Run a scenario; ``rates`` are samples a second to expect, and Offline's result corrects them."""
        if scenario == "SingleStream":
            self.results.append(self.run(scenario, _SINGLE_MARGIN * rates[scenario], self.config.seconds))
        elif scenario == "Offline":
            self.results.append(self.offline(rates[scenario]))
            rates[scenario] = self.results[-1].value or rates[scenario]
        else:
            self.results.append(self.server(rates["Offline"]))

    def run(self, scenario: Scenario, qps: float, seconds: float, folder: str = "") -> LoadResult:
        config = self.config
        logs = self.logs / (folder or scenario)
        logs.mkdir(parents=True, exist_ok=True)
        budgets = _OFFLINE_BUDGETS if scenario == "Offline" else 1
        least = RULES_OFFLINE_SAMPLES if scenario == "Offline" and seconds >= RULES_SECONDS else 1
        subject = Subject(self.predictor, self.ragged, budgets * self.predictor.token_budget)
        rate = "sent at" if scenario == "Server" else "queries enough for"
        self.reporter.say(f"{scenario}: {seconds:g} s or more, {rate} {qps:,.1f} samples/s")
        settings = LoadSettings(seconds, qps, config.latency_ms, logs, config.seed, least)
        try:
            found = run(scenario, subject, settings)
        finally:
            subject.close()
        self.reporter.say(f"{scenario}: {found.result_line}")
        return found

    def offline(self, qps: float) -> LoadResult:
        """One query, made for more than is expected; again, larger, where it was over too soon.

        A machine that others use, too, may get faster meanwhile.
        """
        found = self.run("Offline", _OFFLINE_MARGIN * qps, self.config.seconds)
        for _ in range(_MOST_RAISED):
            if found.valid or not found.value:
                break
            found = self.run("Offline", _OFFLINE_MARGIN * found.value, self.config.seconds)
        return found

    def server(self, offline_qps: float) -> LoadResult:
        """Server at the highest rate that holds: searched for in short runs, then run whole, and less until it holds.

        Where no rate holds, the result is that of the slowest that was tried, which LoadGen calls invalid.
        """
        config, latency_ms = self.config, self.config.latency_ms
        slowest: list[LoadResult] = []

        def attempt(qps: float, seconds: float, folder: str) -> LoadResult:
            found = self.run("Server", qps, seconds, folder)
            p99_ms = found.latency_ms.get("p99_ms")
            self.searched.append({"qps": qps, "seconds": seconds, "valid": found.valid, "p99_ms": p99_ms})
            if not slowest or qps < slowest[0].expected_qps:
                slowest[:] = [found]
            return found

        qps = config.server_qps
        if qps is None:
            qps = search_rate(
                _FIRST_SHARE * offline_qps,
                lambda rate: _holds(attempt(rate, config.search_seconds, "Server-search"), latency_ms),
            )
            if qps is None:
                self.reporter.warn(
                    f"Server: no rate was found that holds {latency_ms:g} ms; the slowest tried was "
                    f"{slowest[0].expected_qps:,.2f} samples/s. Pass a larger --latency-ms"
                )
                return slowest[0]
        found = attempt(qps, config.seconds, "Server")
        for _ in range(_MOST_LOWERED):
            near = _holds(found, latency_ms)
            if found.valid or config.server_qps is not None or (near and qps * config.seconds < _FEW_QUERIES):
                break
            qps *= _LITTLE_LESS if near else _LESS
            found = attempt(qps, config.seconds, "Server")
        return found


def _holds(found: LoadResult, latency_ms: float) -> bool:
    """Whether a short run held the latency: LoadGen's early stopping asks for more queries than it may have."""
    return found.latency_ms.get("p99_ms", float("inf")) <= latency_ms


def search_rate(first: float, holds: Callable[[float], bool]) -> float | None:
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
        loaded = load_run(config.run)
    else:
        loaded = load_for_training(config.model, ("0", "1"), "first", config.max_length, config.seed, None)
    texts = found.texts.take(pa.array(sample(len(found), config.num_texts, config.seed)))
    predictor = Predictor.from_loaded(loaded, config)
    ragged = predictor.tokenize(texts, reporter)
    description = describe_texts(config.data, found.sha256, loaded, ragged.lengths)
    return predictor, ragged, {**description, "max_length": loaded.settings.max_length}


def _try_rate(predictor: Predictor, ragged: Ragged) -> float:
    """Samples a second when many are computed together, from about a second of it."""
    rows = np.arange(len(ragged))[: max(1, int(predictor.token_budget / ragged.lengths.mean()))]
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
