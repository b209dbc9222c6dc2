"""Answers to clients that do not get what they asked for: a status code and one sentence."""

from __future__ import annotations

import re

_FIELD_OPTIONS = re.compile(r"--(answer|options|texts)\b")
"""Options of commands that are fields of the forms here."""


class RequestRefused(Exception):  # noqa: N818, it is an answer, not a fault of the program
    """Ends a request; the client reads the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence


def as_sentence(error: Exception) -> str:
    """Return an error of a command as a page shows it."""
    said = _FIELD_OPTIONS.sub(r"\1", str(error))
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "?", "!")) else ".")
