"""Match: how near a free-form answer comes to the reference, by rule and without a judge.

Both are lower-cased, without articles and punctuation; number words become digits. The score is the
best of:

- 1 where they are equal;
- for a reference that is or begins with yes or no: whether the answer's first yes or no is that
  one, and nothing else counts where it is the whole reference, or where the two disagree;
- for a reference of up to five words: 1 where its words stand in the answer one behind the other,
  or, where it is a number, that number does;
- the normalised Levenshtein similarity (ANLS, as DocVQA has it) of the whole texts from 0.5 on, and
  of the reference with as many words in a row of the answer from 0.8 on;
- for a longer reference: F1 over its words, without those that bear no meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

SHORT = 5
"""Words of a reference that has to stand in the answer as it is."""

WHOLE, WINDOW = 0.5, 0.8
"""Similarities from which on the letters count: DocVQA's, and a stricter one, for an answer has
many places at which something similar may stand.
"""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(WORDS)}
ARTICLES = frozenset(("a", "an", "the"))
NOTHING = """is are was were be been of in on at to and or with by for from as it its there this
that he she they"""
EMPTY = frozenset(NOTHING.split())
"""Words that a sentence has whatever it says."""

TOKEN = re.compile(r"-?\d+(?:\.\d+)?%?(?![^\W_])|[^\W_]+(?:'[^\W_]+)?")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def lenient(answer: str, reference: str) -> float:
    """How right the answer is, from 0 to 1."""
    answer_words, reference_words = tokens(answer), tokens(reference)
    if answer_words == reference_words:
        return 1.0
    if not answer_words or not reference_words:
        return 0.0
    if reference_words[0] in ("yes", "no"):
        first = next((word for word in answer_words if word in ("yes", "no")), None)
        agrees = first == reference_words[0]
        if len(reference_words) == 1 or (first is not None and not agrees):
            return float(agrees)
    scores = [_similarity(" ".join(answer_words), " ".join(reference_words), WHOLE)]
    if len(reference_words) <= SHORT:
        scores.append(float(_stands_in(reference_words, answer_words)))
        scores.append(_best_window(answer_words, reference_words))
    else:
        scores.append(_overlap(answer_words, reference_words))
    return max(scores)


def tokens(text: str) -> list[str]:
    """The words and numbers that count."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    words = TOKEN.findall(THOUSANDS.sub("", plain))
    return [NUMBERS.get(word, word) for word in words if word not in ARTICLES]


def _stands_in(reference_words: Sequence[str], answer_words: Sequence[str]) -> bool:
    """Whether the words of one stand in the other in a row; of a number, its value."""
    if len(reference_words) == 1 and _number(reference_words[0]) is not None:
        return any(_number(word) == _number(reference_words[0]) for word in answer_words)
    windows = _windows(answer_words, len(reference_words))
    return any(list(window) == list(reference_words) for window in windows)


def _best_window(answer_words: Sequence[str], reference_words: Sequence[str]) -> float:
    """The similarity to the most similar words in a row; numbers are right or wrong."""
    if any(_number(word) is not None for word in reference_words):
        return 0.0
    text = " ".join(reference_words)
    windows = _windows(answer_words, len(reference_words))
    return max((_similarity(" ".join(one), text, WINDOW) for one in windows), default=0.0)


def _windows(words: Sequence[str], size: int) -> list[Sequence[str]]:
    return [words[start : start + size] for start in range(len(words) - size + 1)]


def _number(word: str) -> float | None:
    try:
        return float(word.rstrip("%"))
    except ValueError:
        return None


def _similarity(one: str, other: str, least: float) -> float:
    """1 less the share of letters to change; 0 below `least`."""
    longest = max(len(one), len(other))
    # the lengths alone may say that it is too far
    if longest - min(len(one), len(other)) > (1 - least) * longest:
        return 0.0
    similarity = 1 - _distance(one, other) / longest
    return similarity if similarity >= least else 0.0


def _distance(one: str, other: str) -> int:
    """Levenshtein's."""
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, twin in enumerate(other, 1):
            change = before[column - 1] + (letter != twin)
            now.append(min(now[-1] + 1, before[column] + 1, change))
        before = now
    return before[-1]


def _overlap(answer_words: Sequence[str], reference_words: Sequence[str]) -> float:
    """F1 over the words that bear meaning."""
    left = Counter(word for word in answer_words if word not in EMPTY)
    right = Counter(word for word in reference_words if word not in EMPTY)
    common = sum((left & right).values())
    return 2 * common / (left.total() + right.total()) if common else 0.0
