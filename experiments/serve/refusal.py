"""What a client is told when it does not get what it asked for: a status code and one sentence."""

from __future__ import annotations


class RequestRefused(Exception):  # noqa: N818, it is an answer, not a fault of the program
    """Ends a request; the sentence is shown, so it holds no path and no trace."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence
