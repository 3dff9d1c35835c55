"""Questions about scenes whose answers and evidence are known."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TypeVar

import numpy as np

from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.scenes import (
    COLOURS,
    DIGITS,
    MOST_OBJECTS,
    Box,
    Scene,
    SceneObject,
    fine_scene,
    scene,
)

T = TypeVar("T")

END = "<|im_end|>"
"""What ends an answer."""

FINE, FINE_KINDS = "fine", ("number", "shape")
TURN, TURN_KINDS = "turn", ("color", "shape", "number", "exist")
"""A second turn: a question about another object than the first, each of one of TURN_KINDS."""

SIDES = ("left", "right", "above", "below")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
CELLS = tuple(f"{row} {column}" for row, column in product(ROWS, COLUMNS))

LOOKS = (*COLOURS, *SHAPES)

ANSWERS: dict[str, tuple[str, ...]] = {
    "color": COLOURS,
    "shape": SHAPES,
    "number": ("one digit", "two digits"),
    "exist": ("yes", "no"),
    "count": tuple(str(count) for count in range(1, MOST_OBJECTS + 1)),
    "count_by": ("0", "1", "2", "3"),
    "compare": ("yes", "no"),
    "largest": LOOKS,
    "odd": LOOKS,
    "side": SIDES,
    "cell": CELLS,
}
"""The kinds of questions, and what the answers to each are balanced over."""

KINDS = (*ANSWERS, TURN)

LEAST_GAP = 40
"""Pixels between the centres of two objects of which one is asked to which side of the other."""

CLEARLY = 1.6
"""How many times as far a way leads to its side as along the other axis."""

ANOTHER = 10_000_000
"""How far apart in a stream the scenes lie among which one is looked for that gives an answer."""


@dataclass(frozen=True)
class Question:
    """A question with its one right answer.

    `evidence` holds the boxes of all objects that must be seen for it, none where nothing must.
    `before` is what was asked and answered in an earlier turn.
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[Box, ...]
    before: str = ""

    @property
    def prompt(self) -> str:
        """The text with the earlier turn, as chat templates of the miniatures write it."""
        return f"{self.before}{END} {self.text}" if self.before else self.text


Option = tuple[str, str, tuple[SceneObject, ...]]
"""An answer, its question, and the objects of its evidence."""


def ask(
    about: Scene, kind: str, rng: np.random.Generator, answer: str | None = None
) -> Question | None:
    """A question of `kind` (one of KINDS) about the scene, None where the scene has none of it, or
    none with that `answer` (one of ANSWERS[kind]).

    Left out, every answer that the scene has is as likely. The word that selects the object stands
    last: the answer then starts from the token that knows what to look for.
    """
    if kind == TURN:
        return _second_turn(about, rng)
    if kind not in ANSWERS:
        raise ValueError(f"unknown question type {kind!r}: known are {', '.join(KINDS)}")
    options: dict[str, list[Option]] = {}
    for option in _OPTIONS[kind](about, rng):
        options.setdefault(_group(kind, option[0]), []).append(option)
    if answer is None:
        answer = _pick(rng, list(options)) if options else ""
    if answer not in options:
        return None
    right, text, things = _pick(rng, options[answer])
    return Question(kind, text, right, tuple(thing.box for thing in things))


