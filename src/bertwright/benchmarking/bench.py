"""The act of measuring: a case is prepared, contenders take turns, and a table and one line of JSON tell of it."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.benchmarking import cases
from bertwright.benchmarking.entries import OURS, OURS_FROM_TEXTS, PEAK, choose_entries
from bertwright.benchmarking.measure import Measured, measure, ratio_of_medians, spread
from bertwright.benchmarking.show import result_table
from bertwright.errors import UserError
from bertwright.evaluation.scores import softmax
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from bertwright.config import BenchInferConfig, BenchPretrainConfig, BenchTokenizeConfig, BenchTrainConfig

# Other work for more than this share of the CPUs disturbs what is measured.
_BUSY_SHARE = 0.1
# A contender that burns more CPU while it waits takes it from the others.
_IDLE_CPU_SHARE = 0.02


def run_infer(config: BenchInferConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure scoring; shows the table and gives the record.

    Raises:
        UserError: data or a model that cannot be used, an unknown contender, or a run of ours that failed.
    """
    return _run("infer", config, reporter)


def run_train(config: BenchTrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure training; as ``run_infer``."""
    return _run("train", config, reporter)


def run_pretrain(config: BenchPretrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure pretraining; as ``run_infer``."""
    return _run("pretrain", config, reporter)


def run_tokenize(config: BenchTokenizeConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure tokenising; as ``run_infer``."""
    return _run("tokenize", config, reporter)


def _run(name: cases.CaseName, config: Any, reporter: Reporter) -> dict[str, Any]:
    entries = choose_entries(name, config.peers, config.contenders)
    busy = busy_share()
    if busy is not None and busy > _BUSY_SHARE:
        reporter.warn(f"the machine is busy ({busy:.0%} of its CPU time): what follows is slower than on a quiet one")
    with tempfile.TemporaryDirectory(prefix="bertwright-bench-") as temporary:
        folder = Path(temporary)
        prepare: Any = {
            "infer": cases.prepare_infer,
            "train": cases.prepare_train,
            "tokenize": cases.prepare_tokenize,
            "pretrain": cases.prepare_pretrain,
        }[name]
        prepared: cases.Prepared = prepare(config, folder, reporter)
        graphs = {entry.graph for entry in entries if entry.graph is not None}
        if graphs:
            try:
                cases.write_graphs(prepared.case, graphs)
            except UserError as error:  # onnx is not installed; the contenders that need it will say so
                reporter.warn(str(error))
        all_entries = [*entries, PEAK] if prepared.operations is not None else entries
        warm_up_rounds = 1 if name == "infer" else 0
        found = measure(all_entries, folder, config.rounds, warm_up_rounds, reporter)
    result = record(name, prepared, found, config.rounds, warm_up_rounds, busy, config.usd_per_hour)
    reporter.show(result_table(result))
    for line in _remarks(result):
        reporter.warn(line)
    if config.output is not None:
        append_line(result_file(config.output, result), result)
    if not found[0].ran:
        raise UserError(f"bertwright itself did not run: {found[0].reason}")
    return result


def busy_share(seconds: float = 1.0) -> float | None:
    """The share of the machine's CPU time that others use just now; None where the system does not tell.

    Looked at for some seconds, since the load average still tells of work that ended minutes ago.
    """
    before = _cpu_times()
    time.sleep(seconds)
    after = _cpu_times()
    if before is None or after is None or after[1] == before[1]:
        return None
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def _cpu_times() -> tuple[int, int] | None:
    """Idle and all CPU time since the start, in ticks; proc(5), /proc/stat."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return fields[3] + fields[4], sum(fields)


def record(
    name: cases.CaseName,
    prepared: cases.Prepared,
    found: Sequence[Measured],
    rounds: int,
    warm_up_rounds: int,
    busy: float | None,
    usd_per_hour: float | None,
) -> dict[str, Any]:
    """All that was measured, as it goes into a line of JSON."""
    import torch

    from bertwright import hardware

    case = prepared.case
    device = hardware.choose_device(case.device)
    by_name = {one.entry.name: one for one in found}
    ours = by_name[OURS]
    peak = by_name.get(PEAK.name)
    peak_rate = None if peak is None else spread(peak.rates("operations"))
    operations_per_text = None if prepared.operations is None else prepared.operations / case.num_texts
    # Of a corpus contenders cut different sequences: there tokens are what they have in common.
    unit = "tokens" if name == "pretrain" else "texts"
    contenders = []
    for one in found:
        if one is peak:
            continue
        texts = spread(one.rates("texts"))
        rate = None if texts is None else texts["median"]
        contenders.append(
            {
                "name": one.entry.name,
                "what": one.entry.what,
                "peer": one.entry.peer,
                "not_run": one.reason,
                "texts_per_s": texts,
                "tokens_per_s": spread(one.rates("tokens")),
                "bytes_per_s": spread(one.rates("num_bytes")),
                "ours_is_times_as_fast": ratio_of_medians(_alike(one, by_name).rates(unit), one.rates(unit)),
                "share_of_peak": None
                if None in (rate, peak_rate, operations_per_text)
                else rate * operations_per_text / peak_rate["median"],  # type: ignore[operator,index]
                "peak_bytes": one.peak_bytes,
                "peak_gpu_bytes": one.peak_gpu_bytes,
                "usd_per_million_texts": None
                if usd_per_hour is None or not rate
                else usd_per_hour / 3600 / rate * 1_000_000,
                "idle_cpu_s": one.idle_cpu_s,
                "turns_s": [turn["seconds"] for turn in one.turns],
                "turns_cpu_s": [turn["cpu_s"] for turn in one.turns],
                **_compare(one, ours, by_name),
                "chosen": one.chosen,
            }
        )
    return {
        "case": name,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        **prepared.description,
        "batch_size": case.batch_size or None,
        "max_length": case.max_length,
        "rounds": rounds,
        "warm_up_rounds": warm_up_rounds,
        "dtype": ours.chosen.get("dtype"),
        "peak_dtype": None if peak is None else peak.chosen.get("dtype"),
        "peak_product": None if peak is None else peak.chosen.get("product"),
        "peak_operations_per_s": peak_rate,
        "useful_operations": prepared.operations,
        "busy_share_at_start": busy,
        "usd_per_hour": usd_per_hour,
        "num_usable_cpus": cases.num_threads(),
        "environment": {**hardware.describe(device), "torch_threads": torch.get_num_threads()},
        "contenders": contenders,
    }


def _alike(one: Measured, by_name: dict[str, Measured]) -> Measured:
    """Which of ours does the same work: from texts where ``one`` starts from texts, else from token ids."""
    ours = by_name[OURS]
    return by_name.get(OURS_FROM_TEXTS, ours) if one.entry.from_texts else ours


def _compare(one: Measured, ours: Measured, by_name: dict[str, Measured]) -> dict[str, Any]:
    """How far what a contender computed lies from our float32 (ours, where that did not run), or from our ids."""
    if "logits" in one.outcome:
        reference = by_name.get(f"{OURS}-float32", ours)
        if "logits" not in reference.outcome:
            reference = ours
        expected = reference.outcome.get("logits")
        if expected is not None and expected.shape == one.outcome["logits"].shape:
            difference = np.abs(softmax(one.outcome["logits"]) - softmax(expected))
            return {"score_reference": reference.entry.name, "largest_score_difference": float(difference.max())}
    if "ids_sha256" in one.outcome and "ids_sha256" in ours.outcome:
        return {"identical_ids": str(one.outcome["ids_sha256"]) == str(ours.outcome["ids_sha256"])}
    return {}


def _remarks(result: dict[str, Any]) -> list[str]:
    """What the reader of the table must know."""
    lines = []
    for one in result["contenders"]:
        busy = sum(one["turns_s"])
        if busy and one["idle_cpu_s"] > _IDLE_CPU_SHARE * busy and one["idle_cpu_s"] > 0.5:
            lines.append(f"{one['name']} used {one['idle_cpu_s']:.1f} s of CPU while it waited: the others are slowed")
        if one.get("identical_ids") is False:
            lines.append(f"{one['name']} gives other token ids than bertwright")
    return lines


def result_file(output: str, result: dict[str, Any]) -> Path:
    """Where a record goes: ``output``, or in that folder ``<case>-<device>-<dtype>-torch<version>-<yyyymm>.jsonl``."""
    path = Path(output)
    if not (path.is_dir() or output.endswith("/")):
        return path
    environment = result["environment"]
    device = re.sub(r"[^a-z0-9]+", "-", (environment.get("gpu") or environment["cpu"] or "cpu").lower()).strip("-")
    torch_version = environment["torch"].partition("+")[0]
    month = result["measured"][:7].replace("-", "")
    parts = [result["case"], device, result["dtype"], f"torch{torch_version}", month]
    return path / ("-".join(part for part in parts if part) + ".jsonl")


def append_line(path: Path, result: dict[str, Any]) -> None:
    """Add a record to a file of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
