"""Training batches: scenes of one resolution, what every visual token shows, and questions packed
behind each image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.scenes import (
    CELL,
    COLOURS,
    DIGITS,
    FINE_SIZE,
    KINDS,
    RESOLUTIONS,
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
    evidence: Tensor  # [B, Q, N] tokens the answer lies in; all False where a question has no evidence box
    kinds: Tensor  # [B, Q] index into KINDS


def batch(
    seed: int,
    step: int,
    *,
    boxes: Callable[[int, int], NDArray[np.float64]],
    tokens: int,
    questions: int,
    colour_keyed: int,
    encode: Callable[[str], list[int]],
    end: int,
    pad: int,
    fine: float = 0.0,
) -> SceneBatch:
    """The batch of a step, a pure function of its arguments: about `tokens` visual tokens of scenes
    of one resolution.

    Every step sees fresh scenes; of the questions behind each image `colour_keyed` name a colour
    alone. `boxes` says what each visual token of an image of (width, height) sees, [N, 4]; `encode`
    turns words into ids; `end` and `pad` are the ids that end an answer and fill up; `fine` is the
    share of steps whose scenes are fine ones.
    """
    rng = np.random.default_rng([seed, step, 3])
    scenes = draw(seed, rng, lambda size: max(1, tokens // len(boxes(*size))), fine)
    size = scenes[0].width, scenes[0].height
    count, seen = len(scenes), boxes(*size)
    texts = np.full((count, questions, WORDS), pad)
    targets = np.full((count, questions, WORDS), NO_TARGET)
    last = np.zeros((count, questions), np.int64)
    kinds = np.zeros((count, questions), np.int64)
    evidence = np.zeros((count, questions, len(seen)), bool)
    for row, about in enumerate(scenes):
        for column in range(questions):
            kind = MIX[column] if column < len(MIX) else str(rng.choice(KINDS))
            question = ask(about, kind, rng)
            if column >= questions - colour_keyed:
                question = _colour_keyed(about, rng)
            ids = encode(f"{question.text} {question.answer}")
            texts[row, column, : len(ids)] = ids
            last[row, column] = len(ids) - 2
            targets[row, column, len(ids) - 2 : len(ids)] = ids[-1], end
            kinds[row, column] = KINDS.index(question.kind)
            if question.evidence is not None:
                evidence[row, column] = box_tokens(question.evidence, seen)
    return SceneBatch(
        pixels=torch.from_numpy(np.stack([about.render() for about in scenes])),
        labels=torch.from_numpy(np.stack([token_labels(about, seen) for about in scenes])),
        words=torch.from_numpy(texts),
        targets=torch.from_numpy(targets),
        last=torch.from_numpy(last),
        evidence=torch.from_numpy(evidence),
        kinds=torch.from_numpy(kinds),
    )


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
    if (
        fine and rng.random() < fine
    ):  # no draw without: what a seed gives must not depend on a share that is not used
        return [
            fine_scene(seed, int(index)) for index in rng.integers(2**31, size=count(FINE_SIZE))
        ]
    shares = np.array([RESOLUTIONS[size] for size in sizes])
    size = sizes[rng.choice(len(sizes), p=shares / shares.sum())]
    return [
        scene(seed, int(index), size=size, complexity=complexity)
        for index in rng.integers(2**31, size=count(size))
    ]


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
    """[N, 4] the squares of CELL px that cover an image, in reading order: what the tokens of
    Qwen2.5-VL see.
    """
    y, x = np.mgrid[0:height:CELL, 0:width:CELL].reshape(2, -1).astype(float)
    return np.stack([x, y, x + CELL, y + CELL], axis=-1)


def token_labels(about: Scene, boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """[len(LABELS), N] what each token shows that sees the box [N, 4]: the object that covers a
    fifth of it, and whether a centre lies there.
    """
    share = np.stack([coverage(thing.box, boxes) for thing in about.objects])
    owner = np.where(share.max(0) >= 0.2, share.argmax(0), -1)
    labels = np.zeros((len(LABELS), len(boxes)), np.int64)
    for number, thing in enumerate(about.objects):
        x0, y0, x1, y1 = thing.box
        look = [
            COLOURS.index(thing.colour) + 1,
            SHAPES.index(thing.shape) + 1,
            0 if thing.digit is None else int(thing.digit) + 1,
        ]
        labels[:3, owner == number] = np.array(look)[:, None]
        labels[3, holds(boxes, (x0 + x1) // 2, (y0 + y1) // 2)] = 1
    return labels


def box_tokens(box: Box, boxes: NDArray[np.float64], share: float = 0.2) -> NDArray[np.bool_]:
    """[N] tokens of whose boxes [N, 4] the box covers at least `share`."""
    return coverage(box, boxes) >= share


def coverage(box: Box, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] share of each of the boxes [N, 4] that `box` covers; 0 for one without area."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    share: NDArray[np.float64] = np.divide(
        (high - low).clip(0).prod(-1), area, out=np.zeros(len(boxes)), where=area > 0
    )
    return share


def holds(boxes: NDArray[np.float64], x: float, y: float) -> NDArray[np.bool_]:
    """[N] boxes [N, 4] in which the point lies."""
    return (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
