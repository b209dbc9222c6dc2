"""Reads the vocabulary of a BERT tokenizer and its rules for letters, from the files of Hugging Face.

    vocab.txt               one token a line
    tokenizer_config.json   do_lower_case, strip_accents, tokenize_chinese_chars
    tokenizer.json          all of it; vocab.txt may then be missing

What these files say is obeyed, or refused by name: other ids would mean other words to a trained model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from clipbert_jax.text_files import read_json, read_text, text_lines

VOCAB, CONFIG, WHOLE = "vocab.txt", "tokenizer_config.json", "tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "LayoutLM")
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
_NAMES_OF_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LetterRules:
    """What becomes of the letters of a text before it is divided into tokens."""

    is_lower_case: bool = True
    """Whether letters become lower case."""
    strips_accents: bool | None = None
    """Whether accents are dropped; None does so if letters become lower case."""
    splits_chinese: bool = True
    """Whether each Chinese character is a word of its own."""

    @property
    def fingerprint(self) -> bool | str:
        """A value that differs for other rules; a bool as long as only the case is unusual, as ever."""
        if dataclasses.replace(self, is_lower_case=True) == USUAL_RULES:
            return self.is_lower_case
        return str(self)

    def to_config(self) -> dict[str, Any]:
        """Return the content of a tokenizer_config.json; rules that are the usual ones are left out."""
        config: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": self.is_lower_case}
        if self.strips_accents is not None:
            config["strip_accents"] = self.strips_accents
        if not self.splits_chinese:
            config["tokenize_chinese_chars"] = False
        return config


USUAL_RULES = LetterRules()
"""The rules of bert-base-uncased."""


def read_tokenizer(folder: Path, vocab: Path | None = None) -> tuple[tuple[str, ...], LetterRules]:
    """Return the tokens, whose ids are their places, and the rules for letters.

    Without a file that says so, letters become lower case unless the vocabulary has upper-case words.

    Args:
      folder: folder with the files.
      vocab: the vocabulary, if it has another name than vocab.txt.

    Raises:
      UserError: a file is missing or broken, is not a tokenizer of BERT, or contradicts another one.
    """
    vocab, whole = vocab or folder / VOCAB, folder / WHOLE
    described = _read_whole(whole) if whole.is_file() else None
    if described is not None and not vocab.is_file():
        tokens = described.tokens
        _check_tokens(tokens, whole)
    else:
        tokens = read_tokens(vocab)
        if described is not None and described.tokens != tokens:
            raise UserError(f"{whole} and {vocab} list different tokens: remove the one that does not belong")
    return tokens, _rules(folder / CONFIG, tokens, described)


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens of a vocab.txt; the id of a token is its line.

    Raises:
      UserError: the file is not a vocabulary of BERT.
    """
    tokens = tuple(text_lines(read_text(path)))
    _check_tokens(tokens, path)
    return tokens


