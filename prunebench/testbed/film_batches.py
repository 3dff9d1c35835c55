"""Training batches of clips and pairs: films of one size, with questions packed behind each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunebench.testbed.batches import SceneBatch, WordIds, cells, packed, token_labels
from prunebench.testbed.clip_questions import (
    CLIP_KINDS,
    PAIR_KINDS,
    FilmQuestion,
    ask_clip,
    ask_pair,
)
from prunebench.testbed.clips import CLIP_SIZES, PAIR_SIZES, Clip, Pair, clip, pair
from prunebench.testbed.questions import KINDS, Question

ALL_KINDS = (*KINDS, *CLIP_KINDS, *PAIR_KINDS)
"""Every kind of question that a miniature may be asked."""

MARKS = 2
"""Marks between the pictures of a pair: the end of one, and the start of the next."""


class ClipBatch(SceneBatch):
    """B clips with Q questions each; `pixels` are [B, MOMENTS, height, width, 3], and the N tokens
    those of all moments.
    """


class PairBatch(SceneBatch):
    """B pairs; `pixels` are [B, 2, height, width, 3]. The N places of `evidence` are those of both
    pictures and of the MARKS between them, `labels` are of the tokens alone.
    """


@dataclass(frozen=True)
class FilmBatches:
    """Calling it with a step gives that step's batch, a pure function: clips of one size, or pairs,
    of about `tokens` visual tokens, with so many `questions` behind each by their `shares`.
    """

    seed: int
    tokens: int
    questions: int
    ids: WordIds
    shares: Mapping[str, float]
    are_pairs: bool

    def __call__(self, step: int) -> SceneBatch:
        rng = np.random.default_rng([self.seed, step, 8])
        sizes = PAIR_SIZES if self.are_pairs else CLIP_SIZES
        width, height = sizes[int(rng.integers(len(sizes)))]
        areas = cells(width, height)
        # pictures as they would lie side by side: a box of the strip says in which one it is
        strip = strip_areas(areas, width, pictures=2 if self.are_pairs else 4)
        films: list[Any] = []
        texts: list[list[Question]] = []
        labels, frames = [], []
        marked = _with_marks(strip) if self.are_pairs else strip
        while len(films) < max(1, self.tokens // len(strip)):
            film, questions = self._film(rng, (width, height))
            if len(questions) < self.questions:
                continue
            films.append(film)
            texts.append([_on_strip(question, width) for question in questions])
            labels.append(
                np.concatenate([token_labels(one, areas) for one in film.pictures], axis=1)
            )
            frames.append(film.moments() if isinstance(film, Clip) else film.render())
        kind = PairBatch if self.are_pairs else ClipBatch
        return kind(
            pixels=torch.from_numpy(np.stack(frames)),
            labels=torch.from_numpy(np.stack(labels)),
            **packed(texts, marked, self.ids, ALL_KINDS),
        )

    def _film(
        self, rng: np.random.Generator, size: tuple[int, int]
    ) -> tuple[Clip | Pair, list[FilmQuestion]]:
        """A film, and as many questions as are asked; fewer where it has none."""
        index = int(rng.integers(2**31))
        film: Any = (pair if self.are_pairs else clip)(self.seed, index, size)
        ask: Callable[..., FilmQuestion | None] = ask_pair if self.are_pairs else ask_clip
        shares = dict(self.shares)
        questions: list[FilmQuestion] = []
        while shares and len(questions) < self.questions:
            weights = np.array(list(shares.values()))
            kind = list(shares)[int(rng.choice(len(shares), p=weights / weights.sum()))]
            question = ask(film, kind, rng)
            if question is None:
                del shares[kind]
            else:
                questions.append(question)
        return film, questions


@dataclass(frozen=True)
class Mixed:
    """Calling it with a step gives the batch of one of the parts, which is drawn by its share."""

    seed: int
    parts: Sequence[Callable[[int], SceneBatch]]
    shares: Sequence[float]

    def __call__(self, step: int) -> SceneBatch:
        rng = np.random.default_rng([self.seed, step, 9])
        weights = np.array(self.shares)
        return self.parts[int(rng.choice(len(weights), p=weights / weights.sum()))](step)


def strip_areas(areas: NDArray[np.float64], width: int, pictures: int) -> NDArray[np.float64]:
    """[pictures * N, 4] what the tokens see of pictures that lie side by side, of each of which
    they see `areas` [N, 4].
    """
    return np.concatenate(
        [areas + np.array([width, 0, width, 0]) * number for number in range(pictures)]
    )


def _with_marks(strip: NDArray[np.float64]) -> NDArray[np.float64]:
    """The areas of two pictures, with marks between them that see nothing."""
    first, second = np.split(strip, 2)
    return np.concatenate([first, np.zeros((MARKS, 4)), second])


def _on_strip(question: FilmQuestion, width: int) -> Question:
    """The question with all of its evidence on the strip."""
    boxes = []
    for sightings in question.evidence:
        for picture, (x0, y0, x1, y1) in sightings:
            boxes.append((x0 + picture * width, y0, x1 + picture * width, y1))
    return Question(question.kind, question.text, question.answer, tuple(boxes))
