"""Views of scenes with captions: training batches of the miniature CLIP."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.testbed.batches import coverage, draw, holds, token_labels
from prunebench.testbed.scenes import (
    COMPLEXITIES,
    FINE_SIZE,
    RESOLUTIONS,
    Scene,
    SceneObject,
    scene,
)
from prunebench.testbed.views import Boxes, thumbnail_boxes, thumbnails, tile_boxes, tiles

Phrase = frozenset[str]
"""Words that one object is described by."""
QUESTIONS = ("", "any", "color of", "shape of", "digit on")
"""What may stand before the description of one object: the text tower will be given questions, too.
"""
NOTHING = "no objects"


@dataclass(frozen=True)
class Caption:
    """A text and what makes it true of a view: for each phrase an object; no phrase means that
    nothing is there.
    """

    text: str
    phrases: tuple[Phrase, ...]

    def true_of(self, things: Iterable[Phrase]) -> bool:
        """Whether it is, where each thing is given by all its words."""
        there = list(things)
        return (
            all(any(phrase <= thing for thing in there) for phrase in self.phrases)
            if self.phrases
            else not there
        )


@dataclass(frozen=True)
class ViewBatch:
    """V views with a caption each."""

    views: Tensor  # [V, 3, SIDE, SIDE] uint8
    labels: Tensor  # [V, len(LABELS), patches] class of every patch
    words: Tensor  # [V, L] ids of the captions, padded
    true: Tensor  # [V, V] whether the caption (column) is true of the view (row); its own always is


def view_batch(
    seed: int,
    step: int,
    *,
    images: int,
    fine: float,
    crowded: int,
    encode: Callable[[list[str]], Tensor],
) -> ViewBatch:
    """The batch of a step, a pure function of its arguments: `images` thumbnails and tiles of
    scenes of one resolution.

    Two views of three are thumbnails, of fine scenes one of four; `encode` turns captions into
    padded ids. With `crowded` there are many objects in every scene, none is fine, and sizes are
    the first so many of RESOLUTIONS.
    """
    rng = np.random.default_rng([seed, step, 4])

    def share(size: tuple[int, int]) -> int:
        return images // 4 if size == FINE_SIZE else images * 2 // 3

    if crowded:
        scenes = draw(
            seed, rng, share, sizes=tuple(RESOLUTIONS)[:crowded], complexity=max(COMPLEXITIES)
        )
    else:
        scenes = draw(seed, rng, share, fine)
    size = scenes[0].width, scenes[0].height
    pixels = torch.from_numpy(np.stack([about.render() for about in scenes]))
    cut, whole = tile_boxes(*size), thumbnail_boxes(*size)
    each, more = divmod(images - len(scenes), len(scenes))
    chosen = [_choose(about, cut, each + (row < more), rng) for row, about in enumerate(scenes)]
    boxes = [(about, whole) for about in scenes]
    boxes += [
        (about, cut[tile]) for about, some in zip(scenes, chosen, strict=True) for tile in some
    ]
    all_tiles = tiles(pixels)
    parts = torch.cat([all_tiles[row, some] for row, some in enumerate(chosen)])
    captions = [caption(_visible(about, seen, 0.6), rng) for about, seen in boxes]
    there = [[object_words(thing) for thing in _visible(about, seen, 0.1)] for about, seen in boxes]
    true = torch.tensor([[text.true_of(things) for text in captions] for things in there])
    return ViewBatch(
        views=torch.cat([thumbnails(pixels), parts]),
        labels=torch.from_numpy(np.stack([token_labels(about, seen) for about, seen in boxes])),
        words=encode([text.text for text in captions]),
        true=true.fill_diagonal_(True),
    )


def first_views(scenes: int = 100) -> Tensor:
    """[scenes * 5, 3, SIDE, SIDE] uint8 thumbnails and tiles, for what has to be known about pixels
    before training.
    """
    pixels = torch.from_numpy(
        np.stack(
            [scene(0, index, size=(224, 224), complexity=3).render() for index in range(scenes)]
        )
    )
    return torch.cat([thumbnails(pixels), tiles(pixels).flatten(0, 1)])


def caption(things: list[SceneObject], rng: np.random.Generator) -> Caption:
    """A list of all things, or some words about one of them, perhaps as a question."""
    if not things:
        return Caption(NOTHING, ())
    if rng.random() < 0.5:
        return full_caption(things, rng)
    thing = things[rng.integers(len(things))]
    options = [
        [thing.colour, thing.shape],
        [thing.colour, thing.shape],
        [thing.colour],
        [thing.shape],
    ]
    options += [] if thing.digit is None else [[thing.digit]]
    text = options[rng.integers(len(options))]
    before = QUESTIONS[rng.integers(len(QUESTIONS))] if rng.random() < 0.5 else ""
    return Caption(" ".join(before.split() + text), (frozenset(text),))


def full_caption(things: list[SceneObject], rng: np.random.Generator) -> Caption:
    """All words of all things, in some order of things."""
    texts = [_words(things[number]) for number in rng.permutation(len(things))]
    return Caption(" ".join(" ".join(text) for text in texts), tuple(map(frozenset, texts)))


def object_words(thing: SceneObject) -> Phrase:
    """All words that an object can be described by."""
    return frozenset(_words(thing))


def _choose(about: Scene, cut: Boxes, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` tiles, most likely with that in which an object's centre lies: of the others many are
    empty.
    """
    x0, y0, x1, y1 = about.objects[rng.integers(len(about.objects))].box
    score = rng.random(len(cut))
    score[[holds(boxes, (x0 + x1) / 2, (y0 + y1) / 2).any() for boxes in cut]] += 0.8
    return np.argsort(-score)[:count]


def _visible(about: Scene, seen: Boxes, least: float) -> list[SceneObject]:
    """The objects of which at least that share lies in the view whose patches see the boxes."""
    x0, y0 = seen[:, :2].min(0)
    x1, y1 = seen[:, 2:].max(0)
    boxes = [np.array([thing.box], float) for thing in about.objects]
    return [
        thing
        for thing, box in zip(about.objects, boxes, strict=True)
        if coverage((x0, y0, x1, y1), box)[0] >= least
    ]


def _words(thing: SceneObject) -> list[str]:
    return [word for word in (thing.colour, thing.shape, thing.digit) if word is not None]
