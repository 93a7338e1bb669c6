"""No input makes a parser fail, hang, fill the memory, run a program or leave its folder: old inputs and new ones."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.seeds import SEED
from tests.fuzz.target import CORPUS, Fault, check_message, corpus_of, refusals, refused, write_case
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import environment_in

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are watched by /proc")

# Seeds that are read in several ways, not all of which fit them: the tests of what reads them say that they are right.
_READ_IN_MANY_WAYS = {"csv", "jsonl", "lines", "npz", "columns", "compressed", "run-records", "lambda", "http"}
# Right inputs of kinds that are refused: what leads to the refusal is parsed.
_REFUSED = {("tensorflow", "sliced"), ("tensorflow", "small"), ("bombs", "xz"), ("bombs", "zst")}


@pytest.fixture(autouse=True)
def _home_is_left_alone(tmp_path_factory, monkeypatch):
    """No target writes where the user's own settings, caches and temporary files are."""
    home = tmp_path_factory.mktemp("user")
    for name in (*environment_in(home), "XDG_DATA_HOME", "XDG_STATE_HOME"):
        if name != "HF_HUB_OFFLINE":
            monkeypatch.setenv(name, str(home))
    yield
    assert [*home.iterdir()] == []


def test_no_parser_fails_at_the_corpus_nor_in_two_minutes(tmp_path):
    reports = list(fuzz([*TARGETS], 120 / len(TARGETS), 1, tmp_path))
    assert [
        f"{report['target']}: {fault['error']} ({fault['signature']})"
        for report in reports
        for fault in report["faults"]
    ] == []
    assert [report["target"] for report in reports] == [*TARGETS]
    assert all(report["tried"] > report["replayed"] > 0 for report in reports)


def _seeds_of(name: str):
    return {kind.removeprefix(SEED): case for kind, case in corpus_of(name) if kind.startswith(SEED)}


def test_every_parser_has_seeds():
    assert [name for name in TARGETS if not _seeds_of(name)] == []


@pytest.mark.parametrize("name", sorted({*TARGETS} - _READ_IN_MANY_WAYS))
def test_a_parser_reads_its_seeds(name, tmp_path, monkeypatch, capsys):
    for variable, value in environment_in(tmp_path / "own").items():
        monkeypatch.setenv(variable, value)
    for kind, case in _seeds_of(name).items():
        folder = tmp_path / kind
        folder.mkdir()
        write_case(folder, case)
        refusals.clear()
        refused(lambda folder=folder: TARGETS[name].check(folder))
        assert bool(refusals) == ((name, kind) in _REFUSED), refusals


def test_the_corpus_holds_small_inputs_of_known_targets():
    assert {path.name for path in CORPUS.iterdir()} == {*TARGETS}
    sizes = {path: path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 200_000
    assert sum(sizes.values()) < 3_000_000


# --- what the fuzzer itself must notice ------------------------------------------------------------------------------

_BAD = '''
"""Parsers that do what they must not."""
import os, subprocess, time
from pathlib import Path
from bertwright.errors import UserError
from tests.fuzz import data_targets, model_targets, record_targets, serving_targets
from tests.fuzz.target import Target

def crash(folder): os.abort()
def hang(folder): time.sleep(60)
def fill(folder): b"x" * (1200 << 20)
def fail(folder): raise KeyError("x")
def run(folder): subprocess.run(["true"])
def write(folder): Path(os.environ["OUTSIDE"]).write_bytes(b"")
def read(folder): (folder / ".." / "outside" / "secret").read_bytes()
def leave(folder): Path("left").write_bytes(b"")
def refuse(folder): raise UserError("no\\nway")

SEEDS = lambda: {"one": {"data": b"1"}}
TARGETS = {f.__name__: Target(f.__name__, f, SEEDS) for f in (crash, hang, fill, fail, run, write, read, leave, refuse)}
'''


def test_the_fuzzer_notices_what_a_parser_must_not_do(tmp_path, monkeypatch):
    # In the place of tests.fuzz.targets: the process takes this module in by its name.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('tests.fuzz.targets', {str(tmp_path / 'bad.py')!r})\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return spec if name == 'tests.fuzz.targets' else None\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    (tmp_path / "bad.py").write_text(_BAD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OUTSIDE", str(tmp_path / "outside"))
    monkeypatch.setattr("tests.fuzz.run.MOST_SECONDS", 4.0)  # to fill the memory takes one
    names = ["crash", "hang", "fill", "fail", "run", "write", "read", "leave", "refuse"]
    found = {report["target"]: report["faults"] for report in fuzz(names, 0.2, 0, tmp_path / "work")}
    said = {name: faults[0]["error"] if faults else "" for name, faults in found.items()}
    expected = {
        "crash": "SIGABRT",
        "hang": "hung",
        "fill": "MiB of memory",
        "fail": "x",
        "run": "subprocess.Popen",
        "write": f"writes '{tmp_path / 'outside'}'",
        "read": "reads",
        "leave": "left 'left'",
    }
    assert {name: text in said[name] for name, text in expected.items()} == dict.fromkeys(expected, True), said
    assert said["refuse"] == ""  # made one line where it is raised


def test_a_message_must_be_one_line():
    for message in ("", "a\nb", "a\x1b[2J", "\u202e", "x" * 3_000):
        with pytest.raises(Fault):
            check_message(message)
    check_message("data.csv, line 3: found “café”, expected a number")