def sample(seed: int, index: int, kinds: str | Sequence[str] = KINDS) -> tuple[Scene, Question]:
    """Scene number `index` of the stream with one question; several kinds take turns.

    The kind FINE stands for fine scenes, asked for numbers and shapes in turn. Answers are
    balanced: one is drawn, and a scene looked for that has it.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    kind = kinds[index % len(kinds)]
    rng = np.random.default_rng([seed, index, 2])
    fine = kind == FINE
    if fine:
        kind = FINE_KINDS[index // len(kinds) % len(FINE_KINDS)]
    # in fine scenes what there is: they have few answers of a kind
    answer = _pick(rng, ANSWERS[kind]) if kind in ANSWERS and not fine else None
    count = int(answer) if answer and kind == "count" else None
    for number in range(index, index + 200 * ANOTHER, ANOTHER):
        if fine:
            about = fine_scene(seed, number)
        else:
            about = scene(seed, number, count=count, odd=kind == "odd" or None)
        question = ask(about, kind, rng, answer)
        if question is not None:
            return about, question
    raise ValueError(f"no scene near {index} of stream {seed} has a question of type {kind!r}")


def words() -> tuple[str, ...]:
    """Every word that questions and answers use, in a fixed order without repeats."""
    grammar = ("color", "shape", "number", "of", "on", "count", "objects", "any", "yes", "no")
    more = ("larger", "than", "largest", "odd", "side", "from", "cell")
    places = dict.fromkeys((*SIDES, *ROWS, *COLUMNS))
    return (*grammar, *more, *places, *COLOURS, *SHAPES, *DIGITS)


def _group(kind: str, answer: str) -> str:
    """The member of ANSWERS[kind] that an answer belongs to."""
    if kind != "number":
        return answer
    return ANSWERS["number"][answer.count(" ")]


def _colour(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    for thing in about.objects:
        for key in _keys(thing, about.objects, "colour"):
            yield thing.colour, f"color of {key}", (thing,)


def _shape(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    for thing in about.objects:
        for key in _keys(thing, about.objects, "shape"):
            yield thing.shape, f"shape of {key}", (thing,)


def _number(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    for thing in about.objects:
        if thing.number is None:
            continue
        # the pair twice: it stays as likely as both single words together
        pair = f"{thing.colour} {thing.shape}"
        for key in (pair, pair, *_keys(thing, about.objects, "number")):
            yield " ".join(thing.number), f"number on {key}", (thing,)


def _exist(about: Scene, rng: np.random.Generator) -> Iterator[Option]:
    """Half of the pairs that are absent are recombined from words that are there."""
    things = about.objects
    for thing in things:
        pair = f"{thing.colour} {thing.shape}"
        for key in (pair, pair, thing.colour, thing.shape):
            having = [other for other in things if set(key.split()) <= {other.colour, other.shape}]
            if len(having) == 1:
                yield "yes", f"any {key}", (thing,)
    pairs = {(thing.colour, thing.shape) for thing in things}
    colours, shapes = {colour for colour, _ in pairs}, {shape for _, shape in pairs}
    recombined = [pair for pair in product(colours, shapes) if pair not in pairs]
    for _ in range(2):
        if recombined:
            colour, shape = _pick(rng, sorted(recombined))
            yield "no", f"any {colour} {shape}", ()
        colour, shape = _pick(rng, COLOURS), _pick(rng, SHAPES)
        if (colour, shape) not in pairs:
            yield "no", f"any {colour} {shape}", ()
        word = _pick(rng, LOOKS)
        if word not in colours | shapes:
            yield "no", f"any {word}", ()


def _count(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    yield str(len(about.objects)), "count objects", about.objects


def _count_by(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    for word in LOOKS:
        things = [thing for thing in about.objects if word in (thing.colour, thing.shape)]
        yield str(len(things)), f"count {word}", tuple(things)


def _compare(about: Scene, rng: np.random.Generator) -> Iterator[Option]:
    for (first, one), (second, other) in permutations(_named(about, rng), 2):
        if one.side >= 1.25 * other.side:
            yield "yes", f"larger {first} than {second}", (one, other)
            yield "no", f"larger {second} than {first}", (one, other)


def _largest(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    things = tuple(sorted(about.objects, key=lambda thing: -thing.side))
    if len(things) > 1 and things[0].side >= 1.2 * things[1].side:
        yield things[0].colour, "color of largest", things[:1]
        yield things[0].shape, "shape of largest", things[:1]


def _odd(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    things = about.objects
    lone = []
    for trait in ("colour", "shape"):
        values = [getattr(thing, trait) for thing in things]
        if len(things) > 2 and len(set(values)) == 2:
            lone += [thing for thing in things if values.count(getattr(thing, trait)) == 1]
    # one by its colour and another by its shape: neither is the odd one
    if len(lone) == 1:
        yield lone[0].colour, "color of odd", (lone[0],)
        yield lone[0].shape, "shape of odd", (lone[0],)


def _side(about: Scene, rng: np.random.Generator) -> Iterator[Option]:
    for (first, one), (second, other) in permutations(_named(about, rng), 2):
        (x, y), (other_x, other_y) = one.centre, other.centre
        side = side_of(x - other_x, y - other_y, LEAST_GAP)
        if side is not None:
            yield side, f"side of {first} from {second}", (one, other)


def side_of(across: float, down: float, least: float) -> str | None:
    """To which side so many pixels lead: left, right, above or below; None where they are fewer
    than `least`, or as good as diagonal.
    """
    further, nearer = max(abs(across), abs(down)), min(abs(across), abs(down))
    if further < max(least, CLEARLY * nearer):
        return None
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def _cell(about: Scene, _: np.random.Generator) -> Iterator[Option]:
    for thing in about.objects:
        x, y = thing.centre
        across, down = 3 * x / about.width, 3 * y / about.height
        distances = [abs(place - edge) for place, edge in product((across, down), (1, 2))]
        if min(distances) < 0.12:  # where two cells meet
            continue
        cell = f"{ROWS[int(down)]} {COLUMNS[int(across)]}"
        for key in (f"{thing.colour} {thing.shape}", *_keys(thing, about.objects, "place")):
            yield cell, f"cell of {key}", (thing,)


_OPTIONS: dict[str, Callable[[Scene, np.random.Generator], Iterator[Option]]] = {
    "color": _colour,
    "shape": _shape,
    "number": _number,
    "exist": _exist,
    "count": _count,
    "count_by": _count_by,
    "compare": _compare,
    "largest": _largest,
    "odd": _odd,
    "side": _side,
    "cell": _cell,
}


def _second_turn(about: Scene, rng: np.random.Generator) -> Question | None:
    """A question whose evidence is another object than that of the one before it."""
    for _ in range(10):
        first = ask(about, _pick(rng, TURN_KINDS), rng)
        second = ask(about, _pick(rng, TURN_KINDS), rng)
        if first and second and second.evidence and first.evidence != second.evidence:
            before = f"{first.text} {first.answer}"
            return Question(TURN, second.text, second.answer, second.evidence, before)
    return None


def _keys(thing: SceneObject, things: tuple[SceneObject, ...], answer: str) -> Iterator[str]:
    """What selects `thing` and no other, in one word but for numbers, without giving away the
    trait that is the `answer`.
    """
    for trait in ("colour", "shape"):
        value = getattr(thing, trait)
        namesakes = [other for other in things if getattr(other, trait) == value]
        if trait != answer and len(namesakes) == 1:
            yield value
    if answer != "number" and thing.number is not None:
        yield " ".join(thing.number)


def _named(about: Scene, rng: np.random.Generator) -> list[tuple[str, SceneObject]]:
    """The objects that have a key, each with one of its."""
    named = []
    for thing in about.objects:
        keys = list(_keys(thing, about.objects, "place"))
        if keys:
            named.append((_pick(rng, keys), thing))
    return named


def _pick(rng: np.random.Generator, things: Sequence[T]) -> T:
    """One of the things, each equally often."""
    return things[int(rng.random() * len(things))]
