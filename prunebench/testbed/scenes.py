"""Seeded scenes of coloured, numbered shapes, and questions about them whose answers and evidence
are known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from prunebench.testbed.drawing import PALETTE, SHAPES, Pixels, background, paint, silhouette

TOKEN_PIXELS = 28  # px a side of what one LLM token sees: 14-px patches, merged 2x2
COLOURS = tuple(PALETTE)
DIGITS = tuple(str(digit) for digit in range(10))
KINDS = ("color", "shape", "digit", "count", "exist")
COMPLEXITIES = (1, 2, 3)
SIZES = (26, 44, 56, 72)  # px; the smallest lies within one token and is too small for a digit
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

HELD_OUT_STREAM = 3
MINIATURES_STREAM = 10_000_000
METHODS_STREAM = 20_000_000
"""Streams of scenes. The built-in tasks ask about stream 1, held-out questions of a method's
training about stream 3. What the miniatures learn from is the stream MINIATURES_STREAM + seed, what
methods learn from METHODS_STREAM + seed.
"""

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
        # the last number keeps draws apart: 0 is the scene, 1 its pixels, 2 its question
        rng = np.random.default_rng([self.seed, self.index, 1])
        canvas = background(rng, self.width, self.height, self.complexity)
        for thing in self.objects:
            red, green, blue = (channel + rng.uniform(-14, 14) for channel in PALETTE[thing.colour])
            x0, y0, x1, _ = thing.box
            digit = None if thing.digit is None else int(thing.digit)
            paint(canvas, x0, y0, x1 - x0, (red, green, blue), thing.shape, digit)
        return canvas.clip(0, 255).astype(np.uint8)

    def mask(self) -> Pixels:
        """[height, width]: k where the k-th object covers at least half of a pixel, 0 elsewhere."""
        numbers = np.zeros((self.height, self.width), np.uint8)
        for number, thing in enumerate(self.objects, 1):
            x0, y0, x1, y1 = thing.box
            inside = silhouette(thing.shape, x1 - x0) >= 0.5
            numbers[y0:y1, x0:x1][inside] = number
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
    # all of it is drawn, whatever of it is used: the rest of the scene must not depend on that
    drawn_size = draw_size(rng)
    drawn_complexity = int(rng.choice(COMPLEXITIES))
    width, height = drawn_size if size is None else size
    level = drawn_complexity if complexity is None else complexity
    _check(width, height, level)
    count = 2 * level - int(rng.integers(0, 2))  # 1-2, 3-4, 5-6
    object_sides = sorted(_object_sides(rng, count, sides), reverse=True)
    boxes = _place(rng, object_sides, width, height, sides)
    # without replacement: no two objects alike
    looks = rng.choice(len(COLOURS) * len(SHAPES), size=count, replace=False)
    digits = rng.permutation(len(DIGITS))
    objects = []
    # not strict: all ten digits are shuffled, and as many used as there are objects
    for look, digit, box in zip(looks.tolist(), digits.tolist(), boxes, strict=False):
        colour, shape = divmod(look, len(SHAPES))
        readable = box[2] - box[0] > SIZES[0]
        word = DIGITS[digit] if readable else None
        objects.append(SceneObject(COLOURS[colour], SHAPES[shape], word, box))
    return Scene(seed, index, width, height, level, tuple(objects))


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) of a scene, drawn by the shares of RESOLUTIONS."""
    sizes, shares = list(RESOLUTIONS), list(RESOLUTIONS.values())
    return sizes[rng.choice(len(sizes), p=shares)]


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
        return _ask_digit(things, rng)
    pairs: list[tuple[SceneObject, str]] = []
    for thing in things:
        for key in _keys(thing, things, kind):
            pairs.append((thing, key))
    thing, key = pairs[rng.integers(len(pairs))]
    answer = thing.colour if kind == "color" else thing.shape
    return Question(kind, f"{kind} of {key}", answer, thing.box)


def sample(seed: int, index: int, kind: str | None = None) -> tuple[Scene, Question]:
    """Scene number `index` of the stream with one question; without `kind` the types take turns.

    The kind FINE stands for fine scenes, asked for digits and shapes in turn.
    """
    kinds: tuple[str, ...]
    if kind == FINE:
        about, kinds = fine_scene(seed, index), FINE_KINDS
    else:
        about = scene(seed, index)
        kinds = KINDS if kind is None else (kind,)
    rng = np.random.default_rng([seed, index, 2])
    return about, ask(about, kinds[index % len(kinds)], rng)


def words() -> tuple[str, ...]:
    """Every word that questions and answers use, in a fixed order without repeats."""
    grammar = ("color", "shape", "digit", "of", "on", "count", "objects", "any", "yes", "no")
    return grammar + COLOURS + SHAPES + DIGITS


def _keys(thing: SceneObject, things: tuple[SceneObject, ...], kind: str) -> Iterator[str]:
    """Single words that select `thing` without giving away its `kind`."""
    if thing.digit is not None:
        yield thing.digit
    if kind == "color":
        word = thing.shape
        namesakes = [other for other in things if other.shape == word]
    else:
        word = thing.colour
        namesakes = [other for other in things if other.colour == word]
    if len(namesakes) == 1:
        yield word


