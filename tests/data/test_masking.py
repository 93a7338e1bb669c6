"""Which tokens are masked: the share, the three fates, never special ones, the same whatever the company."""

import numpy as np
import pytest

from bertwright.data.masking import Masking, Vocabulary, epoch_key
from bertwright.errors import CheckpointError
from bertwright.model.tokenizer import Tokenizer, tokenizer_from_vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(900)), *(f"##p{i}" for i in range(95))]
TOKENIZER = tokenizer_from_vocabulary("\n".join(WORDS) + "\n", {}, "test")
VOCABULARY = Vocabulary.of(TOKENIZER, "test")


def sequences(count=200, seed=0, most=129):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, most, count)
    ids = generator.integers(5, len(WORDS), lengths.sum())
    places = np.cumsum(lengths) - lengths
    ids[places], ids[places + lengths - 1] = 2, 3
    return ids, lengths, places


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_share_of_the_tokens_is_masked_and_never_special_ones(whole_words):
    ids, lengths, places = sequences()
    masked = Masking(VOCABULARY, 0.15, whole_words).mask(ids, lengths, places, epoch_key(0, 0))
    assert len(masked.rows) / (ids > 4).sum() == pytest.approx(0.15, abs=0.01)
    assert (masked.targets > 4).all()
    assert np.array_equal(ids[masked.rows], masked.targets)
    untouched = np.ones(len(ids), bool)
    untouched[masked.rows] = False
    assert np.array_equal(masked.token_ids[untouched], ids[untouched])
    assert (np.diff(masked.rows) > 0).all()
    counts = np.diff(masked.starts)
    assert counts.min() >= 1
    assert masked.most == counts.max()
    owners = np.searchsorted(places, masked.rows, side="right") - 1
    assert np.array_equal(np.bincount(owners, minlength=len(lengths)), counts)


def test_without_whole_words_the_number_of_masks_is_exact():
    ids, lengths, places = sequences()
    masked = Masking(VOCABULARY).mask(ids, lengths, places, 7)
    assert np.array_equal(np.diff(masked.starts), np.maximum(1, np.rint((lengths - 2) * 0.15)))


def test_of_the_masked_tokens_80_percent_are_masks_10_random_10_as_they_were():
    ids, lengths, places = sequences(3_000)
    masked = Masking(VOCABULARY).mask(ids, lengths, places, 1)
    new = masked.token_ids[masked.rows]
    assert (new == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (new == masked.targets).mean() == pytest.approx(0.1, abs=0.01)
    random = new[(new != 4) & (new != masked.targets)]
    assert random.min() >= 5
    assert len(np.unique(random)) > 0.8 * 995


def test_masks_depend_on_the_epoch_and_not_on_the_company():
    ids, lengths, places = sequences()
    masking = Masking(VOCABULARY)
    together = masking.mask(ids, lengths, places, epoch_key(0, 1))
    other_epoch = masking.mask(ids, lengths, places, epoch_key(0, 2))
    assert np.isin(other_epoch.rows, together.rows).mean() < 0.3
    some = np.array([150, 3, 77])
    taken = np.concatenate([ids[places[i] : places[i] + lengths[i]] for i in some])
    alone = masking.mask(taken, lengths[some], places[some], epoch_key(0, 1))
    expected = np.concatenate([together.token_ids[places[i] : places[i] + lengths[i]] for i in some])
    assert np.array_equal(alone.token_ids, expected)


def test_whole_words_are_masked_together():
    ids, lengths, places = sequences()
    masked = Masking(VOCABULARY, 0.15, True).mask(ids, lengths, places, 3)
    chosen = np.zeros(len(ids) + 1, bool)
    chosen[masked.rows] = True
    continues = np.append(VOCABULARY.continues[ids], False)
    before_usable = np.append(False, ids > 4)  # a piece behind [CLS] begins a word
    inside = continues & before_usable
    assert np.array_equal(chosen[1:][inside[1:]], chosen[:-1][inside[1:]])


def test_a_sequence_of_special_tokens_has_no_masks():
    masked = Masking(VOCABULARY).mask(np.array([2, 3, 2, 9, 3]), np.array([2, 3]), np.array([0, 2]), 0)
    assert masked.starts.tolist() == [0, 0, 1]
    assert masked.rows.tolist() == [3]


def test_a_tokenizer_without_a_mask_is_refused():
    plain = TOKENIZER.json_text.replace("[MASK]", "[BLANK]")
    with pytest.raises(CheckpointError, match="no \\[MASK\\]"):
        Vocabulary.of(Tokenizer(plain, {}, "test"), "somewhere")
