"""Masking: the original's result from its own draws, and the statistics of ours."""

from __future__ import annotations

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.masking import Masking, MaskingVocabulary, apply_masking, mask_tokens
from data_pipelines.tokenizer import Tokenizer, build_vocab
from tests.goldens import golden

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = MaskingVocabulary.from_tokens(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(206))]
)


def texts(num_texts: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return ids `[CLS] 96 words [SEP]` and two of padding, and their mask."""
    ids = np.random.default_rng(7).integers(5, 211, size=(num_texts, 100))
    ids[:, 0], ids[:, 97], ids[:, 98:] = CLS, SEP, PAD
    mask = np.ones(ids.shape, bool)
    mask[:, 98:] = False
    return ids, mask


def test_the_reference_from_its_draws():
    case = golden.load_case("08_mlm_masking")
    masked, labels = apply_masking(
        case["in/input_ids"],
        is_selected=case["in/draw_select"].astype(bool),
        is_masked=case["in/draw_mask80"].astype(bool),
        is_random=case["in/draw_random50"].astype(bool),
        random_ids=case["in/draw_random_ids"],
        mask_id=3,
    )
    np.testing.assert_array_equal(masked, case["out/input_ids"])
    reference = case["out/labels"]
    np.testing.assert_array_equal(labels, np.where(reference == -100, -1, reference))
    assert labels.dtype == np.int32


@pytest.mark.parametrize("may_replace_by_special", [False, True])
def test_shares_are_those_of_the_reference_within_sampling_error(may_replace_by_special):
    statistics = golden.manifest()["cases"]["08_mlm_masking.npz"]["meta"]["statistics"]
    ids, mask = texts()
    masking = Masking(may_replace_by_special=may_replace_by_special)
    masked, labels = mask_tokens(ids, mask, VOCABULARY, masking, np.random.default_rng(0))
    is_selected = labels >= 0
    is_ordinary = ids >= 5
    assert is_ordinary.sum() == statistics["n_maskable"]

    def assert_same_share(ours: np.ndarray, reference: float, num_reference: float) -> None:
        error = np.sqrt(reference * (1 - reference) * (1 / len(ours) + 1 / num_reference))
        assert abs(ours.mean() - reference) < 3 * error

    num_selected = statistics["n_maskable"] * statistics["selected_fraction"]
    assert_same_share(is_selected[is_ordinary], statistics["selected_fraction"], statistics["n_maskable"])
    assert_same_share(masked[is_selected] == MASK, statistics["mask_fraction_of_selected"], num_selected)
    assert_same_share(
        masked[is_selected] == ids[is_selected], statistics["unchanged_fraction_of_selected"], num_selected
    )


def test_labels_are_the_original_ids_and_nothing_else_changes():
    ids, mask = texts()
    ids[:, 5], ids[:, 6] = UNK, MASK
    masked, labels = mask_tokens(ids, mask, VOCABULARY, Masking(mask_prob=1.0), np.random.default_rng(0))
    is_selected = labels >= 0
    np.testing.assert_array_equal(is_selected, ids >= 5)  # no special token, everything else
    np.testing.assert_array_equal(labels[is_selected], ids[is_selected])
    np.testing.assert_array_equal(masked[~is_selected], ids[~is_selected])
    assert (labels[~is_selected] == -1).all()
    assert masked.dtype == ids.dtype


def test_what_is_no_text_is_never_selected():
    ids, mask = texts(2)
    mask[0, 50:] = False
    _, labels = mask_tokens(ids, mask, VOCABULARY, Masking(mask_prob=1.0), np.random.default_rng(0))
    assert (labels[0, 50:] == -1).all()


def test_replacements_are_special_only_as_released():
    ids, mask = texts()

    def replacements(*, may_replace_by_special: bool) -> set[int]:
        masking = Masking(
            mask_prob=1.0,
            mask_token_prob=0.0,
            random_token_prob=1.0,
            may_replace_by_special=may_replace_by_special,
        )
        masked, _ = mask_tokens(ids, mask, VOCABULARY, masking, np.random.default_rng(0))
        return set(masked[ids >= 5].tolist())

    assert replacements(may_replace_by_special=False) == set(range(5, 211))
    assert replacements(may_replace_by_special=True) == set(range(211))


def test_the_random_key_decides():
    ids, mask = texts(4)
    first, again, other = (
        mask_tokens(ids, mask, VOCABULARY, Masking(), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first[1] != other[1]).any()


def test_tokens_of_a_tokenizer():
    tokenizer = Tokenizer(build_vocab(["a red circle moves left"]))
    vocabulary = MaskingVocabulary.from_tokens(tokenizer.tokens)
    assert len(vocabulary.is_special) == tokenizer.vocab_size
    ids, mask = tokenizer.encode(["a red circle", "left"], 8)
    masking = Masking(mask_prob=1.0, mask_token_prob=1.0, random_token_prob=0.0)
    masked, labels = mask_tokens(ids, mask, vocabulary, masking, np.random.default_rng(0))
    assert [tokenizer.tokens[i] for i in masked[0]] == ["[CLS]", *["[MASK]"] * 3, "[SEP]", *["[PAD]"] * 3]
    assert [tokenizer.tokens[i] for i in labels[0, 1:4]] == ["a", "red", "circle"]
    assert masked.dtype == ids.dtype == np.int32


def test_a_vocabulary_without_mask_is_refused():
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        MaskingVocabulary.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "word"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"mask_prob": 15.0}, "mask_prob"),
        ({"random_token_prob": -0.1}, "random_token_prob"),
        ({"mask_token_prob": 0.8, "random_token_prob": 0.3}, "mask_token_prob"),
    ],
)
def test_impossible_probabilities_are_refused(options, name):
    with pytest.raises(UserError, match=name):
        Masking(**options)


def test_probabilities_may_add_up_to_one():
    for tenths in range(11):
        Masking(mask_token_prob=tenths / 10, random_token_prob=1 - tenths / 10)
