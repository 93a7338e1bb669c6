"""A run in sentences: what it is, how good, and what to keep in mind."""

from __future__ import annotations

from typing import Any

from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.experiments.sweep_record import SIDE_BY_SIDE
from bertwright.progress import duration
from bertwright.reporting.intervals import Intervals, few_texts_notes
from bertwright.reporting.material import Material, number_in, object_in
from bertwright.reporting.page import Tile
from bertwright.reporting.quality_plots import confusion_of
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import counted, decimals, is_share, listed, metric_words, percent, size_words

_FEW_TEXTS = 200
_MUCH_CUT, _FAR_APART = 0.05, 0.05
_TILES = {
    "classes": ("roc_auc", "accuracy", "f1", "log_loss"),
    "soft": ("roc_auc", "accuracy", "soft_log_loss", "brier"),
    "multi-label": ("roc_auc", "micro_f1", "macro_f1", "accuracy"),
    "regression": ("mean_absolute_error", "root_mean_squared_error", "r2", "spearman"),
}
_MOST_NAMED = 6
_ACTS = {"train": "Training", "distill": "Distillation", "pretrain": "Pretraining", "evaluate": "Evaluation"}


def title_of(material: Material) -> str:
    """The run's name."""
    return material.run.path.absolute().name


def subtitle_of(material: Material) -> str:
    run = material.run
    what = {"train": "Training", "distill": "Distillation", "pretrain": "Pretraining", "evaluate": "Evaluation"}.get(
        run.act, run.act
    )
    model = str(run.settings.get("model") or run.settings.get("run") or "")
    return " · ".join(part for part in (what, model, run.started.replace("T", " ")[:16]) if part)


def summary_of(material: Material, intervals: Intervals) -> tuple[str, ...]:
    """A few sentences, the most important first."""
    run = material.run
    if not run.finished:
        return (f"This run has not finished: {run.state}. What is known of it so far stands below.",)
    sentences = []
    if material.split is None:
        sentences.append("This classifier was judged on no held-out texts, so nobody knows how good it is.")
    else:
        sentences.append(_quality(material, intervals))
        ranking = _ranking(material, intervals)
        if ranking:
            sentences.append(ranking)
    sentences.append(_training(material))
    return tuple(sentence for sentence in sentences if sentence)


def _quality(material: Material, intervals: Intervals) -> str:
    metrics, split = material.metrics, material.split
    num = int(number_in(metrics, "num_texts") or 0)
    on = f"On {counted(num, f'{split} text')}"
    if material.kind == "regression":
        error = number_in(metrics, "mean_absolute_error")
        label = _name(material.labels[0])
        if error is None:
            return f"This model predicts {label}; it was judged on no texts."
        r2 = number_in(metrics, "r2")
        explained = (
            ""
            if r2 is None
            else f", and it explains {percent(r2)} of their variance"
            if r2 > 0
            else (", no better than always saying their mean")
        )
        between = _between("mean_absolute_error", intervals)
        return f"This model predicts {label}. {on} it is off by {decimals(error)}{between} on average{explained}."
    accuracy = number_in(metrics, "accuracy")
    if accuracy is None:
        return f"This classifier {_task(material)}. It was judged on no texts."
    between = _between("accuracy", intervals)
    if material.kind == "multi-label":
        return (
            f"This classifier {_task(material)}. {on} it gets every label right for "
            f"{percent(accuracy)}{between} of them."
        )
    base = _always_the_same(material)
    return f"This classifier {_task(material)}. {on} it is right for {percent(accuracy)}{between}{base}."


def _task(material: Material) -> str:
    labels = [_name(label) for label in material.labels]
    if material.kind == "multi-label":
        shown = labels[:_MOST_NAMED]
        more = "" if len(labels) == len(shown) else f" and {len(labels) - len(shown)} more"
        return f"tells which of {counted(len(labels), 'label')} a text has ({', '.join(shown)}{more})"
    if len(labels) == 2:
        return f"tells {labels[1]} from {labels[0]}"
    if len(labels) <= _MOST_NAMED:
        return f"sorts texts into {len(labels)} classes: {listed(labels)}"
    return f"sorts texts into {len(labels):,} classes"


def _name(label: str) -> str:
    return f"“{in_one_line(label, 40)}”"


def _between(name: str, intervals: Intervals) -> str:
    if name not in intervals:
        return ""
    show = percent if is_share(name) else decimals
    low, high = intervals[name]
    return f" ({show(low)} to {show(high)})"


