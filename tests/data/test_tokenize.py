"""Tokenising to a folder: what is in it, what it is good for, and that it equals the file that it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.test_cli import call

import bertwright
from bertwright.config.evaluate import PredictSettings
from bertwright.config.parts import DataSettings
from bertwright.data import token_cache_writer, tokenize
from bertwright.data.columns import read_labelled, read_unlabelled
from bertwright.data.rows import SourceColumns
from bertwright.data.token_cache import open_token_cache
from bertwright.errors import DataError, RunError, UserError
from bertwright.evaluation.predict import run_prediction
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter

CSV = 'text,label,other\n"a, b",1,x\n"two\nlines ""here""",0,y\n third ,1.0,x\n'


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def made(tmp_path):
    """Tokenise files quietly into a folder of the given name, and return its path."""

    def make(data, name="ids", **settings):
        bertwright.tokenize(data, tmp_path / name, quiet=True, **settings)
        return str(tmp_path / name)

    return make


def refusal(call_this, *arguments, kind=DataError, **settings):
    """The message of a refusal, which must be one line."""
    with pytest.raises(kind) as caught:
        call_this(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_ids_of_the_texts(file, tmp_path, minilm_folder):
    path = file("c.csv", CSV)
    result = bertwright.tokenize(path, tmp_path / "ids", quiet=True)
    tokenizer = load_tokenizer(minilm_folder)
    expected, starts, _ = tokenizer.encode(["a, b", 'two\nlines "here"', " third "])
    content, tokens = open_token_cache(tmp_path / "ids")
    assert tokens.ids.tolist() == expected.tolist()
    assert tokens.starts.tolist() == starts.tolist()
    assert content.texts.to_pylist() == ["a, b", 'two\nlines "here"', " third "]
    (labels,) = content.labels
    assert [labels.names[code] for code in labels.codes] == ["1", "0", "1.0"]
    assert content.rows.tolist() == [0, 1, 2]
    assert content.sources == (SourceColumns(path, "text", ("label",)),)
    assert content.sha256 == hashlib.sha256(CSV.encode()).hexdigest()
    assert tokens.manifest.tokenizer.sha256 == tokenizer.sha256
    assert result["texts"] == 3
    assert result["tokens"] == len(expected)
    assert result["truncated_texts"] == 0
    assert result["made"]
    assert result["bytes"] == sum(f.stat().st_size for f in (tmp_path / "ids").iterdir())


def test_the_numbers_are_little_endian_of_fixed_width_and_mapped(file, made):
    folder = Path(made(file("c.csv", CSV)))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["id_dtype"] == "<u2"
    content, tokens = open_token_cache(folder)
    assert (folder / "token_ids.bin").read_bytes() == b"".join(int(i).to_bytes(2, "little") for i in tokens.ids)
    lengths = np.diff(tokens.starts).tolist()
    assert (folder / "lengths.bin").read_bytes() == b"".join(n.to_bytes(4, "little") for n in lengths)
    assert (folder / "rows.bin").read_bytes() == b"".join(n.to_bytes(8, "little") for n in range(3))
    assert (folder / "label_codes.bin").read_bytes() == b"".join(
        int(code).to_bytes(4, "little") for code in content.labels[0].codes
    )
    assert isinstance(tokens.ids.base, np.memmap)
    assert not tokens.ids.flags.writeable


def test_the_same_content_gives_the_same_bytes(file, made):
    first, second = Path(made(file("a.csv", CSV), "one")), Path(made(file("a.csv", CSV), "two"))
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_large_vocabularies_take_int32(file, made, tmp_path):
    words = "".join(f"w{i}\n" for i in range(65_600))
    vocabulary = tmp_path / "large"
    vocabulary.mkdir()
    (vocabulary / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + words)
    folder = Path(made(file("c.csv", "text\nw65599 w0\nw1\n"), model=str(vocabulary)))
    _, tokens = open_token_cache(folder)
    assert tokens.ids.tolist() == [2, 65_604, 5, 3, 2, 6, 3]
    assert (folder / "token_ids.bin").stat().st_size == 4 * 7


# --- instead of files -------------------------------------------------------------------------------------------------


def labelled_csv(num_texts, label_of, seed=0):
    words = ["good", "bad", "film", "dull", "joy", "antidisestablishmentarianism", "naïve", '"quoted"', "a, b"]
    generator = np.random.default_rng(seed)
    lines = ["text,label"]
    for i in range(num_texts):
        text = " ".join(words[w] for w in generator.integers(0, len(words), generator.integers(1, 12)))
        lines.append(f'"{i} {text.replace(chr(34), chr(34) * 2)}",{label_of(i)}')
    return "\n".join(lines) + "\n"


READ = {
    "words": ({}, lambda i: "yes" if i % 3 else "no"),
    "positive label": ({"positive_label": "no"}, lambda i: "yes" if i % 3 else "no"),
    "numbers": ({}, lambda i: ["10", "9.0", "2"][i % 3]),
    "threshold": ({"label_threshold": 0.4}, lambda i: i % 7 / 6),
    "bad rows": ({"on_bad_row": "skip"}, lambda i: ["a", "b", "a", ""][i % 4]),
    "nan": ({"on_bad_row": "skip"}, lambda i: ["1", "nan", "2.0"][i % 3]),
}
TRAINED = {
    "a share held out": ({"positive_label": "no"}, lambda i: "yes" if i % 3 else "no"),
    "shorter, a threshold": ({"max_length": 8, "label_threshold": 0.4, "seed": 3}, lambda i: i % 7 / 6),
    "bad rows": ({"on_bad_row": "skip"}, lambda i: ["a", "b", "a", ""][i % 4]),
}


@pytest.mark.parametrize("case", READ)
def test_texts_and_classes_from_the_folder_are_those_of_the_file(case, file, made):
    given, label_of = READ[case]
    path = file("train.csv", labelled_csv(60, label_of))
    folder = made(path, on_bad_row=given.get("on_bad_row", "error"))
    one, other = (read_labelled(data, DataSettings(**given)) for data in (path, folder))
    assert one.texts.to_pylist() == other.texts.to_pylist()
    assert one.labels == other.labels
    assert one.label_ids.tolist() == other.label_ids.tolist()
    assert one.rows.tolist() == other.rows.tolist()
    assert len(one.bad_rows) == len(other.bad_rows)
    assert one.sha256 == other.sha256
    assert len(other.tokens.starts) == len(other) + 1


def test_what_a_file_is_refused_for_so_is_its_folder(file, made):
    for labels, found in ((lambda i: i % 7 / 6, "fractional"), (lambda i: "one", "one class only")):
        path = file("train.csv", labelled_csv(40, labels))
        shutil.rmtree("ids", ignore_errors=True)
        for data in (path, made(path)):
            assert found in refusal(read_labelled, data, DataSettings())


def assert_same_run(one, other):
    """Everything but where the texts came from and how long it took."""
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]
    tables = [pq.read_table(run.path / "predictions.parquet") for run in (one, other)]
    assert tables[0].equals(tables[1])
    for key in ("labels", "data", "metrics", "extremes", "steps", "best_step"):
        assert one.result[key] == other.result[key], key
    losses = [[line["train_loss"] for line in run.history] for run in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("case", TRAINED)
def test_a_training_from_the_folder_equals_one_from_the_file(case, file, made, tmp_path):
    settings, label_of = TRAINED[case]
    path = file("train.csv", labelled_csv(60, label_of))
    folder = made(path, on_bad_row=settings.get("on_bad_row", "error"), max_length=16)
    given = {"model": "bert-tiny", "max_length": 16, "steps": 3, "batch_size": 8, "quiet": True, **settings}
    from_file = bertwright.train(path, output=tmp_path / "from-file", **given)
    from_folder = bertwright.train(folder, output=tmp_path / "from-folder", **given)
    assert_same_run(from_file, from_folder)
    assert from_file.environment["token_ids_from"] == []
    assert from_folder.environment["token_ids_from"] == [folder]
    assert from_folder.result["rates"]["tokenize_texts_per_s"] is None


def test_validation_test_evaluation_and_prediction_take_the_folder_too(file, made, tmp_path):
    paths = [file(f"{name}.csv", labelled_csv(40, lambda i: i % 2, seed)) for seed, name in enumerate("abc")]
    folders = [made(path, Path(path).stem) for path in paths]
    runs = []
    for name, (train, validation, test) in (("from-files", paths), ("from-folders", folders)):
        given = {"model": "bert-tiny", "max_length": 24, "steps": 4, "batch_size": 8, "quiet": True}
        runs.append(bertwright.train(train, validation=validation, test=test, output=tmp_path / name, **given))
    assert_same_run(*runs)
    results = [bertwright.evaluate(runs[0].path, data, quiet=True) for data in (paths[1], folders[1])]
    for key in ("data", "metrics", "extremes"):
        assert results[0][key] == results[1][key]
    scored = []
    for data in (paths[2], folders[2]):
        settings = PredictSettings(output=str(tmp_path / "s.jsonl"), overwrite=True)
        run_prediction(str(runs[0].path), [], [data], settings, Reporter(quiet=True))
        scored.append((tmp_path / "s.jsonl").read_text())
    assert scored[0] == scored[1]


def test_several_folders_are_as_several_files(file, made):
    paths = [file("a.csv", "text,label\none,1\ntwo,0\n"), file("b.csv", "text,label\nthree,1.0\nfour,2\n")]
    folders = [made(path, Path(path).stem) for path in paths]
    both = made(paths, "both")
    from_files = read_labelled(paths, DataSettings())
    for data in (folders, both):
        found = read_labelled(data, DataSettings())
        assert found.texts.to_pylist() == from_files.texts.to_pylist()
        assert found.labels == from_files.labels == ("0", "1", "2")
        assert found.label_ids.tolist() == from_files.label_ids.tolist()
        assert found.rows.tolist() == from_files.rows.tolist()
    assert read_labelled(both, DataSettings()).sha256 == from_files.sha256
    ids = [read_unlabelled(data).tokens for data in (folders, both)]
    assert ids[0].ids.tolist() == ids[1].ids.tolist()
    assert ids[0].starts.tolist() == ids[1].starts.tolist()
    other = made(paths[1], "other", max_length=9)
    assert "another of --max-length" in refusal(read_unlabelled, [folders[0], other])
    assert "found beside the file" in refusal(read_labelled, [folders[0], paths[1]], DataSettings())


def test_labels_of_a_training_are_asked_of_the_folder_as_of_the_file(file, made):
    folder = made(file("c.csv", "text,label\none,a\ntwo,b\nthree,c\n"))
    found = read_labelled(folder, DataSettings(on_bad_row="skip"), labels=("b", "a"))
    assert found.label_ids.tolist() == [1, 0]
    assert len(found.tokens.starts) == 3
    assert len(found.bad_rows) == 1
    message = refusal(read_labelled, folder, DataSettings(), labels=("b", "a"))
    assert f'{folder}, row 3: label "c" is none of b, a' in message


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture
def cased(tmp_path):
    """The folder of another tokenizer."""
    folder = tmp_path / "cased"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    return str(folder)


def test_ids_of_another_tokenizer_are_refused_with_the_command_that_helps(file, made, cased, tmp_path):
    path = file("my data.csv", labelled_csv(20, lambda i: i % 2))
    folder = made(path, model=cased)
    message = refusal(bertwright.train, folder, model="bert-tiny", output=tmp_path / "run", steps=1, quiet=True)
    assert "by the tokenizer of" in message
    assert f"bertwright tokenize '{path}' --model bert-tiny --max-length 220 --output {folder}-2" in message
    assert not (tmp_path / "run").exists()


def test_texts_that_were_cut_cannot_be_made_longer(file, made, minilm_folder):
    tokenizer = load_tokenizer(minilm_folder)
    path = file("c.csv", "text,label\nfour words are here,1\nshort,0\n")
    tokens = read_labelled(made(path, max_length=5), DataSettings()).tokens
    assert tokens.ragged(tokenizer, 5, "m").num_truncated == 1
    assert tokens.ragged(tokenizer, 5, "m").ids.base is not None  # nothing was copied
    assert tokens.ragged(tokenizer, 4, "m").lengths.tolist() == [4, 3]
    assert tokens.ragged(tokenizer, 4, "m").num_truncated == 1
    message = refusal(tokens.ragged, tokenizer, 6, "m")
    assert "found 1 text cut to 5 tokens, expected up to 6" in message
    assert "--max-length 6" in message
    assert tokens.take(np.array([1])).ragged(tokenizer, 6, "m").num_truncated == 0  # that one is whole
    whole = read_labelled(made(path, "whole", max_length=6), DataSettings()).tokens
    assert whole.ragged(tokenizer, 512, "m").num_truncated == 0


def test_other_columns_than_the_folder_holds_are_refused(file, made):
    path = file("c.csv", CSV)
    folder = made(path)
    assert read_labelled(folder, DataSettings(text_column="text", label_column="label")).labels == ("0", "1")
    assert 'expected "other"' in refusal(read_labelled, folder, DataSettings(text_column="other"))
    message = refusal(read_labelled, folder, DataSettings(label_column="other"))
    assert "--label-column other" in message
    without = made(path, "without", labels=False)
    assert read_unlabelled(without).texts.to_pylist() == read_unlabelled(path).texts.to_pylist()
    assert "found no labels" in refusal(read_labelled, without, DataSettings())
    assert not (Path(without) / "label_codes.bin").exists()


def test_labels_are_taken_where_they_are_found(file, made, tmp_path):
    plain = made(file("lines.txt", "one text\nanother\n"), "plain")
    assert not open_token_cache(plain)[0].labels
    split = made(file("split.txt", "1 ||| one text\n0 ||| another\n"), "split")
    assert read_labelled(split, DataSettings()).labels == ("0", "1")
    many = "id,text\n" + "".join(f"id{i},text {i}\n" for i in range(1_200))
    assert not open_token_cache(made(file("many.csv", many), "many"))[0].labels
    named = made(file("many.csv", many), "named", label_column="id")
    assert len(open_token_cache(named)[0].labels[0].names) == 1_200
    with_labels, without = file("a.csv", CSV), file("b.csv", "text\nx\n")
    message = refusal(bertwright.tokenize, [with_labels, without], tmp_path / "no", quiet=True)
    assert "found no labels, but" in message
    assert len(open_token_cache(made([with_labels, without], "both", labels=False))[0].texts) == 4
    assert "expected files of texts" in refusal(bertwright.tokenize, plain, tmp_path / "no", quiet=True)
    refusal(bertwright.tokenize, file("c.csv", "text,label\nx,\ny,1\n"), tmp_path / "no", quiet=True)
    assert not (tmp_path / "no").exists()


# --- the place --------------------------------------------------------------------------------------------------------


def test_the_same_is_not_done_twice(file, tmp_path, monkeypatch):
    path = file("c.csv", CSV)
    folder = tmp_path / "ids"
    bertwright.tokenize(path, folder, quiet=True)
    shutil.move(path, tmp_path / "moved.csv")

    def fail(*arguments, **settings):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokenize, "write_token_cache", fail)
    again = bertwright.tokenize(tmp_path / "moved.csv", folder, quiet=True)
    assert not again["made"]
    assert again["texts"] == 3
    for settings in ({"max_length": 9}, {"text_column": "other"}, {"labels": False}, {"on_bad_row": "skip"}):
        message = refusal(bertwright.tokenize, tmp_path / "moved.csv", folder, quiet=True, **settings)
        assert "--overwrite" in message
    (tmp_path / "moved.csv").write_text(CSV + "more,0,x\n")
    refusal(bertwright.tokenize, tmp_path / "moved.csv", folder, quiet=True)
    monkeypatch.undo()
    assert bertwright.tokenize(tmp_path / "moved.csv", folder, overwrite=True, quiet=True)["texts"] == 4
    (folder / "rows.bin").write_bytes(b"")
    message = refusal(bertwright.tokenize, tmp_path / "moved.csv", folder, quiet=True)
    assert "rows.bin" in message
    assert "damaged" in message


