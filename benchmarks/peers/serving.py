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

``overload``: the capacity is measured with 64 clients, then texts are sent at five times that rate. Counted are answers
by status, answers that never came ("lost") and texts for which no connection was free ("unsent"); memory is measured
every second, and how long it takes afterwards until a text is answered as fast as before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
LOAD = HERE.with_name("serving_load.py")
CONTENDERS = ("bertwright", "fastapi", "litserve", "infinity")
NUM_TEXTS = 4_000
NUM_COMPARED = 20
START_S = 300.0


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
    done = {(line["contender"], line["clients"], line["turn"]) for line in lines}
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
        import bertwright

        exact = bertwright.load(model, dtype="float32", device="cpu")
        expected = exact.score(texts[:NUM_COMPARED])
        urls, differences = {}, {}
        for name in contenders:
            urls[name], _ = stack.enter_context(
                started(name, pythons[name], model, given.ours if name == "bertwright" else [])
            )
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
                        "contender": name,
                        "clients": clients,
                        "turn": turn,
                        "largest_score_difference": differences[name],
                        "load_average": os.getloadavg()[0],
                        "cores": len(os.sched_getaffinity(0)),
                        **({"flags": given.ours} if name == "bertwright" else {}),
                        **measured,
                    }
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    speed = f"{measured['per_s']:8.1f}/s  p50 {measured['p50_ms']} ms  p99 {measured['p99_ms']} ms"
                    print(f"{name:12} {clients:3} clients {speed}", file=sys.stderr)


def overload(given: argparse.Namespace) -> None:
    model = model_folder(given.model)
    with tempfile.TemporaryDirectory() as made, started("bertwright", sys.executable, model, given.ours) as (url, pid):
        texts = Path(made) / "texts.json"
        texts.write_text(json.dumps(texts_of(given.data)))
        capacity = load("closed", url, texts, "bertwright", clients=64, seconds=min(10.0, given.seconds))
        usual = usual_seconds(url)
        flags = [f"--rate={5 * capacity['per_s']}", f"--clients={given.connections}", f"--seconds={given.seconds}"]
        process = subprocess.Popen(
            [sys.executable, str(LOAD), "open", url, str(texts), *flags], stdout=subprocess.PIPE, text=True
        )
        memory = []
        began = time.perf_counter()
        while process.poll() is None and time.perf_counter() - began < given.seconds:
            memory.append(process_bytes(pid))
            time.sleep(1)
        loaded, _ = process.communicate()
        ended = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                answer(url, "bertwright", "a")
            except OSError:
                continue
            now = time.perf_counter()
            if now - asked < 2 * usual:
                break
        line = {
            "capacity_per_s": capacity["per_s"],
            "usual_ms": usual * 1e3,
            **json.loads(loaded),
            "recovery_s": now - ended,
            "memory_bytes": memory,
            "flags": given.ours,
        }
        with open(given.output, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line))


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
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="flags of bertwright serve; comes last")
    given = parser.parse_args()
    {"compare": compare, "overload": overload}[given.act](given)


if __name__ == "__main__":
    main()
