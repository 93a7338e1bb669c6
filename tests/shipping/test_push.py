"""Publishing on the hub and taking it from there, with a stand-in that fails in all the ways that hubs do."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from tests.hub_stand_in import Fault, is_whole, taken_for_the_hub, xet_hash, xet_that_works

import bertwright
from bertwright.cli import main
from bertwright.config.push import PushSettings
from bertwright.errors import CheckpointError, RunError, UserError
from bertwright.model.sources import find_folder
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
    with taken_for_the_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def files_of(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.model_folder.iterdir()}


def published_model(hub) -> dict[str, bytes]:
    return {name: data for name, data in hub.repositories[NAME].items() if name != "README.md"}


def test_what_is_published_comes_back_the_same(run, hub):
    done = bertwright.push(run.path, NAME, quiet=True)
    assert done["name"] == NAME
    assert done["commit"] == f"{1:040x}"
    assert hub.commits == 1  # all in one: nobody ever sees half of it
    assert published_model(hub) == files_of(run)
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


def test_folders_of_this_machine_do_not_stand_in_the_card(run):
    material = read_material(bertwright.open_run(run.path))
    settings = {
        **material.run.settings,
        "train": ["data/acme-secret/train.csv"], "test": ["C:\\acme-secret\\test.csv", "hub:own/texts"],
        "validation": ["acme-secret/validation.csv"], "model": "acme-secret/tiny", "tokenizer": "acme-secret/tokens",
    }  # fmt: skip

    def card(described):
        changed = {**run.result, "model": described}
        return model_card(
            replace(material, run=replace(material.run, result=changed, settings=settings)), NAME, PushSettings()
        )

    shown = card("folder acme-secret/tiny")
    assert "acme-secret" not in shown
    for words in ("train.csv", "test.csv", "hub:own/texts", "--model tiny", "--validation validation.csv"):
        assert words in shown
    assert huggingface_hub.ModelCard(shown).data.base_model is None
    shown = card("acme-secret/tiny from the hub")  # which is public
    assert "--model acme-secret/tiny" in shown
    assert huggingface_hub.ModelCard(shown).data.base_model == "acme-secret/tiny"


def test_columns_of_groups_are_called_columns(examples, hub):
    path = Path("many.csv")
    rows = [f"text number {i},{i % 2},{i // 2 % 2},{'red' if i % 3 else 'blue'}" for i in range(90)]
    path.write_text("\n".join(["text,rude,long,colour", *rows]) + "\n")
    judged = bertwright.train(
        path, test=path, model="bert-tiny", max_length=16, steps=2, label_column="rude,long", group_columns="colour",
        output="many", quiet=True,
    )  # fmt: skip
    bertwright.push(judged.path, NAME, quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    assert "on the texts judged on above. Groups are what stands in columns of the data." in card
    assert "| colour=red |" in card


def test_what_cannot_be_read_is_said_here_and_not_in_the_card(run, hub, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "damaged place" / "run")
    (tmp_path / "damaged place" / "run" / "predictions.parquet").write_bytes(b"no")
    bertwright.push(tmp_path / "damaged place" / "run", NAME, quiet=True)
    assert "damaged place" not in hub.repositories[NAME]["README.md"].decode()
    said = capsys.readouterr().err
    assert "WARNING: the card lacks what stands in a file that cannot be used: " in said
    assert "predictions.parquet" in said


def test_the_card_says_what_transformers_makes_of_it(run, tmp_path):
    def use(**changes):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path, folder)
        path = folder / "model" / "bertwright.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        shown = model_card(read_material(bertwright.open_run(folder)), NAME, PushSettings())
        return shown.partition("## Use")[2].partition("## Data")[0]

    assert "`transformers` reads it too:\n" in use()
    assert "pipeline(" in use()
    assert "pipeline(" not in use(pooling="mean")
    assert "has no head: it would draw a random one" in use(pooling="mean")
    assert (
        "nothing of the threshold, which was tuned (0.3) and the temperature that calibrates the scores (1.7)"
        in use(threshold=0.3, temperature=1.7)
    )
    assert "how long texts are read (windows)" in use(long_texts="windows")


def briefly_trained(examples, test, output, **more):
    return bertwright.train(
        examples / "comments_train.csv", test=test, model="bert-tiny", max_length=16, steps=2, text_column="text",
        label_column="label", output=output, quiet=True, **more,
    )  # fmt: skip


def test_groups_stand_in_the_card(examples, hub):
    judged = briefly_trained(examples, examples / "comments_test.csv", "grouped", group_columns="topic")
    bertwright.push(judged.path, NAME, quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    assert "| topic=cooking |" in card
    assert "on the texts judged on above. Groups are what stands in columns of the data." in card
    assert "Not judged by groups" not in card


@pytest.fixture
def people(tmp_path):
    """Texts of which some speak of people."""
    rows = [
        f"my {who} friend number {i} {what}" for i in range(12) for who in ("muslim", "gay", "old") for what in "ab"
    ]
    path = tmp_path / "people.csv"
    path.write_text("text,label\n" + "".join(f"{row},{['clean', 'toxic'][i % 2]}\n" for i, row in enumerate(rows)))
    return path


def test_groups_of_held_out_texts_stand_in_the_card_unasked(examples, people, hub):
    judged = briefly_trained(examples, people, "people")
    bertwright.push(judged.path, NAME, quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    assert "Judged is the score of “toxic”, on the texts judged on above. Groups are the texts that hold a term" in card
    assert "| muslim |" in card
    assert "friend number" not in card


def test_groups_of_other_texts_stand_in_the_card(run, people, hub, capsys):
    record = bertwright.bias(run.path, people, quiet=True)
    Path("bias.json").write_text(json.dumps(record))
    bertwright.push(run.path, NAME, bias="bias.json", quiet=True)
    card = hub.repositories[NAME]["README.md"].decode()
    assert "Judged is the score of “toxic”, on 72 texts of people.csv. Groups are the texts that hold a term" in card
    assert capsys.readouterr().err == ""
    Path("bias.json").write_text(json.dumps({**record, "run": "other/run"}))
    bertwright.push(run.path, NAME, bias="bias.json", quiet=True)
    assert "WARNING: --bias: bias.json is of other/run; it stands in the card of " in capsys.readouterr().err
    with pytest.raises(UserError, match="--card takes the place of the card that --bias would stand in"):
        bertwright.push(run.path, NAME, bias="bias.json", card="card.md", quiet=True)
    assert f"| muslim | {next(g for g in record['groups'] if g['group'] == 'muslim')['subgroup_auc']:.4f} |" in card


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bias\.json: cannot be read as JSON"),
        ("[]", r"bias\.json: found list"),
        ('{"groups": 1}', r"bias\.json: found something else, expected the line that `bertwright bias --json` prints"),
        ('{"groups": [], "label": "toxic", "judged_on": {}}', r"bias\.json: found no groups"),
        (
            '{"groups": [], "label": "x", "judged_on": {}}',
            r'found the bias of "x", expected one of this run\'s labels, clean, toxic',
        ),
    ],
)
def test_what_is_no_bias_is_refused_before_anything_is_sent(run, hub, content, message):
    Path("bias.json").write_text(content)
    with pytest.raises(UserError, match=f"^--bias: .*{message}"):
        bertwright.push(run.path, NAME, bias="bias.json", quiet=True)
    assert not hub.asked


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/preupload/", status=503),
        Fault("PUT", "/large/", status=500),
        Fault("POST", "/commit/", times=2, status=503),
        Fault("POST", "/api/repos/create", status=429),
        Fault("GET", f"/api/models/{NAME}", times=2, status=502),
        Fault("PUT", "/large/", times=2, cut_after=1_000),
        Fault("POST", "/preupload/", cut_after=10),
        Fault("POST", "/commit/", times=2, cut_after=1_000),
        Fault("POST", "/commit/", unanswered=True),
        Fault("GET", f"/api/models/{NAME}", cut_after=20),
    ],
    ids=str,
)
def test_a_hub_that_fails_for_a_moment_is_asked_again(run, hub, fault):
    hub.faults.append(fault)
    done = bertwright.push(run.path, NAME, quiet=True)
    assert fault.times == 0
    assert published_model(hub) == files_of(run)
    assert done["commit"] == f"{1:040x}"
    assert hub.commits == 1  # nor is what was done, unheard, done twice


def test_one_that_fails_for_good_is_named_and_nothing_is_published(run, hub, capsys):
    hub.faults.append(Fault("POST", "/commit/", times=1_000, status=503))
    with pytest.raises(SystemExit) as exited:
        main(["push", str(run.path), NAME])
    assert exited.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: me/comments: the hub answered with an error: ")
    assert "once more in 8 s" in "\n".join(said)
    assert hub.repositories[NAME] == {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("PUT", "/large/", times=1_000, status=500), "the hub answered with an error: .*500"),
        (Fault("PUT", "/large/", times=1_000, cut_after=1_000), r"the connection to the hub was cut \("),
        (Fault("POST", "/commit/", times=1_000, cut_after=1_000), r"the connection to the hub was cut \("),
    ],
    ids=str,
)
def test_what_never_arrives_is_one_line_and_nothing_is_published(run, hub, fault, message):
    hub.faults.append(fault)
    with pytest.raises(UserError, match=f"^me/comments: {message}"):
        bertwright.push(run.path, NAME, quiet=True)
    assert hub.repositories[NAME] == {}


def test_published_but_not_looked_at_is_said(run, hub):
    hub.faults.append(Fault("GET", f"/api/models/{NAME}", times=1_000, status=503, spared=1))
    with pytest.raises(UserError, match=rf"It is published \({hub.url}/{NAME}/commit/0+1\), but whether"):
        bertwright.push(run.path, NAME, quiet=True)
    assert published_model(hub) == files_of(run)


def test_a_small_file_that_arrives_damaged_is_mended_by_pushing_again(run, hub):
    hub.faults.append(Fault("POST", "/commit/", damage=True))
    damaged = (
        r"arrived damaged at the hub: its checksum is [0-9a-f]{12}\.\.\., expected [0-9a-f]{12}\.\.\.; push again$"
    )
    with pytest.raises(UserError, match=damaged):
        bertwright.push(run.path, NAME, quiet=True)
    bertwright.push(run.path, NAME, quiet=True)
    assert published_model(hub) == files_of(run)


def test_a_large_file_that_arrives_damaged_is_sent_anew_once_it_is_deleted_there(run, hub):
    oid = hashlib.sha256(files_of(run)["model.safetensors"]).hexdigest()
    hub.faults.append(Fault("PUT", oid, damage=True))
    damaged = r"model.safetensors arrived damaged at the hub: .*; delete it there \(Settings, List LFS files\)"
    for _ in range(2):
        with pytest.raises(UserError, match=damaged):
            bertwright.push(run.path, NAME, quiet=True)
    assert hub.asked.count(f"PUT /large/{oid}") == 1  # why pushing again is not enough
    del hub.large[oid], hub.repositories[NAME]["model.safetensors"]
    bertwright.push(run.path, NAME, quiet=True)
    assert published_model(hub) == files_of(run)


def test_what_another_model_left_there_is_removed(run, hub, capsys):
    ours = files_of(run)
    assert "added_tokens.json" not in ours
    kept = {"README.md": b"# old", ".gitattributes": b"*.bin", "onnx/model.onnx": b"x", "notes.txt": b"mine"}
    left = {"added_tokens.json": b'{"<user>": 30522}', "pytorch_model.bin": b"old", "vocab.txt": b"old"}
    hub.repositories[NAME] = {**kept, **left}
    bertwright.push(run.path, NAME)
    said = capsys.readouterr().err
    assert "me/comments: removing what another model left there: added_tokens.json, pytorch_model.bin\n" in said
    assert hub.commits == 1
    card = hub.repositories[NAME]["README.md"]
    assert hub.repositories[NAME] == {**kept, **ours, "README.md": card}


def test_nor_is_it_removed_twice_where_the_answer_is_lost(run, hub):
    hub.repositories[NAME] = {"added_tokens.json": b"{}"}
    hub.faults.append(Fault("POST", "/commit/", unanswered=True))
    bertwright.push(run.path, NAME, quiet=True)
    assert hub.commits == 1
    assert published_model(hub) == files_of(run)


def test_an_answer_that_is_not_the_hubs_is_one_line(run, hub):
    hub.faults.append(Fault("GET", f"/api/models/{NAME}", times=1_000, body=b"<html>log in</html>"))
    with pytest.raises(UserError, match=r"^me/comments: the hub's answer cannot be read \(.*\)\. Is a login page"):
        bertwright.push(run.path, NAME, quiet=True)
    assert hub.commits == 0


def test_private_is_what_a_new_repository_becomes(run, hub):
    bertwright.push(run.path, NAME, private=True, quiet=True)
    assert hub.visibility[NAME] == "private"
    hub.default_visibility = "private"  # as an organisation may have it
    bertwright.push(run.path, "me/other", quiet=True)
    assert hub.visibility["me/other"] == "private"


def test_nothing_private_is_sent_where_everybody_reads(run, hub):
    hub.repositories[NAME] = {}
    with pytest.raises(UserError, match=r"^me/comments: is not private at the hub, .*; nothing was sent\. Make it"):
        bertwright.push(run.path, NAME, private=True, quiet=True)
    assert hub.asked == ["POST /api/repos/create", f"GET /api/models/{NAME}"]
    hub.visibility[NAME] = "private"
    bertwright.push(run.path, NAME, private=True, quiet=True)
    assert published_model(hub) == files_of(run)


def test_no_token_for_it(run, hub):
    hub.faults.append(Fault("POST", "/api/repos/create", status=403))
    with pytest.raises(UserError, match="lets only its owner publish there; log in"):
        bertwright.push(run.path, NAME, quiet=True)


def test_nobody_there(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="me/comments: the hub cannot be reached") as caught:
        bertwright.push(run.path, NAME, quiet=True)
    assert "\n" not in str(caught.value)


# --- taking it from there ---------------------------------------------------------------------------------------------


@pytest.fixture
def published(run, hub):
    hub.repositories[NAME] = files_of(run)
    return hub


def fetched() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in find_folder(NAME)[0].iterdir()}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", f"/api/models/{NAME}", times=4, status=503),
        Fault("GET", f"/api/models/{NAME}", status=429),
        Fault("GET", f"/api/models/{NAME}", cut_after=20),
        Fault("GET", "/resolve/", times=3, status=503),
        Fault("HEAD", "/resolve/", times=2, status=502),
        Fault("GET", "model.safetensors", times=2, cut_after=100_000),
        Fault("GET", "vocab.txt", cut_after=10),
        Fault("GET", "model.safetensors", cut_after=100_000, reset=True),
    ],
    ids=str,
)
def test_a_fetch_that_fails_for_a_moment_is_gone_on_with(published, tmp_path, fault):
    published.faults.append(fault)
    assert fetched() == published_model(published)
    assert fault.times == 0
    assert is_whole(tmp_path / "cache")


def test_of_a_fetch_that_is_cut_the_rest_is_asked_for(published, tmp_path):
    published.faults.append(Fault("GET", "model.safetensors", cut_after=constants.DOWNLOAD_CHUNK_SIZE + 1_000_000))
    assert fetched() == published_model(published)
    asked = [line for line in published.asked if line.startswith("GET ") and "/model.safetensors" in line]
    # huggingface_hub keeps whole blocks only
    assert [line.partition(" bytes=")[2] for line in asked] == ["", f"{constants.DOWNLOAD_CHUNK_SIZE}-"]
    assert is_whole(tmp_path / "cache")


@pytest.mark.parametrize("status", [429, 503])
def test_a_listing_that_fails_for_good_is_named_unless_there_is_a_copy(published, status):
    def fails():
        published.faults.append(Fault("GET", f"/api/models/{NAME}", times=1_000, status=status))

    fails()
    with pytest.raises(CheckpointError, match=f"^me/comments: the hub answered with an error: .*{status}"):
        fetched()
    published.faults.clear()
    fetched()
    fails()
    assert fetched() == published_model(published)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}", b"[" * 100_000])
def test_a_listing_that_is_not_the_hubs_is_one_line(published, body):
    published.faults.append(Fault("GET", f"/api/models/{NAME}", times=1_000, body=body))
    unreadable = r"^me/comments: the hub's answer cannot be read \(.*\)\. Is a login page"
    with pytest.raises(CheckpointError, match=unreadable) as caught:
        fetched()
    assert "\n" not in str(caught.value)


def test_where_hf_xet_gives_up_the_files_come_without_it(published, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    published.xet = True
    assert fetched() == published_model(published)
    assert any("/xet/" in line for line in published.asked)
    assert is_whole(tmp_path / "cache")


def test_what_comes_by_hf_xet_is_whole(published, monkeypatch, tmp_path):
    large = published_model(published)["model.safetensors"]
    with xet_that_works(published, monkeypatch, [*published_model(published).values()]) as came:
        assert fetched() == published_model(published)
        assert fetched() == published_model(published)
        assert came.count(xet_hash(large)) == 1
        assert is_whole(tmp_path / "cache")


def test_files_that_are_no_part_of_the_model_are_left_alone(published, tmp_path):
    folder = find_folder(NAME)[0]
    blob = tmp_path / "cache" / ("0" * 64)
    blob.write_bytes(b"another program's, damaged")
    (folder / "tf_model.h5").symlink_to(blob)
    assert find_folder(NAME)[0] == folder
    assert blob.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt", "bertwright.json"])
def test_a_wrong_checksum_is_noticed_and_fetched_anew(published, tmp_path, file):
    published.faults.append(Fault("GET", f"/{file}", damage=True))
    message = rf"me/comments: a file came damaged from the hub: {file}: its checksum is [0-9a-f]{{12}}\.\.\., expected"
    with pytest.raises(CheckpointError, match=message):
        fetched()
    assert is_whole(tmp_path / "cache")
    assert fetched() == published_model(published)


def test_a_cache_that_rotted_is_noticed(published, tmp_path):
    fetched()
    blob = next(path for path in (tmp_path / "cache").rglob("model.safetensors")).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="came damaged"):
        fetched()
    assert fetched() == published_model(published)


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
