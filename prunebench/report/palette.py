"""Palette: one colour and marker per method, the same in every figure; controls are grey, dashed
and hollow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunebench.study.record import BASELINE

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
GREYS = ("#5a5a5a", "#8c8c8c", "#737373", "#a6a6a6")
DASHES = ((4.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0), (9.0, 2.5), (2.5, 1.0))
USABLE = (0, 1, 2, 3, 4, 5, 9)
"""Of seaborn's colour-blind palette: without its grey, which is the controls', and its pale yellow
and pink.
"""


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
    """A look for every method by its place in the alphabet; markers outnumber colours, so pairs
    repeat late.
    """
    import seaborn as sns  # here, as it takes a second that a study without figures need not wait

    palette = sns.color_palette("colorblind").as_hex()
    colours = [palette[place] for place in USABLE]
    compared = sorted(set(methods) - set(controls) - {BASELINE})
    by_method = {BASELINE: Look("black", "*", (5.0, 2.0), False)}
    for place, name in enumerate(compared):
        # 7 colours and 11 markers share no factor: 77 methods before a pair repeats
        colour, marker = colours[place % len(colours)], MARKERS[place % len(MARKERS)]
        by_method[name] = Look(colour, marker, (), False)
    for place, name in enumerate(sorted(set(controls) - {BASELINE})):
        grey, marker = GREYS[place % len(GREYS)], MARKERS[place % len(MARKERS)]
        by_method[name] = Look(grey, marker, DASHES[place % len(DASHES)], True)
    return by_method
