"""One process that fuzzes targets in turn, and can be killed. Lines of JSON on standard output say how it went."""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import io
import json
import mmap
import os
import re
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MOST_SECONDS = 10.0
MOST_BYTES = 1 << 30
_MORE_ADDRESSES = 6 << 30  # beyond what is mapped before a target's turn: the system's memory is not ours to fill
_SHRINK_SECONDS = 5.0
_HEARTBEAT = struct.Struct("<dq")  # since when, by its clock, the input is read (0: none is), and how many were


class _TimeIsUp(KeyboardInterrupt):
    """Leaves hypothesis, which lets nothing else through."""


def clock(process: int | str = "self") -> float:
    """Seconds that stand still while the process waits for a core: a busy machine makes no parser slow.

    proc(5): the second number of schedstat is the nanoseconds that its first thread waited.
    """
    try:
        waited = int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0.0
    return time.monotonic() - waited


def environment_in(work: Path) -> dict[str, str]:
    """What keeps a parser's own files in ``work``, and it from the network: nothing of the user's is touched."""
    home = work / "home"
    folders = {name: str(home / name.lower()) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME")}
    return {
        **folders,
        "HOME": str(home),
        "TMPDIR": str(work / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "tmp" / "inductor"),
        "TRITON_CACHE_DIR": str(work / "tmp" / "triton"),
        "HF_HUB_OFFLINE": "1",
    }


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0


def _limit_memory() -> None:
    """Room for one target beside what is mapped now: what the one before left mapped is not held against it."""
    gc.collect()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _status_bytes("VmSize") + _MORE_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # proc(5): the peak of resident memory starts anew


class Worker:
    """Tries inputs in the folder ``work``."""

    def __init__(self, work: Path) -> None:
        from tests.fuzz.guard import Guard

        self.work, self.inside, self.cwd = work, work / "in", work / "cwd"
        for folder in (self.inside, self.cwd, work / "tmp", work / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        self.guard = Guard(work)
        with open(work / "heartbeat", "wb") as file:
            file.write(bytes(_HEARTBEAT.size))
        with open(work / "heartbeat", "r+b") as file:
            self._heartbeat = mmap.mmap(file.fileno(), _HEARTBEAT.size)
        self.num_tried = 0
        self.known: dict[str, tuple[int, Any, str]] = {}

    def attempt(self, target: Any, case: Any) -> None:
        """Let the target read the case.

        Raises:
            Exception: what it must not raise; a ``Fault`` where it did something else that it must not.
        """
        from tests.fuzz.target import Fault, refused, write_case

        shutil.rmtree(self.inside, ignore_errors=True)
        self.inside.mkdir()
        write_case(self.inside, case)
        self.num_tried += 1
        os.chdir(self.cwd)
        started = clock()
        _HEARTBEAT.pack_into(self._heartbeat, 0, started, self.num_tried)
        said = io.StringIO()
        try:
            with self.guard.watching(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                refused(lambda: target.check(self.inside))
        except BaseException as error:
            if isinstance(error, Exception | KeyboardInterrupt):
                raise
            raise Fault(f"{type(error).__name__} {error}") from error  # such as a panic of Rust, which ends a process
        finally:
            elapsed = clock() - started
            _HEARTBEAT.pack_into(self._heartbeat, 0, 0.0, self.num_tried)
            if elapsed > self.slowest[0]:
                self.slowest = (elapsed, case)
        if self.guard.seen:
            raise Fault("; ".join(self.guard.seen[:3]))
        if elapsed > MOST_SECONDS:
            raise Fault(f"took {elapsed:.1f} s")
        peak = _status_bytes("VmHWM")
        self.peak = max(self.peak, peak)
        if peak > MOST_BYTES:
            _forget_peak()
            raise Fault(f"took {peak >> 20:,} MiB of memory")
        left = [name for name in os.listdir(self.cwd)]
        if left:
            for name in left:
                path = self.cwd / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise Fault(f"left {left[0]!r} in the working folder")

    def fuzz(self, target: Any, seconds: float, seed: int) -> dict[str, Any]:
        """Replay the target's corpus, then try new inputs for ``seconds``, one at least; what was found."""
        from tests.fuzz.target import corpus_of

        self.num_tried, self.known = 0, {}
        self.slowest: tuple[float, Any] = (0.0, {})
        _forget_peak()
        self.peak = _status_bytes("VmHWM")
        started = time.monotonic()
        corpus = list(corpus_of(target.name))
        for name, case in corpus:
            try:
                self.attempt(target, case)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                self._note(error, case, f"corpus/{target.name}/{name}: ")
        replayed = self.num_tried
        seeds = [case for name, case in corpus if name.startswith("seed")] or [
            dict(case) for case in target.seeds().values()
        ]
        until = time.monotonic() + seconds
        rounds = 0
        while time.monotonic() < until or (seconds and not rounds):
            self._round(target, seeds, until, seed + rounds)
            rounds += 1
        return {
            "target": target.name,
            "replayed": replayed,
            "tried": self.num_tried,
            "seconds": round(time.monotonic() - started, 1),
            "peak_mib": self.peak >> 20,
            "slowest_s": round(self.slowest[0], 2),
            "faults": [
                {"signature": signature, "error": text, "case": str(self._kept(target.name, signature, case))}
                for signature, (_, case, text) in self.known.items()
            ],
        }

    def _round(self, target: Any, seeds: Sequence[Any], until: float, seed: int) -> None:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import seed as seeded

        from tests.fuzz.mutate import cases

        stop, tried_before = [until], self.num_tried

        def try_one(case: Any) -> None:
            if time.monotonic() > stop[0] and self.num_tried > tried_before:
                raise _TimeIsUp
            before = len(self.known)
            try:
                self.attempt(target, case)
            except Exception as error:
                signature = self._note(error, case)
                if len(self.known) > before:
                    stop[0] = min(until, time.monotonic() + _SHRINK_SECONDS)
                    shrinking.append(signature)
                if signature in shrinking:
                    raise

        shrinking: list[str] = []
        run = settings(
            max_examples=1_000,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(given(cases(target, seeds))(try_one))
        with contextlib.suppress(_TimeIsUp, Exception):
            seeded(seed)(run)()

    def _note(self, error: Exception, case: Any, where: str = "") -> str:
        """Remember the smallest input for each place in the code that failed."""
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if f"{os.sep}tests{os.sep}fuzz" not in frame.filename
        ]
        ours = [frame for frame in frames if f"{os.sep}bertwright{os.sep}" in frame.filename]
        last = (ours or frames or traceback.extract_tb(error.__traceback__))[-1]
        kind = type(error).__name__
        if kind == "Fault":
            kind = f"Fault {re.sub('[0-9.,]+', 'N', str(error).split(':')[0])[:40]}"
        signature = f"{kind} at {Path(last.filename).name}:{last.lineno} ({last.name})"
        text = where + (" ".join(str(error).split()) or kind)[:300]
        size = sum(len(content) for content in case.values()) + len(case)
        if signature not in self.known or size < self.known[signature][0]:
            self.known[signature] = (size, case, text)
        return signature

    def _kept(self, name: str, signature: str, case: Any) -> Path:
        from tests.fuzz.target import write_case

        folder = self.work / "faults" / name / f"found-{hashlib.sha256(signature.encode()).hexdigest()[:10]}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_case(folder, case)
        return folder


@contextlib.contextmanager
def _own_output() -> Iterator[Any]:
    """Standard output for our lines alone: what targets print goes to standard error."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    yield kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    work = given.work.resolve()
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ |= environment_in(work)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.dont_write_bytecode = True
    warnings.filterwarnings("error", module="bertwright")
    with _own_output() as out:
        from tests.fuzz.targets import TARGETS

        worker = Worker(work)
        for name in given.targets:
            _limit_memory()
            print(json.dumps({"begins": name}), file=out, flush=True)
            print(json.dumps(worker.fuzz(TARGETS[name], given.seconds, given.seed)), file=out, flush=True)


if __name__ == "__main__":
    main()
