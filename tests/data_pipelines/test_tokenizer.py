from __future__ import annotations

import json
from pathlib import Path

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


NASTY = [
    "möchte Müsste 東京 ab [MASK] e\u0301 E\u0301cole \u1e9e\u00df \u0130I\u0131i",
    "\u00a0\u2028a\u200db\ufeff \ud55c\uad6d\uc5b4 ﬁ Ⅷ ½ \U0001f600\U0001f1e9\U0001f1ea \u0000x\x07y\ufffdz",
    "[CLS][SEP] [UNK]x[PAD] #@!?...--__ don't ##b \t\r\n a\nb ǅ ŉ \u0345 \u3400\U00020000々\u3007",
    "x" * 101 + " " + "a" * 100,
]


def nasty_strings(number: int) -> list[str]:
    """Return texts of characters from everywhere in Unicode, and of pieces of the vocabulary."""
    rng = np.random.default_rng(0)
    ranges = [
        (0, 0x80), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600), (0x1E00, 0x2100), (0x3000, 0x30FF),
        (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFFFF), (0x1F300, 0x1F700),
    ]  # fmt: skip
    pieces = [*"abx [#]", "möchte", "Mochte", "東京", "[MASK]", " ", "  "]
    texts = []
    for _ in range(number):
        text = ""
        for _ in range(rng.integers(1, 12)):
            low, high = ranges[rng.integers(len(ranges))]
            text += chr(rng.integers(low, high)) if rng.random() < 0.5 else pieces[rng.integers(len(pieces))]
        texts.append(text)
    return texts


WORDS = [*SPECIAL_TOKENS, "mochte", "möchte", "Möchte", "Mochte", "musste", "müsste", "東", "京", "東京", "a",
         "##b", "ab", "x", "##x", "[", "]", "#", "e", "E", "##e", "i", "##i"]  # fmt: skip
CONFIGS = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "strip_accents": None},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False},
]


def tokenizer_folder(folder: Path, config: dict, words: list[str] = WORDS) -> Path:
    write_vocab(folder / "vocab.txt", words)
    config = {"tokenizer_class": "BertTokenizer", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("files", ["vocab.txt", "tokenizer.json", "both"])
def test_tokens_equal_those_of_the_same_folder_in_transformers(config, files, tmp_path):
    from transformers import BertTokenizerFast

    words = WORDS if config else [word.lower() if word[0] != "[" else word for word in dict.fromkeys(WORDS)]
    words = list(dict.fromkeys(words))
    reference = BertTokenizerFast.from_pretrained(tokenizer_folder(tmp_path, config, words))
    if files != "vocab.txt":
        (tmp_path / "tokenizer.json").write_text(reference.backend_tokenizer.to_str(), encoding="utf-8")
    if files == "tokenizer.json":
        (tmp_path / "vocab.txt").unlink()
    texts = [*NASTY, *nasty_strings(2000)]
    ours = load_tokenizer(tmp_path)
    assert [ours.split(text) for text in texts] == [
        reference.convert_ids_to_tokens(ids) for ids in reference(texts)["input_ids"]
    ]
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.tokens, again.letter_rules) == (ours.tokens, ours.letter_rules)


def test_a_tokenizer_json_alone_has_its_own_rules(tmp_path):
    from transformers import BertTokenizerFast

    folder = tokenizer_folder(tmp_path, {"do_lower_case": False, "strip_accents": True})
    text = BertTokenizerFast.from_pretrained(folder).backend_tokenizer.to_str()
    for path in folder.iterdir():
        path.unlink()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    assert load_tokenizer(folder).split("Möchte") == ["[CLS]", "Mochte", "[SEP]"]


def changed(part: str, key: str, value: object):
    def change(values: dict) -> None:
        values[part][key] = value

    return change


def with_other_words(values: dict) -> None:
    vocab = values["model"]["vocab"]
    vocab["x"], vocab["ab"] = vocab["ab"], vocab["x"]


def with_added_token(values: dict) -> None:
    values["added_tokens"].append({**values["added_tokens"][0], "id": 99, "content": "<video>"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("normalizer", "lowercase", False), "contradict each other: `do_lower_case` is true"),
        (changed("normalizer", "handle_chinese_chars", False), "contradict each other: `tokenize_chinese"),
        (changed("normalizer", "type", "Lowercase"), "normalizer.type 'Lowercase', where BERT has"),
        (changed("model", "type", "BPE"), "model.type 'BPE', where BERT has 'WordPiece'"),
        (changed("model", "continuing_subword_prefix", "@@"), "model.continuing_subword_prefix '@@'"),
        (changed("model", "max_input_chars_per_word", 7), "model.max_input_chars_per_word 7"),
        (changed("pre_tokenizer", "type", "Whitespace"), "pre_tokenizer.type 'Whitespace'"),
        (changed("model", "vocab", {"[PAD]": 0, "a": 2}), "ids are not 0, 1, 2"),
        (with_other_words, "list different tokens"),
        (with_added_token, "adds the token '<video>', which BERT lacks"),
    ],
)  # fmt: skip
def test_what_a_tokenizer_json_says_otherwise_is_refused_by_name(change, message, tmp_path):
    from transformers import BertTokenizerFast

    folder = tokenizer_folder(tmp_path, {"do_lower_case": True})
    values = json.loads(BertTokenizerFast.from_pretrained(folder).backend_tokenizer.to_str())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"tokenizer_class": "RobertaTokenizerFast"},
            "is for RobertaTokenizerFast, not for BERT",
        ),
        ({"strip_accents": "no"}, "strip_accents true, false or null"),
        ({"tokenize_chinese_chars": 1}, "tokenize_chinese_chars true or false"),
        ({"unk_token": "<unk>"}, "calls its unk_token '<unk>'"),
        ({"cls_token": {"content": "<s>"}}, "calls its cls_token '<s>'"),
        ({"added_tokens_decoder": {"5": {"content": "mochte"}}}, "adds the token 'mochte'"),
        ({"added_tokens_decoder": {"7": {"content": "[MASK]"}}}, r"gives \[MASK\] the id 7"),
        ({"added_tokens_decoder": ["a"]}, "broken `added_tokens_decoder`"),
    ],
)
def test_what_a_tokenizer_config_says_otherwise_is_refused_by_name(config, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_tokenizer(tokenizer_folder(tmp_path, config))
