"""Data sets of the hub: names, layouts, and a stand-in for the hub on loopback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from tests.hub_stand_in import Fault, is_whole, taken_for_the_hub, xet_that_works

from bertwright.data import hub
from bertwright.data.read import read_table
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


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The stand-in for the hub, with data sets of several layouts."""
    shards = {f"data/train-0000{number}-of-00002.parquet": parquet([f"{number}"]) for number in range(2)}
    with taken_for_the_hub(monkeypatch, tmp_path / "cache") as served:
        served.data_sets = {
            "own/shards": {"main": {"README.md": b"", **shards, "data/test-00000-of-00001.parquet": parquet(["t"])}},
            "own/lost": {"main": dict([*shards.items()][:1])},
            "own/converted": {
                "main": {"a.csv": b"text,label\n"},
                "refs/convert/parquet": {f"c/train/000{number}.parquet": parquet([f"{number}"]) for number in range(3)},
            },
            "own/configs": {"main": {"en/train.parquet": parquet(["e"]), "de/train.parquet": parquet(["d"])}},
            "own/csv": {"main": {"a.csv": b"text,label\n"}},
        }
        yield served


def texts_of(name):
    return [text for file in hub.local_files(name) for text in read_table(file).columns["text"].to_pylist()]


NAMES = ["hub:own/shards", "hub:own/shards:test", "hub:own/converted", "hub:own/configs:de:train"]
TEXTS = [["0", "1"], ["t"], ["0", "1", "2"], ["d"]]


def test_data_sets_are_fetched_and_then_found_offline(served, monkeypatch, tmp_path):
    assert [texts_of(name) for name in NAMES] == TEXTS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [texts_of(name) for name in NAMES] == TEXTS


@pytest.mark.parametrize(
    ("name", "last", "found"), [(NAMES[0], "train-00001-of-00002.parquet", (1, 2)), (NAMES[2], "0002.parquet", (2, 3))]
)
@pytest.mark.parametrize("offline", [False, True])
def test_part_of_a_split_is_not_taken_for_all_of_it(served, monkeypatch, tmp_path, name, last, found, offline):
    hub.local_files(name)
    next(tmp_path.rglob(last)).unlink()
    if offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    there, wanted = found
    with pytest.raises(
        DataError, match=f"^{name}: found {there} files of the split .* on this machine, expected {wanted}"
    ):
        hub.local_files(name)


def test_a_first_fetch_that_is_cut_leaves_nothing_that_is_taken_for_a_split(served, monkeypatch):
    served.faults.append(Fault("GET", "0001.parquet", times=1_000, status=503))
    with pytest.raises(DataError, match="the hub answered with an error"):
        hub.local_files(NAMES[2])
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataError, match="not in the hub's cache on this machine, and HF_HUB_OFFLINE is set"):
            hub.local_files(NAMES[2])
    served.faults.clear()
    assert texts_of(NAMES[2]) == TEXTS[2]


def test_what_another_program_fetched_in_part_is_not_taken_for_all(served, monkeypatch, tmp_path):
    hub.local_files(NAMES[2])
    folder = next(tmp_path.rglob("snapshots/*"))
    assert (folder.parents[1] / "refs/refs/convert/parquet").read_text() == folder.name
    for path in (folder.parents[1] / "bertwright").iterdir():
        path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts_of(NAMES[2]) == TEXTS[2]
    next(tmp_path.rglob("0000.parquet")).unlink()
    with pytest.raises(DataError, match=r"found 2 files of the split .*, expected 3\. Fetch it again"):
        hub.local_files(NAMES[2])


def test_all_files_are_of_one_commit(served, monkeypatch):
    asked = huggingface_hub.HfApi.dataset_info

    def changed_at_once(*arguments, **more):
        found = asked(*arguments, **more)
        served.data_sets["own/shards"]["main"] |= {"data/train-00001-of-00002.parquet": parquet(["new"])}
        return found

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.HfApi, "dataset_info", changed_at_once)
        assert texts_of("hub:own/shards") == ["0", "1"]
    assert texts_of("hub:own/shards") == ["0", "new"]


