"""Whether intervals cover what they should and tests reject what they should, by simulation where the truth is known.

    python benchmarks/simulate_intervals.py --output benchmarks/results/ [--simulations 4000] [--table]

A simulation draws texts and the scores of several models for them, and does what ``bertwright compare`` does. Models
are of equal quality but for the last, so that there are true differences and none: it counts how often the interval of
the first model covers the value on infinitely many texts (and seeds), how often that of its difference to the last one
covers the true one, how often the first two are told apart, which is an error, and how often Holm's method finds any
difference among all equal ones, which is one, too. One JSON line for each case; with an output that is there already,
the cases in it are not done again. ``--table`` prints what is there as Markdown.

The truth comes from 8 million texts (with seeds, 2 million for each of 7 qualities). Scores are logits of normal scores
with a part common to all models, a part of the setting and a part of the run, too sure of themselves by half; with
seeds, a run's quality is itself random.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from bertwright.config.parts import LabelKind
from bertwright.evaluation.metrics import METRIC_NAMES, decide, decide_each
from bertwright.evaluation.resampling import Judged, point_metrics
from bertwright.evaluation.significance import holm
from bertwright.evaluation.uncertainty import difference, mean_interval, measure, p_value

_TRUTH_TEXTS, _TRUTH_PARTS = 1_000_000, 8
# Shares of the variance of a score: common to all models, of the setting, of the run.
_COMMON, _SETTING = 0.6, 0.2
_OWN = 1 - _COMMON - _SETTING
_SURE = 1.5


@dataclass(frozen=True)
class Case:
    """What is simulated: ``quality`` of the equal settings and of the last one, in standard deviations of a score.

    ``seed_spread``: the standard deviation of a run's quality between seeds; ``num_seeds``: runs of each setting.
    ``rare_share``: of more than two classes the share of the last one; the others, or if it is 0 all, are equally many.
    """

    kind: LabelKind = "classes"
    num_labels: int = 2
    positive_share: float = 0.1
    num_texts: int = 500
    num_seeds: int = 1
    seed_spread: float = 0.0
    quality: float = 2.5
    worse_quality: float = 2.2
    rare_share: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        if self.kind == "regression":
            return ("mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "r2", "pearson", "spearman")
        if self.kind == "multi-label":
            return ("accuracy", "micro_f1", "macro_f1", "roc_auc", "average_precision", "log_loss", "hamming_loss")
        if self.num_seeds > 1:
            return ("roc_auc", "accuracy", "f1", "average_precision", "log_loss")
        return METRIC_NAMES

    @property
    def num_equal(self) -> int:
        """Settings of equal quality, all of whose differences Holm's method is asked for."""
        return 4 if self.num_seeds == 1 else 3


CASES = (
    *(Case(positive_share=share, num_texts=n) for share in (0.1, 0.4) for n in (500, 2000)),
    *(Case(num_texts=n, num_seeds=3, seed_spread=spread) for spread in (0.05, 0.3) for n in (500, 2000)),
    *(Case(num_labels=5, num_texts=n) for n in (500, 2000)),
    *(Case(kind="regression", num_labels=1, num_texts=n, quality=1.0, worse_quality=0.9) for n in (500, 2000)),
    *(Case(kind="multi-label", num_labels=3, num_texts=n) for n in (500, 2000)),
    *(Case(positive_share=0.4, num_texts=n, num_seeds=k, seed_spread=0.3) for n in (500, 2000) for k in (2, 3, 5)),
    *(Case(num_labels=5, num_texts=500, rare_share=share) for share in (0.01, 0.02)),  # of 5 and of 10 texts
)


