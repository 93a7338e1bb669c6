"""Unintended bias: how a classifier ranks texts that speak of a group, against the others.

The three AUCs of Borkan, Dixon, Sorensen, Thain and Vasserman (2019), "Nuanced Metrics for Measuring Unintended Bias
with Real Data for Text Classification" (arXiv 1903.04561, section 3), and the final metric of the competition "Jigsaw
Unintended Bias in Toxicity Classification" (2019). With D_g the texts of a group, D those of the background (all
others), + the positive and - the negative ones:

    subgroup AUC   AUC(D_g-, D_g+)   low: within the group, positive and negative texts are not told apart
    BPSN AUC       AUC(D_g-, D+)     low: negative texts of the group score above positive ones of the background, so
                                     that harmless texts of the group are taken for positive ones
    BNSP AUC       AUC(D-, D_g+)     low: positive texts of the group score below negative ones of the background, so
                                     that they are missed
    M_p            ((1 / N) sum over groups of AUC^p)^(1/p), with p = -5: the worst groups count most
    final          0.25 AUC of all texts + 0.25 M_p of each of the three

Torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertwright.evaluation.few_texts import FEWEST_OF_A_KIND
from bertwright.evaluation.significance import auc_interval, delong

POWER = -5.0
OVERALL_WEIGHT = 0.25
AUCS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")


def roc_auc(negative: np.ndarray, positive: np.ndarray) -> float | None:
    """The share of pairs of a negative and a positive text that their scores put in order, half a pair for a tie
    (Hanley and McNeil 1982); None where there is no pair.

    Args:
        negative, positive: scores, (texts,) each.
    """
    if not len(negative) or not len(positive):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left").sum(dtype=np.float64)
    not_above = np.searchsorted(ordered, positive, side="right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / (len(negative) * len(positive)))


def power_mean(values: Sequence[float], power: float = POWER) -> float | None:
    """((1 / N) sum of value^power)^(1 / power) for ``power`` below 0; 0 if one of them is; None if there are none."""
    if power >= 0:
        raise ValueError(f"power must be below 0. Got {power}.")
    if not values:
        return None
    if min(values) <= 0:
        return 0.0
    return float(np.mean(np.asarray(values) ** power) ** (1 / power))


def bias_of(
    positive: np.ndarray,
    scores: np.ndarray,
    groups: Mapping[str, np.ndarray],
    label: str,
    least_texts: int = 1,
) -> dict[str, Any]:
    """The record of a classifier's bias, as plain values that JSON can hold.

    Keys: ``label``; ``power``; ``overall_auc``; ``subgroup_auc``, ``bpsn_auc`` and ``bnsp_auc``, the generalised means
    over the groups that have the AUC; ``final``, None where one of the four is; ``groups``, worst first, by the lowest
    of the three AUCs: ``group``, ``texts``, ``positive_texts``, the three AUCs, None where there is no pair of texts to
    put in order, and ``<auc>_interval``, the 95 % interval where it is known, else None; ``notes``, what has no answer,
    in words.

    Args:
        positive: which texts are positive, bool (texts,).
        scores: float64 (texts,).
        groups: by name, which texts are of the group, bool (texts,).
        label: the name of what the scores are of.
        least_texts: groups of fewer texts are named in ``notes`` only, and count for nothing.

    Raises:
        ValueError: arrays that do not fit together, or scores that are not finite.
    """
    positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
    if positive.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(f"positive and scores must be (texts,). Got {positive.shape} and {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite.")
    found: list[dict[str, Any]] = []
    few: list[str] = []
    for name, members in groups.items():
        members = np.asarray(members, bool)
        if members.shape != positive.shape:
            raise ValueError(f"group {name}: must be {positive.shape}. Got {members.shape}.")
        if members.sum() < least_texts:
            few.append(f"{name} ({members.sum():,})")
        else:
            found.append(_group(name, positive, scores, members))
    found.sort(key=lambda group: (group["worst"] is None, group["worst"] or 0.0, group["group"]))
    overall = roc_auc(scores[~positive], scores[positive])
    means = {name: power_mean([group[name] for group in found if group[name] is not None]) for name in AUCS}
    parts = [overall, *means.values()]
    known = [part for part in parts if part is not None]
    rest = (1 - OVERALL_WEIGHT) / len(AUCS)
    final = OVERALL_WEIGHT * known[0] + rest * sum(known[1:]) if len(known) == len(parts) else None
    notes = [note for group in found if (note := _note(group)) is not None]
    if few:
        notes.append(f"groups of fewer than {least_texts:,} texts, not judged: {', '.join(few)}")
    for group in found:
        del group["worst"]
    return {
        "label": label,
        "power": POWER,
        "overall_auc": overall,
        **means,
        "final": final,
        "groups": found,
        "notes": notes,
    }


def _group(name: str, positive: np.ndarray, scores: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """The three AUCs of a group; ``worst`` is the lowest of them."""
    of_group = scores[members & ~positive], scores[members & positive]
    others = scores[~members & ~positive], scores[~members & positive]
    pairs = {
        "subgroup_auc": of_group,
        "bpsn_auc": (of_group[0], others[1]),
        "bnsp_auc": (others[0], of_group[1]),
    }
    record: dict[str, Any] = {"group": name, "texts": int(members.sum()), "positive_texts": len(of_group[1])}
    for which, (negative, positive_scores) in pairs.items():
        record[which] = roc_auc(negative, positive_scores)
        record[f"{which}_interval"] = _interval(negative, positive_scores)
    known = [record[which] for which in AUCS if record[which] is not None]
    return {**record, "worst": min(known, default=None)}


def _interval(negative: np.ndarray, positive: np.ndarray) -> list[float] | None:
    """The 95 % interval of an AUC by DeLong, DeLong and Clarke-Pearson (1988); None where there is none."""
    if min(len(negative), len(positive)) < FEWEST_OF_A_KIND:
        return None
    is_positive = np.repeat([False, True], [len(negative), len(positive)])
    areas = delong(is_positive, np.concatenate([negative, positive])[None])
    found = auc_interval(
        float(areas.values[0]),
        float(areas.covariance[0, 0]),
        len(positive),
        len(negative),
        degrees_of_freedom=float(areas.degrees_of_freedom[0]),
    )
    return None if found is None else list(found)


def _note(group: Mapping[str, Any]) -> str | None:
    """What has no answer for a group, and why."""
    texts, positives = group["texts"], group["positive_texts"]
    if not texts:
        return f"{group['group']}: no text is of this group"
    if positives == texts:
        return f"{group['group']}: all {texts:,} texts are positive, so that there is no subgroup AUC and no BPSN AUC"
    if not positives:
        return (
            f"{group['group']}: none of {texts:,} texts is positive, so that there is no subgroup AUC and no BNSP AUC"
        )
    if any(group[which] is None for which in AUCS):
        return f"{group['group']}: the other texts are all positive or all negative, or there are none"
    without = [which for which in AUCS if group[f"{which}_interval"] is None]
    if without:
        named = ", ".join(without)
        return (
            f"{group['group']}: no interval of {named}: fewer than {FEWEST_OF_A_KIND} positive or negative texts, or "
            "scores that are all alike"
        )
    return None
