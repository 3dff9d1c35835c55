"""Seeded scenes of coloured, numbered shapes: what is where, and its pixels."""

from dataclasses import dataclass

import numpy as np

from prunebench.testbed.drawing import PALETTE, SHAPES, Pixels, background, paint, silhouette

TOKEN_PIXELS = 28  # px a side of what one LLM token sees: 14-px patches, merged 2x2
COLOURS = tuple(PALETTE)
DIGITS = tuple(str(digit) for digit in range(10))
COMPLEXITIES = (1, 2, 3)
MOST_OBJECTS = 6

SMALLEST, READABLE, WIDE, LARGEST = 26, 40, 56, 104
"""Sides of objects in px: the smallest lies within one token; from READABLE on they carry a digit,
from WIDE on perhaps two.
"""

RESOLUTIONS = {
    (140, 140): 0.08,
    (168, 168): 0.1,
    (224, 168): 0.08,
    (224, 224): 0.14,
    (280, 224): 0.1,
    (224, 336): 0.1,
    (280, 280): 0.1,
    (336, 336): 0.1,
    (448, 336): 0.1,
    (448, 448): 0.1,
}  # (width, height): share; 25 to 256 tokens

FINE_SIZE, FINE_SIDES = (560, 560), (44, 44)
"""Fine scenes: pixels of the image and of its objects, which shrink to 13 px in a thumbnail of 168
px.
"""

ODD_SHARE = 0.15
"""Of the scenes in which nothing else is asked for."""

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
    """One object: what it looks like and where it is. `number` holds its one or two digits, None on
    objects too small to carry any.
    """

    colour: str
    shape: str
    number: str | None
    box: Box

    @property
    def side(self) -> int:
        """Pixels from edge to edge."""
        return self.box[2] - self.box[0]

    @property
    def centre(self) -> tuple[float, float]:
        """x and y in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """Everything a scene is, without its pixels; `complexity` (1..3) sets the clutter behind the
    objects.
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
            x0, y0, _, _ = thing.box
            paint(canvas, x0, y0, thing.side, (red, green, blue), thing.shape, thing.number)
        return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)

    def mask(self) -> Pixels:
        """[height, width]: k where the k-th object covers at least half of a pixel, 0 elsewhere."""
        numbers = np.zeros((self.height, self.width), np.uint8)
        for number, thing in enumerate(self.objects, 1):
            x0, y0, x1, y1 = thing.box
            inside = silhouette(thing.shape, thing.side) >= 0.5
            numbers[y0:y1, x0:x1][inside] = number
        return numbers


def scene(
    seed: int,
    index: int,
    *,
    size: tuple[int, int] | None = None,
    complexity: int | None = None,
    count: int | None = None,
    odd: bool | None = None,
    sides: tuple[int, int] = (SMALLEST, LARGEST),
) -> Scene:
    """The scene number `index` of the stream `seed`: a pure function.

    `size` is (width, height) in pixels, multiples of 28 of at least 140; left out, it, the
    `complexity` and the `count` of objects are drawn, each apart from the others. In an `odd` scene
    all objects but one share their colour, or their shape. `sides` bounds the objects' in pixels.
    ValueError for what cannot be drawn.
    """
    rng = np.random.default_rng([seed, index, 0])
    # all of it is drawn, whatever of it is used: the rest of the scene must not depend on that
    drawn_size = draw_size(rng)
    drawn_complexity = int(rng.choice(COMPLEXITIES))
    drawn_count = int(rng.integers(1, MOST_OBJECTS + 1))
    drawn_odd = bool(rng.random() < ODD_SHARE)
    width, height = drawn_size if size is None else size
    level = drawn_complexity if complexity is None else complexity
    number = drawn_count if count is None else count
    _check(width, height, level, number)
    is_odd = drawn_odd if odd is None else odd
    if is_odd:
        number = max(number, 3)  # of two, neither is the odd one
    boxes = _place(rng, _object_sides(rng, number, sides, min(width, height)), width, height)
    looks = _odd_looks(rng, number) if is_odd else _looks(rng, number)
    objects = []
    for (colour, shape), word, box in zip(looks, _numbers(rng, boxes), boxes, strict=True):
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


def _check(width: int, height: int, complexity: int, count: int) -> None:
    """Raise ValueError for a scene that cannot be drawn."""
    least = 5 * TOKEN_PIXELS
    whole = width % TOKEN_PIXELS == 0 and height % TOKEN_PIXELS == 0
    if not whole or min(width, height) < least:
        rule = f"sides must be multiples of {TOKEN_PIXELS} px and at least {least} px"
        raise ValueError(f"scene size {width}x{height}: {rule}")
    if complexity not in COMPLEXITIES:
        raise ValueError(f"complexity {complexity}: known are {COMPLEXITIES}")
    if not 1 <= count <= MOST_OBJECTS:
        raise ValueError(f"{count} objects: there are 1 to {MOST_OBJECTS}")


