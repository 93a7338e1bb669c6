"""Results of many machines side by side: rates, dollars, verdicts; what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

import bertwright
from bertwright.benchmarking.merge import Job, Machine, merge, verdicts
from bertwright.benchmarking.recorded_rates import PHASES
from bertwright.benchmarking.result_lines import Rates, Spread
from bertwright.cli import main
from bertwright.config.base import build
from bertwright.config.bench import BenchInferConfig, BenchMergeConfig, BenchMlperfConfig
from bertwright.errors import UserError


def line(case, device, texts_per_s, *, threads=2, usd_per_hour=None, measured="2026-11-20T10:00:00+00:00", **changes):
    rates = {"median": texts_per_s, "min": texts_per_s / 2, "max": texts_per_s * 2}
    return {
        "case": case,
        "measured": measured,
        "model": "bert-base from somewhere",
        "max_length": 220,
        "data_sha256": "a",
        "num_texts": 64,
        "dtype": "bfloat16",
        "usd_per_hour": usd_per_hour,
        "environment": {"cpu": device, "num_threads": threads},
        "contenders": [{"name": "bertwright", "texts_per_s": rates}],
    } | changes


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)


def merged(*results, **settings):
    job = {"train_texts": 1000, "epochs": 2, "infer_texts": 500}
    return merge(build(BenchMergeConfig, {**job, **settings, "results": results}))


def rated(median, least=None, most=None):
    rates = {"median": median, "min": median if least is None else least, "max": median if most is None else most}
    return [{"name": "bertwright", "texts_per_s": rates}]


@pytest.fixture
def slow(tmp_path):
    rates = {"tokenize": 150.0, "train": 20.0, "infer": 50.0}
    return write(tmp_path / "slow.jsonl", *(line(case, "Slow", rate, usd_per_hour=1.0) for case, rate in rates.items()))


def fast(tmp_path, times, usd_per_hour):
    rates = {"tokenize": 150.0, "train": 20.0, "infer": 50.0}
    lines = [line(case, "Fast", times * rate, usd_per_hour=usd_per_hour) for case, rate in rates.items()]
    return write(tmp_path / "fast.jsonl", *lines)


def test_a_job_takes_what_its_texts_take_at_each_rate(slow):
    (work,) = merged(slow)
    (machine,) = work.machines
    assert machine.seconds(work.job) == pytest.approx({"tokenize": 10.0, "train": 100.0, "infer": 10.0, "total": 120.0})
    record = work.record()["machines"][0]
    assert record["usd"] == pytest.approx(120 / 3600)
    assert record["texts_per_s"]["train"] == {"median": 20.0, "min": 10.0, "max": 40.0}


def test_a_machine_that_is_faster_by_more_than_its_price_is_the_cheapest_for_the_job(slow, tmp_path):
    (work,) = merged(slow, fast(tmp_path, 4, 3.0))
    assert [machine.name for machine in work.machines] == ["Slow, 2 threads", "Fast, 2 threads"]
    assert work.record()["machines"][1]["times_as_fast"] == pytest.approx({"tokenize": 4, "train": 4, "infer": 4})
    least, never = work.verdicts
    assert least == "The job costs least on Fast, 2 threads: $0.0250 in 30.0 s."
    assert never.startswith(
        "Slow, 2 threads does not pay: the job costs $0.0333 there, and Fast, 2 threads is no slower"
    )


def test_else_it_pays_for_those_whose_time_is_worth_it(slow, tmp_path):
    least, verdict = merged(slow, fast(tmp_path, 2, 4.0))[0].verdicts
    assert "costs least on Slow, 2 threads" in least
    assert "Fast, 2 threads is 2.0 times as fast as Slow, 2 threads" in verdict
    # 120 s for 1 USD an hour, or 60 s for 4: 1/30 USD more buys 1/60 h.
    assert "pays when an hour less of waiting is worth $2.00 or more" in verdict


def test_a_dearer_machine_that_is_slower_does_not_pay(slow, tmp_path):
    _, verdict = merged(slow, fast(tmp_path, 0.5, 4.0))[0].verdicts
    assert verdict.startswith("Fast, 2 threads does not pay")


def test_a_difference_within_the_spread_is_called_one(slow, tmp_path):
    """Each line's rates go from half of the median to twice as much."""
    _, close = merged(slow, fast(tmp_path, 1.5, 4.0))[0].verdicts
    assert "within the spread of what was measured" in close
    _, clear = merged(slow, fast(tmp_path, 10, 400.0))[0].verdicts
    assert "within the spread" not in clear


