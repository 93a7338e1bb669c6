"""Data sets of the hub: names, layouts, and a stand-in for the hub on loopback."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub_stand_in import etag

from bertwright.data import hub
from bertwright.errors import DataError


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["data/train-00000-of-00001-0a1b.parquet"], {"default": {"train": 1}}),
        (["train.parquet", "test.parquet", "README.md"], {"default": {"train": 1, "test": 1}}),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], {"default": {"train": 2}}),
        (["plain_text/train-00000-of-00001.parquet"], {"plain_text": {"train": 1}}),
        (["sst2/train/0000.parquet", "sst2/train/0001.parquet", "cola/test/0000.parquet"],
         {"sst2": {"train": 2}, "cola": {"test": 1}}),
        (["default/partial-train/0000.parquet"], {"default": {"partial-train": 1}}),
        (["en/data/train/0000.parquet", ".hidden/x.parquet", "a.csv"], {"en": {"train": 1}}),
        (["0000.parquet"], {"default": {"0000": 1}}),
        (["x.csv"], {}),
    ],
)  # fmt: skip
def test_layouts(files, expected):
    grouped = hub.group_files(files)
    counts = {config: {split: len(found) for split, found in splits.items()} for config, splits in grouped.items()}
    assert counts == expected


def test_files_are_in_the_order_of_their_rows():
    names = [f"a/train/{number:04}.parquet" for number in range(12)] + ["a/train/10000.parquet"]
    assert hub.group_files(names[::-1])["a"]["train"] == names


@pytest.mark.parametrize("name", ["hub:", "hub:a:b:c:d", "hub:a::b", "hub:a/b/c"])
def test_names_that_are_none(name):
    with pytest.raises(DataError, match="not the name of a data set") as caught:
        hub.local_files(name)
    assert "\n" not in str(caught.value)


def test_what_is_a_hub_name():
    assert hub.is_hub_name("hub:imdb")
    assert not hub.is_hub_name("imdb")
    assert hub.is_hub_name(Path("hub:own/imdb"))
    assert not hub.is_hub_name(None)
    assert not hub.is_hub_name(io.BytesIO())


def parquet(texts):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "label": list(range(len(texts)))}), buffer)
    return buffer.getvalue()


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as data sets ask for: the files of a revision, and their bytes."""

    repositories: dict
    asked: list

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        type(self).asked.append(self.path)
        pieces = urllib.parse.urlsplit(self.path).path.split("/")
        if pieces[1] == "api":
            repository, verb, rest = "/".join(pieces[3:5]), pieces[5], pieces[6:]
        else:
            repository, verb, rest = "/".join(pieces[2:4]), pieces[4], pieces[5:]
        revisions = self.repositories.get(repository)
        if isinstance(revisions, tuple):
            return self.refuse(*revisions)
        if revisions is None:
            return self.refuse(404, "RepoNotFound")
        files = revisions.get(urllib.parse.unquote(rest[0]))
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        headers = {"X-Repo-Commit": f"{abs(hash(rest[0])):040x}"[:40]}
        if verb == "revision":
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": repository, "sha": "a" * 40, "siblings": siblings}).encode()
        elif (name := urllib.parse.unquote("/".join(rest[1:]))) in files:
            body = files[name]
            headers["ETag"] = f'"{etag(body)}"'
        else:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if verb == "revision" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
        return None

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def endpoint():
    shards = {f"data/train-0000{number}-of-00002.parquet": parquet([f"{number}"]) for number in range(2)}
    repositories = {
        "own/shards": {"main": {"README.md": b"", **shards, "data/test-00000-of-00001.parquet": parquet(["t"])}},
        "own/lost": {"main": dict([*shards.items()][:1])},
        "own/converted": {
            "main": {"a.csv": b"text,label\n"},
            "refs/convert/parquet": {f"c/train/000{number}.parquet": parquet([f"{number}"]) for number in range(3)},
        },
        "own/configs": {"main": {"en/train.parquet": parquet(["e"]), "de/train.parquet": parquet(["d"])}},
        "own/csv": {"main": {"a.csv": b"text,label\n"}},
        "own/gated": (403, "GatedRepo"),
        "own/broken": (500, ""),
        "own/private": (401, ""),
    }
    handler = type("Hub", (_Hub,), {"repositories": repositories, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(names, cache, **environment):
    """What the names give, in a process of its own, since huggingface_hub reads its environment once."""
    program = """
import json, sys
from bertwright.data.hub import local_files
from bertwright.data.read import read_table
from bertwright.errors import DataError
for name in sys.argv[1:]:
    try:
        files = local_files(name)
        print(json.dumps([text for file in files for text in read_table(file).columns["text"].to_pylist()]))
    except DataError as error:
        print(json.dumps(str(error)))
assert "torch" not in sys.modules
"""
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP", "http"))}
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        env={**cleared, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2",
             **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_data_sets_are_fetched_and_then_found_offline(endpoint, tmp_path):
    names = ["hub:own/shards", "hub:own/shards:test", "hub:own/converted", "hub:own/configs:de:train"]
    expected = [["0", "1"], ["t"], ["0", "1", "2"], ["d"]]
    assert ask(names, tmp_path, HF_ENDPOINT=endpoint) == expected
    assert ask(names, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1") == expected
    assert ask(names[:1], tmp_path, HF_ENDPOINT="http://127.0.0.1:9") == expected[:1]
    # part of what a split is: said, not read as if it were all
    shard = next(tmp_path.rglob("train-00001-of-00002.parquet"))
    shard.unlink()
    (found,) = ask(names[:1], tmp_path, HF_HUB_OFFLINE="1")
    assert "found 1 files for split" in found
    assert "expected 2 as their names say" in found


def test_what_cannot_be_fetched_is_one_clear_line(endpoint, tmp_path):
    names = {
        "hub:own/shards:validation": 'no split "validation", expected one of test, train',
        "hub:own/configs": "found 2 configurations (de, en), expected the name of one: hub:own/configs:CONFIG:train",
        "hub:own/configs:de": '"de" is a configuration, expected a split of it too, one of train',
        "hub:own/configs:fr:train": 'no configuration "fr", expected one of de, en',
        "hub:own/csv": "no parquet files in the data set (it has .csv)",
        "hub:own/lost": "found 1 files for split",
        "hub:own/none": "no such public data set on the hub",
        "hub:own/private": "login",
        "hub:own/gated": "access on the hub must be asked for",
        "hub:own/broken": "the hub answered with an error",
        "hub:own/na--me": "not the name of a data set",
    }
    answers = ask(names, tmp_path, HF_ENDPOINT=endpoint)
    for (name, words), answer in zip(names.items(), answers, strict=True):
        assert isinstance(answer, str), name
        assert words in answer
        assert answer.startswith(name)
        assert "\n" not in answer


def test_without_a_hub_one_clear_line(tmp_path):
    (offline,) = ask(["hub:own/shards"], tmp_path, HF_HUB_OFFLINE="1")
    assert offline == "hub:own/shards: not in the hub's cache on this machine, and HF_HUB_OFFLINE is set"
    (unreachable,) = ask(["hub:own/shards"], tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable == "hub:own/shards: not in the hub's cache on this machine, and the hub cannot be reached"
