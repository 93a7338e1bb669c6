"""The model that comes with bertwright: it can be had without any network, is what its card says, and has learnt."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
import transformers

from bertwright.model.batch import flat_batch
from bertwright.model.checkpoint import load_for_training
from bertwright.model.masked_checkpoint import load_masked
from bertwright.model.sources import TINY_FOLDER
from bertwright.model.tokenizer import load_tokenizer

OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BLANKS = [
    ("the film was directed [MASK] a young man from the city .", "by"),
    ("she was born [MASK] 1950 and lived there until her death .", "in"),
    ("this is one [MASK] the worst movies i have ever seen .", "of"),
    ("i would not recommend this [MASK] to anyone .", "movie"),
    ("the united [MASK] of america", "states"),
    ("he went to school and then to the [MASK] of london .", "university"),
]


def test_it_comes_along_whole_in_at_most_ten_megabytes():
    files = [path for path in TINY_FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["bertwright"]
    for path in files:
        assert any(fnmatch(f"model/{TINY_FOLDER.name}/{path.name}", pattern) for pattern in patterns), path


def test_its_card_is_filled_in():
    card = (TINY_FOLDER / "README.md").read_text()
    assert not re.findall(r"\b(?:TABLE|EPOCHS|ACCURACY|LOSS|PERPLEXITY|PRETRAIN_COMMAND)\b", card)


def test_it_is_found_by_its_name_without_a_warning():
    loaded = load_for_training("bertwright-tiny", ("bad", "good"), "first", 128, 0)
    assert loaded.description.startswith("bertwright-tiny")
    assert not loaded.warnings
    assert loaded.model.config.num_hidden_layers == 2
    assert next(loaded.model.parameters()).dtype == torch.float32


def test_it_guesses_hidden_words():
    loaded = load_masked("bertwright-tiny", 64, 0, None, OFF)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_FOLDER)
    right = 0
    for text, word in BLANKS:
        ids = np.array(tokenizer(text)["input_ids"])
        place = int(np.flatnonzero(ids == tokenizer.mask_token_id)[0])
        with torch.no_grad():
            logits = loaded.model.logits(flat_batch(ids, np.array([len(ids)])))
        best = logits[place].topk(5).indices.tolist()
        right += tokenizer.convert_tokens_to_ids(word) in best
    assert right >= 4, f"{right} of {len(BLANKS)} hidden words among the five best guesses"


def test_transformers_reads_it_as_we_do():
    theirs, said = transformers.AutoModelForMaskedLM.from_pretrained(
        TINY_FOLDER, dtype=torch.float32, output_loading_info=True
    )
    assert not said["missing_keys"]
    ids = np.arange(2000, 2030)
    ours = load_masked("bertwright-tiny", 64, 0, None, OFF)
    with torch.no_grad():
        found = ours.model.logits(flat_batch(ids, np.array([30])))
        expected = theirs.eval()(input_ids=torch.from_numpy(ids)[None]).logits[0]
    assert torch.allclose(found, expected, atol=1e-4)


def test_sizes_with_random_weights_have_its_vocabulary():
    random = load_for_training("bert-tiny", ("bad", "good"), "first", 128, 0)
    assert random.tokenizer.sha256 == load_tokenizer(TINY_FOLDER).sha256


def test_its_vocabulary_is_bert_base_uncaseds(real_data):
    words = (real_data / "vocabularies" / "bert-base-uncased" / "vocab.txt").read_text().splitlines()
    vocabulary = json.loads((TINY_FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary == {word: number for number, word in enumerate(words)}
