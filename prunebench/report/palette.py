"""Palette: one colour and marker per method for ever, whatever study it stands in; controls are
grey, dashed and hollow.

The number of a method stands in looks.json, to which names are only ever added (`make docs` adds
those of new methods): it decides colour and marker. A method that is not there, such as a file of
the user's own, gets a number from its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from prunebench.study.record import BASELINE

FILE = Path(__file__).with_name("looks.json")

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
GREYS = ("#5a5a5a", "#8c8c8c", "#737373", "#a6a6a6")
DASHES = ((4.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0), (9.0, 2.5), (2.5, 1.0))

COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9")
"""seaborn's colour-blind palette without its grey, which is the controls', and its pale yellow and
pink.
"""

PAIRS = len(COLOURS) * len(MARKERS)
"""7 colours and 11 markers share no factor: so many methods before a pair repeats."""

PLAIN = "#b8b8b8"
"""What stays in the background where there are more methods than a reader can tell apart."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    dashes: tuple[float, ...]
    control: bool

    @property
    def face(self) -> str:
        """What fills the marker."""
        return "white" if self.control else self.colour

    @property
    def edge(self) -> str:
        """What outlines the marker."""
        return self.colour if self.control else "white"

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...]]:
        """As matplotlib takes it; no dashes make a solid line."""
        return 0.0, self.dashes

    @property
    def marker_scale(self) -> float:
        """By how much a marker is drawn larger, to look as large as the others."""
        return 1.7 if self.marker == "*" else 1.0


def looks(methods: Sequence[str], controls: Sequence[str]) -> dict[str, Look]:
    """A look for every method. Those in looks.json have theirs; another one whose pair is used in
    this study moves on to the next that is free.
    """
    by_method = {BASELINE: Look("black", "*", (5.0, 2.0), False)}
    compared = sorted(set(methods) - set(controls) - {BASELINE})
    numbered = numbers()
    places = {name: numbered[name] % PAIRS for name in compared if name in numbered}
    used = {*places.values()}
    for name in compared:
        if name not in places:
            places[name] = _free(_number(name), used)
            used.add(places[name])
    for name in compared:
        place = places[name]
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        by_method[name] = Look(colour, marker, (), False)
    for place, name in enumerate(sorted(set(controls) - {BASELINE})):
        grey, marker = GREYS[place % len(GREYS)], MARKERS[place % len(MARKERS)]
        by_method[name] = Look(grey, marker, DASHES[place % len(DASHES)], True)
    return by_method


@cache
def numbers() -> dict[str, int]:
    """The number of every method that has one for ever."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def with_new(names: Sequence[str]) -> str:
    """looks.json with a number for each of the names that has none yet."""
    numbered = dict(numbers())
    for name in sorted(set(names) - set(numbered)):
        numbered[name] = max(numbered.values(), default=-1) + 1
    return json.dumps(numbered, indent=2) + "\n"


def _number(name: str) -> int:
    """A number that belongs to the name."""
    return int.from_bytes(sha256(name.encode("utf-8", "replace")).digest()[:4]) % PAIRS


def _free(number: int, used: set[int]) -> int:
    """The first number from this one on that is not used; the number itself where all are."""
    for step in range(PAIRS):
        place = (number + step) % PAIRS
        if place not in used:
            return place
    return number
