"""How fast other machines are: the shipped table, and lines of bench."""

from __future__ import annotations

import json

import pytest

from bertwright.benchmarking.forecast import Estimate, Needs
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
GIB = 2**30
NEEDS = Needs(accelerator=GIB, machine=2 * GIB)


def price(accelerator, num_accelerators=1, num_cpus=8, usd=2.0, note=""):
    return Price("c", "r", "m", accelerator, num_accelerators, num_cpus, 64.0, usd, None, "2026-07-16", "", note)


def on(*prices, here=None, needs=NEEDS):
    return elsewhere(prices, here or Here("here", 102.895, ""), COMPUTE, 60.0, load_throughputs(), needs)


def test_the_table_is_whole():
    table = load_throughputs()
    assert len({one.name for one in table}) == len(table) > 15
    assert all(one.unit in ("accelerator", "core") for one in table)
    assert all(one.kind in ("published", "derived") for one in table)
    assert all((one.memory_gib or 0) >= 16 for one in table if one.unit == "accelerator")
    assert all("preview" in one.source for one in table if "6980P" in one.source)
    kinds = {one.name: one.kind for one in table}
    assert kinds["CPU with AVX512-BF16"] == "derived"  # a ratio of our own, of a rate that is derived itself
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
        ("NVIDIA A100-80GB PCIe", "NVIDIA A100-80GB PCIe"),
        ("NVIDIA A100-80GB", "NVIDIA A100-80GB"),
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
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100-80GB PCIe"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100-40GB PCIe"),
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
    assert found.source == next(one.source for one in table if one.name == expected)


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


def test_the_shipped_rows_with_pcie_get_no_rate_of_sxm():
    rows = [one for one in read_prices(SHIPPED) if "A100" in one.accelerator and one.note.startswith(("PCIe", "SXM"))]
    rows += [one for one in read_prices(SHIPPED) if one.machine == "1x_A100-80GB_SECURE"]
    kinds = {one.machine: throughput_of(one, load_throughputs())[1] for one in rows}
    pcie = {machine for machine, one in kinds.items() if "PCIe" in one.source}
    assert pcie == {"1x_A100-80GB_SECURE", "Standard_NC24ads_A100_v4", "Standard_NC96ads_A100_v4"}
    assert all(kinds[machine].kind == "derived" and kinds[machine].spread == 2.5 for machine in pcie)
    assert len(kinds) > len(pcie)


def test_only_the_encoders_part_is_faster_elsewhere():
    (found,) = on(price("NVIDIA L4", 8))
    assert found.times_as_fast == pytest.approx(10)
    assert found.seconds.value == pytest.approx(60 + 100)
    assert 60 < found.seconds.low < 60 + 50.1  # the ratio may be off by a factor of 2
    assert found.seconds.high > 60 + 199.9
    assert found.usd.value == pytest.approx(2.0 * 160 / 3600)
    assert found.num_idle == 7


def test_many_cores_widen_the_range_and_nothing_else():
    sapphire = "none (CPU: Intel Sapphire Rapids; AMX)"
    few, many = on(price(sapphire, 0, 64), price(sapphire, 0, 192))
    assert (few.num_cores, many.num_cores) == (32, 96)
    assert many.times_as_fast == pytest.approx(3 * few.times_as_fast)
    assert few.seconds.high - 60 == pytest.approx(
        (few.seconds.value - 60) * (few.seconds.value - 60) / (few.seconds.low - 60)
    )
    assert many.seconds.high > 60 + 6 * (many.seconds.value - 60)  # twice, as for any, and as if a third of them helped
    here = Here("here", 64 * 12.742, "", num_cores=64)
    (gpu,) = on(price("NVIDIA L4"), here=here)
    assert gpu.seconds.low - 60 < (gpu.seconds.value - 60) / 4
    assert gpu.seconds.high - 60 < (gpu.seconds.value - 60) * 2.1


def test_a_price_in_doubt_is_carried_on_with_its_note():
    sure, doubtful = on(price("NVIDIA L4", note="spot not known"), price("NVIDIA L4", note="DOUBTFUL: as if reserved"))
    assert sure.record()["doubt"] == ""
    assert doubtful.record()["doubt"] == "DOUBTFUL: as if reserved"


@pytest.mark.parametrize(
    ("accelerator", "num_accelerators", "needed_gib", "fits"),
    [
        ("NVIDIA T4", 1, 12, True),
        ("NVIDIA T4", 1, 15, None),
        ("NVIDIA T4", 1, 20, False),
        ("NVIDIA V100-32GB", 1, 20, True),
        ("NVIDIA V100-16GB", 1, 20, False),
        ("NVIDIA V100", 8, 20, False),
        ("NVIDIA A100-80GB PCIe", 1, 60, True),
        ("none (CPU: Intel Sapphire Rapids; AMX)", 0, 20, True),
        ("none (CPU: Intel Sapphire Rapids; AMX)", 0, 40, False),  # the machine's 64 GiB; the whole process needs twice
    ],
)
def test_a_job_fits_where_it_is_computed(accelerator, num_accelerators, needed_gib, fits):
    needs = Needs(needed_gib * GIB, 2 * needed_gib * GIB)
    (found,) = on(price(accelerator, num_accelerators), needs=needs)
    assert found.record()["fits"] is fits


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
    found = line.here(1_000.0, COMPUTE, 50.0, load_throughputs(), NEEDS)
    assert found.machine == "NVIDIA H200"
    assert found.times_as_fast == pytest.approx(10)  # 100 operations a text, 100 texts a second
    assert found.seconds.value == pytest.approx(150)
    assert found.seconds.low == pytest.approx(50 + 1000 / 12.5 * 0.9)
    assert found.seconds.high == pytest.approx(50 + 1000 / 8 * 1.1)
    assert found.usd.value == pytest.approx(0.15)
    assert found.kind == "measured"
    assert found.fits


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
        (json.dumps(bench_line(useful_operations=1e308)), "useful operations a second"),
        (json.dumps(bench_line(useful_operations=1e-300)), "useful operations a second"),
        (json.dumps(bench_line(useful_operations=0)), "useful operations a second"),
        (json.dumps(bench_line(usd_per_hour=1e308)), "USD an hour, expected 0 to less than 10,000,000"),
        (json.dumps(bench_line(environment={"cpu": "x", "num_threads": 1e300})), "lacks what bench writes"),
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
