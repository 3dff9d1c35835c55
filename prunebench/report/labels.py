"""Labels: names beside points, as near to them as they cover nothing, with a line from those that
stand further off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from numpy.typing import NDArray

Point = tuple[float, float]
Line = tuple[Point, Point]
Boxes = NDArray[np.float64]
"""[n, 4] left, low, right and high ends in pixels."""

GAPS = (7, 11, 16, 22, 30, 40, 52, 66)
"""Points between a point and the edge of its name."""

TURNS = (6, 4, 8, 5, 7, 3, 9, 2, 10, 1, 11, 0, 14, 12, 15, 13)
"""Directions in sixteenths of a circle, the best first: above and to the left, where a frontier has
nothing else, then around.
"""

CLEARANCE = 6.0
"""Pixels around a point, and between names, that stay free."""

THICKNESS = 2.0
"""Pixels that a whisker or a line takes to each side."""

LEADER_FROM = 12
"""Points from which on a line joins a name to its point."""

UNREADABLE = 20.0
"""What a covered pixel of a name or a marker costs, in covered pixels of a line."""

FAR = 2.0
"""What a pixel of distance costs, in covered pixels of a line."""

STEPS = 16
"""Places of a leader at which one looks what it runs across."""

ROUNDS = 3
"""How often each name looks for a better place, now that the others have theirs."""

ABOVE_LINES = 6
LEADER = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}


@dataclass(frozen=True)
class _Places:
    """Where one name can stand: its boxes, the gap to its point, what each costs by itself, and
    [n, STEPS, 2] the places of its leader, NaN where it needs none.
    """

    boxes: Boxes
    gaps: NDArray[np.float64]
    costs: NDArray[np.float64]
    leaders: NDArray[np.float64]


def place(
    ax: Axes,
    points: Sequence[Point],
    names: Sequence[str],
    obstacles: Sequence[Point],
    lines: Sequence[Line] = (),
) -> None:
    """Annotate each point where its name covers least and stands nearest; `obstacles` are points
    with a marker, `lines` ends of whiskers and other lines that run straight up or across.
    """
    if not points:
        return
    renderer = _renderer(ax)
    markers = _boxes(ax, [(point, point) for point in obstacles], CLEARANCE)
    covered = _boxes(ax, lines, THICKNESS)
    notes = [_annotation(ax, *named) for named in zip(points, names, strict=True)]
    places = [_places(ax, note, markers, covered, renderer) for note in notes]
    for note, own, best in zip(notes, places, _best(places), strict=True):
        _move(ax, note, own, best, renderer)


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights, which rise, moved as little as leaves a gap between each two, from `low` to
    `high`; what is too much for that room begins at `low`.
    """
    from scipy.optimize import isotonic_regression  # here, for it takes a moment

    # moved down by the gaps below them, names that are apart are those that do not fall
    steps = gap * np.arange(len(heights))
    rising = isotonic_regression(np.asarray(heights, dtype=float) - steps).x
    room = max(low, high - gap * (len(heights) - 1))
    return [float(height) for height in rising.clip(low, room) + steps]


