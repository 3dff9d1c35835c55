"""Training batches: scenes of one resolution, what every visual token shows, and questions packed
behind each image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.learning.schedule import stage_of
from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.questions import END, KINDS, Question, ask
from prunebench.testbed.scenes import (
    COLOURS,
    DIGITS,
    FINE_SIZE,
    RESOLUTIONS,
    SMALLEST,
    TOKEN_PIXELS,
    Box,
    Scene,
    fine_scene,
    scene,
)

SIDE_STEPS = (SMALLEST, 40, 48, 56, 66, 78, 90)
"""Sides from which on an object counts as so large."""

LABELS = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "tens": len(DIGITS) + 1,
    "ones": len(DIGITS) + 1,
    "side": len(SIDE_STEPS) + 1,
    "centre": 2,
}
"""What a token is labelled with, and the number of classes; class 0 is "nothing"."""
NO_TARGET = -100

Boxes = Callable[[int, int], NDArray[np.float64]]
"""What each visual token of an image of (width, height) sees, [N, 4]."""


@dataclass(frozen=True)
class Batch:
    """A batch whose fields are tensors."""

    def to(self, device: str) -> Self:
        """The batch on a device, without waiting for it."""
        return replace(
            self,
            **{
                part.name: getattr(self, part.name).to(device, non_blocking=True)
                for part in fields(self)
            },
        )

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU reads by itself."""
        return replace(
            self, **{part.name: getattr(self, part.name).pin_memory() for part in fields(self)}
        )


@dataclass(frozen=True)
class SceneBatch(Batch):
    """B scenes with Q questions each, all of one size, in N visual tokens in reading order.

    The questions of a scene stand behind one another in T words, each with its answer.
    """

    pixels: Tensor  # [B, height, width, 3] uint8
    labels: Tensor  # [B, len(LABELS), N] class of every token
    words: Tensor  # [B, T] ids, padded
    owner: Tensor  # [B, T] number of the question that a word belongs to; Q for padding
    order: Tensor  # [B, T] place of a word in its question, from 0
    targets: Tensor  # [B, T] the id to predict from each place, NO_TARGET where none
    # [B, Q, 2] places of the words that foretell the first and the last word of the answer
    ends: Tensor
    evidence: Tensor  # [B, Q, N] tokens the answer lies in; all False without an evidence box
    kinds: Tensor  # [B, Q] index into the kinds that the batch counts, KINDS for scenes alone


@dataclass(frozen=True)
class WordIds:
    """How a tokenizer numbers words; `pad` fills up."""

    numbers: Mapping[str, int]
    pad: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [self.numbers[word] for word in text.replace(END, f" {END} ").split()]


