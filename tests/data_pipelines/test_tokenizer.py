from __future__ import annotations

import json

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.tokenizer import SPECIAL_TOKENS, build_vocab, load_tokenizer, write_vocab

TEXTS = ["A ball, a Star and a leaf", "two bälls!", "a star", ""]


@pytest.fixture
def vocab_path(tmp_path):
    write_vocab(tmp_path / "vocab.txt", build_vocab(TEXTS))
    return tmp_path / "vocab.txt"


def test_ids_are_lines_of_the_vocabulary(vocab_path):
    tokens = vocab_path.read_text().splitlines()
    ids, mask = load_tokenizer(vocab_path).encode(["a star"], 6)
    assert [tokens[i] for i in ids[0]] == ["[CLS]", "a", "star", "[SEP]", "[PAD]", "[PAD]"]
    assert mask.tolist() == [[True] * 4 + [False] * 2]
    assert ids.dtype == np.int32
    assert tuple(tokens[:5]) == SPECIAL_TOKENS


def test_long_texts_keep_their_separator(vocab_path):
    tokens = vocab_path.read_text().splitlines()
    ids, mask = load_tokenizer(vocab_path).encode([TEXTS[0]], 4)
    assert [tokens[i] for i in ids[0]] == ["[CLS]", "a", "ball", "[SEP]"]
    assert mask.all()


def test_missing_texts_are_empty_rows(vocab_path):
    tokenizer = load_tokenizer(vocab_path)
    ids, mask = tokenizer.encode(["a star"], 6, num_rows=3)
    alone, _ = tokenizer.encode(["a star"], 6)
    np.testing.assert_array_equal(ids, [*alone, [0] * 6, [0] * 6])
    assert mask.any(-1).tolist() == [True, False, False]


def test_texts_that_lose_their_end_are_counted(vocab_path):
    tokenizer = load_tokenizer(vocab_path)
    texts = ["a star", "a ball a star", "a " * 2000]  # with [CLS] and [SEP] 4, 6 and 2,002 tokens
    said = tokenizer.note_on_length(texts, 6)
    assert said.startswith("1 of 3 texts have more than --data.max-text-length 6 tokens and lose their end")
    assert said.endswith("the longest has 2,002")
    assert tokenizer.note_on_length(texts, 5).startswith("2 of 3 texts")
    assert tokenizer.note_on_length(texts[:2], 6) is None
    assert tokenizer.note_on_length([], 6) is None


def test_words_that_can_only_be_spelt_are_unknown(vocab_path):
    tokenizer = load_tokenizer(vocab_path)
    assert tokenizer.unknown_words(["a Giraffe, a star", "a giraffe and 学 x"]) == [
        "Giraffe",
        "giraffe",
        "学",
    ]
    assert tokenizer.unknown_words(TEXTS) == []


def test_ids_equal_those_of_transformers(vocab_path):
    from transformers import BertTokenizerFast

    reference = BertTokenizerFast(vocab=str(vocab_path))
    texts = [*TEXTS, "unheard words", "naïve, café-star's 42", "中 文 [MASK] ball"]
    expected = reference(texts, padding="max_length", truncation=True, max_length=12, return_tensors="np")
    ids, mask = load_tokenizer(vocab_path).encode(texts, 12)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"].astype(bool))


def test_the_vocabulary_spells_any_english_word(vocab_path):
    tokenizer = load_tokenizer(vocab_path)
    assert tokenizer.split("zebra 7") == ["[CLS]", "z", "##e", "##b", "##r", "##a", "7", "[SEP]"]
    assert "[UNK]" not in tokenizer.split(" ".join(TEXTS))


def test_the_vocabulary_keeps_the_most_frequent_words():
    texts = ["seldom often often", "often sometimes sometimes"]
    everything = build_vocab(texts)
    assert everything[-3:] == ["often", "sometimes", "seldom"]
    assert build_vocab(texts, max_size=len(everything) - 1) == everything[:-1]
    assert build_vocab(reversed(texts)) == everything


def test_case_is_kept_where_the_tokenizer_says_so(vocab_path):
    config = vocab_path.parent / "tokenizer_config.json"
    config.write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(vocab_path.parent).split("Star")[1] == "[UNK]"
    config.unlink()
    assert load_tokenizer(vocab_path.parent).split("Star")[1] == "star"
    with vocab_path.open("a") as file:
        file.write("Star\n")
    assert load_tokenizer(vocab_path).split("Star")[1] == "Star"


def test_bad_vocabularies_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary at .*nowhere; give a vocab.txt"):
        load_tokenizer(tmp_path / "nowhere")
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nhello\n")
    with pytest.raises(UserError, match=r"vocab.txt is not a BERT vocabulary: it lacks \[CLS\], \[SEP\]"):
        load_tokenizer(tmp_path)
    path.write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n")
    with pytest.raises(UserError, match=r"must have \[PAD\] on its first line"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer_config.json", b"{", "tokenizer_config.json is not valid JSON"),
        ("tokenizer_config.json", b"[" * 200_000, "tokenizer_config.json is not valid JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json holds a list"),
        (
            "tokenizer_config.json",
            b'{"do_lower_case": "false"}',
            "do_lower_case",
        ),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\n", "vocab.txt is not UTF-8"),
    ],
)
def test_damaged_files_are_named(vocab_path, name, content, sentence):
    (vocab_path.parent / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(vocab_path)
