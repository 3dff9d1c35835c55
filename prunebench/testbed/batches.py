"""Training batches: scenes of one resolution, what every visual token shows, and questions packed behind each image."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.scenes import CELL, COLOURS, DIGITS, KINDS, RESOLUTIONS, Box, Question, Scene, ask, scene

LABELS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "digit": len(DIGITS) + 1, "centre": 2}
"""What a token is labelled with, and the number of classes; class 0 is "nothing"."""
WORDS = 5  # the longest question with its answer: "digit on red square 7"
MIX = ("count", "exist", "exist", "digit", "color", "shape", "digit")
NO_TARGET = -100


@dataclass(frozen=True)
class SceneBatch:
    """B scenes with Q questions each, all of one size: N = (height / 28) * (width / 28) tokens in reading order."""

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
    tokens: int,
    questions: int,
    colour_keyed: int,
    encode: Callable[[str], list[int]],
    end: int,
    pad: int,
) -> SceneBatch:
    """The batch of a step, a pure function of its arguments: about `tokens` visual tokens of scenes of one resolution.

    Every step sees fresh scenes; of the questions behind each image `colour_keyed` name a colour alone.
    `encode` turns words into ids; `end` and `pad` are the ids that end an answer and fill up.
    """
    rng = np.random.default_rng([seed, step, 3])
    size = list(RESOLUTIONS)[rng.choice(len(RESOLUTIONS), p=list(RESOLUTIONS.values()))]
    count = max(1, tokens * CELL * CELL // (size[0] * size[1]))
    scenes = [scene(seed, int(index), size=size) for index in rng.integers(2**31, size=count)]
    texts = np.full((count, questions, WORDS), pad)
    targets = np.full((count, questions, WORDS), NO_TARGET)
    last = np.zeros((count, questions), np.int64)
    kinds = np.zeros((count, questions), np.int64)
    evidence = np.zeros((count, questions, size[0] * size[1] // CELL**2), bool)
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
                evidence[row, column] = box_tokens(question.evidence, *size)
    return SceneBatch(
        pixels=torch.from_numpy(np.stack([about.render() for about in scenes])),
        labels=torch.from_numpy(np.stack([token_labels(about) for about in scenes])),
        words=torch.from_numpy(texts),
        targets=torch.from_numpy(targets),
        last=torch.from_numpy(last),
        evidence=torch.from_numpy(evidence),
        kinds=torch.from_numpy(kinds),
    )


def _colour_keyed(about: Scene, rng: np.random.Generator) -> Question:
    """A question that names nothing but a colour, if a few tries find one: left to chance these are rare and learnt last."""
    for _ in range(10):
        question = ask(about, str(rng.choice(("shape", "digit", "exist"))), rng)
        if question.text.split()[-1] in COLOURS:
            break
    return question


def token_labels(about: Scene) -> NDArray[np.int64]:
    """[len(LABELS), N] what each token shows: the object that covers a fifth of it, and whether a centre lies there."""
    share = np.stack([_coverage(thing.box, about.width, about.height) for thing in about.objects])
    owner = np.where(share.max(0) >= 0.2, share.argmax(0), -1)
    labels = np.zeros((len(LABELS), owner.size), np.int64)
    for number, thing in enumerate(about.objects):
        x0, y0, x1, y1 = thing.box
        look = [
            COLOURS.index(thing.colour) + 1,
            SHAPES.index(thing.shape) + 1,
            0 if thing.digit is None else int(thing.digit) + 1,
        ]
        labels[:3, owner == number] = np.array(look)[:, None]
        labels[3, (y0 + y1) // 2 // CELL * (about.width // CELL) + (x0 + x1) // 2 // CELL] = 1
    return labels


def box_tokens(box: Box, width: int, height: int, share: float = 0.2) -> NDArray[np.bool_]:
    """[N] tokens of which the box covers at least `share`."""
    return _coverage(box, width, height) >= share


def _coverage(box: Box, width: int, height: int) -> NDArray[np.float64]:
    """[N] share of each token's square that the box covers."""
    x0, y0, x1, y1 = box
    across, down = (
        np.clip(np.minimum(high, edges + CELL) - np.maximum(low, edges), 0, CELL) / CELL
        for low, high, edges in ((x0, x1, np.arange(0, width, CELL)), (y0, y1, np.arange(0, height, CELL)))
    )
    return np.outer(down, across).ravel()