def draw(random: np.random.Generator, case: Case, num_texts: int, qualities: np.ndarray) -> Judged:
    """Texts with labels and the scores of settings x seeds models, whose ``qualities`` are (settings, seeds)."""
    num_settings, num_seeds = qualities.shape
    num_models = num_settings * num_seeds

    def noise(num_columns: int) -> np.ndarray:  # (models, texts, columns)
        common = random.standard_normal((1, 1, num_texts, num_columns), np.float32)
        setting = random.standard_normal((num_settings, 1, num_texts, num_columns), np.float32)
        own = random.standard_normal((num_settings, num_seeds, num_texts, num_columns), np.float32)
        mixed = _COMMON**0.5 * common + _SETTING**0.5 * setting + _OWN**0.5 * own
        return mixed.reshape(num_models, num_texts, num_columns).astype(np.float64)

    quality = qualities.reshape(-1)[:, None, None]
    if case.kind == "regression":
        true = random.standard_normal((num_texts, 1))
        return Judged("regression", ("number",), quality * true + noise(1), targets=true)
    if case.kind == "multi-label":
        has_label = random.random((num_texts, case.num_labels)) < case.positive_share
        logits = _SURE * (quality * (has_label - 0.5) + noise(case.num_labels) + _offset(case))
        scores = 1 / (1 + np.exp(-logits))
        names = tuple(f"label {i}" for i in range(case.num_labels))
        return Judged("multi-label", names, scores, decide_each(scores), targets=has_label * 1.0, has_label=has_label)
    if case.num_labels == 2:
        label_ids = (random.random(num_texts) < case.positive_share).astype(np.int64)
        logits = _SURE * (quality * (label_ids[:, None] - 0.5) + noise(1) + _offset(case))
        positive = 1 / (1 + np.exp(-logits))
        scores = np.concatenate([1 - positive, positive], axis=2)
        return Judged("classes", ("no", "yes"), scores, np.stack([decide(s) for s in scores]), label_ids=label_ids)
    label_ids = random.integers(0, case.num_labels - (case.rare_share > 0), num_texts)
    if case.rare_share:
        label_ids[random.random(num_texts) < case.rare_share] = case.num_labels - 1
    logits = _SURE * (quality * np.eye(case.num_labels)[label_ids] + noise(case.num_labels))
    scores = np.exp(logits - logits.max(axis=2, keepdims=True))
    scores /= scores.sum(axis=2, keepdims=True)
    names = tuple(f"class {i}" for i in range(case.num_labels))
    return Judged("classes", names, scores, scores.argmax(axis=2), label_ids=label_ids)


def _offset(case: Case) -> float:
    return float(np.log(case.positive_share / (1 - case.positive_share)) / case.quality)


def true_values(case: Case, num_texts: int = _TRUTH_TEXTS, num_parts: int = _TRUTH_PARTS) -> dict[str, list[float]]:
    """The metrics of an equal and of the worse setting on infinitely many texts, as the mean over all seeds.

    Cases that differ in their texts and seeds alone have the same, which is computed once.
    """
    same = replace(case, num_texts=0, num_seeds=min(case.num_seeds, 2))
    return {name: list(values) for name, values in _true_values(same, num_texts, num_parts).items()}


