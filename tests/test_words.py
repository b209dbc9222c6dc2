"""The texts of the product are plain English: the worst patterns of translated prose are refused."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("clipbert_jax", "data_pipelines", "experiments", "benchmarks")
PAGES = ("*.md", "docs/**/*.md", "notebooks/*.ipynb", "Makefile", "setup.cfg")
TEXT_SUFFIXES = {".py", ".js", ".jinja", ".sh", ".sbatch", ".yaml"}

PREPOSITIONS = (
    "about|above|across|after|against|along|among|around|as|at|before|behind|below|beneath|beside|"
    "besides|between|beyond|by|despite|during|except|for|from|in|inside|into|like|near|of|off|on|"
    "onto|out|outside|over|per|since|than|that|through|throughout|to|toward|under|unlike|until|unto|"
    "up|upon|via|where|with|within|without"
)
OPENS_BARE = re.compile(rf"(?:{PREPOSITIONS})\b(?!-)", re.IGNORECASE)
"""A docstring says first what its subject is: "Number of clips", not "Of a clip"."""

GAP = r"(?:\s|#|\")+"
TRANSLATED = re.compile(
    rf"\bis{GAP}none\b|(\b[Tt]here{GAP})?\bis{GAP}no{GAP}(?!longer\b)|\b(?:[Nn]obody|[Ww]hoever|[Ss]omebody)\b(?!')"
)
"""Instead: "is not a ...", "has no ...", and the name of the one who acts. "There is no ..." may stay, and so
may the words of a table of contractions."""


def files() -> list[pathlib.Path]:
    of_packages = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted({path for path in of_packages if path.suffix in TEXT_SUFFIXES} | pages)


def docstrings(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings of a file, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def bare_openings(path: pathlib.Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"
        for line, text in docstrings(path)
        if OPENS_BARE.match(text.strip())
    ]


def translated(path: pathlib.Path) -> list[str]:
    """Return the lines with a refused phrase, also one that a line break divides."""
    text = path.read_text()
    if path.suffix == ".jinja":
        text = re.sub(r"{{.*?}}", "", text)  # `is none` is a test of its language
    lines, found = text.splitlines(), []
    for match in TRANSLATED.finditer(text):
        if not match[1]:
            line = text.count("\n", 0, match.start())
            found.append(f"{path.relative_to(ROOT)}:{line + 1}: {lines[line].strip()}")
    return found


def problems(path: pathlib.Path) -> list[str]:
    return [*(bare_openings(path) if path.suffix == ".py" else ()), *translated(path)]


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_their_subject(package):
    found = [
        line
        for path in files()
        if path.suffix == ".py" and package in path.parts
        for line in bare_openings(path)
    ]
    assert not found, "\n".join(found)


def test_texts_have_no_translated_phrases():
    found = [line for path in files() for line in translated(path)]
    assert not found, "\n".join(found)


if __name__ == "__main__":
    print(*(line for path in files() for line in problems(path)), sep="\n")
