"""Report keys: what `prunebench report` can be asked for beside a study's tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prunebench.border.bounds import Bound
from prunebench.run import options
from prunebench.run.keys import check_values, key
from prunebench.run.options import OptionError

FORMATS = ("pdf", "svg", "png")


@dataclass
class ReportKeys:
    """A page with pictures or beside another study, and figures and tables for a paper."""

    compare: str | None = key(
        None, "Another study, whose numbers the page sets beside these.", "compare=results/before"
    )
    pictures: int | None = key(
        None,
        "How many questions of every model and task run again, so that the page shows their image "
        "and the tokens that were kept; null leaves the pictures that are there.",
        "pictures=12",
        Bound(least=0, most=48),
    )
    paper: str | None = key(
        None, "A folder to write figures and tables for a paper to.", "paper=paper/figures"
    )
    methods: list[str] = key(
        [],
        "The methods that are in them, in this order; none named: all.",
        "methods=fastv,divprune",
    )
    rename: list[str] = key(
        [], "What methods are called in them.", "rename=fastv:FastV,divprune:DivPrune"
    )
    order: str = key(
        "name",
        "Where methods are not named one by one: by name, or by mean accuracy.",
        "order=accuracy",
        Bound(choices=("name", "accuracy")),
    )
    format: str = key("pdf", "Of the figures.", "format=svg", Bound(choices=FORMATS))
    size: str = key("3.3x2.6", "Inches that a panel of a figure is wide and high.", "size=2.4x2.0")


LISTS = ("methods", "rename")


def read(texts: Iterable[str]) -> ReportKeys:
    """The keys that key=value texts set; raises OptionError or GridError."""
    content: dict[str, Any] = {}
    for name in options.override(content, texts, ReportKeys, LISTS):
        raise OptionError(f"unknown key {name}")
    keys = options.structured(ReportKeys, content)
    check_values(keys)
    return keys
