"""Records of ``bertwright bench engines`` as they might be."""

from __future__ import annotations

from typing import Any


def engine(
    name: str,
    rate: float = 100.0,
    p50: float = 10.0,
    gigabytes: float = 1.0,
    noise: float = 0.01,
    not_run: str | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """One that ran, with ``rate`` texts a second and ``p50`` milliseconds a text, give or take ``noise`` of it."""

    def spread(value: float) -> dict[str, float] | None:
        return None if not_run else {"median": value, "min": value * (1 - noise), "max": value * (1 + noise)}

    return {
        "name": name,
        "what": "ids to logits",
        "not_run": not_run,
        "precision": "float32",
        "padding_share": 0.04,
        "first_token_only": True,
        "texts_per_s": spread(rate),
        "tokens_per_s": spread(50 * rate),
        "bytes_per_s": None,
        "ours_is_times_as_fast": None if not_run else 1.0,
        "share_of_peak": None if not_run else 0.3,
        "alone_ms": {"p50": spread(p50), "p90": spread(2 * p50), "p99": spread(3 * p50)},
        "load_s": None if not_run else 1.5,
        "tuning_s": 0.0,
        "warm_up_s": None if not_run else 0.2,
        "peak_bytes": None if not_run else int(gigabytes * 1e9),
        "peak_gpu_bytes": None,
        "usd_per_million_texts": None if not_run else 1e6 / 3600 / rate,
        "joules_per_million_texts": None,
        "energy_source": None,
        "turns_s": [] if not_run else [1.0],
        "largest_logit_difference": 1e-6,
        "largest_score_difference": 1e-7,
        "logit_error_to_size": 1e-6,
        "label_flips": 0,
        "chosen": {"batch_size": 32, "num_threads": 2},
        **changed,
    }


def engines_record(engines: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    return {
        "case": "engines",
        "measured": "2026-02-03T04:05:06+00:00",
        "data": ["comments.csv"],
        "model": "all-MiniLM-L6-v2",
        "num_texts": 128,
        "text_tokens": {"mean": 50.0, "p50": 40.0, "p90": 90.0, "max": 128},
        "max_length": 128,
        "batch_size": None,
        "rounds": 3,
        "num_threads": 2,
        "num_usable_cpus": 2,
        "busy_share_at_start": 0.01,
        "peak_operations_per_s": {"median": 1e12, "min": 1e12, "max": 1e12},
        "peak_dtype": "bfloat16",
        "peak_product": "1024 x 1024 x 1024",
        "usd_per_hour": None,
        "environment": {"cpu": "Some CPU", "torch": "2.11.0"},
        "contenders": engines,
        **changed,
    }
