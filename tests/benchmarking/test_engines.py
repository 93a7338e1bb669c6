"""``bertwright bench engines`` from end to end, small; and that a wrong engine is not timed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bertwright.benchmarking import bench as act
from bertwright.benchmarking import entries
from bertwright.benchmarking.entries import ENTRIES, Entry
from bertwright.benchmarking.measure import Measured
from bertwright.cli import main
from bertwright.config.base import build
from bertwright.config.bench import BenchEnginesConfig
from bertwright.errors import UserError
from bertwright.progress import Reporter


@pytest.fixture
def fakes(monkeypatch):
    """Takes fake contenders into the case: NAME -> class and options."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))

    def take(**kinds):
        fake = [Entry(name, f"fake_contenders:{kind}", "fake", options) for name, (kind, options) in kinds.items()]
        monkeypatch.setitem(entries.ENTRIES, "engines", (*ENTRIES["engines"], *fake))

    return take


def settings(examples, tiny_model, **changed):
    return {
        "data": str(examples / "comments_test.csv"), "model": str(tiny_model), "max_length": 64, "num_texts": 40,
        "num_alone": 5, "rounds": 2, "threads": 1, "device": "cpu", **changed,
    }  # fmt: skip


def test_engines_from_end_to_end_where_wrong_ones_are_not_timed(
    capfd, tmp_path, examples, tiny_model, fakes, monkeypatch
):
    for library in ("onnxruntime", "openvino", "transformers", "jax"):
        pytest.importorskip(library)
    names = ["transformers-float32", "onnxruntime-float32", "openvino-f32", "jax-float32"]
    missing = ["lacking", "tensorflow-float32"]
    wrong = {"shifted": ("Ours", {"shift": 0.1}), "wrong_alone": ("Ours", {"shift_alone": 0.1})}
    fakes(**wrong, lacking=("Lacking", {}))
    (tmp_path / "absent").mkdir()
    absent = "raise ModuleNotFoundError(\"No module named 'keras_hub'\", name='keras_hub')"
    (tmp_path / "absent" / "keras_hub.py").write_text(absent)  # whether it is there or not
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"), prepend=os.pathsep)
    flags = settings(examples, tiny_model, contenders=",".join([*names, *wrong, *missing]), usd_per_hour=1)
    data = flags.pop("data")
    flags |= {"report": tmp_path / "pages" / "engines.html", "output": tmp_path / "results.jsonl"}
    with pytest.raises(SystemExit) as stop:
        main(["bench", "engines", data, *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())])
    out, err = capfd.readouterr()
    assert stop.value.code == 0, err
    result = json.loads(out.splitlines()[-1])
    found = {one["name"]: one for one in result["contenders"]}
    assert set(found) == {"bertwright", "bertwright-float32", *names, *wrong, *missing}
    for name in ("bertwright-float32", *names):
        one = found[name]
        assert one["not_run"] is None
        assert one["largest_logit_difference"] < 1e-5
        assert one["label_flips"] == 0
        assert len(one["turns_s"]) == 2
        assert one["alone_ms"]["p50"]["median"] <= one["alone_ms"]["p99"]["median"]
        assert one["load_s"] > 0
        assert one["warm_up_s"] >= 0
        assert one["peak_bytes"] > 1e7
        assert one["chosen"]["num_threads"] == 1
        assert one["usd_per_million_texts"] > 0
        assert one["tokens_per_s"]["median"] == pytest.approx(one["texts_per_s"]["median"] * result["num_tokens"] / 40)
    for name in wrong:
        assert "a logit is off by 0.1 from float32" in found[name]["not_run"]
        assert found[name]["turns_s"] == []
        assert found[name]["texts_per_s"] is None
        assert found[name]["alone_ms"]["p50"] is None
    assert "a_package_that_nobody_has is not installed" in found["lacking"]["not_run"]
    assert found["tensorflow-float32"]["not_run"].endswith("is not installed: pip install 'bertwright[tensorflow]'")
    assert not any("shifted" in sentence for sentence in result["ranking"])
    assert found["bertwright-float32"]["padding_share"] == 0
    assert found["jax-float32"]["padding_share"] > found["onnxruntime-float32"]["padding_share"]
    assert found["onnxruntime-float32"]["chosen"]["batch_size"] in (8, 32, 128)
    assert found["onnxruntime-float32"]["first_token_only"]
    assert not found["transformers-float32"]["first_token_only"]
    assert result["num_threads"] == 1
    assert len(result["ranking"]) == 3
    for sentence in result["ranking"]:
        assert " ".join(sentence.split()) in " ".join(out.split())
    assert "p99 ms" in out
    assert json.loads((tmp_path / "results.jsonl").read_text()) == result
    assert result["ranking"][0].split()[0] in (tmp_path / "pages" / "engines.html").read_text()


