"""A training over two hosts, which are network namespaces of this machine, and a cable between them that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from tests.programs import require
from tests.training.test_distributed import (
    assert_same_bits,
    children_of,
    command,
    environment,
    settings_of,
    train_by,
    wait_until,
)

from bertwright import runs


@pytest.fixture
def hosts():
    """The names of two namespaces, and of the end of the cable in each; addresses are 10.91.0.1 and 10.91.0.2."""
    ip = require("ip")
    mark = uuid.uuid4().hex[:6]
    names, ends = [f"bw{mark}a", f"bw{mark}b"], [f"bw{mark}1", f"bw{mark}2"]

    def run(*arguments):
        return subprocess.run([ip, *arguments], capture_output=True, text=True, check=False)

    made = run("netns", "add", names[0])
    if made.returncode != 0:
        if os.environ.get("BERTWRIGHT_REQUIRE_PROGRAMS") == "1":
            pytest.fail(f"network namespaces cannot be made here: {made.stderr.strip()}")
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    try:
        run("netns", "add", names[1])
        assert run("link", "add", ends[0], "type", "veth", "peer", "name", ends[1]).returncode == 0
        for place in range(2):
            run("link", "set", ends[place], "netns", names[place])
            run("-n", names[place], "address", "add", f"10.91.0.{place + 1}/24", "dev", ends[place])
            run("-n", names[place], "link", "set", ends[place], "up")
            run("-n", names[place], "link", "set", "lo", "up")
        yield names, ends, run
    finally:
        for name in names:
            run("netns", "delete", name)


@pytest.fixture
def start(hosts, tmp_path):
    """Starts torchrun on one of the hosts; where it did not end by itself, it is ended."""
    names, ends, _ = hosts
    processes = []

    def start(rank, arguments):
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
        where = ["--master-addr=10.91.0.1", "--master-port=29511", "--max-restarts=2"]
        with open(tmp_path / f"{rank}.log", "w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", names[rank], sys.executable, *torchrun, *where, *arguments],
                env=environment(GLOO_SOCKET_IFNAME=ends[rank], TP_SOCKET_IFNAME=ends[rank]),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


def test_a_cable_that_fails_for_a_while_and_a_process_that_is_lost_change_nothing(hosts, start, folder, tmp_path):
    (_, second), ends, run = hosts
    arguments = command(folder, tmp_path / "run", "--checkpoint-steps", "1")
    arguments[arguments.index("--steps") + 1] = "80"
    arguments = arguments[arguments.index("-m") :]
    elsewhere = [each.replace(str(folder), "/nowhere") for each in arguments]  # who follows reads no files
    processes = [start(0, arguments), start(1, elsewhere)]

    def newest():
        return max(runs.checkpoint_steps(tmp_path / "run"), default=0)

    wait_until(lambda: newest() > 4, processes[0])
    run("-n", second, "link", "set", ends[1], "down")
    time.sleep(0.5)  # what was on its way arrives
    at = newest()
    time.sleep(2)
    assert newest() == at  # one cannot go on without the other
    assert processes[0].poll() is None
    run("-n", second, "link", "set", ends[1], "up")
    wait_until(lambda: newest() > at, processes[0])
    (lost,) = children_of(processes[1].pid)
    os.kill(lost, signal.SIGKILL)
    ended = [process.wait(150) for process in processes]
    said = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert ended == [0, 0], said
    assert at < 80
    assert "going on after step" in said[0]
    train_by(2, settings_of(folder, tmp_path / "whole", steps=80), tmp_path / "logs")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


def test_a_mistake_ends_all_hosts(start, folder, tmp_path):
    arguments = command(folder, tmp_path / "run")
    arguments[4] = str(tmp_path / "missing.csv")
    ended = [process.wait(150) for process in [start(rank, arguments[1:]) for rank in range(2)]]
    said = (tmp_path / "0.log").read_text()
    assert all(ended), said
    assert said.count("missing.csv: ") == 3  # torchrun tries again
    assert not (tmp_path / "run").exists()
