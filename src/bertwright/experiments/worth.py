"""Was it worth it: what one more epoch, or the next larger model, bought per minute and dollar. No torch here."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.evaluation.resampling import Judged
from bertwright.evaluation.uncertainty import Measured, difference
from bertwright.experiments.contenders import Contender, differing
from bertwright.experiments.differences import number, probability, signed
from bertwright.experiments.finished_runs import is_number

_TURNED = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
_LENGTH = {"epochs", "steps"}
# What may differ with the model, since the fitting value does.
_WITH_MODEL = {"learning_rate", "batch_size", "tokenizer", "pooling", "optimizer", "hidden_dropout"}


def worth_of(
    contenders: Sequence[Contender],
    records: Sequence[Mapping[str, Any]],
    models: Sequence[Sequence[int]],
    judged: Judged | None,
    measured: Mapping[str, Measured],
    metric: str,
    alpha: float,
    differences: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """``worth`` of ``compare.Comparison``, whose docstring has the keys: each step from less to more, smallest first.

    The verdict is that of ``differences`` where the pair is among them, else that of its own test at ``alpha``, which
    is not adjusted for the number of tests; then ``p_adjusted`` is None, and the sentence says so.
    """
    told = {}
    for record in differences:
        if record["metric"] == metric:
            told[record["a"], record["b"]] = record["verdict"], record["p_adjusted"]
            told[record["b"], record["a"]] = _TURNED[record["verdict"]], record["p_adjusted"]
    num_tests = sum(record["p"] is not None for record in differences)
    found: list[dict[str, Any]] = []
    for what, left_out, size in (("epochs", _LENGTH, _length), ("model", {"model", *_WITH_MODEL}, _model_bytes)):
        chains: dict[str, list[tuple[float, int]]] = {}
        for place, contender in enumerate(contenders):
            if not contender.trainings[0].is_training or (amount := size(contender)) is None:
                continue
            same = {name: value for name, value in contender.settings.items() if name not in left_out}
            unit = "steps" if what == "epochs" and contender.settings.get("steps") is not None else ""
            chains.setdefault(unit + json.dumps(same, sort_keys=True, default=str), []).append((amount, place))
        for chain in chains.values():
            ordered = sorted(chain)
            for (small, less), (large, more) in itertools.pairwise(ordered):
                if small < large:
                    pair = (less, more)
                    step = _step(what, contenders, records, models, judged, measured, metric, alpha, pair)
                    if (step["b"], step["a"]) in told:
                        step["verdict"], step["p_adjusted"] = told[step["b"], step["a"]]
                    found.append({**step, "sentence": _sentence(step, contenders, pair, alpha, num_tests)})
    return found


def _length(contender: Contender) -> float | None:
    """Steps, where these were asked for, else epochs."""
    value = contender.settings.get("steps")
    value = contender.settings.get("epochs") if value is None else value
    return float(value) if value is not None and is_number(value) else None


def _model_bytes(contender: Contender) -> float | None:
    """Of the weights as they were saved."""
    training = contender.trainings[0]
    try:
        return float((training.model_folder / "model.safetensors").stat().st_size)
    except OSError:
        return None


def _step(
    what: str,
    contenders: Sequence[Contender],
    records: Sequence[Mapping[str, Any]],
    models: Sequence[Sequence[int]],
    judged: Judged | None,
    measured: Mapping[str, Measured],
    metric: str,
    alpha: float,
    pair: tuple[int, int],
) -> dict[str, Any]:
    less, more = (records[place] for place in pair)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    values = less["metrics"].get(metric), more["metrics"].get(metric)
    gain = sign * (values[1] - values[0]) if all(map(is_number, values)) else None
    low = high = p = None
    verdict = "cannot tell"
    if judged is not None and metric in measured and models[pair[0]] and models[pair[1]]:
        test = difference(judged, measured[metric], models[pair[1]], models[pair[0]], alpha)
        if test is not None and test.low is not None and test.high is not None:
            low, high = sorted((sign * test.low, sign * test.high))
        p = None if test is None else test.p
        if p is not None and p <= alpha and gain:
            verdict = "better" if gain > 0 else "worse"
    minutes = _extra(less["train_s"], more["train_s"], 60.0)
    dollars = _extra(less["usd"], more["usd"], 1.0)
    also = differing(contenders[pair[0]].settings, contenders[pair[1]].settings) - _LENGTH - {"model"}
    return {
        "a": less["name"],
        "b": more["name"],
        "what": what,
        "also": sorted(also),
        "metric": metric,
        "gain": gain,
        "low": low,
        "high": high,
        "p": p,
        "p_adjusted": None,
        "verdict": verdict,
        "extra_minutes": minutes,
        "extra_usd": dollars,
        "gain_per_minute": gain / minutes if gain is not None and minutes is not None and minutes > 0 else None,
        "gain_per_usd": gain / dollars if gain is not None and dollars is not None and dollars > 0 else None,
    }


def _extra(less: float | None, more: float | None, unit: float) -> float | None:
    return None if less is None or more is None else (more - less) / unit


def _sentence(
    found: Mapping[str, Any], contenders: Sequence[Contender], pair: tuple[int, int], alpha: float, num_tests: int
) -> str:
    one, other = (contenders[place].settings for place in pair)
    unit = "model" if found["what"] == "model" else "steps" if other.get("steps") is not None else "epochs"
    start = f"{found['b']} after {found['a']} ({unit} {_plain(other.get(unit))} after {_plain(one.get(unit))}"
    start += f"; {', '.join(found['also'])} differ too)" if found["also"] else ")"
    if found["gain"] is None:
        return f"{start}: {found['metric']} is not known of both."
    text = f"{start}: {found['metric']} {'better' if found['gain'] >= 0 else 'worse'} by {number(abs(found['gain']))}"
    if found["p"] is not None:
        text += f" ({_test_words(found, alpha, num_tests)})"
    took = []
    if found["extra_minutes"] is not None:
        took.append(f"{found['extra_minutes']:+.2f} min of training")
    if found["extra_usd"] is not None:
        took.append(f"{found['extra_usd']:+.4f} USD")
    if took:
        text += f" for {' and '.join(took)}"
    if found["verdict"] != "better":
        what = "That it is better cannot be told" if found["verdict"] == "cannot tell" else "It made it worse"
        if found["low"] is not None and found["low"] > 0 and found["verdict"] == "cannot tell":
            what += " after Holm: the interval, which leaves out 0, is of this pair alone"
        return f"{text}. {what}."
    rates = []
    if found["gain_per_minute"] is not None:
        rates.append(f"{_rate(found['gain_per_minute'])} a minute")
    if found["gain_per_usd"] is not None:
        rates.append(f"{_rate(found['gain_per_usd'])} a dollar")
    return f"{text}{': ' if rates else ''}{', '.join(rates)}."


def _test_words(found: Mapping[str, Any], alpha: float, num_tests: int) -> str:
    """Interval and p, and whether they are adjusted for the number of tests."""
    several = num_tests > 1 or found["p_adjusted"] is None
    words = []
    if found["low"] is not None:
        unadjusted = ", unadjusted," if several else ""
        interval = f"{signed(found['low'])} to {signed(found['high'])}"
        words.append(f"{100 * (1 - alpha):g} % interval{unadjusted} {interval}")
    if found["p_adjusted"] is None:
        words.append(f"{probability(found['p'])}, unadjusted: this pair is not among those tested above")
    elif several:
        words.append(f"{probability(found['p_adjusted'])} after Holm over {num_tests} tests")
    else:
        words.append(probability(found["p"]))
    return "; ".join(words)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _plain(value: Any) -> str:
    return f"{value:g}" if is_number(value) else str(value)