def test_percentiles_are_of_each_pass_but_the_first():
    one = Measured(ENTRIES["engines"][0])
    one.alone = [[9.0] * 101, [i / 1000 for i in range(101)], [i / 500 for i in range(101)]]
    assert one.alone_ms(50) == pytest.approx({"median": 75, "min": 50, "max": 100})
    assert one.alone_ms(90) == pytest.approx({"median": 135, "min": 90, "max": 180})
    assert one.alone_ms(99) == pytest.approx({"median": 148.5, "min": 99, "max": 198})
    assert Measured(ENTRIES["engines"][0]).alone_ms(50) is None


def test_loading_warming_up_and_finding_settings_are_told_apart():
    one = Measured(ENTRIES["engines"][0], chosen={"tuning_s": 3.0, "cold_s": 1.0}, prepare_s=6.0)
    one.first_turn, one.turns = {"seconds": 2.5}, [{"seconds": 2.0}, {"seconds": 1.9}, {"seconds": 2.2}]
    assert one.load_s == pytest.approx(2.0)
    assert one.warm_up_s == pytest.approx(0.5 + 1.0)
    one.alone = [[0.3, 0.4], [0.1, 0.1], [0.1, 0.3]]
    assert one.warm_up_s == pytest.approx(0.5 + 1.0 + 0.4)


def test_the_reference_always_takes_part():
    assert [one.name for one in entries.choose_entries("engines", True, ["jax-float32"])] == [
        "bertwright", "bertwright-float32", "jax-float32",
    ]  # fmt: skip
    assert not any(one.peer for one in entries.choose_entries("engines", False, ()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 10_000}, "--threads: found 10000, but this process may use"),
        ({"report": "page.pdf"}, "--report page.pdf: found .pdf, expected a name that ends in .html"),
        ({"contenders": "onnx"}, "is no contender of bench engines"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(examples, tiny_model, changed, message):
    config = build(BenchEnginesConfig, settings(examples, tiny_model, **changed))
    with pytest.raises(UserError, match=message):
        act.run_engines(config, Reporter(quiet=True, results=False))


def test_a_batch_of_texts_of_all_lengths_is_evenly_drawn(tmp_path):
    from bertwright.benchmarking.cases import Case

    case = Case("engines", str(tmp_path), 0, 10, "cpu", "auto", 1, 1e-4, "first", 2, 100, 0)
    np.save(tmp_path / "ids.npy", np.zeros(5050, dtype=np.int32))
    np.save(tmp_path / "starts.npy", np.append(0, np.cumsum(np.arange(1, 101))))
    drawn = case.sorted_batches(8, num_texts=20)
    assert [len(rows) for rows in drawn] == [8, 8, 4]
    assert case.ragged.lengths[np.concatenate(drawn)].mean() == pytest.approx(52.5)
    assert sum(map(len, case.sorted_batches(8))) == 100
    ids, mask = case.padded(np.array([3, 1]), 6)
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert ids.shape == (2, 6)