def test_an_update_that_is_cut_leaves_the_commit_of_before(served, monkeypatch, capsys):
    assert texts_of("hub:own/shards") == ["0", "1"]
    served.data_sets["own/shards"]["main"] |= {"data/train-00001-of-00002.parquet": parquet(["new"])}
    served.faults.append(Fault("GET", "train-00001", times=1_000, status=503))
    with pytest.raises(DataError, match="the hub answered with an error"):
        hub.local_files("hub:own/shards")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts_of("hub:own/shards") == ["0", "1"]
    # of the newer one another split was fetched: then it is known that there is a newer one
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert texts_of("hub:own/shards:test") == ["t"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts_of("hub:own/shards") == ["0", "1"]
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "WARNING: hub:own/shards: an older commit is taken, since of the newest: hub:own/shards: found 1 files" in said
    )


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe", b""])
def test_an_answer_that_is_not_the_hubs_is_one_line(served, body):
    served.faults.append(Fault("GET", "/api/datasets/", times=1_000, body=body))
    with pytest.raises(
        DataError, match=r"^hub:own/shards: the hub's answer cannot be read \(.*\)\. Is a login page"
    ) as caught:
        hub.local_files("hub:own/shards")
    assert "\n" not in str(caught.value)


def test_where_hf_xet_gives_up_the_files_come_without_it(served, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    served.xet = True
    words = " ".join(map(str, range(1_000)))
    served.data_sets["own/large"] = {"main": {"train.parquet": parquet([words])}}
    assert texts_of("hub:own/large") == [words]
    assert any("/xet/" in line for line in served.asked)
    assert constants.HF_HUB_DISABLE_XET
    assert "WARNING: hf_xet gave up (" in capsys.readouterr().err


def test_what_comes_by_hf_xet_is_whole_and_what_rots_there_is_noticed(served, monkeypatch, tmp_path):
    words = " ".join(map(str, range(1_000)))
    data = parquet([words])
    served.data_sets["own/large"] = {"main": {"train.parquet": data}}
    with xet_that_works(served, monkeypatch, [data]) as came:
        assert texts_of("hub:own/large") == [words]
        (stored,) = [path for path in tmp_path.rglob(came[0]) if path.is_file()]  # in a store for all repositories
        assert stored.parent.parent == tmp_path / "cache" / "blobs"
        assert texts_of("hub:own/large") == [words]
        stored.chmod(0o600)
        stored.write_bytes(b"rotten" + data[6:])
        with pytest.raises(DataError, match=r"^hub:own/large: train.parquet came damaged from the hub"):
            hub.local_files("hub:own/large")
        assert texts_of("hub:own/large") == [words]
        assert len(came) == 2


def by_another_program(served, repository, files=None, revision="main"):
    """What another program fetches, all of it or some files, and notes as the cache has it."""
    found = huggingface_hub.HfApi().dataset_info(repository, revision=revision)
    for file in files or [file.rfilename for file in found.siblings]:
        huggingface_hub.hf_hub_download(repository, file, repo_type="dataset", revision=found.sha)
    ref = Path(constants.HF_HUB_CACHE) / "--".join(["datasets", *repository.split("/")]) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(found.sha)
    return found.sha


def test_a_newer_copy_of_another_program_is_taken_and_its_note_of_it_stays(served, monkeypatch, tmp_path):
    assert texts_of("hub:own/shards") == ["0", "1"]  # train alone, which is noted
    cache = tmp_path / "cache/datasets--own--shards"
    served.data_sets["own/shards"]["main"] |= {
        "data/train-00000-of-00002.parquet": parquet(["new"]), "data/test-00000-of-00001.parquet": parquet(["newer"])
    }  # fmt: skip
    theirs = by_another_program(served, "own/shards")
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        assert texts_of("hub:own/shards:test") == ["newer"]
        assert texts_of("hub:own/shards") == ["new", "1"]
    served.data_sets["own/shards"]["main"] |= {"data/train-00000-of-00002.parquet": parquet(["newest"])}
    assert texts_of("hub:own/shards") == ["newest", "1"]
    assert (cache / "refs/main").read_text() == theirs  # which is whole, as ours is not
    (cache / "refs/main").touch()  # as a copy of the cache does
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        assert texts_of("hub:own/shards") == ["newest", "1"]
    for note in (cache / "bertwright").iterdir():
        note.write_text("damaged")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts_of("hub:own/shards") == ["new", "1"]


def test_of_two_at_once_the_later_listed_one_is_the_newest(served, monkeypatch, tmp_path):
    listing = hub._listing
    changed = {**served.data_sets["own/shards"]["main"], "data/train-00000-of-00002.parquet": parquet(["new"])}

    def overtaken(*arguments):
        found = listing(*arguments)
        monkeypatch.setattr(hub, "_listing", listing)
        served.data_sets["own/shards"]["main"] = changed
        assert texts_of("hub:own/shards") == ["new", "1"]  # another process, which is done first
        return found

    monkeypatch.setattr(hub, "_listing", overtaken)
    assert texts_of("hub:own/shards") == ["0", "1"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts_of("hub:own/shards") == ["new", "1"]


def test_where_the_newest_commit_has_no_such_split_none_of_an_older_one_is_taken(served, monkeypatch):
    assert texts_of("hub:own/shards:test") == ["t"]
    del served.data_sets["own/shards"]["main"]["data/test-00000-of-00001.parquet"]
    assert texts_of("hub:own/shards") == ["0", "1"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match='found no split "test", expected one of train'):
        hub.local_files("hub:own/shards:test")


def test_files_are_counted_where_the_data_set_itself_numbers_them(served, monkeypatch):
    served.data_sets["own/numbers"] = {"main": {f"train/000{i}.parquet": parquet([f"{i}"]) for i in range(3)}}
    served.data_sets["own/years"] = {
        "main": {"train/2019.parquet": parquet(["a"]), "train/2021.parquet": parquet(["b"])}
    }
    by_another_program(served, "own/numbers", ["train/0000.parquet", "train/0002.parquet"])
    by_another_program(served, "own/years")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"found 2 files of the split .*, expected 3\."):
        hub.local_files("hub:own/numbers")
    assert texts_of("hub:own/years") == ["a", "b"]


def test_the_cache_knows_which_commit_the_revision_is(served, tmp_path):
    for name in (NAMES[0], NAMES[2]):
        hub.local_files(name)
    found = huggingface_hub.scan_cache_dir(tmp_path / "cache")
    assert not found.warnings
    refs = {repository.repo_id: set(repository.refs) for repository in found.repos}
    assert refs == {"own/shards": {"main"}, "own/converted": {"refs/convert/parquet"}}


def test_the_environment_says_where_the_hub_and_its_cache_are(served, tmp_path):
    program = """
import sys
from bertwright.data.hub import local_files
print(*local_files(sys.argv[1]), sep="\\n")
assert "torch" not in sys.modules
"""
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP", "http"))}
    environment = {**cleared, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "home")}

    def ask(**more):
        done = subprocess.run(
            [sys.executable, "-c", program, "hub:own/shards"], env={**environment, **more}, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    fetched = ask(HF_ENDPOINT=served.url)
    assert len(fetched) == 2
    assert all(Path(file).is_relative_to(tmp_path / "home") for file in fetched)
    assert ask(HF_HUB_OFFLINE="1") == fetched


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/api/datasets/", times=4, status=503),
        Fault("GET", "/api/datasets/", status=429),
        Fault("GET", "/api/datasets/", cut_after=20),
        Fault("HEAD", "/resolve/", times=2, status=502),
        Fault("GET", "/resolve/", times=3, status=503),
        Fault("GET", "/resolve/", times=2, cut_after=100),
        Fault("GET", "/resolve/", cut_after=100, reset=True),
    ],
    ids=str,
)
def test_a_fetch_that_fails_for_a_moment_is_gone_on_with(served, tmp_path, fault):
    served.faults.append(fault)
    assert texts_of("hub:own/shards") == ["0", "1"]
    assert fault.times == 0
    assert is_whole(tmp_path / "cache")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("GET", "/api/datasets/", times=1_000, status=503), "the hub answered with an error: .*503"),
        (Fault("GET", "/resolve/", times=1_000, status=503), "the hub answered with an error: .*503"),
        (Fault("HEAD", "/resolve/", times=1_000, status=503), "the hub answered with an error: .*503"),
        (Fault("GET", "/resolve/", times=1_000, cut_after=100), ".*the hub cannot be reached"),
    ],
    ids=str,
)
def test_one_that_fails_for_good_is_one_line_and_leaves_nothing_behind(served, tmp_path, fault, message):
    served.faults.append(fault)
    with pytest.raises(DataError, match=f"^hub:own/shards: {message}"):
        hub.local_files("hub:own/shards")
    assert not [path for path in tmp_path.rglob("blobs/*") if not path.name.endswith(".incomplete")]
    served.faults.clear()
    assert texts_of("hub:own/shards") == ["0", "1"]


