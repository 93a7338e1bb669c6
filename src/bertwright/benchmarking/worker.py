"""The process of one contender: ``python -m bertwright.benchmarking.worker``, spoken to in lines of JSON.

    {"act": "prepare", "target": "module:class", "options": {...}, "case": "folder"}  -> {"prepared": {...}}
    {"act": "run"}     -> {"seconds", "texts", "tokens", ..., "idle_cpu_s"}
    {"act": "finish"}  -> {"peak_bytes", "peak_gpu_bytes", "outcome": "file.npz" or null}

Where something does not work the answer is {"failed": reason}, and the process ends. Between its turns it waits for a
line; ``idle_cpu_s`` tells the CPU time that it, or a thread of the library that it drives, spent on waiting.

Libraries print what they like: standard output is turned into standard error before any of them is loaded.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.errors import UserError

if TYPE_CHECKING:
    from bertwright.benchmarking.contender import Contender


def main() -> None:
    """Answer lines from standard input until it ends or something fails."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    contender: Contender | None = None
    cpu_s_after_turn = None
    folder = Path()
    for line in sys.stdin:
        request = json.loads(line)
        idle_cpu_s = None if cpu_s_after_turn is None else time.process_time() - cpu_s_after_turn
        try:
            if request["act"] == "prepare":
                folder = Path(request["case"])
                contender = _prepare(request["target"], request["options"], folder)
                answer: dict[str, Any] = {"prepared": contender.chosen}
            elif request["act"] == "run":
                assert contender is not None, "run before prepare"
                cpu_started = time.process_time()
                turn = contender.run()
                answer = {**turn.as_json(), "cpu_s": time.process_time() - cpu_started, "idle_cpu_s": idle_cpu_s}
            else:
                assert contender is not None, "finish before prepare"
                peaks = {"peak_bytes": peak_bytes(), "peak_gpu_bytes": _peak_gpu_bytes()}
                answer = {**peaks, "outcome": _write_outcome(contender, folder)}
        except Exception as error:  # noqa: BLE001 - the process's boundary: whatever a library raises is the answer
            answer = {"failed": _reason(error)}
            if not isinstance(error, (UserError, ImportError)):
                import traceback

                traceback.print_exc()
        answers.write(json.dumps(answer, allow_nan=False, default=str) + "\n")
        answers.flush()
        if "failed" in answer:
            os._exit(1)  # not held up by threads of a library that has just failed
        cpu_s_after_turn = time.process_time()


def _prepare(target: str, options: dict[str, Any], folder: Path) -> Contender:
    from bertwright.benchmarking.cases import Case

    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(Case.read(folder), **options)


def _write_outcome(contender: Contender, folder: Path) -> str | None:
    import numpy as np

    outcome = contender.outcome()
    if not outcome:
        return None
    path = folder / f"outcome-{os.getpid()}.npz"
    np.savez(path, **outcome)  # type: ignore[arg-type]
    return str(path)


def _reason(error: Exception) -> str:
    """One line for the table."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("bertwright"):
        return f"{error.name.partition('.')[0]} is not installed: pip install 'bertwright[bench]'"
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:300] + "..."
    from bertwright.benchmarking.contender import NotPossible

    if isinstance(error, (UserError, NotPossible)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def peak_bytes() -> int:
    """Most memory that this process has held at once."""
    from bertwright import hardware

    return hardware.peak_process_bytes()


def _peak_gpu_bytes() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


if __name__ == "__main__":
    main()
