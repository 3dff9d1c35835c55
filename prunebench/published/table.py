"""Table: the printed numbers as they were read, a row an observation."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

import pandas as pd

from prunebench.border.text import one_line

FILE = Path(__file__).with_name("published.csv.gz")

OWN_PAPER = "own paper"

SUFFIXES = ("-hf", "-instruct", "-ov")
"""What names of checkpoints end in that names of models do without."""

SPELLINGS = {
    "llava-v1.5": "llava-1.5",
    "llava-v1.6-vicuna": "llava-next",
    "llava-v1.6": "llava-next",
    "onevision-qwen2-": "onevision-",
}
"""What stands in checkpoints' names, and how tables write it."""

SIZES = {
    "internvl3": "-8b",
    "llava-1.5": "-7b",
    "llava-next": "-7b",
    "llava-onevision": "-7b",
    "qwen2-vl": "-7b",
    "qwen2.5-vl": "-7b",
    "qwen3-vl": "-8b",
}
"""The size that a short name without one stands for in a grid."""


class PublishedError(ValueError):
    """A name that no printed table has."""


@cache
def read() -> pd.DataFrame:
    """All observations. Callers do not change it: it is read once."""
    table = pd.read_csv(FILE, dtype={"source": str}, keep_default_na=False, na_values=[""])
    return table.fillna({"note": ""})


@cache
def names(column: str) -> frozenset[str]:
    """All that stands in a column."""
    return frozenset(map(str, read()[column]))


def known(column: str, name: str) -> str:
    """The name, where some row has it; raises PublishedError that names the next ones."""
    if name in names(column):
        return name
    near = get_close_matches(name, sorted(names(column)), n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise PublishedError(f"no printed table has {column} {one_line(name, 80)!r}{hint}")


def model_name(name: str) -> str:
    """What tables call a model that a grid names by its short name, its hub id or its folder."""
    stem = name.rstrip("/").rpartition("/")[2].lower()
    shorter = ""
    while stem != shorter:
        shorter = stem
        for suffix in SUFFIXES:
            stem = stem.removesuffix(suffix)
    for part, plain in SPELLINGS.items():
        stem = stem.replace(part, plain)
    return stem + SIZES.get(stem, "")
