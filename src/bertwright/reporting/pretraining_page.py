"""The page of a run that learnt from texts without labels: what differs from a classifier's."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from bertwright.progress import duration
from bertwright.reporting.material import Material, number_in
from bertwright.reporting.page import Tile
from bertwright.reporting.svg import Plot
from bertwright.reporting.training_plots import draw_series
from bertwright.reporting.words import counted, decimals, percent, size_words

ACT = "pretrain"


def summary(material: Material) -> tuple[str, ...]:
    """What was learnt from, and how well it guesses."""
    run = material.run
    if not run.finished:
        return (f"This run has not finished: {run.state}. What is known of it so far stands below.",)
    result = run.result or {}
    tokens, seconds = number_in(result, "data", "tokens_learnt_from"), number_in(result, "seconds", "train")
    read = "This model read texts without labels and learnt to guess hidden words"
    if tokens is not None and seconds is not None:
        read += f": from {counted(int(tokens), 'token')} in {duration(seconds)}"
    sentences = [f"{read}."]
    accuracy = number_in(material.metrics, "masked_accuracy")
    if accuracy is None:
        sentences.append("No documents were held out, so nobody knows how well it guesses.")
    else:
        perplexity = number_in(material.metrics, "perplexity")
        unsure = "" if perplexity is None else f", and is as unsure as if it had to pick one of {perplexity:,.0f} words"
        sentences.append(f"In documents held out it guesses {percent(accuracy)} of the hidden words right{unsure}.")
    sentences.append("It is no classifier yet: bertwright train makes one of it, with --model and this run's folder.")
    return tuple(sentences)


def cautions(material: Material) -> tuple[str, ...]:
    """What makes the figures say less than they seem to."""
    found = list(material.problems)
    held_out = number_in(material.run.result or {}, "data", "validation_sequences")
    if held_out is not None and held_out < 100:
        found.append(f"{counted(int(held_out), 'sequence')} held out: few to judge by.")
    return tuple(found)


def tiles(material: Material) -> tuple[Tile, ...]:
    """The headline figures."""
    result = material.run.result or {}
    found = []
    for name, words, show in (
        ("masked_accuracy", "Hidden words guessed", percent),
        ("perplexity", "Perplexity", lambda value: f"{value:,.1f}"),
    ):
        value = number_in(material.metrics, name)
        if value is not None:
            found.append(Tile(words, show(value), "lower is better" if name == "perplexity" else "held-out documents"))
    seconds, rate = number_in(result, "seconds", "train"), number_in(result, "rates", "train_tokens_per_s")
    if seconds is not None:
        found.append(Tile("Training", duration(seconds), "" if rate is None else f"{rate:,.0f} tokens a second"))
    memory = number_in(result, "memory", "peak_process_bytes")
    if memory is not None:
        found.append(Tile("Memory", size_words(memory)))
    usd = number_in(result, "cost", "usd")
    if usd is not None:
        found.append(Tile("Cost", f"${usd:,.4f}" if usd < 1 else f"${usd:,.2f}", "of the whole run"))
    return tuple(found)


def accuracy_plot(material: Material) -> Plot | None:
    """The share of hidden words that are guessed, in documents held out, over time; None of fewer than two looks."""
    points = [
        (seconds, value)
        for line in material.run.history
        if (value := number_in(line, "validation", "masked_accuracy")) is not None
        and (seconds := _seconds(line)) is not None
    ]
    if len(points) < 2:
        return None
    divisor, unit = (60.0, "minutes") if points[-1][0] >= 300 else (1.0, "seconds")
    series = [("held out", [(seconds / divisor, value) for seconds, value in points])]
    return Plot(
        "masked-accuracy",
        "Hidden words guessed",
        f"The share of the hidden words that are guessed right in documents held out, over the time of training: from "
        f"{decimals(points[0][1])} to {decimals(points[-1][1])} after {duration(points[-1][0])}.",
        functools.partial(draw_series, series=series, best=None, across=f"{unit} of training", up="masked accuracy"),
    )


def _seconds(line: Mapping[str, object]) -> float | None:
    found = number_in(line, "train_s")
    return found if found is not None else number_in(line, "elapsed_s")
