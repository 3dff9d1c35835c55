"""Report: tables, leaderboard and figures, folded from a study's cells by what stands in files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunebench.report import cells, figures, leaderboard, tables
from prunebench.report.cells import ReportError
from prunebench.report.screen import terminal

__all__ = ["Report", "ReportError", "build", "terminal"]


@dataclass(frozen=True)
class Report:
    """What was written for a study, and what a reader should know about it; `terminal(study)` prints the leaderboard."""

    study: Path
    metrics: Path
    leaderboard: Path
    figures: tuple[Path, ...]
    warnings: tuple[str, ...]


def build(study: Path) -> Report:
    """Write metrics.csv, leaderboard.csv and figures/*.png from the cells that are there, all of them or some.

    A damaged cell becomes a warning. Raises ReportError where there is no finished cell, or the folder is not writable.
    """
    study = Path(study)
    found, warnings = cells.read(study)
    metrics = tables.write_csv(study / "metrics.csv", tables.metrics(found))
    board = tables.write_csv(study / "leaderboard.csv", leaderboard.fold(found, warnings.append))
    drawn = figures.draw(leaderboard.load(board), study / "figures")
    if not drawn:
        warnings.append(f"{study.name} has no figures: no method has both accuracy and tokens, FLOPs or time yet")
    return Report(study, metrics, board, tuple(drawn), tuple(dict.fromkeys(warnings)))
