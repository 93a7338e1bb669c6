"""Several processes that train one model: the same as one alone, whatever happens to one of them."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from tests.conftest import REPOSITORY
from tests.scripts import load_script

from bertwright import parent, runs
from bertwright.config.base import build
from bertwright.config.train import TrainConfig
from bertwright.errors import Interrupted, UserError
from bertwright.progress import Reporter
from bertwright.training import distributed, follow, launch, learners, loop, torchrun
from bertwright.training.distributed import Alone, in_shares, shares
from bertwright.training.train import run_training

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")
_STEPS = 14
place_of = load_script("kills").place_of


def settings_of(folder, output, **more):
    return {
        "train": (str(folder / "train.csv"),),
        "test": (str(folder / "test.csv"),),
        "model": str(folder / "tiny"),
        "output": str(output),
        "validation_share": 0.2,
        "steps": _STEPS,
        "eval_every": 5,
        "learning_rate": 0.003,
        "max_length": 32,
        "dtype": "float32",
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.0,
        "device": "cpu",
        **more,
    }


def train_in(place, settings, log):
    """What a forked process does: what torchrun's would, which is told its ``place`` by variables."""
    with open(log, "w", buffering=1) as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = file
        os.environ |= place
        try:
            run_training(build(TrainConfig, settings), Reporter(quiet=False, results=False))
        except UserError as error:
            print(f"error: {error}", file=file)
            os._exit(2)
        except SystemExit as stop:
            os._exit(stop.code)
        except BaseException:  # noqa: BLE001  # shown by the test
            traceback.print_exc(file=file)
            os._exit(99)
        os._exit(0)


def start(size, settings, logs):
    """Processes forked from this one, which has loaded everything already, that train together."""
    context, port = multiprocessing.get_context("fork"), launch.free_port()
    logs.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=train_in, args=(place_of(rank, size, port), settings, logs / f"{rank}.log"))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def train_by(size, settings, logs, exit_codes=(0,)):
    processes = start(size, settings, logs)
    for process in processes:
        process.join(100)
    said = [(logs / f"{rank}.log").read_text() for rank in range(size)]
    assert {process.exitcode for process in processes} <= set(exit_codes), said
    return said


def losses_of(output):
    return pq.read_table(Path(output) / "steps.parquet")["loss"].to_numpy()


def weights_of(output):
    return load_file(Path(output) / "model" / "model.safetensors")


def scores_of(output):
    table = pq.read_table(Path(output) / "predictions.parquet")
    names = [name for name in table.column_names if name.startswith("score_")]
    return np.stack([table[name].to_numpy() for name in names or ["predicted"]])  # of a regression, the number


def assert_same_bits(one, other):
    assert losses_of(one).tobytes() == losses_of(other).tobytes()
    expected = weights_of(other)
    assert all(weight.tobytes() == expected[name].tobytes() for name, weight in weights_of(one).items())
    assert scores_of(one).tobytes() == scores_of(other).tobytes()


def assert_close(one, other):
    np.testing.assert_allclose(losses_of(one), losses_of(other), rtol=0, atol=1e-5)
    expected = weights_of(other)
    for name, weight in weights_of(one).items():
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(scores_of(one), scores_of(other), rtol=0, atol=1e-5)
    found, metrics = (json.loads((Path(each) / "result.json").read_text()) for each in (one, other))
    assert found["metrics"]["test"]["log_loss"] == pytest.approx(metrics["metrics"]["test"]["log_loss"], abs=1e-5)
    assert found["best_step"] == metrics["best_step"]
    assert found["metrics"]["validation"]["accuracy"] == metrics["metrics"]["validation"]["accuracy"]


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_texts", [0, 1, 2, 32, 257])
def test_shares_are_each_text_once_and_about_as_many_tokens_each(size, num_texts):
    lengths = np.random.default_rng(0).integers(3, 220, num_texts)
    found = shares(lengths, size)
    assert sorted(np.concatenate(found).tolist()) == list(range(num_texts))
    assert all(np.array_equal(rows, np.sort(rows)) for rows in found)
    if num_texts:
        tokens = [lengths[rows].sum() for rows in found]
        assert max(tokens) - min(tokens) <= lengths.max()


