"""Records that runs, scorings and benchmarks leave, and tables of prices."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

import bertwright
from bertwright.benchmarking.machines import read_measured
from bertwright.benchmarking.merge import run_merge
from bertwright.benchmarking.result_lines import has_rates, rates_of, read_lines
from bertwright.config.base import build
from bertwright.config.bench import BenchMergeConfig
from bertwright.data.tokenize import LongTextCounts
from bertwright.evaluation.show import show_run
from bertwright.evaluation.stored import read_predictions, stored_scores
from bertwright.experiments.agreement import agreement
from bertwright.experiments.compare import compare
from bertwright.experiments.show_agreement import show_agreement
from bertwright.experiments.show_comparison import show_comparison
from bertwright.memory_trace import FILE as MEMORY
from bertwright.memory_trace import read_memory_trace
from bertwright.prices import load_prices, read_prices, refresh, selected
from bertwright.progress import Reporter
from bertwright.reporting.act import page_of
from bertwright.runs import list_runs, open_run
from bertwright.shipping.bulk_manifest import check_unchanged
from bertwright.shipping.shard_folder import ShardFolder, locked, read_manifest
from bertwright.steps import FILE as STEPS
from bertwright.steps import read_trace
from bertwright.training.state import FileRecord, Progress, read_sealed, read_tensors, write_sealed, write_tensors
from tests.fuzz.target import Case, Target, read_case, refused

_REPOSITORY = Path(__file__).resolve().parents[2]

# --- runs -------------------------------------------------------------------------------------------------------------


def _run_seeds() -> Mapping[str, Case]:
    """Two runs of a tiny model, without their weights."""
    rows = "".join(f"a good film {i},1\na bad film {i},0\n" for i in range(12))
    made: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.csv").write_text("text,label\n" + rows)
        (folder / "m.csv").write_text(
            "text,rude,long\n" + "".join(f"{line},{i % 3 // 2}\n" for i, line in enumerate(rows.splitlines()))
        )
        for kind, file, labels in (("classes", "a.csv", ("label",)), ("multi-label", "m.csv", ("rude", "long"))):
            case: Case = {}
            for seed, run in enumerate(("one", "two")):
                output = folder / kind / run
                bertwright.train(
                    folder / file,
                    test=folder / file,
                    output=output,
                    model="bert-tiny",
                    steps=2,
                    batch_size=4,
                    max_length=16,
                    seed=seed,
                    label_column=labels,
                    quiet=True,
                    device="cpu",
                )
                files = {name: content for name, content in read_case(output).items() if "/" not in name}
                environment = json.loads(files["environment.json"]) | {"commit": None, "cpu": "a cpu"}
                files["environment.json"] = json.dumps(environment).encode()
                case |= {f"{run}/{name}": content for name, content in files.items()}
            made[kind] = case
    return made


def _read_runs(folder: Path) -> None:
    quiet = Reporter(quiet=True)
    for run in refused(lambda: list_runs(folder)) or ():
        run.metrics, run.state, run.saved_step  # noqa: B018 - they are computed
    for name in ("one", "two"):
        run = refused(lambda name=name: open_run(folder / name))
        if run is None:
            continue
        refused(lambda run=run: show_run(run, Reporter(results_to_stderr=True)))
        refused(lambda run=run: read_trace(run.path / STEPS))
        refused(lambda run=run: read_memory_trace(run.path / MEMORY))
        refused(lambda run=run: read_predictions(run))
        refused(lambda run=run: stored_scores(run))
        refused(lambda run=run: page_of([run.path]))
    paths = [str(folder / name) for name in ("one", "two")]
    found = refused(lambda: compare(*paths, bootstrap_samples=100))
    if found is not None:
        for form in ("table", "markdown", "csv"):
            refused(lambda form=form: show_comparison(found, Reporter(results_to_stderr=True), form))
        json.dumps(found.record(), allow_nan=False)
    held = refused(lambda: agreement(*paths))
    if held is not None:
        refused(lambda: show_agreement(held, Reporter(results_to_stderr=True)))
        json.dumps(held.record(), allow_nan=False)
    refused(lambda: run_merge(build(BenchMergeConfig, {"results": paths}), quiet))


# --- checkpoints of a training ----------------------------------------------------------------------------------------


def _saved_seeds() -> Mapping[str, Case]:
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = write_tensors(
            folder / "weights.safetensors", {"a": torch.ones(3, 2), "b": torch.zeros(1, dtype=torch.int64)}
        )
        write_sealed(folder / "record.json", record)
        return {"tensors": read_case(folder)}


def _read_saved(folder: Path) -> None:
    from bertwright.training.state import Damaged

    for kind in (FileRecord, Progress):
        try:
            record = read_sealed(folder / "record.json", kind)
            if isinstance(record, FileRecord):
                read_tensors(folder / "weights.safetensors", record)
        except Damaged:  # which the loader of checkpoints takes for a reason to go back to the one before
            pass


# --- shards of a scoring ----------------------------------------------------------------------------------------------

_MANIFEST = {
    "format": 1,
    "bertwright": "0",
    "run": "run",
    "model_sha256": "a" * 64,
    "files": ["a.csv"],
    "files_sha256": ["b" * 64],
    "settings": {"text_column": None, "shard_texts": 2},
    "computing": "words",
    "overwrite": False,
}


def _shard_seeds() -> Mapping[str, Case]:
    made: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".parquet", ".csv"):
            path = Path(name) / f"scores{suffix}.shards"
            path.mkdir()
            shards = ShardFolder(path, suffix)
            shards.begin(_MANIFEST)
            for number in range(2):
                table = pa.table({"row": [2 * number, 2 * number + 1], "score_yes": [0.25, 0.5]})
                shards.write(number, iter([table]), LongTextCounts(num_texts=2))
            made[suffix[1:]] = {f"{path.name}/{name}": content for name, content in read_case(path).items()}
    return made


def _resume(folder: Path) -> None:
    for suffix in (".parquet", ".csv"):
        path = folder / f"scores{suffix}.shards"
        if path.is_dir():
            refused(lambda path=path, suffix=suffix: _resume_in(path, suffix))


def _resume_in(path: Path, suffix: str) -> None:
    with locked(path):
        recorded = read_manifest(path)
        if recorded is None:
            return
        check_unchanged(recorded, _MANIFEST, path)
        shards = ShardFolder(path, suffix)
        shards.resume()
        shards.counts  # noqa: B018 - it is computed
        whole = [number for number in range(2) if number in shards.records]
        if len(whole) == 2:
            shards.all_there(2)
            shards.join(path.with_name(f"scores{suffix}"), 2)


def _repair_shards(case: Case) -> Case:
    """Hashes as they now are."""
    import hashlib

    made = dict(case)
    for name in case:
        if name.endswith("_shards.jsonl"):
            lines = []
            for line in case[name].split(b"\n"):
                try:
                    record = json.loads(line)
                    suffix = ".arrow" if ".parquet." in name else ".csv"
                    part = f"{name.rpartition('/')[0]}/part-{record['shard']:06d}{suffix}"
                    record["sha256"] = hashlib.sha256(case[part]).hexdigest()
                    line = json.dumps(record).encode()
                except (ValueError, KeyError, TypeError, RecursionError):
                    pass
                lines.append(line)
            made[name] = b"\n".join(lines)
    return made


# --- benchmarks and prices --------------------------------------------------------------------------------------------


def _bench_seeds() -> Mapping[str, Case]:
    rates = {"median": 100.0, "min": 90.0, "max": 110.0}
    line = {
        "case": "train",
        "measured": "2026-11-01T00:00:00+00:00",
        "num_texts": 64,
        "model": "bert-tiny",
        "max_length": 64,
        "dtype": "float32",
        "pooling": "first",
        "data_sha256": "a" * 64,
        "usd_per_hour": 0.5,
        "useful_operations": 1e9,
        "environment": {"cpu": "a cpu", "gpu": None, "num_threads": 2},
        "contenders": [{"name": "bertwright", "texts_per_s": rates}, {"name": "other", "texts_per_s": None}],
    }
    lines = [{**line, "case": case} for case in ("tokenize", "train", "infer")]
    there = [{**one, "environment": {"cpu": "another", "num_threads": 4}, "usd_per_hour": None} for one in lines]
    return {
        "two": {
            f"{name}.jsonl": "".join(json.dumps(one) + "\n" for one in some).encode()
            for name, some in (("here", lines), ("there", there))
        }
    }


def _read_bench(folder: Path) -> None:
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    for path in paths:
        for line in refused(lambda path=path: read_lines(path)) or ():
            if has_rates(line):
                refused(lambda line=line, path=path: rates_of(line, path))
        for act in ("train", "infer"):
            refused(lambda path=path, act=act: read_measured([str(path)], act))
    found = refused(
        lambda: run_merge(build(BenchMergeConfig, {"results": [str(path) for path in paths]}), Reporter(quiet=True))
    )
    if found is not None:
        json.dumps(found, allow_nan=False)


def _price_seeds() -> Mapping[str, Case]:
    shipped = (_REPOSITORY / "src" / "bertwright" / "prices.csv").read_text().splitlines(keepends=True)
    return {"few": {"prices.csv": "".join(shipped[:4]).encode()}}


def _read_table(folder: Path) -> None:
    path = folder / "prices.csv"
    prices = refused(lambda: read_prices(path))
    if prices is not None:
        selected(prices, ["a"])
        refused(lambda: refresh(path))
        load_prices()


TARGETS = (
    Target("run-records", _read_runs, _run_seeds),
    Target("training-state", _read_saved, _saved_seeds),
    Target("shards", _resume, _shard_seeds, repair=_repair_shards),
    Target("bench-lines", _read_bench, _bench_seeds),
    Target("prices", _read_table, _price_seeds),
)