def _always_the_same(material: Material) -> str:
    """What always naming the commonest class would get right."""
    per_class = object_in(material.metrics, "per_class")
    counts = {label: number_in(per_class, label, "support") or 0 for label in material.labels}
    total = sum(counts.values())
    if not total:
        return ""
    most = max(counts, key=lambda label: counts[label])
    return f"; always saying {_name(most)} would be right for {percent(counts[most] / total)}"


def _ranking(material: Material, intervals: Intervals) -> str:
    """The positive class in natural numbers, and the ROC AUC."""
    metrics, labels = material.metrics, material.labels
    sentences = []
    auc = number_in(metrics, "roc_auc")
    confusion = confusion_of(material) if len(labels) == 2 and material.kind in ("classes", "soft") else None
    if confusion is not None:
        positive = _name(labels[1])
        called, true, both = int(confusion[:, 1].sum()), int(confusion[1].sum()), int(confusion[1, 1])
        if called and true:
            sentences.append(
                f"Of {called:,} that it calls {positive}, {both:,} are ({percent(both / called)}), and it finds "
                f"{percent(both / true)} of the {true:,} that are."
            )
        if auc is not None:
            between = _between("roc_auc", intervals)
            sentences.append(
                f"A {positive} text gets a higher score than a {_name(labels[0])} one in {percent(auc)} of pairs "
                f"(ROC AUC {decimals(auc)}{between.replace(' (', ', ').replace(')', '')})."
            )
    elif material.kind in ("classes", "soft"):
        worst = _worst_class(material)
        if worst:
            sentences.append(worst)
    elif material.kind == "multi-label" and auc is not None:
        sentences.append(
            f"On average over the labels, a text that has one is ranked above one that has not in "
            f"{percent(auc)} of pairs (ROC AUC {decimals(auc)})."
        )
    return " ".join(sentences)


def _worst_class(material: Material) -> str:
    per_class = object_in(material.metrics, "per_class")
    found = [
        (value, label) for label in material.labels if (value := number_in(per_class, label, "recall")) is not None
    ]
    if not found:
        return ""
    low, high = min(found), max(found)
    return (
        f"It knows {_name(high[1])} best, finding {percent(high[0])} of such texts, and {_name(low[1])} worst "
        f"({percent(low[0])})."
    )


def _taught(material: Material) -> str:
    """Of a student, who taught it, in words."""
    teacher = material.run.settings.get("teacher")
    if not isinstance(teacher, str):
        return ""
    more = number_in(material.run.result or {}, "data", "unlabelled_texts")
    others = f" and of {counted(int(more), 'other')}" if more else ""
    return f", and from what {teacher} says of them{others},"


def _training(material: Material) -> str:
    result, settings = material.run.result or {}, material.run.settings
    if not material.run.is_training:
        judged = settings.get("run")
        return f"It is the classifier of {judged}, judged on other texts." if judged else ""
    num, steps = number_in(result, "data", "train_texts"), number_in(result, "steps")
    seconds = number_in(result, "seconds", "train")
    if num is None or steps is None or seconds is None:
        return ""
    learnt = f"{counted(int(num), 'text')}{_taught(material)}"
    words = f"It learned from {learnt} in {counted(int(steps), 'step')}, which took {duration(seconds)}"
    device = material.run.environment.get("gpu") or material.run.environment.get("cpu")
    if isinstance(device, str) and device:
        words += f" on {device}"
    memory = number_in(result, "memory", "peak_process_bytes")
    if memory is not None:
        words += f" and at most {size_words(memory)} of memory"
    usd = number_in(result, "cost", "usd")
    return words + ("." if usd is None else f". The whole run cost {usd:,.4f} USD.")


