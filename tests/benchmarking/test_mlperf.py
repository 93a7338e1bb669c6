"""MLPerf's load generator on our predictor: its summaries read, the search, short runs from end to end."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from bertwright.benchmarking import loadgen, mlperf
from bertwright.benchmarking.loadgen import SCENARIOS, LoadResult, LoadSettings, Subject, read_summary, run
from bertwright.benchmarking.mlperf import search_rate
from bertwright.benchmarking.mlperf_published import DIFFERENCES, Published, load_published, nearest
from bertwright.cli import main
from bertwright.errors import UserError

SINGLE = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 1128001
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (849).
 * Early stopping 90.0th percentile estimate: 1134581

================================================
Additional Stats
================================================
50.00 percentile latency (ns)   : 1113289
90.00 percentile latency (ns)   : 1128001
99.00 percentile latency (ns)   : 4680887
"""
SERVER = """Scenario : Server
Completed samples per second    : 50.68
Result is : INVALID
  Performance constraints satisfied : Yes
  Early stopping satisfied: NO
Early Stopping Result:
 * Run unsuccessful.
Additional Stats
99.00 percentile latency (ns)   : 5293005
"""


def settings(tmp_path, seconds=0.5, qps=50.0):
    return LoadSettings(seconds=seconds, expected_qps=qps, latency_ms=130.0, log_folder=tmp_path)


def test_a_summary_is_read_as_it_stands(tmp_path):
    found = read_summary("SingleStream", SINGLE, settings(tmp_path))
    assert found.valid
    assert found.result_line == "Result is : VALID"
    assert (found.value, found.unit) == (pytest.approx(1.134581), "latency_p90_ms")
    assert found.latency_ms == pytest.approx({"p50_ms": 1.113289, "p90_ms": 1.128001, "p99_ms": 4.680887})
    assert found.notes[-1] == "* Early stopping 90.0th percentile estimate: 1134581"


def test_an_invalid_run_is_not_called_valid(tmp_path):
    found = read_summary("Server", SERVER, settings(tmp_path))
    assert not found.valid
    assert found.value == pytest.approx(50.68)
    assert "Early stopping satisfied: NO" in found.notes


def test_a_summary_without_a_verdict_is_refused(tmp_path):
    with pytest.raises(UserError, match="no line 'Result is'"):
        read_summary("Server", "nothing", settings(tmp_path))


@pytest.mark.parametrize("true_rate", [3.0, 70.0, 100.0, 4321.0])
def test_the_search_comes_near_the_highest_rate_that_holds(true_rate):
    tried = []

    def holds(rate):
        tried.append(rate)
        return rate <= true_rate

    found = search_rate(100.0, holds)
    assert true_rate / 1.5 < found <= true_rate
    assert len(tried) <= 10
    if 50 < true_rate < 200:
        assert found > true_rate / 1.05


def test_the_search_gives_up_where_nothing_holds():
    assert search_rate(100.0, lambda rate: False) is None


def test_published_results_are_of_one_benchmark_and_scenario():
    for scenario in SCENARIOS:
        found = load_published(scenario)
        assert len(found) >= 5
        assert {one.scenario for one in found} == {scenario}
        assert all(("latency" in one.metric) == (scenario == "SingleStream") for one in found)
    assert not any("99.9" in difference for difference in DIFFERENCES)


def test_the_nearest_are_told_by_their_ratio():
    rows = [Published("r", "s", str(value), "a", 1, "Offline", "m", float(value)) for value in (1, 9, 11, 100)]
    assert [row.value for row in nearest(rows, 10.0, 2)] == [9.0, 11.0]
    assert [row.value for row in nearest(rows, 0.5, 1)] == [1.0]


class Fails:
    """In place of a predictor."""

    def logits(self, ragged):
        raise MemoryError("none left")


def test_a_failure_ends_the_run_and_is_raised(tmp_path):
    pytest.importorskip("mlperf_loadgen")
    import numpy as np

    from bertwright.data.ragged import Ragged

    ragged = Ragged(np.ones(4, np.uint16), np.arange(5, dtype=np.int64), 0)
    subject = Subject(Fails(), ragged, 100)
    with pytest.raises(MemoryError, match="none left"):
        run("SingleStream", subject, settings(tmp_path, qps=1000.0))
    subject.close()


def call(capfd, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "mlperf", *map(str, arguments)])
    out, err = capfd.readouterr()
    return stop.value.code, out, err


def test_all_scenarios_from_end_to_end(capfd, examples, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    code, out, err = call(
        capfd,
        examples / "comments_test.csv",
        "--model=bert-tiny",
        "--max-length=32",
        "--dtype=float32",
        "--seconds=1",
        "--server-qps=20",
        "--latency-ms=5000",
        f"--logs={tmp_path / 'logs'}",
        f"--output={tmp_path / 'lines.jsonl'}",
    )
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "lines.jsonl").read_text()) == result
    assert [one["scenario"] for one in result["scenarios"]] == list(SCENARIOS)
    for one in result["scenarios"]:
        summary = (tmp_path / "logs" / one["scenario"] / "mlperf_log_summary.txt").read_text()
        assert one["result_line"] in summary.splitlines()
        assert one["value"] > 0
    assert result["unofficial"]
    assert [one["qps"] for one in result["server_search"]] == [20.0]
    assert "published" not in out  # another model, other samples: nothing stands beside them


