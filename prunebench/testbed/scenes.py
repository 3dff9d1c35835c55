"""Seeded scenes of coloured, numbered shapes, and questions about them whose answers and evidence
are known.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prunebench.testbed.drawing import PALETTE, SHAPES, Pixels, background, paint, silhouette

CELL = 28  # px a side of what one LLM token sees: 14-px patches, merged 2x2
COLOURS = tuple(PALETTE)
DIGITS = tuple(str(digit) for digit in range(10))
KINDS = ("color", "shape", "digit", "count", "exist")
COMPLEXITIES = (1, 2, 3)
SIZES = (26, 44, 56, 72)  # px; the smallest lies within one cell and is too small for a digit
RESOLUTIONS = {
    (224, 224): 0.6,
    (336, 224): 0.1,
    (224, 336): 0.1,
    (280, 280): 0.1,
    (336, 336): 0.1,
}  # (width, height): share

FINE_SIZE, FINE_SIDES = (448, 448), (44,)
"""Fine scenes: pixels of the image and of its objects, which shrink to 11 px in a thumbnail of 112
px.
"""
FINE, FINE_KINDS = "fine", ("digit", "shape")

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 lie outside."""


@dataclass(frozen=True)
class SceneObject:
    """One object: what it looks like and where it is. `digit` is None on objects too small to carry
    one.
    """

    colour: str
    shape: str
    digit: str | None
    box: Box


@dataclass(frozen=True)
class Question:
    """A question with its one right answer; `evidence` is what must be seen for it, None if that is
    the whole image.
    """

    kind: str
    text: str
    answer: str
    evidence: Box | None


@dataclass(frozen=True)
class Scene:
    """Everything a scene is, without its pixels; `complexity` (1..3) sets the number of objects and
    the clutter.
    """

    seed: int
    index: int
    width: int
    height: int
    complexity: int
    objects: tuple[SceneObject, ...]

    def render(self) -> Pixels:
        """[height, width, 3] RGB; the same bytes every time."""
        rng = np.random.default_rng([self.seed, self.index, 1])
        canvas = background(rng, self.width, self.height, self.complexity)
        for thing in self.objects:
            red, green, blue = (channel + rng.uniform(-14, 14) for channel in PALETTE[thing.colour])
            x0, y0, x1, _ = thing.box
            paint(
                canvas,
                x0,
                y0,
                x1 - x0,
                (red, green, blue),
                thing.shape,
                None if thing.digit is None else int(thing.digit),
            )
        return canvas.clip(0, 255).astype(np.uint8)

    def mask(self) -> Pixels:
        """[height, width]: k where the k-th object covers at least half of a pixel, 0 elsewhere."""
        numbers = np.zeros((self.height, self.width), np.uint8)
        for number, thing in enumerate(self.objects, 1):
            x0, y0, x1, y1 = thing.box
            numbers[y0:y1, x0:x1][silhouette(thing.shape, x1 - x0) >= 0.5] = number
        return numbers


