"""What docs/SECURITY.md and docs/development.md say of packages and of what they promise stands in the repository."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def pins(name: str) -> set[str]:
    """The packages of a file with their versions, each under its normalised name (PEP 503)."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {f"{re.sub('[-_.]+', '-', package).lower()}=={version}" for package, version in found}


def test_the_lock_holds_what_the_constraints_say_but_for_torch():
    constraints, lock = pins("constraints.txt"), pins("requirements.lock")
    assert {pin for pin in constraints - lock if not pin.startswith("torch==")} == set()
    assert lock - constraints == set()


def test_every_package_of_the_lock_has_hashes():
    blocks = re.split(r"\n(?=[\w.-]+==)", (REPOSITORY / "requirements.lock").read_text(encoding="utf-8"))[1:]
    assert len(blocks) == len(pins("requirements.lock"))
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_files_that_the_threat_model_names_are_there():
    text = (REPOSITORY / "docs" / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w]+/)*\w+\.py)`", text))
    assert len(named) > 30
    places = [*(REPOSITORY / "src" / "bertwright").rglob("*.py"), *(REPOSITORY / "tests").rglob("*.py")]
    known = {path.as_posix() for path in places}
    assert {name for name in named if not any(path.endswith("/" + name) for path in known)} == set()
