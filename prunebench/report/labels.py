"""Labels: names beside points, moved until none covers another, a point or the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

Point = tuple[float, float]

DISTANCES = (12, 18, 26, 36, 50, 66)
TURNS = (4, 3, 5, 2, 6, 12, 13, 11, 14, 10, 0, 8)
"""Directions in sixteenths of a circle, the best first: above, then below, then to the sides."""

CLEARANCE = 6.0
"""Pixels around a point that stay free."""

ABOVE_LINES = 6
LEADER = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}


def place(
    ax: Axes, points: Sequence[Point], names: Sequence[str], obstacles: Sequence[Point]
) -> None:
    """Annotate each point at the first place that is free; where none is, at the one that covers
    least.
    """
    renderer = _renderer(ax)
    frame = ax.get_window_extent(renderer)
    boxes: list[Bbox] = []
    for obstacle in obstacles:
        x, y = ax.transData.transform(obstacle)
        side = 2 * CLEARANCE
        boxes.append(Bbox.from_bounds(x - CLEARANCE, y - CLEARANCE, side, side))
    for point, name in zip(points, names, strict=True):
        note = _annotation(ax, point, name)
        offset = _best_offset(note, boxes, frame, renderer)
        boxes.append(_box(note, offset, renderer).padded(2))


def _renderer(ax: Axes) -> RendererAgg:
    """What draws the figure, once its layout is fixed, so that pixels mean something."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer: RendererAgg = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return renderer


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


def _best_offset(
    note: Annotation, boxes: Sequence[Bbox], frame: Bbox, renderer: RendererAgg
) -> Point:
    """The first offset at which the name covers nothing, or the one at which it covers least."""
    best, least = OFFSETS[0], float("inf")
    for offset in OFFSETS:
        covered = _covered(_box(note, offset, renderer), boxes, frame)
        if covered < least:
            best, least = offset, covered
        if covered == 0:
            break
    return best


def _box(note: Annotation, offset: Point, renderer: RendererAgg) -> Bbox:
    """The pixels of the name alone, without its leader, once it is moved to `offset`."""
    note.set_position(offset)
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _covered(box: Bbox, others: Sequence[Bbox], frame: Bbox) -> float:
    """Pixels of `box` that lie on one of the others or outside the frame."""
    covered = box.width * box.height
    inside = Bbox.intersection(box, frame)
    if inside is not None:
        covered -= inside.width * inside.height
    for other in others:
        common = Bbox.intersection(box, other)
        if common is not None:
            covered += common.width * common.height
    return covered


def _offsets() -> Iterator[Point]:
    for distance in DISTANCES:
        for turn in TURNS:
            angle = pi * turn / 8
            # wider than high: a name needs more room to its side
            yield 1.8 * distance * cos(angle), distance * sin(angle)


OFFSETS = list(_offsets())
