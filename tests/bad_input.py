"""Kinds of bad input, each with the files that show it and the command that meets them.

``python tests/bad_input.py > docs/bad-input.md`` writes the page of what is printed for each; a test compares them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GOOD = "text,label\n" + "".join(f"a good film {i},1\na bad film {i},0\n" for i in range(20))
TINY = ["--model", "bert-tiny", "--steps", "2", "--batch-size", "4", "--max-length", "16"]


@dataclass(frozen=True)
class Kind:
    """A kind of bad input: ``make`` writes the files into the working folder and returns the command's arguments."""

    name: str
    make: Callable[[], list[str]]


KINDS: list[Kind] = []


def kind(name: str) -> Callable[[Callable[[], list[str]]], Callable[[], list[str]]]:
    """Add a kind by its name."""

    def add(make: Callable[[], list[str]]) -> Callable[[], list[str]]:
        KINDS.append(Kind(name, make))
        return make

    return add


def train(name: str, content: str | bytes, *flags: str) -> list[str]:
    """The arguments that train on a new file."""
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return ["train", name, *TINY, *flags]


def good(name: str = "good.csv") -> str:
    Path(name).write_text(GOOD)
    return name


# --- files that hold nothing of use -----------------------------------------------------------------------------------


@kind("an empty file")
def _() -> list[str]:
    return train("empty.csv", "")


@kind("a header and no rows")
def _() -> list[str]:
    return train("header.csv", "text,label\n")


@kind("blank lines alone")
def _() -> list[str]:
    return train("blank.csv", "\n\n   \n")


@kind("a file that is not there, with one of almost the same name")
def _() -> list[str]:
    good("comments.csv")
    return ["train", "coments.csv"]


@kind("an extension that is not read")
def _() -> list[str]:
    return train("comments.xlsx", "text,label\na,1\n")


@kind("a folder of no classes")
def _() -> list[str]:
    Path("folder").mkdir()
    return ["train", "folder"]


# --- bytes that are no text -------------------------------------------------------------------------------------------


@kind("binary garbage")
def _() -> list[str]:
    return train("garbage.csv", random.Random(0).randbytes(5_000))


@kind("a NUL byte")
def _() -> list[str]:
    return train("nul.csv", "text,label\ngood\0film,1\nbad film,0\n")


@kind("UTF-16")
def _() -> list[str]:
    return train("utf16.csv", GOOD.encode("utf-16"))


@kind("Latin-1, not UTF-8")
def _() -> list[str]:
    return train("latin1.csv", "text,label\nun café,1\nun thé,0\n".encode("latin-1"))


@kind("a lone surrogate in JSON")
def _() -> list[str]:
    return train("surrogate.jsonl", '{"text": "good \\ud800", "label": 1}\n{"text": "bad", "label": 0}\n')


# --- rows that cannot be parsed ---------------------------------------------------------------------------------------


@kind("a row with a field too many")
def _() -> list[str]:
    return train("ragged.csv", GOOD + "good, but long,1\n")


@kind("a quote that is never closed")
def _() -> list[str]:
    return train("quote.csv", GOOD + '"a film that never ends,1\n')


@kind("a line that is not JSON")
def _() -> list[str]:
    return train("broken.jsonl", '{"text": "good", "label": 1}\n{"text": "bad", "label": 0\n')


@kind("JSON that is no object")
def _() -> list[str]:
    return train("list.jsonl", '{"text": "good", "label": 1}\n["bad", 0]\n')


@kind("an empty text")
def _() -> list[str]:
    return train("no-text.csv", GOOD + ",1\n")


@kind("a text that is null")
def _() -> list[str]:
    return train("null.jsonl", '{"text": null, "label": 1}\n{"text": "bad", "label": 0}\n')


# --- columns ----------------------------------------------------------------------------------------------------------


@kind("a column that is not there")
def _() -> list[str]:
    return train("columns.csv", GOOD, "--label-column", "lable")


@kind("no column that looks like texts")
def _() -> list[str]:
    return train("ids.csv", "id,user,when\n1,2,3\n4,5,6\n")


@kind("two columns of one name")
def _() -> list[str]:
    return train("twice.csv", "text,label,text\na,1,b\nc,0,d\n")


@kind("semicolons in a .csv")
def _() -> list[str]:
    return train("semicolons.csv", GOOD.replace(",", ";"))


# --- labels -----------------------------------------------------------------------------------------------------------


@kind("one class only")
def _() -> list[str]:
    return train("one.csv", "text,label\na,1\nb,1\nc,1\n")


