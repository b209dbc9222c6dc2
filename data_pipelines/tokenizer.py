"""Turns texts into token ids by BERT's WordPiece; training, prediction, search and probes call it.

It uses only the small `tokenizers` package, so that worker processes start quickly. The ids equal those of
`transformers.BertTokenizerFast`.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import models, normalizers, pre_tokenizers, processors

from clipbert_jax.errors import UserError
from clipbert_jax.tokenizer_files import (
    SPECIAL_TOKENS,
    USUAL_RULES,
    VOCAB,
    WHOLE,
    LetterRules,
    read_tokenizer,
)

_TEXTS_AT_ONCE = 10_000
"""Number of texts whose tokens are in memory together when lengths are counted."""
_LETTERS_AND_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Tokenizer:
    """Turns texts into ids; the id of a token is its line in vocab.txt."""

    def __init__(self, tokens: Sequence[str], letter_rules: LetterRules = USUAL_RULES):
        self.tokens = tuple(tokens)
        self.letter_rules = letter_rules
        vocab = {token: index for index, token in enumerate(self.tokens)}
        self._model = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        self._model.normalizer = normalizers.BertNormalizer(
            lowercase=letter_rules.is_lower_case,
            strip_accents=letter_rules.strips_accents,
            handle_chinese_chars=letter_rules.splits_chinese,
        )
        self._model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        ends = ("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"])
        self._model.post_processor = processors.BertProcessing(*ends)
        self._model.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocab])

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.tokens)

    def encode(
        self, texts: Sequence[str], max_length: int, *, num_rows: int | None = None
    ) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids `[CLS] ... [SEP]` padded with 0 to `max_length`, and a mask that is True at tokens.

        Longer texts lose their end but keep [SEP]. With `num_rows`, empty rows follow up to that number.
        """
        shape = (len(texts) if num_rows is None else num_rows, max_length)
        ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for row, text in enumerate(texts):
            tokens = self._model.encode(text).ids
            if len(tokens) > max_length:
                tokens = tokens[: max_length - 1] + tokens[-1:]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def note_on_length(self, texts: Iterable[str], max_length: int) -> str | None:
        """Return a sentence about texts that lose their end; None if all fit."""
        lengths: list[int] = []
        remaining = iter(texts)
        while some := list(itertools.islice(remaining, _TEXTS_AT_ONCE)):
            lengths += [len(encoding.ids) for encoding in self._model.encode_batch(some)]
        num_cut = sum(length > max_length for length in lengths)
        if not num_cut:
            return None
        return (
            f"{num_cut:,} of {len(lengths):,} texts have more than --data.max-text-length {max_length} "
            f"tokens and lose their end; the longest has {max(lengths):,}"
        )

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """Return the words, each once, that the vocabulary can spell only letter by letter or not at all."""
        unknown: dict[str, None] = {}
        for text in texts:
            encoding = self._model.encode(text)
            for word, tokens in itertools.groupby(
                zip(encoding.word_ids, encoding.tokens, strict=True), key=lambda pair: pair[0]
            ):
                pieces = [token.removeprefix("##") for _, token in tokens]
                is_spelt = len(pieces) > 1 and all(len(piece) == 1 for piece in pieces)
                span = encoding.word_to_chars(word) if word is not None else None  # None: [CLS] and [SEP]
                if span and (is_spelt or pieces == ["[UNK]"]):
                    unknown[text[slice(*span)]] = None
        return list(unknown)

    def words(self, text: str, max_length: int) -> list[tuple[str, tuple[int, ...]]]:
        """Return each word of a text as written, with the positions of its tokens in the ids of `encode`.

        [CLS] and [SEP] count as words. A word whose tokens are all cut off is left out.
        """
        encoding = self._model.encode(text)
        kept = len(encoding.ids)
        if kept > max_length:
            kept = max_length - 1
        places: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids[:kept]):
            if word is not None:  # None: [CLS] and [SEP]
                places.setdefault(word, []).append(place)
        written = [
            (text[slice(*(encoding.word_to_chars(word) or (0, 0)))], tuple(at)) for word, at in places.items()
        ]
        last = min(len(encoding.ids), max_length) - 1
        return [("[CLS]", (0,)), *written, ("[SEP]", (last,))]

    def save(self, folder: Path) -> None:
        """Write vocab.txt and tokenizer_config.json, from which `load_tokenizer` restores this tokenizer."""
        write_vocab(folder / "vocab.txt", self.tokens)
        config = json.dumps(self.letter_rules.to_config())
        (folder / "tokenizer_config.json").write_text(f"{config}\n", encoding="utf-8")

    def split(self, text: str) -> list[str]:
        """Return the tokens of a text, [CLS] and [SEP] included: labels for attention maps."""
        return self._model.encode(text).tokens


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a WordPiece vocabulary.

    Args:
      path: a vocab.txt, or a Hugging Face tokenizer folder: vocab.txt, tokenizer.json or both. Rules for
        letters are those of tokenizer_config.json and tokenizer.json beside it; without these, letters
        become lower case unless the vocabulary has upper-case words.

    Raises:
      UserError: the file does not exist, is broken or is not a tokenizer of BERT, or files contradict each
        other.
    """
    path = Path(path)
    folder, vocab = (path, path / VOCAB) if path.is_dir() else (path.parent, path)
    if not vocab.is_file() and not (path.is_dir() and (path / WHOLE).is_file()):
        raise UserError(f"no vocabulary at {vocab}; give a vocab.txt or a folder that contains one")
    return Tokenizer(*read_tokenizer(folder, vocab))


def build_vocab(texts: Iterable[str], *, max_size: int = 30_000) -> list[str]:
    """Return a WordPiece vocabulary that can spell every given text, and any English one.

    It holds special tokens, then single characters (alone and as `##` continuations), then whole words, the
    most frequent first. It has no merges: it is deterministic, and enough for a small corpus.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = collections.Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    characters = sorted({c for word in counts for c in word} | set(_LETTERS_AND_DIGITS))
    pieces = [*SPECIAL_TOKENS, *characters]
    pieces += [f"##{c}" for c in characters if c.isalnum()]
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    return [*pieces, *words[: max(0, max_size - len(pieces))]]


def write_vocab(path: Path, tokens: Iterable[str]) -> None:
    """Write vocab.txt, one token per line."""
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
