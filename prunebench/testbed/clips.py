"""Clips and pairs: seeded films of eight frames and two pictures side by side, made of the scenes'
objects: what is where and when, and its pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunebench.testbed.drawing import PALETTE, Pixels, background, paint
from prunebench.testbed.scenes import COLOURS, Scene, SceneObject, scene

FRAMES, MOMENTS = 8, 4
FRAMES_A_MOMENT = FRAMES // MOMENTS
FPS = 8.0
"""A clip lasts a second and has four moments of two frames each, in which nothing changes: the
encoder of Qwen2.5-VL makes one token of two frames.
"""

CLIP_SIZES = ((140, 140), (168, 168))
"""Sizes of a clip in pixels: 25 or 36 tokens a moment, 100 or 144 in all."""

PAIR_SIZES = ((196, 196), (224, 224))
"""Sizes of each picture of a pair in pixels: 98 or 128 tokens together."""

SIDES = (40, 64)
"""Sides of objects in px, at least one token; where there is little room they are smaller."""

NOISE = 3.0
"""Standard deviation of what differs between moments where nothing happens, of 255."""

SECOND = 5_000_000
"""How far behind the first picture of a pair the scene of its second one lies in the stream."""

ROLES = ("still", "jump", "start", "end", "flash", "change")
SHARES = (0.1, 0.25, 0.25, 0.05, 0.2, 0.15)
"""What an object of a clip may do, and how often it does: nothing; be elsewhere from some moment
on; be there only from, or until, some moment; be there at one moment; change its colour at each.
"""


PARADES = 0.3
"""Of the clips, those in which one object is seen after the other, each at one moment."""


@dataclass(frozen=True)
class Clip:
    """A film. `actors` hold, for each object, how it looks at each moment; None: it is not there.

    `stage` is the scene whose background it has.
    """

    stage: Scene
    actors: tuple[tuple[SceneObject | None, ...], ...]

    @property
    def pictures(self) -> tuple[Scene, ...]:
        """The scene of every moment."""
        moments = []
        for there in zip(*self.actors, strict=True):
            things = tuple(thing for thing in there if thing is not None)
            moments.append(replace(self.stage, objects=things))
        return tuple(moments)

    def moments(self) -> Pixels:
        """[MOMENTS, height, width, 3] RGB; the same bytes every time."""
        return _drawn(self.pictures)

    def render(self) -> Pixels:
        """[FRAMES, height, width, 3] RGB."""
        return self.moments().repeat(FRAMES_A_MOMENT, axis=0)


@dataclass(frozen=True)
class Pair:
    """Two pictures of one size. `change` says of what kind the one difference between them is, of
    CHANGES; None where they have nothing to do with each other.
    """

    pictures: tuple[Scene, Scene]
    change: str | None

    def render(self) -> Pixels:
        """[2, height, width, 3] RGB; the same bytes every time."""
        return _drawn(self.pictures)


CHANGES = ("new", "changed")
"""What makes the second picture another one: an object more, or one of another colour."""


def clip(seed: int, index: int, size: tuple[int, int] | None = None) -> Clip:
    """The clip number `index` of the stream `seed`: a pure function."""
    rng = np.random.default_rng([seed, index, 4])
    width, height = _pick_size(rng, CLIP_SIZES) if size is None else size
    count = int(rng.integers(2, 5))
    roles = rng.choice(ROLES, size=count, p=SHARES).tolist()
    moments = rng.permutation(MOMENTS).tolist()
    if rng.random() < PARADES:
        roles = ["flash"] * count
    else:
        moments = rng.integers(MOMENTS, size=count).tolist()
    # one object more, which is never seen: the place that another one jumps to
    about = scene(seed, index, size=(width, height), count=count + 1, odd=False, sides=SIDES)
    free, *things = about.objects  # the largest one comes first, so that any fits in its place
    order = rng.permutation(count).tolist()
    actors = []
    has_jumped = False
    for number, role, moment in zip(order, roles, moments, strict=False):
        if role == "jump" and has_jumped:
            role = "still"
        has_jumped |= role == "jump"
        actors.append(_appearances(rng, things[number], role, moment, free))
    return Clip(about, tuple(actors))


def pair(
    seed: int, index: int, size: tuple[int, int] | None = None, related: bool | None = None
) -> Pair:
    """The pair number `index` of the stream `seed`: a pure function. Half of them are `related`:
    the same picture with one change.
    """
    rng = np.random.default_rng([seed, index, 5])
    drawn_size, is_related = _pick_size(rng, PAIR_SIZES), bool(rng.random() < 0.5)
    size = drawn_size if size is None else size
    first = scene(seed, index, size=size, count=int(rng.integers(2, 6)), odd=False)
    change = str(rng.choice(CHANGES))
    if not (is_related if related is None else related):
        count = int(rng.integers(1, 6))
        second = scene(seed, index + SECOND, size=size, count=count, odd=False)
        return Pair((first, second), None)
    things = list(first.objects)
    number = int(rng.integers(len(things)))
    if change == "new":
        without = tuple(things[:number] + things[number + 1 :])
        return Pair((replace(first, objects=without), first), change)
    looks = {(thing.colour, thing.shape) for thing in things}
    colours = [colour for colour in COLOURS if (colour, things[number].shape) not in looks]
    things[number] = replace(things[number], colour=str(rng.choice(colours)))
    return Pair((first, replace(first, objects=tuple(things))), change)


def _appearances(
    rng: np.random.Generator, thing: SceneObject, role: str, moment: int, free: SceneObject
) -> tuple[SceneObject | None, ...]:
    """How an object looks at each moment; `moment` is the one of a flash."""
    turn = int(rng.integers(1, MOMENTS))  # the first moment at which something is otherwise
    colours = rng.permutation(len(COLOURS))[:MOMENTS].tolist()
    then: list[SceneObject | None] = [thing] * MOMENTS
    if role == "jump":
        then[turn:] = [_moved(thing, free)] * (MOMENTS - turn)
    elif role == "start":
        then[:turn] = [None] * turn
    elif role == "end":
        then[turn:] = [None] * (MOMENTS - turn)
    elif role == "flash":
        then = [None] * MOMENTS
        then[moment] = thing
    elif role == "change":
        then = [replace(thing, colour=COLOURS[colour]) for colour in colours]
    return tuple(then)


def _moved(thing: SceneObject, place: SceneObject) -> SceneObject:
    """The object in the middle of another one's place."""
    x, y = place.box[:2]
    x, y = x + (place.side - thing.side) // 2, y + (place.side - thing.side) // 2
    return replace(thing, box=(x, y, x + thing.side, y + thing.side))


def _pick_size(rng: np.random.Generator, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """One of the sizes, each equally often."""
    return sizes[int(rng.integers(len(sizes)))]


def _drawn(pictures: Sequence[Scene]) -> Pixels:
    """[P, height, width, 3] the pictures, each with noise of its own.

    Scene.render is not asked: there the shade of an object depends on which others are there.
    """
    first = pictures[0]
    noise_rng = np.random.default_rng([first.seed, first.index, 6])
    frames = []
    for picture in pictures:
        rng = np.random.default_rng([picture.seed, picture.index, 1])
        canvas = background(rng, picture.width, picture.height, picture.complexity)
        shades = rng.uniform(-14, 14, size=(len(COLOURS), 3))
        for thing in picture.objects:
            shade = shades[COLOURS.index(thing.colour)]
            red, green, blue = np.array(PALETTE[thing.colour]) + shade
            x, y, _, _ = thing.box
            paint(canvas, x, y, thing.side, (red, green, blue), thing.shape, thing.number)
        noise = noise_rng.standard_normal(canvas.shape[:2], dtype=np.float32)
        frames.append(canvas + np.float32(NOISE) * noise[..., None])
    return np.stack(frames).clip(0, 255).astype(np.uint8)
