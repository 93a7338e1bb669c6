"""The act of measuring: a case is prepared, contenders take turns, and a table and one line of JSON tell of it."""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.benchmarking import cases
from bertwright.benchmarking.entries import OURS, OURS_FROM_TEXTS, PEAK, REFERENCE, Entry, choose_entries
from bertwright.benchmarking.gate import difference, refusal
from bertwright.benchmarking.measure import Measured, measure, ratio_of_medians, spread
from bertwright.benchmarking.result_lines import BUSY_SHARE
from bertwright.benchmarking.show import engines_table, result_table
from bertwright.benchmarking.verdict import three_sentences
from bertwright.cpus import num_usable_cpus
from bertwright.errors import RunError, UserError
from bertwright.progress import Reporter
from bertwright.reporting.act import check_page
from bertwright.reporting.engines_page import engines_page
from bertwright.reporting.page import write_page
from bertwright.runs import check_can_be_made

if TYPE_CHECKING:
    from bertwright.config.bench import (
        BenchEnginesConfig,
        BenchInferConfig,
        BenchPretrainConfig,
        BenchTokenizeConfig,
        BenchTrainConfig,
    )

# A contender that burns more CPU while it waits takes it from the others.
_IDLE_CPU_SHARE = 0.02


def run_infer(config: BenchInferConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure scoring; shows the table and gives the record.

    Raises:
        UserError: data or a model that cannot be used, an unknown contender, or a run of ours that failed.
    """
    return _run("infer", config, reporter)


def run_engines(config: BenchEnginesConfig, reporter: Reporter) -> dict[str, Any]:
    """Compare engines; as ``run_infer``, and nothing is timed of one that computes something else.

    Raises:
        UserError: as ``run_infer``, or a page that could not be written.
    """
    page = None if config.report is None else Path(config.report)
    if page is not None:
        check_page(page, config.overwrite, "report")
    result = _run("engines", config, reporter)
    if page is not None:
        page.absolute().parent.mkdir(parents=True, exist_ok=True)
        num_bytes = write_page(engines_page(result), page)
        reporter.say(f"report: {page} ({num_bytes / 1000:,.0f} kB)")
    return result


def run_train(config: BenchTrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure training; as ``run_infer``."""
    return _run("train", config, reporter)


def run_pretrain(config: BenchPretrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure pretraining; as ``run_infer``."""
    return _run("pretrain", config, reporter)


def run_tokenize(config: BenchTokenizeConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure tokenising; as ``run_infer``."""
    return _run("tokenize", config, reporter)


def _without_slow_bf16(entries: list[Entry], config: Any, reporter: Reporter) -> list[Entry]:
    """Those that multiply bfloat16 are left out, and said, where the device is so slow at it that they take minutes."""
    if not any(entry.bf16 for entry in entries):
        return entries
    from bertwright import hardware

    dtype, reason = hardware.choose_dtype("auto", hardware.choose_device(config.device))
    if str(dtype) != "torch.float32":
        return entries
    names = ", ".join(entry.name for entry in entries if entry.bf16)
    reporter.say(f"left out: {names} ({reason}). Name them with --contenders to have them all the same")
    return [entry for entry in entries if not entry.bf16]


def _run(name: cases.CaseName, config: Any, reporter: Reporter) -> dict[str, Any]:
    entries = choose_entries(name, config.peers, config.contenders)
    if not config.contenders:
        entries = _without_slow_bf16(entries, config, reporter)
    check_output(config.output)
    busy = busy_share()
    if busy is not None and busy > BUSY_SHARE:
        reporter.warn(f"the machine is busy ({busy:.0%} of its CPU time): what follows is slower than on a quiet one")
    with tempfile.TemporaryDirectory(prefix="bertwright-bench-") as temporary:
        folder = Path(temporary)
        prepare: Any = {
            "infer": cases.prepare_infer,
            "engines": cases.prepare_engines,
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
        warm_up_rounds = 1 if name in ("infer", "engines") else 0
        engines: dict[str, Any] = {}
        if name == "engines":
            rows = cases.sample(prepared.case.num_texts, config.num_alone, config.seed).tolist()
            engines = {"gate": functools.partial(refused, rows=rows), "rows_alone": rows}
        found = measure(all_entries, folder, config.rounds, warm_up_rounds, reporter, **engines)
    result = record(name, prepared, found, config.rounds, warm_up_rounds, busy, config.usd_per_hour, config.machine)
    if name == "engines":
        result["ranking"] = three_sentences(result)
    reporter.show(result_table(result))
    if name == "engines":
        reporter.show(engines_table(result))
        for sentence in result["ranking"]:
            reporter.show(sentence)
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
    machine: str | None = None,
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
                "load_s": one.load_s,
                "tuning_s": one.chosen.get("tuning_s"),
                "warm_up_s": one.warm_up_s,
                "peak_bytes": one.peak_bytes,
                "peak_gpu_bytes": one.peak_gpu_bytes,
                "usd_per_million_texts": None
                if usd_per_hour is None or not rate
                else usd_per_hour / 3600 / rate * 1_000_000,
                "idle_cpu_s": one.idle_cpu_s,
                "turns_s": [turn["seconds"] for turn in one.turns],
                "turns_cpu_s": [turn["cpu_s"] for turn in one.turns],
                **_compare(one, ours, by_name),
                **(_as_engine(one, case) if name == "engines" else {}),
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
        "machine": machine,
        "num_usable_cpus": num_usable_cpus(),
        "num_threads": case.num_threads if case.holds_threads else None,
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
        reference = by_name.get(REFERENCE, ours)
        if "logits" not in reference.outcome:
            reference = ours
        expected = reference.outcome.get("logits")
        if expected is not None and expected.shape == one.outcome["logits"].shape:
            return {"score_reference": reference.entry.name, **_finite(difference(one.outcome["logits"], expected))}
    if "ids_sha256" in one.outcome and "ids_sha256" in ours.outcome:
        return {"identical_ids": str(one.outcome["ids_sha256"]) == str(ours.outcome["ids_sha256"])}
    return {}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """None in place of what is not a finite number."""
    return {name: None if value is None or not np.isfinite(value) else value for name, value in values.items()}


def _as_engine(one: Measured, case: cases.Case) -> dict[str, Any]:
    """What is told of engines alone."""
    joules = spread([turn["joules"] / turn["texts"] * 1e6 for turn in one.turns if "joules" in turn])
    return {
        "precision": precision_of(one),
        "padding_share": one.chosen.get("padding_share", 0.0),
        "first_token_only": one.entry.first_token_only and case.pooling == "first",
        "alone_ms": {f"p{percent}": one.alone_ms(percent) for percent in (50, 90, 99)},
        "joules_per_million_texts": joules,
        "energy_source": one.energy_source,
    }


def precision_of(one: Measured) -> str:
    """What a contender computes in: by its entry or, where that leaves it open, as it has chosen."""
    return one.entry.precision or one.chosen.get("dtype", "float32")


def refused(found: Sequence[Measured], rows: Sequence[int]) -> dict[str, str]:
    """By name, why contenders are not timed: those whose logits are too far from our float32, in batches or alone.

    Args:
        rows: the texts that were scored alone.

    Raises:
        UserError: our float32 itself has computed nothing.
    """
    expected = next((one.outcome.get("logits") for one in found if one.entry.name == REFERENCE), None)
    if expected is None:
        raise UserError(f"{REFERENCE}, which all others are compared with, did not run: see the warnings above")
    reasons: dict[str, str] = {}
    for one in found:
        if "logits" not in one.outcome:
            continue
        compared = [(one.outcome["logits"], expected)]
        if one.alone_logits is not None:
            compared.append((one.alone_logits, expected[list(rows)]))
        for logits, right in compared:
            if logits.shape != right.shape:
                reason: str | None = f"logits of shape {logits.shape}, expected {right.shape}"
            else:
                reason = refusal(precision_of(one), difference(logits, right))
            if reason is not None:
                reasons.setdefault(one.entry.name, reason)
    return reasons


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


def check_output(output: str | None) -> None:
    """Make sure, before hours of work, that its line can be written to ``output``, a file or a folder.

    Raises:
        RunError: it cannot.
    """
    if output is not None:
        path = Path(output)
        path = path / "lines.jsonl" if path.is_dir() or output.endswith("/") else path
        check_can_be_made(path)
        if path.exists() and not os.access(path, os.W_OK):
            raise RunError(f"--output {output}: no permission to add a line to it; name another file")


def append_line(path: Path, result: dict[str, Any]) -> None:
    """Add a record to a file of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
