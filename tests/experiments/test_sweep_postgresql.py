"""Several workers at one study in a PostgreSQL database: a real server, started here as an unprivileged user."""

from __future__ import annotations

import json
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from tests.programs import require

import bertwright
from bertwright.errors import UserError
from bertwright.experiments.sweep_folder import Asked, find_or_begin, read_record
from bertwright.experiments.sweep_plan import Plan, Wanted
from bertwright.experiments.sweep_store import Store

# Not tests.conftest's, which loads torch: the workers of a test load this file.
REPOSITORY = Path(__file__).resolve().parents[2]
_NUM_WORKERS, _NUM_TRIALS = 3, 16


def as_postgres():
    """What a server process is started with: root may not run it, and hands it to the user postgres."""
    if os.getuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("no user postgres, and root may not run the server")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def server():
    """The URL of a server's database, reached by a socket in a folder of its own."""
    initdb = Path(require("/usr/lib/postgresql/*/bin/initdb", "initdb")).resolve()
    user = as_postgres()
    folder = Path(tempfile.mkdtemp(prefix="bertwright-postgresql-", dir="/tmp"))  # a socket's path must be short
    if user:
        os.chown(folder, user["user"], user["group"])
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    subprocess.run(
        [initdb, "-D", folder / "data", "-U", "tester", "--auth=trust", "--no-sync", "--encoding=UTF8"],
        check=True,
        **quiet,
    )
    process = subprocess.Popen(
        [
            initdb.with_name("postgres"),
            "-D",
            folder / "data",
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ],
        **quiet,
    )
    try:
        until = time.monotonic() + 60
        while not answers(folder):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield f"postgresql://tester:secret@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)  # which waits for no client
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def answers(folder):
    try:
        psycopg.connect(host=str(folder), user="tester", dbname="postgres").close()
        return True
    except psycopg.OperationalError:
        return False


def plan():
    return Plan({}, "grid", tuple(Wanted(f"key {i}", None, {"seed": i}, {}) for i in range(_NUM_TRIALS)))


def claim_all(url, name, folder, answers, all_hold_one):
    """A worker: puts all trials in line, as every worker does, then takes up what it can.

    None goes on before all have taken up their first: a worker that starts late on a busy machine must find some left.
    """
    store = Store(Path(folder), url, name)
    store.create({"plan": plan().record()}, minimize=False)
    store.put_in_line(plan().wanted)
    num_claims = 0
    while (claim := store.claim()) is not None:
        answers.put((os.getpid(), claim.entry.number, claim.settings["seed"]))
        num_claims += 1
        if num_claims == 1:
            all_hold_one.wait(100)
        store.finish(claim, float(claim.settings["seed"]))


