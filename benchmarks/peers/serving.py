"""Is our server fast, and does it bend without breaking? The same model behind its nearest peers, under the same load.

    python benchmarks/peers/serving.py compare --model RUN --data comments.csv --output serving.jsonl \\
        --venv litserve=VENV --venv infinity=VENV
    python benchmarks/peers/serving.py overload --model RUN --data comments.csv --output overload.jsonl --seconds 60

``compare``: ours in bfloat16 where the machine has it, and a plain FastAPI + transformers, LitServe and infinity-emb,
each as its documentation recommends for throughput. All servers run at once, but only one is asked at a time: they take
turns, for every number of clients, and each turn begins with another one. The load comes from a process of its own
(serving_load.py), over texts of the data's own lengths. Each server's scores of 20 texts are compared with float32's. A
line of JSON is written for each turn, and those that are there are not measured again: stop it and start it again at
will. A contender whose environment is not given is left out, and said. The environments:

    fastapi    this one, with transformers (the extra "bench")
    litserve   python -m venv VENV; VENV/bin/pip install torch transformers litserve
    infinity   python -m venv VENV; VENV/bin/pip install "infinity-emb[server,torch]" "transformers<4.49" "optimum<2" \\
               "click<8.2"   (infinity-emb 0.0.78 pins none of these, but needs them so old)

``overload``: the capacity is measured with 64 clients. Then texts are sent at five times that rate, to a new server
whose queue is bounded by ``--queue-seconds`` (the first has no such bound: it would refuse some of the 64). Counted are
answers by status, answers that never came ("lost") and texts for which no connection was free ("unsent"). From the
moment when sending ends, one client sends a short text after the other: "recovery_s" is how long it takes until the
first that is answered with 200 within a second has its answer, and "recovery" lists all until then. Memory is measured
every second.

Each line also says its case, the commit of bertwright, and the versions of what computes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import bertwright
from bertwright.cpus import num_usable_cpus
from bertwright.hardware import source_commit
from bertwright.training.launch import free_port

HERE = Path(__file__).resolve()
LOAD = HERE.with_name("serving_load.py")
CONTENDERS = ("bertwright", "fastapi", "litserve", "infinity")
# Of each contender, the packages that its speed comes from.
PACKAGES = {
    "bertwright": ("torch", "uvicorn"),
    "fastapi": ("torch", "transformers", "fastapi", "uvicorn"),
    "litserve": ("torch", "transformers", "litserve"),
    "infinity": ("torch", "transformers", "optimum", "infinity-emb"),
}
NUM_TEXTS = 4_000
NUM_COMPARED = 20
START_S = 300.0
CAPACITY_CLIENTS = 64
RECOVERED_S = 1.0
MOST_RECOVERY_S = 120.0
PAUSE_S = 0.02


def command_of(contender: str, python: str, model: str, port: int, more: list[str]) -> list[str]:
    if contender == "bertwright":
        return [python, "-m", "bertwright", "serve", f"model={model}", "--port", str(port), "--log", "errors", *more]
    if contender == "infinity":
        given = ["--model-id", model, "--served-model-name", "model", "--engine", "torch", "--device", "cpu"]
        return [
            str(Path(python).with_name("infinity_emb")),
            "v2",
            *given,
            "--port",
            str(port),
        ]
    return [python, str(HERE.with_name(f"serving_{contender}.py")), model, str(port)]


@contextmanager
def started(contender: str, python: str, model: str, more: list[str]) -> Iterator[tuple[str, int]]:
    """The address of a server that answers, and its process id."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command_of(contender, python, model, port, more),
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + START_S
            while True:
                try:
                    answer(url, contender, "a")
                    break
                except urllib.error.HTTPError:
                    raise
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        raise SystemExit(f"{contender} does not answer:\n{log.read().decode()[-3000:]}") from None
                    time.sleep(0.2)
            yield url, process.pid
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def answer(url: str, contender: str, text: str) -> dict[str, float]:
    """The score of each label of a text."""
    infinity = contender == "infinity"
    body = json.dumps({"model": "model", "input": [text]} if infinity else {"inputs": text}).encode()
    path = "/classify" if infinity else "/predict"
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        found = json.load(response)
    return {one["label"]: one["score"] for one in (found["data"][0] if infinity else found)}