def tiles_of(material: Material, intervals: Intervals) -> tuple[Tile, ...]:
    """The headline figures."""
    tiles = []
    for name in _TILES[material.kind]:
        value = number_in(material.metrics, name)
        if value is None:
            continue
        show = percent if is_share(name) else decimals
        note = f"{show(intervals[name][0])} to {show(intervals[name][1])}" if name in intervals else ""
        if name in LOWER_IS_BETTER:
            note = f"{note}; lower is better" if note else "lower is better"
        words = metric_words(name)
        tiles.append(Tile(words[0].upper() + words[1:], show(value), note))
    result = material.run.result or {}
    train = number_in(result, "seconds", "train")
    if train is not None:
        rate = number_in(result, "rates", "train_texts_per_s")
        tiles.append(Tile("Training", duration(train), "" if rate is None else f"{rate:,.0f} texts a second"))
    infer = number_in(result, "rates", "infer_texts_per_s")
    if infer is not None:
        tiles.append(Tile("Scoring", f"{infer:,.0f} texts/s"))
    memory = number_in(result, "memory", "peak_process_bytes")
    gpu = number_in(result, "memory", "peak_gpu_bytes")
    if memory is not None:
        tiles.append(Tile("Memory", size_words(memory), "" if gpu is None else f"GPU {size_words(gpu)}"))
    usd, num = number_in(result, "cost", "usd"), number_in(material.metrics, "num_texts")
    if usd is not None:
        tiles.append(Tile("Cost", f"${usd:,.4f}" if usd < 1 else f"${usd:,.2f}", "of the whole run"))
    elif num is not None:
        tiles.append(Tile("Judged on", f"{num:,.0f}", f"{material.split} texts"))
    return tuple(tiles)


def cautions_of(material: Material, intervals: Intervals) -> tuple[str, ...]:
    """What makes the figures say less than they seem to."""
    run, result = material.run, material.run.result or {}
    found: list[str] = list(material.problems)
    shared = number_in(result, "data", "shared_texts")
    if shared:
        found.append(
            f"{counted(int(shared), 'held-out text')} also stand{'s' if shared == 1 else ''} among the training texts: "
            "the figures are too good."
        )
    if material.split == "validation" and run.is_training:
        found.append(
            "There were no test texts. The validation texts also chose which state was kept, so their figures are a "
            "little too good."
        )
    num = number_in(material.metrics, "num_texts")
    if num is not None and num < _FEW_TEXTS:
        found.append(f"{counted(int(num), 'text')} are few to judge by: see how wide the intervals are.")
    found += few_texts_notes(material)
    cut = number_in(result, "data", "truncated_share")
    if cut is not None and cut > _MUCH_CUT:
        found.append(f"{percent(cut)} of the texts are longer than was read of them (--max-length).")
    found += _overfitting(material, intervals)
    found += _never(material)
    beside = number_in(result, "side_by_side", "trials")
    if beside is not None and beside >= SIDE_BY_SIDE:
        found.append(
            f"It was a trial of a sweep, and about {max(2, round(beside))} trials went side by side: alone it may be "
            "faster."
        )
    bad = number_in(result, "data", "bad_rows")
    if bad:
        found.append(f"{counted(int(bad), 'row')} could not be used and {'was' if bad == 1 else 'were'} skipped.")
    if material.predictions is None and run.finished and material.split:
        found.append("There is no predictions.parquet: curves, calibration and mistakes cannot be shown.")
    return tuple(found)


def _never(material: Material) -> list[str]:
    """Labels that are never decided for, where that hides behind a good accuracy."""
    predictions = material.predictions
    if predictions is None:
        return []
    if predictions.decided is not None:
        never = [label for i, label in enumerate(material.labels) if not predictions.decided[:, i].any()]
    elif predictions.predicted_ids is not None:
        called = set(predictions.predicted_ids.tolist())
        never = [label for i, label in enumerate(material.labels) if i not in called]
    else:
        return []
    if not never:
        return []
    if len(never) == len(material.labels):
        return [
            "It decides for no label, whatever the text: it is right by being silent. Train longer, or lower the "
            "threshold."
        ]
    names = listed([_name(label) for label in never[:_MOST_NAMED]])
    more = "" if len(never) <= _MOST_NAMED else f" and {len(never) - _MOST_NAMED} more"
    return [f"It never decides for {names}{more}."]


def _overfitting(material: Material, intervals: Intervals) -> list[str]:
    name = "r2" if material.kind == "regression" else "accuracy"
    train, held = number_in(material.run.metrics, "train", name), number_in(material.metrics, name)
    if (
        train is None
        or held is None
        or not material.run.is_training
        or train - held < _FAR_APART
        or train < intervals.get(name, (0, held))[1]
    ):
        return []
    what: Any = metric_words(name)
    show = percent if is_share(name) else decimals
    return [
        f"On its training texts it is much better ({what} {show(train)} against {show(held)}): it has learned some by "
        "heart."
    ]
