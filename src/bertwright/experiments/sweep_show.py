"""A sweep as a person reads it: its trials by value, mean and spread over seeds, what mattered. Torch is never imported
here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.metrics import ALL_METRIC_NAMES
from bertwright.experiments.sweep_record import DataGroup, Seeds, Sweep, Trial, shown_metrics, times_note
from bertwright.progress import Reporter, duration

if TYPE_CHECKING:
    from rich.table import Table

_MOST_SPREADS = 3
_MOST_NAMED = 6
_MOST_LETTERS = 10
# Of more columns a line has no room for whole words: better broken ones than columns that are cut off.
_MOST_WHOLE = 10
_STATES = {"finished": "", "pruned": "pruned", "running": "running", "stopped": "stopped", "waiting": "waiting"}


def show_sweep(sweep: Sweep, reporter: Reporter) -> None:
    """Print tables and the sentences that say what was chosen, and by what."""
    for group in sweep.groups:
        heading = f"Trials on {group.name}" if len(sweep.groups) > 1 else "Trials"
        reporter.show(_trials_table(group, heading))
        if group.seeds:
            reporter.show(_seeds_table(group))
        note = times_note(group.trials)
        if note is not None:
            reporter.show(_line(note))
        reporter.show(_line(sentence(group)))
    if sweep.importances:
        reporter.show(_line(""))
        reporter.show(_importance_table(sweep.importances))
    for trial in sweep.trials:
        if trial.error is not None:
            reporter.show(_line(f"trial {trial.number} failed: {trial.error}"))
    reporter.show(_line(totals(sweep)))


def sentence(group: DataGroup) -> str:
    """Which trial is the best, by what it was chosen, and how it does on test texts."""
    finished = [trial for trial in group.trials if trial.state == "finished"]
    if not finished:
        return "no trial has finished"
    best, metric = group.best, group.metric
    if best is None or metric is None or best.value is None:
        metrics = {trial.metric for trial in finished}
        if len(metrics) > 1:
            return "no trial was chosen: they were judged by different metrics. Pass --metric to name one for all"
        asked = next(iter(metrics))
        if asked is not None:
            return f"no trial was chosen: the trials have no {asked}; they have {_known_metrics(finished, asked)}"
        return (
            "no trial was chosen: there are no validation texts to choose by. To choose by the test texts all the "
            "same, pass --metric test:accuracy; the figure of the chosen one is then too good"
        )
    split = metric.split(":")[0]
    of = f"best of {len(finished):,} finished trial{'s' * (len(finished) != 1)} by {metric}"
    what = f"{of}: trial {best.number}{_words_of(best, group)}, {best.value:.4f}"
    if split == "test":
        return f"{what}. It was chosen by the test texts, so that this figure is too good"
    test = _test_words(best)
    if not test:
        return (
            f"{what}. It was chosen on validation texts, so that this figure is a little too good; there are no test "
            "texts to tell how good it is"
        )
    return f"{what}. It was chosen on validation texts; on the test texts, which had no part in it: {test}"


def _known_metrics(trials: Sequence[Trial], like: str) -> str:
    """Some metrics that trials have: of the same texts, or else of others."""
    wanted = like.split(":")[0]
    found = dict.fromkeys(
        f"{split}:{name}"
        for split in sorted({split for trial in trials for split in trial.metrics}, key=lambda split: split != wanted)
        for trial in trials
        for name, value in trial.metrics.get(split, {}).items()
        if value is not None and name in ALL_METRIC_NAMES
    )
    some = list(found)[:_MOST_NAMED]
    return ", ".join(some) + (", ..." if len(found) > len(some) else "") if some else "none"


def totals(sweep: Sweep) -> str:
    """How many trials are in which state, and what they took."""
    states = ("finished", "pruned", "failed", "running", "stopped", "waiting")
    counts = [f"{count:,} {state}" for state in states if (count := sweep.count(state))]  # type: ignore[arg-type]
    line = f"{len(sweep.trials):,} trials: {', '.join(counts) or 'none begun'}; {duration(sweep.seconds)} of work"
    return line if sweep.usd is None else f"{line}, {sweep.usd:,.4f} USD"


def differing(trials: Sequence[Trial]) -> list[str]:
    """The settings that do not have one value in all ``trials``, in the order in which they were given."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    return [name for name in names if len({repr(trial.settings.get(name)) for trial in trials}) > 1]


def shown_value(value: Any) -> str:
    """A setting as a table has it."""
    if isinstance(value, list | tuple):
        return ",".join(map(shown_value, value)) or "default"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "default" if value is None else str(value)


