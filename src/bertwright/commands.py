"""The commands: one function for each act. Loaded when a command or its help is asked for; acts when they are run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import Parameter

from bertwright.config.base import Settings, build, expand_home, merged, read_config_file
from bertwright.config.bench import (
    BenchEnginesConfig,
    BenchEnginesSettings,
    BenchInferConfig,
    BenchInferSettings,
    BenchMergeConfig,
    BenchMergeSettings,
    BenchMlperfConfig,
    BenchMlperfSettings,
    BenchPretrainConfig,
    BenchPretrainSettings,
    BenchTokenizeConfig,
    BenchTokenizeSettings,
    BenchTrainConfig,
    BenchTrainSettings,
)
from bertwright.config.cascade import CascadeConfig, CascadeSettings
from bertwright.config.convert import ConvertConfig, ConvertSettings
from bertwright.config.distill import DistillSettings
from bertwright.config.evaluate import BiasConfig, BiasSettings, EvaluateConfig, EvaluateSettings, PredictSettings
from bertwright.config.export import ExportLambdaConfig, ExportLambdaSettings, ExportOnnxConfig, ExportOnnxSettings
from bertwright.config.inspect import InspectConfig, InspectSettings
from bertwright.config.plan import PlanConfig, PlanSettings
from bertwright.config.pretrain import PretrainSettings
from bertwright.config.push import PushConfig, PushSettings
from bertwright.config.report import ReportConfig, ReportSettings
from bertwright.config.serve import ServeConfig, ServeSettings
from bertwright.config.sweep import SweepSettings
from bertwright.config.tokenize import TokenizeConfig, TokenizeSettings
from bertwright.config.train import TrainSettings
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
BenchJson = Annotated[
    bool,
    Parameter(
        name="--json", negative="", help="Keep standard output to the line of JSON; the table to standard error."
    ),
]
Flags = Parameter(name="*")
_SOURCES = (
    "csv, tsv, jsonl, parquet, arrow, feather, npz or txt, each also .gz, .xz or .zst; a folder of .txt files for each "
    "class; hub:NAME"
)
_FORMATS = f"{_SOURCES}; a folder made by bertwright tokenize"


def train(
    *files: Annotated[
        str,
        Parameter(help=f"Files of labelled texts (txt: label ||| text): {_FORMATS}."),
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
    from bertwright.training.resume import train_config

    resolved = train_config(given, config or "")

    from bertwright.training.train import run_training

    run = run_training(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json({"run": str(run.path), **(run.result or {})})


def distill(
    teacher: Annotated[str | None, Parameter(help="Folder of the teacher's run, or of a classifier.")] = None,
    *files: Annotated[
        str,
        Parameter(help=f"Files of labelled texts (txt: label ||| text): {_FORMATS}."),
    ],
    settings: Annotated[DistillSettings, Flags] = DistillSettings(),
    config: ConfigFile = None,
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a small student what a trained classifier says of texts with and without labels; saved as a run."""
    given = _given(settings, config)
    if teacher is not None:
        given["teacher"] = teacher
    if files or "train" not in given:
        given["train"] = files
    from bertwright.training.distill import distill_config

    resolved = distill_config(given, config or "")

    from bertwright.training.train import run_training

    run = run_training(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json({"run": str(run.path), **(run.result or {})})


def pretrain(
    *corpus: Annotated[
        str,
        Parameter(help=f"Files of texts (txt: a line or a block of lines a document): {_FORMATS}."),
    ],
    settings: Annotated[PretrainSettings, Flags] = PretrainSettings(),
    config: ConfigFile = None,
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from texts without labels, by guessing masked tokens, and save a model that train takes."""
    given = _given(settings, config)
    if corpus or "corpus" not in given:
        given["corpus"] = corpus

    from bertwright.training.pretrain import pretrain_config, run_pretraining

    run = run_pretraining(pretrain_config(given, config or ""), _reporter(json_line, quiet))
    if json_line:
        _print_json({"run": str(run.path), **(run.result or {})})


def tokenize(
    *data: Annotated[str, Parameter(help=f"Files of texts, with or without labels: {_SOURCES}.")],
    settings: Annotated[TokenizeSettings, Flags] = TokenizeSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn texts into token ids once, in a folder that train, evaluate and predict take where they take files."""
    resolved = build(TokenizeConfig, {**_given(settings, None), "data": data})

    from bertwright.data.tokenize import run_tokenization

    result = run_tokenization(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(result)


def convert(
    checkpoint: Annotated[
        str | None,
        Parameter(help="fairseq's model.pt, TensorFlow 1's bert_model.ckpt, or the folder that holds it."),
    ] = None,
    output: Annotated[str | None, Parameter(help="The new folder.")] = None,
    *,
    settings: Annotated[ConvertSettings, Flags] = ConvertSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint of fairseq's or TensorFlow 1's as a folder in Hugging Face's layout."""
    if checkpoint is None or output is None:
        missing = "the new folder" if checkpoint is not None else "a checkpoint and the new folder"
        raise UserError(f"name {missing}: bertwright convert CHECKPOINT OUT")
    resolved = build(ConvertConfig, {**_given(settings, None), "checkpoint": checkpoint, "output": output})

    from bertwright.model.convert import run_conversion

    result = run_conversion(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(result)


def evaluate(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    *data: Annotated[str, Parameter(help=f"Files of labelled texts (txt: label ||| text): {_FORMATS}.")],
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
    *files: Annotated[
        str,
        Parameter(help=f"Files of texts: {_FORMATS}; - or nothing: standard input."),
    ],
    text: Annotated[tuple[str, ...], Parameter(help="A text to score; may be repeated.")] = (),
    pair: Annotated[
        tuple[str, ...], Parameter(help="The second text of each --text, for a classifier of pairs; may be repeated.")
    ] = (),
    settings: Annotated[PredictSettings, Flags] = PredictSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score texts: given with --text, in files, or on standard input."""
    if settings.distribute is not None:
        if text or pair:
            raise UserError("--distribute scores files; leave out --text")
        from bertwright.shipping.bulk_ray import run_distributed_prediction

        scored = run_distributed_prediction(run, files, settings, _reporter(True, quiet))
        if json_line:
            _print_json(scored)
        return
    if files and "-" not in files and not text and settings.output is not None:
        from bertwright.hardware import keep_few_compiled_products
        from bertwright.shipping.bulk import run_bulk_prediction

        keep_few_compiled_products()
        done = run_bulk_prediction(run, files, settings, _reporter(True, quiet))
        if json_line:
            _print_json(done)
        return
    from bertwright.evaluation.predict import run_prediction

    run_prediction(run, text, files, settings, _reporter(True, quiet), as_json=json_line, given_pairs=pair)


def bias(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    *data: Annotated[
        str, Parameter(help=f"Files of labelled texts: {_FORMATS}. Without any, the run's held-out texts and scores.")
    ],
    settings: Annotated[BiasSettings, Flags] = BiasSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge what a classifier makes of texts that speak of groups of people: three AUCs for each, worst first."""
    resolved = build(BiasConfig, {**_given(settings, None), "run": run, "data": data})

    from bertwright.evaluation.measure_bias import run_bias

    record = run_bias(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(record)


def inspect(
    *data: Annotated[str, Parameter(help=f"Files of texts, with or without labels: {_FORMATS}.")],
    settings: Annotated[InspectSettings, Flags] = InspectSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find near-duplicates among texts and, with a run's scores, labels that are probably wrong."""
    resolved = build(InspectConfig, {**_given(settings, None), "data": data})

    from bertwright.experiments.inspect_data import run_inspection

    record = run_inspection(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(record)


def runs_list(
    folder: Annotated[str, Parameter(help="The folder that holds the runs.")] = "runs",
    json_line: Json = False,
) -> None:
    """List the runs in a folder, oldest first."""
    from bertwright.evaluation.show import list_table, summary
    from bertwright.runs import list_runs

    found = list_runs(expand_home(folder))
    reporter = _reporter(False, False)
    for run in found:
        if run.damage is not None:
            reporter.warn(f"damaged run: {run.damage}")
    if json_line:
        _print_json([summary(run) for run in found])
    else:
        reporter.show(list_table(found))


def prices_list(
    *words: Annotated[str, Parameter(help="Words that cloud, machine or accelerator must hold, such as H100.")],
    json_line: Json = False,
) -> None:
    """List machines with their prices, the cheapest first."""
    from rich.text import Text

    from bertwright.evaluation.extremes import one_line
    from bertwright.evaluation.show import prices_table
    from bertwright.prices import doubts, load_prices, selected

    prices, path = load_prices()
    found = selected(prices, words)
    if not found:
        raise UserError(f"no machine in {path} is called {' '.join(words)}; leave the words out to see all")
    if json_line:
        _print_json([price.record() for price in found])
        return
    reporter = _reporter(False, False)
    reporter.show(prices_table(found))
    for line in doubts({price.name: price.note for price in found if price.doubtful}):
        reporter.show(Text(one_line(line)))
    reporter.say(f"{len(found):,} of {len(prices):,} prices of {path}; USD an hour of the whole machine")


def prices_refresh(
    *,
    source: Annotated[str, Parameter(name="--from", help="csv file with the columns of `bertwright prices list`.")],
) -> None:
    """Take the prices in a csv file from now on."""
    from bertwright.prices import refresh

    number, path = refresh(Path(expand_home(source)))
    _reporter(False, False).say(f"{number:,} prices are in {path} now; delete it to go back to those of the package")


def runs_show(
    run: Annotated[str, Parameter(help="Folder of the run.")],
    json_line: Json = False,
) -> None:
    """Show one run: what was asked, what was chosen, how it went, what came out."""
    from bertwright.evaluation.show import show_run
    from bertwright.runs import open_run

    found = open_run(expand_home(run))
    if json_line:
        _print_json({"settings": found.settings, "environment": found.environment, "result": found.result})
    else:
        show_run(found, _reporter(False, False))


def compare(
    *runs: Annotated[str, Parameter(help="Folders of finished runs, at least two.")],
    agreement: Annotated[
        bool,
        Parameter(
            negative="",
            help="Tell whether the runs agree to four decimals, as runs of one seed should; if not, where they part.",
        ),
    ] = False,
    metric: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Metric whose differences are tested; may be repeated. Choose before you look."),
    ] = (),
    pairs: Annotated[
        Literal["all", "neighbours", "first"],
        Parameter(help="Test each against each, against the one before, or against the first."),
    ] = "all",
    alpha: Annotated[float, Parameter(help="Level of the tests; intervals are of 1 - alpha.")] = 0.05,
    bootstrap_samples: Annotated[
        int | None, Parameter(help="Resamples of the bootstrap; 2,000, or fewer for very many texts.")
    ] = None,
    top: Annotated[int, Parameter(help="How many highest and lowest scored texts to set side by side.")] = 5,
    markdown: Annotated[bool, Parameter(negative="", help="Print the tables as Markdown.")] = False,
    csv: Annotated[bool, Parameter(negative="", help="Print the tables as CSV.")] = False,
    json_line: Json = False,
) -> None:
    """Set runs side by side, or with --agreement tell whether they agree to four decimals (exit code 1: no)."""
    reporter = _reporter(json_line, False)
    if not agreement:
        from bertwright.experiments.compare import compare as compare_runs
        from bertwright.experiments.show_comparison import show_comparison

        if markdown and csv:
            raise UserError("--markdown and --csv exclude each other: give one of them")
        compared = compare_runs(
            *runs, metrics=metric, pairs=pairs, alpha=alpha, bootstrap_samples=bootstrap_samples, top=top
        )
        show_comparison(compared, reporter, "markdown" if markdown else "csv" if csv else "table")
        if json_line:
            _print_json(compared.record())
        return

    from bertwright.experiments.agreement import agreement as agreement_of
    from bertwright.experiments.show_agreement import show_agreement

    found = agreement_of(*runs)
    show_agreement(found, reporter)
    if json_line:
        _print_json(found.record())
    if not found.agree:
        sys.exit(1)


def report(
    *runs: Annotated[str, Parameter(help="Folder of a run, folders of runs to compare, or the folder of a sweep.")],
    settings: Annotated[ReportSettings, Flags] = ReportSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one HTML page about a run, several runs or a sweep, that opens anywhere and needs nothing else."""
    resolved = build(ReportConfig, {**_given(settings, None), "runs": runs})

    from bertwright.reporting.act import run_report

    made = run_report(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(made.record())


def serve(
    *runs: Annotated[
        str,
        Parameter(help="Folders of runs or models; NAME=FOLDER says what one is called. The first answers by default."),
    ],
    settings: Annotated[ServeSettings, Flags] = ServeSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer requests for scores over HTTP, in four dialects that clients already speak, until SIGTERM or Ctrl-C."""
    resolved = build(ServeConfig, {**_given(settings, None), "runs": runs})

    from bertwright.shipping.server.act import run_server

    run_server(resolved, _reporter(json_line, quiet), json_line)


def sweep(
    *files: Annotated[
        str,
        Parameter(help=f"Files of labelled texts (txt: label ||| text): {_FORMATS}."),
    ],
    settings: Annotated[SweepSettings, Flags] = SweepSettings(),
    config: ConfigFile = None,
    show: Annotated[str | None, Parameter(help="Show the sweep in this folder, and do nothing else.")] = None,
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train many classifiers: over a grid, a search or a list. The same command goes on with what was stopped."""
    reporter = _reporter(json_line, quiet)
    if show is not None:
        from bertwright.experiments.sweep import show_folder

        found = show_folder(show, settings, reporter)
    else:
        from bertwright.experiments.sweep import run_sweep
        from bertwright.experiments.sweep_folder import with_flags

        values = {} if config is None else read_config_file(config)
        flags = {name: getattr(settings, name) for name in settings.model_fields_set}
        if files:
            flags["train"] = files
        found = run_sweep(with_flags(values, flags), reporter)
    if json_line:
        _print_json(found.record())


def plan(
    *files: Annotated[
        str,
        Parameter(help=f"Files that the training or scoring will read (txt: label ||| text): {_FORMATS}."),
    ],
    settings: Annotated[PlanSettings, Flags] = PlanSettings(),
    config: ConfigFile = None,
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Foretell time, memory and cost of a training, or with --run of a scoring, from a minute of it."""
    values = _given(settings, config)
    data = files or values.pop("train", ())
    values.pop("train", None)
    resolved = build(PlanConfig, {**values, "data": data})

    from bertwright.benchmarking.plan import run_plan

    made = run_plan(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(made)


def plan_check(
    run: Annotated[str, Parameter(help="Folder of the finished run.")],
    plan_file: Annotated[
        str | None, Parameter(name="--plan", help="File of the plan; RUN.plan.json if not given.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Set what bertwright plan foretold beside what happened in the run."""
    from bertwright.benchmarking.plan import check_plan

    checked = check_plan(
        expand_home(run), None if plan_file is None else expand_home(plan_file), _reporter(json_line, False)
    )
    if json_line:
        _print_json(checked)


def cascade(
    small: Annotated[str, Parameter(help="Folder of the small model's run, or of an exported graph.")],
    large: Annotated[str, Parameter(help="Folder of the large model's run, or of an exported graph.")],
    *,
    settings: Annotated[CascadeSettings, Flags] = CascadeSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one classifier of two: a small one answers where it is sure enough, a large one elsewhere."""
    resolved = build(CascadeConfig, {**_given(settings, None), "small": small, "large": large})

    from bertwright.shipping.cascade import run_cascade

    record = run_cascade(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(record)


def export_onnx(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    output: Annotated[str, Parameter(help="The new folder.")],
    *,
    settings: Annotated[ExportOnnxSettings, Flags] = ExportOnnxSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a classifier as an ONNX graph, with a certificate of what it loses; refused where that is too much."""
    resolved = build(ExportOnnxConfig, {**_given(settings, None), "run": run, "output": output})

    from bertwright.shipping.export_onnx import run_onnx_export

    record = run_onnx_export(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(record)


def export_lambda(
    run: Annotated[str, Parameter(help="Folder of a run, or of a model in Hugging Face's layout, or a hub name.")],
    output: Annotated[str, Parameter(help="The new folder.")],
    *,
    settings: Annotated[ExportLambdaSettings, Flags] = ExportLambdaSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack a classifier for AWS Lambda: function, layers, template and Dockerfile, within AWS's limit; no torch."""
    resolved = build(ExportLambdaConfig, {**_given(settings, None), "run": run, "output": output})

    from bertwright.shipping.aws_lambda.act import run_lambda_export

    record = run_lambda_export(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(record)


def push(
    run: Annotated[str, Parameter(help="Folder of a finished training.")],
    name: Annotated[str, Parameter(help="Name on the hub: owner/name.")],
    *,
    settings: Annotated[PushSettings, Flags] = PushSettings(),
    json_line: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a run's classifier on the hub, with a model card that says how good it is and where not to trust it."""
    resolved = build(PushConfig, {**_given(settings, None), "run": run, "name": name})

    from bertwright.shipping.push import run_push

    done = run_push(resolved, _reporter(json_line, quiet))
    if json_line:
        _print_json(done)


def bench_infer(
    *data: Annotated[str, Parameter(help=f"Files of texts: {_FORMATS}.")],
    settings: Annotated[BenchInferSettings, Flags] = BenchInferSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure scoring: texts a second, memory, share of the machine's peak; with --peers other libraries too."""
    from bertwright.benchmarking.bench import run_infer

    resolved = build(BenchInferConfig, {**_given(settings, None), "data": data})
    _print_json(run_infer(resolved, _reporter(json_line, quiet)))


def bench_engines(
    *data: Annotated[str, Parameter(help=f"Files of texts: {_FORMATS}.")],
    settings: Annotated[BenchEnginesSettings, Flags] = BenchEnginesSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare inference engines on the same weights and token ids; who computes something else is not timed."""
    from bertwright.benchmarking.bench import run_engines

    resolved = build(BenchEnginesConfig, {**_given(settings, None), "data": data})
    _print_json(run_engines(resolved, _reporter(json_line, quiet)))


def bench_train(
    *data: Annotated[str, Parameter(help=f"Files of labelled texts (txt: label ||| text): {_FORMATS}.")],
    settings: Annotated[BenchTrainSettings, Flags] = BenchTrainSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure training: texts a second, memory, share of the machine's peak; with --peers Trainer too."""
    from bertwright.benchmarking.bench import run_train

    resolved = build(BenchTrainConfig, {**_given(settings, None), "data": data})
    _print_json(run_train(resolved, _reporter(json_line, quiet)))


def bench_pretrain(
    *data: Annotated[str, Parameter(help=f"Files of texts: {_FORMATS}.")],
    settings: Annotated[BenchPretrainSettings, Flags] = BenchPretrainSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure pretraining: tokens a second, memory, share of the machine's peak; with --peers Trainer too."""
    from bertwright.benchmarking.bench import run_pretrain

    resolved = build(BenchPretrainConfig, {**_given(settings, None), "data": data})
    _print_json(run_pretrain(resolved, _reporter(json_line, quiet)))


def bench_tokenize(
    *data: Annotated[str, Parameter(help=f"Files of texts: {_FORMATS}.")],
    settings: Annotated[BenchTokenizeSettings, Flags] = BenchTokenizeSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure tokenising: texts and bytes a second, memory; with --peers Hugging Face's tokenizers too."""
    from bertwright.benchmarking.bench import run_tokenize

    resolved = build(BenchTokenizeConfig, {**_given(settings, None), "data": data})
    _print_json(run_tokenize(resolved, _reporter(json_line, quiet)))


def bench_mlperf(
    *data: Annotated[str, Parameter(help=f"Files of texts: {_FORMATS}.")],
    settings: Annotated[BenchMlperfSettings, Flags] = BenchMlperfSettings(),
    json_line: BenchJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure scoring with MLPerf's load generator: one at a time, all at once, at random moments. Unofficial."""
    from bertwright.benchmarking.mlperf import run_mlperf

    resolved = build(BenchMlperfConfig, {**_given(settings, None), "data": data})
    _print_json(run_mlperf(resolved, _reporter(json_line, quiet)))


def bench_merge(
    *results: Annotated[str, Parameter(help="Files that bertwright bench wrote, and folders of runs.")],
    settings: Annotated[BenchMergeSettings, Flags] = BenchMergeSettings(),
    json_line: Json = False,
) -> None:
    """Set results of many machines side by side: what a job takes and costs on each, and which machine pays."""
    from bertwright.benchmarking.merge import run_merge

    resolved = build(BenchMergeConfig, {**_given(settings, None), "results": results})
    merged_works = run_merge(resolved, _reporter(json_line, False))
    if json_line:
        _print_json(merged_works)


def _given(settings: Settings, config: str | None) -> dict[str, Any]:
    """The settings that were given: the file's, then the flags'."""
    values = {} if config is None else read_config_file(config)
    flags = {name: getattr(settings, name) for name in settings.model_fields_set}
    return merged(values, flags)


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