def scene(
    seed: int,
    index: int,
    *,
    size: tuple[int, int] | None = None,
    complexity: int | None = None,
    sides: tuple[int, ...] = SIZES,
) -> Scene:
    """The scene number `index` of the stream `seed`: a pure function.

    `size` is (width, height) in pixels, multiples of 28 of at least 140; left out, it and
    `complexity` are drawn. `sides` are those objects may have, all or one of SIZES; ValueError for
    what cannot be drawn.
    """
    rng = np.random.default_rng([seed, index, 0])
    drawn_size = list(RESOLUTIONS)[rng.choice(len(RESOLUTIONS), p=list(RESOLUTIONS.values()))]
    drawn_complexity = int(rng.choice(COMPLEXITIES))
    width, height = drawn_size if size is None else size
    level = drawn_complexity if complexity is None else complexity
    if width % CELL or height % CELL or min(width, height) < 5 * CELL:
        raise ValueError(
            f"scene size {width}x{height}: sides must be multiples of {CELL} px and at least {5 * CELL} px"
        )
    if level not in COMPLEXITIES:
        raise ValueError(f"complexity {level}: known are {COMPLEXITIES}")
    count = 2 * level - int(rng.integers(0, 2))  # 1-2, 3-4, 5-6
    if len(sides) == 1:
        wanted = list(sides) * count
    else:
        first = int(rng.choice(SIZES[1:]))
        others = rng.choice(SIZES, size=count - 1, p=(0.4, 0.25, 0.2, 0.15))
        wanted = [first, *map(int, others)]
    boxes = _place(rng, sorted(wanted, reverse=True), width, height, sides)
    looks = rng.choice(
        len(COLOURS) * len(SHAPES), size=count, replace=False
    )  # no two objects alike
    digits = rng.permutation(len(DIGITS))
    objects = tuple(
        SceneObject(
            colour=COLOURS[look // len(SHAPES)],
            shape=SHAPES[look % len(SHAPES)],
            digit=DIGITS[digit] if box[2] - box[0] > SIZES[0] else None,
            box=box,
        )
        for look, digit, box in zip(looks.tolist(), digits.tolist(), boxes, strict=False)
    )
    return Scene(seed, index, width, height, level, objects)


def fine_scene(seed: int, index: int) -> Scene:
    """A large scene of small objects, each with a digit: too fine for a thumbnail, readable in
    tiles.
    """
    return scene(seed, index, size=FINE_SIZE, sides=FINE_SIDES)


def ask(about: Scene, kind: str, rng: np.random.Generator) -> Question:
    """A question of `kind` (one of KINDS) about the scene; every kind can be asked of every scene.

    The word that selects the object stands last: the answer then starts from the token that knows
    what to look for.
    """
    things = about.objects
    if kind == "count":
        return Question(kind, "count objects", str(len(things)), None)
    if kind == "exist":
        return _exist(things, rng)
    if kind not in KINDS:
        raise ValueError(f"unknown question type {kind!r}: known are {', '.join(KINDS)}")
    if kind == "digit":
        asked = _pick(rng, [thing for thing in things if thing.digit is not None])
        keys = [f"{asked.colour} {asked.shape}"] * 2 + list(_unique_words(asked, things))
        assert asked.digit is not None
        return Question(kind, f"digit on {keys[rng.integers(len(keys))]}", asked.digit, asked.box)
    keyed = [(thing, key) for thing in things for key in _keys(thing, things, kind)]
    asked, key = keyed[rng.integers(len(keyed))]
    return Question(
        kind, f"{kind} of {key}", asked.colour if kind == "color" else asked.shape, asked.box
    )


def sample(seed: int, index: int, kind: str | None = None) -> tuple[Scene, Question]:
    """Scene number `index` of the stream with one question; without `kind` the types take turns.

    The kind FINE stands for fine scenes, asked for digits and shapes in turn.
    """
    kinds = FINE_KINDS if kind == FINE else KINDS if kind is None else (kind,)
    asked = kinds[index % len(kinds)]
    about = fine_scene(seed, index) if kind == FINE else scene(seed, index)
    return about, ask(about, asked, np.random.default_rng([seed, index, 2]))


def words() -> tuple[str, ...]:
    """Every word that questions and answers use, in a fixed order without repeats."""
    grammar = ("color", "shape", "digit", "of", "on", "count", "objects", "any", "yes", "no")
    return grammar + COLOURS + SHAPES + DIGITS


def _keys(thing: SceneObject, things: tuple[SceneObject, ...], kind: str) -> Iterator[str]:
    """Single words that select `thing` without giving away its `kind`."""
    if thing.digit is not None:
        yield thing.digit
    word, field = (thing.shape, "shape") if kind == "color" else (thing.colour, "colour")
    if sum(getattr(other, field) == word for other in things) == 1:
        yield word


def _unique_words(thing: SceneObject, things: tuple[SceneObject, ...]) -> Iterator[str]:
    """The colour and the shape of `thing`, each where no other object has it."""
    for word in (thing.colour, thing.shape):
        if sum(word in (other.colour, other.shape) for other in things) == 1:
            yield word


def _exist(things: tuple[SceneObject, ...], rng: np.random.Generator) -> Question:
    """Ask "any red square" or "any red": yes and no equally often; half of the pairs that are
    absent are recombined.
    """
    present = _pick(rng, list(things))
    single = rng.random() < 0.4
    word = (present.colour, present.shape)[rng.integers(2)]
    if rng.random() < 0.5:
        return Question(
            "exist",
            f"any {word if single else f'{present.colour} {present.shape}'}",
            "yes",
            present.box,
        )
    pairs = {(thing.colour, thing.shape) for thing in things}
    colours, shapes = {colour for colour, _ in pairs}, {shape for _, shape in pairs}
    absent = [
        option
        for option in (COLOURS if word == present.colour else SHAPES)
        if option not in colours | shapes
    ]
    if single and absent:
        return Question("exist", f"any {absent[rng.integers(len(absent))]}", "no", None)
    missing = [
        (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in pairs
    ]
    hard = [(colour, shape) for colour, shape in missing if colour in colours and shape in shapes]
    options = hard if hard and rng.random() < 0.5 else missing
    colour, shape = options[rng.integers(len(options))]
    return Question("exist", f"any {colour} {shape}", "no", None)


def _pick(rng: np.random.Generator, things: list[SceneObject]) -> SceneObject:
    return things[rng.integers(len(things))]


def _place(
    rng: np.random.Generator, sides: list[int], width: int, height: int, allowed: tuple[int, ...]
) -> list[Box]:
    """Boxes of the given sides, largest first, at least 6 px apart; one that finds no place shrinks
    to the next allowed.
    """
    for _ in range(20):
        boxes: list[Box] = []
        for wanted in sides:
            sizes = [size for size in reversed(allowed) if size <= wanted]
            tries = (_throw(rng, size, width, height) for size in sizes for _ in range(60))
            found = next((box for box in tries if all(_apart(box, other) for other in boxes)), None)
            if found is None:  # the large ones lie badly: start over
                break
            boxes.append(found)
        else:
            return boxes
    raise ValueError(f"no place for {len(sides)} objects in {width}x{height} px")


def _throw(rng: np.random.Generator, side: int, width: int, height: int) -> Box:
    """A random square; the smallest objects lie within one cell, so that one token is all their
    evidence.
    """
    if side == SIZES[0]:
        x, y = (
            int(rng.integers(0, e // CELL)) * CELL + int(rng.integers(0, CELL - side + 1))
            for e in (width, height)
        )
    else:
        x, y = (int(rng.integers(2, edge - side - 1)) for edge in (width, height))
    return x, y, x + side, y + side


def _apart(a: Box, b: Box, gap: int = 6) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]
