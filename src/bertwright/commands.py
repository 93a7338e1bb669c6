"""The commands: one function for each act. Loaded when a command or its help is asked for; acts when they are run."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from bertwright.config import (
    EvaluateConfig,
    EvaluateSettings,
    PredictSettings,
    Settings,
    TrainConfig,
    TrainSettings,
    build,
    read_config_file,
)
from bertwright.errors import UserError

Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="Print the result as one line of JSON; all else to standard error."),
]
Quiet = Annotated[bool, Parameter(name="--quiet", negative="", help="Say nothing but the result and errors.")]
ConfigFile = Annotated[
    str | None,
    Parameter(name="--config", help="Settings from a .toml file or a run's config.json; flags go before them."),
]
Flags = Parameter(name="*")


def train(
    *files: Annotated[
        str, Parameter(help="Files of labelled texts: csv, tsv, jsonl, parquet, txt (label ||| text), .gz.")
    ],
    settings: Annotated[TrainSettings, Flags] = TrainSettings(),
    config: ConfigFile = None,
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on labelled texts, judge it on held-out ones and save it as a run."""
    given = _given(settings, config)
    if files or "train" not in given:
        given["train"] = files
    resolved = build(TrainConfig, given, config or "")

    from bertwright.training.train import run_training

    run = run_training(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json({"run": str(run.path), **(run.result or {})})


def evaluate(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    *data: Annotated[str, Parameter(help="Files of labelled texts.")],
    settings: Annotated[EvaluateSettings, Flags] = EvaluateSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge a run's classifier on other labelled texts."""
    if not data:
        raise UserError("no file given: name at least one file of labelled texts to judge the run on")
    resolved = build(EvaluateConfig, {**_given(settings, None), "run": run, "data": data})

    from bertwright.evaluation.evaluate import run_evaluation

    result = run_evaluation(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(result)


def predict(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    *files: Annotated[str, Parameter(help="Files of texts; - or nothing: standard input, a text a line.")],
    text: Annotated[tuple[str, ...], Parameter(help="A text to score; may be repeated.")] = (),
    settings: Annotated[PredictSettings, Flags] = PredictSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score texts: given with --text, in files, or on standard input."""
    from bertwright.evaluation.predict import run_prediction

    run_prediction(run, text, files, settings, _reporter(True, quiet), as_json=json_line)


def runs_list(
    folder: Annotated[str, Parameter(help="The folder that holds the runs.")] = "runs",
    json_line: Json = False,
) -> None:
    """List the runs in a folder, oldest first."""
    from bertwright.evaluation.show import list_table, summary
    from bertwright.runs import list_runs

    found = list_runs(folder)
    reporter = _reporter(False, False)
    for run in found:
        if run.damage is not None:
            reporter.warn(f"damaged run: {run.damage}")
    if json_line:
        _print_json([summary(run) for run in found])
    else:
        reporter.show(list_table(found))


def runs_show(
    run: Annotated[str, Parameter(help="Folder of the run.")],
    json_line: Json = False,
) -> None:
    """Show one run: what was asked, what was chosen, how it went, what came out."""
    from bertwright.evaluation.show import show_run
    from bertwright.runs import open_run

    found = open_run(run)
    if json_line:
        _print_json({"settings": found.settings, "environment": found.environment, "result": found.result})
    else:
        show_run(found, _reporter(False, False))


def _given(settings: Settings, config: str | None) -> dict[str, Any]:
    """The settings that were given: the file's, then the flags'."""
    values = {} if config is None else read_config_file(config)
    flags = {name: getattr(settings, name) for name in settings.model_fields_set}
    # Settings that exclude each other: the flag wins over the file's.
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in flags:
            values.pop(other, None)
    for one, other in (("validation", "validation_share"), ("validation_share", "validation")):
        if one in flags:
            values.pop(other, None)
    return {**values, **flags}


def _reporter(results_to_stderr: bool, quiet: bool) -> Any:
    from bertwright.progress import Reporter

    reporter = Reporter(quiet=quiet, results_to_stderr=results_to_stderr)
    if not results_to_stderr:
        reporter.results.on_broken_pipe = _raise_again  # type: ignore[method-assign]
    return reporter


def _raise_again() -> NoReturn:
    """In place of rich's exit with code 1: ``main`` knows that a reader who has seen enough is no error."""
    raise


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
