"""Agreement: how far sources agree that print the same method, budget and benchmark.

One value a source; averages over benchmarks are left out, and so is the table that is a copy of
another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from prunebench.published.table import read

KEY = ["model", "method", "benchmark", "metric", "budget_kind", "budget", "finetuned"]
"""What two sources must share to have printed the same."""

COPY = ("Tencent/AngelSlim@67394ce", "7b")
"""A source and the models of which its table is IDPruner's."""

MME = "mme"
"""The benchmark whose points are of 2,800."""

VIDEOS = (
    "activitynetqa",
    "egoschema",
    "longvideobench",
    "mlvu",
    "msrvtt",
    "msvd",
    "mvbench",
    "nextqa",
    "perceptiontest",
    "tgif",
    "videochatgpt",
    "videomme",
)
"""How names of benchmarks begin that show videos."""

DECIMALS = 6
"""Numbers are printed with fewer; what differs behind these is arithmetic."""


@dataclass(frozen=True)
class Agreement:
    """How far apart printed values of the same are: one row of the table of spreads.

    `threshold` is what counts as a difference beyond rounding.
    """

    name: str
    keys: int
    differing: int
    threshold: float
    beyond: int
    median: float
    median_beyond: float
    ninetieth: float
    maximum: float
    above: tuple[int, int, int]


def spread() -> pd.DataFrame:
    """A row a key that at least two sources print: their count, the least and the most, and how far
    apart these are, in points and in percent of the tables' own unpruned values.
    """
    rows = _compared()
    rows["share"] = 100 * rows["value"] / rows["upper_bound"]
    one_a_source = rows.groupby([*KEY, "source"])[["value", "share"]].first()
    groups = one_a_source.groupby(KEY)
    table = pd.DataFrame(
        {
            "sources": groups["value"].count(),
            "low": groups["value"].min(),
            "high": groups["value"].max(),
            "share_spread": groups["share"].max() - groups["share"].min(),
            "shares": groups["share"].count(),
        }
    )
    table = table[table["sources"] > 1].reset_index()
    table["spread"] = (table["high"] - table["low"]).round(DECIMALS)
    return table


def agreements() -> Iterator[Agreement]:
    """The table of spreads: all, images, videos, and MME in its own points."""
    table = spread()
    is_mme = table["benchmark"] == MME
    is_video = table["benchmark"].str.startswith(VIDEOS)
    yield _agreement("points, all", table.loc[~is_mme, "spread"], 0.1)
    yield _agreement("image", table.loc[~is_mme & ~is_video, "spread"], 0.1)
    yield _agreement("video", table.loc[~is_mme & is_video, "spread"], 0.1)
    yield _agreement("MME (of 2,800)", table.loc[is_mme, "spread"], 1.0)


def disputes(count: int) -> pd.DataFrame:
    """The keys, MME apart, whose printed values are furthest apart, the widest of every method and
    benchmark.
    """
    table = spread()
    table = table[table["benchmark"] != MME].sort_values("spread", ascending=False, kind="stable")
    return table.drop_duplicates(["method", "benchmark"]).head(count)


def _compared() -> pd.DataFrame:
    """The observations that can be set against each other."""
    table = read()
    source, size = COPY
    is_copy = (table["source"] == source) & table["model"].str.contains(size)
    return table[(table["benchmark"] != "average") & ~is_copy].copy()


def _agreement(name: str, spreads: pd.Series[float], threshold: float) -> Agreement:
    beyond = spreads[spreads > threshold]
    above = [int((spreads > bound).sum()) for bound in (1, 5, 10)]
    return Agreement(
        name,
        len(spreads),
        int((spreads > 0).sum()),
        threshold,
        len(beyond),
        float(spreads.median()),
        float(beyond.median()),
        float(spreads.quantile(0.9)),
        float(spreads.max()),
        (above[0], above[1], above[2]),
    )
