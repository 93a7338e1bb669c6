"""In place of real trainings: processes that write a run's folder at once, with a value that a formula gives."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

from bertwright import runs
from bertwright.config.base import build
from bertwright.config.train import TrainConfig
from bertwright.experiments import sweep_make_tokens

RESULT = {
    "task": "single_label",
    "labels": ["clean", "toxic"],
    "model": "none",
    "data": {"train_sha256": "a", "test_sha256": None},
    "seconds": {"read": 0.0, "tokenize": 0.0, "train": 1.0, "infer": 0.0, "total": 2.0},
    "rates": {},
    "memory": {"peak_process_bytes": 1 << 20, "peak_gpu_bytes": None},
    "cost": {"usd_per_hour": None, "usd": None},
    "extremes": {"highest": [], "lowest": []},
    "steps": 3,
    "best_step": 3,
}


def value_of(config: TrainConfig) -> float:
    """Best, 0.9, at a learning rate of 1e-3; more texts a batch and a higher seed make it a little worse."""
    rate = config.learning_rate or 1e-4
    return 0.9 - 0.1 * abs(math.log10(rate) + 3) - 0.0001 * config.batch_size - 0.01 * config.seed


class FakeProcesses:
    """As ``sweep_processes.Processes``. A trial takes ``num_polls`` calls of ``ended``, and evaluates at each.

    ``began`` are the trials in the order in which they were started; ``fails`` says of a training what its error is;
    ``at_poll`` is called with the instance at each poll. Token ids are made only where ``makes_tokens``; that takes
    ``tokens_s``, which are let pass by ``passes``.
    """

    num_polls = 1
    evaluations = 3
    fails = staticmethod(lambda config: None)
    at_poll = staticmethod(lambda processes: None)
    seconds = 2.0
    usd_per_hour: float | None = None
    makes_tokens = False
    tokens_s = 0.0
    passes = staticmethod(lambda seconds: None)
    began: list[int] = []  # noqa: RUF012  # of all instances: tests clear it

    def __init__(self, kept_open=()):
        self.running: dict[int, tuple[TrainConfig, Path, Path]] = {}
        self.polls: dict[int, int] = {}
        self.over: list[tuple[int, int]] = []
        self.has_cuda = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, number, arguments, threads, log, module="bertwright.cli"):
        if module == sweep_make_tokens.__name__:
            self.passes(self.tokens_s)
            if not self.makes_tokens:
                runs.write_json(Path(arguments[0]) / "made.json", {"made": []})
                self.over.append((number, 0))
                return
            try:
                sweep_make_tokens.main(arguments)
                self.over.append((number, 0))
            except SystemExit as end:
                log.write_text("error: the texts cannot be used")
                self.over.append((number, end.code))
            return
        FakeProcesses.began.append(number)
        settings = json.loads(Path(arguments[2]).read_text())["settings"]
        assert arguments[0] == "train"
        assert settings["resume"] is True
        config = build(TrainConfig, settings)
        self.running[number] = config, Path(config.output), log
        self.polls[number] = 0

    def signal(self, number, which):
        if number in self.running:
            del self.running[number]
            self.over.append((number, -which if which == signal.SIGKILL else 143))

    def wait_for(self, number, check=lambda: None):
        return dict(self.ended(0.0))[number]

    def ended(self, timeout_s):
        self.at_poll(self)
        for number, (config, output, log) in list(self.running.items()):
            self.polls[number] += 1
            error = self.fails(config)
            if error is not None:
                log.write_text(f"something else\nerror: {error}\n")
                self._end(number, 2)
                continue
            self._write(config, output, self.polls[number])
            if self.polls[number] >= self.num_polls:
                result = RESULT | {"metrics": self._metrics(config)}
                if self.usd_per_hour is not None:
                    usd = self.usd_per_hour * self.seconds / 3600
                    result["cost"] = {"usd_per_hour": self.usd_per_hour, "usd": usd}
                result["seconds"] = RESULT["seconds"] | {"total": self.seconds}
                runs.write_json(output / runs.RESULT, result)
                self._end(number, 0)
        found, self.over = self.over, []
        return found

    def _end(self, number, code):
        del self.running[number]
        self.over.append((number, code))

    @staticmethod
    def _metrics(config):
        value = value_of(config)
        test = {"accuracy": value - 0.1, "roc_auc": value - 0.05, "num_texts": 50, "per_class": {}}
        has_validation = bool(config.validation) or (config.validation_share != 0 and not config.test)
        has_validation = has_validation or bool(config.validation_share)
        validation = {"accuracy": value - 0.05, "roc_auc": value, "num_texts": 40}
        return {"train": {}, "validation": validation if has_validation else {}, "test": test if config.test else {}}

    def _write(self, config, output, poll):
        if not output.exists():
            settings = config.model_dump(mode="json") | {"best_metric": "roc_auc"}
            writer = runs.RunWriter(output, "train", settings)
            writer.environment({})
            (output / runs.CHECKPOINTS).mkdir()
        else:
            writer = runs.RunWriter(output, "train", {}, resumed=True)
        share = min(1.0, poll / max(self.num_polls, 1))
        validation = {"roc_auc": value_of(config) * share}
        writer.history({"step": poll, "epoch": poll, "train_loss": 0.1, "learning_rate": 0.1, "validation": validation})