def _renderer(ax: Axes) -> RendererAgg:
    """What draws the figure, once its layout is fixed, so that pixels mean something."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer: RendererAgg = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def _boxes(ax: Axes, lines: Sequence[Line], margin: float) -> Boxes:
    """A box around each line from one of its ends to the other."""
    ends = np.array(lines, dtype=float).reshape(-1, 2)
    pixels = ax.transData.transform(ends).reshape(-1, 2, 2)
    return np.hstack([pixels.min(axis=1) - margin, pixels.max(axis=1) + margin])


def _annotation(ax: Axes, point: Point, name: str) -> Annotation:
    note = ax.annotate(
        name,
        point,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize="x-small",
        ha="center",
        va="center",
        arrowprops=dict(LEADER),
        zorder=ABOVE_LINES,
        parse_math=False,
    )
    note.set_path_effects([withStroke(linewidth=2, foreground="white")])
    return note


# ---- places --------------------------------------------------------------------------------------


def _places(
    ax: Axes, note: Annotation, markers: Boxes, lines: Boxes, renderer: RendererAgg
) -> _Places:
    """Every place of a name, and what it would cover there of all that stands already."""
    note.update_positions(renderer)
    extent = Text.get_window_extent(note, renderer)
    size = np.array([extent.width, extent.height])
    point = ax.transData.transform(note.xy)
    angles = pi / 8 * np.array(TURNS)
    directions = np.tile(np.stack([np.cos(angles), np.sin(angles)], axis=1), (len(GAPS), 1))
    gaps = np.repeat(np.array(GAPS, dtype=float), len(TURNS))
    pixels = renderer.points_to_pixels(gaps)  # type: ignore[no-untyped-call]
    # its edge, not its middle, stands so far off: a name is wider than high
    sides = np.clip(1.5 * directions, -1, 1)
    low = point + pixels[:, None] * directions + (sides - 1) * size / 2
    boxes = np.hstack([low, low + size])
    leaders = _leaders(point, boxes)
    leaders[gaps < LEADER_FROM] = np.nan
    frame = np.array([ax.get_window_extent(renderer).extents])
    outside = size.prod() - _covered(boxes, frame)
    costs = UNREADABLE * (outside + _covered(boxes, markers)) + _covered(boxes, lines)
    costs += FAR * (pixels + CLEARANCE * _crossed(leaders, markers))
    return _Places(boxes, gaps, costs, leaders)


def _leaders(point: NDArray[np.float64], boxes: Boxes) -> NDArray[np.float64]:
    """[n, STEPS, 2] places from just beyond a point to the nearest edge of each box."""
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])
    shares = np.linspace(0, 1, STEPS)[None, :, None]
    places = point + shares * (ends - point)[:, None, :]
    # the point's own marker is not in its way
    places[np.linalg.norm(places - point, axis=2) < 2 * CLEARANCE] = np.nan
    return np.asarray(places)


def _covered(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """[n] pixels of each box that lie on the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray((high - low).clip(min=0).prod(axis=2).sum(axis=1))


def _crossed(leaders: NDArray[np.float64], others: Boxes) -> NDArray[np.float64]:
    """[n] how many places of each leader lie on the others."""
    beyond = leaders[:, :, None, :] >= others[None, None, :, :2]
    within = leaders[:, :, None, :] <= others[None, None, :, 2:]
    return np.asarray((beyond & within).all(axis=3).sum(axis=(1, 2)))


# ---- which of them -------------------------------------------------------------------------------


def _best(places: Sequence[_Places]) -> list[int]:
    """Which place each name takes: in the first round beside those before it, then beside all."""
    choices: dict[int, int] = {}
    for _ in range(ROUNDS):
        for number, own in enumerate(places):
            costs = own.costs.copy()
            for other, place_of_other in choices.items():
                if other != number:
                    costs += _conflicts(own, places[other], place_of_other)
            choices[number] = int(costs.argmin())
    return [choices[number] for number in range(len(places))]


def _conflicts(own: _Places, other: _Places, place_of_other: int) -> NDArray[np.float64]:
    """[n] what it costs that names or their leaders meet."""
    box = other.boxes[[place_of_other]] + CLEARANCE / 2 * np.array([-1, -1, 1, 1])
    leader = other.leaders[place_of_other]
    spots = np.hstack([leader - THICKNESS, leader + THICKNESS])[~np.isnan(leader[:, 0])]
    crossed = _crossed(own.leaders, np.vstack([box, spots]))
    overlap = _covered(own.boxes, np.vstack([box, spots]))
    return UNREADABLE * (overlap + CLEARANCE * crossed)


def _move(ax: Axes, note: Annotation, own: _Places, best: int, renderer: RendererAgg) -> None:
    """Put a name at its place, with a leader where it stands far off."""
    box = own.boxes[best]
    middle = (box[:2] + box[2:]) / 2 - ax.transData.transform(note.xy)
    x, y = middle / renderer.points_to_pixels(1.0)  # type: ignore[no-untyped-call]
    note.set_position((float(x), float(y)))
    if note.arrow_patch is not None:
        note.arrow_patch.set_visible(bool(own.gaps[best] >= LEADER_FROM))
