"""A bundle of `bertwright export lambda` run on this machine by AWS's own runtime client: bytes, seconds, memory.

    python benchmarks/lambda_run.py BUNDLE [--architecture x86_64] [--starts 5] [--calls 200] [--text TEXT]

The bundle must be for this machine and this Python. It is unpacked as AWS does, and started with nothing else
importable. Each start is a new process: "init" is from its start to its first question for an event, "first" its first
answer. Before every other start the system forgets the bundle's files, so that they are read from the disk again
("from_disk"); before the rest they are in its memory ("cached"). Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np

from bertwright import cpus, hardware
from bertwright.shipping.aws_lambda.local_function import local_function, unpack_bundle

SHAPES = {
    "direct": lambda body: json.loads(body),
    "v2": lambda body: {
        "version": "2.0",
        "rawPath": "/predict",
        "requestContext": {"http": {"method": "POST"}, "stage": "$default"},
        "body": body,
    },
    "v1": lambda body: {"httpMethod": "POST", "path": "/predict", "requestContext": {"stage": "prod"}, "body": body},
    "alb": lambda body: {"httpMethod": "POST", "path": "/predict", "requestContext": {"elb": {}}, "body": body},
}


def forget_files(folder: Path) -> None:
    """Let the system drop its copies of all files in ``folder`` from memory: they are read from the disk again."""
    os.sync()  # what was not written yet cannot be dropped
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--architecture", default={"aarch64": "arm64"}.get(platform.machine(), platform.machine()))
    parser.add_argument("--starts", type=int, default=5, help="of each kind")
    parser.add_argument("--calls", type=int, default=200, help="of each shape of event, in the last start")
    parser.add_argument("--text", default="You are a clueless clown, and nobody asked you for your opinion.")
    asked = parser.parse_args()
    body = json.dumps({"inputs": asked.text})
    record = json.loads((asked.bundle / "bundle.json").read_text(encoding="utf-8"))
    (of_architecture,) = (one for one in record["architectures"] if one["architecture"] == asked.architecture)
    starts: dict[str, dict[str, list[float]]] = {
        name: {"init_s": [], "first_s": []} for name in ("from_disk", "cached")
    }
    warm_ms, answers = {}, {}
    peak_bytes = 0
    with tempfile.TemporaryDirectory(prefix="lambda-run-") as folder:
        room = Path(folder)
        unpack_bundle(asked.bundle, asked.architecture, room)
        for start, kind in itertools.product(range(asked.starts), starts):
            if kind == "from_disk":
                forget_files(room)
            with local_function(room) as function:
                starts[kind]["init_s"].append(function.init_s)
                starts[kind]["first_s"].append(function.api.invoke(SHAPES["direct"](body)).seconds)
                for shape, event_of in SHAPES.items() if (start, kind) == (asked.starts - 1, "cached") else ():
                    made = [function.api.invoke(event_of(body)) for _ in range(asked.calls)]
                    if any(one.error for one in made):
                        sys.exit(f"{shape}: {next(one.error for one in made if one.error)}")
                    answers[shape] = made[-1].answer if shape == "direct" else json.loads(made[-1].answer["body"])
                    times = np.array([one.seconds for one in made]) * 1e3
                    warm_ms[shape] = {"p50_ms": float(np.median(times)), "p99_ms": float(np.percentile(times, 99))}
                peak_bytes = max(peak_bytes, function.peak_bytes())
    if any(answer != answers["direct"] for answer in answers.values()):
        sys.exit(f"the shapes of events were answered differently: {answers}")
    print(
        json.dumps(
            {
                "case": "lambda",
                "commit": hardware.source_commit(),
                "bundle": str(asked.bundle),
                "run": record["run"],
                "dtype": record["dtype"],
                "graph_bytes": record["graph_bytes"],
                "unzipped_bytes": of_architecture["unzipped_bytes"],
                "limit_bytes": record["limit_bytes"],
                "machine": platform.machine(),
                "python": platform.python_version(),
                "cores": cpus.num_usable_cpus(),
                "wheels": of_architecture["wheels"],
                "load_average": os.getloadavg()[0],
                "starts": starts,
                "calls": asked.calls,
                "warm": warm_ms,
                "peak_process_bytes": peak_bytes,
                "answer": answers["direct"],
            }
        )
    )


if __name__ == "__main__":
    main()
