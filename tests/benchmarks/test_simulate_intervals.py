"""The simulations of intervals, in little: few, and with wide bounds. The full ones: docs/statistics.md."""

from __future__ import annotations

import json
import sys

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def simulation():
    return load_script("simulate_intervals")


@pytest.mark.parametrize(
    "settings",
    [
        {"positive_share": 0.4, "num_texts": 300},
        {"positive_share": 0.4, "num_texts": 300, "num_seeds": 3, "seed_spread": 0.3},
        {"kind": "regression", "num_labels": 1, "num_texts": 200, "quality": 1.0, "worse_quality": 0.9},
    ],
)
def test_intervals_cover_and_tests_hold_their_level(simulation, settings):
    """Of 120 simulations a true share of 95 % is below 86 % once in 10,000 times, one of 5 % above 14 % likewise."""
    case = simulation.Case(**settings)
    truth = simulation.true_values(case, 100_000, 1)
    found = simulation.simulate(case, 120, 60, truth)
    for name in case.metrics:
        assert found["num_answered"][name] == 120
        assert found["coverage"][name] > 0.86, name
        assert found["difference_coverage"][name] > 0.86, name
        assert found["null_rejection"][name] < 0.14, name
        assert found["family_wise_error"][name] < 0.14, name


def test_a_mean_over_classes_of_which_one_is_rare_is_simulated(simulation):
    case = simulation.Case(num_labels=3, num_texts=200, rare_share=0.02)
    truth = simulation.true_values(case, 50_000, 1)
    common = simulation.true_values(simulation.replace(case, rare_share=0.0), 50_000, 1)
    assert truth["roc_auc"][0] == pytest.approx(common["roc_auc"][0], abs=0.02)  # a class's AUC knows no shares
    assert truth["precision"][0] < common["precision"][0] - 0.02
    found = simulation.simulate(case, 60, 40, truth)
    assert 30 < found["num_answered"]["roc_auc"] < 58  # of 4 texts, fewer than three are there in 24 % of cases
    assert found["num_answered"]["accuracy"] == 60
    assert found["coverage"]["roc_auc"] > 0.8
    assert "3 classes, 2% of one" in simulation.table([{"simulated": simulation.asdict(case), **found}])


def test_a_case_that_is_there_is_not_simulated_again(simulation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulation, "CASES", (simulation.Case(num_texts=100), simulation.Case(num_texts=120)))
    monkeypatch.setattr(simulation, "_TRUTH_TEXTS", 1000)
    truth = simulation.true_values(simulation.Case(), 1000, 1)
    monkeypatch.setattr(simulation, "true_values", lambda case: truth)
    arguments = ["simulate_intervals.py", "--output", str(tmp_path), "--simulations", "2", "--resamples", "20"]
    monkeypatch.setattr(sys, "argv", arguments)
    simulation.main()
    (path,) = tmp_path.glob("intervals-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["simulated"]["rare_share"]  # as lines were before there was such a setting
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = path.read_text()
    simulation.main()
    assert path.read_text() == before
    lines = [json.loads(line) for line in before.splitlines()]
    assert [line["simulated"]["num_texts"] for line in lines] == [100, 120]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*arguments, "--table"])
    simulation.main()
    assert capsys.readouterr().out.count("roc_auc") == 2
