"""However a Hugging Face folder describes a tokenizer, ids are those of transformers, also of what is saved of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tests.model.families import CASES, save_tokenizer

from bertwright.errors import CheckpointError
from bertwright.model.tokenizer import load_tokenizer

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*LETTERS, *"ABCDé", *(f"##{letter}" for letter in LETTERS + "é"), "中", "文", "hello", "Hello", "caf", "cafe"]
VOCABULARY = [*MARKS, *PIECES, "[unused0]", "new", "[", "]", "/", "<", ">"]
NEXT = len(VOCABULARY)
TEXTS = [
    "Hello hello cafe café CAFÉ 中文ab",
    "<e1> hello </e1> [unused0] NEW x [MASK]y  z",
    "hello newtok NewTok newtokb ABC [MASK] d <extra> <EXTRA>a",
    "<lang>hello <mask> a<mask>b",
]


def wordpiece_json(**settings: Any) -> str:
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    return transformers.BertTokenizer(vocab=vocabulary, **settings).backend_tokenizer.to_str()


def make(folder: Path, files: dict[str, Any], model_type: str = "bert", vocab_txt: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    if vocab_txt:
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    for name, content in {"config.json": {"model_type": model_type, "vocab_size": NEXT + 9}, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def ours(folder: Path) -> list[list[int]]:
    loaded = load_tokenizer(folder)
    return [loaded.encode([text])[0].tolist() for text in TEXTS]


def theirs(folder: Path) -> list[list[int]]:
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    return [loaded(text)["input_ids"] for text in TEXTS]


def check(folder: Path, tmp_path: Path) -> list[list[int]]:
    """Ids as by transformers, of the folder and of what is saved of it."""
    expected = theirs(folder)
    assert ours(folder) == expected
    saved = tmp_path / "saved"
    saved.mkdir()
    load_tokenizer(folder).save(saved)
    (saved / "config.json").write_text((folder / "config.json").read_text())
    assert ours(saved) == expected
    assert theirs(saved) == expected
    assert load_tokenizer(saved).notes == []
    return expected


def added(content: str, **flags: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **usual, **flags}


@pytest.mark.parametrize("class_name", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizerFast", None])
@pytest.mark.parametrize(
    ("written", "config"),
    [
        ({"do_lower_case": True}, {"do_lower_case": False}),
        ({"do_lower_case": False}, {"do_lower_case": True}),
        ({"do_lower_case": False}, {}),
        ({"do_lower_case": True}, {"strip_accents": False}),
        ({"do_lower_case": True, "strip_accents": False}, {"do_lower_case": True}),
        ({}, {"tokenize_chinese_chars": False}),
    ],
)
def test_a_tokenizer_json_and_a_config_that_disagree_are_read_as_transformers_reads_them(
    written, config, class_name, tmp_path
):
    given = config | ({} if class_name is None else {"tokenizer_class": class_name})
    folder = make(tmp_path / "m", {"tokenizer.json": wordpiece_json(**written), "tokenizer_config.json": given})
    check(folder, tmp_path)
    (note,) = load_tokenizer(folder).notes
    assert "tokenizer.json and tokenizer_config.json give different token ids" in note
    assert f"texts are {'' if config.get('do_lower_case', True) else 'not '}lower-cased" in note


def test_files_that_agree_are_read_without_a_word(tmp_path):
    config = {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
    files = {"tokenizer.json": wordpiece_json(do_lower_case=False), "tokenizer_config.json": config}
    folder = make(tmp_path / "m", files)
    check(folder, tmp_path)
    assert load_tokenizer(folder).notes == []
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text()) == config


def test_a_class_that_takes_tokenizer_json_as_it_is_does_so(tmp_path):
    config = {"do_lower_case": True, "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": wordpiece_json(do_lower_case=False), "tokenizer_config.json": config}
    check(make(tmp_path / "m", files), tmp_path)


def test_a_cased_tokenizer_json_alone_stays_cased_for_transformers_too(tmp_path):
    """Nothing says of what class it is; beside a model of BERT's kind transformers would lower-case."""
    folder = make(tmp_path / "m", {"tokenizer.json": wordpiece_json(do_lower_case=False)}, vocab_txt=False)
    (folder / "config.json").unlink()
    found = ours(folder)
    saved = make(tmp_path / "saved", {}, vocab_txt=False)
    load_tokenizer(folder).save(saved)
    assert ours(saved) == theirs(saved) == found
    assert VOCABULARY.index("Hello") in found[0]