@functools.cache
def _true_values(case: Case, num_texts: int, num_parts: int) -> dict[str, list[float]]:
    random = np.random.default_rng(20_261_121)
    nodes, weights = np.polynomial.hermite_e.hermegauss(7) if case.seed_spread else (np.zeros(1), np.ones(1))
    weights = weights / weights.sum()
    parts = max(1, num_parts // 4) if case.seed_spread else num_parts
    one_seed = replace(case, num_seeds=1)
    found: dict[str, list[float]] = {name: [0.0, 0.0] for name in case.metrics}
    for place, quality in enumerate((case.quality, case.worse_quality)):
        for node, weight in zip(nodes, weights, strict=True):
            qualities = np.full((1, 1), quality + node * case.seed_spread)
            for _ in range(parts):
                points = point_metrics(draw(random, one_seed, num_texts, qualities), case.metrics)
                for name in case.metrics:
                    found[name][place] += weight * float(points[name][0, 0]) / parts
    return found


def simulate(
    case: Case, num_simulations: int, num_samples: int = 250, truth: dict[str, list[float]] | None = None
) -> dict[str, Any]:
    """Shares of simulations: ``coverage``, ``difference_coverage``, ``null_rejection``, ``family_wise_error``."""
    truth = truth or true_values(case)
    random = np.random.default_rng([case.num_texts, case.num_seeds, round(1000 * case.seed_spread)])
    settings = np.array([case.quality] * case.num_equal + [case.worse_quality])
    groups = [list(range(i * case.num_seeds, (i + 1) * case.num_seeds)) for i in range(len(settings))]
    pairs = [(i, j) for i in range(case.num_equal) for j in range(i + 1, case.num_equal)]
    counts = {name: np.zeros(5) for name in case.metrics}
    for simulation in range(num_simulations):
        spread = case.seed_spread * random.standard_normal((len(settings), case.num_seeds))
        judged = draw(random, case, case.num_texts, settings[:, None] + spread)
        for name, measured in measure(judged, case.metrics, num_samples, seed=simulation).items():
            interval = mean_interval(judged, measured, groups[0])
            if interval is None:
                continue
            value, worse = truth[name]
            apart = difference(judged, measured, groups[0], groups[-1])
            tests = [p_value(judged, measured, groups[i], groups[j]) for i, j in pairs]
            if apart is None or apart.low is None or apart.high is None:
                continue
            p_values = [p for p in tests if p is not None]
            any_found = min(p for p in holm(p_values) if p is not None) <= 0.05
            covered = interval[0] <= value <= interval[1]
            told = apart.low <= value - worse <= apart.high
            counts[name] += (covered, told, p_values[0] <= 0.05, any_found, 1)
    names = ("coverage", "difference_coverage", "null_rejection", "family_wise_error")
    shares = {what: {m: counts[m][i] / max(counts[m][4], 1) for m in case.metrics} for i, what in enumerate(names)}
    answered = {name: int(counts[name][4]) for name in case.metrics}
    return {"truth": truth, **shares, "num_answered": answered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--simulations", type=int, default=4_000)
    parser.add_argument("--resamples", type=int, default=250)
    parser.add_argument("--part", default="0/1", help="1/2: every second case, from the second on")
    parser.add_argument("--table", action="store_true", help="print what is there, each metric")
    parser.add_argument("--summary", action="store_true", help="print what is there, over all metrics")
    options = parser.parse_args()
    month = datetime.now(UTC).strftime("%Y%m")
    path = (
        options.output / f"intervals-numpy{np.__version__}-{month}.jsonl" if options.output.is_dir() else options.output
    )
    if options.table or options.summary:
        print(table(_lines(path), whole=options.table))
        return
    part, num_parts = map(int, options.part.split("/"))
    for case in CASES[part::num_parts]:
        if any(_case_of(line) == case for line in _lines(path)):
            continue
        started = time.perf_counter()
        # With several seeds there are three times as many models, and what seeds do outweighs the bootstrap's noise.
        num_resamples = options.resamples if case.num_seeds == 1 else options.resamples // 2
        found = simulate(case, options.simulations, num_resamples)
        line = {
            "case": "intervals",
            "simulated": asdict(case),
            "num_simulations": options.simulations,
            "num_resamples": num_resamples,
            **found,
            "seconds": round(time.perf_counter() - started, 1),
            "commit": _commit(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(table([line]), flush=True)


def _case_of(line: dict[str, Any]) -> Case:
    """What was simulated; a line of before a setting was there has what it is otherwise."""
    return Case(**line["simulated"])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


_SHARES = ("coverage", "difference_coverage", "null_rejection", "family_wise_error")
_HEADINGS = ("interval covers", "of a difference", "tells equals apart", "Holm, any pair")


def table(lines: Sequence[dict[str, Any]], whole: bool = True) -> str:
    """Lines as a Markdown table, shares in per cent: each metric or, if not ``whole``, the least and the greatest."""
    order = {case: place for place, case in enumerate(CASES)}
    headings = ("texts", "labels", "seeds", *(("metric",) if whole else ()), *_HEADINGS)
    rows = [headings, ("---",) * len(headings)]
    for line in sorted(lines, key=lambda line: order.get(_case_of(line), len(order))):
        case = _case_of(line)
        words = (f"{case.num_texts:,}", _labels(case), _seeds(case))
        if whole:
            rows += [(*words, name, *(f"{100 * line[key][name]:.1f}" for key in _SHARES)) for name in case.metrics]
        else:
            rows.append((*words, *(_range(line[key]) for key in _SHARES)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _range(shares: dict[str, float]) -> str:
    return f"{100 * min(shares.values()):.1f} to {100 * max(shares.values()):.1f}"


def _labels(case: Case) -> str:
    if case.kind == "regression":
        return "numbers"
    if case.kind == "multi-label":
        return f"{case.num_labels} labels, {case.positive_share:.0%} each"
    if case.num_labels > 2:
        return f"{case.num_labels} classes" + (f", {case.rare_share:.0%} of one" if case.rare_share else "")
    return f"2 classes, {case.positive_share:.0%} positive"


def _seeds(case: Case) -> str:
    return f"{case.num_seeds}, spread {case.seed_spread}" if case.num_seeds > 1 else "1"


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
