"""Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels", Journal of Artificial Intelligence Research 70, arXiv 1911.00068).

The formulas are written from the paper. The authors' own package, cleanlab, is under the AGPL and so cannot be a
dependency of this project. Scores must be held out: of a model that did not learn from the labels it judges.

With s the given label of a text, y* the true one, X the texts, X_(s=i) those labelled i, p(j; x) the score of class j:

    threshold        t_j = mean of p(j; x) over X_(s=j)                                                  (section 3.1)
    confident joint  C_ij = number of x in X_(s=i) with p(j; x) >= t_j and j = argmax of p(l; x) over all l with
                     p(l; x) >= t_l                                                                      (section 3.1)
    estimated joint  Q_ij = (C_ij / sum over j of C_ij) |X_(s=i)|, over its sum                          (section 3.1)
    errors           the texts off the diagonal of C, where i is not j                                   (section 3.2)

Torch is never imported here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelErrors:
    """What is probably wrong among the labels of some texts.

    Attributes:
        thresholds: t_j (classes,) float64; NaN for a class that no text has.
        confident_joint: C_ij (classes, classes) int64, given labels by rows.
        joint: Q_ij (classes, classes) float64, summing to 1: the estimated share of texts that are labelled i and
            truly are j.
        rows: of the texts whose labels are probably wrong, (errors,) int64, the least doubtful first: sorted by
            p(given; x) - p(suggested; x).
        suggested: the class that each of them probably has, (errors,) int64.
    """

    thresholds: np.ndarray
    confident_joint: np.ndarray
    joint: np.ndarray
    rows: np.ndarray
    suggested: np.ndarray

    @property
    def estimated_share(self) -> float:
        """The estimated share of all texts whose label is wrong: the sum of Q off its diagonal."""
        return float(self.joint.sum() - np.trace(self.joint))


def find_label_errors(label_ids: np.ndarray, probabilities: np.ndarray) -> LabelErrors:
    """The labels that are probably wrong.

    Of any number of labels a text, ask of each label on its own, with the classes "has it not" and "has it".

    Args:
        label_ids: the given classes, integers (texts,).
        probabilities: held-out scores (texts, classes).

    Raises:
        ValueError: arrays that do not fit together, or a class that is none.
    """
    label_ids, probabilities = np.asarray(label_ids), np.asarray(probabilities, np.float64)
    if label_ids.ndim != 1 or probabilities.ndim != 2 or len(label_ids) != len(probabilities):
        raise ValueError(
            f"label_ids must be (texts,) and probabilities (texts, classes). Got {label_ids.shape} and "
            f"{probabilities.shape}."
        )
    num_classes = probabilities.shape[1]
    if len(label_ids) and not (label_ids.min() >= 0 and label_ids.max() < num_classes):
        raise ValueError(f"label_ids must be in 0 to {num_classes - 1}.")
    counts = np.bincount(label_ids, minlength=num_classes)
    thresholds = class_thresholds(label_ids, probabilities)
    # A text that is confident of no class is counted nowhere; NaN, of a class without texts, compares as False.
    confident = probabilities >= thresholds
    likely = np.where(confident, probabilities, -1.0).argmax(axis=1)
    counted = confident.any(axis=1)
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (label_ids[counted], likely[counted]), 1)
    rows = np.flatnonzero(counted & (likely != label_ids))
    margins = probabilities[rows, label_ids[rows]] - probabilities[rows, likely[rows]]
    rows = rows[np.argsort(margins, kind="stable")]
    return LabelErrors(thresholds, joint, estimated_joint(joint, counts), rows, likely[rows])


def class_thresholds(label_ids: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """t_j (classes,): the mean score of a class over the texts that are labelled so; NaN if there are none."""
    counts = np.bincount(label_ids, minlength=probabilities.shape[1])
    own = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0]
    sums = np.bincount(label_ids, own, minlength=probabilities.shape[1])
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def estimated_joint(confident_joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Q (classes, classes): each row of C scaled to the number of texts of that label, the whole to a sum of 1.

    The label of a class of which no text was counted is taken to be right.

    Args:
        confident_joint: C (classes, classes).
        counts: texts of each given label (classes,).
    """
    sums = confident_joint.sum(axis=1, keepdims=True)
    shares = np.divide(confident_joint, sums, out=np.eye(len(counts)), where=sums > 0)
    joint = shares * counts[:, None]
    return joint / max(joint.sum(), 1)
