"""Planning from end to end: small trainings and scorings foretold, done, and set side by side."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

import bertwright
from bertwright import hardware
from bertwright.benchmarking.machines import load_throughputs
from bertwright.cli import main
from bertwright.errors import RunError, UserError

EMPTY = {"planned": "train", "made": "", "config": {}, "chosen": {}, "steps": 1, "seconds": {}, "memory": {}}
TINY = {"model": "bert-tiny", "max_length": 32, "dtype": "float32"}


@pytest.fixture(scope="module")
def planned(examples, tmp_path_factory):
    """A plan of a small training with validation texts, and the training."""
    folder = tmp_path_factory.mktemp("planned")
    settings = {**TINY, "test": examples / "comments_test.csv", "validation_share": 0.1, "epochs": 4}
    settings |= {"output": folder / "runs" / "tiny", "usd_per_hour": 2.0, "quiet": True}
    found = bertwright.plan(examples / "comments_train.csv", probe_seconds=3, **settings)
    files = {path.name for path in (folder / "runs").iterdir()}
    run = bertwright.train(examples / "comments_train.csv", **settings)
    return found, files, run


def test_a_plan_leaves_nothing_but_itself(planned):
    assert planned[1] == {"tiny.plan.json"}


def test_a_plan_counts_the_texts_and_steps_of_the_run(planned):
    found, _, run = planned
    assert found["steps"] == run.result["steps"]
    data = run.result["data"]
    assert found["num_texts"] == {
        "train": data["train_texts"],
        "validation": data["validation_texts"],
        "test": data["test_texts"],
    }
    assert found["tried"]["steps"] >= 2
    assert list(found["seconds"]) == ["read", "tokenize", "train", "infer", "total"]
    assert found["usd"]["value"] == pytest.approx(2.0 * found["seconds"]["total"]["value"] / 3600)
    assert set(found["held"]) == {"libraries, texts and token ids", "weights", "gradients", "optimizer", "activations"}


def test_a_plan_is_of_the_order_of_what_happens(planned):
    """Machines are noisy and this training short: only mistakes by a factor are told from chance."""
    found, _, run = planned
    for name in ("train", "total"):
        assert 0.3 < found["seconds"][name]["value"] / run.result["seconds"][name] < 3
    peak = found["memory"]["peak_process_bytes"]["value"] / run.result["memory"]["peak_process_bytes"]
    assert 0.7 < peak < 1.4


def test_a_check_sets_the_plan_beside_the_run(planned, capfd):
    _, _, run = planned
    with pytest.raises(SystemExit) as stop:
        main(["plan-check", str(run.path), "--json"])
    assert stop.value.code == 0
    out, err = capfd.readouterr()
    checked = json.loads(out)
    assert [row["what"] for row in checked["rows"]] == [
        "read",
        "tokenize",
        "train",
        "infer",
        "total",
        "peak_process_bytes",
    ]
    for row in checked["rows"]:
        assert row["within"] == (row["low"] <= row["happened"] <= row["high"])
        assert row["off_by"] == pytest.approx(row["planned"] / row["happened"] - 1)
    assert checked["differences"] == []
    assert "What was planned, and what happened" in err


def test_a_check_names_settings_that_the_run_had_otherwise(planned, examples, tmp_path):
    found, _, _ = planned
    run = bertwright.train(
        examples / "comments_train.csv", **TINY, test=examples / "comments_test.csv", output=tmp_path / "r", quiet=True
    )
    (tmp_path / "r.plan.json").write_text(json.dumps(found))
    checked = bertwright.check_plan(run.path)
    assert any(line.startswith("epochs 1.0, not 4.0") for line in checked["differences"])
    assert any("steps, not" in line for line in checked["differences"])


def test_a_frozen_encoder_is_planned(examples, tmp_path):
    found = bertwright.plan(
        examples / "comments_train.csv",
        **TINY,
        freeze_encoder=True,
        epochs=3,
        probe_seconds=1,
        plan=tmp_path / "frozen.plan.json",
        quiet=True,
    )
    seconds = found["seconds"]
    # The encoder computes each text once for learning, once for judging; ten epochs of the classifier are nothing.
    assert seconds["total"]["value"] < 20 * max(seconds["train"]["value"], 1.0)
    assert seconds["train"]["value"] > 0
    assert found["steps"] == 3 * -(-found["num_texts"]["train"] // 32)


def test_a_scoring_is_planned_and_checked(planned, examples, tmp_path):
    _, _, run = planned
    settings = {"run": run.path, "dtype": "float32", "output": tmp_path / "evaluation", "quiet": True}
    found = bertwright.plan(examples / "comments_test.csv", probe_seconds=1, **settings)
    assert found["planned"] == "evaluate"
    assert list(found["seconds"]) == ["read", "tokenize", "infer", "total"]
    assert found["num_texts"] == {"test": 244}
    assert 0 < found["needs_bytes"]["accelerator"] < found["needs_bytes"]["machine"]
    del settings["run"]
    bertwright.evaluate(run.path, examples / "comments_test.csv", **settings)
    checked = bertwright.check_plan(tmp_path / "evaluation")
    assert [row["what"] for row in checked["rows"]] == ["read", "tokenize", "infer", "total", "peak_process_bytes"]
    with pytest.raises(RunError, match="plans a run of evaluate, but"):
        bertwright.check_plan(run.path, tmp_path / "evaluation.plan.json")


def test_the_scoring_of_texts_without_labels_is_planned(planned, tmp_path):
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(f"good morning {i}" for i in range(50)) + "\n")
    dtype = "int8" if hardware.cpu_int8_feature() else "float32"
    found = bertwright.plan(
        tmp_path / "texts.csv", run=planned[2].path, dtype=dtype, probe_seconds=0.5, plan=tmp_path / "p", quiet=True
    )
    assert found["num_texts"] == {"test": 50}
    assert found["chosen"]["dtype"] == dtype


def test_texts_in_windows_are_planned(examples, tmp_path):
    found = bertwright.plan(
        examples / "comments_train.csv",
        model="bert-tiny",
        max_length=8,
        long_texts="windows",
        dtype="float32",
        probe_seconds=1,
        plan=tmp_path / "windows.plan.json",
        quiet=True,
    )
    assert found["seconds"]["train"]["value"] > 0


def test_other_machines_are_shown_with_what_to_doubt(planned, examples, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_bfloat16_feature", lambda: "amx_bf16")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "plan",
                str(examples / "comments_train.csv"),
                "--model=bert-tiny",
                "--max-length=32",
                "--dtype=bfloat16",
                "--probe-seconds=1",
                "--machines=lambda h100,gcp l4,gcp b200,aws c8i.96xlarge,runpod a100",
                f"--output={tmp_path / 'x'}",
            ]
        )
    assert stop.value.code == 0
    out = capfd.readouterr().out
    assert "On other machines: rough and unofficial" in out
    assert "4.29" in out
    assert "lambda/gpu" in out
    assert "no result for this job" in out
    assert "One accelerator is used" in out
    assert "memory would do for about" in out or "What holds the memory" in out
    said = " ".join(out.split())
    assert "90.22?" in said
    assert "? a doubtful price: gcp/a4-highgpu-8g: TOTAL added here" in said
    assert "on more than 32 cores" in said
    assert "fits: whether a GPU's memory, less a tenth, holds the" in said
    assert "a GPU takes more tokens at once if none is given" in said
    assert said.count("NVIDIA L4: published, MLPerf inference v3.1 closed") == 1  # two machines have it
    assert "PCIe taken to be alike" in said
    found = json.loads((tmp_path / "x.plan.json").read_text())
    assert all(one["fits"] for one in found["elsewhere"])
    assert found["needs_bytes"]["accelerator"] < found["needs_bytes"]["machine"]
    counted = {name: count for name, count in found["held"].items() if not name.startswith("libraries")}
    assert found["needs_bytes"]["accelerator"] == sum(counted.values())


@pytest.mark.parametrize(("threads", "cores", "counted"), [(8, 4, 4), (2, 4, 2), (4, 4, 4)])
def test_this_machine_counts_by_its_cores_and_not_by_their_threads(monkeypatch, threads, cores, counted):
    from bertwright.benchmarking import plan
    from bertwright.config.train import TrainConfig

    monkeypatch.setattr(hardware, "cpu_bfloat16_feature", lambda: "amx_bf16")
    monkeypatch.setattr(plan, "num_usable_cores", lambda: cores)
    probe = SimpleNamespace(chosen={"dtype": "bfloat16", "threads": threads})
    here = plan._here(TrainConfig(train=("x.csv",), device="cpu"), probe, load_throughputs())
    assert here.num_cores == counted
    assert here.samples_per_s == pytest.approx(counted * 12.742)


def test_a_plan_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        bertwright.plan(tmp_path / "none.csv", **TINY, output=tmp_path / "runs" / "x", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_is_there_is_not_replaced_by_itself(examples, tmp_path):
    path = tmp_path / "my.plan.json"
    path.write_text("mine")
    with pytest.raises(RunError, match="exists; pass another --plan, or --overwrite"):
        bertwright.plan(examples / "comments_train.csv", **TINY, plan=path, quiet=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run": "runs/x", "epochs": 2}, "--epochs is of a training"),
        ({"run": "runs/x", "recipe": "best"}, "--recipe is of a training"),
        ({"machines": "h100,nonesuch"}, "no machine of the price table is called 'nonesuch'"),
        ({"measured": "none.jsonl"}, "none.jsonl: cannot be read"),
        ({"dtype": "int8"}, "--dtype"),
        ({"probe_seconds": 0}, "--probe-seconds: found 0"),
        ({"plan": "nowhere/my.plan.json"}, "there is no folder"),
        ({"machnes": "x"}, "did you mean machines"),
    ],
)
def test_settings_that_make_no_plan_are_refused(examples, settings, message):
    with pytest.raises(UserError, match=message):
        bertwright.plan(examples / "comments_train.csv", **settings, quiet=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such plan"),
        ("{", "it is not JSON"),
        ("[]", "it is no plan"),
        ("{}", "it is no plan"),
        ("[" * 100_000, "it is not JSON"),
        (
            json.dumps(
                {
                    "planned": "train",
                    "made": "",
                    "config": {},
                    "chosen": {},
                    "steps": 1,
                    "seconds": {"total": 3},
                    "memory": {},
                }
            ),
            "no plan",
        ),
        (
            json.dumps({**EMPTY, "memory": {"x": float("nan")}}),
            "no plan",
        ),
        (json.dumps({**EMPTY, "seconds": {"total": {"value": 1e308, "low": 0.0, "high": 1e308}}}), "no plan"),
        (json.dumps({**EMPTY, "steps": 10**400}), "no plan"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(planned, tmp_path, text, message):
    path = tmp_path / "damaged.plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=message) as error:
        bertwright.check_plan(planned[2].path, path)
    assert "\n" not in str(error.value)


def estimate(value):
    return {"value": value, "low": value, "high": value}


@pytest.fixture
def record(planned, tmp_path):
    """A run's folder whose result.json can be changed, and a plan for it: ``check(changes)`` sets them side by side."""
    plan = {**EMPTY, "seconds": {"total": estimate(1e14)}, "memory": {"peak_process_bytes": estimate(1e14)}}
    shutil.copytree(planned[2].path, tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())

    def check(**changes):
        changed = json.loads(json.dumps(result))
        for name, value in changes.items():
            changed[name] = {**changed[name], **value} if name in ("seconds", "memory") else value
        path.write_text(json.dumps(changed))
        (tmp_path / "run.plan.json").write_text(json.dumps(plan))
        return bertwright.check_plan(tmp_path / "run")

    return check


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": {"total": [1]}},
        {"seconds": {"total": 10**400}},
        {"seconds": {"total": 1e308}},
        {"seconds": {"total": -1}},
        {"memory": {"peak_process_bytes": {}}},
        {"steps": "x"},
        {"steps": [1]},
        {"steps": 10**400},
        {"resumed": "often"},
        {"resumed": {"times": 1}},
    ],
)
def test_a_damaged_record_is_refused_in_one_line(record, changes):
    with pytest.raises(RunError, match="damaged") as error:
        record(**changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_run_of_next_to_no_time_is_off_by_much_and_not_by_hundreds_of_digits(record, capsys):
    checked = record(seconds={"total": 5e-324})
    json.dumps(checked, allow_nan=False)
    assert checked["rows"][0]["off_by"] is None
    record(seconds={"total": 1e-200})
    out = capsys.readouterr().out
    assert "much" in out
    assert "0" * 50 not in out
