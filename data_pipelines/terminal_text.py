"""Beside the corridor: how text of strangers, such as the names of files, is shown in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text that breaks no line, column or terminal: what is not printable becomes \n or \x1b."""
    return "".join(
        character if character.isprintable() and character != "\\" else _escaped(character)
        for character in text
    )


def printable_lines(text: str) -> str:
    """Return text that breaks no terminal; lines and backslashes stay, as some of it may be escaped."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
