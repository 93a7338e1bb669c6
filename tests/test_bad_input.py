"""Bad input of every kind: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bertwright import open_run, train
from tests import bad_input
from tests.bad_input import GOOD, KINDS, TINY, Outcome, error_lines, outcome, page, tree
from tests.conftest import REPOSITORY
from tests.forked_python import run_python

FOUND: dict[str, Outcome] = {}


@pytest.fixture(scope="module", autouse=True)
def _shared_model():
    yield
    bad_input.forget_model()


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_input_is_one_clear_line_and_writes_nothing(kind):
    found = FOUND[kind.name] = outcome(kind)
    lines = error_lines(found.errors)
    assert found.status == 2, found.errors
    assert len(lines) == 1, found.errors
    assert "Traceback" not in found.errors
    assert len(lines[0]) < 500
    assert found.errors.rstrip().endswith(lines[0]), "the error comes last"
    assert found.after == found.before


def test_there_are_enough_kinds_and_no_two_are_one():
    assert len(KINDS) >= 30
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_the_page_shows_what_is_printed():
    for kind in KINDS:
        if kind.name not in FOUND:
            FOUND[kind.name] = outcome(kind)
    written = (REPOSITORY / "docs" / "bad-input.md").read_text()
    found = page({kind.name: FOUND[kind.name] for kind in KINDS})
    assert written == found, "run: python tests/bad_input.py > docs/bad-input.md"


def test_a_text_of_a_megabyte_is_cut_and_learnt_from(capsys):
    words = "a film of many words " * 50_000
    letters = "a" * 1_000_000
    rows = [f"{words},1", f"{letters},0"] + [f"a good film {i},1\na bad film {i},0" for i in range(20)]
    Path("long.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    flags = {"model": "bert-tiny", "steps": 2, "batch_size": 4, "max_length": 16}
    run = train("long.csv", output="run", validation_share=0.2, **flags)
    assert run.finished
    assert "lost their end" in capsys.readouterr().err


# --- what only another process can meet -------------------------------------------------------------------------------


def command(arguments: list[str], folder: Path, before: str = "", **settings) -> subprocess.CompletedProcess[str]:
    """Run the command line in ``folder``, after the Python statements ``before``."""
    code = f"{before}\nfrom bertwright.cli import main\nmain({arguments!r})"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "BERTWRIGHT_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    if not settings:
        return run_python(["-c", code], cwd=folder, env=environment, timeout=300)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **settings,
    )


def small_files(num_bytes: int) -> str:
    """Statements after which no file can grow past ``num_bytes``, as on a disk that is full."""
    return (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({num_bytes}, {num_bytes}))"
    )


@pytest.fixture
def open_folder():
    """A folder that every user of the machine can look into."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good.csv").write_text(GOOD)
        yield folder


def test_a_full_disk_is_said_and_no_token_folder_is_left(open_folder):
    before = tree(open_folder)
    arguments = ["tokenize", "good.csv", "--output", "tokens", "--model", "bert-tiny"]
    done = command(arguments, open_folder, small_files(100))
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert tree(open_folder) == before


def test_a_full_disk_stops_a_training_which_then_goes_on(open_folder):
    arguments = ["train", "good.csv", *TINY, "--output", "run"]
    done = command(arguments, open_folder, small_files(200_000))
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert not (open_folder / "run" / "result.json").exists()
    done = command([*arguments, "--resume"], open_folder)
    assert done.returncode == 0, done.stderr
    assert open_run(open_folder / "run").finished


def test_a_full_disk_leaves_no_scores_behind(open_folder):
    done = command(["train", "good.csv", *TINY, "--output", "run"], open_folder)
    assert done.returncode == 0, done.stderr
    (open_folder / "many.txt").write_text("a film\n" * 20_000)
    before = tree(open_folder)
    for name in ("scores.csv", "scores.parquet"):
        done = command(["predict", "run", "many.txt", "--output", name], open_folder, small_files(50_000))
        assert done.returncode == 2, done.stderr
        assert len(error_lines(done.stderr)) == 1
        assert tree(open_folder) == before


def may_become_nobody() -> bool:
    return os.name == "posix" and os.getuid() == 0


@pytest.mark.parametrize("what", ["read", "write"])
def test_missing_permission_is_said(open_folder, what):
    # Root may do everything: there, the command runs as nobody, and imports what it needs before.
    nobody = (
        "import bertwright.commands, bertwright.training.train, rich.console, os; os.setuid(65534)"
        if may_become_nobody()
        else ""
    )
    secret = open_folder / "secret.csv"
    secret.write_text(GOOD)
    secret.chmod(0o000 if what == "read" else 0o644)
    open_folder.chmod(0o777 if what == "read" else 0o555)
    done = command(["train", "secret.csv", *TINY, "--output", "run"], open_folder, nobody)
    open_folder.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done.stderr)) == 1
    assert re.search("permission" if what == "write" else "permission denied", done.stderr)
    assert not (open_folder / "run").exists()
