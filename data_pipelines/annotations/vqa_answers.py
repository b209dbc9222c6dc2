"""Scores VQA answers and normalizes their spelling, as the official evaluation does.

`vqa` and the synthetic images use it. Follows
https://github.com/GT-Vision-Lab/VQA (vqaEval.py): punctuation, digits, articles, contractions.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTIONS = """
ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't
mightn't've might've mustn't must've needn't oughtn't shan't she'd've should've shouldn't
shouldn't've that'd that'd've that's there'd there'd've there're there's they'd they'd've they'll
they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all you'd you'd've you'll you're you've
"""
_CONTRACTION_OF = {correct.replace("'", ""): correct for correct in _CONTRACTIONS.split()}


def normalize_answer(answer: str) -> str:
    """Return an answer as the official evaluation compares it: `2` for `Two.`."""
    text = " ".join(answer.split()).lower()
    has_number_comma = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        is_free = f"{mark} " in text or f" {mark}" in text or has_number_comma
        text = text.replace(mark, "" if is_free else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES)
    return " ".join(_CONTRACTION_OF.get(word, word) for word in words)


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