def _trials_table(group: DataGroup, heading: str) -> Table:
    from rich.text import Text

    trials = group.trials
    names = [name for name in differing(trials) if name not in group.data]
    with_names = any(trial.name for trial in trials)
    with_states = any(trial.state != "finished" for trial in trials)
    measured = _columns(trials)
    with_values = not measured or any(trial.value is not None for trial in trials)
    with_usd = any(trial.usd is not None for trial in trials)
    table = _table(heading)
    _column(table, "trial", right=True)
    if with_names:
        _column(table, "name")
    for name in names:
        _column(table, name, right=True)
    if with_values:
        _column(table, (group.metric or "value").replace(":", " "), right=True)
    for split, name in measured:
        _column(table, f"{split} {name}", right=True)
    _column(table, "time", right=True)
    if with_usd:
        _column(table, "USD", right=True)
    if with_states:
        _column(table, "state")
    for trial in trials:
        is_best = group.best is not None and trial.number == group.best.number
        cells = [f"{'* ' if is_best else ''}{trial.number}"]
        cells += [trial.name or ""] if with_names else []
        cells += [shown_value(trial.settings.get(name)) for name in names]
        cells += [_number(trial.value)] if with_values else []
        cells += [_number(trial.metrics.get(split, {}).get(name)) for split, name in measured]
        cells.append("" if trial.seconds is None else duration(trial.seconds))
        cells += ["" if trial.usd is None else f"{trial.usd:.4f}"] if with_usd else []
        cells += [_state(trial)] if with_states else []
        table.add_row(*(Text(one_line(cell)) for cell in cells), style="bold green" if is_best else None)
    if len(table.columns) > _MOST_WHOLE:
        for column in table.columns:
            column.min_width = None
    return table


def test_metrics(trials: Sequence[Trial]) -> list[str]:
    """The metrics of the test texts that a sentence names."""
    return [name for split, name in _columns(trials) if split == "test"]


def _columns(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    metric = next((trial.metric for trial in trials if trial.metric), None)
    return shown_metrics([trial.metrics for trial in trials], metric)


def _seeds_table(group: DataGroup) -> Table:
    from rich.text import Text

    names = [name for name in differing(group.trials) if name != "seed" and name not in group.data]
    tested = [name for name in test_metrics(group.trials) if any(name in seeds.test for seeds in group.seeds)]
    tested = [name for name in tested if name not in ("precision", "recall")][:_MOST_SPREADS]
    table = _table("Mean ± standard deviation over seeds")
    for name in names:
        _column(table, name, right=True)
    _column(table, "seeds", right=True)
    _column(table, group.metric or "value", right=True)
    for name in tested:
        _column(table, f"test {name}", right=True)
    for place, seeds in enumerate(group.seeds):
        cells = [shown_value(seeds.settings.get(name)) for name in names]
        cells += [str(len(seeds.trials)), _spread(seeds.mean, seeds.sd)]
        cells += [_spread(*seeds.test[name]) if name in seeds.test else "-" for name in tested]
        table.add_row(*(Text(one_line(cell)) for cell in cells), style="bold green" if place == 0 else None)
    return table


def _importance_table(importances: Mapping[str, float]) -> Table:
    from rich.text import Text

    table = _table("What made the difference (fANOVA)")
    _column(table, "setting")
    _column(table, "share", right=True)
    for name, share in importances.items():
        table.add_row(Text(one_line(name)), Text(f"{share:.1%}"))
    return table


def _words_of(trial: Trial, group: DataGroup) -> str:
    names = [name for name in differing(group.trials) if name not in group.data]
    words = [f"{name} {shown_value(trial.settings.get(name))}" for name in names]
    found = ([trial.name] if trial.name else []) + words
    return f" ({one_line(', '.join(found))})" if found else ""


def _test_words(trial: Trial) -> str:
    test = trial.metrics.get("test", {})
    words = [f"{name} {test[name]:.4f}" for name in test_metrics([trial]) if test.get(name) is not None]
    count = test.get("num_texts")
    return ", ".join(words) + (f" ({int(count):,} texts)" if words and count else "")


def best_seeds(group: DataGroup) -> Seeds | None:
    """The settings with the best mean over seeds, if there are several seeds."""
    return group.seeds[0] if group.seeds else None


def _state(trial: Trial) -> str:
    if trial.state == "pruned" and trial.pruned_at:
        return f"pruned at evaluation {trial.pruned_at}"
    return _STATES.get(trial.state, trial.state)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.4f} ± {sd:.4f}"


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)


def _column(table: Table, name: str, right: bool = False) -> None:
    from rich.text import Text

    words = one_line(name)
    longest = max(map(len, words.split()), default=0)  # headings break between words alone
    justify: Literal["left", "right"] = "right" if right else "left"
    table.add_column(Text(words), justify=justify, overflow="fold", min_width=min(longest, _MOST_LETTERS))


def _line(text: str) -> Any:
    from rich.text import Text

    return Text(one_line(text))
