"""The README's blocks run: what it shows is what a reader gets."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertwright.cli import app, main
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The bertwright commands of a block, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("bertwright ")]


ALL_COMMANDS = [command for kind, text in BLOCKS if kind == "sh" for command in commands(text)]
ON_DEMO_DATA = [command for command in ALL_COMMANDS if "$DATA" not in command]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def test_the_readme_has_blocks():
    assert len(ON_DEMO_DATA) >= 4
    assert len(ALL_COMMANDS) >= len(ON_DEMO_DATA) + 4
    assert PYTHON


def test_the_readme_links_every_page():
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README))


def test_the_index_of_pages_links_every_page():
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder with what a reader's checkout holds of data, a sixth of it: trainings take their time."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    for path in (folder / "examples").glob("*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([rows[0], *rows[1::6]])
    return folder


def test_the_blocks_on_the_demo_data_run(checkout, monkeypatch, capfd):
    """In this process, which has loaded everything; ``make demo`` runs them as a shell does."""
    monkeypatch.chdir(checkout)
    assert not any(re.search(r"[|<>$*;&]", command) for command in ON_DEMO_DATA)  # nothing that a shell would do
    for command in ON_DEMO_DATA:
        with pytest.raises(SystemExit) as end:
            main(shlex.split(command)[1:])
        assert end.value.code == 0, f"{command}: {capfd.readouterr().err}"
    for text in PYTHON:
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=checkout, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_is_one(command):
    """Also those on real data, which take too long to run here: their flags are known and their values valid."""
    arguments = shlex.split(command.split("|")[0], comments=True)[1:]
    app.parse_args(arguments, exit_on_error=False, print_error=False)
