"""The process of one contender: ``python -m bertwright.benchmarking.worker``, spoken to in lines of JSON.

    {"act": "prepare", "target": "module:class", "options": {...}, "case": "folder"}
        -> {"prepared": {...}, "seconds", "energy_source"}
    {"act": "run"}     -> {"seconds", "texts", "tokens", ..., "idle_cpu_s", "joules"}
    {"act": "alone", "rows": [...]}  -> {"seconds": [of each text], "idle_cpu_s", "outcome": "file.npz"}
    {"act": "outcome"} -> {"outcome": "file.npz" or null}
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
    import numpy as np

    from bertwright.benchmarking.cases import Case
    from bertwright.benchmarking.contender import Contender, Engine
    from bertwright.energy import EnergyMeter

# Packages that an extra of their own brings, not `bench`.
_OF_TENSORFLOW = ("tensorflow", "keras", "keras_hub")


def main() -> None:
    """Answer lines from standard input until it ends or something fails."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    contender: Any = None
    case: Any = None
    meter: Any = None
    cpu_s_after_turn = None
    for line in sys.stdin:
        request = json.loads(line)
        idle_cpu_s = None if cpu_s_after_turn is None else time.process_time() - cpu_s_after_turn
        try:
            if request["act"] == "prepare":
                started = time.perf_counter()
                case = _read_case(Path(request["case"]))
                contender = _prepare(request["target"], request["options"], case)
                answer: dict[str, Any] = {"prepared": contender.chosen, "seconds": time.perf_counter() - started}
                meter = _energy_meter(case)
                answer["energy_source"] = meter.source
            elif request["act"] == "run":
                answer = {**_turn(contender, meter), "idle_cpu_s": idle_cpu_s}
            elif request["act"] == "alone":
                seconds, logits = _score_alone(contender, case, request["rows"])
                answer = {"seconds": seconds, "idle_cpu_s": idle_cpu_s}
                answer["outcome"] = _write(case, "alone", {"logits": logits})
            elif request["act"] == "outcome":
                answer = {"outcome": _write(case, "outcome", contender.outcome())}
            else:
                peaks = {"peak_bytes": peak_bytes(), "peak_gpu_bytes": _peak_gpu_bytes()}
                answer = {**peaks, "outcome": _write(case, "outcome", contender.outcome())}
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


def _read_case(folder: Path) -> Case:
    """The case; where it holds threads, this process is held to so many CPUs, before any library counts them."""
    from bertwright.benchmarking.cases import Case

    case = Case.read(folder)
    if case.holds_threads:
        os.environ["OMP_NUM_THREADS"] = str(case.num_threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.num_threads])
    return case


def _prepare(target: str, options: dict[str, Any], case: Case) -> Contender:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(case, **options)


def _energy_meter(case: Case) -> EnergyMeter:
    from bertwright.energy import EnergyMeter

    return EnergyMeter(case.device)


def _turn(contender: Contender, meter: EnergyMeter) -> dict[str, Any]:
    """A turn, with the CPU time and the energy that it took."""
    cpu_started, shown = time.process_time(), meter.read()
    turn = contender.run()
    joules, cpu_s = meter.joules_since(shown), time.process_time() - cpu_started
    return {**turn.as_json(), "cpu_s": cpu_s, **({} if joules is None else {"joules": joules})}


def _score_alone(engine: Engine, case: Case, rows: list[int]) -> tuple[list[float], np.ndarray]:
    """Of each of the texts ``rows``, one after the other, the seconds from its ids to its logits; and these."""
    import numpy as np

    starts = case.ragged.starts
    texts = [case.ragged.ids[starts[row] : starts[row + 1]].astype(np.int64) for row in rows]
    seconds, logits = [], np.zeros((len(rows), case.num_labels), dtype=np.float32)
    for place, ids in enumerate(texts):
        started = time.perf_counter()
        logits[place] = engine.score_alone(ids)
        seconds.append(time.perf_counter() - started)
    return seconds, logits


def _write(case: Case, name: str, outcome: dict[str, np.ndarray]) -> str | None:
    """The file that ``outcome`` was written to; None where there is nothing."""
    import numpy as np

    if not outcome:
        return None
    path = Path(case.folder) / f"{name}-{os.getpid()}.npz"
    np.savez(path, **outcome)  # type: ignore[arg-type]
    return str(path)


def _reason(error: Exception) -> str:
    """One line for the table."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("bertwright"):
        package = error.name.partition(".")[0]
        extra = "tensorflow" if package in _OF_TENSORFLOW else "bench"
        return f"{package} is not installed: pip install 'bertwright[{extra}]'"
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