@pytest.mark.parametrize("with_json", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"<e1>": NEXT, "</e1>": NEXT + 1, "newtok": NEXT + 2}},
        {"tokenizer_config.json": {"added_tokens_decoder": {str(NEXT): added("<e1>")}}},
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    str(NEXT): added("newtok", special=False, normalized=True),
                    str(NEXT + 1): added("<e1>", lstrip=True, rstrip=True),
                }
            },
            "added_tokens.json": {"not counted": NEXT},
        },
        {"special_tokens_map.json": {"additional_special_tokens": ["[unused0]"]}},
        {"tokenizer_config.json": {"additional_special_tokens": ["<extra>", "[unused0]"]}},
        {"tokenizer_config.json": {"extra_special_tokens": ["<extra>"], "lang_token": "<lang>"}},
        {
            "tokenizer_config.json": {"do_lower_case": False, "additional_special_tokens": ["<extra>"]},
            "added_tokens.json": {"<e1>": NEXT},
        },
    ],
)
def test_added_and_special_tokens_beside_a_vocabulary_are_honoured(files, with_json, tmp_path):
    own = {"tokenizer.json": wordpiece_json()} if with_json else {}
    folder = make(tmp_path / "m", {**own, **files}, vocab_txt=not with_json)
    found = check(folder, tmp_path)
    assert found != ours(make(tmp_path / "plain", own, vocab_txt=not with_json))


@pytest.mark.parametrize("form", ["vocab", "json"])
@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, {}),
        ({"add_prefix_space": True}, {}),
        ({"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": False}, {"added_tokens.json": {"<e1>": 0}}),
        ({"additional_special_tokens": ["<extra>"]}, {"special_tokens_map.json": {"mask_token": added("<mask>")}}),
        ({"added_tokens_decoder": {"0": added("<e1>", lstrip=True)}}, {}),
        ({"mask_token": {"__type": "AddedToken", **added("<mask>", lstrip=True)}}, {}),
    ],
)
def test_byte_level_folders_are_read_as_transformers_reads_them(config, files, form, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    save_tokenizer(CASES["roberta"], folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    next_id = len(vocabulary)
    if form == "json":
        merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
        mask = tokenizers.AddedToken("<mask>", lstrip=True)
        made = transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=False, mask_token=mask)
        (folder / "tokenizer.json").write_text(made.backend_tokenizer.to_str(), encoding="utf-8")
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
    if "added_tokens_decoder" in config:
        own = {i: added(mark) for i, mark in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
        more = {next_id: config["added_tokens_decoder"]["0"]}
        config = {"added_tokens_decoder": {str(i): token for i, token in (own | more).items()}}
    files = {name: {"<e1>": next_id} if name == "added_tokens.json" else content for name, content in files.items()}
    make(folder, {**files, "tokenizer_config.json": config}, "roberta", vocab_txt=False)
    check(folder, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens.json": {"<e1>": NEXT + 5}}, f"the added token '<e1>' gets id {NEXT}, expected {NEXT + 5};"),
        ({"added_tokens.json": {"<e1>": "many"}}, "added_tokens.json: found 'many' as an added token's id"),
        ({"added_tokens.json": [1]}, "added_tokens.json: not a JSON object"),
        ({"added_tokens.json": '{"\\ud800": 90}'}, "no valid Unicode"),
        ({"tokenizer_config.json": {"added_tokens_decoder": [1]}}, "added_tokens_decoder is no object"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"90": 5}}}, "found '5', expected a token"),
        ({"tokenizer_config.json": {"additional_special_tokens": 7}}, "expected a list of tokens"),
        ({"tokenizer_config.json": {"additional_special_tokens": [7]}}, "found '7', expected a token"),
        ({"tokenizer_config.json": {"cls_token": 7}}, "found '7', expected a token"),
        ({"tokenizer_config.json": {"do_lower_case": None}}, "do_lower_case is 'None' in tokenizer_config.json"),
        ({"tokenizer.json": '{"model": {}, "added_tokens": [3]}'}, "added_tokens is no list of objects"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(files, message, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(make(tmp_path / "m", files))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fast_engine_is_probed_with_the_added_tokens(tmp_path, monkeypatch):
    """It may agree on all usual texts and not know an added token."""
    from bertwright.model import tokenizer as module

    plain = load_tokenizer(make(tmp_path / "plain", {})).json_text
    real = module.nanotoken.Tokenizer

    class Deaf:
        @staticmethod
        def from_json(text: str) -> Any:
            return real.from_json(plain)

    monkeypatch.setattr(module.nanotoken, "Tokenizer", Deaf)
    loaded = load_tokenizer(make(tmp_path / "m", {"added_tokens.json": {"<e1>": NEXT}}))
    assert loaded.engine == "tokenizers"
    assert NEXT in loaded.encode(["a <e1>"])[0]
