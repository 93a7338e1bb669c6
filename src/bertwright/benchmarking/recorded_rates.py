"""How fast runs were, by their records, as if they had been benchmarks; and how good. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.benchmarking.result_lines import Rates, Spread, checked, finite, plain, whole
from bertwright.errors import UserError

PHASES = ("tokenize", "train", "infer")
# What of a run's quality is shown: the first of these that it has.
_QUALITY = ("roc_auc", "accuracy", "pearson")


def rates_of_run(path: Path) -> tuple[list[Rates], tuple[str, float] | None]:
    """A finished run's rates as if they were benches, and its quality on the held-out texts.

    Raises:
        UserError: it is none that has finished, or the record holds what no run writes.
    """
    with runs.reading_records(path):
        return _recorded_rates(path)


def _recorded_rates(path: Path) -> tuple[list[Rates], tuple[str, float] | None]:
    run = runs.open_run(path)
    if run.result is None:
        raise UserError(f"{path} has not finished: there are no rates to set side by side")
    result, environment = run.result, run.environment
    data, settings = result["data"], run.settings
    hashes = {
        "tokenize": f"{data.get('train_sha256')} {data.get('test_sha256')}",
        "train": str(data.get("train_sha256")),
        "infer": str(data.get("test_sha256") or f"held out of {data.get('train_sha256')}"),
    }
    price = (result.get("cost") or {}).get("usd_per_hour")
    found = []
    for phase in PHASES:
        recorded = (result.get("rates") or {}).get(f"{phase}_texts_per_s")
        if recorded is None or not (rate := _number(recorded, f"rates.{phase}_texts_per_s")):
            continue
        rates = Rates(
            case=phase,
            device=plain(environment.get("gpu") or environment.get("cpu") or "unknown"),
            num_threads=_count(environment.get("num_threads"), "num_threads"),
            dtype=None if environment.get("dtype") is None else plain(environment["dtype"]),
            model=plain(result.get("model") or ""),
            max_length=_count(settings.get("max_length"), "max_length"),
            how=plain(_how(settings)),
            data=plain(hashes[phase]),
            num_texts=1,
            texts_per_s=Spread(rate, rate, rate),
            usd_per_hour=None if price is None else _number(price, "cost.usd_per_hour"),
            measured=plain(run.started),
            batch_size=_count(settings.get("batch_size"), "batch_size"),
            is_run=True,
        )
        found.append(checked(rates, path))
    if not found:
        raise UserError(f"{path}: a run of {run.act} has no rates of tokenising, training or scoring texts")
    held_out = (result["metrics"].get("test") or {}) or (result["metrics"].get("validation") or {})
    return found, next(((name, _metric(held_out, name)) for name in _QUALITY if held_out.get(name) is not None), None)


def _number(value: Any, name: str) -> float:
    try:
        return finite(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: no number of 0 or more") from None


def _count(value: Any, name: str) -> int | None:
    try:
        return whole(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: no count") from None


def _metric(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise ValueError(f"{name}: no number between -1 and 1")
    return float(value)


def _how(settings: Mapping[str, Any]) -> str:
    """What is unusual about a run's work."""
    words = []
    if settings.get("freeze_encoder"):
        words.append("frozen encoder")
    if settings.get("pooling") == "mean":
        words.append("mean pooling")
    if settings.get("long_texts") not in (None, "head"):
        words.append(f"long texts by {settings['long_texts']}")
    return ", ".join(words)