def test_nothing_else_is_ever_replaced(file, tmp_path):
    path = file("c.csv", CSV)
    for name, content in (("notes.txt", "mine"), ("manifest.json", '{"name": "a web page"}'), ("manifest.json", "?")):
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / name).write_text(content)
        refusal(bertwright.tokenize, path, folder, overwrite=True, quiet=True)
        assert (folder / name).read_text() == content
        shutil.rmtree(folder)
    bertwright.tokenize(path, folder, quiet=True)
    (folder / "notes.txt").write_text("mine")
    refusal(bertwright.tokenize, path, folder, overwrite=True, quiet=True)
    refusal(bertwright.tokenize, path, path, overwrite=True, quiet=True)
    refusal(bertwright.tokenize, path, Path(path) / "below", quiet=True, kind=RunError)
    assert Path(path).read_text() == CSV
    (tmp_path / "empty").mkdir()
    assert bertwright.tokenize(path, tmp_path / "empty", quiet=True)["made"]


def test_stopped_half_way_it_leaves_what_was_there(file, tmp_path, monkeypatch):
    path = file("c.csv", CSV)
    folder = tmp_path / "place" / "ids"
    bertwright.tokenize(path, folder, quiet=True)
    before = {found.name: found.read_bytes() for found in folder.iterdir()}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_cache_writer, "cut", stop)
    with pytest.raises(KeyboardInterrupt):
        bertwright.tokenize(path, folder, overwrite=True, max_length=5, quiet=True)
    assert {found.name: found.read_bytes() for found in folder.iterdir()} == before
    assert list((tmp_path / "place").iterdir()) == [folder]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are not UTF-8")
