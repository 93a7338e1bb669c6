"""The main act: from files of labelled texts to a trained, judged and saved classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bertwright import runs
from bertwright.config.train import TrainConfig
from bertwright.data.tokenize import files_sha256
from bertwright.energy import EnergyMeter
from bertwright.errors import RunError, UserError
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.show import show_result
from bertwright.memory_trace import FILE as MEMORY
from bertwright.memory_trace import MemorySampler, read_memory_trace, write_memory_trace
from bertwright.progress import Reporter
from bertwright.tracking import Tracking
from bertwright.training.distributed import Alone, Together, is_launched, joined, place
from bertwright.training.follow import DONE, WEIGHTS, follow
from bertwright.training.launch import launch, telling_launcher
from bertwright.training.learn import learn
from bertwright.training.on_its_way import goes_on, on_its_way
from bertwright.training.phases import Phases, remove_leftovers
from bertwright.training.prepare import Machine, prepare
from bertwright.training.record import result_of, score, write_steps
from bertwright.training.resume import train_config
from bertwright.training.settings import resolve_early
from bertwright.training.stop import Stop
from bertwright.training.teacher import check_scores_folder


def train(data: str | Path | Sequence[str | Path] | None = None, *, quiet: bool = False, **settings: Any) -> runs.Run:
    """Train a classifier on the labelled texts in ``data`` (a file or several) and return its run.

    ``settings`` are those of ``bertwright train``, with underscores: ``train("comments.csv", model="all-MiniLM-L6-v2",
    epochs=2)``. Score texts with ``bertwright.load(run.path)``. ``train(resume=True, output="runs/comments")`` goes on
    with a run that was stopped.

    In the main thread, Ctrl-C and SIGTERM save the state first; then ``KeyboardInterrupt`` or ``SystemExit`` is raised.

    Raises:
        UserError: bad settings, data or a model that cannot be used, an output in the way, or a loss that is no number.
    """
    files = () if data is None else data
    config = train_config({**settings, "train": files} if files or not settings.get("resume") else settings)
    return run_training(config, Reporter(quiet=quiet, results=not quiet))


def run_training(config: TrainConfig, reporter: Reporter) -> runs.Run:
    """Read, tokenise, train, score, judge, save: a run folder, shown and returned.

    With ``config.resume`` what is on disk already is used again, and a finished run is only shown.

    With ``config.num_processes``, or in a process that torchrun started, several processes train together. Those but
    the leading one end here, when it is done.
    """
    if place() is None and config.num_processes > 1:
        return launch(config, reporter)
    with joined() as group:
        if not isinstance(group, Together):
            return _run(_going_on(config, group), reporter, group)
        config = _for_group(config, group)
        if not group.leads:
            raise SystemExit(follow(group, config.device))
        with telling_launcher():
            exit_code = 0
            try:
                return _run(config, reporter, group)
            except UserError:
                exit_code = 0 if is_launched() else 2
                raise
            finally:
                if not group.busy:
                    group.tell(DONE, exit_code)


def _for_group(config: TrainConfig, group: Together) -> TrainConfig:
    """The settings of a process of the group: its own GPU; after a restart, going on with what there is.

    Raises:
        UserError: what a group cannot do.
    """
    update: dict[str, Any] = {}
    if config.act != "train":
        raise UserError(
            f"bertwright {config.act} is done by one process; found {group.size}. Start it without torchrun"
        )
    if config.output is None:
        raise UserError("--output is required with torchrun: name the folder of the run, so that a restart finds it")
    if config.device in ("auto", "cuda") and torch.cuda.is_available():
        update["device"] = f"cuda:{group.local_rank}"
    return _going_on(config.model_copy(update=update), group)


def _going_on(config: TrainConfig, group: Alone | Together) -> TrainConfig:
    """The settings of a process; after a restart by torchrun, going on with what an earlier attempt began."""
    here = place()
    if here is None or not here.restarts or config.output is None or not group.has_begun():
        return config
    return config.model_copy(update={"resume": True, "overwrite": False})


def _run(config: TrainConfig, reporter: Reporter, group: Alone | Together) -> runs.Run:
    config = resolve_early(config)
    check_scores_folder(config)
    output = Path(config.output or "")
    resumed = goes_on(config.resume, output)
    if resumed and (output / runs.RESULT).is_file():
        return _show_finished(config, output, reporter)
    if not resumed:
        runs.prepare_output(output, config.overwrite)
    with on_its_way(output, reporter, resumed) as (phases, stop), _sampling_memory(config, phases, reporter) as memory:
        result = _run_phases(config, phases, stop, memory, reporter, group)
    show_result(result, reporter)
    reporter.say(f"run: {output}")
    return runs.open_run(output)


def _show_finished(config: TrainConfig, output: Path, reporter: Reporter) -> runs.Run:
    """Show the finished run in ``output``.

    Raises:
        RunError: it is of other files than those that ``config`` names.
    """
    run = runs.open_run(output)
    assert run.result is not None
    for name, flag in (("train", "the training files"), ("test", "--test"), ("validation", "--validation")):
        found, expected = list(getattr(config, name)), list(run.settings.get(name, ()))
        recorded = run.result["data"].get(f"{name}_sha256")
        if found != expected and (recorded is None or files_sha256(found) != recorded):
            raise RunError(
                f"{output} has finished: {flag}: found {', '.join(found) or 'none'}, expected "
                f"{', '.join(expected) or 'none'} as it began with. Pass another --output for another run"
            )
    remove_leftovers(output)  # of one that was killed behind its last file
    reporter.say(f"{output} has finished: nothing to go on with")
    show_result(run.result, reporter)
    return run


@contextlib.contextmanager
def _sampling_memory(config: TrainConfig, phases: Phases, reporter: Reporter) -> Iterator[MemorySampler]:
    """Within it memory is sampled; what was sampled of a run that is stopped is kept, and gone on with."""
    earlier = None
    if phases.resumed and (phases.output / MEMORY).is_file():
        try:
            earlier = read_memory_trace(phases.output / MEMORY)
        except RunError as error:
            reporter.warn(f"{error}; sampled from here on")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    sampler = MemorySampler(lambda: phases.doing, torch.cuda.memory_allocated if on_gpu else None, earlier)
    try:
        with sampler:
            yield sampler
    except BaseException:
        if phases.begun:
            _write_memory(sampler, phases, reporter)
        raise


def _write_memory(memory: MemorySampler, phases: Phases, reporter: Reporter) -> None:
    """Write memory.parquet; a run goes on without it."""
    try:
        write_memory_trace(phases.output / MEMORY, memory.trace())
    except OSError as error:
        reporter.warn(f"{phases.output / MEMORY}: not written ({error.strerror}); the run goes on")


def _run_phases(
    config: TrainConfig,
    phases: Phases,
    stop: Stop,
    memory: MemorySampler,
    reporter: Reporter,
    group: Alone | Together,
) -> dict[str, Any]:
    """Everything between the settings and the result, which is written and returned."""
    with Tracking(config.track, reporter) as tracking:
        return _run_tracked(config, phases, stop, memory, tracking, reporter, group)


def _run_tracked(
    config: TrainConfig,
    phases: Phases,
    stop: Stop,
    memory: MemorySampler,
    tracking: Tracking,
    reporter: Reporter,
    group: Alone | Together,
) -> dict[str, Any]:
    machine = Machine.of(config)
    meter = EnergyMeter(str(machine.device))
    counted = meter.read()
    prepared = prepare(config, machine, phases, reporter, group.size)
    learnt = learn(prepared, phases, stop, tracking, reporter, group)
    write_steps(prepared, learnt.losses, phases, reporter)
    if not learnt.writer.history_is_whole:
        learnt.writer.history_from(learnt.trained.history)
    loaded = prepared.loaded
    loaded.model.load_state_dict(learnt.state)
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.settings, prepared.config)
    if isinstance(group, Together):
        group.tell(WEIGHTS, learnt.state)
    scored, settled = score(prepared, predictor, phases, reporter, group)
    phases.doing = "writing the result"
    result = result_of(prepared, learnt.trained, scored, settled, phases, reporter)
    # Of a run that was gone on with, nobody counted the earlier parts; of a group, nobody the other hosts and GPUs.
    counted_all = not phases.resumed and group.num_hosts == 1 and (group.size == 1 or machine.device.type == "cpu")
    result["energy"] = {"joules": meter.joules_since(counted) if counted_all else None, "source": meter.source}
    _write_memory(memory, phases, reporter)
    learnt.writer.result(result)
    tracking.result(result)
    phases.finish()
    return result
