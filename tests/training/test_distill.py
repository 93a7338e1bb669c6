"""A teacher's knowledge in a student, from files to a run: every kind of labels, stopped and resumed, refused."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.torch import load_file

import bertwright
from bertwright.config.parts import DataSettings
from bertwright.data.columns import read_labelled
from bertwright.errors import CheckpointError, DataError, RunError, UserError
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.show import show_run
from bertwright.model.checkpoint import empty_model, initial_state, load_classifier, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
from bertwright.reporting.run_page import command_of
from bertwright.runs import TEACHER_SCORES, open_run
from bertwright.training import learners, loop, teacher
from bertwright.training.student import say_teacher

WORDS = tuple(f"{a}{b}" for a in ("tra", "to", "har", "lan", "vio", "gra", "mel", "pis") for b in ("ma", "bour", "lin"))
BAD, GOOD = WORDS[:8], WORDS[8:16]
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
COLUMNS = {
    "classes": ("label",),
    "multi-label": ("bad", "good"),
    "soft": ("no", "perhaps", "yes"),
    "regression": ("n",),
}


def make_model(folder, vocabulary, hidden_size, layers, seed=0, **shape):
    """A random model whose tokenizer knows ``vocabulary``."""
    folder.mkdir(parents=True)
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary, *(f"##{word}" for word in vocabulary)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    tokenizer = load_tokenizer(folder)
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=64,
        initializer_range=0.1,
        **shape,
    )
    model = empty_model(shape, 2, "first")
    settings = ClassifierSettings(labels=("x", "y"), max_length=32)
    save_model(folder, shape, initial_state(model, shape, seed), tokenizer, settings)


def write(path, num_texts, seed, kind="classes", words=(BAD, GOOD), labelled=True):
    """Texts with a word of one kind or the other, or with both, among words that say nothing."""
    generator = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(COLUMNS[kind] if labelled else ())])
        for _ in range(num_texts):
            good = int(generator.integers(2))
            shown = [*generator.choice(WORDS[16:], 4), generator.choice(words[good])]
            generator.shuffle(shown)
            values = {
                "classes": ["good" if good else "bad"],
                "multi-label": [1 - good, good],
                "soft": [0.1, 0.2, 0.7] if good else [0.7, 0.2, 0.1],
                "regression": [500 + 100 * good],
            }[kind]
            writer.writerow([" ".join(shown), *(values if labelled else ())])


FAST = {"dtype": "float32", "batch_size": 16, "quiet": True, "learning_rate": 3e-3}


def taught(folder, output, kind="classes", **settings):
    values = {
        **FAST,
        "teacher": folder / f"teacher-{kind}",
        "data": folder / f"few-{kind}.csv",
        "unlabelled": folder / "unlabelled.csv",
        "test": folder / f"test-{kind}.csv",
        "model": folder / "small",
        "label_column": COLUMNS[kind],
        "label_kind": kind,
        "epochs": 6,
        "output": output,
        **settings,
    }
    return bertwright.distill(**{name: value for name, value in values.items() if value is not None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three models, texts of which few are labelled, and a teacher."""
    folder = tmp_path_factory.mktemp("distill")
    make_model(folder / "large", WORDS, 64, 2)
    make_model(folder / "small", WORDS, 32, 1, seed=1)
    make_model(folder / "spelling", LETTERS, 32, 1, seed=1)
    write(folder / "unlabelled.csv", 240, 4, labelled=False)
    teach(folder, "classes")
    return folder


def teach(folder, kind):
    """A teacher of labels of ``kind``, and texts with such labels."""
    write(folder / f"many-{kind}.csv", 200, 1, kind)
    # what is labelled shows two of the sixteen words
    write(folder / f"few-{kind}.csv", 40, 2, kind, (BAD[:1], GOOD[:1]))
    write(folder / f"test-{kind}.csv", 80, 3, kind)
    bertwright.train(
        folder / f"many-{kind}.csv",
        **FAST,
        max_length=32,
        test=folder / f"test-{kind}.csv",
        model=folder / "large",
        epochs=5,
        label_column=COLUMNS[kind],
        label_kind=kind,
        output=folder / f"teacher-{kind}",
    )


