"""Trainings that are killed at random moments and go on with --resume must end as one that was never disturbed.

    python benchmarks/kills.py --kills 50 --seed 0 --output kills.jsonl

Each run is disturbed several times, until it ends: by kill -9 or by SIGTERM at a random time, by files that may grow to
a random size only, or by a disk that is full. After each disturbance nothing on disk may be half-written; at the end
the weights, the predictions, the history and the metrics must be those of the undisturbed run, bit by bit. One JSON
line for each run; with an --output that is there already, the kills in it count.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open

from bertwright import hardware, runs
from bertwright.cli import main
from bertwright.model.checkpoint import empty_model, initial_state, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
from bertwright.training.phases import Inputs, Parts, Trained
from bertwright.training.state import Checkpoints, read_sealed

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KINDS = ("kill", "term", "file size", "full disk")
_MOST_S = 300.0
_STOPS_WITHIN_S = 10.0
# Files of the tiny model's checkpoints and of the model itself have about 12 and 4 MB.
_FILE_SIZES = (1 << 10, 14 << 20)
_DISK_SIZES = (1 << 10, 60 << 20)
_ROOM = 256 << 20
_NUM_STEPS = 40
_LANDMARKS = (
    *("config.json", "checkpoints/inputs.json", "environment.json", "checkpoints/.step-00000012.partial"),
    *("history.jsonl", "checkpoints/best-00000007.safetensors", ".model.partial", "checkpoints/trained.json", "model"),
    *("checkpoints/scores-test.npy", "predictions.parquet", "predictions_validation.parquet"),
    *("checkpoints/settled.json", "checkpoints/scores-train.json", "result.json"),
)


def prepare(folder: Path, num_texts: int = 240) -> list[str]:
    """The arguments of a training of a tiny random model on some of the demo's texts, which are put in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", num_texts), ("test", num_texts // 3)):
        with open(EXAMPLES / f"comments_{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[: count + 1]
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    tokenizer = load_tokenizer(find_folder("all-MiniLM-L6-v2")[0])
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = empty_model(shape, 2, "first")
    settings = ClassifierSettings(labels=("clean", "toxic"), max_length=32)
    save_model(folder / "tiny", shape, initial_state(model, shape, 0), tokenizer, settings)
    files = [str(folder / "train.csv"), "--test", str(folder / "test.csv"), "--model", str(folder / "tiny")]
    learning = ["--steps", str(_NUM_STEPS), "--eval-every", "7", "--learning-rate", "0.003", "--max-length", "32"]
    return [*files, *learning, "--validation-share", "0.2", "--checkpoint-steps", "1", "--resume"]


class Training:
    """A training in a process of its own, forked from this one, which has loaded everything already: what is killed is
    the training, and not the start of Python.

    ``most_bytes``: that any of its files may grow to.
    """

    def __init__(self, arguments: list[str], output: Path, log: Path, most_bytes: int | None = None) -> None:
        self.output, self.log = output, log
        self.started = time.perf_counter()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._run, args=([*arguments, "--output", str(output)], most_bytes))
        self.process.start()

    def _run(self, arguments: list[str], most_bytes: int | None) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        main(["train", *arguments])

    def signal_at(self, number: int, moment: dict[str, Any]) -> float:
        """Send a signal at a moment, if the training still runs then; when it was sent."""
        while self.process.exitcode is None and not self._is_at(moment):
            time.sleep(0.001)
        self.process.join(moment["then_s"])
        if self.process.exitcode is None:
            os.kill(self.process.pid or 0, number)
        return time.perf_counter()

    def _is_at(self, moment: dict[str, Any]) -> bool:
        if "path" in moment:
            return (self.output / moment["path"]).exists()
        steps = runs.checkpoint_steps(self.output)
        return max(steps, default=0) >= moment.get("step", 0)

    def wait(self) -> tuple[int, str]:
        """Its exit code, as subprocess has it, and what it said."""
        self.process.join(_MOST_S)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"{self.output}: not done within {_MOST_S:.0f} s")
        return code, self.log.read_text()


def record(output: Path) -> dict[str, Any]:
    """What two runs must have in common."""
    run = runs.open_run(output)
    assert run.result is not None
    history = [{name: value for name, value in line.items() if name != "elapsed_s"} for line in run.history]
    model = {path.name: path.read_bytes() for path in sorted(run.model_folder.iterdir())}
    shared = ("labels", "data", "metrics", "judgement", "extremes", "steps", "best_step")
    result = {name: run.result[name] for name in shared}
    return {
        "model": model,
        "predictions": pq.read_table(output / runs.PREDICTIONS).to_pydict(),
        "validation predictions": pq.read_table(output / runs.VALIDATION_PREDICTIONS).to_pydict(),
        "history": history,
        **result,
    }


