"""The command line as a user meets it: in processes of its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import bertwright
from bertwright import cli, commands
from bertwright.config.evaluate import PredictSettings
from bertwright.errors import RunError, UserError
from bertwright.evaluation.predict import run_prediction
from bertwright.progress import Reporter
from tests.forked_python import run_python

NO_TORCH = textwrap.dedent("""
    import sys

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torch":
                raise ImportError("torch must not be imported here")

    sys.meta_path.insert(0, NoTorch())
    from bertwright.cli import main
    main(sys.argv[1:])
""")


def call(*arguments, without_torch=False, stdin=None, **environment):
    env = {**os.environ, "COLUMNS": "120", **environment}
    if not without_torch:
        return run_python(["-m", "bertwright", *arguments], input=stdin, env=env)
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        input=stdin,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def run(examples, tmp_path_factory):
    return bertwright.train(
        examples / "comments_train.csv",
        test=examples / "comments_test.csv",
        model="bert-tiny",
        max_length=32,
        steps=30,
        learning_rate=1e-3,
        output=tmp_path_factory.mktemp("runs") / "demo",
        quiet=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["tokenize", "--help"],
        ["evaluate", "--help"],
        ["predict", "--help"],
        ["runs", "--help"],
        ["runs", "list", "--help"],
    ],
)
def test_help_works_where_torch_cannot_be_imported(arguments):
    done = call(*arguments, without_torch=True)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stderr
    assert ("Usage: bertwright" in done.stdout) != (arguments == ["--version"])


def test_runs_are_listed_and_shown_where_torch_cannot_be_imported(run):
    done = call("runs", "list", run.path.parent, without_torch=True)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert f"{run.metrics['test']['accuracy']:.4f}" in done.stdout
    done = call("runs", "list", run.path.parent, "--json", without_torch=True)
    listed = json.loads(done.stdout)
    assert listed[0]["finished"] is True
    assert listed[0]["roc_auc"] == run.metrics["test"]["roc_auc"]
    done = call("runs", "show", run.path, without_torch=True)
    assert done.returncode == 0, done.stderr
    for word in ("learning_rate", "attention_kernel", "roc_auc", "Confusion", "peak of the process"):
        assert word in done.stdout
    done = call("runs", "show", run.path, "--json", without_torch=True)
    assert json.loads(done.stdout)["result"] == run.result


def test_train_prints_tables_and_with_json_one_object_last(examples, tmp_path):
    files = [examples / "comments_train.csv", "--test", examples / "comments_test.csv"]
    options = ["--model", "bert-tiny", "--steps", "2", "--max-length", "16"]
    done = call("train", *files, *options, "--output", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    for word in ("Quality", "Classes, test texts", "Confusion", 'Highest probability of "toxic"', "texts/s"):
        assert word in done.stdout
    assert "RANDOM" in done.stderr
    assert f"run: {tmp_path / 'a'}" in done.stderr
    done = call("train", *files, *options, "--output", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed.pop("run") == str(tmp_path / "b")
    assert printed == json.loads((tmp_path / "b" / "result.json").read_text())
    assert "Quality" in done.stderr


def test_settings_come_from_a_file_and_flags_win(examples, tmp_path):
    (tmp_path / "tiny.toml").write_text(
        f'train = ["{examples / "comments_train.csv"}"]\nmodel = "bert-tiny"\nepochs = 3\nmax_length = 16\nseed = 4\n'
    )
    done = call("train", "--config", tmp_path / "tiny.toml", "--steps", "2", "--output", "r", "--quiet")
    assert done.returncode == 0, done.stderr
    settings = bertwright.open_run("r").settings
    assert settings["steps"] == 2
    assert settings["seed"] == 4
    assert "epochs" not in settings
    assert settings["validation_share"] == 0.2
    (tmp_path / "typo.toml").write_text('modle = "bert-tiny"\n')
    done = call("train", "x.csv", "--config", tmp_path / "typo.toml")
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path / 'typo.toml'}: unknown setting 'modle'; did you mean model?"


def test_predict_takes_texts_files_and_standard_input(run, examples, tmp_path):
    done = call("predict", run.path, "--text", "You fool.", "--text", "Nice [red]day[/red] \x1b[31m!")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] in ("clean", "toxic") for line in lines] == [True, True]
    assert lines[1][2].startswith("Nice [red]day[/red]")
    assert "\x1b" not in done.stdout
    piped = call("predict", run.path, "--json", stdin="You fool.\nAnother line\n")
    rows = [json.loads(line) for line in piped.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["You fool.", "Another line"]
    assert f"{rows[0]['score_' + rows[0]['predicted']]:.4f}" == lines[0][1]
    for suffix in ("parquet", "csv", "tsv", "jsonl"):
        scored = tmp_path / f"s.{suffix}"
        with pytest.raises(SystemExit) as ended:
            cli.main(["predict", str(run.path), str(examples / "comments_test.csv"), "--output", str(scored)])
        assert not ended.value.code
    named = call("predict", run.path, "--text", "x", "--text", "y", "--json", "--output", tmp_path / "t.csv")
    assert json.loads(named.stdout) == {"output": str(tmp_path / "t.csv"), "texts": 2, "bad_rows": 0}
    table = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert len(table) == 244
    assert [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()] == table
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == "row,text_sha256,predicted,score_clean,score_toxic,text"
    judged = pq.read_table(run.path / "predictions.parquet").to_pylist()
    assert [row["predicted"] for row in table] == [row["predicted"] for row in judged]


def test_evaluate_writes_a_run_that_names_its_run(run, examples, tmp_path):
    done = call("evaluate", run.path, examples / "comments_test.csv", "--output", tmp_path / "judged", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["test"] == run.metrics["test"]
    judged = bertwright.open_run(tmp_path / "judged")
    assert judged.act == "evaluate"
    assert judged.settings["run"] == str(run.path)
    assert judged.result == result
    assert judged.environment["compile"] == run.environment["compile"]
    assert judged.environment["compile_reason"]
    assert {"tokenizers", "nanotoken", "scikit-learn", "pyarrow", "safetensors"} <= judged.environment.keys()
    assert pq.read_table(tmp_path / "judged" / "predictions.parquet").num_rows == 244
    listed = call("runs", "list", tmp_path)
    assert "evaluate" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no training file given"),
        (["train", "nowhere.csv"], "nowhere.csv"),
        (["train", "x.csv", "--epochs", "many"], "epochs"),
        (["train", "x.csv", "--optimizer", "lion"], "optimizer"),
        (["train", "x.csv", "--no-such-flag"], "--no-such-flag"),
        (["train", "x.csv", "--validation", "y.csv", "--validation-share", "0.1"], "exclude each other"),
        (["trian"], "train"),
        (["evaluate", "nowhere", "x.csv"], "nowhere"),
        (["evaluate", "RUN"], "no file given"),
        (["evaluate", "RUN", "x.csv", "--positive-label", "clean"], "settled by the training"),
        (["predict", "nowhere", "--text", "x"], "nowhere"),
        (["predict", "bert-tiny", "--text", "x"], "train it first"),
        (["predict", "all-MiniLM-L6-v2", "--text", "x"], "classifier.weight is missing"),
        (["predict", "RUN", "x.csv", "--text", "x"], "exclude each other"),
        (["predict", "RUN", "--text", "x", "--resume"], "--resume goes on with files"),
        (["predict", "RUN", "--text", "x", "--output", "scores.xlsx"], ".parquet"),
        (["predict", "RUN", "--text", "x", "--output", "no/folder/scores.csv"], "no folder"),
        (["predict", "RUN", "--text", "x", "--device", "cuda:128"], "--device: found 'cuda:128'"),
        (["predict", "RUN", "--text", "x", "--device", "cuda:" + "9" * 30], "expected auto, cpu, cuda or cuda:N"),
        (["predict", "RUN", "--text", "x", "--device", "cuda:-1"], "expected auto, cpu, cuda or cuda:N"),
        (["predict", "RUN", "--text", "x", "--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        (["train", "x.csv", "--learning-rate", "inf"], "--learning-rate"),
        (["runs", "show", "nowhere"], "nowhere: no such folder"),
        (["runs", "list", "nowhere"], "nowhere: no such folder"),
        (["train", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["convert", "bert"], "name the new folder: bertwright convert CHECKPOINT OUT"),
        (["convert"], "name a checkpoint and the new folder: bertwright convert CHECKPOINT OUT"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run, arguments, message, capfd):
    # In this process: loading the library anew for each of them takes seconds.
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(run.path) if argument == "RUN" else argument for argument in arguments])
    printed = capfd.readouterr()
    assert stopped.value.code == 2, printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err
    assert printed.out == ""


def test_a_users_mistake_in_a_process_of_its_own(run):
    done = call("predict", run.path, "--text", "x", "--output", "no/folder/scores.csv")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback():
    done = call("runs", "show", "nowhere", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_closed_pipe_is_no_error(run, tmp_path):
    (tmp_path / "many.txt").write_text("a line\n" * 30_000)
    bertwright = f"{sys.executable} -m bertwright"
    for arguments in (
        f"predict {run.path} many.txt --quiet",
        f"runs list {run.path.parent}",
        f"runs list {run.path.parent} --json",
        f"runs show {run.path}",
        "--help",
        "train --help",
    ):
        program = f"{bertwright} {arguments} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=100, check=False)
        assert (done.stdout, done.stderr) == ("0\n", ""), arguments


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("MemoryError()", "out of memory"),
        ("type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')", "out of memory"),
        ('RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory")', "out of memory"),
        ("RuntimeError('something else')", "RuntimeError: something else"),
    ],
)
def test_out_of_memory_says_what_to_do(raised, message):
    program = textwrap.dedent(f"""
        import bertwright.runs
        from bertwright.cli import main

        def fail(folder):
            raise {raised}

        bertwright.runs.list_runs = fail
        main(["runs", "list"])
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert message in done.stderr
    ours = message == "out of memory"
    assert done.returncode == (2 if ours else 1)
    assert done.stderr.startswith("error: out of memory: pass a smaller --token-budget") == ours
    assert len(done.stderr.splitlines()) == 1 or not ours


