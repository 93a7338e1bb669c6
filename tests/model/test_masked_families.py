"""The head that guesses masked tokens, of every family that has one: equal to transformers', loaded, learnt, saved."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.model.families import CASES, TEXTS, random_ids, save_tokenizer

import bertwright
from bertwright.errors import CheckpointError
from bertwright.model.batch import flat_batch
from bertwright.model.masked_checkpoint import load_masked

WITH_HEAD = [name for name in CASES if not name.startswith("electra")]
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def saved_by_transformers(case, folder):
    folder.mkdir()
    num_tokens = save_tokenizer(case, folder)
    theirs = case.model(num_tokens, "ForMaskedLM")
    theirs.save_pretrained(folder)
    return theirs, num_tokens


def logits_of(theirs, ids):
    with torch.no_grad():
        return theirs(input_ids=torch.from_numpy(ids)[None]).logits[0]


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_head_is_loaded_learns_and_is_saved_as_the_familys_own(name, tmp_path):
    case = CASES[name]
    theirs, num_tokens = saved_by_transformers(case, tmp_path / "theirs")
    ids = random_ids(num_tokens, np.array([30]))
    loaded = load_masked(str(tmp_path / "theirs"), 32, 0, None, OFF)
    assert any("head for masked tokens is taken along" in note for note in loaded.notes)
    with torch.no_grad():
        found = loaded.model.logits(flat_batch(ids, np.array([30])))
    assert torch.allclose(found, logits_of(theirs, ids), atol=1e-5)

    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS * 20))
    run = bertwright.pretrain(
        tmp_path / "corpus.txt",
        model=str(tmp_path / "theirs"),
        steps=3,
        max_length=32,
        batch_tokens=256,
        dtype="float32",
        validation_share=0.1,
        cache=str(tmp_path / "cache"),
        output=str(tmp_path / "run"),
        quiet=True,
    )
    learnt, said = transformers.AutoModelForMaskedLM.from_pretrained(run.path / "model", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert type(learnt).__name__ == case.class_prefix + "ForMaskedLM"
    again = load_masked(str(run.path), 32, 0, None, OFF)
    with torch.no_grad():
        found = again.model.logits(flat_batch(ids, np.array([30])))
    assert torch.allclose(found, logits_of(learnt.eval(), ids), atol=1e-5)
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "theirs", run.path / "model"))
    moved = [key for key in after if key in before and not torch.equal(before[key], after[key])]
    assert len(moved) > len(after) - 4, "segments of a second text, unused positions and tasks alone may stay"
    dropouts = {key: value for key, value in json.loads((run.path / "model" / "config.json").read_text()).items()
                if "dropout" in key and isinstance(value, float)}  # fmt: skip
    assert set(dropouts.values()) <= {0.1, 0.2}, "what the checkpoint had, not what it learnt with"


def test_a_model_that_never_guessed_masked_tokens_is_refused(tmp_path):
    case = CASES["electra"]
    save_tokenizer(case, tmp_path)
    case.model(200, "Model").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'electra', which was not pretrained by guessing masked tokens"):
        load_masked(str(tmp_path), 32, 0, None, {})
