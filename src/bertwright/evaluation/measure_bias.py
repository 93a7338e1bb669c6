"""The act of judging what a classifier makes of groups of people: bertwright bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.config.base import build
from bertwright.config.evaluate import BiasConfig
from bertwright.errors import UserError
from bertwright.evaluation.bias import AUCS, bias_of
from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.scores import has_labels
from bertwright.evaluation.stored import StoredScores, stored_scores
from bertwright.evaluation.subgroups import groups_of_columns, groups_of_terms, read_terms
from bertwright.progress import Reporter
from bertwright.runs import open_run

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = {"subgroup_auc": "subgroup AUC", "bpsn_auc": "BPSN AUC", "bnsp_auc": "BNSP AUC"}


def bias(
    run: str | Path, data: str | Path | Sequence[str | Path] = (), *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """The bias of a run's classifier, as ``bias.bias_of`` records it, on its held-out texts or on those in ``data``.

    To that record come ``run`` and ``judged_on``: ``texts``, their number; ``files``, none for held-out texts; and what
    the ``groups`` are of, "columns", "terms" or "built-in terms".

    ``settings`` are those of ``bertwright bias``.

    Raises:
        UserError: bad settings, a run without scores or a classifier, data that cannot be read, or no groups.
    """
    config = build(BiasConfig, {**settings, "run": run, "data": data})
    return run_bias(config, Reporter(quiet=quiet, results=not quiet))


def run_bias(config: BiasConfig, reporter: Reporter) -> dict[str, Any]:
    """Find the groups and the scores, judge and show."""
    terms = None if config.group_terms is None else read_terms(config.group_terms)
    scored = _scored(config, reporter) if config.data else stored_scores(open_run(config.run))
    place = _label(config, scored.labels)
    groups, groups_of = _groups(config, scored, terms, reporter)
    record = bias_of(
        scored.has_labels[:, place], scored.scores[:, place], groups, scored.labels[place], config.min_group_texts
    )
    record |= {
        "run": str(Path(config.run).resolve()) if Path(config.run).exists() else config.run,
        "judged_on": {"texts": len(scored.scores), "files": list(config.data), "groups": groups_of},
    }
    reporter.show(bias_table(record))
    reporter.show(_overall(record))
    for note in record["notes"]:
        reporter.say(one_line(note))
    return record


def _scored(config: BiasConfig, reporter: Reporter) -> StoredScores:
    """The texts in the files, scored."""
    from bertwright.evaluation.evaluate import score_labelled

    found = score_labelled(config.run, config.data, config, config, reporter)
    texts = found.texts
    if texts.kind == "regression":
        raise UserError(f"{config.run}: found a regression, expected a classifier")
    scores = found.scores
    strings = [text for text in texts.texts[:].to_pylist()]
    return StoredScores(
        texts.kind, found.predictor.labels, texts.rows, strings, has_labels(texts), scores, texts.groups
    )


def _label(config: BiasConfig, labels: Sequence[str]) -> int:
    """The place of the label that is judged."""
    if config.label is not None:
        if config.label not in labels:
            raise UserError(f"--label: found {config.label}, expected one of {', '.join(labels)}")
        return list(labels).index(config.label)
    if len(labels) > 2:
        raise UserError(f"--label is needed: found {len(labels)} labels; name one of {', '.join(labels)}")
    return len(labels) - 1


def _groups(
    config: BiasConfig, scored: StoredScores, terms: Mapping[str, Sequence[str]] | None, reporter: Reporter
) -> tuple[dict[str, np.ndarray], str]:
    """Those of the columns, of the file of terms, or of the built-in terms; and which of the three."""
    columns = scored.groups
    if config.group_columns:
        missing = [name for given in config.group_columns for name in given.split(",") if name.strip() not in columns]
        if missing:
            known = f"those kept are {', '.join(columns)}" if columns else "the run kept none; name files to score anew"
            raise UserError(f"--group-columns: found no column {missing[0].strip()}; {known}")
        wanted = [name.strip() for given in config.group_columns for name in given.split(",")]
        columns = {name: columns[name] for name in wanted}
    if columns and terms is None:
        return groups_of_columns(columns), "columns"
    if scored.texts is None:
        raise UserError(
            "groups are found by terms in the texts, but the run kept none (--no-texts): name the file of the texts, "
            "or columns with --group-columns"
        )
    if terms is not None:
        return groups_of_terms(scored.texts, terms), "terms"
    reporter.say("groups: texts that hold a term of the built-in list (--group-terms, --group-columns give others)")
    found = groups_of_terms(scored.texts)
    met = {name: members for name, members in found.items() if members.any()}
    if not met:
        raise UserError("no text holds a term of the built-in list: pass --group-terms or --group-columns")
    return met, "built-in terms"


def bias_table(record: Mapping[str, Any]) -> Table:
    """The groups, worst first: how many texts, and the three AUCs with their intervals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"Bias of {one_line(record['label'])!r}; 95 % intervals below"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("group", overflow="fold")
    for heading in ("texts", "positive", *_HEADINGS.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in record["groups"]:
        counts = [f"{group[name]:,}" for name in ("texts", "positive_texts")]
        aucs = [_auc(group[name], group[f"{name}_interval"]) for name in AUCS]
        table.add_row(*map(Text, (one_line(group["group"]), *counts, *aucs)))
    return table


def _auc(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if interval is None else f"{value:.4f}\n{interval[0]:.3f}–{interval[1]:.3f}"


def _overall(record: Mapping[str, Any]) -> str:
    rows = [("AUC of all texts", record["overall_auc"])]
    rows += [(f"{heading}, mean of power {record['power']:g}", record[name]) for name, heading in _HEADINGS.items()]
    rows.append(("final metric", record["final"]))
    return "\n".join(f"{name:<36}{'-' if value is None else f'{value:.4f}':>8}" for name, value in rows)