def _looks(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Colour and shape of each object, no two alike.

    Often of few colours or shapes, so that some come more than once.
    """
    colour_count, shape_count = int(rng.choice((2, 3, len(COLOURS)))), int(rng.choice((2, 3, 6)))
    if colour_count * shape_count < count:
        shape_count = len(SHAPES)
    colours = rng.permutation(len(COLOURS))[:colour_count].tolist()
    shapes = rng.permutation(len(SHAPES))[:shape_count].tolist()
    looks = []
    for look in rng.choice(colour_count * shape_count, size=count, replace=False).tolist():
        colour, shape = divmod(look, shape_count)
        looks.append((colours[colour], shapes[shape]))
    return looks


def _odd_looks(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """The same with one trait that all share but one of them, whose place is drawn; the other trait
    differs from object to object.
    """
    colours = rng.permutation(len(COLOURS))[:count].tolist()
    shapes = rng.permutation(len(SHAPES))[:count].tolist()
    odd = int(rng.integers(count))
    by_colour = rng.random() < 0.5
    common, other = (colours if by_colour else shapes)[:2]
    looks = []
    for number, (colour, shape) in enumerate(zip(colours, shapes, strict=True)):
        shared = other if number == odd else common
        looks.append((shared, shape) if by_colour else (colour, shared))
    return looks


def _numbers(rng: np.random.Generator, boxes: list[Box]) -> list[str | None]:
    """The number on each object; no two end alike."""
    ones = rng.permutation(len(DIGITS))[: len(boxes)].tolist()
    tens = rng.integers(1, len(DIGITS), size=len(boxes)).tolist()
    wide = rng.random(len(boxes)) < 0.6
    numbers: list[str | None] = []
    for row, (x0, _, x1, _) in enumerate(boxes):
        if x1 - x0 < READABLE:
            numbers.append(None)
        elif x1 - x0 >= WIDE and wide[row]:
            numbers.append(f"{tens[row]}{ones[row]}")
        else:
            numbers.append(DIGITS[ones[row]])
    return numbers


def _object_sides(
    rng: np.random.Generator, count: int, bounds: tuple[int, int], edge: int
) -> list[int]:
    """The sides of so many objects in descending order, whatever their number: a fifth the
    smallest, the others from READABLE on, as many small as large by their logarithm.
    """
    least, most = bounds
    if least == most:
        return [least] * count
    high = min(most, int(0.45 * edge))
    sides = []
    for _ in range(count):
        small, place = rng.random(2)
        side = round(READABLE * (high / READABLE) ** place)
        sides.append(least if small < 0.2 else side)
    return sorted(sides, reverse=True)


def _place(rng: np.random.Generator, sides: list[int], width: int, height: int) -> list[Box]:
    """Boxes of the given sides, largest first, at least 6 px apart; one that finds no place shrinks
    by fifths.
    """
    for _ in range(50):
        boxes: list[Box] = []
        for side in sides:
            box = _free_box(rng, side, width, height, boxes)
            if box is None:  # the large ones lie badly: start over
                break
            boxes.append(box)
        else:
            return boxes
    raise ValueError(f"no place for {len(sides)} objects in {width}x{height} px")


def _free_box(
    rng: np.random.Generator, side: int, width: int, height: int, others: list[Box]
) -> Box | None:
    """A box apart from the others, of the first side that has a place; None where none has."""
    while True:
        for _ in range(30):
            box = _throw(rng, side, width, height)
            if all(_apart(box, other) for other in others):
                return box
        if side <= SMALLEST:
            return None
        side = max(SMALLEST, int(0.8 * side))


def _throw(rng: np.random.Generator, side: int, width: int, height: int) -> Box:
    """A random square.

    The smallest objects lie within what one token sees, so that it is all their evidence.
    """
    corner = []
    for edge, place in zip((width, height), rng.random(2).tolist(), strict=True):
        if side == SMALLEST:
            shifts = TOKEN_PIXELS - side + 1
            token, inside = divmod(int(place * (edge // TOKEN_PIXELS) * shifts), shifts)
            corner.append(token * TOKEN_PIXELS + inside)
        else:
            # two pixels from either edge
            corner.append(2 + int(place * (edge - side - 3)))
    x, y = corner
    return x, y, x + side, y + side


def _apart(a: Box, b: Box, gap: int = 6) -> bool:
    """Whether at least that many pixels lie between two boxes, across or down."""
    left, top, right, bottom = b
    across = a[2] + gap <= left or right + gap <= a[0]
    down = a[3] + gap <= top or bottom + gap <= a[1]
    return across or down