def test_the_official_shape_stands_beside_published_results_with_what_differs(capfd, monkeypatch):
    pytest.importorskip("mlperf_loadgen")
    monkeypatch.setattr(mlperf, "OFFICIAL_MODEL", "bert-tiny")
    monkeypatch.setattr(mlperf, "RULES_SECONDS", 0.5)
    monkeypatch.setattr(mlperf, "RULES_OFFLINE_SAMPLES", 100)
    code, out, err = call(
        capfd, "--official-shape", "--scenarios=Offline", "--scenarios=SingleStream", "--seconds=0.5", "--dtype=float32"
    )
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["text_tokens"]["mean"] == 384
    expected = [one for one in DIFFERENCES if "Server" not in one]  # which is not measured here
    assert len(expected) == len(DIFFERENCES) - 1
    assert result["differences"] == expected
    offline = result["scenarios"][0]
    assert ("Offline: published results of bert-99" in out) == offline["valid"]
    assert "unofficial" in out
    assert out.count("differs:") == len(expected)


def test_a_run_that_is_shorter_than_the_rules_stands_beside_nothing(capfd, monkeypatch):
    pytest.importorskip("mlperf_loadgen")
    monkeypatch.setattr(mlperf, "OFFICIAL_MODEL", "bert-tiny")
    code, out, err = call(capfd, "--official-shape", "--scenarios=SingleStream", "--seconds=0.3", "--dtype=float32")
    assert code == 0, err
    assert "published" not in out
    assert "differs: shorter than the rules ask: 0.3 s, not 600 s" in out


class Measure(mlperf._Measure):
    """A machine that answers Server's 99th percentile in ``rate`` ms at ``rate`` samples a second."""

    def __init__(self, limit):
        from bertwright.config.base import build
        from bertwright.config.bench import BenchMlperfConfig
        from bertwright.progress import Reporter

        settings = {"data": ("x",), "seconds": 60, "search_seconds": 1, "latency_ms": 100}
        super().__init__(build(BenchMlperfConfig, settings), None, None, None, Reporter(quiet=True))
        self.limit, self.asked = limit, []

    def run(self, scenario, qps, seconds, folder=""):
        self.asked.append((qps, seconds))
        p99 = qps if seconds < 60 else qps * self.limit
        held = p99 <= 100
        line = f"Result is : {'VALID' if held else 'INVALID'}"
        return LoadResult(scenario, line, qps, "samples_per_s", {"p99_ms": p99}, qps, seconds)


def test_a_rate_that_a_whole_run_does_not_hold_is_lowered_until_it_does():
    measure = Measure(limit=1.2)
    found = measure.server(200.0)
    assert found.valid
    assert found.seconds == 60
    assert 70 < found.value <= 100 / 1.2
    assert len(measure.searched) == len(measure.asked)


@pytest.mark.parametrize(("scale", "runs"), [(1.0, 3), (0.01, 1)])
def test_what_held_but_not_surely_is_lowered_a_little_where_there_were_queries_enough(scale, runs):
    """As early stopping does: the limit must be held by a margin, the wider the fewer queries there are."""

    class NotSure(Measure):
        def run(self, scenario, qps, seconds, folder=""):
            found = super().run(scenario, qps, seconds, folder)
            latency_ms = found.latency_ms["p99_ms"] / scale
            line = found.result_line if latency_ms <= 92 and scale == 1 else "Result is : INVALID"
            return replace(found, result_line=line, latency_ms={"p99_ms": latency_ms})

    measure = NotSure(limit=1.0)
    found = measure.server(200.0 * scale)
    whole = [qps for qps, seconds in measure.asked if seconds == 60]
    assert len(whole) == runs
    assert [later / qps for qps, later in itertools.pairwise(whole)] == pytest.approx([0.95] * (runs - 1))
    assert found.valid == (scale == 1)


def test_where_no_rate_holds_the_other_scenarios_are_kept(capsys):
    class Slow(Measure):
        def run(self, scenario, qps, seconds, folder=""):
            found = super().run(scenario, qps, seconds, folder)
            return replace(found, result_line="Result is : INVALID", latency_ms={"p99_ms": 1e9})

    measure = Slow(limit=1.0)
    measure.results.append("SingleStream's")
    measure.scenario("Server", {"Offline": 200.0})
    assert len(measure.results) == 2
    assert not measure.results[1].valid
    assert "no rate was found that holds 100 ms" in capsys.readouterr().err


def test_all_samples_are_answered_once_and_many_together(monkeypatch):
    """Whatever comes while others are computed; with a load generator that only counts."""
    import numpy as np

    from bertwright.data.ragged import Ragged

    class Sample:
        def __init__(self, number):
            self.id, self.index = number, number % 4

    answered, sizes = [], []

    class Predictor:
        def logits(self, ragged):
            sizes.append(len(ragged))

    class LoadGen:
        QuerySampleResponse = staticmethod(lambda number, data, size: number)
        QuerySamplesComplete = staticmethod(answered.extend)

    ragged = Ragged(np.ones(40, np.uint16), np.arange(0, 41, 10, dtype=np.int64), 0)
    monkeypatch.setattr(loadgen, "load_generator", lambda: LoadGen)
    subject = Subject(Predictor(), ragged, 45)
    for first in range(0, 1000, 10):
        subject.issue([Sample(number) for number in range(first, first + 10)])
    subject.close()
    assert answered == list(range(1000))
    assert sum(sizes) == 1000
    assert max(sizes) == 4  # 45 tokens hold four texts of ten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one file of texts, or pass --official-shape"),
        (["texts.csv", "--official-shape"], "--official-shape takes no texts"),
        (["texts.csv", "--run=x", "--model=y"], "--run and --model exclude each other"),
        (["none.csv"], "none.csv"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(capfd, arguments, message):
    pytest.importorskip("mlperf_loadgen")
    code, _, err = call(capfd, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_without_loadgen_the_line_says_what_to_install(capfd, examples, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    code, _, err = call(capfd, examples / "comments_test.csv")
    assert code == 2
    assert "pip install 'bertwright[mlperf]'" in err
