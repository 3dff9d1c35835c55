"""Looks: how each method is drawn in the page, the same as in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.border.text import clean
from prunebench.report import palette
from prunebench.study.cells import StoredCell

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "p": "pentagon",
    "h": "hexagon",
    "<": "triangle-left",
    ">": "triangle-right",
    "*": "star",
}
"""matplotlib's markers in plotly's words."""


def of_cells(records: Sequence[StoredCell]) -> dict[str, dict[str, Any]]:
    """By method, its colour, its symbol, and whether it is a control."""
    methods = sorted({cell.method for cell in records})
    controls = sorted({cell.method for cell in records if cell.is_control})
    entries = {}
    for method, look in palette.looks(methods, controls).items():
        entries[clean(method)] = {
            "colour": look.colour,
            "symbol": SYMBOLS[look.marker],
            "control": method in controls,
        }
    return entries