def test_a_damaged_run_does_not_hide_the_others(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "runs" / "good")
    shutil.copytree(run.path, tmp_path / "runs" / "bad")
    (tmp_path / "runs" / "bad" / "result.json").write_text("{")
    done = call("runs", "list", "runs")
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout
    assert "damaged" in done.stdout
    assert done.stderr.startswith("WARNING: damaged run: runs/bad/result.json")
    listed = json.loads(call("runs", "list", "runs", "--json").stdout)
    assert {line["run"]: line["damage"] is None for line in listed} == {"runs/bad": False, "runs/good": True}


@pytest.mark.parametrize(
    "output", ["copy", "copy/model", "copy/judged", "copy/model/judged", ".", "link", "copy/../copy"]
)
@pytest.mark.parametrize("judged", ["copy", "copy/model", "link/model"])
def test_an_evaluation_never_touches_the_run_it_judges(run, examples, output, judged):
    shutil.copytree(run.path, "copy")
    Path("link").symlink_to("copy")
    with pytest.raises(RunError, match="touches the judged run"):
        bertwright.evaluate(judged, examples / "comments_test.csv", output=output, overwrite=True, quiet=True)
    assert bertwright.open_run("copy").result == run.result


def test_predict_in_python_refuses_settings_that_it_would_ignore(run):
    with pytest.raises(UserError, match="unknown setting 'output'"):
        bertwright.predict(run.path, ["x"], output="scores.csv")
    assert bertwright.predict(run.path, ["x"], device="cpu")[0].label in ("clean", "toxic")


