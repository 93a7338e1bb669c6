"""The task for rented machines: the commands in it are ours, and SkyPilot's own parser takes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

# What SkyPilot's parser asks of a task's accelerators is a list that it would fetch; here it is given one.
_ACCELERATORS = 'AcceleratorName,Clouds\nL4,"AWS,GCP"\n'
_PARSE = "import sys, sky; print(sky.Task.from_yaml(sys.argv[1]).envs)"


def test_the_commands_of_the_task_are_there(examples):
    lines = (examples / "clouds" / "bench.yaml").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("bertwright bench")]
    flags = set(re.findall(r"--[a-z-]+", line))
    assert {"--usd-per-hour", "--machine"} <= flags
    (cases,) = [line for line in lines if line.strip().startswith("for case in")]
    for case in cases.split(" in ")[1].split(";")[0].split():
        done = subprocess.run(
            [sys.executable, "-m", "bertwright", "bench", case, "--help"], capture_output=True, text=True, check=True
        )
        for flag in flags:
            assert flag in done.stdout, f"bench {case} has no {flag}"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"MACHINE": "aws g6.xlarge", "USD_PER_HOUR": "0.81"},
            ["--machine", "aws g6.xlarge", "--usd-per-hour", "0.81"],
        ),
        (
            {"SKYPILOT_CLUSTER_INFO": '{"cloud": "GCP", "region": "us-east1", "zone": null}'},
            ["--machine", "GCP us-east1"],
        ),
        ({}, []),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_the_task_tells_machines_apart(examples, tmp_path, variables, expected):
    """Its commands run here, with a program in bertwright's place that writes down what it is given."""
    program = tmp_path / "bertwright-env" / "bin" / "bertwright"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done >> given\n')
    program.chmod(0o755)
    _, _, commands = (examples / "clouds" / "bench.yaml").read_text().partition("run: |\n")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "DATA": "comments.csv", "MODEL": "m"}
    subprocess.run(
        ["bash", "-c", textwrap.dedent(commands)], cwd=tmp_path, env={**environment, **variables}, check=True
    )
    given = (tmp_path / "given").read_text().splitlines()
    assert given[: 5 + len(expected)] == ["bench", "tokenize", "comments.csv", "--model", "m", *expected]
    assert given.count("bench") == 3


@pytest.mark.slow
@pytest.mark.net
def test_skypilot_takes_the_task(examples, tmp_path):
    """In an environment of its own: SkyPilot needs other versions of much that we use."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "skypilot"], check=True)
    catalog = tmp_path / ".sky" / "catalogs" / "v8" / "common"
    catalog.mkdir(parents=True)
    (catalog / "accelerators.csv").write_text(_ACCELERATORS)
    task = examples / "clouds" / "bench.yaml"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)

    def parse(path):
        return subprocess.run(
            [python, "-c", _PARSE, path], env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    taken = parse(task)
    assert taken.returncode == 0, taken.stderr
    assert "USD_PER_HOUR" in taken.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(task.read_text().replace("setup:", "setpu:"))
    assert "did you mean 'setup'" in parse(wrong).stderr