def check_folder(output: Path) -> None:
    """Make sure that nothing in a run's folder is half-written; raises where something is."""
    if not output.exists() or runs.is_unborn(output):
        return
    run = runs.open_run(output)  # also reads its history
    if (output / runs.MODEL).exists():
        with safe_open(output / runs.MODEL / "model.safetensors", framework="np") as file:
            assert len([file.get_tensor(name) for name in file.keys()]) > 10  # noqa: SIM118 - not a dict
    if (output / runs.PREDICTIONS).exists():
        assert pq.read_table(output / runs.PREDICTIONS).num_rows > 0
    if run.finished:
        assert (output / runs.MODEL).exists()
        assert (output / runs.PREDICTIONS).exists()
        return
    folder = output / runs.CHECKPOINTS
    for name, kind in (("inputs.json", Inputs), ("parts.json", Parts), ("trained.json", Trained)):
        if (folder / name).exists():
            read_sealed(folder / name, kind)
    steps = sorted(runs.checkpoint_steps(output))
    assert len(steps) <= 3, steps  # two, and the one that was just renamed into its place
    for step in steps:
        checkpoints = Checkpoints(output, Reporter(quiet=True))
        checkpoints.inputs = read_sealed(folder / "inputs.json", Inputs).inputs
        checkpoints._read(folder / f"step-{step:08}", 10**6)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk in memory, of ``_ROOM`` bytes until it is made smaller; None where none can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "bertwright-kills", str(folder)],
        capture_output=True,
        check=False,
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True, capture_output=True)


def moment_of(draw: random.Random, step: int, duration_s: float) -> dict[str, Any]:
    """When to send a signal: some time after the start, after a step later than ``step``, or when a file appears."""
    kind = draw.random()
    if kind < 0.25:
        return {"then_s": round(draw.uniform(0, 0.4) * duration_s, 4)}
    if kind < 0.7:
        return {"step": draw.randint(min(step + 1, _NUM_STEPS), _NUM_STEPS), "then_s": round(draw.uniform(0, 0.1), 4)}
    return {"path": draw.choice(_LANDMARKS), "then_s": round(draw.choice((0.003, 0.05)) * draw.random(), 4)}


def disturbed(
    arguments: list[str], output: Path, draw: random.Random, duration_s: float, kinds: tuple[str, ...], most_kills: int
) -> list[dict[str, Any]]:
    """Run the training in ``output`` to its end, disturbed up to ``most_kills`` times; what was done to it.

    ``duration_s``: how long it takes undisturbed.
    """
    kills: list[dict[str, Any]] = []
    log = output.with_name(f"{output.name}.log")
    while True:
        kind = draw.choice(kinds) if len(kills) < most_kills else None
        kill: dict[str, Any] = {"kind": kind}
        most_bytes = None
        if kind == "file size":
            most_bytes = kill["bytes"] = draw.randint(*_FILE_SIZES)
        elif kind == "full disk":
            kill["bytes"] = draw.randint(*_DISK_SIZES)  # that are free
            resize(output.parent, shutil.disk_usage(output.parent).used + kill["bytes"])
        training = Training(arguments, output, log, most_bytes)
        sent = 0.0
        if kind in ("kill", "term"):
            kill |= moment_of(draw, max(runs.checkpoint_steps(output), default=0), duration_s)
            sent = training.signal_at(signal.SIGKILL if kind == "kill" else signal.SIGTERM, kill)
        code, said = training.wait()
        kill["code"] = code
        if code == 143:
            kill["stopped_in_s"] = round(time.perf_counter() - sent, 3)
            assert kill["stopped_in_s"] < _STOPS_WITHIN_S, kill
        if code == 143:
            assert said.strip().splitlines()[-1].startswith("stopped by SIGTERM while "), said
            kill["while"] = said.strip().splitlines()[-1].split("stopped by SIGTERM while ")[1].split(":")[0]
        if kind == "full disk":
            resize(output.parent, _ROOM)
        assert code in {"kill": (0, -9), "term": (0, 143, -15), None: (0,)}.get(kind, (0, 2)), (kill, said)
        assert "Traceback" not in said, said
        if "steps" not in kill:
            kill["steps"] = max(runs.checkpoint_steps(output), default=None)
        kill["warned"] = "no checkpoint could be written" in said
        check_folder(output)
        if kind is not None and (code != 0 or kill["warned"]):
            kills.append(kill)
        if code == 0:
            return kills


def run_kills() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="file of lines, added to")
    parser.add_argument("--most", type=int, default=5, help="kills of one run, at most")
    given = parser.parse_args()
    lines = given.output.read_text().splitlines() if given.output.exists() else []
    done = sum(len(json.loads(line)["kills"]) for line in lines)
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary, small_disk(Path(temporary, "disk")) as disk:
        folder = Path(temporary)
        arguments = prepare(folder)
        started = time.perf_counter()
        code, said = Training(arguments, folder / "whole", folder / "log").wait()
        assert code == 0, said
        duration_s = time.perf_counter() - started
        expected = record(folder / "whole")
        while done < given.kills:
            number = len(lines)
            draw = random.Random(f"{given.seed} {number}")
            output = (disk or folder) / f"run-{number}"
            kinds = KINDS if disk else KINDS[:-1]
            kills = disturbed(arguments, output, draw, duration_s, kinds, min(given.most, given.kills - done))
            found = record(output)
            differing = [name for name in expected if found[name] != expected[name]]
            line = {
                "case": "kills",
                "commit": hardware.source_commit(),
                "run": number,
                "seed": given.seed,
                "kills": kills,
                "resumed": runs.read_json(output / runs.RESULT)["resumed"],
                "same": not differing,
                "differing": differing,
                "disk": disk is not None,
            }
            lines.append(json.dumps(line))
            with open(given.output, "a", encoding="utf-8") as file:
                file.write(lines[-1] + "\n")
            print(lines[-1], flush=True)
            assert not differing, line
            done += len(kills)
            shutil.rmtree(output)
    print(f"{done} kills of {len(lines)} runs: each ended with the bits of the undisturbed one", file=sys.stderr)


if __name__ == "__main__":
    run_kills()
