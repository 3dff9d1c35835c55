"""Views of scenes with captions: training batches of the miniature CLIP."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.testbed.batches import Batch, coverage, draw, holds, token_labels
from prunebench.testbed.scenes import (
    FINE_SIZE,
    MOST_OBJECTS,
    RESOLUTIONS,
    Scene,
    SceneObject,
    scene,
)
from prunebench.testbed.views import Boxes, thumbnail_boxes, thumbnails, tile_boxes, tiles

Phrase = frozenset[str]
"""Words that one object is described by."""
QUESTIONS = ("", "any", "color of", "shape of", "number on")
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
        if not self.phrases:
            return not there
        return all(_describes(phrase, there) for phrase in self.phrases)


@dataclass(frozen=True)
class ViewBatch(Batch):
    """V views with a caption each."""

    views: Tensor  # [V, 3, SIDE, SIDE] uint8
    labels: Tensor  # [V, len(LABELS), patches] class of every patch
    words: Tensor  # [V, L] ids of the captions, padded
    true: Tensor  # [V, V] whether the caption (column) is true of the view (row); its own always is


@dataclass(frozen=True)
class Captions:
    """Turns texts into padded ids [V, L]."""

    tokenizer: Any

    def __call__(self, texts: list[str]) -> Tensor:
        ids: Tensor = self.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
        return ids


@dataclass(frozen=True)
class ViewBatches:
    """Calling it with a step gives that step's batch, a pure function: `images` thumbnails and
    tiles of scenes of one resolution.

    Two views of three are thumbnails, of fine scenes one of four; `encode` turns captions into
    padded ids. With `crowded` there are many objects in every scene, none is fine, and sizes are
    the first so many of RESOLUTIONS.
    """

    seed: int
    images: int
    fine: float
    crowded: int
    encode: Callable[[list[str]], Tensor]

    def __call__(self, step: int) -> ViewBatch:
        rng = np.random.default_rng([self.seed, step, 4])

        def share(size: tuple[int, int]) -> int:
            # of fine scenes a thumbnail shows little, so most of their views are tiles
            return self.images // 4 if size == FINE_SIZE else self.images * 2 // 3

        if self.crowded:
            sizes = tuple(RESOLUTIONS)[: self.crowded]
            scenes = draw(self.seed, rng, share, sizes=sizes, objects=MOST_OBJECTS)
        else:
            scenes = draw(self.seed, rng, share, self.fine)
        return _view_batch(scenes, rng, self.images, self.encode)


def _view_batch(
    scenes: list[Scene],
    rng: np.random.Generator,
    images: int,
    encode: Callable[[list[str]], Tensor],
) -> ViewBatch:
    """The whole scenes as thumbnails, and tiles of them up to so many images."""
    size = scenes[0].width, scenes[0].height
    pixels = torch.from_numpy(np.stack([about.render() for about in scenes]))
    tile_areas, thumbnail_areas = tile_boxes(*size), thumbnail_boxes(*size)
    each, more = divmod(images - len(scenes), len(scenes))
    numbers = []
    for row, about in enumerate(scenes):
        count = each + 1 if row < more else each
        numbers.append(_choose(about, tile_areas, count, rng))
    # every view as its scene and what its patches see: the thumbnails, then the chosen tiles
    views = [(about, thumbnail_areas) for about in scenes]
    for about, tile_numbers in zip(scenes, numbers, strict=True):
        views += [(about, tile_areas[number]) for number in tile_numbers]
    all_tiles = tiles(pixels)
    tile_pixels = [all_tiles[row, tile_numbers] for row, tile_numbers in enumerate(numbers)]
    captions = [caption(_visible(about, areas, 0.6), rng) for about, areas in views]
    labels = [token_labels(about, areas) for about, areas in views]
    true = []
    for about, areas in views:
        # a small part of an object is enough to make a caption true, not to be named in one
        phrases = [object_words(thing) for thing in _visible(about, areas, 0.1)]
        true.append([text.true_of(phrases) for text in captions])
    return ViewBatch(
        views=torch.cat([thumbnails(pixels), *tile_pixels]),
        labels=torch.from_numpy(np.stack(labels)),
        words=encode([text.text for text in captions]),
        true=torch.tensor(true).fill_diagonal_(True),
    )


def first_views(scenes: int = 100) -> Tensor:
    """[scenes * 5, 3, SIDE, SIDE] uint8 thumbnails and tiles, for what has to be known about pixels
    before training.
    """
    about = [scene(0, index, size=(224, 224), count=MOST_OBJECTS) for index in range(scenes)]
    pixels = torch.from_numpy(np.stack([one.render() for one in about]))
    return torch.cat([thumbnails(pixels), tiles(pixels).flatten(0, 1)])


def caption(things: list[SceneObject], rng: np.random.Generator) -> Caption:
    """A list of all things, or some words about one of them, perhaps as a question."""
    if not things:
        return Caption(NOTHING, ())
    if rng.random() < 0.5:
        return full_caption(things, rng)
    thing = things[rng.integers(len(things))]
    both = [thing.colour, thing.shape]
    options = [both, both, [thing.colour], [thing.shape]]
    if thing.number is not None:
        options.append(list(thing.number))
    text = options[rng.integers(len(options))]
    before = QUESTIONS[rng.integers(len(QUESTIONS))] if rng.random() < 0.5 else ""
    return Caption(" ".join(before.split() + text), (frozenset(text),))


def full_caption(things: list[SceneObject], rng: np.random.Generator) -> Caption:
    """All words of all things, in some order of things."""
    word_lists = [_words(things[number]) for number in rng.permutation(len(things))]
    text = " ".join(" ".join(words) for words in word_lists)
    return Caption(text, tuple(map(frozenset, word_lists)))


def object_words(thing: SceneObject) -> Phrase:
    """All words that an object can be described by."""
    return frozenset(_words(thing))


def _choose(
    about: Scene, tile_areas: Boxes, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of `count` tiles, most likely with that in which an object's centre lies.

    Left to chance many would be empty.
    """
    thing = about.objects[rng.integers(len(about.objects))]
    x0, y0, x1, y1 = thing.box
    centre = (x0 + x1) / 2, (y0 + y1) / 2
    score = rng.random(len(tile_areas))
    # below 1, so that a tile without it may still come first
    score[[holds(areas, *centre).any() for areas in tile_areas]] += 0.8
    return np.argsort(-score)[:count]


def _visible(about: Scene, areas: Boxes, least: float) -> list[SceneObject]:
    """The objects of which at least that share lies in the view whose patches see the areas."""
    x0, y0 = areas[:, :2].min(0)
    x1, y1 = areas[:, 2:].max(0)
    things = []
    for thing in about.objects:
        box = np.array([thing.box], float)
        if coverage((x0, y0, x1, y1), box)[0] >= least:
            things.append(thing)
    return things


def _describes(phrase: Phrase, things: list[Phrase]) -> bool:
    """Whether one of the things has all words of the phrase."""
    return any(phrase <= thing for thing in things)


def _words(thing: SceneObject) -> list[str]:
    """Colour, shape and, where it has any, its digits."""
    return [thing.colour, thing.shape, *(thing.number or "")]
