"""Scoring by Ray, on this machine and on two nodes of it. What is refused is refused without Ray."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FSSpecHandler, PyFileSystem

import bertwright
from bertwright.config.evaluate import PredictSettings
from bertwright.errors import DataError, RunError, UserError
from bertwright.progress import Reporter
from bertwright.shipping import bulk_ray
from bertwright.shipping.bulk import run_bulk_prediction
from bertwright.shipping.bulk_ray import _written_whole, run_distributed_prediction
from bertwright.shipping.parquet_pieces import Place, _opened, parquet_files, plan_pieces, read_piece
from bertwright.training.stop import Stop

QUIET = Reporter(quiet=True)
WORDS = ["the", "film", "was", "a", "dull", "story", "with", "fine", "music", "and", "I", "loved", "every", "minute"]


def settings(output="scored/", **given) -> PredictSettings:
    return PredictSettings(**{"output": output, "distribute": "ray", "shard_texts": 64, "dtype": "float32", **given})


def write_files(folder: Path, sizes=(300, 90), row_group_size=50) -> list[str]:
    draw = random.Random(1)
    folder.mkdir(exist_ok=True)
    paths = []
    for number, size in enumerate(sizes):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(size)]
        table = pa.table({"text": texts, "topic": [f"t{i % 3}" for i in range(size)]})
        paths.append(str(folder / f"{'ab'[number]}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=row_group_size)
    return paths


def test_pieces_are_row_groups_with_their_rows_over_all_files(tmp_path):
    paths = write_files(tmp_path / "in")
    assert list(parquet_files([str(tmp_path / "in")])) == paths
    planned = plan_pieces(paths, settings(group_columns="topic"))
    assert [(piece.row_groups, piece.first_row, piece.rows_before) for piece in planned.pieces] == [
        ((0, 1), 0, 0),
        ((2, 3), 100, 0),
        ((4, 5), 200, 0),
        ((0, 1), 0, 300),
    ]
    read = pa.concat_tables(table for piece in planned.pieces for table in read_piece(piece, planned.reading))
    assert read["row"].to_pylist() == list(range(390))
    whole = pa.concat_tables(map(pq.read_table, paths))
    assert read["text"].to_pylist() == whole["text"].to_pylist()
    assert read["group_topic"].to_pylist() == whole["topic"].to_pylist()


def test_bad_rows_are_named_by_their_row_in_the_file(tmp_path):
    table = pa.table({"text": ["a"] * 70 + [" "] + ["b"] * 29})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    planned = plan_pieces([str(tmp_path / "a.parquet")], settings(shard_texts=20))
    with pytest.raises(DataError, match=r"a\.parquet, row 71: the text is empty"):
        list(read_piece(planned.pieces[3], planned.reading))
    skipping = plan_pieces([str(tmp_path / "a.parquet")], settings(shard_texts=20, on_bad_row="skip"))
    (found,) = read_piece(skipping.pieces[3], skipping.reading)
    assert found["row"].to_pylist() == [row for row in range(60, 80) if row != 70]


def test_a_piece_is_read_no_further_than_its_file_can_be_believed(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), pa.array(["a" * 500_000]))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"a\.parquet: 1,024 rows repeat texts of 488 MiB together"):
        plan_pieces([str(tmp_path / "a.parquet")], settings())


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["-"], {}, "scores .parquet files"),
        ([], {}, "scores .parquet files"),
        (["in/a.parquet"], {"resume": True}, "--resume is for scoring on one machine"),
        (["in/a.parquet"], {"output": "s.parquet"}, "expected a folder, whose name ends in /"),
        (["in/a.parquet"], {"output": "mine/"}, "mine/ exists"),
        (["in/a.parquet"], {"output": "mine/", "overwrite": True}, "holds other files than scores"),
        (["in/a.parquet"], {"output": "in/", "overwrite": True}, "holds other files than scores"),
        (["scores"], {"output": "scores/", "overwrite": True}, "scores/: would replace the texts of scores"),
        (["scores/part-000000-0.parquet"], {"output": "scores/", "overwrite": True}, "would replace the texts"),
        (["in/a.parquet"], {"output": "nosuch://x/y/"}, "not an address of a file system"),
        (["nowhere.parquet"], {}, r"nowhere\.parquet: no such file"),
        (["bad.parquet"], {}, r"bad\.parquet: damaged or not a parquet file"),
        (["mine/data.csv"], {}, "expected a .parquet file"),
        (["mine"], {}, r"mine: found no \.parquet file"),
        (["numbers.parquet"], {}, "text column"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, monkeypatch, files, given, message):
    monkeypatch.setattr("bertwright.shipping.bulk_ray._ray", lambda: None)
    write_files(tmp_path / "in")
    write_files(tmp_path / "scores", (10,))
    (tmp_path / "scores" / "a.parquet").rename("scores/part-000000-0.parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.csv").write_text("text\na\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    pq.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), "numbers.parquet")
    with pytest.raises(UserError, match=message):
        run_distributed_prediction("model", files, settings(**given), QUIET)
    assert isinstance(RunError("x"), UserError)
    with _opened("in/a.parquet") as (_, file):
        assert file.metadata.num_rows == 300


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'bertwright\[ray\]'"):
        run_distributed_prediction("model", ["a.parquet"], settings(), QUIET)


class WithoutRename(FSSpecHandler):
    """A file system that copies and deletes, and cannot rename even a file."""

    def move(self, src, dest):
        raise NotImplementedError("no rename")


def write_part(target: Place) -> None:
    target.file_system.create_dir(target.name)
    pq.write_table(pa.table({"row": [10, 11]}), f"{target.name}/part-000000-0.parquet")


def fail_while_writing(place: Place) -> None:
    with _written_whole(place, Stop()) as target:
        write_part(target)
        raise RunError("a worker failed")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("handler", [FSSpecHandler, WithoutRename])
def test_elsewhere_too_the_old_scores_stay_until_the_new_ones_are_whole(tmp_path, handler):
    """As on s3://, by a file system that is not this machine's as far as anyone can tell."""
    folder = tmp_path / "scored"
    place = Place(PyFileSystem(handler(fsspec.filesystem("file"))), str(folder))
    left = folder / f"_waiting-{'0' * 32}"  # by a scoring that was killed
    left.mkdir(parents=True)
    for number, name in enumerate(("part-000000-0", "part-000001-0", f"{left.name}/part-000000-0")):
        pq.write_table(pa.table({"row": [number]}), folder / f"{name}.parquet")
    (folder / "_SUCCESS").touch()
    before = contents(folder)

    with pytest.raises(RunError, match="a worker failed"):
        fail_while_writing(place)
    assert contents(folder) == before
    with _written_whole(place, Stop()) as target:
        write_part(target)
        assert contents(folder).items() > before.items()
        assert pq.read_table(folder)["row"].to_pylist() == [0, 1], "a reader sees the old scores alone"
    assert set(contents(folder)) == {"part-000000-0.parquet", "_SUCCESS"}
    assert pq.read_table(folder)["row"].to_pylist() == [10, 11]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