def test_names_of_files_that_are_not_utf8_are_kept_readable(tmp_path):
    path = tmp_path / "n\udce9e.csv"
    path.write_text("text,label\n\none,1\n,0\ntwo,1\n")
    bertwright.tokenize(path, tmp_path / "ids", on_bad_row="skip", quiet=True)
    content, _ = open_token_cache(tmp_path / "ids")
    assert content.sources[0].name.endswith("n\\xe9e.csv")
    assert len(content.bad_rows) == 1


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"output": None}, "--output is required"),
        ({"data": ()}, "no file given"),
        ({"max_length": 2}, "--max-length: found 2"),
        ({"labels": False, "label_column": "x"}, "exclude each other"),
        ({"max_lenght": 9}, "did you mean max_length"),
    ],
)
def test_settings_that_cannot_be(settings, found, tmp_path):
    given = {"data": "c.csv", "output": tmp_path / "ids", "quiet": True, **settings}
    assert found in refusal(bertwright.tokenize, kind=UserError, **given)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did_and_needs_no_torch(examples, tmp_path):
    arguments = ["tokenize", examples / "comments_train.csv", "--output", tmp_path / "ids", "--max-length", "16"]
    done = call(*arguments, without_torch=True)
    assert done.returncode == 0, done.stderr
    for word in ("724", "2 different labels", "longer than 16 tokens", "texts/s by nanotoken", "peak of the process"):
        assert word in done.stdout
    done = call(*arguments, "--json", without_torch=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["made"] is False
    assert printed["texts"] == 724
    assert "nothing to do" in done.stderr
    (tmp_path / "[bold]").mkdir()
    done = call("tokenize", examples / "comments_test.csv", "--output", tmp_path / "[bold]" / "ids", without_torch=True)
    assert done.returncode == 0, done.stderr
    assert "[bold]" in done.stdout


def test_the_key_of_a_compressed_file_holds_its_format():
    for compression in ("", ".gz", ".xz", ".zst"):
        assert tokenize._extension(f"texts.of/a.b.csv{compression}") == f".csv{compression}"
