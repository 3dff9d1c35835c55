"""Questions about clips and pairs of pictures, whose answers and evidence are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np

from prunebench.testbed.clips import MOMENTS, Clip, Pair, clip, pair
from prunebench.testbed.drawing import SHAPES
from prunebench.testbed.questions import SIDES, side_of
from prunebench.testbed.scenes import COLOURS, Box, SceneObject

T = TypeVar("T")
Film = TypeVar("Film", Clip, Pair)

ORDINALS = ("first", "second")
YES_NO = ("yes", "no")
LOOKS = (*COLOURS, *SHAPES)

CLIP_ANSWERS: dict[str, tuple[str, ...]] = {
    "glimpse": LOOKS,
    "sight": LOOKS,
    "moment": tuple(str(moment + 1) for moment in range(MOMENTS)),
    "snapshot": COLOURS,
    "start": LOOKS,
    "motion": LOOKS,
    "heading": SIDES,
    "order": YES_NO,
}
PAIR_ANSWERS: dict[str, tuple[str, ...]] = {
    "picture": ORDINALS,
    "inside": LOOKS,
    "addition": LOOKS,
    "alteration": SHAPES,
    "more": ORDINALS,
    "bigger": ORDINALS,
}
"""The kinds of questions about either, and what the answers to each are balanced over."""

CLIP_KINDS, PAIR_KINDS = tuple(CLIP_ANSWERS), tuple(PAIR_ANSWERS)

LEAST_WAY = 28
"""Pixels from where something enters to where it leaves, whose direction is asked."""

ANOTHER = 10_000_000
"""As in `questions`: how far apart in a stream the films lie among which one is looked for."""

Sighting = tuple[int, Box]
"""The number of a picture, or of a clip's moment, and a box in it."""


