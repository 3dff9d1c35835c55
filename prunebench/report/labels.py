"""Labels: names beside points, moved until none covers another, a point or the frame."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

Point = tuple[float, float]
DISTANCES = (12, 18, 26, 36, 50, 66)
TURNS = (4, 3, 5, 2, 6, 12, 13, 11, 14, 10, 0, 8)
OFFSETS = [  # wider than high: a name needs more room to its side
    (1.8 * distance * cos(pi * turn / 8), distance * sin(pi * turn / 8))
    for distance in DISTANCES
    for turn in TURNS
]
CLEARANCE = 6.0


def place(
    ax: Axes, points: Sequence[Point], names: Sequence[str], obstacles: Sequence[Point]
) -> None:
    """Annotate each point at the first place that is free; where none is, at the one that covers
    least.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # fixes the layout, so that pixels mean something
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer: RendererAgg = canvas.get_renderer()  # type: ignore[no-untyped-call]
    frame = ax.get_window_extent(renderer)
    pixels = [tuple(ax.transData.transform(p)) for p in obstacles]
    taken = [
        Bbox.from_bounds(x - CLEARANCE, y - CLEARANCE, 2 * CLEARANCE, 2 * CLEARANCE)
        for x, y in pixels
    ]
    for point, name in zip(points, names, strict=True):
        note = ax.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize="x-small", ha="center", va="center",
            arrowprops={"arrowstyle": "-", "color": "0.4", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}, zorder=6,
            parse_math=False,
        )  # fmt: skip
        note.set_path_effects([withStroke(linewidth=2, foreground="white")])
        best = (float("inf"), OFFSETS[0])
        for offset in OFFSETS:
            cost = _covered(_box(note, offset, renderer), taken, frame)
            best = min(best, (cost, offset), key=lambda found: found[0])
            if cost == 0:
                break
        taken.append(_box(note, best[1], renderer).padded(2))


def _box(note: Annotation, offset: Point, renderer: RendererAgg) -> Bbox:
    """The pixels of the name alone, without its leader, once it is moved to `offset`."""
    note.set_position(offset)
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _covered(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Pixels of `box` that lie on something taken or outside the frame."""
    common = [Bbox.intersection(box, other) for other in taken]
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside is not None else 0.0)
    return outside + sum(part.width * part.height for part in common if part is not None)