@pytest.fixture(scope="module")
def student(folder):
    return taught(folder, folder / "student")


def test_unlabelled_texts_teach_what_labels_do_not(folder, student):
    alone = bertwright.train(
        folder / "few-classes.csv",
        **FAST,
        max_length=32,
        model=folder / "small",
        test=folder / "test-classes.csv",
        epochs=40,
        output=folder / "alone",
    )
    assert open_run(folder / "teacher-classes").metrics["test"]["accuracy"] > 0.95
    assert alone.metrics["test"]["accuracy"] < 0.75
    assert student.metrics["test"]["accuracy"] > 0.9


def test_the_run_is_a_run_that_names_its_teacher(folder, student):
    assert student.act == "distill"
    assert student.state == "finished"
    assert student.settings["teacher"] == str(folder / "teacher-classes")
    weights = load_classifier(str(folder / "teacher-classes")).model
    found = student.result["teacher"]
    assert found["run"] == str(folder / "teacher-classes")
    assert found["num_weights"] == sum(weight.numel() for weight in weights.parameters())
    assert found["student_num_weights"] < found["num_weights"]
    assert found["metrics"]["test"] == open_run(folder / "teacher-classes").metrics["test"]
    data = student.result["data"]
    assert (data["train_texts"], data["validation_texts"], data["unlabelled_texts"]) == (35, 5, 240)
    assert student.result["steps"] == 6 * -(-(35 + 240) // 16)
    assert student.settings["validation_share"] == 0.1  # though there are test texts
    assert student.result["seconds"]["teacher"] > 0
    assert not (student.path / "checkpoints").exists()


def test_everyone_reads_the_run(folder, student, tmp_path):
    predictor = bertwright.load(student.path, dtype="float32")
    table = pq.read_table(student.path / "predictions.parquet").to_pylist()
    scores = predictor.score([row["text"] for row in table])
    np.testing.assert_allclose(scores[:, 1], [row["score_good"] for row in table], atol=1e-5)
    compared = bertwright.compare(student.path, folder / "teacher-classes")
    assert len(compared.records) == 2
    bertwright.report(student.path, output=tmp_path / "report.html", quiet=True)
    page = (tmp_path / "report.html").read_text()
    assert "bertwright distill" in page
    assert "Distillation" in page
    assert command_of(student.settings).startswith(f"bertwright distill {folder / 'teacher-classes'} \\\n")
    steps = pq.read_table(student.path / "steps.parquet")
    assert steps.num_rows == student.result["steps"]
    assert int(np.sum(steps["num_texts"])) == 6 * 275
    console = Console(record=True, width=200)
    reporter = Reporter()
    reporter.results = console
    show_run(student, reporter)
    assert "teacher -> student" in console.export_text()


def test_the_record_runs_again_to_the_same_bits(student, tmp_path):
    settings = json.loads((student.path / "config.json").read_text())["settings"]
    again = bertwright.distill(data=settings.pop("train"), **settings | {"output": tmp_path / "again"}, quiet=True)
    one, other = (run.model_folder / "model.safetensors" for run in (student, again))
    assert one.read_bytes() == other.read_bytes()
    assert again.metrics == student.metrics
    assert bertwright.agreement(student.path, again.path).agree


@pytest.mark.parametrize("kind", ["multi-label", pytest.param("soft", marks=pytest.mark.slow), "regression"])
def test_every_kind_of_labels_follows_its_teacher(folder, tmp_path, kind):
    teach(folder, kind)
    run = taught(folder, tmp_path / "r", kind, epochs=9)
    texts = pq.read_table(run.path / "predictions.parquet")["text"].to_pylist()
    theirs = bertwright.load(folder / f"teacher-{kind}", dtype="float32").score(texts)
    ours = bertwright.load(run.path, dtype="float32").score(texts)
    assert theirs.std(axis=0).max() > (30 if kind == "regression" else 0.15)
    assert np.corrcoef(theirs[:, -1], ours[:, -1])[0, 1] > 0.9
    assert np.abs(theirs - ours).mean() < (20 if kind == "regression" else 0.15)
    if kind == "regression":
        with pytest.raises(UserError, match="--temperature softens probabilities"):
            taught(folder, tmp_path / "s", kind, temperature=3.0)


def test_the_settings_of_the_teacher_are_the_students(folder, student):
    assert student.settings["max_length"] == 32
    assert student.result["labels"] == open_run(folder / "teacher-classes").result["labels"]


# --- the teacher's scores --------------------------------------------------------------------------------------------


def refuse(*_, **__):
    raise AssertionError("the teacher was asked")


def asked_texts(monkeypatch) -> list[int]:
    """Numbers of texts that a teacher is asked about, from now on."""
    found: list[int] = []
    real = teacher.TeacherScores._ask

    def ask(self, part, hidden):
        found.append(len(part))
        return real(self, part, hidden)

    monkeypatch.setattr(teacher.TeacherScores, "_ask", ask)
    return found


def test_another_seed_split_and_temperature_ask_nothing(folder, student, tmp_path, monkeypatch):
    scores = tmp_path / "scores"
    shutil.copytree(student.path / TEACHER_SCORES, scores)
    monkeypatch.setattr(teacher.TeacherScores, "_ask", refuse)
    run = taught(
        folder, tmp_path / "r", seed=3, temperature=4.0, validation_share=0.25, teacher_scores=scores, epochs=1
    )
    assert not (run.path / TEACHER_SCORES).exists()
    with pytest.raises(AssertionError, match="was asked"):  # another teacher is another matter
        taught(folder, tmp_path / "s", teacher=folder / "alone", teacher_scores=scores, epochs=1)


def test_scores_are_the_teachers_own(folder, student):
    asked = teacher.load_teacher(str(folder / "teacher-classes"))
    scored = [json.loads(path.read_text())["content"] for path in (student.path / TEACHER_SCORES).glob("*.json")]
    assert sorted(record["texts"] for record in scored) == [40, 240]
    assert {record["teacher_sha256"] for record in scored} == {asked.weights_sha256}
    predictor = bertwright.load(folder / "teacher-classes", dtype="float32")
    with open(folder / "unlabelled.csv", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    (path,) = [p for p in (student.path / TEACHER_SCORES).glob("*.npy") if len(np.load(p)) == 240]
    np.testing.assert_allclose(np.load(path), predictor.logits(predictor.tokenize(texts)), atol=1e-6)


def test_damaged_scores_are_said_and_asked_again(folder, student, tmp_path, monkeypatch, capsys):
    scores = tmp_path / "scores"
    shutil.copytree(student.path / TEACHER_SCORES, scores)
    (path,) = [p for p in scores.glob("*.npy") if len(np.load(p)) == 240]
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[-3] ^= 1
    path.write_bytes(broken)
    found = asked_texts(monkeypatch)
    taught(folder, tmp_path / "r", teacher_scores=scores, epochs=1)
    assert found == [240]
    assert "the teacher is asked again" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_a_row_learns_from_its_own_scores(folder, student, tmp_path, monkeypatch):
    """The texts learnt from are some of those scored, in another place each."""
    seen = {}
    real = teacher.TeacherScores.lessons

    def lessons(self, sources, rows, hidden):
        found = real(self, sources, rows, hidden)
        seen["texts"] = [text for source in sources for text in source.texts.to_arrow().to_pylist()]
        seen["rows"], seen["logits"] = rows, found.logits
        return found

    monkeypatch.setattr(teacher.TeacherScores, "lessons", lessons)
    taught(folder, tmp_path / "r", epochs=1, seed=5)
    predictor = bertwright.load(folder / "teacher-classes", dtype="float32")
    texts = [seen["texts"][row] for row in seen["rows"]]
    assert len(texts) == 35 + 240
    np.testing.assert_allclose(seen["logits"], predictor.logits(predictor.tokenize(texts)), atol=1e-5)


# --- stopped and resumed ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """In place of a kill -9."""


@pytest.mark.parametrize("match_hidden", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_student_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch, match_hidden):
    whole = taught(folder, tmp_path / "whole", match_hidden=match_hidden, epochs=1)
    real = loop._Training._step

    def step(self, rows):
        if self.progress.steps == 10:
            raise Killed
        return real(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(Killed):
            taught(folder, tmp_path / "killed", match_hidden=match_hidden, epochs=1, checkpoint_steps=5)
    stopped = open_run(tmp_path / "killed")
    assert stopped.state == "stopped at step 10"
    monkeypatch.setattr(teacher.TeacherScores, "_ask", refuse)  # its scores are kept
    run = bertwright.distill(resume=True, output=tmp_path / "killed", quiet=True)
    assert run.result["resumed"] == 1
    assert run.metrics == whole.metrics
    one, other = (item.model_folder / "model.safetensors" for item in (whole, run))
    assert one.read_bytes() == other.read_bytes()


def test_a_teacher_that_is_stopped_keeps_what_it_has_said(folder, student, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "_PART_TEXTS", 100)
    real = Predictor.logits
    found: list[int] = []

    def logits(self, ragged, reporter=None):
        found.append(len(ragged))
        if len(found) == 3:
            raise Killed
        return real(self, ragged, reporter)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "logits", logits)
        with pytest.raises(Killed):
            taught(folder, tmp_path / "r")
    assert found == [40, 100, 100]
    again = asked_texts(monkeypatch)
    run = bertwright.distill(resume=True, output=tmp_path / "r", quiet=True)
    assert again == [100, 40]
    assert run.metrics == student.metrics


def test_train_does_not_go_on_with_a_student_and_another_teacher_is_refused(folder, student, tmp_path):
    shutil.copytree(student.path, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    (tmp_path / "r" / "checkpoints").mkdir()
    with pytest.raises(RunError, match="found a run of bertwright distill, expected one of bertwright train"):
        bertwright.train(resume=True, output=tmp_path / "r")
    with pytest.raises(UserError, match="the teacher: found nobody, expected"):
        bertwright.distill("nobody", resume=True, output=tmp_path / "r")


# --- hidden vectors, other tokens, other ways to read ----------------------------------------------------------------


def test_hidden_vectors_are_learnt_and_no_projection_is_saved(folder, tmp_path):
    bertwright.train(  # one that has hardly learnt: its vectors hold more than the class
        folder / "many-classes.csv", **FAST, max_length=32, model=folder / "large", steps=1, output="teacher"
    )
    settings = {"teacher": "teacher", "epochs": 5}
    run = taught(folder, tmp_path / "r", **settings, match_hidden=True, hidden_weight=20.0)
    assert not [name for name in load_file(run.model_folder / "model.safetensors") if "projection" in name]
    widths = {
        path.name.endswith("-hidden.npy"): np.load(path).shape[1] for path in run.path.glob("teacher_scores/*.npy")
    }
    assert widths == {True: 64, False: 2}
    plain = taught(folder, tmp_path / "plain", **settings)
    found = [vectors(path, folder) for path in ("teacher", run.path, plain.path)]
    assert unexplained(found[1], found[0]) < 0.8 * unexplained(found[2], found[0])


def vectors(run, folder):
    """What the classifier reads of the unlabelled texts and of the test texts: two arrays (texts, hidden)."""
    predictor = bertwright.load(run, dtype="float32")
    found = []
    for name in ("unlabelled", "test-classes"):
        with open(folder / f"{name}.csv", encoding="utf-8") as file:
            ragged = predictor.tokenize([row["text"] for row in csv.DictReader(file)])
        features = learners.compute_features(predictor.model, ragged, predictor.device, 4096, Reporter(quiet=True))
        found.append(features.numpy())
    return found


def unexplained(ours, theirs):
    """Share of the variance of ``theirs`` that no linear function of ``ours`` gives; fitted on the first arrays."""
    ours = [np.column_stack([part, np.ones(len(part))]) for part in ours]
    weights = np.linalg.solve(ours[0].T @ ours[0] + 0.01 * np.eye(ours[0].shape[1]), ours[0].T @ theirs[0])
    rest = theirs[1] - ours[1] @ weights
    return (rest**2).sum() / ((theirs[1] - theirs[0].mean(axis=0)) ** 2).sum()


def test_a_student_may_have_other_tokens(folder, tmp_path):
    run = taught(folder, tmp_path / "r", model=folder / "spelling", match_hidden=True, epochs=5)
    texts = pq.read_table(run.path / "predictions.parquet")["text"].to_pylist()
    ours, theirs = bertwright.load(run.path), bertwright.load(folder / "teacher-classes")
    assert ours.tokenizer.sha256 != theirs.tokenizer.sha256
    assert np.corrcoef(ours.score(texts)[:, 1], theirs.score(texts)[:, 1])[0, 1] > 0.5


def test_token_folders_stand_for_files(folder, student, tmp_path):
    for name in ("few-classes", "unlabelled"):
        bertwright.tokenize(folder / f"{name}.csv", tmp_path / name, model=str(folder / "spelling"), quiet=True)
    settings = {"data": tmp_path / "few-classes", "unlabelled": tmp_path / "unlabelled"}
    run = taught(folder, tmp_path / "r", **settings, model=folder / "spelling", epochs=1)
    assert run.environment["token_ids_from"] == [str(tmp_path / "few-classes"), str(tmp_path / "unlabelled")]
    with pytest.raises(DataError, match="tokeni"):
        taught(folder, tmp_path / "s", **settings, epochs=1)  # the student has other tokens; the teacher may


def test_a_frozen_student_learns_by_its_classifier_alone(folder, tmp_path):
    run = taught(folder, tmp_path / "r", freeze_encoder=True, epochs=1)
    before = load_file(folder / "small" / "model.safetensors")
    after = load_file(run.model_folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert np.array_equal(before[name].numpy(), after[name].numpy())
    assert not np.array_equal(before["classifier.weight"].numpy(), after["classifier.weight"].numpy())


def test_windows_and_pairs(folder, tmp_path):
    windows = {"max_length": 6, "long_texts": "windows", "window_overlap": 1}
    bertwright.train(
        folder / "many-classes.csv", **FAST, **windows, model=folder / "large", steps=2, output=tmp_path / "teacher"
    )
    few = {"teacher": tmp_path / "teacher", "unlabelled": None, "epochs": 1}
    run = taught(folder, tmp_path / "r", **few, match_hidden=True)
    assert {name: run.settings[name] for name in windows} == windows
    assert run.result["data"]["in_windows_share"] == 1
    with open(tmp_path / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "second", "label"])
        writer.writerows(
            [
                [f"{one} {one}", other, "ab"[i % 2]]
                for i, (one, other) in enumerate(zip(BAD * 2, WORDS[8:], strict=True))
            ]
        )
    settings = {**FAST, "max_length": 32, "pair_column": "second", "validation_share": 0.25}
    bertwright.train("pairs.csv", **settings, model=folder / "large", steps=2, output="pairs")
    values = {"unlabelled": "pairs.csv", "test": None, "label_column": None, "epochs": 1}
    run = taught(folder, "student", teacher="pairs", data="pairs.csv", **values, **settings)
    assert run.result["data"]["unlabelled_left_out"] == 4  # the pairs held out
    with pytest.raises(DataError, match="--pair-column"):
        taught(folder, "other", teacher="pairs", data="pairs.csv", **values)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_hidden_vectors_of_windows_by_a_classifier_with_a_layer_of_its_own_are_refused(folder, tmp_path, who):
    make_model(tmp_path / "electra", WORDS, 32, 1, model_type="electra")
    windows = {"max_length": 6, "long_texts": "windows"}
    if who == "teacher":
        many = folder / "many-classes.csv"
        bertwright.train(many, **FAST, **windows, model=tmp_path / "electra", steps=1, output=tmp_path / "teacher")
        settings, named = {"teacher": tmp_path / "teacher"}, "the teacher .*teacher has one"
    else:
        settings, named = {**windows, "model": tmp_path / "electra"}, "the student has one"
    with pytest.raises(UserError, match=f"--match-hidden with --long-texts windows needs .*, but {named}") as caught:
        taught(folder, tmp_path / "r", **settings, match_hidden=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
    if who == "student":
        run = taught(folder, tmp_path / "r", **settings, match_hidden=True, pooling="mean", steps=1, epochs=None)
        assert run.finished


# --- what the user is told -------------------------------------------------------------------------------------------


def test_unlabelled_texts_that_are_held_out_are_not_learnt_from(folder, tmp_path, capsys):
    both = [folder / "unlabelled.csv", folder / "test-classes.csv"]
    run = taught(folder, tmp_path / "r", unlabelled=both, epochs=1, quiet=False)
    data = run.result["data"]
    assert (data["unlabelled_texts"], data["unlabelled_left_out"]) == (240, 80)
    assert "80 are left out" in capsys.readouterr().err


def test_unlabelled_texts_that_only_look_otherwise_than_held_out_ones_are_not_learnt_from(folder, tmp_path):
    """Another case, more spaces, characters of no width, accents, words that the student does not know."""
    with open(folder / "test-classes.csv", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    changed = [
        (str.upper, str.title, lambda t: t.replace(" ", "  "), lambda t: t + "\u200b", lambda t: t.replace("a", "á"))[
            i % 5
        ](text)
        for i, text in enumerate(texts)
    ]
    assert not set(changed) & set(texts)
    write_rows(tmp_path / "test.csv", [["text", "label"], *([text, "good"] for text in [*texts, "strange tra"])])
    others = ["trama bour", "unknown tra", "harlin harlin harlin"]
    write_rows(tmp_path / "more.csv", [["text"], *([text] for text in [*changed, *others])])
    run = taught(folder, tmp_path / "r", test=tmp_path / "test.csv", unlabelled=tmp_path / "more.csv", epochs=1)
    data = run.result["data"]
    assert (data["unlabelled_texts"], data["unlabelled_left_out"]) == (2, 81)


def test_a_case_that_the_students_tokens_tell_apart_leaks_nothing_either(folder, tmp_path):
    """The teacher sees no difference: what it says of the text in capitals is what it says of the held-out one."""
    make_model(tmp_path / "cased", (*WORDS, *map(str.upper, WORDS)), 32, 1)
    config = tmp_path / "cased" / "tokenizer_config.json"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "cased" / name).unlink()
    config.write_text(json.dumps({"do_lower_case": False}))
    with open(folder / "test-classes.csv", encoding="utf-8") as file:
        texts = [row["text"].upper() for row in csv.DictReader(file)]
    write_rows(tmp_path / "more.csv", [["text"], ["trama bour"], *([text] for text in texts)])
    run = taught(folder, tmp_path / "r", model=tmp_path / "cased", unlabelled=tmp_path / "more.csv", epochs=1)
    assert run.result["data"]["unlabelled_left_out"] == len(texts)


def test_without_unlabelled_texts_the_labelled_ones_are_learnt_from(folder, tmp_path):
    run = taught(folder, tmp_path / "r", unlabelled=None, test=None, epochs=1)
    assert run.result["data"]["unlabelled_texts"] == 0
    assert run.result["data"]["validation_texts"] == 8
    assert run.result["teacher"]["metrics"] == {"test": {}}


def test_a_larger_student_and_a_teacher_that_knows_the_test_are_said(folder, tmp_path, capsys):
    settings = {"teacher": folder / "alone", "data": folder / "many-classes.csv", "test": folder / "few-classes.csv"}
    taught(folder, tmp_path / "r", **settings, model=folder / "large", epochs=1, unlabelled=None, quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "the student is larger than its teacher" in said
    assert "learnt from the test files" in said


def test_a_test_file_that_is_one_of_several_that_the_teacher_learnt_from_is_said(folder, tmp_path, capsys):
    few, many, test = (folder / f"{name}-classes.csv" for name in ("few", "many", "test"))
    settings = {**FAST, "max_length": 32, "model": folder / "small", "steps": 1}
    learnt = bertwright.train([few, many], **settings, output=tmp_path / "teacher")
    assert learnt.result["data"]["train_files_sha256"] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (few, many)
    ]
    asked = teacher.load_teacher(str(tmp_path / "teacher"))

    def said(train, validation, tested):
        train, validation, tested = (
            None if names is None else read_labelled(names, DataSettings()) for names in (train, validation, tested)
        )
        capsys.readouterr()
        say_teacher(asked, asked.loaded.model, train, None, validation, tested, Reporter())
        return " ".join(capsys.readouterr().err.split())

    from_test, from_validation = "learnt from the test files, or some of them", "from the files that the validation"
    assert from_test in said([few], None, [many])
    assert from_test in said([few], None, [test, many])
    assert from_test in said([few], None, [few, many])
    words = said([many], [many], [test])
    assert from_test not in words
    assert "the teacher learnt from these texts" in words
    assert from_validation not in words
    assert from_validation in said([many], [many], None)
    assert from_validation not in said([many], [test], None)
    assert "the teacher learnt from these texts" not in said([many, test], None, None)
    taught(folder, tmp_path / "r", teacher=asked.name, data=few, test=None, unlabelled=None, epochs=1, quiet=False)
    assert from_validation in " ".join(capsys.readouterr().err.split())


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"teacher": "large"}, CheckpointError, None),
        ({"teacher": "bert-tiny"}, CheckpointError, "the teacher bert-tiny: .* train it first"),
        ({"teacher": "no/such/run"}, CheckpointError, "the teacher no/such/run: .*no such folder"),
        (
            {"data": "others.csv"},
            DataError,
            'others.csv, line 2: label "fine" is none of bad, good.*the teacher .* judges bad, good',
        ),
        ({"data": "stars.csv", "label_kind": "regression"}, DataError, "--label-kind regression"),
        (
            {"unlabelled": "wide.csv"},
            DataError,
            "wide.csv: cannot tell the text column, found .a., .b., .c..*--text-column",
        ),
        ({"unlabelled_text_column": "body"}, DataError, 'unlabelled.csv: no column "body"'),
        ({"unlabelled": "missing.csv"}, DataError, "missing.csv"),
        (
            {"unlabelled": None, "unlabelled_text_column": "a"},
            UserError,
            "--unlabelled-text-column is for --unlabelled",
        ),
        ({"positive_label": "good"}, UserError, "--positive-label is settled by the teacher"),
        ({"hidden_weight": 2.0}, UserError, "--hidden-weight is for --match-hidden"),
        ({"match_hidden": True, "freeze_encoder": True}, UserError, "--match-hidden teaches the encoder"),
        (
            {"match_hidden": True, "max_length": 8, "long_texts": "windows", "window_pooling": "max"},
            UserError,
            "--match-hidden needs one vector",
        ),
        ({"soft_weight": 0}, UserError, "--soft-weight"),
        ({"soft_wieght": 0.5}, UserError, "did you mean soft_weight"),
        ({"temperature": 0}, UserError, "--temperature"),
        ({"teacher_scores": "others.csv"}, RunError, "others.csv exists and is no folder"),
        ({"max_length": 100}, CheckpointError, "64 positions"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(folder, tmp_path, settings, error, message):
    write_rows(tmp_path / "others.csv", [["text", "label"], ["tra ma", "fine"], ["to lin", "bad"]])
    write_rows(tmp_path / "stars.csv", [["text", "label"], ["tra ma", "3"], ["to lin", "4"]])
    write_rows(tmp_path / "wide.csv", [["a", "b", "c"], ["x y", "1", "z"], ["p q", "2", "r"]])
    if settings.get("teacher") == "large":  # a checkpoint of an encoder alone
        shutil.copytree(folder / "large", tmp_path / "large")
        (tmp_path / "large" / "bertwright.json").unlink()
        from safetensors.torch import save_file

        tensors = load_file(tmp_path / "large" / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
        save_file(kept, tmp_path / "large" / "model.safetensors")
        message = "the teacher large: .*classifier.weight is missing; expected a trained classifier"
    with pytest.raises(error, match=message) as caught:
        taught(folder, tmp_path / "r", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
