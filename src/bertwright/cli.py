"""The command line: which commands there are, and what the shell sees of errors. The commands are loaded when used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cyclopts
from cyclopts import App, Parameter

from bertwright import __version__
from bertwright.errors import Interrupted, UserError

app = App(
    name="bertwright",
    help=(
        "Fine-tune, compare and ship BERT text classifiers.\n\n"
        "Any command takes --debug, which shows an error's traceback."
    ),
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=()),
)
runs_app = App(name="runs", help="List runs, or show one.", help_format="plaintext")
app.command(runs_app)
bench_app = App(
    name="bench", help="Measure how fast this machine works, and other libraries on it.", help_format="plaintext"
)
app.command(bench_app)
export_app = App(
    name="export",
    help="Write a classifier in the form in which it runs elsewhere, without torch.",
    help_format="plaintext",
)
app.command(export_app)
prices_app = App(name="prices", help="List what machines cost, or take a newer table.", help_format="plaintext")
app.command(prices_app)
# By name, so that only the command that is asked for is imported. The help repeats the first line of its docstring.
_COMMANDS = "bertwright.commands"
app.command(
    f"{_COMMANDS}:train",
    name="train",
    help="Train a classifier on labelled texts, judge it on held-out ones and save it as a run.",
)
app.command(
    f"{_COMMANDS}:distill",
    name="distill",
    help="Teach a small student what a trained classifier says of texts with and without labels; saved as a run.",
)
app.command(
    f"{_COMMANDS}:pretrain",
    name="pretrain",
    help="Learn from texts without labels, by guessing masked tokens, and save a model that train takes.",
)
app.command(
    f"{_COMMANDS}:tokenize",
    name="tokenize",
    help="Turn texts into token ids once, in a folder that train, evaluate and predict take where they take files.",
)
app.command(
    f"{_COMMANDS}:convert",
    name="convert",
    help="Write a checkpoint of fairseq's or TensorFlow 1's as a folder in Hugging Face's layout.",
)
app.command(f"{_COMMANDS}:evaluate", name="evaluate", help="Judge a run's classifier on other labelled texts.")
app.command(
    f"{_COMMANDS}:predict", name="predict", help="Score texts: given with --text, in files, or on standard input."
)
app.command(
    f"{_COMMANDS}:bias",
    name="bias",
    help="Judge what a classifier makes of texts that speak of groups of people: three AUCs for each, worst first.",
)
app.command(
    f"{_COMMANDS}:inspect",
    name="inspect",
    help="Find near-duplicates among texts and, with a run's scores, labels that are probably wrong.",
)
app.command(
    f"{_COMMANDS}:compare",
    name="compare",
    help="Set runs side by side, or with --agreement tell whether they agree to four decimals (exit code 1: no).",
)
app.command(
    f"{_COMMANDS}:report",
    name="report",
    help="Make one HTML page about a run, several runs or a sweep, that opens anywhere and needs nothing else.",
)
app.command(
    f"{_COMMANDS}:serve",
    name="serve",
    help="Answer requests for scores over HTTP, in four dialects that clients already speak, until SIGTERM or Ctrl-C.",
)
app.command(
    f"{_COMMANDS}:cascade",
    name="cascade",
    help="Make one classifier of two: a small one answers where it is sure enough, a large one elsewhere.",
)
app.command(
    f"{_COMMANDS}:sweep",
    name="sweep",
    help="Train many classifiers: over a grid, a search or a list. The same command goes on with what was stopped.",
)
app.command(
    f"{_COMMANDS}:plan",
    name="plan",
    help="Foretell time, memory and cost of a training or a scoring, here and on other machines, from a minute of it.",
)
app.command(
    f"{_COMMANDS}:plan_check",
    name="plan-check",
    help="Set what bertwright plan foretold beside what happened in a run.",
)
runs_app.command(f"{_COMMANDS}:runs_list", name="list", help="List the runs in a folder, oldest first.")
runs_app.command(
    f"{_COMMANDS}:runs_show",
    name="show",
    help="Show one run: what was asked, what was chosen, how it went, what came out.",
)

prices_app.command(f"{_COMMANDS}:prices_list", name="list", help="List machines with their prices, the cheapest first.")
prices_app.command(f"{_COMMANDS}:prices_refresh", name="refresh", help="Take the prices in a csv file from now on.")

app.command(
    f"{_COMMANDS}:push",
    name="push",
    help="Publish a run's classifier on the hub, with a model card that says how good it is and where not to trust it.",
)

export_app.command(
    f"{_COMMANDS}:export_onnx",
    name="onnx",
    help="Write a classifier as an ONNX graph, with a certificate of what it loses; refused where that is too much.",
)

export_app.command(
    f"{_COMMANDS}:export_lambda",
    name="lambda",
    help="Pack a classifier for AWS Lambda: function, layers, template and Dockerfile, within AWS's limit; no torch.",
)

bench_app.command(f"{_COMMANDS}:bench_infer", name="infer", help="Measure scoring texts.")
bench_app.command(
    f"{_COMMANDS}:bench_engines",
    name="engines",
    help="Compare inference engines: who is right, how fast, how soon, in how much memory.",
)
bench_app.command(f"{_COMMANDS}:bench_train", name="train", help="Measure training a classifier.")
bench_app.command(f"{_COMMANDS}:bench_pretrain", name="pretrain", help="Measure learning from texts without labels.")
bench_app.command(f"{_COMMANDS}:bench_tokenize", name="tokenize", help="Measure tokenising texts.")
bench_app.command(
    f"{_COMMANDS}:bench_mlperf",
    name="mlperf",
    help="Measure scoring with MLPerf's load generator: one at a time, all at once, at random moments. Unofficial.",
)
bench_app.command(
    f"{_COMMANDS}:bench_merge",
    name="merge",
    help="Set results of many machines side by side: what a job takes and costs on each, and which machine pays.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given = [argument for argument in given if argument != "--debug"]
    # Looking for pydantic's plugins reads the metadata of every installed package; we use none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    status: Any = 0
    try:
        try:
            _call(lambda: app(given, console=_help_console(), exit_on_error=False, print_error=False), debug)
        except SystemExit as stop:
            status = stop.code
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough: not an error. Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _help_console() -> Any:
    """What help is printed on. Where its reader has gone, rich would exit with code 1; ``main`` knows better."""
    from rich.console import Console

    class HelpConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise

    return HelpConsole()


def _call(run: Callable[[], Any], debug: bool) -> None:
    try:
        run()
    except UserError as error:
        _fail(str(error), debug)
    except cyclopts.CycloptsError as error:
        _fail(_explain(error), debug)
    except KeyboardInterrupt as stop:
        if not isinstance(stop, Interrupted):  # which has said its line
            print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder taken away: not of our making
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", debug)
    except Exception as error:
        from bertwright.hardware import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _fail(
            "out of memory: pass a smaller --token-budget (the steps stay the same but for dropout), then --max-length",
            debug,
        )


def _explain(error: cyclopts.CycloptsError) -> str:
    from pydantic import ValidationError

    from bertwright.config.base import explain

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