@kind("a NaN among the labels")
def _() -> list[str]:
    return train("nan.csv", GOOD + "a film,NaN\n")


@kind("an empty label")
def _() -> list[str]:
    return train("no-label.csv", GOOD + "a film,\n")


@kind("shares as labels, and no word of what they mean")
def _() -> list[str]:
    return train("shares.csv", "text,label\na,0.5\nb,0.25\nc,1\nd,0\n")


@kind("texts in place of labels")
def _() -> list[str]:
    return train("many.csv", "text,label\n" + "".join(f"text {i},id {i}\n" for i in range(1_200)))


@kind("a label that the training has not")
def _() -> list[str]:
    Path("test.csv").write_text("text,label\na,1\nb,2\n")
    return train("labels.csv", GOOD, "--test", "test.csv")


@kind("a value of a multi-label column that is no label")
def _() -> list[str]:
    return train("multi.csv", "text,rude,long\n" + "a,1,0\nc,1,1\n" * 20 + "b,0,2\n", "--label-column", "rude,long")


@kind("soft labels that do not sum to 1")
def _() -> list[str]:
    content = "text,good,bad\n" + "a,0.5,0.5\nc,1,0\n" * 20 + "b,0.5,0.2\n"
    return train("soft.csv", content, "--label-kind", "soft", "--label-column", "good,bad")


@kind("a word where a number is to be learnt")
def _() -> list[str]:
    content = "text,stars\n" + "a film,4.5\n" * 20 + "a film,many\n"
    return train("numbers.csv", content, "--label-kind", "regression", "--label-column", "stars")


@kind("a pair without its second text")
def _() -> list[str]:
    return train("pairs.csv", "text,reply,label\n" + "a,b,1\nc,d,0\n" * 20 + "e,,1\n", "--pair-column", "reply")


# --- compressed and binary formats ------------------------------------------------------------------------------------


@kind("a .gz that is cut short")
def _() -> list[str]:
    return train("cut.csv.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:-20])


@kind("a .gz that is none")
def _() -> list[str]:
    return train("plain.csv.gz", GOOD)


@kind("a .xz that is cut short")
def _() -> list[str]:
    return train("cut.csv.xz", lzma.compress(GOOD.encode() * 50)[:-20])


@kind("a .zst that is cut short")
def _() -> list[str]:
    compressed = pa.compress(GOOD.encode() * 50, codec="zstd", asbytes=True)
    return train("cut.csv.zst", compressed[:-20])


@kind("a truncated .parquet")
def _() -> list[str]:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 0]}), "whole.parquet")
    return train("cut.parquet", Path("whole.parquet").read_bytes()[:-30])


@kind("a .parquet that is a .csv")
def _() -> list[str]:
    return train("renamed.parquet", GOOD)


