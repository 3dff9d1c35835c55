"""Judging: a language model's score of a free-form answer, asked behind an OpenAI-compatible
address.

The address, the key and the model are lmms-eval's own environment variables: OPENAI_API_URL (or
OPENAI_BASE_URL), OPENAI_API_KEY and MODEL_VERSION. Only where both a key and a model are named is
anybody asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

PROMPT = """Grade an answer to a question about an image. You do not see the image; take the \
reference for the truth.

Question: {question}
Reference: {reference}
Answer: {answer}

Give 1 where the answer says what the reference says, in whatever words, and does not contradict \
it; 0 where it says something else or nothing; a number between where part of it is right. Reply \
with one line: score: NUMBER"""

SCORE = re.compile(r"score\s*[:=]\s*\**\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
ALONE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*\.?\s*")

SECONDS = 60
RETRIES = 2

KEY, MODEL = "OPENAI_API_KEY", "MODEL_VERSION"
PLACES = ("OPENAI_API_URL", "OPENAI_BASE_URL")


@dataclass(frozen=True)
class Judge:
    """Whom to ask, and where; `url` None is OpenAI's own."""

    model: str
    key: str
    url: str | None


def configured() -> Judge | None:
    """The judge that the environment names, None where it names none."""
    model, key = os.environ.get(MODEL), os.environ.get(KEY)
    if not model or not key:
        return None
    places = [os.environ[name] for name in PLACES if os.environ.get(name)]
    url = places[0].rstrip("/").removesuffix("/chat/completions") if places else None
    return Judge(model, key, url)


def score(question: str, reference: str, answer: str) -> float | None:
    """The judge's score from 0 to 1; None where none is configured, it does not answer, or what it
    says is no score. A sample without a score counts for nobody; it is not wrong.
    """
    judge = configured()
    if judge is None:
        return None
    prompt = PROMPT.format(question=question, reference=reference, answer=answer)
    try:
        reply = _client(judge).chat.completions.create(
            model=judge.model, messages=[{"role": "user", "content": prompt}], temperature=0
        )
        text = reply.choices[0].message.content
    except Exception:  # the network, the server, its limits: whatever it is, there is no score
        return None
    return parsed(text or "")


def parsed(text: str) -> float | None:
    """The number in a judge's reply; None where there is none from 0 to 1."""
    match = SCORE.search(text) or ALONE.fullmatch(text)
    if match is None:
        return None
    number = float(match[1])
    return number if 0 <= number <= 1 else None


@cache
def _client(judge: Judge) -> Any:
    from openai import OpenAI

    return OpenAI(api_key=judge.key, base_url=judge.url, timeout=SECONDS, max_retries=RETRIES)
