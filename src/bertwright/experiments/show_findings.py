"""What an inspection found, as a person reads it. Torch is never imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.evaluation.extremes import one_line
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN_MEMBERS = 3


def show_findings(record: Mapping[str, Any], reporter: Reporter) -> None:
    """The counts and the examples of a record of ``inspect``."""
    duplicates, errors = record["duplicates"], record["label_errors"]
    reporter.show("\n".join(_lines(record["texts"], duplicates)))
    if duplicates["groups"]:
        reporter.show(_groups_table(duplicates["groups"]))
    if errors is not None:
        reporter.show(f"labels that are probably wrong: {errors['found']:,} of {errors['texts']:,} texts")
        for pair, count in errors["pairs"].items():
            reporter.show(f"  {count:>8,}   {one_line(pair)}")
        if errors["examples"]:
            reporter.show(_errors_table(errors["examples"]))


def _lines(texts: Mapping[str, int], duplicates: Mapping[str, Any]) -> Iterator[str]:
    together = ", ".join(f"{count:,} {name} texts" for name, count in texts.items())
    yield f"{together}; near-duplicates: {duplicates['texts_in_groups']:,} in {duplicates['num_groups']:,} groups"
    for name, count in duplicates["within"].items():
        yield f"  {count:>8,}   {name} texts have a near-duplicate among the {name} texts"
    for name, count in (duplicates["shared"] or {}).items():
        yield f"  {count:>8,}   {name} texts have a near-duplicate among the other texts"
    yield f"  {duplicates['same_texts']:>8,}   texts are the same as another but for case and white space"
    yield f"  {duplicates['groups_with_different_labels']:>8,}   groups hold texts of different labels"


def _groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for group in groups:
        for place, entry in enumerate(group["texts"][:_SHOWN_MEMBERS]):
            head = (f"{group['num_texts']:,}", f"{group['least_similarity']:.2f}") if not place else ("", "")
            rows.append((*head, *_words_of(entry)))
    return _table("Near-duplicates", ("texts", "similarity", "source", "row", "label"), rows)


def _errors_table(errors: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for error in errors:
        source, row, label, text = _words_of(error)
        suggested = f"{one_line(error['suggested'])} {error['score_of_suggested']:.4f}"
        rows.append((source, row, f"{label} {error['score_of_label']:.4f}", suggested, text))
    return _table("Labels that are probably wrong", ("source", "row", "label", "suggested"), rows)


def _words_of(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return entry["source"], f"{entry['row']:,}", one_line(entry["label"] or "-"), one_line(entry["text"])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """The last column is the text, cut where the line ends."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, expand=True)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in ("texts", "similarity", "row") else "left")
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
