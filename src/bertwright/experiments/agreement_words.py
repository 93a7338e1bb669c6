"""The verdict on runs of one seed, in plain words: from where on they are not the same, and what can be the cause."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bertwright.experiments.agreement_record import ROUNDING, Difference, Pair, StepsCompared
from bertwright.runs import Run


def agreeing(pair: Pair) -> str:
    though = ["they start from other weights"] if pair.weights else []
    if pair.settings:
        though.append(f"settings differ: {_named(pair.settings)}")
    words = f"These runs agree to four decimals{', though ' + ', and '.join(though) if though else ''}."
    if pair.steps is not None:
        n = min(pair.steps.num_steps)
        if pair.steps.any_difference is None:
            words += f" Their losses are the same bit for bit at all {n:,} steps"
            words += ", and so are the kept weights." if pair.kept_weights_equal else "."
        else:
            words += f" Their losses differ from step {pair.steps.any_difference:,} on, by at most {share(pair.steps)}"
            words += " of themselves."
    return words


def share(found: StepsCompared) -> str:
    return f"{found.largest:.1e}" if found.largest else "0"


def where_they_part(pair: Pair, first: Run, other: Run) -> str:
    """One sentence: from where on the runs are not the same."""
    if not first.is_training or not other.is_training:
        return "They do not agree to four decimals."
    if pair.weights:
        return "They part before the first step: they start from other weights."
    found = pair.steps
    if found is None:
        return _where_by_history(first, other)
    step = found.parting
    if step is None:
        fewer, more = sorted(found.num_steps)
        if fewer != more:
            return f"They part after step {fewer:,}: one run ended there, the other took {more:,} steps."
        if first.result and other.result and first.result.get("best_step") != other.result.get("best_step"):
            return "They part after the last step: all losses are the same bit for bit, but another step was kept."
        return "They part after the last step: all losses are the same bit for bit, but not what was judged."
    if step == found.other_rows:
        return f"They part at step {step:,}: its batch holds other texts of the data, or in another order."
    if step == found.other_texts:
        return f"They part at step {step:,}: its batch is the first to hold a text with other words."
    if step == found.beyond_rounding:
        return f"They part at step {step:,}: its loss is the first to differ by more than {ROUNDING:g} of itself."
    if step == found.other_rate:
        return f"They part at step {step:,}: it has another learning rate."
    return (
        f"They part at step {step:,}: its loss is the first to differ in any bit; none differs by more than "
        f"{ROUNDING:g} of itself."
    )


def _where_by_history(first: Run, other: Run) -> str:
    """Without a trace: by the mean losses between evaluations."""
    before = 0
    for one, two in zip(first.history, other.history, strict=False):
        if one["step"] != two["step"]:
            return f"They part after step {before:,}: one was judged next at step {one['step']:,}, the other was not."
        if not _relative(one["train_loss"], two["train_loss"]) <= ROUNDING:
            return f"They part between steps {before + 1:,} and {one['step']:,}, by the mean losses of history.jsonl."
        before = one["step"]
    return "They do not agree to four decimals."


def _relative(one: Any, two: Any) -> float:
    if not isinstance(one, int | float) or not isinstance(two, int | float):
        return math.inf
    return abs(one - two) / max(abs(one), abs(two), 1e-300)


def why_they_part(pair: Pair, run: Run) -> str:
    """One or two sentences: what differs that comes before, or else the machines."""
    words = []
    if pair.settings:
        words.append(f"Settings differ: {_named(pair.settings)}.")
    causes = [difference for difference in pair.data if not difference.effect]
    if causes:
        words.append(f"The data differ: {', '.join(difference.what for difference in causes)}.")
    if words:
        return " ".join(words)
    if pair.weights:
        return "The settings and the texts are the same: compare the two models' files."
    if pair.steps is None and run.is_training:
        start = "The settings and the files are the same"
    elif run.is_training:
        start = "Settings, texts, first weights and order are the same"
    else:
        start = "The settings and the files are the same"
    rounding = [difference for difference in pair.machine if difference.what not in ("commit", "system")]
    if rounding:
        return f"{start}; the machines differ: {_named(rounding)}."
    if "gpu" in run.environment:
        return f"{start}, and so are the machines: GPU kernels may add in another order each time."
    return f"{start}, and so is all that is known of the machines."


def _named(differences: Sequence[Difference]) -> str:
    return ", ".join(f"{d.what} ({short(d.first)} and {short(d.other)})" for d in differences)


def short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