def test_predict_says_on_a_terminal_that_it_waits_for_texts(run, tmp_path):
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, b"You fool.\n\x04")
    done = subprocess.run(
        [sys.executable, "-m", "bertwright", "predict", run.path],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "reading texts from standard input, one a line" in done.stderr
    assert done.stdout.endswith("You fool.\n")


def test_the_root_help_imports_no_settings_and_says_what_the_commands_say():
    program = """
import sys
from bertwright.cli import main
try:
    main(["--help"])
except SystemExit:
    print([m for m in ("torch", "numpy", "pydantic", "bertwright.commands") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    help_text = " ".join(done.stdout.replace("│", " ").split())
    for act in (commands.train, commands.evaluate, commands.predict):
        assert act.__doc__ in help_text
    runs_help = " ".join(call("runs", "--help").stdout.replace("│", " ").split())
    for act in (commands.runs_list, commands.runs_show):
        assert act.__doc__ in runs_help


def test_the_package_imports_nothing_heavy():
    program = "import sys, bertwright; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        bertwright.fine_tune  # noqa: B018


def test_a_full_disk_is_one_line_and_exit_code_2(capsys):

    def write() -> None:
        raise OSError(28, "No space left on device", "runs/demo/result.json.partial")

    with pytest.raises(SystemExit) as stop:
        cli._call(write, debug=False)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: runs/demo/result.json.partial: No space left on device\n"


def test_a_training_into_the_home_is_found_there(examples, tmp_path, monkeypatch):
    """And so are its files, its scores and its evaluation, named with a "~" that no shell has expanded."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(examples / "comments_test.csv", tmp_path / "home" / "data.csv")
    run = bertwright.train("~/data.csv", model="bert-tiny", max_length=8, steps=2, output="~/zz", quiet=True)
    assert run.path == tmp_path / "home" / "zz"
    assert run.finished
    bertwright.evaluate("~/zz", "~/data.csv", output="~/judged", quiet=True)
    settings = PredictSettings(output="~/scores.parquet", group_columns="topic,case")
    run_prediction("~/zz", (), ["~/data.csv"], settings, Reporter(quiet=True))
    with pytest.raises(UserError, match="--group-columns names columns of files"):
        run_prediction("~/zz", ["a text"], [], PredictSettings(group_columns="topic"), Reporter(quiet=True))
    names = {path.name for path in (tmp_path / "home").iterdir()}
    assert names == {"data.csv", "zz", "judged", "scores.parquet"}
    assert not (tmp_path / "~").exists()
    # Groups are kept beside the scores.
    table = pq.read_table(tmp_path / "home" / "scores.parquet")
    rows = list(csv.DictReader((tmp_path / "home" / "data.csv").read_text().splitlines()))
    for name in ("topic", "case"):
        assert table.column(f"group_{name}").to_pylist() == [row[name] for row in rows]


def test_an_evaluation_that_cannot_be_written_leaves_nothing(run, examples, tmp_path, monkeypatch):
    def full(path, tables):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("bertwright.evaluation.evaluate.write_predictions", full)
        with pytest.raises(OSError, match="No space left"):
            bertwright.evaluate(run.path, examples / "comments_test.csv", output=tmp_path / "judged", quiet=True)
    assert not list(tmp_path.iterdir())
    bertwright.evaluate(run.path, examples / "comments_test.csv", output=tmp_path / "judged", quiet=True)
    assert bertwright.open_run(tmp_path / "judged").finished


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "tokenize"])
def test_the_help_names_every_format(command):
    words = call(command, "--help", without_torch=True, COLUMNS="400").stdout
    for name in ("csv", "tsv", "jsonl", "parquet", "arrow", "feather", "npz", "txt", ".gz", ".xz", ".zst", "hub:NAME"):
        assert name in words
    assert "for each class" in words
