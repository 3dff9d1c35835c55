"""The profile of a model as a table and a figure: when what is seen has moved to the answer."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prunebench.border import files
from prunebench.border.text import percent
from prunebench.report import labels
from prunebench.study.profile import ENOUGH, Profile

DPI = 160
SCORE, SEEN, TYPES, NAMES = "#0173b2", "#de8f05", "#a6a6a6", "#595959"

TOP = 1.05
"""Of the axis of scores."""

NAME_HEIGHT = 0.038
"""What the name of a kind takes of the axis of scores."""

NAME_OFFSET, NAME_ROOM = 0.05, 0.17
"""How far behind the last layer names begin, and what they take, as shares of the layers."""


MOST_TICKS = 8
"""Of the axis of layers, which has none where the names stand."""


def rows(profile: Profile) -> list[dict[str, Any]]:
    """A row a layer: the score with its interval when all visual tokens leave before it, the shares
    of attention in the layer before, and the score by kind of question.
    """
    table = []
    for level in profile.levels:
        row: dict[str, Any] = {
            "before_layer": level.before,
            "score": level.score.value,
            "low": level.score.low,
            "high": level.score.high,
            "n": level.score.n,
            "attention_on_image": level.on_image,
            "attention_on_evidence": level.on_evidence,
            "attention_on_evidence_best_head": level.best_head,
        }
        table.append(row | dict(level.by_type))
    return table


def write(profile: Profile, folder: Path) -> list[Path]:
    """profile.csv and profile.png in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows(profile)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    for row in table:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    paths = [files.write(folder / "profile.csv", text.getvalue().encode())]
    picture = io.BytesIO()
    FigureCanvasAgg(figure(profile)).print_figure(picture, dpi=DPI, format="png")
    return [*paths, files.write(folder / "profile.png", picture.getvalue())]


def figure(profile: Profile) -> Figure:
    """The score over the layer before which all visual tokens leave, each kind of question thinly,
    and below it the attention on the evidence.
    """
    whole = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = whole.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _draw_scores(above, profile)
    _draw_attention(below, profile)
    above.tick_params(labelbottom=True)
    above.set_xlabel(
        f"layer before which all visual tokens leave ({profile.layers}: they stay)", fontsize=8
    )
    below.set_xlabel("layer", fontsize=8)
    whole.suptitle(f"{profile.model} on {profile.task}, {profile.samples} questions", fontsize=10)
    return whole


def _draw_scores(axes: Axes, profile: Profile) -> None:
    layers = [level.before for level in profile.levels]
    kinds = profile.levels[-1].by_type
    for place, kind in enumerate(kinds):
        values = [level.by_type[kind] for level in profile.levels]
        label = "" if place else "one kind of question"
        axes.plot(layers, values, color=TYPES, linewidth=0.8, label=label)
    _name_kinds(axes, layers[-1], kinds)
    scores = [level.score for level in profile.levels]
    axes.fill_between(
        layers, [one.low for one in scores], [one.high for one in scores], color=SCORE, alpha=0.2
    )
    axes.plot(
        layers,
        [one.value for one in scores],
        color=SCORE,
        marker="o",
        markersize=4,
        label="all questions, 95 % interval",
    )
    axes.axvline(
        profile.affordable,
        color=SCORE,
        linestyle=":",
        linewidth=1,
        label=f"from layer {profile.affordable} on: {percent(ENOUGH)} of the unpruned score",
    )
    axes.set_ylabel("score")
    axes.set_ylim(0, TOP)
    axes.set_xlim(None, layers[-1] * (1 + NAME_ROOM))
    ticks = MaxNLocator(MOST_TICKS, integer=True).tick_values(0, layers[-1])
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= layers[-1]])
    # no corner is free of lines in every profile
    axes.legend(
        fontsize=7,
        frameon=False,
        ncols=3,
        columnspacing=1.2,
        handlelength=1.6,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
    )


def _name_kinds(axes: Axes, layer: int, scores: Mapping[str, float]) -> None:
    """The kinds of questions behind the ends of their lines, in their order, one above the other
    where they end too close.
    """
    if not scores:
        return
    ordered = sorted(scores.items(), key=lambda entry: entry[1])
    ends = [score for _, score in ordered]
    half = NAME_HEIGHT / 2
    heights = labels.apart(ends, NAME_HEIGHT, half, TOP - half)
    for (kind, score), height in zip(ordered, heights, strict=True):
        axes.annotate(
            kind,
            (layer, score),
            xytext=(layer * (1 + NAME_OFFSET), height),
            textcoords="data",
            fontsize=6,
            color=NAMES,
            va="center",
            parse_math=False,
            # to the middle of its left edge, so that no line runs across another name
            arrowprops={
                "arrowstyle": "-",
                "color": TYPES,
                "linewidth": 0.4,
                "relpos": (0, 0.5),
                "shrinkA": 1,
            },
        )


def _draw_attention(axes: Axes, profile: Profile) -> None:
    for name, label, style in (
        ("best_head", "evidence, best head", "--"),
        ("on_evidence", "evidence, mean over heads", "-"),
    ):
        points = [(one.before - 1, getattr(one, name)) for one in profile.levels]
        points = [(layer, value) for layer, value in points if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=SEEN, linestyle=style, label=label)
    if profile.evidence is not None:
        axes.axhline(
            profile.evidence, color=TYPES, linewidth=0.8, label="evidence's share of tokens"
        )
        axes.legend(fontsize=7, frameon=False)
    axes.set_ylabel("attention of the\nlast prompt token", fontsize=8)
    axes.set_ylim(0, 1)


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.4f}"