def race(url, name, tmp_path):
    """What workers that all begin at once took up: (process, number, seed) each."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    all_hold_one = context.Barrier(_NUM_WORKERS)
    folders = [tmp_path / (f"worker-{i}" if url else "shared") for i in range(_NUM_WORKERS)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    arguments = [(url, name, str(folder), answers, all_hold_one) for folder in folders]
    workers = [context.Process(target=claim_all, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=120) for _ in range(_NUM_TRIALS)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert answers.empty()
    return found


@pytest.mark.parametrize("kind", ["postgresql", "file"])
def test_workers_that_begin_at_once_never_take_up_the_same_trial(kind, tmp_path, request):
    url = request.getfixturevalue("server") if kind == "postgresql" else None
    found = race(url, "race", tmp_path)
    assert Counter(seed for _, _, seed in found) == Counter(range(_NUM_TRIALS))
    assert len({process for process, _, _ in found}) == _NUM_WORKERS
    entries = Store(tmp_path / "shared", url, "race")
    entries.find()
    assert [entry.state for entry in entries.entries()] == ["finished"] * _NUM_TRIALS


def test_a_worker_without_a_sign_of_life_loses_its_trial_to_another(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    dead = Store(tmp_path / "a", server, "lost", heartbeat_s=1)
    dead.create({"plan": plan().record()}, minimize=False)
    dead.put_in_line(plan().wanted[:1])
    first = dead.claim()
    other = Store(tmp_path / "b", server, "lost", heartbeat_s=1)
    other.find()
    other.free_lost()
    assert other.claim() is None
    time.sleep(5.5)
    other.free_lost()
    other.put_in_line([])
    second = other.claim()
    assert (second.entry.number, second.settings) == (first.entry.number, first.settings)
    assert dead.beat([first]) == [first]  # it learns of it, if it was asleep only
    dead.finish(first, 1.0)
    assert [entry.state for entry in other.entries()] == ["running"]
    other.finish(second, 2.0)
    assert other.entries()[0].shown.value == 2.0


@pytest.mark.parametrize("kind", ["postgresql", "file"])
def test_a_worker_killed_in_the_midst_of_a_claim_loses_it_too(kind, tmp_path, request, monkeypatch):
    url = request.getfixturevalue("server") if kind == "postgresql" else None
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    killed = Store(tmp_path / "a", url, "midst", heartbeat_s=1)
    killed.create({"plan": plan().record()}, minimize=False)
    killed.put_in_line(plan().wanted[:1])

    def kill(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(killed, "note", kill)
    with pytest.raises(KeyboardInterrupt):
        killed.claim()
    assert [entry.state for entry in killed.entries()] == ["running"]
    other = Store(tmp_path / ("a" if url is None else "b"), url, "midst", heartbeat_s=1)
    other.find()
    if url is not None:
        time.sleep(5.5)
    other.free_lost()
    other.put_in_line([])
    assert other.claim().entry.number == 0


def test_what_is_said_of_a_database_shows_no_password(server, tmp_path):
    with pytest.raises(UserError) as error:
        Store(tmp_path, "postgresql://me:secret@127.0.0.1:1/none", "none")
    assert "postgresql+psycopg://me@127.0.0.1:1/none: the sweep's database cannot be used" in str(error.value)
    with pytest.raises(UserError, match="it must have been begun") as error:
        bertwright.sweep(storage=server, study="none", join=True, output="swept", quiet=True)
    assert "secret" not in str(error.value)


def test_a_mistake_in_the_texts_costs_the_study_on_a_server(server, tmp_path):
    (tmp_path / "texts.csv").write_text("text,label\ngood day,a\n", encoding="utf-8")  # of one class alone
    asked = {"train": "texts.csv", "grid": {"seed": [0]}, "storage": server, "study": "kept", "output": "swept"}
    begun = find_or_begin(Asked(asked), Path("swept"))
    old = Store(Path("swept"), server, "kept")
    old.create({"plan": begun.record(), "id": read_record(Path("swept"))["id"]}, minimize=False)
    old.put_in_line(begun.wanted)
    asked |= {"data": asked.pop("train"), "model": "bert-nosuch", "overwrite": True, "quiet": True}
    with pytest.raises(UserError, match="bert-nosuch"):
        bertwright.sweep(**asked)
    assert [trial.state for trial in bertwright.open_sweep("swept", server).trials] == ["waiting"]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-m", "bertwright", "sweep", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_workers_with_folders_of_their_own_share_the_work(server, examples, tmp_path):
    lines = (examples / "comments_train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "texts.csv").write_text("".join(lines[:49]), encoding="utf-8")
    seeds = ",".join(map(str, range(12)))
    database = ["--storage", server, "--study", "together", "--jobs", "1", "--json"]
    settings = ["texts.csv", "--model", "bert-tiny", "--steps", "3", "--max-length", "16", "--grid", f"seed={seeds}"]
    first = start(*settings, *database, "--output", "a")
    until = time.monotonic() + 120
    while not list((tmp_path / "a").glob("trials/*")):
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    second = start("--join", *database, "--output", "b")
    records = []
    for process in (first, second):
        out, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        records.append(json.loads(out.splitlines()[-1]))
    for record in records:
        assert [trial["state"] for trial in record["trials"]] == ["finished"] * 12
    runs = [path.parent.name for name in ("a", "b") for path in (tmp_path / name).glob("trials/*/config.json")]
    assert sorted(runs) == [f"{number:04d}" for number in range(12)]
    assert all(list((tmp_path / name).glob("trials/*/result.json")) for name in ("a", "b"))
    for name in ("a", "b"):
        assert "secret" not in (tmp_path / name / "sweep.json").read_text()