def machine(name, rate, price):
    rates = Rates("x", name, None, None, "m", None, "", "", 1, Spread(rate, rate, rate), price, "")
    return Machine(name, dict.fromkeys(("tokenize", "train", "infer"), rates), usd_per_hour=price)


def test_each_machine_is_judged_by_the_best_of_all_not_by_its_neighbour():
    found = verdicts([machine("A", 4.0, 1.0), machine("B", 1.0, 2.0), machine("C", 2.0, 3.0)], Job(10, 1, 10))
    assert found[0].startswith("The job costs least on A")
    assert [line.split(" does not pay")[0] for line in found[1:]] == ["B", "C"]


def test_at_one_price_the_faster_machine_is_the_cheaper_one():
    found = verdicts([machine("one thread", 1.0, 2.0), machine("two threads", 1.7, 2.0)], Job(10, 1, 10))
    assert found[0].startswith("The job costs least on two threads")
    assert found[1].startswith("one thread does not pay")


def test_machines_that_cost_nothing_have_verdicts():
    found = verdicts([machine("free", 1.0, 0.0), machine("dear", 2.0, 1.0)], Job(10, 1, 10))
    assert found[0].startswith("The job costs least on free: $0.00")
    assert "pays when" in found[1]
    assert verdicts([machine("alone", 1.0, 1.0)], Job(10, 1, 10)) == []


def test_a_given_price_counts_for_the_machines_that_it_names(slow, tmp_path):
    (work,) = merged(slow, fast(tmp_path, 2, None), price=("fast=8",))
    assert [machine.usd_per_hour for machine in work.machines] == [1.0, 8.0]


@pytest.mark.parametrize(("given", "expected"), [("L4=8", 8.0), ("L40S=8", None), ("l4, 2 threads=8", 8.0)])
def test_a_price_is_for_whole_words_of_a_name(tmp_path, given, expected):
    path = write(tmp_path / "one.jsonl", line("train", "NVIDIA L4", 10.0), line("train", "NVIDIA L40S", 10.0))
    (work,) = merged(path, price=(given,))
    assert {one.name: one.usd_per_hour for one in work.machines}["NVIDIA L4, 2 threads"] == expected


def test_lines_of_other_cases_and_of_runs_that_failed_are_passed_over(slow, tmp_path):
    failed = line("train", "Broken", 1.0)
    failed["contenders"][0]["texts_per_s"] = None
    other = write(tmp_path / "other.jsonl", {"case": "mlperf"}, {"case": "quality"}, failed)
    (work,) = merged(slow, other)
    assert [machine.name for machine in work.machines] == ["Slow, 2 threads"]
    with pytest.raises(UserError, match="found no rates"):
        merged(other)


def test_another_dtype_is_named_when_it_gives_way(tmp_path):
    older = line("train", "Xeon", 10.0, dtype="float32", measured="2026-01-01T00:00:00+00:00")
    (work,) = merged(write(tmp_path / "one.jsonl", line("train", "Xeon", 20.0), older))
    assert work.left_out == ["train on Xeon, 2 threads in float32: measured again later in bfloat16 (one.jsonl)"]


def test_a_name_from_a_file_is_no_markup(slow, tmp_path, capfd):
    odd = write(tmp_path / "odd.jsonl", line("train", "Xeon [/bold] \x1b[31m[red]", 10.0))
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", slow, odd])
    out, err = capfd.readouterr()
    assert stop.value.code == 0, err
    assert "[/bold]" in out
    assert "\x1b[31m" not in out


def test_threads_tell_machines_apart(tmp_path):
    path = write(tmp_path / "one.jsonl", line("train", "Xeon", 10.0, threads=1), line("train", "Xeon", 17.0, threads=2))
    (work,) = merged(path)
    assert {machine.name for machine in work.machines} == {"Xeon, 1 thread", "Xeon, 2 threads"}


def test_of_two_lines_of_a_machine_the_newer_one_counts(tmp_path):
    older = line("train", "Xeon", 10.0, measured="2026-01-01T00:00:00+00:00")
    (work,) = merged(write(tmp_path / "one.jsonl", line("train", "Xeon", 20.0), older))
    assert work.machines[0].rates["train"].texts_per_s.median == 20.0


def test_other_texts_are_left_out_and_named(slow, tmp_path):
    other = write(tmp_path / "other.jsonl", line("train", "Other", 99.0, data_sha256="b", measured="2025-01-01"))
    (work,) = merged(slow, fast(tmp_path, 2, 4.0), other)
    assert [machine.name for machine in work.machines] == ["Slow, 2 threads", "Fast, 2 threads"]
    assert work.left_out == ["train on Other, 2 threads: measured on other texts (other.jsonl)"]