def _unique_words(thing: SceneObject, things: tuple[SceneObject, ...]) -> Iterator[str]:
    """The colour and the shape of `thing`, each where no other object has it."""
    for word in (thing.colour, thing.shape):
        namesakes = [other for other in things if word in (other.colour, other.shape)]
        if len(namesakes) == 1:
            yield word


def _check(width: int, height: int, complexity: int) -> None:
    """Raise ValueError for a scene that cannot be drawn."""
    least = 5 * TOKEN_PIXELS
    whole = width % TOKEN_PIXELS == 0 and height % TOKEN_PIXELS == 0
    if not whole or min(width, height) < least:
        rule = f"sides must be multiples of {TOKEN_PIXELS} px and at least {least} px"
        raise ValueError(f"scene size {width}x{height}: {rule}")
    if complexity not in COMPLEXITIES:
        raise ValueError(f"complexity {complexity}: known are {COMPLEXITIES}")


def _object_sides(rng: np.random.Generator, count: int, sides: tuple[int, ...]) -> list[int]:
    """The sides of so many objects; where they may be small, one at least can carry a digit."""
    if len(sides) == 1:
        return list(sides) * count
    first = int(rng.choice(SIZES[1:]))
    others = rng.choice(SIZES, size=count - 1, p=(0.4, 0.25, 0.2, 0.15))
    return [first, *map(int, others)]


def _ask_digit(things: tuple[SceneObject, ...], rng: np.random.Generator) -> Question:
    """Ask for the digit on an object, which both its words select, or one that nothing else has."""
    thing = _pick(rng, [thing for thing in things if thing.digit is not None])
    both = f"{thing.colour} {thing.shape}"
    # the pair twice: it stays as likely as both single words together
    keys = [both, both, *_unique_words(thing, things)]
    key = keys[rng.integers(len(keys))]
    assert thing.digit is not None
    return Question("digit", f"digit on {key}", thing.digit, thing.box)


def _exist(things: tuple[SceneObject, ...], rng: np.random.Generator) -> Question:
    """Ask "any red square" or "any red": yes and no equally often.

    Half of the pairs that are absent are recombined from words that are there.
    """
    present = _pick(rng, list(things))
    single = rng.random() < 0.4
    word = (present.colour, present.shape)[rng.integers(2)]
    if rng.random() < 0.5:
        words_of_it = word if single else f"{present.colour} {present.shape}"
        return Question("exist", f"any {words_of_it}", "yes", present.box)
    pairs = {(thing.colour, thing.shape) for thing in things}
    colours = {colour for colour, _ in pairs}
    shapes = {shape for _, shape in pairs}
    words_like_it = COLOURS if word == present.colour else SHAPES
    absent = [other for other in words_like_it if other not in colours | shapes]
    if single and absent:
        return Question("exist", f"any {absent[rng.integers(len(absent))]}", "no", None)
    missing = [pair for pair in product(COLOURS, SHAPES) if pair not in pairs]
    hard = [pair for pair in missing if pair[0] in colours and pair[1] in shapes]
    options = hard if hard and rng.random() < 0.5 else missing
    colour, shape = options[rng.integers(len(options))]
    return Question("exist", f"any {colour} {shape}", "no", None)


def _pick(rng: np.random.Generator, things: list[SceneObject]) -> SceneObject:
    """One of the things, each equally often."""
    return things[rng.integers(len(things))]


def _place(
    rng: np.random.Generator, sides: list[int], width: int, height: int, allowed: tuple[int, ...]
) -> list[Box]:
    """Boxes of the given sides, largest first, at least 6 px apart.

    One that finds no place shrinks to the next of the `allowed` sides.
    """
    for _ in range(20):
        boxes: list[Box] = []
        for side in sides:
            sizes = [size for size in reversed(allowed) if size <= side]
            box = _free_box(rng, sizes, width, height, boxes)
            if box is None:  # the large ones lie badly: start over
                break
            boxes.append(box)
        else:
            return boxes
    raise ValueError(f"no place for {len(sides)} objects in {width}x{height} px")


def _free_box(
    rng: np.random.Generator, sizes: list[int], width: int, height: int, others: list[Box]
) -> Box | None:
    """A box apart from the others, of the first size that has a place; None where none has."""
    for size in sizes:
        for _ in range(60):
            box = _throw(rng, size, width, height)
            if all(_apart(box, other) for other in others):
                return box
    return None


def _throw(rng: np.random.Generator, side: int, width: int, height: int) -> Box:
    """A random square.

    The smallest objects lie within what one token sees, so that it is all their evidence.
    """
    corner = []
    for edge in (width, height):
        if side == SIZES[0]:
            token = int(rng.integers(0, edge // TOKEN_PIXELS))
            inside = int(rng.integers(0, TOKEN_PIXELS - side + 1))
            corner.append(token * TOKEN_PIXELS + inside)
        else:
            # two pixels from either edge; the upper bound is exclusive
            corner.append(int(rng.integers(2, edge - side - 1)))
    x, y = corner
    return x, y, x + side, y + side


def _apart(a: Box, b: Box, gap: int = 6) -> bool:
    """Whether at least that many pixels lie between two boxes, across or down."""
    left, top, right, bottom = b
    across = a[2] + gap <= left or right + gap <= a[0]
    down = a[3] + gap <= top or bottom + gap <= a[1]
    return across or down
