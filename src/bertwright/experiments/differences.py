"""Pairs of contenders: difference, interval, test, and a verdict in words. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bertwright.evaluation.few_texts import FEWEST_COUNTED, counted_too_little, ranked_too_little
from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.evaluation.resampling import Judged
from bertwright.evaluation.significance import holm, texts_needed
from bertwright.evaluation.uncertainty import Difference, Measured, difference
from bertwright.experiments.finished_runs import is_number

Pairs = Literal["all", "neighbours", "first"]
PAIRS: tuple[Pairs, ...] = ("all", "neighbours", "first")


def pairs_of(count: int, pairs: Pairs) -> list[tuple[int, int]]:
    """Places of contenders, two by two: all pairs, each with the one before it, or each with the first."""
    if pairs == "neighbours":
        return [(place, place + 1) for place in range(count - 1)]
    if pairs == "first":
        return [(0, place) for place in range(1, count)]
    return [(one, other) for one in range(count) for other in range(one + 1, count)]


def differences_of(
    contenders: Sequence[Mapping[str, Any]],
    models: Sequence[Sequence[int]],
    judged: Judged | None,
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
    pairs: Pairs,
    alpha: float,
) -> list[dict[str, Any]]:
    """``differences`` of ``compare.Comparison``, whose docstring has the keys.

    Args:
        contenders: their records, with ``name`` and ``metrics``.
        models: for each contender the models of ``judged``; empty where it has no predictions.
    """
    found: list[dict[str, Any]] = []
    tested: list[Difference | None] = []
    for metric in metrics:
        for one, other in pairs_of(len(contenders), pairs):
            values = [contenders[place]["metrics"].get(metric) for place in (one, other)]
            if not all(is_number(value) for value in values):
                continue
            test = None
            if judged is not None and metric in measured and models[one] and models[other]:
                test = difference(judged, measured[metric], models[one], models[other], alpha)
            tested.append(test)
            why = None if test is not None else _why_untested(judged, metric, [*models[one], *models[other]])
            found.append(
                {
                    "a": contenders[one]["name"],
                    "b": contenders[other]["name"],
                    "metric": metric,
                    "value_a": values[0],
                    "value_b": values[1],
                    "difference": values[0] - values[1],
                    "low": None if test is None else test.low,
                    "high": None if test is None else test.high,
                    "p": None if test is None else test.p,
                    "test": None if test is None else test.test,
                    "num_texts": None if judged is None else judged.num_texts,
                    "seeds": [len(models[one]), len(models[other])],
                    "why_untested": why,
                }
            )
    adjusted = holm([record["p"] for record in found])
    num_tests = sum(p is not None for p in adjusted)
    for record, p, test in zip(found, adjusted, tested, strict=True):
        record["p_adjusted"] = p
        record["verdict"] = _verdict(record, alpha)
        record.update(_more_texts(record, test, alpha / max(num_tests, 1)))
        record["sentence"] = _sentence(record, num_tests, alpha)
    return found


def _why_untested(judged: Judged | None, metric: str, models: Sequence[int]) -> str:
    if judged is not None and counted_too_little(judged, metric, models):
        return f"there is no test of it: it is a share of fewer than {FEWEST_COUNTED} texts"
    few = None if judged is None else ranked_too_little(judged, metric)
    return "there are not enough predictions for a test" if few is None else f"there is no test of it: {few}"


def _verdict(record: Mapping[str, Any], alpha: float) -> str:
    if record["p_adjusted"] is None or record["p_adjusted"] > alpha or not record["difference"]:
        return "cannot tell"
    return "better" if (record["difference"] > 0) != (record["metric"] in LOWER_IS_BETTER) else "worse"


def _more_texts(record: Mapping[str, Any], test: Difference | None, alpha: float) -> dict[str, Any]:
    """How many texts would tell: at ``alpha``, which is that of one of the tests, so that Holm's method is content."""
    nothing = {"texts_needed": None, "more_texts": None, "seeds_hide_it": False}
    if test is None or record["verdict"] != "cannot tell" or not record["difference"]:
        return nothing
    seen = test.contrast
    seeds = max(seen.seed_variance, 0.0)
    of_texts = seen.variance - seeds
    needed = texts_needed(seen.value, of_texts, record["num_texts"], alpha, seeds, seen.degrees_of_freedom)
    if needed is None:
        return {**nothing, "seeds_hide_it": seeds > 0}
    # Few texts and exact tests: the large-sample formula may ask for fewer than there are.
    needed = max(needed, record["num_texts"] + 1)
    return {"texts_needed": needed, "more_texts": needed - record["num_texts"], "seeds_hide_it": False}


def _sentence(record: Mapping[str, Any], num_tests: int, alpha: float) -> str:
    one, other, metric = record["a"], record["b"], record["metric"]
    values = f"{metric} {number(record['value_a'])} against {number(record['value_b'])}"
    if record["p"] is None:
        return f"Cannot tell {one} from {other}: {values}; {record['why_untested']}."
    numbers = f"a difference of {signed(record['difference'])} ({_interval_words(record, num_tests, alpha)}; "
    numbers += f"{record['test']}, {probability(record['p'])}"
    if num_tests > 1:
        numbers += f", unadjusted; {probability(record['p_adjusted'])} after Holm over {num_tests} tests"
    numbers += ")"
    apart = _why_apart(record, num_tests, alpha)
    if record["verdict"] != "cannot tell":
        return f"{one} is {record['verdict']} than {other}: {values}, {numbers}.{apart}"
    if not record["difference"]:
        return (
            f"Cannot tell {one} from {other} at {record['num_texts']:,} texts: both have {values.split(' against')[0]}."
        )
    if record["seeds_hide_it"]:
        more = "No number of texts would tell: runs of one setting differ too much from seed to seed; train more seeds."
    elif record["more_texts"] is None:
        more = "No number of texts that anyone has would tell."
    else:
        more = f"If it is real, about {rounded(record['more_texts'])} more test texts would tell."
    return f"Cannot tell {one} from {other} at {record['num_texts']:,} texts: {values}, {numbers}.{apart} {more}"


def _interval_words(record: Mapping[str, Any], num_tests: int, alpha: float) -> str:
    if record["low"] is None:
        return "no interval: it does not vary"
    unadjusted = ", unadjusted," if num_tests > 1 else ""
    return f"{100 * (1 - alpha):g} % interval{unadjusted} {signed(record['low'])} to {signed(record['high'])}"


def _why_apart(record: Mapping[str, Any], num_tests: int, alpha: float) -> str:
    """Why the verdict is not what the interval beside it seems to say; empty where the two agree."""
    if record["low"] is None or not record["difference"]:
        return ""
    without_zero = record["low"] > 0 or record["high"] < 0
    told = record["verdict"] != "cannot tell"
    if without_zero == told:
        return ""
    if record["p"] <= alpha and not told:
        return (
            f" The interval leaves out 0, but it is of this pair alone: of {num_tests} tests one finds such a "
            "difference by chance more easily, which Holm's method takes into account."
        )
    return f" The interval {'leaves out' if without_zero else 'holds'} 0 by a little: it and the test are two methods."


def number(value: float | None) -> str:
    """Four decimals, or "-" where there is no number."""
    return "-" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Four decimals with a sign, or more where they would be 0."""
    if value is None:
        return "-"
    return f"{value:+.4f}" if abs(value) >= 0.00005 or value == 0 else f"{value:+.1e}"


def probability(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def rounded(count: int) -> str:
    """Two digits of it: what is not known better should not look so."""
    digits = max(math.floor(math.log10(count)) - 1, 0)
    return f"{round(count, -digits):,}"