def versions_of(contender: str, python: str) -> dict[str, str]:
    """The versions of what a contender computes with, by the name of the package, from its own environment."""
    code = (
        "import json, sys\n"
        "from importlib.metadata import distributions\n"
        "found = {(one.metadata['Name'] or '').lower().replace('_', '-'): one.version for one in distributions()}\n"
        "print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    done = subprocess.run([python, "-c", code, *PACKAGES[contender]], stdout=subprocess.PIPE, check=True)
    ours = {"bertwright": bertwright.__version__} if contender == "bertwright" else {}
    return ours | json.loads(done.stdout)


def load(mode: str, url: str, texts: Path, contender: str, **flags: Any) -> dict[str, Any]:
    given = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    kind = ["--kind", "infinity" if contender == "infinity" else "predict"]
    done = subprocess.run(
        [sys.executable, str(LOAD), mode, url, str(texts), *kind, *given], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def process_bytes(pid: int) -> int:
    """Resident memory of a process and all its children."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:
            continue
    return total


def texts_of(data: str) -> list[str]:
    """Texts of all lengths that the data has, none of them empty."""
    from bertwright.data.columns import read_unlabelled

    texts = read_unlabelled([data], None, "skip", None, ()).texts
    rows = np.random.default_rng(0).choice(len(texts), min(NUM_TEXTS, len(texts)), replace=False)
    return [text for text in (texts[int(row)] for row in rows) if text.strip()]


def model_folder(run: str) -> str:
    return str(Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run).absolute())


def compare(given: argparse.Namespace) -> None:
    output = Path(given.output)
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(line["contender"], line["clients"], line["turn"]) for line in lines if line.get("case") == "serving"}
    commit = source_commit()
    pythons = {"bertwright": sys.executable, "fastapi": sys.executable}
    for pair in given.venv:
        name, _, folder = pair.partition("=")
        pythons[name] = str(Path(folder).absolute() / "bin" / "python")
    contenders = [name for name in given.contenders.split(",") if name in pythons]
    for name in given.contenders.split(","):
        if name not in pythons:
            print(f"{name}: left out, pass --venv {name}=VENV", file=sys.stderr)
    model = model_folder(given.model)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        texts = texts_of(given.data)
        (folder / "texts.json").write_text(json.dumps(texts))
        exact = bertwright.load(model, dtype="float32", device="cpu")
        expected = exact.score(texts[:NUM_COMPARED])
        urls, differences, versions = {}, {}, {}
        for name in contenders:
            urls[name], _ = stack.enter_context(
                started(name, pythons[name], model, given.ours if name == "bertwright" else [])
            )
            versions[name] = versions_of(name, pythons[name])
            scores = [answer(urls[name], name, text) for text in texts[:NUM_COMPARED]]
            found = np.array([[one[label] for label in exact.labels] for one in scores])
            differences[name] = float(np.abs(found - expected).max())
        for turn in range(given.turns):
            for clients in map(int, given.clients.split(",")):
                for place in range(len(contenders)):
                    name = contenders[(place + turn) % len(contenders)]
                    if (name, clients, turn) in done:
                        continue
                    measured = load(
                        "closed", urls[name], folder / "texts.json", name, clients=clients, seconds=given.seconds
                    )
                    line = {
                        "case": "serving",
                        "commit": commit,
                        "contender": name,
                        "versions": versions[name],
                        "clients": clients,
                        "turn": turn,
                        "largest_score_difference": differences[name],
                        "load_average": os.getloadavg()[0],
                        "cores": num_usable_cpus(),
                        **({"flags": given.ours} if name == "bertwright" else {}),
                        **measured,
                    }
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    speed = f"{measured['per_s']:8.1f}/s  p50 {measured['p50_ms']} ms  p99 {measured['p99_ms']} ms"
                    print(f"{name:12} {clients:3} clients {speed}", file=sys.stderr)


def overload(given: argparse.Namespace) -> None:
    model = model_folder(given.model)
    with ExitStack() as stack:
        texts = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "texts.json"
        texts.write_text(json.dumps(texts_of(given.data)))
        seconds = min(10.0, given.seconds)
        with started("bertwright", sys.executable, model, [*given.ours, "--queue-seconds", "0"]) as (url, _):
            capacity = load("closed", url, texts, "bertwright", clients=CAPACITY_CLIENTS, seconds=seconds)
        rate = 5 * capacity["per_s"]
        flags = [*given.ours, "--queue-seconds", str(given.queue_seconds)]
        url, pid = stack.enter_context(started("bertwright", sys.executable, model, flags))
        usual = usual_seconds(url)
        command = [sys.executable, str(LOAD), "open", url, str(texts)]
        command += [f"--rate={rate}", f"--clients={given.connections}", f"--seconds={given.seconds}"]
        with memory_of(pid) as memory, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ended = process.stdout.readline()
            if not ended:
                raise SystemExit("serving_load.py ended before it had sent anything; the lines above say why")
            recovery_s, recovery = recovered(lambda: status_of(url), json.loads(ended)["sending_ended_s"])
            loaded = process.stdout.read()
        line = {
            "case": "serving-overload",
            "commit": source_commit(),
            "versions": versions_of("bertwright", sys.executable),
            "cores": num_usable_cpus(),
            "queue_seconds": given.queue_seconds,
            "capacity_clients": CAPACITY_CLIENTS,
            "capacity_per_s": capacity["per_s"],
            "usual_ms": usual * 1e3,
            **json.loads(loaded),
            "recovery_s": recovery_s,
            "recovery_is": "from the end of sending to the answer of the first text that has its 200 within a second",
            "recovery": recovery,
            "memory_bytes": memory,
            "flags": given.ours,
        }
        with open(given.output, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line))


def recovered(ask: Callable[[], int], ended_s: float) -> tuple[float | None, list[dict[str, float]]]:
    """How long after ``ended_s`` (by time.monotonic) the first request that is answered 200 within a second has its
    answer, in seconds, or None if that takes too long; and all requests until then, one after the other.

    Args:
        ask: sends a request and returns the status of the answer.
    """
    asked = []
    while (sent := time.monotonic()) < ended_s + MOST_RECOVERY_S:
        status = ask()
        now = time.monotonic()
        asked.append({"sent_s": round(sent - ended_s, 4), "took_s": round(now - sent, 4), "status": status})
        if status == 200 and now - sent <= RECOVERED_S:
            return now - ended_s, asked
        time.sleep(PAUSE_S)  # or refusals would be asked for as fast as they come
    return None, asked


def status_of(url: str) -> int:
    """The status of the answer to a short text; 0 if none came."""
    try:
        answer(url, "bertwright", "a")
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0
    return 200


@contextmanager
def memory_of(pid: int) -> Iterator[list[int]]:
    """The resident memory of a process and all its children, every second as long as this is open."""
    found: list[int] = []
    ended = threading.Event()

    def measure() -> None:
        found.append(process_bytes(pid))
        while not ended.wait(1):
            found.append(process_bytes(pid))

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def usual_seconds(url: str) -> float:
    """Median seconds of a short text, alone."""
    taken = []
    for _ in range(20):
        asked = time.perf_counter()
        answer(url, "bertwright", "a")
        taken.append(time.perf_counter() - asked)
    return float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("act", choices=("compare", "overload"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--queue-seconds", type=float, default=0.8, help="of the server that is overloaded")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="flags of bertwright serve; comes last")
    given = parser.parse_args()
    {"compare": compare, "overload": overload}[given.act](given)


if __name__ == "__main__":
    main()
