"""Makes foreign text, such as names of files, safe to print in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text on one line, with escapes such as \n or \x1b for characters that are not printable."""
    return "".join(
        character if character.isprintable() and character != "\\" else _escaped(character)
        for character in text
    )


def printable_lines(text: str) -> str:
    """Return text with escapes; line ends and backslashes stay, because parts may be escaped already."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
