"""Publishing on the hub and taking it from there, with a stand-in that fails in all the ways that hubs do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from tests.hub_stand_in import Fault, StandIn

import bertwright
from bertwright.cli import main
from bertwright.config.push import PushSettings
from bertwright.errors import CheckpointError, RunError, UserError
from bertwright.model import hub_transfer
from bertwright.reporting.material import read_material
from bertwright.shipping.model_card import model_card

NAME = "me/comments"


@pytest.fixture(scope="module")
def run(tmp_path_factory, examples):
    """A small training whose files lie in a folder that nobody else should hear of."""
    folder = tmp_path_factory.mktemp("secret place")
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_bytes((examples / f"comments_{part}.csv").read_bytes())
    return bertwright.train(
        folder / "train.csv", test=folder / "test.csv", model="bert-tiny", max_length=32, steps=20, seed=1,
        text_column="text", label_column="label", output=folder / "run", quiet=True,
    )  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, which huggingface_hub takes for the hub, with a cache of its own and no waiting."""
    with StandIn() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        monkeypatch.setattr(hub_transfer.time, "sleep", lambda _: None)
        yield hub


def test_what_is_published_comes_back_the_same(run, hub):
    done = bertwright.push(run.path, NAME, quiet=True)
    assert done["name"] == NAME
    assert done["commit"] == f"{1:040x}"
    assert hub.commits == 1  # all in one: nobody ever sees half of it
    published = hub.repositories[NAME]
    assert {name: data for name, data in published.items() if name != "README.md"} == {
        path.name: path.read_bytes() for path in run.model_folder.iterdir()
    }
    texts = ["you are kind", "you are an idiot"]
    ours, theirs = (bertwright.load(name, dtype="float32").score(texts) for name in (str(run.path), NAME))
    assert (ours == theirs).all()


def test_the_card_says_what_is_on_record_and_no_more(run, hub):
    bertwright.push(run.path, NAME, license="apache-2.0", language=("en",), quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    read = huggingface_hub.ModelCard(card).data
    assert (read.library_name, read.license, read.language) == ("bertwright", "apache-2.0", ["en"])
    results = {result.metric_type: result.metric_value for result in read.eval_results}
    assert results["roc_auc"] == run.metrics["test"]["roc_auc"]
    assert read.eval_results[0].dataset_name == "test.csv"
    for heading in ("Use", "Data", "How good it is", "Groups of people", "Limits", "Training", "Do it again"):
        assert f"\n## {heading}\n" in card
    assert re.search(r"\| ROC AUC \| 0\.\d{4} \| 0\.\d{4} to 0\.\d{4} \|", card)
    assert "bertwright train train.csv" in card
    assert "secret place" not in card
    assert str(Path.home()) not in card
    first = (run.path.parent / "train.csv").read_text().splitlines()[1].split(",")[0]
    assert first[:30] not in card


def test_groups_stand_in_the_card(examples, hub):
    judged = bertwright.train(
        examples / "comments_train.csv", test=examples / "comments_test.csv", model="bert-tiny", max_length=16, steps=2,
        text_column="text", label_column="label", group_columns="topic", output="grouped", quiet=True,
    )  # fmt: skip
    bertwright.push(judged.path, NAME, quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    assert "| topic=cooking |" in card
    assert "Not judged by groups" not in card


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/preupload/", status=503),
        Fault("PUT", "/large/", status=500),
        Fault("POST", "/commit/", times=2, status=503),
        Fault("POST", "/api/repos/create", status=429),
        Fault("GET", f"/api/models/{NAME}", times=2, status=502),
    ],
    ids=lambda fault: f"{fault.method} {fault.path} {fault.status}",
)
def test_a_hub_that_fails_for_a_moment_is_asked_again(run, hub, monkeypatch, fault):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.faults.append(fault)
    assert bertwright.push(run.path, NAME, quiet=True)["files"]
    assert fault.times == 0
    assert set(hub.repositories[NAME]) == {"README.md", *(path.name for path in run.model_folder.iterdir())}


