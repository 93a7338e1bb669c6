"""Files of texts, token ids and settings."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from bertwright.config.base import build, read_config_file
from bertwright.config.parts import DataSettings
from bertwright.config.train import TrainConfig
from bertwright.data.columns import read_labelled, read_unlabelled
from bertwright.data.label_map import label_map
from bertwright.data.token_cache import open_token_cache
from bertwright.experiments.sweep_flags import axis_of, checked_metric, dimension_of
from bertwright.experiments.sweep_folder import Asked, with_flags
from bertwright.shipping.server.categories import read_label_map
from tests.fuzz.target import Case, Codec, Fault, Target, refused

_TEXTS = ["a good film, 1 of 2", 'he said "no"', "un café\u2028", "line\nbreak", "ok", "bad film"]
_LABELS = ["1", "0", "1", "0", "1", "0"]
_SKIP = build(DataSettings, {"on_bad_row": "skip"})
_KINDS = [
    build(DataSettings, {"on_bad_row": "skip", "label_kind": "regression"}),
    build(DataSettings, {"on_bad_row": "skip", "label_threshold": 0.5, "label_map": ("yes=1",)}),
    build(DataSettings, {"on_bad_row": "skip", "label_column": ("rude", "long")}),
    build(DataSettings, {"on_bad_row": "skip", "label_kind": "soft", "label_column": ("rude", "long")}),
    build(DataSettings, {"on_bad_row": "skip", "pair_column": "reply", "group_columns": ("group",)}),
]


def read_texts(path: Path) -> None:
    """Read a file in all ways; what comes of it must be whole."""
    for settings in (DataSettings(), _SKIP, *_KINDS):
        read = refused(lambda settings=settings: read_labelled(str(path), settings))
        if read is not None:
            _check_read(read)
    for skip in ("error", "skip"):
        read = refused(lambda skip=skip: read_unlabelled(str(path), on_bad_row=skip))
        if read is not None:
            _check_read(read)


def _check_read(read: Any) -> None:
    texts = list(read.texts[: len(read.texts)])
    if not texts or len(texts) != len(read.rows):
        raise Fault(f"{len(texts)} texts on {len(read.rows)} rows")
    for text in texts:
        text.encode()
    if read.label_ids is not None and not (
        len(read.label_ids) == len(texts) and read.label_ids.min() >= 0 and read.label_ids.max() < len(read.labels)
    ):
        raise Fault("label ids beyond the labels")
    if read.targets is not None and not (len(read.targets) == len(texts) and np.isfinite(read.targets).all()):
        raise Fault("targets that are no numbers")
    for label in read.labels:
        label.encode()
    for bad in list(read.bad_rows)[:20]:
        str(bad)


def _only_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def _read_files(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            read_texts(path)


def _delimited(separator: str) -> str:
    rows = [("text", "label", "rude", "long", "reply", "group")]
    rows += [(text, label, label, "01"[label == "0"], "why", "x") for text, label in zip(_TEXTS, _LABELS, strict=True)]
    quoted = [
        [f'"{cell.replace(chr(34), chr(34) * 2)}"' if set(cell) & {*'",\n\t'} else cell for cell in row] for row in rows
    ]
    return "".join(separator.join(row) + "\n" for row in quoted)


def _csv_seeds() -> Mapping[str, Case]:
    return {
        "csv": {"data.csv": _delimited(",").encode()},
        "headerless": {
            "data.csv": "".join(f"{text},{label}\n" for text, label in zip("abcdef", _LABELS, strict=True)).encode()
        },
        "tsv": {"data.tsv": _delimited("\t").encode()},
        "plain-tsv": {"data.tsv": b"sentence\tlabel\ngood film\t1\nbad film\t0\n"},
    }


_CELLS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            '"',
            '""',
            '"a',
            'a"',
            "NaN",
            "0",
            "1",
            "0.5",
            "1e999",
            "-0",
            "9" * 400,
            "a,b",
            "\r",
            "\r\n",
            "\t",
            "\x00",
            "\x85",
        ]
    ),
)


def _drawn_csv() -> st.SearchStrategy[Case]:
    rows = st.lists(st.lists(_CELLS, min_size=0, max_size=5), max_size=12)

    def made(rows: list[list[str]], tsv: bool, end: str, header: str) -> Case:
        separator = "\t" if tsv else ","
        text = header + end.join(separator.join(row) for row in rows)
        return {f"data.{'tsv' if tsv else 'csv'}": text.encode("utf-8", "surrogatepass")}

    headers = st.sampled_from(
        ["", "text,label\n", "text\tlabel\n", "\ufefftext,label\r\n", "text,rude,long,reply,group\n"]
    )
    return st.builds(made, rows, st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), headers)


def _jsonl_seeds() -> Mapping[str, Case]:
    rows = [
        {"text": text, "label": int(label), "rude": int(label), "long": 1 - int(label), "reply": "b", "group": "x"}
        for text, label in zip(_TEXTS, _LABELS, strict=True)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return {
        "objects": {"data.jsonl": text.encode()},
        "few": {
            "data.jsonl": b'{"text": "a", "label": true}\n{"text": "b", "label": false}\n\n'
            b'{"text": "\\ud83d\\ude00", "label": true}\n'
        },
    }


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
        st.sampled_from([10**400, -(2**63), 1e308, "\ud800", "0.5", "1"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip


def json_values() -> st.SearchStrategy[Any]:
    """Values of JSON, hostile ones among them."""
    return _JSON


def _drawn_jsonl() -> st.SearchStrategy[Case]:
    keys = st.sampled_from(["text", "label", "rude", "long", "reply", "group", ""])
    row = st.one_of(st.dictionaries(keys, _JSON, max_size=4), _JSON)
    return st.lists(row, min_size=1, max_size=6).map(lambda rows: {"data.jsonl": "\n".join(map(dumped, rows)).encode()})


def dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # an integer of too many digits for Python
        return "9" * 5_000


def _line_seeds() -> Mapping[str, Case]:
    return {
        "separated": {
            "data.txt": "".join(f"{label} ||| {text}\n" for text, label in zip("abcdef", _LABELS, strict=True)).encode()
        },
        "plain": {"data.txt": "a good film\nun café\n\nbad\r\n".encode()},
    }


# --- archives and columns --------------------------------------------------------------------------------------------


def _npz_seeds() -> Mapping[str, Case]:
    made: dict[str, Case] = {}
    texts = np.array(_TEXTS)
    for name, arrays, save in (
        ("plain", {"text": texts, "label": np.array([1, 0, 1, 0, 1, 0])}, np.savez),
        (
            "deflated",
            {"x": np.array([text.encode() for text in _TEXTS]), "y": np.array([1.0, 0, 1, 0, 1, 0])},
            np.savez_compressed,
        ),
    ):
        file = io.BytesIO()
        save(file, **arrays)
        made[name] = {"data.npz": file.getvalue()}
    return made


def rezipped(change_at: int = 0) -> Codec:
    """Into a member of a zip archive, whose checksum is then put right."""

    def member(data: bytes) -> str:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        return names[change_at % len(names)]

    def unpack(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(member(data))

    def pack(content: bytes, old: bytes) -> bytes:
        made = io.BytesIO()
        changed = member(old)
        with zipfile.ZipFile(io.BytesIO(old)) as archive, zipfile.ZipFile(made, "w") as new:
            for info in archive.infolist():
                kept = content if info.filename == changed else archive.read(info)
                new.writestr(info.filename, kept, info.compress_type)
        return made.getvalue()

    return Codec(unpack, pack)


def _column_seeds() -> Mapping[str, Case]:
    table = pa.table(
        {
            "text": _TEXTS,
            "label": [1, 0, 1, 0, 1, 0],
            "rude": pa.array([0, 1, 0, 1, 0, 1], pa.int8()),
            "long": [1.0, 0, 1, 0, 1, 0],
            "reply": pa.array(["a", "b", "a", "b", "a", "b"]).dictionary_encode(),
            "group": ["x"] * 5 + [None],
            "tags": [["x"]] * 6,
        },
        metadata=None,
    )
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["bad", "good"]}}}}
    named = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    made: dict[str, Case] = {}
    for name, options in (
        ("zstd", {"compression": "zstd"}),
        ("plain", {"compression": "none", "use_dictionary": False}),
    ):
        file = io.BytesIO()
        pq.write_table(named, file, **options)
        made[f"parquet-{name}"] = {"data.parquet": file.getvalue()}
    for name, kind in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        buffer = pa.BufferOutputStream()
        with kind(buffer, named.schema) as writer:
            writer.write_table(named)
        made[f"arrow-{name}"] = {"data.arrow": buffer.getvalue().to_pybytes()}
    return made


# --- class folders ----------------------------------------------------------------------------------------------------


def _folder_seeds() -> Mapping[str, Case]:
    return {
        "two": {
            "neg/1.txt": b"bad film\n",
            "neg/2.txt": "un café".encode(),
            "pos/1.txt": b"good",
            "pos/10.txt": b"fine\r\n",
        },
    }


def _drawn_folders() -> st.SearchStrategy[Case]:
    part = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=12)
    names = st.builds(
        lambda folder, name, end: f"{folder}/{name}{end}",
        part.filter(lambda name: name not in (".", "..")),
        part.filter(lambda name: name not in (".", "..")),
        st.sampled_from([".txt", ".TXT", "", ".txt.txt", ".gz"]),
    )
    return st.dictionaries(names, st.binary(max_size=40), min_size=1, max_size=5)


def _read_folder(folder: Path) -> None:
    for settings in (DataSettings(), _SKIP):
        read = refused(lambda settings=settings: read_labelled(str(folder), settings))
        if read is not None:
            _check_read(read)


# --- compressed -------------------------------------------------------------------------------------------------------

_COMPRESS = {
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def _decompressed_zst(data: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return stream.read(4 << 20)


_UNPACKED = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": _decompressed_zst}
_CODECS = {end: Codec(_UNPACKED[end], lambda new, old, pack=pack: pack(new)) for end, pack in _COMPRESS.items()}


def _compressed_seeds() -> Mapping[str, Case]:
    content = _delimited(",").encode()
    made = {f"csv{end.replace('.', '-')}": {f"data.csv{end}": pack(content)} for end, pack in _COMPRESS.items()}
    made["jsonl-gz"] = {"data.jsonl.gz": gzip.compress(_jsonl_seeds()["few"]["data.jsonl"], mtime=0)}
    made["npz-xz"] = {"data.npz.xz": lzma.compress(_npz_seeds()["plain"]["data.npz"])}
    made["parquet-gz"] = {"data.parquet.gz": gzip.compress(_column_seeds()["parquet-zstd"]["data.parquet"], mtime=0)}
    return made


def _drawn_bombs() -> st.SearchStrategy[Case]:
    """Small files of up to 256 MiB that are no rows: one unit, over and over, behind a beginning."""
    units = st.sampled_from(
        [b"a", b" ", b"\n", b"\r", b"\0", b'"', b",", b"[", b"a,", b'{"a":', b"\t", b" ||| ", b"\xff", b'""']
    )
    heads = st.sampled_from(
        [b"", b"text,label\n", b'text,label\n"', b'{"text": "', b"text\tlabel\n", b"PK\x03\x04", b"PAR1", b"ARROW1\0\0"]
    )
    formats = st.sampled_from(["csv", "tsv", "jsonl", "txt", "npz", "parquet", "arrow"])

    def made(unit: bytes, head: bytes, kind: str, end: str, mebibytes: int) -> Case:
        return {f"data.{kind}{end}": _COMPRESS[end](head) + _packed_mebibyte(unit, end) * mebibytes}

    return st.builds(made, units, heads, formats, st.sampled_from([*_COMPRESS]), st.sampled_from([32, 128, 256]))


@functools.cache
def _packed_mebibyte(unit: bytes, end: str) -> bytes:
    return _COMPRESS[end](unit * ((1 << 20) // len(unit)))


def _bomb_seeds() -> Mapping[str, Case]:
    return {
        end[1:]: {f"data.csv{end}": _COMPRESS[end](b"text,label\n") + _packed_mebibyte(b"a", end) * 16}
        for end in (".xz", ".zst")
    }


def _read_bomb(folder: Path) -> None:
    """Once, with labels: each way reads all of it."""
    path = str(_only_file(folder))
    refused(lambda: read_labelled(path, _SKIP))
    if ".txt" in path:  # which may then be one text a line
        refused(lambda: read_unlabelled(path, on_bad_row="skip"))


# --- settings ---------------------------------------------------------------------------------------------------------


def _setting_seeds() -> Mapping[str, Case]:
    return {
        "train": {
            "train.toml": b'model = "bert-tiny"\ntrain = ["a.csv"]\nepochs = 1.5\n'
            b"batch_size = 8\nlearning_rate = 2e-5\nseed = 0\n"
            b'label_column = ["rude", "long"]\nwarmup_ratio = 0.1\n',
            "config.json": json.dumps(
                {
                    "act": "train",
                    "settings": {"model": "bert-tiny", "train": ["a.csv"], "epochs": 1, "max_length": 64, "seed": 3},
                }
            ).encode(),
        },
        "sweep": {
            "sweep.toml": b'metric = "validation:f1"\nepochs = 2\n[grid]\nseed = [0, 1]\nmodel = ["bert-tiny"]\n',
            "a.csv": b"text,label\n",
            "metrics.txt": b"f1\ntest:accuracy\nvalidation:roc_auc",
            "trials.toml": b'[[trials]]\nname = "a"\nmodel = "bert-tiny"\n\n[[trials]]\nseed = 1\nepochs = 2\n',
            "trials.json": b'[{"model": "bert-tiny", "seed": 0}, {"seed": 1, "learning_rate": 1e-4}]',
            "trials.jsonl": b'{"seed": 0}\n{"seed": 1, "name": "b"}\n',
            "grid.txt": b"seed=0,1,2\nmodel=bert-tiny,bert-mini\nbatch_size=[8, 16]",
            "space.txt": b"learning_rate=log:1e-5..1e-3\nbatch_size=8|16\nseed=0..10:2\nwarmup_ratio=0..0.5",
        },
        "label-map": {
            "label_map.toml": b'hate = "toxic"\nviolence = ["threat", "insult"]\n',
            "label_map.json": b'{"hate": ["toxic"], "my own": "clean"}',
            "flags.txt": b"BAD=toxic,NOT_BAD=clean\na=b",
        },
    }


def _read_settings(folder: Path) -> None:
    train = str(folder / "a.csv")
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in ("train.toml", "config.json"):
            values = refused(lambda path=path: read_config_file(path))
            if values is not None:
                refused(lambda values=values, path=path: build(TrainConfig, {**values, "output": None}, str(path)))
        elif name == "sweep.toml":
            values = refused(lambda path=path: read_config_file(path))
            if values is not None:
                refused(lambda values=values: _plan(with_flags(values, {}), train))
        elif name.startswith("trials."):
            refused(lambda path=path: _plan({"trials": str(path)}, train))
        elif name.startswith("label_map."):
            refused(lambda path=path: read_label_map(str(path)))
        elif name in _LINES:
            lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:50]
            for line in lines:
                refused(lambda line=line, name=name: _LINES[name](line))
            if name in ("grid.txt", "space.txt"):
                asked = {name.removesuffix(".txt"): tuple(lines)} | ({"num_trials": 2} if name == "space.txt" else {})
                refused(lambda asked=asked: _plan(asked, train))


_LINES: dict[str, Callable[[str], Any]] = {
    "grid.txt": axis_of,
    "space.txt": dimension_of,
    "flags.txt": lambda line: label_map([line]),
    "metrics.txt": checked_metric,
}


def _plan(given: Mapping[str, Any], train: str) -> None:
    """All that is checked of a sweep before it is begun."""
    asked = Asked({**given, "train": train})
    asked.folder  # noqa: B018 - it is computed
    asked.plan()


# --- token ids --------------------------------------------------------------------------------------------------------


def _token_seeds() -> Mapping[str, Case]:
    import tempfile

    from bertwright.data.tokenize import tokenize
    from tests.fuzz.target import read_case

    made: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "a.csv").write_text(_delimited(","))
        for name, settings in (
            ("classes", {}),
            ("pairs", {"pair_column": "reply", "group_columns": ("group",)}),
            ("numbers", {"label_column": ("rude", "long")}),
        ):
            tokenize(str(path / "a.csv"), str(path / name), model="bert-tiny", max_length=16, quiet=True, **settings)
            made[name] = read_case(path / name)
    return made


def _repair_tokens(case: Case) -> Case:
    """Sizes and hashes as they now are."""
    try:
        manifest = json.loads(case["manifest.json"])
        for name, stored in manifest["files"].items():
            if name in case:
                stored |= {"bytes": len(case[name]), "sha256": hashlib.sha256(case[name]).hexdigest()}
        text = json.dumps(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return case
    return {**case, "manifest.json": text.encode()}


def _read_tokens(folder: Path) -> None:
    found = refused(lambda: open_token_cache(folder))
    if found is not None:
        _, tokens = found
        int(np.asarray(tokens.ids, np.int64).sum())
        tokens.take(np.arange(min(2, len(tokens.starts) - 1)))
    _read_folder(folder)


TARGETS = (
    Target("csv", _read_files, _csv_seeds, _drawn_csv),
    Target("jsonl", _read_files, _jsonl_seeds, _drawn_jsonl),
    Target("lines", _read_files, _line_seeds),
    Target("npz", _read_files, _npz_seeds, codecs={".npz": rezipped(), "z": rezipped(1)}),
    Target("columns", _read_files, _column_seeds),
    Target("folders", _read_folder, _folder_seeds, _drawn_folders),
    Target("compressed", _read_files, _compressed_seeds, codecs=_CODECS),
    Target("bombs", _read_bomb, _bomb_seeds, _drawn_bombs),
    Target("settings", _read_settings, _setting_seeds, words=(b"[[trials]]\n", b"seed=0..1e400", b"log:", b"..", b"|")),
    Target("tokens", _read_tokens, _token_seeds, repair=_repair_tokens),
)