def test_what_is_computed_in_shares_lies_where_it_belongs():
    class Two(Alone):
        size = 2

        def __init__(self, rank):
            self.rank = rank

        def gather(self, tensor, counts):
            assert len(tensor) == counts[self.rank]
            places = shares(lengths, 2)
            return [torch.from_numpy(compute(rows)) for rows in places]

    lengths = np.array([5, 9, 3, 9, 4])
    values = np.arange(10, dtype=np.float32).reshape(5, 2)

    def compute(rows):
        return values[rows]

    for rank in range(2):
        assert np.array_equal(in_shares(Two(rank), lengths, compute), values)
    assert np.array_equal(in_shares(Alone(), lengths, compute), values)


def test_what_is_sent_is_json_and_tensors_and_comes_back_the_same():
    tensors = []
    value = {"a": [1, 2.5, None, "x"], "t": torch.arange(6).view(2, 3), "n": (np.float32([0.5]), torch.tensor(3.0))}
    text = json.dumps(distributed._without_tensors(value, tensors))
    found = distributed._with_tensors(json.loads(text), lambda dtype, shape: tensors.pop(0).view(shape))
    assert found["a"] == [1, 2.5, None, "x"]
    assert torch.equal(found["t"], value["t"])
    assert found["n"][0].tolist() == [0.5]
    assert found["n"][1].shape == ()
    with pytest.raises(TypeError):  # nothing that would have to be pickled
        json.dumps(distributed._without_tensors({"model": torch.nn.Linear(1, 1)}, []))


def test_more_processes_than_gpus_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = build(TrainConfig, settings_of(folder, tmp_path / "run", device="cuda", num_processes=3))
    with pytest.raises(UserError, match=r"found 3, but this machine shows 2 CUDA devices.*--device cpu"):
        run_training(config, Reporter(quiet=True, results=False))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backend", "device"), [("gloo", "cpu"), pytest.param("cpu:gloo,cuda:nccl", "cuda", marks=pytest.mark.gpu)]
)
def test_a_group_sums_gathers_and_sends(backend, device):
    """A group of one, which needs one GPU alone: each way that numbers go is gone."""
    collective = distributed.collective
    store = collective.HashStore()
    collective.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        group = distributed.Together(store)
        numbers = torch.arange(6.0, device=device).view(3, 2)
        group.sum_(numbers)
        assert numbers.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert torch.equal(group.gather(numbers[:2], [2])[0], numbers[:2])
        assert group.exchange(np.array([3, 4])).tolist() == [[3, 4]]
        assert group.gather_text("é") == ["é"]
        value = group.broadcast({"step": 3, "weights": numbers})
        assert torch.equal(value["weights"], numbers)
    finally:
        collective.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_as_one_does(folder, tmp_path):
    flags = settings_of(folder, tmp_path, device="cuda")
    words = [sys.executable, "-m", "bertwright", "train", *flags.pop("train"), "--test", *flags.pop("test")]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if name != "output"]
    for size in (1, 2):
        subprocess.run([*words, f"--num-processes={size}", f"--output={tmp_path / str(size)}"], check=True, timeout=300)
    np.testing.assert_allclose(losses_of(tmp_path / "2"), losses_of(tmp_path / "1"), rtol=0, atol=1e-3)


# --- the same training ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "run"
    run_training(build(TrainConfig, settings_of(folder, output)), Reporter(quiet=True, results=False))
    return output


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    """A run of two processes that is not disturbed."""
    output = tmp_path_factory.mktemp("two") / "run"
    train_by(2, settings_of(folder, output), output.parent / "logs")
    return output


def test_two_processes_train_as_one_does(alone, two):
    assert_close(two, alone)
    assert (two.parent / "logs" / "1.log").read_text() == ""  # who follows says nothing
    assert "2 processes" in (two.parent / "logs" / "0.log").read_text()
    assert not (two / runs.CHECKPOINTS).exists()


