"""The command line: one command for each act. An act's modules are loaded when it is asked for, so help is quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter

from bertwright import __version__
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

app = App(
    name="bertwright",
    help="Fine-tune, compare and ship BERT text classifiers.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=()),
)
runs_app = App(name="runs", help="List runs, or show one.", help_format="plaintext")
app.command(runs_app)

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


@app.command
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


@app.command
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


@app.command
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


@runs_app.command(name="list")
def runs_list(
    folder: Annotated[str, Parameter(help="The folder that holds the runs.")] = "runs",
    json_line: Json = False,
) -> None:
    """List the runs in a folder, oldest first."""
    from bertwright.evaluation.show import list_table, summary
    from bertwright.runs import list_runs

    found = list_runs(folder)
    if json_line:
        _print_json([summary(run) for run in found])
    else:
        _reporter(False, False).show(list_table(found))


@runs_app.command(name="show")
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

    return Reporter(quiet=quiet, results_to_stderr=results_to_stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given = [argument for argument in given if argument != "--debug"]
    try:
        _call(lambda: app(given, exit_on_error=False, print_error=False), debug)
    except BrokenPipeError:
        # Whoever read our output has seen enough: not an error. Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _call(run: Callable[[], Any], debug: bool) -> None:
    try:
        run()
    except UserError as error:
        _fail(str(error), debug)
    except cyclopts.CycloptsError as error:
        _fail(_explain(error), debug)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _explain(error: cyclopts.CycloptsError) -> str:
    from pydantic import ValidationError

    from bertwright.config import explain

    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return explain(cause)
    return " ".join(str(error).split())


def _fail(message: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
