"""``--num-processes``: torchrun on this machine, started for the user, and what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bertwright import hardware, runs
from bertwright.config.train import TrainConfig
from bertwright.cpus import num_usable_cpus
from bertwright.errors import Interrupted, TrainingError, UserError
from bertwright.parent import LAUNCHED_END
from bertwright.progress import Reporter
from bertwright.training import torchrun
from bertwright.training.distributed import ProcessLost, is_end_told, tell_launcher
from bertwright.training.settings import rerunnable, resolve_early

# How often all processes are started again where one was lost.
_MOST_RESTARTS = 3

# How long torchrun waits for processes that were asked to stop; by itself 30 s.
_PATIENCE_TO_STOP_S = 3600
_EXIT_CODES: dict[int, int] = {signal.SIGINT: Interrupted.exit_code, signal.SIGTERM: 128 + signal.SIGTERM}

_LOOPBACK = "127.0.0.1"


def launch(config: TrainConfig, reporter: Reporter) -> runs.Run:
    """Train by ``config.num_processes`` processes of this machine; where one is lost, go on from the last checkpoint.

    Raises:
        UserError: what the training itself raises; or it was lost more than three times.
    """
    if config.act != "train":
        raise UserError(f"--num-processes: found {config.num_processes}, expected 1 for bertwright {config.act}")
    num_gpus = torch.cuda.device_count()
    if hardware.choose_device(config.device).type == "cuda" and num_gpus < config.num_processes:
        raise UserError(
            f"--num-processes: found {config.num_processes}, but this machine shows {num_gpus} CUDA devices, one for "
            f"each process; pass {num_gpus} or fewer, or --device cpu"
        )
    config = resolve_early(config)
    output = Path(config.output or "")
    with tempfile.TemporaryDirectory(prefix="bertwright-") as folder:
        settings, end = Path(folder, "settings.json"), Path(folder, "end.json")
        runs.write_json(settings, {"settings": rerunnable(config)})
        flags = [flag for flag in ("resume", "overwrite") if getattr(config, flag)]
        command = [
            # Not --standalone: its rendezvous unpickles what anybody may send who reaches its port.
            *(sys.executable, "-m", torchrun.__name__, "--nnodes=1", "--node-rank=0", "--rdzv-backend=static"),
            *(f"--master-addr={_LOOPBACK}", f"--master-port={free_port()}"),
            *(f"--nproc-per-node={config.num_processes}", f"--max-restarts={_MOST_RESTARTS}"),
            *("-m", "bertwright", "train", "--config", str(settings), "--output", str(output)),
            *(f"--{flag}" for flag in flags),
            *(["--quiet"] if reporter.quiet else []),
        ]
        status, signalled = torchrun.run_torchrun(command, _environment(config, end), _results_of(reporter))
        told = json.loads(end.read_text()) if end.exists() else {}
    if "error" in told:
        raise UserError(told["error"])
    exit_code = told.get("exit")
    if exit_code is None and signalled and status != 0:  # before they were there, or at a second signal
        exit_code = _EXIT_CODES[signalled]
        line = f"stopped; go on from the last checkpoint, if there is one, with --resume --output {output}"
        reporter.errors.print(line, markup=False)  # as that of a process that is stopped, with --quiet too
    # torchrun too sends SIGTERM, where a process was lost
    if exit_code == Interrupted.exit_code:
        raise Interrupted("stopped")
    if exit_code is not None and signalled:
        raise SystemExit(exit_code)
    if status != 0 or "exit" in told:
        raise TrainingError(
            f"the {config.num_processes} processes of the training ended with exit code {status}: what they said "
            f"stands above. Go on from the last checkpoint with --resume --output {output}"
        )
    return runs.open_run(output)


def _environment(config: TrainConfig, end: Path) -> dict[str, str]:
    threads = max(1, num_usable_cpus() // config.num_processes)
    more = {}
    # What is asked to stop while texts are judged does so after that. On a GPU, what is stuck there must be killed.
    if hardware.choose_device(config.device).type == "cpu":
        more = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_PATIENCE_TO_STOP_S)}
    return {"OMP_NUM_THREADS": str(threads), **_on_loopback(), **more, **os.environ, LAUNCHED_END: str(end)}


def _on_loopback() -> dict[str, str]:
    """Lets gloo listen where only this machine can reach it."""
    names = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}  # as Linux has it, and macOS
    return {"GLOO_SOCKET_IFNAME": names.pop()} if names else {}


def free_port() -> int:
    """A port of this machine that nothing listens on just now."""
    with socket.socket() as found:
        found.bind((_LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port


def _results_of(reporter: Reporter) -> Any:
    """Where results go to: where the reporter shows them."""
    if not reporter.shows_results:
        return subprocess.DEVNULL
    return sys.stderr if reporter.results is reporter.errors else None


@contextlib.contextmanager
def telling_launcher() -> Iterator[None]:
    """Within it, an end that no restart would change is told to ``launch``, if that is what started this process."""
    path = os.environ.get(LAUNCHED_END)
    if path is not None:  # of those before a restart
        Path(path).unlink(missing_ok=True)
    try:
        yield
    except ProcessLost:
        if is_end_told():  # by the lost one
            raise SystemExit(0) from None
        raise
    except UserError as error:
        _tell({"error": str(error)})
        raise
    except Interrupted:
        _tell({"exit": Interrupted.exit_code})
        raise
    except SystemExit as stop:
        _tell({"exit": stop.code})
        raise


def _tell(end: dict[str, Any]) -> None:
    """End with success, so that torchrun neither complains nor starts anything again: ``launch`` knows better."""
    if tell_launcher(end):
        raise SystemExit(0)