@dataclass(frozen=True)
class FilmQuestion:
    """A question with its one right answer.

    `evidence` holds, for every object that must be seen, all places of which one is enough.
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[tuple[Sighting, ...], ...]


Option = tuple[str, str, tuple[tuple[Sighting, ...], ...]]
"""An answer, its question, and its evidence."""

Actor = tuple[SceneObject | None, ...]


def ask_clip(
    about: Clip, kind: str, rng: np.random.Generator, answer: str | None = None
) -> FilmQuestion | None:
    """A question of `kind` (one of CLIP_KINDS) about the clip, None where there is none, or none
    with that `answer`. Left out, every answer that the clip has is as likely.
    """
    return _asked(_CLIP_OPTIONS, about, kind, rng, answer)


def ask_pair(
    about: Pair, kind: str, rng: np.random.Generator, answer: str | None = None
) -> FilmQuestion | None:
    """The same about a pair (PAIR_KINDS)."""
    return _asked(_PAIR_OPTIONS, about, kind, rng, answer)


def sample_clip(
    seed: int, index: int, kinds: Sequence[str] = CLIP_KINDS
) -> tuple[Clip, FilmQuestion]:
    """Clip number `index` of the stream with one question; several kinds take turns, and answers
    are balanced: one is drawn, and a clip looked for that has it.
    """
    return _sampled(clip, ask_clip, CLIP_ANSWERS, seed, index, kinds)


def sample_pair(
    seed: int, index: int, kinds: Sequence[str] = PAIR_KINDS
) -> tuple[Pair, FilmQuestion]:
    """The same of pairs."""
    return _sampled(pair, ask_pair, PAIR_ANSWERS, seed, index, kinds)


def film_words() -> tuple[str, ...]:
    """The words that these questions and answers use beside those of the scenes, in a fixed order
    without repeats.
    """
    return (
        "moment",
        "at",
        "in",
        "moving",
        "new",
        "before",
        "picture",
        *ORDINALS,
        "more",
        "changed",
    )


def _asked(
    kinds: Mapping[str, Callable[[Film], Iterator[Option]]],
    about: Film,
    kind: str,
    rng: np.random.Generator,
    answer: str | None,
) -> FilmQuestion | None:
    if kind not in kinds:
        raise ValueError(f"unknown question type {kind!r}: known are {', '.join(kinds)}")
    options: dict[str, list[Option]] = {}
    for option in kinds[kind](about):
        options.setdefault(option[0], []).append(option)
    if answer is None:
        answer = _pick(rng, list(options)) if options else ""
    if answer not in options:
        return None
    right, text, evidence = _pick(rng, options[answer])
    return FilmQuestion(kind, text, right, evidence)


def _sampled(
    make: Callable[[int, int], Film],
    ask: Callable[..., FilmQuestion | None],
    answers: Mapping[str, tuple[str, ...]],
    seed: int,
    index: int,
    kinds: Sequence[str],
) -> tuple[Film, FilmQuestion]:
    kind = kinds[index % len(kinds)]
    if kind not in answers:
        raise ValueError(f"unknown question type {kind!r}: known are {', '.join(answers)}")
    rng = np.random.default_rng([seed, index, 7])
    answer = _pick(rng, answers[kind])
    for number in range(index, index + 400 * ANOTHER, ANOTHER):
        about = make(seed, number)
        question = ask(about, kind, rng, answer)
        if question is not None:
            return about, question
    raise ValueError(f"no film near {index} of stream {seed} has a question of type {kind!r}")


def _glimpse(about: Clip) -> Iterator[Option]:
    """How does it look, of what is seen at one moment alone?"""
    for actor in about.actors:
        places = _seen(actor)
        if len(places) != 1:
            continue
        (thing,) = (thing for thing in actor if thing is not None)
        for key in _keys(actor, about.actors):
            if key == thing.shape:
                yield thing.colour, f"color of {key}", (places,)
            else:
                yield thing.shape, f"shape of {key}", (places,)


def _sight(about: Clip) -> Iterator[Option]:
    """How does it look, of what is alone at that moment?"""
    for moment, picture in enumerate(about.pictures):
        if len(picture.objects) == 1:
            (thing,) = picture.objects
            evidence = (((moment, thing.box),),)
            yield thing.colour, f"color at {moment + 1}", evidence
            yield thing.shape, f"shape at {moment + 1}", evidence


def _moment(about: Clip) -> Iterator[Option]:
    """When is it seen, of what is seen at one moment alone?"""
    for actor in about.actors:
        places = _seen(actor)
        if len(places) == 1:
            moment = places[0][0]
            for key in _keys(actor, about.actors):
                yield str(moment + 1), f"moment of {key}", (places,)


def _snapshot(about: Clip) -> Iterator[Option]:
    """Which colour has it then, of what changes?"""
    for actor in about.actors:
        looks = [thing for thing in actor if thing is not None]
        if len({thing.colour for thing in looks}) == 1:
            continue
        for key in _keys(actor, about.actors, ("shape",)):
            for (moment, box), thing in zip(_seen(actor), looks, strict=True):
                yield thing.colour, f"color at {moment + 1} of {key}", (((moment, box),),)


def _start(about: Clip) -> Iterator[Option]:
    """What is there at last and was not at first? It is seen wherever it is."""
    new = [actor for actor in about.actors if actor[0] is None and actor[-1] is not None]
    if len(new) == 1:
        yield from _described(new[0][-1], "new", (_seen(new[0]),))


def _motion(about: Clip) -> Iterator[Option]:
    """What is elsewhere at last? It must be seen at both places."""
    moving = _moving(about)
    if moving is not None:
        yield from _described(moving[0], "moving", _places(moving))


def _heading(about: Clip) -> Iterator[Option]:
    """To which side does it move?"""
    moving = _moving(about)
    if moving is None or moving[0] is None or moving[-1] is None:
        return
    (x, y), (later_x, later_y) = moving[0].centre, moving[-1].centre
    side = side_of(later_x - x, later_y - y, LEAST_WAY)
    if side is not None:
        yield side, "side of moving", _places(moving)


def _order(about: Clip) -> Iterator[Option]:
    """Of two that come later: does the one come before the other?"""
    later = [actor for actor in about.actors if actor[0] is None]
    for one, other in permutations(later, 2):
        (first, box), (second, other_box) = _seen(one)[0], _seen(other)[0]
        if first == second:
            continue
        evidence = ((first, box),), ((second, other_box),)
        for key in _keys(one, about.actors):
            for other_key in _keys(other, about.actors):
                yield YES_NO[first > second], f"{key} before {other_key}", evidence


_CLIP_OPTIONS: dict[str, Callable[[Clip], Iterator[Option]]] = {
    "glimpse": _glimpse,
    "sight": _sight,
    "moment": _moment,
    "snapshot": _snapshot,
    "start": _start,
    "motion": _motion,
    "heading": _heading,
    "order": _order,
}


def _picture(about: Pair) -> Iterator[Option]:
    """In which picture is the one object that is so?"""
    for number, thing in _things(about):
        for key in (f"{thing.colour} {thing.shape}", thing.colour, thing.shape):
            if len(_matching(about, key)) == 1:
                yield ORDINALS[number], f"picture of {key}", (((number, thing.box),),)


def _inside(about: Pair) -> Iterator[Option]:
    """How does it look in this picture?"""
    for number, thing in _things(about):
        for key, trait, answer in (
            (thing.shape, "color", thing.colour),
            (thing.colour, "shape", thing.shape),
        ):
            if sum(place == number for place, _ in _matching(about, key)) == 1:
                text = f"{trait} in {ORDINALS[number]} of {key}"
                yield answer, text, (((number, thing.box),),)


def _addition(about: Pair) -> Iterator[Option]:
    """What is in the second picture and not in the first?"""
    if about.change == "new":
        first, second = (picture.objects for picture in about.pictures)
        (thing,) = (thing for thing in second if thing not in first)
        yield from _described(thing, "new", (((1, thing.box),),))


def _alteration(about: Pair) -> Iterator[Option]:
    """What has another colour in the second picture?"""
    if about.change == "changed":
        first, second = (picture.objects for picture in about.pictures)
        (thing,) = (thing for thing in second if thing not in first)
        yield thing.shape, "shape of changed", (((0, thing.box),), ((1, thing.box),))


def _more(about: Pair) -> Iterator[Option]:
    """Which picture has more objects?"""
    first, second = (len(picture.objects) for picture in about.pictures)
    if first != second:
        evidence = tuple(((number, thing.box),) for number, thing in _things(about))
        yield ORDINALS[second > first], "picture of more", evidence


def _bigger(about: Pair) -> Iterator[Option]:
    """In which picture is it larger?"""
    for key in LOOKS:
        match = _matching(about, key)
        if [number for number, _ in match] != [0, 1]:
            continue
        (_, one), (_, other) = match
        if max(one.side, other.side) >= 1.25 * min(one.side, other.side):
            evidence = ((0, one.box),), ((1, other.box),)
            yield ORDINALS[other.side > one.side], f"picture of larger {key}", evidence


_PAIR_OPTIONS: dict[str, Callable[[Pair], Iterator[Option]]] = {
    "picture": _picture,
    "inside": _inside,
    "addition": _addition,
    "alteration": _alteration,
    "more": _more,
    "bigger": _bigger,
}


def _described(
    thing: SceneObject | None, key: str, evidence: tuple[tuple[Sighting, ...], ...]
) -> Iterator[Option]:
    """Its colour and its shape."""
    if thing is not None:
        yield thing.colour, f"color of {key}", evidence
        yield thing.shape, f"shape of {key}", evidence


def _seen(actor: Actor) -> tuple[Sighting, ...]:
    """Where an object of a clip is, moment by moment."""
    return tuple((moment, thing.box) for moment, thing in enumerate(actor) if thing is not None)


def _places(actor: Actor) -> tuple[tuple[Sighting, ...], ...]:
    """Each of the places of an object, with all moments at which it is there."""
    places: dict[Box, list[Sighting]] = {}
    for sighting in _seen(actor):
        places.setdefault(sighting[1], []).append(sighting)
    return tuple(tuple(sightings) for sightings in places.values())


def _moving(about: Clip) -> Actor | None:
    """The one object of several places; None where there is none, or more than one."""
    moving = [actor for actor in about.actors if len(_places(actor)) > 1]
    return moving[0] if len(moving) == 1 else None


def _keys(
    actor: Actor, actors: Sequence[Actor], traits: tuple[str, ...] = ("colour", "shape")
) -> Iterator[str]:
    """What an object of a clip always has, and no other ever has."""
    for trait in traits:
        own = _values(actor, trait)
        others = [_values(other, trait) for other in actors if other is not actor]
        if len(own) == 1 and not any(own & values for values in others):
            yield from own


def _values(actor: Actor, trait: str) -> set[str]:
    return {getattr(thing, trait) for thing in actor if thing is not None}


def _things(about: Pair) -> Iterator[tuple[int, SceneObject]]:
    """Every object of a pair, with the number of its picture."""
    for number, picture in enumerate(about.pictures):
        for thing in picture.objects:
            yield number, thing


def _matching(about: Pair, key: str) -> list[tuple[int, SceneObject]]:
    """The objects of a pair that have all the words of a key."""
    words = set(key.split())
    return [(n, thing) for n, thing in _things(about) if words <= {thing.colour, thing.shape}]


def _pick(rng: np.random.Generator, things: Sequence[T]) -> T:
    """One of the things, each equally often."""
    return things[int(rng.random() * len(things))]