@dataclass(frozen=True)
class SceneBatches:
    """Calling it with a step gives that step's batch, a pure function: about `tokens` visual tokens
    of scenes of one resolution.

    Every step sees fresh scenes with so many `questions` behind each image. `shares` says how often
    a kind of question comes beside the others; of `fine` of the steps the scenes are fine ones, and
    of `odd` of the scenes one object is the odd one. `kinds` are those that a batch counts.
    """

    seed: int
    boxes: Boxes
    tokens: int
    questions: int
    ids: WordIds
    shares: Mapping[str, float]
    fine: float = 0.0
    odd: float | None = None
    kinds: tuple[str, ...] = KINDS

    def __call__(self, step: int) -> SceneBatch:
        rng = np.random.default_rng([self.seed, step, 3])

        def scenes_of_size(size: tuple[int, int]) -> int:
            return max(1, self.tokens // len(self.boxes(*size)))

        scenes = draw(self.seed, rng, scenes_of_size, self.fine, odd=self.odd)
        areas = self.boxes(scenes[0].width, scenes[0].height)
        questions = [self._questions(about, rng) for about in scenes]
        labels = [token_labels(about, areas) for about in scenes]
        return SceneBatch(
            pixels=torch.from_numpy(np.stack([about.render() for about in scenes])),
            labels=torch.from_numpy(np.stack(labels)),
            **packed(questions, areas, self.ids, self.kinds),
        )

    def _questions(self, about: Scene, rng: np.random.Generator) -> list[Question]:
        """So many questions as the scene has, kinds by their shares."""
        kinds, shares = list(self.shares), np.array(list(self.shares.values()))
        edges = np.cumsum(shares / shares.sum())
        questions: list[Question] = []
        lacking = set()
        while len(questions) < self.questions:
            place = int(np.searchsorted(edges, rng.random(), side="right"))
            kind = kinds[min(place, len(kinds) - 1)]
            question = None if kind in lacking else ask(about, kind, rng)
            if question is not None:
                questions.append(question)
                continue
            lacking.add(kind)
            if len(lacking) == len(kinds):  # nothing that is asked for: something that all have
                kinds, edges = ["count"], np.ones(1)
                lacking = set()
        return questions


@dataclass(frozen=True)
class Staged:
    """Calling it with a step gives the batch of the stage that the step belongs to."""

    stages: tuple[int, ...]  # steps of each
    parts: tuple[Callable[[int], Any], ...]

    def __call__(self, step: int) -> Any:
        return self.parts[stage_of(step, self.stages)](step)


def packed(
    questions: list[list[Question]],
    areas: NDArray[np.float64],
    ids: WordIds,
    names: Sequence[str] = KINDS,
) -> dict[str, Tensor]:
    """The parts of a SceneBatch that are of its questions, scene by scene; `areas` [N, 4] are what
    its tokens see, `names` the kinds that it counts.
    """
    count = len(questions[0])
    texts = []
    for scene_questions in questions:
        texts.append([_text(question, ids) for question in scene_questions])
    length = max(_length(row) for row in texts)
    length += -length % 8  # kernels like such lengths best
    shape = len(questions), length
    words, order = np.full(shape, ids.pad), np.zeros(shape, np.int64)
    owner, targets = np.full(shape, count), np.full(shape, NO_TARGET)
    ends = np.zeros((len(questions), count, 2), np.int64)
    evidence = np.zeros((len(questions), count, len(areas)), bool)
    kinds = np.zeros((len(questions), count), np.int64)
    for row, scene_questions in enumerate(questions):
        first = 0
        tokens_of: dict[Box, NDArray[np.bool_]] = {}
        for number, question in enumerate(scene_questions):
            text, answer = texts[row][number]
            last = first + len(text)
            words[row, first:last] = text
            owner[row, first:last] = number
            order[row, first:last] = np.arange(len(text))
            # the last word of the question foretells the answer, the answer its end
            start = last - answer - 1
            targets[row, start : last - 1] = words[row, start + 1 : last]
            targets[row, last - 1] = ids.numbers[END]
            ends[row, number] = start, last - 2
            kinds[row, number] = names.index(question.kind)
            for box in question.evidence:
                if box not in tokens_of:
                    tokens_of[box] = box_tokens(box, areas)
                evidence[row, number] |= tokens_of[box]
            first = last
    parts = {"words": words, "owner": owner, "order": order, "targets": targets, "ends": ends}
    parts |= {"evidence": evidence, "kinds": kinds}
    return {name: torch.from_numpy(values) for name, values in parts.items()}


def _text(question: Question, ids: WordIds) -> tuple[list[int], int]:
    """The ids of a question with its answer, and the number of words of the answer."""
    answer = ids.encode(question.answer)
    return [*ids.encode(question.prompt), *answer], len(answer)


def _length(texts: list[tuple[list[int], int]]) -> int:
    """The words of a scene's questions with their answers."""
    return sum(len(text) for text, _ in texts)


def draw(
    seed: int,
    rng: np.random.Generator,
    count: Callable[[tuple[int, int]], int],
    fine: float = 0.0,
    sizes: tuple[tuple[int, int], ...] = tuple(RESOLUTIONS),
    objects: int | None = None,
    odd: float | None = None,
) -> list[Scene]:
    """Scenes of one of the sizes, which is drawn; `count` says how many of a size, `fine` how often
    they are fine ones, `objects` how many lie in each, `odd` how many have an odd one.
    """
    if rng.random() < fine:
        numbers = rng.integers(2**31, size=count(FINE_SIZE))
        return [fine_scene(seed, int(index)) for index in numbers]
    shares = np.array([RESOLUTIONS[size] for size in sizes])
    size = sizes[rng.choice(len(sizes), p=shares / shares.sum())]
    numbers = rng.integers(2**31, size=count(size))
    scenes = []
    for index in numbers.tolist():
        is_odd = None if odd is None else bool(rng.random() < odd)
        scenes.append(scene(seed, index, size=size, count=objects, odd=is_odd))
    return scenes


def cells(width: int, height: int) -> NDArray[np.float64]:
    """[N, 4] the squares of TOKEN_PIXELS that cover an image, in reading order: what the tokens of
    Qwen2.5-VL see.
    """
    side = TOKEN_PIXELS
    # rows vary slowest, which is reading order
    y, x = np.mgrid[0:height:side, 0:width:side].reshape(2, -1).astype(float)
    return np.stack([x, y, x + side, y + side], axis=-1)


def token_labels(about: Scene, boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """[len(LABELS), N] what each token shows that sees the box [N, 4]: the object that covers a
    fifth of it, and whether a centre lies there.
    """
    labels = np.zeros((len(LABELS), len(boxes)), np.int64)
    if not about.objects:
        return labels
    share = np.stack([coverage(thing.box, boxes) for thing in about.objects])
    owner = np.where(share.max(0) >= 0.2, share.argmax(0), -1)
    for number, thing in enumerate(about.objects):
        # 0 where there is no such digit
        tens, ones = (" 0123456789".index(digit) for digit in (thing.number or "").rjust(2))
        side = int(np.searchsorted(SIDE_STEPS, thing.side, side="right"))
        looks = COLOURS.index(thing.colour) + 1, SHAPES.index(thing.shape) + 1, tens, ones, side
        labels[:5, owner == number] = np.array(looks)[:, None]
        labels[5, holds(boxes, *thing.centre)] = 1
    return labels


def box_tokens(box: Box, boxes: NDArray[np.float64], share: float = 0.2) -> NDArray[np.bool_]:
    """[N] tokens of whose boxes [N, 4] the box covers at least `share`."""
    return coverage(box, boxes) >= share


def coverage(box: Box, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] share of each of the boxes [N, 4] that `box` covers; 0 for one without area."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clip(0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    nothing = np.zeros(len(boxes))
    share: NDArray[np.float64] = np.divide(common, area, out=nothing, where=area > 0)
    return share


def holds(boxes: NDArray[np.float64], x: float, y: float) -> NDArray[np.bool_]:
    """[N] boxes [N, 4] in which the point lies."""
    left, top, right, bottom = boxes.T
    inside: NDArray[np.bool_] = (left <= x) & (x < right) & (top <= y) & (y < bottom)
    return inside
