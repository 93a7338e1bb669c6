"""How fast other machines are: the shipped table, and lines of bench."""

from __future__ import annotations

import json

import pytest

from bertwright.benchmarking.forecast import Estimate
from bertwright.benchmarking.machines import (
    Here,
    elsewhere,
    load_throughputs,
    read_measured,
    this_machine,
    throughput_of,
)
from bertwright.benchmarking.result_lines import read_lines
from bertwright.errors import UserError
from bertwright.prices import SHIPPED, Price, read_prices

COMPUTE = Estimate(1000.0, 900.0, 1100.0)


def price(accelerator, num_accelerators=1, num_cpus=8, usd=2.0):
    return Price("c", "r", "m", accelerator, num_accelerators, num_cpus, 64.0, usd, None, "2026-07-16", "", "")


def test_the_table_is_whole():
    table = load_throughputs()
    assert len({one.name for one in table}) == len(table) > 15
    assert all(one.unit in ("accelerator", "core") for one in table)
    assert all(one.kind in ("published", "derived", "measured") for one in table)
    assert all(one.samples_per_s > 0 and one.spread > 1 and one.source for one in table)


def test_every_accelerator_of_the_price_table_is_known_or_left_out_on_purpose():
    unknown = {one.accelerator for one in read_prices(SHIPPED) if throughput_of(one, load_throughputs()) is None}
    assert {name.removeprefix("none (CPU: ").split()[0] for name in unknown} == {
        "AMD",
        "AWS",
        "Azure",
        "Google",
        "NVIDIA",
    }
    assert {name for name in unknown if name.startswith("NVIDIA")} == {"NVIDIA RTX A6000"}


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        ("NVIDIA A100-80GB PCIe", "NVIDIA A100-80GB"),
        ("NVIDIA H100-80GB PCIe", "NVIDIA H100-80GB PCIe"),
        ("NVIDIA H100-80GB", "NVIDIA H100-80GB"),
        ("NVIDIA A10G", "NVIDIA A10G"),
        ("NVIDIA A10", "NVIDIA A10"),
        ("NVIDIA H100 NVL 94GB", "NVIDIA H100 NVL"),
        ("NVIDIA GH200 96GB", "NVIDIA GH200"),
        ("NVIDIA V100-32GB", "NVIDIA V100"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("NVIDIA L4", "NVIDIA L4"),
    ],
)
def test_the_name_with_the_most_words_that_fit_is_taken(accelerator, expected):
    found = throughput_of(price(accelerator), load_throughputs())
    assert found is not None
    assert found[1].name == expected


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("NVIDIA H200", "NVIDIA H200"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100-80GB"),
        ("Tesla V100-SXM2-16GB", "NVIDIA V100"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100-80GB"),
        ("NVIDIA H100 PCIe", "NVIDIA H100-80GB PCIe"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL"),
        ("NVIDIA A10G", "NVIDIA A10G"),
        ("NVIDIA L4", "NVIDIA L4"),
        ("Tesla T4", "NVIDIA T4"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
    ],
)
def test_a_gpu_is_found_by_its_drivers_name(gpu, expected):
    table = load_throughputs()
    found = this_machine(gpu, None, 1, table)
    assert found is not None
    assert found.samples_per_s == next(one.samples_per_s for one in table if one.name == expected)


@pytest.mark.parametrize("gpu", ["NVIDIA GeForce GTX 1080", "NVIDIA L40", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"])
def test_a_gpu_that_nobody_measured_is_not_guessed(gpu):
    assert this_machine(gpu, None, 1, load_throughputs()) is None


def test_cpus_count_by_their_cores():
    one = this_machine(None, "amx_bf16", 1, load_throughputs())
    four = this_machine(None, "amx_bf16", 4, load_throughputs())
    assert one is not None
    assert four is not None
    assert four.samples_per_s == pytest.approx(4 * one.samples_per_s)
    rate, _ = throughput_of(price("none (CPU: Intel Granite Rapids; AMX)", 0, 8), load_throughputs())
    assert rate == pytest.approx(4 * 11.813)


def test_only_the_encoders_part_is_faster_elsewhere():
    here = Here("here", 102.895, "")
    (found,) = elsewhere([price("NVIDIA L4", 8)], here, COMPUTE, 60.0, load_throughputs())
    assert found.times_as_fast == pytest.approx(10)
    assert found.seconds.value == pytest.approx(60 + 100)
    assert 60 < found.seconds.low < 60 + 50.1  # the ratio may be off by a factor of 2
    assert found.seconds.high > 60 + 199.9
    assert found.usd.value == pytest.approx(2.0 * 160 / 3600)
    assert found.num_idle == 7


def bench_line(**changes):
    ours = {"name": "bertwright", "texts_per_s": {"median": 100.0, "min": 80.0, "max": 125.0}}
    line = {
        "case": "train",
        "contenders": [ours],
        "useful_operations": 6_400,
        "num_texts": 64,
        "usd_per_hour": 3.6,
        "environment": {"gpu": "NVIDIA H200", "num_threads": 16},
        "dtype": "bfloat16",
    }
    return line | changes


def test_a_measured_machine_is_as_fast_as_its_line_says(tmp_path):
    path = tmp_path / "train-h200.jsonl"
    path.write_text(json.dumps(bench_line()) + "\n\n" + json.dumps({"case": "infer"}) + "\n")
    (line,) = read_measured([str(path)], "train")
    found = line.here(1_000.0, COMPUTE, 50.0)
    assert found.machine == "NVIDIA H200"
    assert found.times_as_fast == pytest.approx(10)  # 100 operations a text, 100 texts a second
    assert found.seconds.value == pytest.approx(150)
    assert found.seconds.low == pytest.approx(50 + 1000 / 12.5 * 0.9)
    assert found.seconds.high == pytest.approx(50 + 1000 / 8 * 1.1)
    assert found.usd.value == pytest.approx(0.15)
    assert found.kind == "measured"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no line of bench train"),
        (json.dumps({"case": "infer"}), "found no line of bench train"),
        ("{", r"line 1: expected a JSON object"),
        ("[1]", r"line 1: expected a JSON object"),
        ("[" * 100_000, r"line 1: expected a JSON object"),
        (json.dumps(bench_line(contenders=[])), "lacks what bench writes"),
        (json.dumps(bench_line(num_texts=0)), "lacks what bench writes"),
        (json.dumps(bench_line(environment=None)), "lacks what bench writes"),
        (json.dumps(bench_line(usd_per_hour="3")), "lacks what bench writes"),
        (json.dumps(bench_line(useful_operations=10**400)), "lacks what bench writes"),
        (json.dumps(bench_line()).replace("6400", "1e999"), "lacks what bench writes"),
        (json.dumps(bench_line(useful_operations=True)), "lacks what bench writes"),
    ],
)
def test_a_file_that_is_no_bench_result_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_measured([str(path)], "train")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        read_lines(tmp_path / "none.jsonl")
