"""Layers: the visual tokens that enter every layer of the LLM, mean over a cell's samples, and
those that were left behind every seam of the vision encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.sites import Part, Site
from prunebench.study.tables import Row


def entering(rows: Sequence[Row]) -> list[float] | None:
    """[layers] the mean over the samples that were answered; None where none says."""
    counts = [row["entering"] for row in _answered(rows)]
    return [_mean(of_layer) for of_layer in zip(*counts, strict=True)] or None


def encoder(rows: Sequence[Row]) -> dict[str, float] | None:
    """The same of every seam of the vision encoder where some sample lost tokens, by its name;
    None where none did.
    """
    samples = _answered(rows)
    seams: set[Site] = set()
    for row in samples:
        seams.update(site for site in _sites(row) if site.part is Part.VISION)
    means = {}
    for seam in sorted(seams):
        means[str(seam)] = _mean([_behind(row, seam) for row in samples])
    return means or None


def _answered(rows: Sequence[Row]) -> list[Row]:
    """Those of the samples that have an answer, and say what entered each layer."""
    return [row for row in rows if row["error"] is None and row.get("entering") is not None]


def _behind(row: Row, seam: Site) -> int:
    """Tokens alive behind a seam, which may be none of the sample's own."""
    count: int = row["available"]
    for site, kept in zip(_sites(row), row["stages"], strict=True):
        if site <= seam:
            count = kept
    return count


def _sites(row: Row) -> list[Site]:
    return [Site.parse(name) for name in row["sites"].split()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
