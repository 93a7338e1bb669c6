"""Scoring files in bulk: order, formats, and what is kept when it is stopped, killed, damaged or out of room."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.shipping.made_scorers import MadeScorer

from bertwright.cli import main
from bertwright.config.evaluate import PredictSettings
from bertwright.data import unlabelled_stream
from bertwright.errors import DataError, Interrupted, RunError, UserError
from bertwright.progress import Reporter
from bertwright.shipping import bulk, shard_folder
from bertwright.shipping.bulk import run_bulk_prediction

STRINGS = [f"text {i} " + "word " * (i * 7 % 23) + ('\n"quoted",\t' if i % 9 == 0 else "") for i in range(500)]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model's folder that stands for a ``MadeScorer``, which is returned by ``model.scorer``."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    scorer = MadeScorer()
    monkeypatch.setattr(bulk, "load_and_say", lambda *_: scorer)
    return scorer


@pytest.fixture
def streamed(monkeypatch):
    """Even small files are streamed, in pieces of some texts."""
    monkeypatch.setattr(bulk, "_READ_WHOLE_BYTES", 0)
    monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 3_000)
    monkeypatch.setattr("bertwright.data.record_batches.STEP_ROWS", 16)


def write_csv(path, strings=STRINGS, more=()) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(name for name, _ in more)])
        writer.writerows([string, *(value(i) for _, value in more)] for i, string in enumerate(strings))
    return str(path)


def predict(files, output, **settings):
    files = [files] if isinstance(files, str) else files
    given = {"output": str(output), "shard_texts": 32, **settings}
    return run_bulk_prediction("model", files, PredictSettings(**given), Reporter(quiet=True))


def check_table(table: pa.Table, strings=STRINGS) -> None:
    assert table["row"].to_pylist() == list(range(len(strings)))
    assert table["text"].to_pylist() == strings
    assert table["score_yes"].to_pylist() == [MadeScorer.score_of(string)[1] for string in strings]
    assert table["predicted"].to_pylist() == [
        "yes" if score >= 0.5 else "no" for score in table["score_yes"].to_pylist()
    ]


def read_back(path: Path) -> pa.Table:
    if path.suffix == ".parquet" or path.is_dir():
        return pq.read_table(path)
    if path.suffix == ".jsonl":
        return pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    numbers = [{**row, "row": int(row["row"]), "score_yes": float(row["score_yes"])} for row in rows]
    return pa.Table.from_pylist(numbers)


@pytest.mark.parametrize("output", ["s.parquet", "s.csv", "s.tsv", "s.jsonl", "folder/"])
def test_every_output_holds_all_texts_in_order(model, streamed, tmp_path, output):
    data = write_csv("data.csv")
    done = predict(data, output)
    assert done == {"output": output, "texts": 500, "bad_rows": 0}
    check_table(read_back(tmp_path / output))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model", "data.csv", output.rstrip("/")}
    if output == "folder/":
        names = [f"part-{number:06d}.parquet" for number in range(16)]
        assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == names
    # longest first within a portion, and no shard knows the others
    assert all(sorted(map(len, call), reverse=True) == list(map(len, call)) for call in model.calls if len(call) > 1)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".txt", ".csv.gz", ".parquet.gz"])
@pytest.mark.parametrize("large", [False, True])
def test_every_input_gives_the_same_scores(model, tmp_path, monkeypatch, suffix, large):
    strings = [
        string.replace("\n", " ").replace("\t", " ").replace('"', "'").replace(",", ";").strip() for string in STRINGS
    ]
    plain, path = suffix.removesuffix(".gz"), tmp_path / f"data{suffix.removesuffix('.gz')}"
    table = pa.table({"text": strings})
    if plain == ".parquet":
        pq.write_table(table, path, row_group_size=70)
    elif plain == ".arrow":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=70)
    elif plain == ".jsonl":
        path.write_text("".join(json.dumps({"text": string}) + "\n" for string in strings))
    elif plain == ".txt":
        path.write_text("".join(string + "\n" for string in strings))
    else:
        path.write_text("text\n" + "".join(f"{string}\n" for string in strings))
        if plain == ".tsv":
            path.write_text("id\ttext\n" + "".join(f"{i}\t{string}\n" for i, string in enumerate(strings)))
    if suffix.endswith(".gz"):
        packed = path.with_name(f"data{suffix}")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    if large:
        monkeypatch.setattr(bulk, "_READ_WHOLE_BYTES", 0)
        monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 3_000)
        monkeypatch.setattr("bertwright.data.record_batches.STEP_ROWS", 16)
    predict(str(path), "s.parquet")
    check_table(pq.read_table("s.parquet"), strings)


def test_streaming_gives_the_bytes_that_reading_whole_gives(model, tmp_path, monkeypatch):
    """Over several files, with groups and rows to skip, and with shards that lie across files."""
    columns = (("topic", lambda i: f"t{i % 3}"),)
    holes = ["" if i % 50 == 3 else string for i, string in enumerate(STRINGS)]
    files = [write_csv("a.csv", holes[:130], columns), write_csv("b.csv", holes[130:], columns)]
    given = {"group_columns": "topic", "on_bad_row": "skip", "text_column": "text"}
    assert predict(files, "whole.parquet", **given)["bad_rows"] == 10
    monkeypatch.setattr(bulk, "_READ_WHOLE_BYTES", 0)
    monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 3_000)
    assert predict(files, "streamed.parquet", **given)["bad_rows"] == 10
    assert Path("whole.parquet").read_bytes() == Path("streamed.parquet").read_bytes()
    table = pq.read_table("whole.parquet")
    assert table["row"].to_pylist() == [i for i, string in enumerate(holes) if string]
    assert table["group_topic"].to_pylist() == [f"t{(i if i < 130 else i - 130) % 3}" for i in table["row"].to_pylist()]


def test_pairs_are_scored_as_pairs(model, streamed):
    model.settings = model.settings.model_copy(update={"pairs": True})
    data = write_csv("data.csv", more=(("reply", lambda i: f"reply {i}"),))
    predict(data, "s.parquet", pair_column="reply", text_column="text")
    table = pq.read_table("s.parquet")
    expected = [MadeScorer.score_of((string, f"reply {i}"))[1] for i, string in enumerate(STRINGS)]
    assert table["score_yes"].to_pylist() == expected
    with pytest.raises(DataError, match="found single texts, expected pairs"):
        predict(data, "t.parquet", text_column="text")


@pytest.fixture
def stops(model, monkeypatch):
    """After so many calls of the scorer something happens.

    A shell starts what is in the background with SIGINT ignored, which is then left so: here it is not.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def arrange(calls: int, what) -> None:
        before = MadeScorer.score_tokenized
        left = [calls]

        def counted(self, texts, ragged):
            left[0] -= 1
            if left[0] == 0:
                what()
            return before(self, texts, ragged)

        monkeypatch.setattr(MadeScorer, "score_tokenized", counted)

    yield arrange
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("output", ["s.parquet", "s.csv", "s.jsonl", "folder/"])
def test_a_signal_keeps_whole_shards_and_resume_gives_the_same_bytes(model, streamed, stops, output, capsys, tmp_path):
    data = write_csv("data.csv")
    predict(data, f"other-{output}")
    scored = len(model.calls)
    stops(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        predict(data, output)
    said = capsys.readouterr().err
    assert "stopped by Ctrl-C while scoring: the scores of" in said
    assert f"bertwright predict model data.csv --output {output} --shard-texts 32 --resume" in said
    assert not (tmp_path / output).exists()
    with pytest.raises(RunError, match="holds a scoring that was stopped; pass --resume"):
        predict(data, output)
    before = len(model.calls)
    predict(data, output, resume=True)
    assert len(model.calls) - before < scored - 4  # the shards that are there are not scored again
    if output == "folder/":
        for part in (tmp_path / "folder").iterdir():
            assert part.read_bytes() == (tmp_path / "other-folder" / part.name).read_bytes()
    else:
        assert (tmp_path / output).read_bytes() == (tmp_path / f"other-{output}").read_bytes()
    assert not (tmp_path / (output.rstrip("/") + ".shards")).exists()


def test_sigterm_ends_with_143(model, stops, streamed):
    data = write_csv("data.csv")
    stops(8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        predict(data, "s.parquet")
    assert stop.value.code == 143


def test_a_signal_before_the_first_shard_leaves_nothing(model, stops, tmp_path, capsys):
    data = write_csv("data.csv")
    stops(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        predict(data, "s.parquet")
    assert "nothing was kept. Start it again with the same command" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model", "data.csv"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_comes_to_the_same_end(model, streamed):
    data = write_csv("data.csv")
    predict(data, "expected.parquet", shard_texts=16)
    model.pause_s = 0.01
    draw, resume, kills = random.Random(0), False, 0
    for _ in range(8):
        child = os.fork()
        if child == 0:
            try:
                predict(data, "s.parquet", shard_texts=16, resume=resume)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.03, 0.15))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        resume = True  # also where nothing is there yet
        if Path("s.parquet").exists():
            break
    assert kills > 1
    model.pause_s = 0
    if not Path("s.parquet").exists() or Path("s.parquet.shards").exists():
        try:
            predict(data, "s.parquet", shard_texts=16, resume=True)
        except RunError as error:  # it was killed while it removed the shards
            assert "s.parquet exists" in str(error)  # noqa: PT017 - it may also go on
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()
    assert not Path("s.parquet.shards").exists()


def test_what_is_left_of_shards_that_were_being_removed_is_swept_away(model, tmp_path):
    data = write_csv("data.csv")
    predict(data, "s.parquet")
    left = tmp_path / "s.parquet.shards"
    for names in ((shard_folder.LOG, shard_folder.LOCK, "part-000001.arrow"), (shard_folder.LOCK,), ()):
        left.mkdir()
        for name in names:
            (left / name).write_text("x")
        with pytest.raises(RunError, match=r"s\.parquet exists"):
            predict(data, "s.parquet", resume=True)
        assert not left.exists()
    left.mkdir()
    (left / "mine").write_text("x")
    with pytest.raises(RunError, match=r"s\.parquet exists"):
        predict(data, "s.parquet")
    assert (left / "mine").exists()


@pytest.fixture
def stopped(model, stops, streamed, monkeypatch):
    """A scoring of data.csv to s.parquet that was stopped after some shards."""
    data = write_csv("data.csv")
    predict(data, "expected.parquet")
    stops(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        predict(data, "s.parquet")
    return data


def shards() -> list[Path]:
    return sorted(Path("s.parquet.shards").glob("part-*"))


def test_other_texts_models_and_settings_are_refused(stopped):
    kept = {path.name: path.read_bytes() for path in Path("s.parquet.shards").iterdir()}
    shutil.copy(stopped, "copy.csv")
    for changes, message in (
        ({"shard_texts": 33}, "--shard-texts: found 33, expected 32"),
        ({"text_column": "text"}, "--text-column: found text, expected nothing"),
        ({"dtype": "float32"}, "--dtype: found float32, expected auto"),
        ({"overwrite": True}, "--resume and --overwrite exclude each other"),
    ):
        with pytest.raises(UserError, match=message):
            predict(stopped, "s.parquet", resume=True, **changes)
    with pytest.raises(RunError, match="found 2 files, expected 1"):
        predict([stopped, "copy.csv"], "s.parquet", resume=True)
    Path("model/weights").write_text("2")
    with pytest.raises(RunError, match="is not the model that"):
        predict(stopped, "s.parquet", resume=True)
    Path("model/weights").write_text("1")
    text = Path(stopped).read_text()
    Path(stopped).write_text(text.replace("text 3 ", "text x "))
    with pytest.raises(RunError, match=r"data\.csv: its content is not what"):
        predict(stopped, "s.parquet", resume=True)
    assert {path.name: path.read_bytes() for path in Path("s.parquet.shards").iterdir()} == kept
    predict("copy.csv", "s.parquet", resume=True)  # the same texts by another name
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()


@pytest.mark.parametrize("harm", ["cut", "bit", "missing", "log"])
def test_a_damaged_shard_is_noticed_and_made_anew(stopped, harm, capsys):
    first = shards()[1]
    content = first.read_bytes()
    if harm == "cut":
        first.write_bytes(content[:-7])
    elif harm == "bit":
        first.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif harm == "missing":
        first.unlink()
    else:
        log = Path("s.parquet.shards") / shard_folder.LOG
        lines = log.read_bytes().split(b"\n")
        log.write_bytes(b"\n".join([lines[0], b'{"shard": -1}', b"[" * 9999, *lines[2:-1], lines[1][:20]]))
    predict(stopped, "s.parquet", resume=True)
    said = capsys.readouterr().err
    if harm != "log":
        assert f"{first.name} is {'missing' if harm == 'missing' else 'damaged'}; it is made anew" in said
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()


def test_shards_of_other_columns_are_not_joined(stopped):
    """As another version may have written them."""
    first = shards()[1]
    table = pa.ipc.open_file(first).read_all()
    table = table.rename_columns([name.replace("text", "words") for name in table.column_names])
    with pa.ipc.new_file(first, table.schema) as file:
        file.write_table(table)
    log = Path("s.parquet.shards") / shard_folder.LOG
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[1]["sha256"] = hashlib.sha256(first.read_bytes()).hexdigest()
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match="holds other columns than the shards before; pass --overwrite"):
        predict(stopped, "s.parquet", resume=True)
    assert not Path("s.parquet").exists()


def test_overwrite_begins_anew_and_keeps_the_old_output_until_the_end(stopped, stops, model):
    Path("s.parquet").write_bytes(b"old")
    with pytest.raises(RunError, match="holds a scoring that was stopped"):
        predict(stopped, "s.parquet")
    with pytest.raises(RunError, match=r"s\.parquet exists"):
        predict(stopped, "s.parquet", resume=True)
    stops(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        predict(stopped, "s.parquet", overwrite=True)
    assert Path("s.parquet").read_bytes() == b"old"
    predict(stopped, "s.parquet", resume=True)
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()


def test_one_that_was_killed_behind_its_last_file_is_finished_by_resume(stopped, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(shard_folder.ShardFolder, "remove", lambda self: None)
        predict(stopped, "s.parquet", resume=True)
    assert shards()
    predict(stopped, "s.parquet", resume=True)
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()
    assert not Path("s.parquet.shards").exists()


def test_a_full_disk_is_said_and_gone_on_from(model, streamed, monkeypatch):
    data = write_csv("data.csv")
    predict(data, "expected.parquet")
    write, left = shard_folder._write_arrow, [3]

    def full(path, tables):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", os.fspath(path))
        write(path, tables)

    monkeypatch.setattr(shard_folder, "_write_arrow", full)
    with pytest.raises(RunError, match=r"No space left on device\. The scores of 96 texts are kept .* --resume"):
        predict(data, "s.parquet")
    left[0] = 100
    predict(data, "s.parquet", resume=True)
    assert Path("s.parquet").read_bytes() == Path("expected.parquet").read_bytes()


def test_a_bad_row_far_behind_is_named_and_can_be_skipped_then(model, streamed, capsys):
    strings = list(STRINGS)
    strings[400] = " "
    data = write_csv("data.csv", strings)
    with pytest.raises(DataError, match=r"data\.csv, line 4\d\d: the text is empty\. Pass --on-bad-row skip"):
        predict(data, "s.parquet")
    assert shards()
    done = predict(data, "s.parquet", resume=True, on_bad_row="skip")
    assert done == {"output": "s.parquet", "texts": 499, "bad_rows": 1}
    assert pq.read_table("s.parquet")["row"].to_pylist() == [i for i in range(500) if i != 400]


def test_small_files_with_bad_rows_are_refused_before_any_work(model, tmp_path):
    data = write_csv("data.csv", [*STRINGS, " ", " "])
    with pytest.raises(DataError, match=r"the text is empty \(and 1 more row\)"):
        predict(data, "s.parquet")
    assert not model.calls
    assert {path.name for path in tmp_path.iterdir()} == {"model", "data.csv"}


def test_a_file_that_changes_meanwhile_is_refused(model, streamed, stops):
    data = write_csv("data.csv")
    stops(5, lambda: os.utime(data, ns=(1, 1)))
    with pytest.raises(DataError, match="changed while it was read"):
        predict(data, "s.parquet")
    assert not Path("s.parquet").exists()


def test_groups_of_other_types_in_other_files_are_refused(model, streamed):
    pq.write_table(pa.table({"text": ["a", "b"], "g": [1, 2]}), "a.parquet")
    pq.write_table(pa.table({"text": ["a", "b"], "g": ["1", "2"]}), "b.parquet")
    with pytest.raises(DataError, match=r'b\.parquet: the column "g" holds large_string, expected int64'):
        predict(["a.parquet", "b.parquet"], "s.parquet", group_columns="g", text_column="text")


def test_what_is_in_the_way_is_refused(model, tmp_path):
    data = write_csv("data.csv")
    (tmp_path / "s.parquet").write_text("mine")
    (tmp_path / "t.parquet.shards").mkdir()
    (tmp_path / "t.parquet.shards" / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.parquet").write_text("mine")
    for output, given, message in (
        ("s.parquet", {}, "s.parquet exists; pass another"),
        ("t.parquet", {"overwrite": True}, "is not the folder of a scoring alone"),
        ("folder/", {}, "folder exists"),
        ("folder/", {"overwrite": True}, "holds other files than scores"),
        ("folder", {}, "expected a name that ends in"),
        ("no/s.parquet", {}, "there is no folder"),
        ("s.parquet/", {"overwrite": True}, "s.parquet exists"),
        ("data.csv", {"overwrite": True}, r"data\.csv: would replace the texts"),
    ):
        with pytest.raises(UserError, match=message):
            predict(data, output, **given)
    assert not model.calls
    assert (tmp_path / "folder" / "mine.parquet").read_text() == "mine"


def test_a_pipe_is_refused_and_not_waited_for(model):
    os.mkfifo("data.csv")
    writer = threading.Thread(target=write_csv, args=("data.csv", STRINGS[:3]))
    writer.start()
    with pytest.raises(DataError, match=r"data\.csv: not a file, which is read twice"):
        predict("data.csv", "s.parquet")
    writer.join(10)


def test_from_python(model):
    data = write_csv("data.csv")
    done = bulk.predict_files("model", data, Path("s.parquet"), quiet=True, shard_texts=32, resume=True)
    assert done == {"output": "s.parquet", "texts": len(STRINGS), "bad_rows": 0}
    check_table(pq.read_table("s.parquet"))
    with pytest.raises(UserError, match="shard_text"):
        bulk.predict_files("model", [data], "t.parquet", shard_text=32)


def test_two_at_once_are_refused(model, streamed, stops):
    data = write_csv("data.csv")
    entered, go_on, failed = threading.Event(), threading.Event(), []

    def wait() -> None:
        entered.set()
        go_on.wait(20)

    stops(3, wait)
    first = threading.Thread(target=predict, args=(data, "s.parquet"))
    first.start()
    entered.wait(20)
    try:
        predict(data, "s.parquet", overwrite=True)
    except RunError as error:
        failed.append(str(error))
    go_on.set()
    first.join()
    assert "another process is scoring into it" in failed[0]
    check_table(pq.read_table("s.parquet"))


def test_progress_tells_texts_or_megabytes(model, monkeypatch, streamed):
    told: list[tuple] = []

    class Telling(Reporter):
        def progress(self, what, total, unit="texts"):
            import contextlib

            told.append((what, total, unit))
            return contextlib.nullcontext(lambda amount, note="": told.append((amount, note)))

    data = write_csv("data.csv", STRINGS * 40)
    settings = PredictSettings(output="s.parquet", shard_texts=4096)
    monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 300_000)
    model.token_budget = 10_000
    run_bulk_prediction("model", [data], settings, Reporter(quiet=True))
    stream = unlabelled_stream.UnlabelledStream([data])
    assert sum(map(len, stream)) == 20_000
    assert stream.num_bytes == stream.num_bytes_read == os.stat(data).st_size
    run_bulk_prediction("model", [data], PredictSettings(output="t.parquet"), Telling(quiet=True))
    assert told[0] == ("Scoring", stream.num_bytes // 10**6, "MB")
    assert sum(amount for amount, _ in told[1:]) == told[0][1]
    assert "texts/s" in told[-1][1]
    told.clear()
    monkeypatch.setattr(bulk, "_READ_WHOLE_BYTES", 1 << 30)
    run_bulk_prediction("model", [data], PredictSettings(output="u.parquet"), Telling(quiet=True))
    assert told[0] == ("Scoring", 20_000, "texts")
    assert sum(amount for amount, _ in told[1:]) == 20_000


def test_memory_does_not_grow_with_the_file(model, monkeypatch):
    """Ten times the texts take no more memory: by Arrow's pools, which hold the texts, and by Python's.

    How far reading is ahead of scoring depends on what else the machine does, so that peaks differ a little.
    """
    import tracemalloc

    monkeypatch.setattr(bulk, "_READ_WHOLE_BYTES", 0)
    monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 20_000)
    model.token_budget = 10_000
    model.calls = type("Forgetful", (list,), {"append": lambda self, call: None})()
    peaks = []
    monkeypatch.setattr("bertwright.data.text_stream._LINE_END_BYTES", 10_000)
    monkeypatch.setattr("bertwright.data.compression.PIECE_BYTES", 10_000)
    for times in (8, 8, 80):
        data = write_csv(f"data{times}.csv", STRINGS * times)
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        seen = [0]
        score = MadeScorer.score_tokenized

        def watched(self, texts, ragged, score=score, arrow=arrow, seen=seen):
            seen[0] = max(seen[0], pa.total_allocated_bytes() - arrow)
            return score(self, texts, ragged)

        monkeypatch.setattr(MadeScorer, "score_tokenized", watched)
        predict(data, "s.parquet", overwrite=True, shard_texts=200)
        monkeypatch.setattr(MadeScorer, "score_tokenized", score)
        peaks.append(tracemalloc.get_traced_memory()[1] + seen[0])
        tracemalloc.stop()
    grown_bytes = Path("data80.csv").stat().st_size - Path("data8.csv").stat().st_size
    assert peaks[2] - peaks[1] < 0.4 * grown_bytes


def test_the_command_lets_libraries_keep_few_of_their_products(model, monkeypatch):
    """They would keep the code for 1,024 shapes: half of what memory grew by in a scoring of 1.5 million texts."""
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")  # what a user chose is left alone
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    with pytest.raises(SystemExit) as end:
        main(["predict", "model", write_csv("data.csv"), "--output", "s.parquet", "--quiet"])
    assert end.value.code == 0
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert 70 < int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < 200


def test_a_shard_that_arrow_reads_without_a_look_is_checked(tmp_path):
    """A hash can be put right by whoever changes a shard."""
    offsets = pa.py_buffer(np.array([0, 1], np.int32))
    texts = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff"))  # no UTF-8, which a text of Arrow's must be
    table = pa.table({"text": texts})
    with pa.ipc.new_file(str(tmp_path / "part.arrow"), table.schema) as file:
        file.write_table(table)
    with pytest.raises(RunError, match=r"part\.arrow: cannot be read .*Pass --resume: it is made anew"):
        shard_folder._read_arrow(tmp_path / "part.arrow")
