"""What a text must be before a model can read it, for all commands that take texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipbert_jax.errors import UserError
from data_pipelines.printable import printable

if TYPE_CHECKING:
    from data_pipelines.tokenizer import Tokenizer


def check_utf8(texts: Iterable[str]) -> None:
    """Refuse texts that hold bytes instead of characters: Python makes surrogates of what is not UTF-8.

    Raises:
      UserError: there is one.
    """
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"the text {printable(text)} is not UTF-8: write it in a terminal that is set to UTF-8"
            )


def has_words(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether a model reads anything of a text; of spaces and invisible characters it does not."""
    return len(tokenizer.split(text)) > len(("[CLS]", "[SEP]"))
