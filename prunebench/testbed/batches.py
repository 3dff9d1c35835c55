"""Training batches: scenes of one resolution, what every visual token shows, and questions packed
behind each image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.scenes import (
    COLOURS,
    DIGITS,
    FINE_SIZE,
    KINDS,
    RESOLUTIONS,
    TOKEN_PIXELS,
    Box,
    Question,
    Scene,
    ask,
    fine_scene,
    scene,
)

LABELS = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "digit": len(DIGITS) + 1,
    "centre": 2,
}
"""What a token is labelled with, and the number of classes; class 0 is "nothing"."""
WORDS = 5  # the longest question with its answer: "digit on red square 7"
MIX = ("count", "exist", "exist", "digit", "color", "shape", "digit")
NO_TARGET = -100


@dataclass(frozen=True)
class SceneBatch:
    """B scenes with Q questions each, all of one size, in N visual tokens in reading order."""

    pixels: Tensor  # [B, height, width, 3] uint8
    labels: Tensor  # [B, len(LABELS), N] class of every token
    words: Tensor  # [B, Q, WORDS] ids: question, answer, padding
    targets: Tensor  # [B, Q, WORDS] the id to predict from each place, NO_TARGET where none
    last: Tensor  # [B, Q] place of the question's last word
    evidence: Tensor  # [B, Q, N] tokens the answer lies in; all False without an evidence box
    kinds: Tensor  # [B, Q] index into KINDS


@dataclass(frozen=True)
class WordIds:
    """How a tokenizer numbers words: `encode` turns a text into ids, `end` ends an answer, `pad`
    fills up.
    """

    encode: Callable[[str], list[int]]
    end: int
    pad: int


def batch(
    seed: int,
    step: int,
    *,
    boxes: Callable[[int, int], NDArray[np.float64]],
    tokens: int,
    questions: int,
    colour_keyed: int,
    ids: WordIds,
    fine: float = 0.0,
) -> SceneBatch:
    """The batch of a step, a pure function of its arguments: about `tokens` visual tokens of scenes
    of one resolution.

    Every step sees fresh scenes; of the questions behind each image `colour_keyed` name a colour
    alone. `boxes` says what each visual token of an image of (width, height) sees, [N, 4]; `fine`
    is the share of steps whose scenes are fine ones.
    """
    rng = np.random.default_rng([seed, step, 3])

    def scenes_of_size(size: tuple[int, int]) -> int:
        return max(1, tokens // len(boxes(*size)))

    scenes = draw(seed, rng, scenes_of_size, fine)
    areas = boxes(scenes[0].width, scenes[0].height)
    packed = _pack(scenes, rng, questions, colour_keyed, ids, areas)
    labels = [token_labels(about, areas) for about in scenes]
    return SceneBatch(
        pixels=torch.from_numpy(np.stack([about.render() for about in scenes])),
        labels=torch.from_numpy(np.stack(labels)),
        **{name: torch.from_numpy(values) for name, values in packed.items()},
    )


def _pack(
    scenes: list[Scene],
    rng: np.random.Generator,
    questions: int,
    colour_keyed: int,
    ids: WordIds,
    areas: NDArray[np.float64],
) -> dict[str, NDArray[Any]]:
    """The parts of a SceneBatch that are of its questions, which are drawn scene by scene."""
    shape = len(scenes), questions
    words = np.full((*shape, WORDS), ids.pad)
    targets = np.full((*shape, WORDS), NO_TARGET)
    last = np.zeros(shape, np.int64)
    kinds = np.zeros(shape, np.int64)
    evidence = np.zeros((*shape, len(areas)), bool)
    for row, about in enumerate(scenes):
        for column in range(questions):
            kind = MIX[column] if column < len(MIX) else str(rng.choice(KINDS))
            question = ask(about, kind, rng)
            if column >= questions - colour_keyed:
                # in place of the one above, which was drawn: the seeds of the shipped models count
                question = _colour_keyed(about, rng)
            text = ids.encode(f"{question.text} {question.answer}")
            # every answer is one word: the one before it foretells the answer, the answer its end
            end_of_question = len(text) - 2
            words[row, column, : len(text)] = text
            last[row, column] = end_of_question
            targets[row, column, end_of_question : len(text)] = text[-1], ids.end
            kinds[row, column] = KINDS.index(question.kind)
            if question.evidence is not None:
                evidence[row, column] = box_tokens(question.evidence, areas)
    return {
        "words": words,
        "targets": targets,
        "last": last,
        "evidence": evidence,
        "kinds": kinds,
    }


def draw(
    seed: int,
    rng: np.random.Generator,
    count: Callable[[tuple[int, int]], int],
    fine: float = 0.0,
    sizes: tuple[tuple[int, int], ...] = tuple(RESOLUTIONS),
    complexity: int | None = None,
) -> list[Scene]:
    """Scenes of one of the sizes, which is drawn; `count` says how many of a size, `fine` how often
    they are fine ones.
    """
    # no draw where there are none: what a seed gives must not depend on a share that is not used
    if fine and rng.random() < fine:
        numbers = rng.integers(2**31, size=count(FINE_SIZE))
        return [fine_scene(seed, int(index)) for index in numbers]
    shares = np.array([RESOLUTIONS[size] for size in sizes])
    size = sizes[rng.choice(len(sizes), p=shares / shares.sum())]
    numbers = rng.integers(2**31, size=count(size))
    return [scene(seed, int(index), size=size, complexity=complexity) for index in numbers]


def _colour_keyed(about: Scene, rng: np.random.Generator) -> Question:
    """A question that names nothing but a colour, if a few tries find one: left to chance these are
    rare and learnt last.
    """
    for _ in range(10):
        question = ask(about, str(rng.choice(("shape", "digit", "exist"))), rng)
        if question.text.split()[-1] in COLOURS:
            break
    return question


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
    share = np.stack([coverage(thing.box, boxes) for thing in about.objects])
    owner = np.where(share.max(0) >= 0.2, share.argmax(0), -1)
    labels = np.zeros((len(LABELS), len(boxes)), np.int64)
    for number, thing in enumerate(about.objects):
        x0, y0, x1, y1 = thing.box
        colour = COLOURS.index(thing.colour) + 1
        shape = SHAPES.index(thing.shape) + 1
        digit = 0 if thing.digit is None else int(thing.digit) + 1
        owned = owner == number
        labels[0, owned] = colour
        labels[1, owned] = shape
        labels[2, owned] = digit
        labels[3, holds(boxes, (x0 + x1) // 2, (y0 + y1) // 2)] = 1
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