@pytest.mark.parametrize("name", ["hub:own/shards", "hub:own/converted"])
def test_while_the_hub_fails_the_copy_is_taken_and_that_is_said(served, capsys, monkeypatch, name):
    fetched = texts_of(name)
    asked = len(served.asked)
    served.faults.append(Fault("GET", "/api/datasets/", times=1_000, status=503))
    assert texts_of(name) == fetched
    assert len(served.asked) == asked + 5  # not for each revision anew: the waits add up
    warning = f"WARNING: {name}: the hub does not tell which files there are (status 503); what was fetched before is"
    assert warning in capsys.readouterr().err
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert texts_of(name) == fetched
    assert f"WARNING: {name}: the hub does not tell" in capsys.readouterr().err


def test_a_wrong_checksum_is_noticed_and_fetched_anew(served, tmp_path):
    served.faults.append(Fault("GET", "train-00001", damage=True))
    message = r"^hub:own/shards: data/train-00001-of-00002.parquet came damaged from the hub: its checksum is [0-9a-f]"
    with pytest.raises(DataError, match=message):
        hub.local_files("hub:own/shards")
    assert is_whole(tmp_path / "cache")
    assert texts_of("hub:own/shards") == ["0", "1"]


@pytest.mark.parametrize("offline", [False, True])
def test_a_cache_that_rotted_is_noticed(served, monkeypatch, offline):
    stored = Path(hub.local_files("hub:own/shards")[0]).resolve()
    data = stored.read_bytes()
    stored.chmod(0o600)
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet came damaged"):
            hub.local_files("hub:own/shards")
    assert texts_of("hub:own/shards") == ["0", "1"]


def test_what_cannot_be_fetched_is_one_clear_line(served):
    served.faults += [
        Fault("GET", "/own/gated", status=403, code="GatedRepo"),
        Fault("GET", "/own/private", status=401),
    ]
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
        "hub:own/na--me": "not the name of a data set",
    }
    for name, words in names.items():
        with pytest.raises(DataError) as caught:
            hub.local_files(name)
        answer = str(caught.value)
        assert words in answer
        assert answer.startswith(name)
        assert "\n" not in answer


def test_without_a_hub_one_clear_line(served, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"^hub:own/shards: not in the hub's cache .*, and the hub cannot be reached$"):
        hub.local_files("hub:own/shards")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^hub:own/shards: not in the hub's cache .*, and HF_HUB_OFFLINE is set$"):
        hub.local_files("hub:own/shards")
