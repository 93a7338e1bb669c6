"""CPUs and the cores that they belong to."""

from __future__ import annotations

import os

import pytest

from bertwright import cpus


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not say which CPUs may be used")
@pytest.mark.parametrize(
    ("siblings", "usable", "cores"),
    [
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {0, 1, 2, 3}, 2),
        ({0: "0,64", 64: "0,64", 1: "1,65", 65: "1,65"}, {0, 64, 1}, 2),
        ({0: "0-1", 1: "0-1"}, {1}, 1),
        ({0: "0", 1: "1"}, {0, 1}, 2),
        ({}, {0, 1, 2}, 3),
        ({0: "", 1: ""}, {0, 1}, 2),
    ],
)
def test_cpus_of_one_core_count_once(tmp_path, monkeypatch, siblings, usable, cores):
    for cpu, words in siblings.items():
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(words + "\n")
    monkeypatch.setattr(cpus, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable)
    assert cpus.num_usable_cores() == cores
    assert cpus.num_usable_cpus() == len(usable)


def test_where_the_system_does_not_tell_each_cpu_is_a_core(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpus.num_usable_cores() == 6