@kind("a truncated .arrow")
def _() -> list[str]:
    table = pa.table({"text": ["a", "b"] * 100, "label": [1, 0] * 100})
    with pa.OSFile("whole.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return train("cut.arrow", Path("whole.arrow").read_bytes()[:-100])


@kind("a .npz with pickled objects")
def _() -> list[str]:
    np.savez("objects.npz", text=np.array(["a", "b", None], dtype=object), label=np.array([1, 0, 1]))
    return ["train", "objects.npz", *TINY]


@kind("a .npz whose arrays differ in length")
def _() -> list[str]:
    np.savez("lengths.npz", text=np.array(["a", "b", "c"]), label=np.array([1, 0]))
    return ["train", "lengths.npz", *TINY]


@kind("a .npz whose header promises more than it holds")
def _() -> list[str]:
    header = b"{'descr': '<U10', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile("promises.npz", "w") as file:
        file.writestr("text.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"a\0\0\0" * 10)
    return ["train", "promises.npz", *TINY]


# --- models and token ids ---------------------------------------------------------------------------------------------


def model_folder() -> Path:
    """A small classifier with a vocabulary, as a training leaves it."""
    from bertwright import train as train_now

    made = Path(tempfile.gettempdir()) / f"bertwright-bad-input-{os.getpid()}"
    if not made.is_dir():
        good("for-model.csv")
        flags = {"model": "bert-tiny", "steps": 2, "batch_size": 4, "max_length": 16}
        train_now("for-model.csv", output=str(made), quiet=True, **flags)
        Path("for-model.csv").unlink()
    shutil.copytree(made / "model", "model")
    return Path("model")


def with_model(file: str, change: Callable[[bytes], bytes]) -> list[str]:
    path = model_folder() / file
    path.write_bytes(change(path.read_bytes()))
    return ["predict", "model", "--text", "a film"]


@kind("truncated .safetensors")
def _() -> list[str]:
    return with_model("model.safetensors", lambda content: content[:-1_000])


@kind(".safetensors whose header lies about its length")
def _() -> list[str]:
    return with_model("model.safetensors", lambda content: struct.pack("<Q", 2**60) + content[8:])


@kind("weights that are not numbers")
def _() -> list[str]:
    def poison(content: bytes) -> bytes:
        return content[:-4_000_000] + b"\xff" * 4_000_000

    return with_model("model.safetensors", poison)


@kind("a model's settings that are no JSON")
def _() -> list[str]:
    return with_model("config.json", lambda content: content[:-5])


@kind("a pickle in place of weights")
def _() -> list[str]:
    folder = model_folder()
    (folder / "model.safetensors").unlink()
    pickled = b"\x80\x02cposix\nsystem\nq\x00X\x0b\x00\x00\x00touch ownedq\x01\x85Rq\x02."
    (folder / "pytorch_model.bin").write_bytes(pickled)
    return ["predict", "model", "--text", "a film"]


# --- checkpoints of other libraries -----------------------------------------------------------------------------------


def google(file: str, change: Callable[[bytes], bytes]) -> list[str]:
    """Convert a small checkpoint that TensorFlow wrote, after a change of one of its files."""
    shutil.copytree(Path(__file__).parent / "golden" / "tensorflow" / "pretraining", "bert")
    Path("bert/expected.npz").unlink()
    path = Path("bert") / file
    path.write_bytes(change(path.read_bytes()))
    return ["convert", "bert", "converted"]


@kind("a TensorFlow index that is cut short")
def _() -> list[str]:
    return google("bert_model.ckpt.index", lambda content: content[:-100])


@kind("a TensorFlow data file that is cut short")
def _() -> list[str]:
    return google("bert_model.ckpt.data-00000-of-00001", lambda content: content[:1_000])


@kind("a TensorFlow data file in the other byte order")
def _() -> list[str]:
    return google(
        "bert_model.ckpt.data-00000-of-00001", lambda content: np.frombuffer(content, "<u4").byteswap().tobytes()
    )


@kind("a TensorFlow checkpoint without a tensor")
def _() -> list[str]:
    return google(
        "bert_config.json", lambda content: content.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3')
    )


@kind("a TensorFlow checkpoint with another model's settings")
def _() -> list[str]:
    return google("bert_config.json", lambda content: content.replace(b'"hidden_size": 16', b'"hidden_size": 32'))


@kind("a vocab.txt of another length")
def _() -> list[str]:
    return google("vocab.txt", lambda content: content + b"more\n")


def fairseq(num_symbols: int = 20, **more: object) -> list[str]:
    """Convert the beginning of a fairseq checkpoint of 25 ids, with ``more`` in its pickle."""
    import argparse

    import torch

    prefix = "encoder.sentence_encoder."
    shapes = {"embed_tokens.weight": (25, 8), "embed_positions.weight": (10, 8), "layers.0.fc1.weight": (16, 8)}
    model = {prefix + name: torch.ones(shape) for name, shape in shapes.items()}
    Path("roberta").mkdir()
    torch.save({"args": argparse.Namespace(encoder_attention_heads=2), "model": model, **more}, "roberta/model.pt")
    symbols = [*range(18), "madeupword0000", "madeupword0001", "madeupword0002"][:num_symbols]
    Path("roberta/dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))
    Path("roberta/encoder.json").write_text("{" + ", ".join(f'"{chr(97 + i)}": {i}' for i in range(18)) + "}")
    Path("roberta/vocab.bpe").write_text("#version: 0.2\n")
    return ["convert", "roberta", "converted"]


@kind("a dict.txt of another length")
def _() -> list[str]:
    return fairseq(num_symbols=21)


@kind("a fairseq checkpoint without a tensor")
def _() -> list[str]:
    return fairseq()


@kind("a fairseq checkpoint that runs a command when it is loaded")
def _() -> list[str]:
    class Command:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, ("touch owned",)

    return fairseq(extra_state=Command())


@kind("a checkpoint that is none")
def _() -> list[str]:
    Path("folder").mkdir()
    return ["convert", "folder", "converted"]


def token_folder() -> Path:
    from bertwright.data.tokenize import tokenize

    tokenize(good(), "tokens", model="bert-tiny", max_length=16, quiet=True)
    return Path("tokens")


# --- pretraining ------------------------------------------------------------------------------------------------------


def pretrain(*flags: str, content: str = "a good film\nanother film\n") -> list[str]:
    """The arguments that learn from a few texts without labels."""
    Path("texts.txt").write_text(content)
    model = [] if "--model" in flags else ["--model", "bert-tiny"]
    return ["pretrain", "texts.txt", *model, "--steps", "2", "--cache", "cache", *flags]


@kind("texts without a word to learn from")
def _() -> list[str]:
    return pretrain(content="\n \n")


@kind("the words of a model that has none")
def _() -> list[str]:
    return pretrain("--word-embeddings", "bert-base")


@kind("the words of a model that is narrower")
def _() -> list[str]:
    return pretrain("--model", "bert-small", "--word-embeddings", "all-MiniLM-L6-v2")


@kind("a vocabulary of its own, and another model's words")
def _() -> list[str]:
    return pretrain("--train-vocabulary", "500", "--word-embeddings", "all-MiniLM-L6-v2")


@kind("other words for a model that has learnt its own")
def _() -> list[str]:
    return pretrain("--model", "bertwright-tiny", "--word-embeddings", "all-MiniLM-L6-v2")


# --- token ids --------------------------------------------------------------------------------------------------------


@kind("damaged token ids")
def _() -> list[str]:
    path = token_folder() / "token_ids.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    return ["train", "tokens", *TINY]


@kind("truncated token ids")
def _() -> list[str]:
    path = token_folder() / "token_ids.bin"
    path.write_bytes(path.read_bytes()[:-10])
    return ["train", "tokens", *TINY]


@kind("a model that is nowhere")
def _() -> list[str]:
    return ["train", good(), "--model", "no-such-model"]


# --- settings and outputs ---------------------------------------------------------------------------------------------


@kind("an output that exists")
def _() -> list[str]:
    Path("out").mkdir()
    return ["train", good(), *TINY, "--output", "out"]


@kind("an output inside a file")
def _() -> list[str]:
    return ["train", good(), *TINY, "--output", "good.csv/run"]


@kind("a setting that is not known")
def _() -> list[str]:
    Path("settings.toml").write_text("batch_sise = 8\n")
    return ["train", good(), "--config", "settings.toml"]


@kind("a value that a setting cannot have")
def _() -> list[str]:
    return ["train", good(), *TINY, "--validation-share", "1.5"]


@kind("more tokens than the model has positions")
def _() -> list[str]:
    return ["train", good(), "--max-length", "5000"]


@kind("too few texts to hold any out")
def _() -> list[str]:
    return train("few.csv", "text,label\na,1\nb,0\n", "--validation-share", "0.1")


@kind("to resume what is no run")
def _() -> list[str]:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    return ["train", good(), *TINY, "--output", "out", "--resume"]


@kind("a data set of the hub without a network")
def _() -> list[str]:
    return ["train", "hub:someone/comments", *TINY]


def printed(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command and what it wrote to standard error."""
    from bertwright.cli import main

    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0), errors.getvalue()
    return 0, errors.getvalue()


def tree(folder: Path) -> dict[str, str]:
    """Every file under ``folder`` by its path, hidden ones too, with the hash of its content; folders with ""."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Outcome:
    """What a kind of bad input came to: the exit code, standard error, and the files before and after."""

    status: int
    errors: str
    before: dict[str, str]
    after: dict[str, str]


def outcome(one: Kind) -> Outcome:
    """Run a kind's command in a folder of its own, whose path is taken out of what is printed."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        arguments = one.make()
        before = tree(folder)
        status, errors = printed(arguments)
        return Outcome(status, errors.replace(os.getcwd() + "/", ""), before, tree(folder))


def error_lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("error:")]


def page(outcomes: dict[str, Outcome]) -> str:
    """docs/bad-input.md."""
    head = """# What is said of bad input

Whatever is wrong with a file or a command, `bertwright` says it in one line: what, what was found, what was expected
and what to do. The exit code is 2, and nothing is written. Each row below was printed; `python tests/bad_input.py`
makes this page, and a test compares it with what is printed now.

| what is wrong | what is said |
|---|---|
"""
    rows = []
    for name, found in outcomes.items():
        lines = "".join(error_lines(found.errors)).replace("|", "\\|")
        rows.append(f"| {name} | `{lines}` |")
    return head + "\n".join(rows) + "\n"


def forget_model() -> None:
    """Remove the small model that the kinds share."""
    shutil.rmtree(Path(tempfile.gettempdir()) / f"bertwright-bad-input-{os.getpid()}", ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.stdout.write(page({one.name: outcome(one) for one in KINDS}))
    forget_model()