def test_one_that_fails_for_good_is_named_and_nothing_is_published(run, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.faults.append(Fault("POST", "/commit/", times=1_000, status=503))
    with pytest.raises(SystemExit) as exited:
        main(["push", str(run.path), NAME])
    assert exited.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: me/comments: the hub answered with an error: ")
    assert "once more in 8 s" in "\n".join(said)
    assert hub.repositories[NAME] == {}


def test_a_file_that_arrives_damaged_is_noticed(run, hub):
    hub.faults.append(Fault("PUT", "/large/", damage=True))
    with pytest.raises(UserError, match=r"arrived damaged at the hub: its checksum is [0-9a-f]{12}\.\.\., expected"):
        bertwright.push(run.path, NAME, quiet=True)


def test_no_token_for_it(run, hub):
    hub.faults.append(Fault("POST", "/api/repos/create", status=403))
    with pytest.raises(UserError, match="lets only its owner publish there; log in"):
        bertwright.push(run.path, NAME, quiet=True)


def test_nobody_there(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(UserError, match="me/comments: the hub cannot be reached") as caught:
        bertwright.push(run.path, NAME, quiet=True)
    assert "\n" not in str(caught.value)


# --- taking it from there ---------------------------------------------------------------------------------------------


@pytest.fixture
def published(run, hub):
    bertwright.push(run.path, NAME, quiet=True)
    return hub


def whole_cache(tmp_path) -> bool:
    """No file of the cache that has its name holds anything else."""
    blobs = [path for path in (tmp_path / "cache").rglob("blobs/*") if not path.name.endswith(".incomplete")]
    return all(path.name in hub_transfer.checksums(path) for path in blobs)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/resolve/", times=3, status=503),
        Fault("HEAD", "/resolve/", times=2, status=502),
        Fault("GET", "model.safetensors", times=2, cut_after=100_000),
        Fault("GET", "vocab.txt", cut_after=10),
    ],
    ids=lambda fault: f"{fault.method} {fault.path} {fault.status or fault.cut_after}",
)
def test_a_fetch_that_fails_for_a_moment_is_gone_on_with(run, published, tmp_path, monkeypatch, fault):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    published.faults.append(fault)
    assert bertwright.load(NAME).predict(["a text"])
    assert fault.times == 0
    assert whole_cache(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt", "bertwright.json"])
def test_a_wrong_checksum_is_noticed_and_fetched_anew(published, tmp_path, file):
    published.faults.append(Fault("GET", f"/{file}", damage=True))
    message = rf"me/comments: a file came damaged from the hub: {file}: its checksum is [0-9a-f]{{12}}\.\.\., expected"
    with pytest.raises(CheckpointError, match=message):
        bertwright.load(NAME)
    assert whole_cache(tmp_path)
    assert bertwright.load(NAME).predict(["a text"])


def test_a_cache_that_rotted_is_noticed(published, tmp_path):
    bertwright.load(NAME)
    blob = next(path for path in (tmp_path / "cache").rglob("model.safetensors")).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="came damaged"):
        bertwright.load(NAME)
    assert bertwright.load(NAME).predict(["a text"])


def test_without_the_hub_what_was_fetched_is_taken(published, monkeypatch):
    bertwright.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(published.asked)
    assert bertwright.load(NAME).predict(["a text"])
    assert len(published.asked) == asked
    with pytest.raises(CheckpointError, match="not in the hub's cache on this machine, and HF_HUB_OFFLINE is set"):
        bertwright.load("me/other")


# --- before anything is sent ------------------------------------------------------------------------------------------


def test_a_dry_run_sends_nothing(run, hub, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["push", str(run.path), NAME, "--dry-run", "out", "--json"])
    assert exited.value.code == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["files"] == sorted(path.name for path in Path("out").iterdir())
    assert hub.asked == []
    assert bertwright.load("out").predict(["a text"])
    with pytest.raises(RunError, match="out exists"):
        bertwright.push(run.path, NAME, dry_run="out", quiet=True)


def test_a_card_of_ones_own(run, hub):
    Path("card.md").write_text("# Mine\n")
    bertwright.push(run.path, NAME, card="card.md", quiet=True)
    assert hub.repositories[NAME]["README.md"] == b"# Mine\n"
    with pytest.raises(UserError, match=r"--card: other.md: cannot be read"):
        bertwright.push(run.path, NAME, card="other.md", quiet=True)


@pytest.mark.parametrize("name", ["comments", "a/b/c", "../x", "me/", "me/a b", ""])
def test_names_that_are_none(run, hub, name):
    with pytest.raises(UserError, match="expected owner/name"):
        bertwright.push(run.path, name, quiet=True)
    assert hub.asked == []


def test_runs_that_cannot_be_published(run, hub, examples):
    bertwright.evaluate(run.path, examples / "comments_test.csv", output="judged", quiet=True)
    with pytest.raises(RunError, match=r"judged: found a run of evaluate \(finished\), expected a finished training"):
        bertwright.push("judged", NAME, quiet=True)
    with pytest.raises(RunError, match="no such folder"):
        bertwright.push("nothing", NAME, quiet=True)


def test_energy_stands_in_the_card_where_it_was_counted(run):
    material = read_material(bertwright.open_run(run.path))
    assert "\nEnergy: not measured.\n" in model_card(material, NAME, PushSettings())
    counted = {**run.result, "energy": {"joules": 7.2e6, "source": "RAPL"}}
    material = replace(material, run=replace(material.run, result=counted))
    assert "\nEnergy of the whole machine meanwhile, by RAPL: 2.0000 kWh.\n" in model_card(
        material, NAME, PushSettings()
    )
