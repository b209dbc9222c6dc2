"""Scores VQA answers and normalizes their spelling, as the official evaluation does.

`vqa` and the synthetic images use it. Follows
https://github.com/GT-Vision-Lab/VQA (vqaEval.py): punctuation, digits, articles, contractions.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_MOST_PERIODS = 32
"""The official evaluation passes `re.UNICODE`, which is 32, in the place of the number of replacements."""
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""
"""Those of the official table but for the ones with a capital I, which it never meets: it looks up words in
lower case."""


def _without_one_apostrophe(word: str) -> list[str]:
    """Return a word with each of its apostrophes left out alone: `he'd've` may be `hed've` or `he'dve`."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


_CONTRACTION_OF = {
    spelling: word for word in _CONTRACTIONS.split() for spelling in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}  # the wrong way round there


def normalize_answer(answer: str) -> str:
    """Return an answer as the official evaluation compares it: `2` for `Two.`."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number_comma = re.search(r"\d,\d", answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        is_free = f"{mark} " in answer or f" {mark}" in answer or has_number_comma
        text = text.replace(mark, "" if is_free else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=_MOST_PERIODS)
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTION_OF.get(word, word) for word in words if word not in _ARTICLES)


def score_answers(answers: Iterable[str]) -> dict[str, float]:
    """Return the score of each answer that ten people gave.

    Leaving out one person, an answer scores min(1, c / 3) if c of the other nine gave it. The score is the
    mean over the ten people. An answer of one person scores 0.3, of two 0.6, of three 0.9, of four or more 1.
    """
    counts = collections.Counter(map(normalize_answer, answers))
    total = counts.total()
    return {answer: _score(count, total) for answer, count in counts.items()}


def _score(count: int, total: int) -> float:
    others = count * min(1.0, (count - 1) / 3) + (total - count) * min(1.0, count / 3)
    return round(others / total, 4)