def _check_tokens(tokens: tuple[str, ...], path: Path) -> None:
    missing = [token for token in SPECIAL_TOKENS[:4] if token not in tokens]
    if missing:
        raise UserError(f"{path} is not a BERT vocabulary: it lacks {', '.join(missing)}; one token per line")
    if tokens[0] != "[PAD]":
        raise UserError(f"{path} must have [PAD] on its first line, because padding has id 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Described:
    """The content of a tokenizer.json."""

    tokens: tuple[str, ...]
    rules: LetterRules


def _rules(path: Path, tokens: tuple[str, ...], described: _Described | None) -> LetterRules:
    """Return the rules of tokenizer_config.json, completed by tokenizer.json or else by the vocabulary."""
    values = read_json(path, dict) if path.is_file() else {}
    _check_class(path, values)
    _check_special_tokens(path, values)
    _check_added(path, tokens, _added_tokens(path, values))
    has_upper_case = any(token != token.lower() for token in tokens if not token.startswith("["))
    given = {
        field: _flag(path, values, key, may_be_null=field == "strips_accents")
        for field, key in _KEYS.items()
        if key in values
    }
    if described is None:
        return LetterRules(**{"is_lower_case": not has_upper_case, **given})
    for field, key in _KEYS.items():
        # Hugging Face's BertTokenizer takes its usual rule where tokenizer_config.json has none.
        said = given.get(field, getattr(USUAL_RULES, field) if values else getattr(described.rules, field))
        found = getattr(described.rules, field)
        if said != found:
            raise UserError(
                f"{path} and {path.with_name(WHOLE)} contradict each other: `{key}` is {_json(said)} in the "
                f"one and {_json(found)} in the other; correct {path.name}"
            )
    return described.rules


_KEYS = {
    "is_lower_case": "do_lower_case",
    "strips_accents": "strip_accents",
    "splits_chinese": "tokenize_chinese_chars",
}


def _json(value: bool | None) -> str:
    return {True: "true", False: "false", None: "null"}[value]


def _flag(path: Path, values: Mapping[str, Any], key: str, *, may_be_null: bool) -> bool | None:
    value = values[key]
    if not (isinstance(value, bool) or (may_be_null and value is None)):
        allowed = "true, false or null" if may_be_null else "true or false"
        raise UserError(f"{path} must have {key} {allowed}: get it again")
    return value


def _check_class(path: Path, values: Mapping[str, Any]) -> None:
    name = values.get("tokenizer_class")
    if name is None or name in _GENERIC_CLASSES:
        return
    if str(name).removesuffix("Fast").removesuffix("Tokenizer") not in _CLASSES:
        raise UserError(f"{path} is for {name}, not for BERT's WordPiece: give the tokenizer of a BERT")


def _check_special_tokens(path: Path, values: Mapping[str, Any]) -> None:
    for key, expected in _NAMES_OF_SPECIAL_TOKENS.items():
        value = values.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if content not in (None, expected):
            raise UserError(f"{path} calls its {key} {content!r}, where BERT has {expected}: get another one")


def _added_tokens(path: Path, values: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens that tokenizer_config.json adds to the vocabulary, by id."""
    added = values.get("added_tokens_decoder") or {}
    try:
        return {int(number): str(token["content"]) for number, token in added.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a broken `added_tokens_decoder` ({error}): get it again") from error


def _check_added(path: Path, tokens: tuple[str, ...], added: Mapping[int, str]) -> None:
    """Refuse tokens that are found in a text before it is divided into words, but for BERT's own."""
    for number, token in added.items():
        if token not in SPECIAL_TOKENS:
            raise UserError(f"{path} adds the token {token!r}, which BERT lacks: remove it there")
        if tokens[number : number + 1] != (token,):
            raise UserError(f"{path} gives {token} the id {number}, where the vocabulary has another token")


def _read_whole(path: Path) -> _Described:
    """Read a tokenizer.json.

    Raises:
      UserError: it is broken, or not a tokenizer of BERT.
    """
    values = read_json(path, dict)
    model, normalizer = values.get("model") or {}, values.get("normalizer") or {}
    splitter = values.get("pre_tokenizer") or {}
    expected = [
        ("model", model, "type", "WordPiece"),
        ("model", model, "unk_token", "[UNK]"),
        ("model", model, "continuing_subword_prefix", "##"),
        ("model", model, "max_input_chars_per_word", 100),
        ("normalizer", normalizer, "type", "BertNormalizer"),
        ("normalizer", normalizer, "clean_text", True),
        ("pre_tokenizer", splitter, "type", "BertPreTokenizer"),
    ]
    for part, fields, key, value in expected:
        found = fields.get(key) if isinstance(fields, dict) else fields
        if found != value:
            raise UserError(f"{path} has {part}.{key} {found!r}, where BERT has {value!r}: give a BERT's")
    tokens = _tokens_by_id(path, model.get("vocab"))
    try:
        added = {int(token["id"]): str(token["content"]) for token in values.get("added_tokens") or ()}
        rules = LetterRules(
            is_lower_case=bool(normalizer["lowercase"]),
            strips_accents=normalizer.get("strip_accents"),
            splits_chinese=bool(normalizer.get("handle_chinese_chars", True)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is broken ({error}): get it again") from error
    _check_added(path, tokens, added)
    return _Described(tokens=tokens, rules=rules)


def _tokens_by_id(path: Path, vocab: Any) -> tuple[str, ...]:
    if not isinstance(vocab, dict) or sorted(map(str, vocab.values())) != sorted(map(str, range(len(vocab)))):
        raise UserError(f"{path} has a vocabulary whose ids are not 0, 1, 2, ...: get it again")
    return tuple(sorted(vocab, key=vocab.__getitem__))