@pytest.mark.parametrize("change", [{"max_length": 128}, {"model": "bert-tiny"}])
def test_other_work_stands_in_a_table_of_its_own(slow, tmp_path, change):
    works = merged(slow, write(tmp_path / "other.jsonl", line("train", "Other", 99.0, **change)))
    assert sorted(len(work.machines) for work in works) == [1, 1]


def test_mean_pooling_is_other_work(slow, tmp_path):
    works = merged(slow, write(tmp_path / "other.jsonl", line("train", "Other", 99.0, pooling="mean")))
    assert {work.model for work in works} == {"bert-base", "bert-base, mean pooling"}


def test_where_the_model_is_from_does_not_matter(slow, tmp_path):
    (work,) = merged(
        slow, write(tmp_path / "other.jsonl", line("infer", "Other", 9.0, model="bert-base, trained on x"))
    )
    assert len(work.machines) == 2


def test_a_run_brings_its_quality(examples, tmp_path, capfd):
    settings = {"model": "bert-tiny", "max_length": 32, "dtype": "float32", "usd_per_hour": 1.0, "quiet": True}
    run = bertwright.train(
        examples / "comments_train.csv", test=examples / "comments_test.csv", output=tmp_path / "run", **settings
    )
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", str(run.path), "--json", f"--output={tmp_path / 'merged.json'}"])
    assert stop.value.code == 0
    out, err = capfd.readouterr()
    (work,) = json.loads(out)["works"]
    assert json.loads((tmp_path / "merged.json").read_text())["works"] == [work]
    (machine,) = work["machines"]
    assert machine["quality"] == {"roc_auc": run.metrics["test"]["roc_auc"]}
    assert machine["texts_per_s"]["train"]["median"] == run.result["rates"]["train_texts_per_s"]
    assert machine["usd"] == pytest.approx(machine["seconds"]["total"] / 3600)
    assert f"roc_auc {run.metrics['test']['roc_auc']:.4f}" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no line of bench"),
        (json.dumps({"a": 1}), "found no line of bench"),
        ("null", "line 1: expected a JSON object"),
        (json.dumps({"case": "train"}), "lacks what bench writes"),
        (json.dumps(line("train", "x", 1.0, num_texts=True)), "lacks what bench writes"),
        (json.dumps(line("train", "x", 0.0)), "found 0 texts/s"),
        (json.dumps(line("train", "x", 1.0)).replace("1.0", "NaN", 1), "lacks what bench writes"),
        (json.dumps(line("train", "x", 1.0, environment=[])), "lacks what bench writes"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        merged(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("price", "message"),
    [("fast", "expected MACHINE=USD"), ("fast=x", "expected MACHINE=USD"), ("none=1", "no such machine; found Slow")],
)
def test_prices_that_are_none_are_refused(slow, price, message):
    with pytest.raises(UserError, match=message):
        merged(slow, price=(price,))


def test_the_page_tells_all_of_it_and_runs_nothing(slow, tmp_path, capfd):
    """What names a machine comes from a file of somebody's: it is shown, never run."""
    hostile = write(
        tmp_path / "hostile.jsonl",
        *(line(case, "<script>alert(1)</script>", 99.0, usd_per_hour=9.0) for case in ("tokenize", "train", "infer")),
    )
    page = tmp_path / "machines.html"
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", slow, hostile, f"--report={page}"])
    assert stop.value.code == 0
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "The job costs least on" in text
    assert text.count('role="img"') == 1
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", slow, f"--report={page}"])
    assert stop.value.code == 2
    assert "exists; pass another --report" in capfd.readouterr().err
    assert page.read_text() == text


def test_nothing_is_written_where_a_file_is_no_result(slow, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", slow, str(bad), f"--report={tmp_path / 'p.html'}", f"--output={tmp_path / 'o.json'}"])
    assert stop.value.code == 2
    assert not (tmp_path / "p.html").exists()
    assert not (tmp_path / "o.json").exists()


def test_machines_with_one_device_are_told_apart_by_their_names(tmp_path):
    here = line("train", "NVIDIA L4", 10.0, threads=4, machine="aws g6.xlarge", usd_per_hour=0.8)
    there = line("train", "NVIDIA L4", 12.0, threads=4, machine="gcp g2-standard-4", usd_per_hour=0.8)
    (work,) = merged(write(tmp_path / "one.jsonl", here, there))
    assert {one.name for one in work.machines} == {
        "aws g6.xlarge: NVIDIA L4, 4 threads",
        "gcp g2-standard-4: NVIDIA L4, 4 threads",
    }
    assert work.left_out == []


@pytest.mark.parametrize("kind", [BenchInferConfig, BenchMlperfConfig])
def test_a_machine_has_a_name_that_can_be_written(kind):
    assert build(kind, {"data": ["x.csv"], "machine": "aws g6.xlarge"}).machine == "aws g6.xlarge"
    for name in ("", "\udc80", "x" * 101):
        with pytest.raises(UserError):
            build(kind, {"data": ["x.csv"], "machine": name})


def test_machines_without_a_name_are_told_apart_by_their_prices(tmp_path):
    lines = [line(case, "NVIDIA L4", 10.0, usd_per_hour=0.8) for case in ("tokenize", "train")]
    lines.append(line("infer", "NVIDIA L4", 10.0))
    path = write(tmp_path / "one.jsonl", *lines)
    # One price: the line without one is the same machine's.
    assert [one.name for one in merged(path)[0].machines] == ["NVIDIA L4, 2 threads"]
    other = write(tmp_path / "two.jsonl", line("train", "NVIDIA L4", 12.0, usd_per_hour=0.3))
    (work,) = merged(path, other)
    assert {one.name: (one.usd_per_hour, set(one.rates)) for one in work.machines} == {
        "NVIDIA L4, 2 threads at $0.80 an hour": (0.8, {"tokenize", "train"}),
        "NVIDIA L4, 2 threads at $0.30 an hour": (0.3, {"train"}),
        "NVIDIA L4, 2 threads": (None, {"infer"}),
    }
    # A price that is given for both says that they are one.
    assert [one.usd_per_hour for one in merged(path, other, price=("L4=0.5",))[0].machines] == [0.5]


def test_a_line_that_a_newer_one_replaces_is_named(tmp_path):
    older = line("train", "Xeon", 10.0, measured="2026-01-01T00:00:00+00:00")
    old, new = write(tmp_path / "old.jsonl", older), write(tmp_path / "new.jsonl", line("train", "Xeon", 20.0))
    (work,) = merged(new, old)
    assert work.left_out == ["train on Xeon, 2 threads: measured again later (old.jsonl)"]
    assert merged(new, new)[0].left_out == []


def test_training_in_other_batches_is_other_work(tmp_path):
    lines = [line(case, "A", 10.0, batch_size=32) for case in ("train", "infer")]
    lines += [line(case, "B", 10.0, batch_size=32) for case in ("train", "infer")]
    lines += [line(case, "C", 99.0, batch_size=8) for case in ("train", "infer")]
    (work,) = merged(write(tmp_path / "one.jsonl", *lines))
    assert {one.name[0]: set(one.rates) for one in work.machines} == {
        "A": {"train", "infer"},
        "B": {"train", "infer"},
        "C": {"infer"},
    }
    assert work.left_out == ["train on C, 2 threads: measured in batches of 8, not 32 (one.jsonl)"]


def test_another_number_of_texts_of_the_same_files_is_said(tmp_path, capfd):
    few, many = line("infer", "A", 10.0, num_texts=1024), line("infer", "B", 10.0, num_texts=2048)
    path, page = write(tmp_path / "one.jsonl", few, many), tmp_path / "page.html"
    (work,) = merged(path)
    said = "infer: of 1,024 texts on A, 2 threads, of 2,048 on B, 2 threads"
    assert work.remarks == [said]
    assert len(work.machines) == 2
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", path, f"--report={page}"])
    assert stop.value.code == 0
    assert said in " ".join(capfd.readouterr().out.split())
    assert said in page.read_text()


@pytest.mark.parametrize(("share", "said"), [(0.49, True), (0.10, False), (None, False)])
def test_a_machine_that_was_busy_is_named(tmp_path, share, said):
    (work,) = merged(write(tmp_path / "one.jsonl", line("tokenize", "X", 10.0, busy_share_at_start=share)))
    expected = ["tokenize on X, 2 threads: 49% of its CPUs were busy when it was measured"]
    assert work.remarks == (expected if said else [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contenders": rated(1e-310)}, "texts/s, expected"),
        ({"contenders": rated(1e-300)}, "texts/s, expected"),
        ({"contenders": rated(1e13)}, "texts/s, expected"),
        ({"contenders": rated(5.0, least=6.0)}, "expected them in this order"),
        ({"contenders": rated(5.0, most=4.0)}, "expected them in this order"),
        ({"usd_per_hour": 1e308}, "USD an hour, expected"),
        ({"usd_per_hour": 1e7}, "USD an hour, expected"),
        ({"num_texts": 1e308}, "lacks what bench writes"),
        ({"busy_share_at_start": "x"}, "lacks what bench writes"),
        ({"environment": {"cpu": "x", "num_threads": 1e300}}, "lacks what bench writes"),
    ],
)
def test_numbers_that_no_machine_has_are_refused_in_one_line(tmp_path, change, message):
    path = write(tmp_path / "bad.jsonl", line("train", "x", 5.0, **change))
    with pytest.raises(UserError, match=message) as error:
        merged(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_name_that_cannot_be_written_is_written_all_the_same(tmp_path):
    path, output = write(tmp_path / "one.jsonl", line("train", "Xeon \ud800", 5.0)), tmp_path / "merged.json"
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", path, f"--output={output}"])
    assert stop.value.code == 0
    assert json.loads(output.read_text())["works"][0]["machines"][0]["name"] == "Xeon \ufffd, 2 threads"


@pytest.fixture(scope="module")
def run(examples, tmp_path_factory):
    settings = {"model": "bert-tiny", "max_length": 32, "dtype": "float32", "steps": 2, "quiet": True}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return bertwright.train(
        examples / "comments_train.csv", test=examples / "comments_test.csv", output=folder, **settings
    )


def test_a_runs_rates_are_not_beside_those_of_benches_but_its_quality_is(run, tmp_path):
    sha256 = run.result["data"]["train_sha256"]
    cpu, threads = run.environment["cpu"], run.environment["num_threads"]
    bench = line("train", cpu, 5.0, threads=threads, model="bert-tiny", max_length=32, data_sha256=sha256)
    bench |= {"batch_size": run.settings["batch_size"], "model": run.result["model"]}
    (work,) = merged(write(tmp_path / "one.jsonl", bench), str(run.path))
    (machine,) = work.machines
    assert machine.rates["train"].texts_per_s.median == 5.0
    assert machine.quality == ("roc_auc", run.metrics["test"]["roc_auc"])
    assert work.left_out == [f"train on {machine.name}: a run's rate, not a benchmark's rate (run)"]
    assert "infer: rates of whole runs, not of a benchmark's turns" in work.remarks
    # On a machine that no bench ran on there is only the quality.
    lines = [bench | {"case": case, "environment": {"cpu": f"Other {number}"}} for case in PHASES for number in (1, 2)]
    (work,) = merged(write(tmp_path / "two.jsonl", *lines), str(run.path))
    assert [bool(one.rates) for one in work.machines] == [True, True, False]
    assert work.machines[2].quality is not None


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("config.json", "settings max_length", [1]),
        ("config.json", "settings max_length", "220"),
        ("config.json", "settings batch_size", "x"),
        ("environment.json", "num_threads", 1e300),
        ("result.json", "metrics test roc_auc", "x"),
        ("result.json", "cost usd_per_hour", [1]),
        ("result.json", "cost usd_per_hour", -5),
        ("result.json", "cost usd_per_hour", 1e308),
        ("result.json", "rates train_texts_per_s", 1e-300),
        ("result.json", "rates train_texts_per_s", "x"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(run, tmp_path, file, path, value):
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("model"))
    record = json.loads((folder / file).read_text())
    *parents, last = path.split()
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    (folder / file).write_text(json.dumps(record))
    with pytest.raises(UserError) as error:
        merged(str(run.path), str(folder))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--epochs=1e308", f"--train-texts=1{'0' * 400}", f"--infer-texts=1{'0' * 400}"])
def test_a_job_that_is_too_large_is_refused(slow, capfd, flag):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "merge", slow, flag])
    assert stop.value.code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_times_that_hardly_differ_are_the_same():
    found = verdicts([machine("A", 5.0, 1.0), machine("B", 5.000000000000001, 2.0)], Job(1000, 1, 1000))
    assert found[0].startswith("The job costs least on A")
    assert found[1].startswith("B does not pay")
    found = verdicts([machine("A", 5.0, 1.0), machine("B", 5.01, 1.0)], Job(1000, 1, 1000))
    assert found[1:] == ["A is as fast as B, and the job costs as much there."]
    found = verdicts([machine("A", 5.0, 1.0), machine("B", 5.1, 2.0)], Job(1000, 1, 1000))
    assert "pays when" in found[1]
