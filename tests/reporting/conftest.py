"""Runs of every kind, written once."""

from __future__ import annotations

import pytest
from tests.reporting import made_runs


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    many = tuple(f"class {i}" for i in range(12))
    return {
        "two classes": made_runs.make_run(folder / "two", judgement=made_runs.JUDGEMENT),
        "many classes": made_runs.make_run(folder / "many", labels=many, num=600),
        "multi-label": made_runs.make_run(folder / "multi", "multi-label", ("toxic", "insult", "threat")),
        "soft": made_runs.make_run(folder / "soft", "soft", ("no", "maybe", "yes")),
        "regression": made_runs.make_run(folder / "numbers", "regression", ("stars",)),
        "hostile": made_runs.make_run(
            folder / "hostile",
            labels=("<b>fine</b>", '$x$ ]]> \u202e "'),
            texts=made_runs.HOSTILE,
            judgement=made_runs.JUDGEMENT,
        ),
        "old": made_runs.make_run(folder / "old", old=True),
        "without texts": made_runs.make_run(folder / "no-texts", texts=False),
        "without predictions": made_runs.make_run(folder / "no-predictions", predictions=False),
    }