@pytest.mark.parametrize(
    ("size", "more"),
    [
        (3, {}),
        (3, {"batch_size": 2}),  # fewer texts than processes
        (2, {"optimizer": "adamax", "clip": "each"}),
        (2, {"token_budget": 100, "average_weights": 0.5}),
        (2, {"freeze_encoder": True}),
        (2, {"freeze_encoder": True, "cache_features": False}),
        (2, {"pooling": "mean", "long_texts": "windows", "max_length": 12}),
        (2, {"test": (), "validation_share": 0.0}),
    ],
    ids=["three", "few texts", "adamax", "parts", "frozen", "frozen anew", "windows", "nothing held out"],
)
def test_any_training_is_that_of_one_process(size, more, folder, tmp_path):
    settings = settings_of(folder, tmp_path / "one", **more)
    run_training(build(TrainConfig, settings), Reporter(quiet=True, results=False))
    train_by(size, {**settings, "output": str(tmp_path / "group")}, tmp_path / "logs")
    if settings["test"]:
        assert_close(tmp_path / "group", tmp_path / "one")
    else:
        np.testing.assert_allclose(losses_of(tmp_path / "group"), losses_of(tmp_path / "one"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["regression", "multi-label", "soft"])
def test_every_kind_of_labels_is_learnt_from_as_by_one_process(kind, folder, tmp_path):
    numbers = np.random.default_rng(0).random((90, 2))
    if kind == "multi-label":
        numbers = numbers.round().astype(int)
    lines = [f"text number {i} of them,{one},{other}" for i, (one, other) in enumerate(numbers.tolist())]
    (tmp_path / "labels.csv").write_text("\n".join(["text,one,other", *lines]) + "\n")
    more = {
        "train": (str(tmp_path / "labels.csv"),),
        "test": (),
        "model": "bert-tiny",
        "label_kind": kind,
        "label_column": ("one", "other") if kind == "multi-label" else ("one",),
        "steps": 6,
    }
    run_training(build(TrainConfig, settings_of(folder, tmp_path / "one", **more)), Reporter(quiet=True, results=False))
    train_by(2, settings_of(folder, tmp_path / "group", **more), tmp_path / "logs")
    np.testing.assert_allclose(losses_of(tmp_path / "group"), losses_of(tmp_path / "one"), rtol=0, atol=1e-5)
    found, expected = (scores_of(tmp_path / name) for name in ("group", "one"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_in_bfloat16_with_dropout_it_is_the_same_whenever_it_is_done_again(folder, tmp_path):
    for name in ("first", "second"):
        settings = settings_of(folder, tmp_path / name, dtype="bfloat16", hidden_dropout=0.1)
        train_by(2, settings, tmp_path / "logs")
    assert_same_bits(tmp_path / "first", tmp_path / "second")


# --- accidents --------------------------------------------------------------------------------------------------------


def kill_after_steps(monkeypatch, rank, steps, number):
    """A signal for the process of ``rank``, once, in the midst of the step behind ``steps``."""
    collected = loop._Training._collected_gradients

    def collect(self, rows, num_texts):
        if self.progress.steps == steps and self.group.rank == rank and self.progress.train_s >= 0:
            os.kill(os.getpid(), number)
        return collected(self, rows, num_texts)

    monkeypatch.setattr(loop._Training, "_collected_gradients", collect)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_in_the_midst_of_a_step_ends_all_and_they_go_on_to_the_same_weights(
    rank, folder, tmp_path, monkeypatch
):
    settings = settings_of(folder, tmp_path / "whole", hidden_dropout=0.1)
    train_by(2, settings, tmp_path / "logs")
    with monkeypatch.context() as context:
        kill_after_steps(context, rank, 8, signal.SIGKILL)
        killed = {**settings, "output": str(tmp_path / "killed"), "checkpoint_steps": 3}
        said = train_by(2, killed, tmp_path / "logs", exit_codes=(-signal.SIGKILL, 2, 128))
        if rank:
            assert "error: process 1 of 2: the other processes of the training cannot be reached" in said[0]
    assert runs.checkpoint_steps(tmp_path / "killed") == [3, 6]
    train_by(2, {**killed, "resume": True}, tmp_path / "logs")
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")


def test_sigterm_for_one_process_saves_the_state_and_ends_all(folder, tmp_path, monkeypatch, two):
    settings = settings_of(folder, tmp_path / "run")
    with monkeypatch.context() as context:
        kill_after_steps(context, 1, 6, signal.SIGTERM)
        said = train_by(2, settings, tmp_path / "logs", exit_codes=(143,))
    assert "stopped by SIGTERM while training: step 7 is kept" in said[0]
    train_by(2, {**settings, "resume": True}, tmp_path / "logs")
    assert_same_bits(tmp_path / "run", two)


def test_a_group_goes_on_with_the_run_of_one_process_and_says_so(folder, tmp_path, monkeypatch, alone):
    settings = settings_of(folder, tmp_path / "run")
    with monkeypatch.context() as context:
        kill_after_steps(context, 0, 6, signal.SIGTERM)
        train_by(1, settings, tmp_path / "logs", exit_codes=(143,))
    said = train_by(2, {**settings, "resume": True}, tmp_path / "logs")
    assert "WARNING: processes: 2, but 1 when the run began" in said[0]
    assert_close(tmp_path / "run", alone)


def test_memory_that_runs_out_in_one_process_lets_all_do_the_step_again(folder, tmp_path, monkeypatch, two):
    logits, failed = learners.WholeModel.logits, []

    def short_of_memory(self, rows):
        if os.environ.get("RANK") == "1" and self.token_budget > 64:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(self, rows)

    monkeypatch.setattr(learners.WholeModel, "logits", short_of_memory)
    train_by(2, settings_of(folder, tmp_path / "run"), tmp_path / "logs")
    assert_close(tmp_path / "run", two)


def test_a_loss_that_is_no_number_is_said_by_all_and_ends_all(folder, tmp_path):
    settings = settings_of(folder, tmp_path / "run", learning_rate=1e30, max_grad_norm=0.0)
    said = train_by(2, settings, tmp_path / "logs", exit_codes=(2,))
    assert "Lower --learning-rate" in said[0]
    assert not (tmp_path / "run" / "model").exists()


def test_texts_that_cannot_be_used_end_all_at_once(folder, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    said = train_by(
        2, settings_of(folder, tmp_path / "run", train=(str(tmp_path / "empty.csv"),)), tmp_path / "logs", (0, 2)
    )
    assert said[0].count("error: ") == 1
    assert said[1] == ""
    assert not (tmp_path / "run").exists()


# --- torchrun ---------------------------------------------------------------------------------------------------------


def command(folder, output, *more):
    flags = {name: value for name, value in settings_of(folder, output).items() if name != "train"}
    given = []
    for name, value in flags.items():
        given += ["--" + name.replace("_", "-"), value[0] if isinstance(value, tuple) else str(value)]
    return [sys.executable, "-m", "bertwright", "train", str(folder / "train.csv"), *given, *more]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src"), **more}


def wait_until(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def children_of(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_num_processes_starts_torchrun_which_starts_lost_processes_again(folder, tmp_path, alone):
    shutil.copytree(alone, tmp_path / "run")  # an old run, that is to be replaced
    arguments = command(folder, tmp_path / "run", "--num-processes", "2", "--checkpoint-steps", "1", "--overwrite")
    arguments[arguments.index("--steps") + 1] = "60"
    process = subprocess.Popen(
        arguments, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip

    def workers():
        return [worker for torchrun in children_of(process.pid) for worker in children_of(torchrun)]

    wait_until(lambda: len(workers()) == 2, process)
    os.kill(min(workers()), signal.SIGKILL)  # before the old run is gone: nothing to go on with
    wait_until(lambda: max(runs.checkpoint_steps(tmp_path / "run"), default=0) > 4, process)
    os.kill(max(workers()), signal.SIGKILL)
    step = max(runs.checkpoint_steps(tmp_path / "run"))
    wait_until(lambda: max(runs.checkpoint_steps(tmp_path / "run")) > step + 4, process)
    os.kill(process.pid, signal.SIGINT)  # for it alone, as by kill and not by a terminal
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert "going on after step" in said
    assert "stopped by Ctrl-C while training" in said
    assert "SignalException" not in said
    arguments[arguments.index("--overwrite")] = "--resume"
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "roc_auc" in done.stdout
    whole = settings_of(folder, tmp_path / "whole", steps=60)
    train_by(2, whole, tmp_path / "logs")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


_LAUNCHER = """
import sys
from bertwright.training.torchrun import run_torchrun
print(run_torchrun(sys.argv[1:], {}, None), flush=True)
"""
# A stand-in for torchrun that does not care for Ctrl-C, with a process of its own.
_TORCHRUN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.environ["BERTWRIGHT_LAUNCHED_END"] = "end.json"
wait = "import signal, sys, time; from bertwright.parent import *; end_with_launcher(); "
wait += "sys.argv[1] == 'deaf' and signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
command = [sys.executable, "-c", wait, sys.argv[1]]
process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # as torchrun does
process.stdout.readline()
print(os.getpid(), process.pid, flush=True)
time.sleep(100)
"""


def is_there(pid):
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which processes a process started")
@pytest.mark.parametrize("ends", ["second ctrl-c", "killed"])
def test_a_second_ctrl_c_does_not_wait_and_nothing_outlives_the_launcher(ends):
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, sys.executable, "-c", _TORCHRUN, "deaf" if ends != "killed" else "hears"],
        stdout=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    torchrun, worker = map(int, process.stdout.readline().split())
    try:
        if ends == "killed":
            process.kill()
        else:
            assert is_there(torchrun)
            process.send_signal(signal.SIGINT)
            until = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < until:  # two that come at once are one
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20)[0] == f"{(-signal.SIGKILL, signal.SIGINT)}\n"
        wait_until(lambda: not is_there(torchrun) and not is_there(worker), None, seconds=20)
    finally:
        process.wait(20)
        for pid in (torchrun, worker):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_closed_terminal_counts_as_sigterm(name):
    stand_in = "import time; print(flush=True); time.sleep(100)"
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, sys.executable, "-c", stand_in],
        stdout=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),  # nohup ignores it
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=20)[0] == f"{(-signal.SIGTERM, signal.SIGTERM)}\n"


def test_who_ends_by_a_fault_of_its_own_tells_it_and_nothing_is_started_again(tmp_path, monkeypatch):
    end = tmp_path / "end.json"
    monkeypatch.setenv(parent.LAUNCHED_END, str(end))
    told = {"error": "process 2 of 2: a single text does not fit"}

    def lose(*tell):
        with launch.telling_launcher():
            assert all(distributed.tell_launcher(each) for each in tell)
            raise distributed.ProcessLost("gone")

    with pytest.raises(SystemExit) as stop:
        lose(told)
    assert stop.value.code == 0
    assert json.loads(end.read_text()) == told
    with pytest.raises(distributed.ProcessLost):
        lose()  # told by nobody: torchrun starts all again


def test_nor_by_those_who_only_lose_the_others(tmp_path, monkeypatch):
    end = tmp_path / "end.json"
    monkeypatch.setenv(parent.LAUNCHED_END, str(end))

    class Lost:
        rank, size = 1, 2

        def hear(self):
            raise distributed.ProcessLost("gone")

    assert follow.follow(Lost(), "cpu") == 128
    end.write_text("{}")
    assert follow.follow(Lost(), "cpu") == 0


def test_a_single_process_that_torchrun_starts_again_goes_on(folder, tmp_path, monkeypatch, alone):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(launch, "free_port", lambda: store.port)
    settings = settings_of(folder, tmp_path / "run", checkpoint_steps=3)
    shutil.copytree(alone, tmp_path / "run")  # of somebody: nothing is begun while it is there
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "exists" in train_by(1, settings, tmp_path / "logs", exit_codes=(2,))[0]
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with monkeypatch.context() as context:
        kill_after_steps(context, 0, 8, signal.SIGKILL)
        train_by(1, settings, tmp_path / "logs", exit_codes=(-signal.SIGKILL,))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "going on after step 6" in train_by(1, settings, tmp_path / "logs")[0]
    assert_same_bits(tmp_path / "run", alone)


def test_no_room_for_the_token_ids_is_one_line(folder, tmp_path, monkeypatch):
    def full(self, file, source, dtype, shape):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(distributed.Together, "_carry", full)
    said = train_by(2, settings_of(folder, tmp_path / "run"), tmp_path / "logs", exit_codes=(2, 128))[0]
    assert "error: process 1 of 2: the token ids cannot be kept in" in said
    assert "(No space left on device); TMPDIR on that machine names another folder" in said


@pytest.mark.parametrize(
    ("status", "number", "raised", "exit_code"),
    [
        (-signal.SIGKILL, signal.SIGINT, Interrupted, None),
        (1, signal.SIGINT, Interrupted, None),
        (-signal.SIGTERM, signal.SIGTERM, SystemExit, 143),
        (1, 0, UserError, None),
    ],
)
def test_what_was_stopped_before_it_could_tell(
    status, number, raised, exit_code, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torchrun, "run_torchrun", lambda *_: (status, number))
    config = build(TrainConfig, settings_of(folder, tmp_path / "run", num_processes=2))
    with pytest.raises(raised) as stopped:
        run_training(config, Reporter(quiet=True, results=False))
    assert getattr(stopped.value, "code", None) == exit_code
    said = f"stopped; go on from the last checkpoint, if there is one, with --resume --output {tmp_path / 'run'}"
    assert (said in capsys.readouterr().err.replace("\n", " ")) == bool(number)


def test_the_command_ends_with_torchrun_from_its_first_moment_on(monkeypatch):
    done = []

    class CommandLine(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            done.append("loads the command line")
            return lambda: None

    monkeypatch.setitem(sys.modules, "bertwright.cli", CommandLine("bertwright.cli"))
    monkeypatch.setattr(parent, "ending_with_parent", lambda number: lambda: done.append(number))
    monkeypatch.setattr(os, "getppid", lambda: 2)
    runpy.run_module("bertwright.__main__", run_name="loaded")
    assert done == ["loads the command line"]
    monkeypatch.setenv(parent.LAUNCHED_END, "end.json")
    runpy.run_module("bertwright.__main__", run_name="loaded")
    assert done[1:] == [signal.SIGTERM, "loads the command line"]


def test_torchrun_is_started_so_that_it_unpickles_nothing(folder, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        torchrun, "run_torchrun", lambda command, environment, results: started.append(command) or (1, 0)
    )
    config = build(TrainConfig, settings_of(folder, tmp_path / "run", num_processes=2))
    with pytest.raises(UserError, match="ended with exit code 1"):
        run_training(config, Reporter(quiet=True, results=False))
    assert "--rdzv-backend=static" in started[0]
    assert "--standalone" not in started[0]


def test_a_mistake_of_the_user_is_one_line_whatever_torchrun_would_say(folder, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\nfine,clean\nvery fine,clean\n")
    arguments = command(folder, tmp_path / "run", "--num-processes", "2")
    arguments[4] = str(tmp_path / "one.csv")
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_one_process_alone_can_do_is_said(folder, tmp_path):
    from bertwright.config.distill import DistillConfig

    config = build(DistillConfig, {"teacher": "t", "train": ("x.csv",), "num_processes": 2})
    with pytest.raises(UserError, match=r"--num-processes: found 2, expected 1 for bertwright distill"):
        run_training(config, Reporter(quiet=True, results=False))