def test_elsewhere_a_scoring_that_fails_leaves_nothing(tmp_path):
    place = Place(PyFileSystem(FSSpecHandler(fsspec.filesystem("file"))), str(tmp_path / "scored"))
    with pytest.raises(RunError, match="a worker failed"):
        fail_while_writing(place)
    assert place.files() == []


def test_what_killed_scorings_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = f"scored.partial-{socket.gethostname()}-"
    for name in (f"{here}{ended.pid}", f"{here}{os.getpid()}"):  # the second: a process before had our number
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-000000-0.parquet").touch()
    stay = {f"{here}{os.getppid()}", "scored.partial-elsewhere-1", f"{here}mine", f"more-{here}{ended.pid}"}
    for name in stay:
        (tmp_path / name).mkdir()
    with _written_whole(Place.of(str(tmp_path / "scored")), Stop()) as target:
        assert list(Path(target.name).iterdir()) == []
        Path(target.name, "part-000000-0.parquet").touch()
    assert set(contents(tmp_path)) == {"scored/part-000000-0.parquet", "scored/_SUCCESS"}
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "scored"}


def test_a_scoring_that_is_asked_to_stop_leaves_nothing(tmp_path, monkeypatch, capsys):
    """Ray is stood in for: what it would write is there when the signal comes."""
    paths = write_files(tmp_path / "in", (10,))
    seen = []

    def write(folder: str, **_) -> None:
        Path(folder, "part-000000-0.parquet").touch()
        seen.append(Path(folder))
        signal.raise_signal(signal.SIGTERM)

    ray = MagicMock()
    ray.cluster_resources.return_value = {"CPU": 1}
    ray.data.read_datasource.return_value.map_batches.return_value.write_parquet.side_effect = write
    monkeypatch.setattr(bulk_ray, "_ray", lambda: ray)
    monkeypatch.setattr(bulk_ray, "_files_of", lambda run: {})
    for name in ("_check_all_see", "_source", "_part_names"):
        monkeypatch.setattr(bulk_ray, name, lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run_distributed_prediction("model", paths, settings(), QUIET)
    assert stop.value.code == 143
    assert capsys.readouterr().err == (
        "stopped by SIGTERM while scoring: nothing was kept. Start it again with the same command\n"
    )
    assert seen
    assert not list(tmp_path.glob("scored*"))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is large and not among the tests' requirements: .[ray]")


@pytest.fixture
def run(tmp_path) -> str:
    rows = "".join(f'"{" ".join(WORDS[i % 9 : i % 9 + 5])}",{i % 2}\n' for i in range(40))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    made = bertwright.train(
        tmp_path / "train.csv", model="bert-tiny", steps=3, max_length=24, output=tmp_path / "run", quiet=True
    )
    return str(made.path)


def check_same(folder: Path, expected: pa.Table) -> None:
    parts = sorted(folder.glob("part-*.parquet"))
    assert len(parts) > 1
    assert (folder / "_SUCCESS").exists()
    found = pa.concat_tables(map(pq.read_table, parts))  # by name, and not sorted: in the order of the rows
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        if name.startswith("score_"):
            np.testing.assert_allclose(found[name].to_numpy(), expected[name].to_numpy(), atol=1e-6)
        else:
            assert found[name].to_pylist() == expected[name].to_pylist(), name


@pytest.mark.slow
def test_ray_gives_the_scores_of_one_machine_in_the_same_order(ray, run, tmp_path, monkeypatch):
    paths = write_files(tmp_path / "in")
    given = {"group_columns": "topic"}
    local = PredictSettings(output="local.parquet", dtype="float32", **given)
    run_bulk_prediction(run, paths, local, QUIET)
    done = run_distributed_prediction(run, [str(tmp_path / "in")], settings(**given), QUIET)
    assert done == {"output": "scored/", "texts": 390, "bad_rows": 0}
    check_same(tmp_path / "scored", pq.read_table("local.parquet"))
    assert not list(tmp_path.glob("scored.partial*"))
    # a mistake that shows itself on a worker is the user's, in one line, and leaves nothing
    pq.write_table(pa.table({"text": ["a"] * 70 + [" "]}), "bad.parquet", row_group_size=20)
    with pytest.raises(UserError, match=r"^bad\.parquet, row 71: the text is empty\. Pass --on-bad-row skip"):
        run_distributed_prediction(run, ["bad.parquet"], settings("other/"), QUIET)
    assert not (tmp_path / "other").exists()
    skipped = run_distributed_prediction(run, ["bad.parquet"], settings("other/", on_bad_row="skip"), QUIET)
    assert (skipped["texts"], skipped["bad_rows"]) == (70, 1)
    before = sorted(path.name for path in (tmp_path / "other").iterdir())
    run_distributed_prediction(run, ["bad.parquet"], settings("other/", on_bad_row="skip", overwrite=True), QUIET)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == before
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("bertwright.shipping.bulk_ray._sees", lambda folder: False)
        with pytest.raises(RunError, match=r"does not have the folder .*; pass one that all machines share"):
            run_distributed_prediction(run, paths, settings("fourth/"), QUIET)
    assert not list(tmp_path.glob("fourth*"))
    uri = f"file://{tmp_path}/in/b.parquet"
    addressed = run_distributed_prediction(run, [uri], settings(f"file://{tmp_path}/third/"), QUIET)
    assert addressed["texts"] == 90


@pytest.mark.slow
def test_two_nodes_of_a_cluster_share_the_work(ray, run, tmp_path):
    from ray.cluster_utils import Cluster

    paths = write_files(tmp_path / "in", (400,), 20)
    run_bulk_prediction(run, paths, PredictSettings(output="local.parquet", dtype="float32"), QUIET)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        done = run_distributed_prediction(run, paths, settings(shard_texts=20), QUIET)
        assert done["texts"] == 400
        check_same(tmp_path / "scored", pq.read_table("local.parquet"))
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_sigterm_ends_a_scoring_by_ray(ray, run, tmp_path):
    """Ray hears the signal too, and must not have the last word."""
    paths = write_files(tmp_path / "in", (20_000,), 64)
    command = [sys.executable, "-m", "bertwright", "predict", run, *paths, "--output", "scored/", "--distribute", "ray"]
    process = subprocess.Popen([*command, "--shard-texts", "64"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("scored.partial-*/part-*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM while scoring: nothing was kept" in said
    assert not list(tmp_path.glob("scored*"))
