"""Studies: the committed results as a part of the site, each with its page, tables and figures.

Nothing is folded again: what is shown are the committed tables, and the cells behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prunebench import page
from prunebench.cli import about
from prunebench.study import cells
from prunebench.study.cells import StoredCell

ROOT = Path(__file__).parents[1]

INDEX = "results.md"

SHOWN = ("*.csv", "grid.yaml", "figures/*.png")
"""What of a study's folder is on the site beside its page."""

INTRO = """# Results

The committed studies. A page opens in any browser and asks no network; [its guide](page.md) says
what its views are for, and [Read a leaderboard](tutorials/read_a_leaderboard.md) how not to be
fooled by one. The tables are what the page is made of.

"""


@dataclass(frozen=True)
class Study:
    """A committed study and its cells."""

    folder: Path
    records: tuple[StoredCell, ...]

    @property
    def place(self) -> str:
        """Where it is on the site."""
        return f"results/{self.folder.name}"


@cache
def studies() -> tuple[Study, ...]:
    """Every committed study that has cells; raises ReportError where one is damaged."""
    every = []
    for folder in sorted(path.parent for path in (ROOT / "results").glob("*/cells")):
        records, warnings = cells.read(folder)
        if warnings:
            raise cells.ReportError("; ".join(warnings))
        every.append(Study(folder, tuple(records)))
    return tuple(every)


def files() -> Iterator[tuple[str, bytes]]:
    """By path in the site, what it holds of the studies."""
    for study in studies():
        html, _ = page.made(study.folder, study.records, about.of_cells(study.records))
        yield f"{study.place}/{page.FILE}", html
        for path in shown(study):
            yield f"{study.place}/{path.relative_to(study.folder)}", path.read_bytes()


def shown(study: Study) -> list[Path]:
    """The files of its folder that are on the site."""
    paths: list[Path] = []
    for pattern in SHOWN:
        paths += sorted(study.folder.glob(pattern))
    return paths


def index() -> str:
    """The page that names them all."""
    lines = [
        "| study | models | tasks | methods | questions | tables |",
        "|---|---|---|---|---|---|",
    ]
    for study in studies():
        tables = []
        for path in sorted(study.folder.glob("*.csv")):
            tables.append(f"[{path.stem}]({study.place}/{path.name})")
        row = [
            f"[{study.folder.name}]({study.place}/{page.FILE})",
            _listed({cell.model for cell in study.records}),
            _listed({cell.task for cell in study.records}),
            str(len({cell.method for cell in study.records})),
            str(max((cell.asked or 0) for cell in study.records)),
            ", ".join(tables),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return INTRO + "\n".join(lines) + "\n"


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
