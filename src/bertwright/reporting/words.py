"""Numbers as a person reads them."""

from __future__ import annotations

from bertwright.evaluation.metrics import ALL_METRIC_NAMES

_METRIC_WORDS = {
    "roc_auc": "ROC AUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "log_loss": "log loss",
    "soft_log_loss": "soft log loss",
    "brier": "Brier score",
    "matthews": "Matthews correlation",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "root_mean_squared_error": "root mean squared error",
}
_SHARES = (
    "accuracy", "precision", "recall", "micro_precision", "micro_recall", "macro_precision", "macro_recall",
)  # fmt: skip


def metric_words(name: str) -> str:
    """A metric's name as it is written."""
    return _METRIC_WORDS.get(name, name.replace("_", " "))


def metric_order(name: str) -> int:
    """The place of a metric among all; the unknown last."""
    return ALL_METRIC_NAMES.index(name) if name in ALL_METRIC_NAMES else len(ALL_METRIC_NAMES)


def is_share(name: str) -> bool:
    """Whether a metric is a share of texts, which is read as percents."""
    return name in _SHARES


def percent(share: float) -> str:
    """0.9412 as "94.1 %"; what is nearly nothing or all keeps the digits that tell."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return f"{100 * share:.2f}\u00a0%"
    return f"{100 * share:.1f}\u00a0%"


def decimals(value: float | None) -> str:
    """Four decimals, or as many digits as tell of a small or large number; "–" where there is none."""
    if value is None:
        return "–"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.4f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def interval_words(estimate: float, low: float, high: float) -> str:
    """ "0.968 (0.961 to 0.974)"."""
    return f"{estimate:.3f} ({low:.3f} to {high:.3f})"


def size_words(num_bytes: float) -> str:
    """Bytes as "512 MiB" or "3.2 GiB"."""
    if num_bytes < 1 << 30:
        return f"{num_bytes / 2**20:,.0f} MiB"
    return f"{num_bytes / 2**30:,.1f} GiB"


def counted(number: int, one: str, many: str | None = None) -> str:
    """ "1 text", "2 texts"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
