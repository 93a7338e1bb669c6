"""The act of pretraining: from files of texts without labels to a saved model that ``train`` takes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware, runs
from bertwright.config.base import build, expand_home
from bertwright.config.pretrain import PretrainConfig
from bertwright.data.corpus import Corpus, corpus_of
from bertwright.data.masking import Masking, Vocabulary
from bertwright.data.vocabulary import vocabulary_of
from bertwright.errors import UserError
from bertwright.evaluation.show import show_pretraining
from bertwright.model.encoder import SIZES
from bertwright.model.gpu_encoder import Work
from bertwright.model.masked_checkpoint import LoadedMasked, load_masked, save_masked
from bertwright.model.masked_language_model import TABLE
from bertwright.progress import Reporter
from bertwright.training.on_its_way import goes_on, on_its_way
from bertwright.training.phases import Inputs, Phases, Trained
from bertwright.training.prepare import Machine
from bertwright.training.pretrain_loop import Pretrained, Pretraining, Sequences, num_steps_of
from bertwright.training.resume import check_same, recorded_settings
from bertwright.training.schedule import budget_seconds
from bertwright.training.state import Checkpoints
from bertwright.training.stop import Stop
from bertwright.training.trace import weights_sha256

ACT = "pretrain"
# More held-out tokens than this are not looked at: a look must cost little beside what is learnt between two.
_MOST_HELD_OUT_TOKENS = 131_072
# Most tokens computed at once on a CPU where nothing else is asked for.
_TOKENS_AT_ONCE = 16_384
# Learning rates from nothing, by the width from which on they hold, and of weights that learn on.
_RATES = ((1024, 1e-4), (768, 2e-4), (512, 5e-4), (0, 1e-3))
_RATE_OF_LEARNT_WEIGHTS = 1e-4
# What may be given anew when a run goes on.
_FREE = {
    *("output", "overwrite", "resume", "checkpoint_minutes", "checkpoint_steps", "token_budget", "usd_per_hour"),
    *("device", "dtype", "compile", "corpus", "model", "tokenizer", "cache", "word_embeddings"),
}


def pretrain(
    corpus: str | Path | Sequence[str | Path] | None = None, *, quiet: bool = False, **settings: Any
) -> runs.Run:
    """Learn from the texts in ``corpus`` (a file or several) by guessing masked tokens, and return the run.

    ``settings`` are those of ``bertwright pretrain``: ``pretrain("wikipedia.parquet", budget="30m")``.
    The run's folder is a model for ``train``. ``pretrain(resume=True, output="runs/tiny")`` goes on with a run that was
    stopped.

    Raises:
        UserError: bad settings, a corpus or model that cannot be used, an output in the way, a loss that is no number.
    """
    given = dict(settings)
    if corpus is not None:
        given["corpus"] = corpus
    return run_pretraining(pretrain_config(given), Reporter(quiet=quiet, results=not quiet))


def pretrain_config(given: Mapping[str, Any], source: str = "") -> PretrainConfig:
    """The settings of a pretraining; with ``resume`` and a run in ``output``, those on record there.

    Raises:
        UserError: as ``build``; nothing to go on with; another setting than on record.
    """
    output = Path(expand_home(os.fspath(given["output"]))) if given.get("output") else None
    if not given.get("resume") or output is None or not output.exists() or runs.is_unborn(output):
        if given.get("resume") and not given.get("corpus"):
            found = "pass --output RUN" if output is None else f"{output} is none; pass another --output"
            raise UserError(f"--resume needs the run to go on with: {found}, or the files of the corpus")
        return build(PretrainConfig, given, source)
    if given.get("overwrite"):
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    recorded = recorded_settings(output, ACT)
    corpus = given.get("corpus") or recorded.get("corpus") or ()
    check_same(PretrainConfig, output, recorded, {**given, "corpus": corpus}, source, _FREE)
    free = {name: value for name, value in given.items() if name in _FREE and value not in (None, ())}
    return build(PretrainConfig, {**recorded, **free}, str(output / runs.CONFIG))


def run_pretraining(config: PretrainConfig, reporter: Reporter) -> runs.Run:
    """Read, tokenise, learn, look, save: a run folder, shown and returned.

    With ``config.resume`` what is on disk already is used again, and a finished run is only shown.
    """
    config = _with_output(config)
    output = Path(config.output or "")
    resumed = goes_on(config.resume, output)
    if resumed and (output / runs.RESULT).is_file():
        run = runs.open_run(output)
        reporter.say(f"{output} has finished: nothing to go on with")
        show_pretraining(run.result or {}, reporter)
        return run
    if not resumed:
        runs.prepare_output(output, config.overwrite)
    with on_its_way(output, reporter, resumed) as (phases, stop):
        result = _run_phases(config, phases, stop, reporter)
    show_pretraining(result, reporter)
    reporter.say(f"run: {output}")
    return runs.open_run(output)


def _with_output(config: PretrainConfig) -> PretrainConfig:
    if config.output is not None:
        return config
    data, model = Path(config.corpus[0]).name.split(".")[0] or "corpus", Path(config.model).name or "model"
    path = Path("runs") / f"{data}-{model}-pretrained"
    return config.model_copy(update={"output": str(path if config.resume else runs.free_name(path))})


def _run_phases(config: PretrainConfig, phases: Phases, stop: Stop, reporter: Reporter) -> dict[str, Any]:
    machine = _machine(config)
    budget_s = None if config.budget is None else budget_seconds(config.budget)
    loaded = _load(config, reporter)
    config = _with_rate(config, loaded)
    originals = dict(loaded.model.state_dict())
    initial_weights = weights_sha256(  # now: they are updated in place
        # Of words that another model gave the last bits depend on the number of threads: that model's are on record.
        {name: weight for name, weight in originals.items() if name != TABLE or loaded.words_sha256 is None}
    )
    phases.doing = "reading"
    corpus = _read(config, loaded, phases, reporter)
    learnt, held_out = _sequences(config, corpus, loaded, machine, reporter)
    inputs = _inputs(config, corpus, loaded, initial_weights, machine)
    if phases.resumed:
        phases.check_inputs(inputs)
    trained = phases.trained()
    num_steps = num_steps_of(config, learnt.lengths)
    model = loaded.model.to(machine.device).compute_in(machine.dtype, config.compile == "auto")
    tokens = int(learnt.lengths.mean() * len(learnt)) if num_steps is None else num_steps * config.batch_tokens
    if config.compile == "auto":
        model.compile_for(Work(tokens, num_steps or 1_000_000))
    model.train()
    chosen = model.describe()
    reporter.say(
        f"computing on {machine.device} in {machine.dtype_name}: {machine.dtype_reason}; compiled: {chosen['compile']} "
        f"({chosen['compile_reason']}); cross-entropy: {chosen['cross_entropy']}; {torch.get_num_threads()} threads"
    )
    if config.overwrite:
        with stop.uninterrupted():
            runs.clear_output(phases.output)
        stop.check()
    writer = runs.RunWriter(phases.output, ACT, _rerunnable(config), phases.resumed, not phases.inputs_known)
    phases.begun = True
    if not phases.resumed:
        phases.lock()
        phases.check_inputs(inputs)
    if trained is None:
        writer.environment(_environment(machine, chosen, loaded))
        with stop.deferred():
            phases.doing = "pretraining"
            outcome = _learn(
                config, num_steps, budget_s, loaded, originals, learnt, held_out, inputs, machine, phases, writer, stop,
                reporter,
            )  # fmt: skip
            phases.doing = "saving the model"
            trained = _save(outcome, loaded, originals, phases)
    else:
        reporter.say(f"the training is over: {trained.steps:,} steps, going on with {phases.output / runs.MODEL}")
    writer.history_from(trained.history)
    phases.doing = "writing the result"
    result = _result(config, trained, corpus, learnt, held_out, loaded, machine, phases)
    writer.result(result)
    phases.finish()
    return result


def _machine(config: PretrainConfig) -> Machine:
    machine = Machine.of(config)
    if config.token_budget is None and machine.device.type == "cpu":
        # The gradient of all token embeddings is made in each part of a step: fewer parts are faster.
        machine = replace(machine, token_budget=max(machine.token_budget, _TOKENS_AT_ONCE))
    return machine


def _load(config: PretrainConfig, reporter: Reporter) -> LoadedMasked:
    tokenizer = config.tokenizer
    if config.train_vocabulary is not None:
        if config.model not in SIZES or Path(config.model).is_dir():
            raise UserError(
                f"--train-vocabulary: {config.model} has a vocabulary of its own; it is for {', '.join(SIZES)}"
            )
        where = (config.text_column, config.documents, config.on_bad_row)
        folder = vocabulary_of(config.corpus, config.train_vocabulary, config.cased, _cache(config), reporter, *where)
        tokenizer = str(folder)
    dropouts = {
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
    }
    starts = (config.initializer_range, config.word_embeddings)
    loaded = load_masked(config.model, config.max_length, config.seed, tokenizer, dropouts, *starts)
    reporter.say(f"model: {loaded.description}")
    for note in loaded.notes:
        reporter.say(f"model: {note}")
    if config.freeze_word_embeddings and loaded.is_new and config.word_embeddings is None:
        reporter.warn("--freeze-word-embeddings keeps random ones, which know no words: --word-embeddings gives better")
    if loaded.tokenizer.engine != "nanotoken":
        reporter.say(f"tokenising with tokenizers, which is slower: {loaded.tokenizer.reason}")
    return loaded


def _with_rate(config: PretrainConfig, loaded: LoadedMasked) -> PretrainConfig:
    if config.learning_rate is not None:
        return config
    width = loaded.model.config.hidden_size
    rate = next(rate for least, rate in _RATES if width >= least) if loaded.is_new else _RATE_OF_LEARNT_WEIGHTS
    return config.model_copy(update={"learning_rate": rate})


def _cache(config: PretrainConfig) -> Path:
    if config.cache is not None:
        return Path(config.cache)
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "bertwright" / "corpora"


def _read(config: PretrainConfig, loaded: LoadedMasked, phases: Phases, reporter: Reporter) -> Corpus:
    started = time.perf_counter()
    corpus = corpus_of(
        config.corpus,
        loaded.tokenizer,
        config.tokenizer or config.model,
        _cache(config),
        reporter,
        config.text_column,
        config.documents,
        config.on_bad_row,
    )
    phases.spent("tokenize", corpus.tokenize_s)
    phases.spent("read", time.perf_counter() - started - corpus.tokenize_s)
    for note in corpus.notes:
        reporter.say(note)
    return corpus


def _sequences(
    config: PretrainConfig, corpus: Corpus, loaded: LoadedMasked, machine: Machine, reporter: Reporter
) -> tuple[Sequences, Sequences | None]:
    """What is learnt from, and what is held out if anything is."""
    name = config.tokenizer or config.model
    masking = Masking(Vocabulary.of(loaded.tokenizer, name), config.mask_share, config.whole_words)
    rows, held = corpus.split(config.validation_share, _MOST_HELD_OUT_TOKENS, config.seed)

    def of(rows: np.ndarray) -> Sequences:
        cut = corpus.sequences(rows, loaded.tokenizer, config.max_length, name)
        if not len(cut):
            raise UserError(
                f"{config.corpus[0]}: found no words in {len(rows):,} documents, expected some to learn from"
            )
        return Sequences(cut, masking, machine.device)

    learnt, held_out = of(rows), of(held) if len(held) else None
    reporter.say(
        f"corpus: {corpus.num_documents:,} documents, {corpus.num_tokens:,} tokens; {len(learnt):,} sequences of up to "
        f"{config.max_length} tokens to learn from"
        + ("" if held_out is None else f"; {len(held):,} documents held out")
    )
    return learnt, held_out


def _inputs(
    config: PretrainConfig, corpus: Corpus, loaded: LoadedMasked, initial_weights_sha256: str, machine: Machine
) -> Inputs:
    settings = {name: value for name, value in _rerunnable(config).items() if name not in _FREE}
    return Inputs(
        inputs={
            **{"--" + name.replace("_", "-"): value for name, value in settings.items()},
            "corpus (its files' SHA-256)": corpus.sha256,
            "tokenizer (its SHA-256)": loaded.tokenizer.sha256,
            "model (its weights' SHA-256)": initial_weights_sha256,
            **({} if loaded.words_sha256 is None else {"--word-embeddings (their SHA-256)": loaded.words_sha256}),
        },
        machine={
            "device": str(machine.device),
            "dtype": machine.dtype_name,
            "threads": torch.get_num_threads(),
            "version of torch": torch.__version__,
        },
    )


def _rerunnable(config: PretrainConfig) -> dict[str, Any]:
    """The resolved settings as they can be given again."""
    return config.model_dump(mode="json", exclude_none=True, exclude={"overwrite", "resume"})


def _environment(machine: Machine, chosen: dict[str, str], loaded: LoadedMasked) -> dict[str, Any]:
    return {
        **hardware.describe(machine.device),
        "dtype": machine.dtype_name,
        "dtype_reason": machine.dtype_reason,
        **chosen,
        "tokenizer": loaded.tokenizer.engine,
        "tokenizer_reason": loaded.tokenizer.reason,
        "token_budget": machine.token_budget,
        "model": loaded.description,
        "model_notes": loaded.notes,
    }


def _learn(
    config: PretrainConfig,
    num_steps: int | None,
    budget_s: float | None,
    loaded: LoadedMasked,
    originals: dict[str, Tensor],
    learnt: Sequences,
    held_out: Sequences | None,
    inputs: Inputs,
    machine: Machine,
    phases: Phases,
    writer: runs.RunWriter,
    stop: Stop,
    reporter: Reporter,
) -> Pretrained:
    def record(line: dict[str, Any]) -> None:
        if not writer.history(line):
            reporter.warn(f"{phases.output / runs.HISTORY}: a line could not be written; it will be with a later one")

    writer.history_from(())
    checkpoints = Checkpoints(
        phases.output,
        reporter,
        config.checkpoint_minutes,
        config.checkpoint_steps,
        inputs.inputs,
        on_saved=phases.note_time,
    )
    length = f"{num_steps:,} steps" if num_steps is not None else str(config.budget)
    reporter.say(
        f"pretraining for {length}, steps of up to {config.batch_tokens:,} tokens, learning rate "
        f"{config.learning_rate:g} after {config.warmup_ratio:.0%} warm-up"
    )
    training = Pretraining(
        loaded.model, originals, learnt, held_out, config, num_steps, budget_s, machine.token_budget, record, reporter,
        checkpoints, stop,
    )  # fmt: skip
    return training.run()


def _save(outcome: Pretrained, loaded: LoadedMasked, originals: dict[str, Tensor], phases: Phases) -> Trained:
    progress = outcome.progress
    trained = Trained(
        steps=progress.steps,
        best_step=progress.steps,
        train_s=progress.train_s,
        num_texts=progress.num_texts,
        num_tokens=progress.num_tokens,
        token_budget=progress.token_budget,
        history=progress.history,
    )
    phases.save_model(
        trained,
        outcome.losses,
        lambda folder: save_masked(folder, loaded.saved_config, originals | outcome.state, loaded.tokenizer),
    )
    return trained


def _result(
    config: PretrainConfig,
    trained: Trained,
    corpus: Corpus,
    learnt: Sequences,
    held_out: Sequences | None,
    loaded: LoadedMasked,
    machine: Machine,
    phases: Phases,
) -> dict[str, Any]:
    rate = trained.num_tokens / trained.train_s if trained.train_s else None
    last = trained.history[-1]["validation"] if trained.history else {}
    total_s = phases.seconds("total")
    return {
        "task": "masked_language_model",
        "labels": [],
        "model": loaded.description,
        "data": {
            "documents": corpus.num_documents,
            "corpus_tokens": corpus.num_tokens,
            "train_sequences": len(learnt),
            "validation_sequences": 0 if held_out is None else len(held_out),
            "mean_sequence_tokens": float(learnt.lengths.mean()),
            "corpus_sha256": corpus.sha256,
            "tokens_learnt_from": trained.num_tokens,
            "epochs": trained.num_texts / len(learnt),
        },
        "seconds": {
            "read": phases.seconds("read"),
            "tokenize": phases.seconds("tokenize"),
            "train": trained.train_s,
            "infer": None,
            "total": total_s,
        },
        "rates": {"train_tokens_per_s": rate, "train_batches_per_s": trained.steps / max(trained.train_s, 1e-9)},
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(machine.device),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": {"validation": last} if last else {},
        "extremes": {"highest": [], "lowest": []},
        "steps": trained.steps,
        "best_step": trained.best_step,
        "resumed": phases.num_resumed,
    }
