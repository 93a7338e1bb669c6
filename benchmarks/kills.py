"""Trainings that are killed at random moments and go on with --resume must end as one that was never disturbed.

    python benchmarks/kills.py --kills 50 --seed 0 --output kills.jsonl
    python benchmarks/kills.py --kills 50 --num-processes 2 --output kills-2.jsonl

Each run is disturbed several times, until it ends: by kill -9 or by SIGTERM at a random time, by kill -9 and damage to
what the last checkpoint holds, by files that may grow to a random size only, or by a disk that is full. After each
disturbance nothing on disk may be half-written; at the end the weights, the predictions, the history and the metrics
must be those of the undisturbed run, bit by bit. One JSON line for each run; with an --output that is there already,
the kills in it count.

Of several processes that train together one is disturbed, drawn by chance. The others are then stopped as torchrun
does it, by SIGTERM, where they do not end by themselves.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open

from bertwright import hardware, runs, steps
from bertwright.cli import main
from bertwright.model.checkpoint import empty_model, initial_state, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
from bertwright.training import launch
from bertwright.training.phases import Inputs, Parts, Trained
from bertwright.training.state import Checkpoints, read_sealed

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KINDS = ("kill", "term", "damage", "file size", "full disk")
_MOST_S = 300.0
_STOPS_WITHIN_S = 10.0
_ENDS_BY_ITSELF_S = 1.0  # of the others, once one process of several is lost
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
    the training, and not the start of Python. Or in several, whose place is told them as torchrun does it.

    ``most_bytes``: that any file of the first process, the one that writes, may grow to.
    """

    def __init__(
        self, arguments: list[str], output: Path, log: Path, most_bytes: int | None = None, num_processes: int = 1
    ) -> None:
        self.output, self.log = output, log
        self.started = time.perf_counter()
        self.asked_to_end = 0
        port = launch.free_port()
        context = multiprocessing.get_context("fork")
        hardware.release_openmp_threads()  # a forked process would wait for those of this one for ever
        self.processes = []
        for rank in range(num_processes):
            place = {} if num_processes == 1 else place_of(rank, num_processes, port)
            given = ([*arguments, "--output", str(output)], rank, place, None if rank else most_bytes)
            self._log_of(rank).touch()
            self.processes.append(context.Process(target=self._run, args=given))
            self.processes[-1].start()

    def _run(self, arguments: list[str], rank: int, place: dict[str, str], most_bytes: int | None) -> None:
        os.environ |= place
        log = os.open(self._log_of(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        main(["train", *arguments])

    def signal_at(self, number: int, moment: dict[str, Any], rank: int) -> float | None:
        """Send a signal to one process at a moment, if all still run then; when it was sent."""
        process, until = self.processes[rank], self.started + _MOST_S
        while self._all_run() and not self._is_at(moment) and time.perf_counter() < until:
            time.sleep(0.001)
        process.join(moment["then_s"])
        if not self._all_run():
            return None
        os.kill(process.pid or 0, number)
        return time.perf_counter()

    def _all_run(self) -> bool:
        return all(process.exitcode is None for process in self.processes)

    def _is_at(self, moment: dict[str, Any]) -> bool:
        if "path" in moment:
            return (self.output / moment["path"]).exists()
        return max(runs.checkpoint_steps(self.output), default=0) >= moment.get("step", 0)

    def wait(self) -> tuple[tuple[int, ...], str]:
        """Their exit codes, as subprocess has them, and what the first one said.

        ``asked_to_end`` is then how many others did not end by themselves when one was lost.
        """
        until = time.perf_counter() + _MOST_S
        asked = False
        while any(process.exitcode is None for process in self.processes):
            if time.perf_counter() > until:
                for process in self.processes:
                    process.kill()
                raise TimeoutError(f"{self.output}: not done within {_MOST_S:.0f} s")
            if not asked and any(process.exitcode for process in self.processes):
                asked = True
                grace = time.perf_counter() + _ENDS_BY_ITSELF_S
                for process in self.processes:
                    process.join(max(0.0, grace - time.perf_counter()))
                for process in self.processes:
                    if process.exitcode is None:
                        self.asked_to_end += 1
                        process.terminate()
            time.sleep(0.005)
        for rank in range(1, len(self.processes)):
            assert "Traceback" not in (text := self._log_of(rank).read_text()), text
        return tuple(process.exitcode or 0 for process in self.processes), self.log.read_text()

    def _log_of(self, rank: int) -> Path:
        return self.log.with_name(f"{self.log.name}-{rank}") if rank else self.log


def place_of(rank: int, num_processes: int, port: int) -> dict[str, str]:
    """The variables by which torchrun tells a process its place."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "kills",
    }


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
        "steps of the training": pq.read_table(output / steps.FILE)["loss"].to_pylist(),
        "history": history,
        **result,
    }


def check_folder(output: Path, spoilt: Sequence[tuple[Path, int]] = ()) -> None:
    """Make sure that nothing in a run's folder is half-written; raises where something is.

    ``spoilt``: what ``damage`` damaged, folders of checkpoints and files of best states, and their inodes. They do not
    count until they are written anew.
    """
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
    saved = sorted(runs.checkpoint_steps(output))
    assert len(saved) <= 3, saved  # two, and the one that was just renamed into its place
    for step in saved:
        if any(_is_spoilt(folder / f"step-{step:08}", *one) for one in sorted(spoilt, reverse=True)):
            continue
        checkpoints = Checkpoints(output, Reporter(quiet=True))
        checkpoints.inputs = read_sealed(folder / "inputs.json", Inputs).inputs
        checkpoints._read(folder / f"step-{step:08}", 10**6)


def _is_spoilt(step: Path, path: Path, inode: int) -> bool:
    """Whether a checkpoint needs what was damaged: a folder of its own, or the file of a best state."""
    if path.exists() and path.stat().st_ino != inode:
        return False
    if path.name == step.name:
        return True
    best = json.loads((step / "manifest.json").read_text())["content"]["progress"]["best_step"]
    return path.name == f"best-{best:08}.safetensors"


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


def damage(output: Path, draw: random.Random) -> tuple[dict[str, Any], tuple[Path, int] | None]:
    """Change a byte of a file that the last checkpoint needs, or cut it short, or remove it.

    What was done, if there is such a file, and what ``check_folder`` shall not count.
    """
    folder = output / runs.CHECKPOINTS
    saved = sorted(folder.glob("step-*"))
    found = [path for path in ([*saved[-1].rglob("*"), *folder.glob("best-*")] if saved else []) if path.is_file()]
    if not found:
        return {}, None
    path = draw.choice(sorted(found))
    within = folder / path.relative_to(folder).parts[0]
    spoilt = within, within.stat().st_ino
    held = path.read_bytes()
    how = draw.choice(("changed", "cut", "removed")) if held else "removed"
    if how == "removed":
        path.unlink()
    else:
        place = draw.randrange(len(held))
        after = bytes([held[place] ^ (1 << draw.randrange(8))]) + held[place + 1 :] if how == "changed" else b""
        path.write_bytes(held[:place] + after)
    return {"file": str(path.relative_to(folder)), "how": how}, spoilt


def disturbed(
    arguments: list[str],
    output: Path,
    draw: random.Random,
    duration_s: float,
    kinds: tuple[str, ...],
    most_kills: int,
    num_processes: int = 1,
) -> list[dict[str, Any]]:
    """Run the training in ``output`` to its end, disturbed up to ``most_kills`` times; what was done to it.

    ``duration_s``: how long it takes undisturbed.
    """
    kills: list[dict[str, Any]] = []
    spoilt: list[tuple[Path, int]] = []
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
        training = Training(arguments, output, log, most_bytes, num_processes)
        sent = None
        if kind in ("kill", "term", "damage"):
            kill |= moment_of(draw, max(runs.checkpoint_steps(output), default=0), duration_s)
            kill["rank"] = draw.randrange(num_processes)
            number = signal.SIGTERM if kind == "term" else signal.SIGKILL
            sent = training.signal_at(number, kill, kill["rank"])
        codes, said = training.wait()
        kill["codes"] = codes
        if sent is not None and any(codes):
            kill["stopped_in_s"] = round(time.perf_counter() - sent, 3)
            kill["asked_to_end"] = training.asked_to_end
            assert kill["stopped_in_s"] < _STOPS_WITHIN_S, kill
        last = said.strip().splitlines()[-1] if said.strip() else ""
        if codes[0] == 143:
            assert last.startswith("stopped by SIGTERM while "), said
            kill["while"] = last.split("stopped by SIGTERM while ")[1].split(":")[0]
        if kind == "full disk":
            resize(output.parent, _ROOM)
        assert all_expected(kind, codes, kill.get("rank", 0)), (kill, said)
        assert "Traceback" not in said, said
        if "steps" not in kill:
            kill["steps"] = max(runs.checkpoint_steps(output), default=None)
        kill["warned"] = "no checkpoint could be written" in said
        check_folder(output, spoilt)
        came = sent is not None or kind in ("file size", "full disk")
        if kind == "damage" and any(codes):
            done, damaged = damage(output, draw)
            kill |= done
            spoilt += [damaged] if damaged else []
        if came and (any(codes) or kill["warned"]):
            kills.append(kill)
        elif any(codes):
            raise AssertionError(f"it ended by itself: {kill}, {said}")
        if not any(codes):
            return kills


def all_expected(kind: str | None, codes: tuple[int, ...], rank: int) -> bool:
    """Whether processes may end so. Those that lose another one end with 2 or 128, or by the SIGTERM that follows."""
    if kind is None:
        return not any(codes)
    own = {"kill": (0, -9), "damage": (0, -9), "term": (0, 143, -15)}.get(kind, (0, 2))
    return all(code in (own if place == rank else (0, 2, 128, 143, -15)) for place, code in enumerate(codes))


def run_kills() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="file of lines, added to")
    parser.add_argument("--num-processes", type=int, default=1, help="that train together")
    parser.add_argument("--most", type=int, default=5, help="kills of one run, at most")
    given = parser.parse_args()
    asked = {"case": "kills", "seed": given.seed, "processes": given.num_processes}
    there = map(json.loads, given.output.read_text().splitlines() if given.output.exists() else [])
    lines = [line for line in there if asked.items() <= line.items()]
    done = sum(len(line["kills"]) for line in lines)
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary, small_disk(Path(temporary, "disk")) as disk:
        folder = Path(temporary)
        arguments = prepare(folder)
        started = time.perf_counter()
        size = given.num_processes
        codes, said = Training(arguments, folder / "whole", folder / "log", num_processes=size).wait()
        assert not any(codes), said
        duration_s = time.perf_counter() - started
        expected = record(folder / "whole")
        while done < given.kills:
            number = len(lines)
            draw = random.Random(f"{given.seed} {number}")
            output = (disk or folder) / f"run-{number}"
            kinds = KINDS if disk else KINDS[:-1]
            most = min(given.most, given.kills - done)
            kills = disturbed(arguments, output, draw, duration_s, kinds, most, size)
            found = record(output)
            differing = [name for name in expected if found[name] != expected[name]]
            line = asked | {
                "commit": hardware.source_commit(),
                "run": number,
                "kills": kills,
                "resumed": runs.read_json(output / runs.RESULT)["resumed"],
                "same": not differing,
                "differing": differing,
                "disk": disk is not None,
            }
            lines.append(line)
            with open(given.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            assert not differing, line
            done += len(kills)
            shutil.rmtree(output)
    print(f"{done} kills of {len(lines)} runs: each ended with the bits of the undisturbed one", file=sys.stderr)


if __name__ == "__main__":
    run_kills()
