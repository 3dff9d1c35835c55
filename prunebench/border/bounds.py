"""Bounds: what an option may be, declared where the option is, and checked when its dataclass is
made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from prunebench.border.text import one_line

KEY = "bound"
"""Where a field's metadata hold its bound."""


class BoundsError(ValueError):
    """An option with a value that it cannot have."""


@dataclass(frozen=True)
class Bound:
    """The values of one option: numbers from `least` to `most`, or the `choices`.

    `open_below` and `open_above` say that the ends themselves are outside.
    """

    whole: bool = False
    least: float | None = None
    most: float | None = None
    open_below: bool = False
    open_above: bool = False
    choices: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the option may have the value; NaN, infinity and booleans it never may."""
        if self.choices:
            return value in self.choices
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if self.open_below and value == self.least:
            return False
        if self.open_above and value == self.most:
            return False
        low = -inf if self.least is None else self.least
        high = inf if self.most is None else self.most
        # NaN is neither below nor above anything, and so outside
        return low <= value <= high and abs(value) != inf

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        parts = ["a whole number" if self.whole else "a number"]
        if self.least is not None:
            word = "above" if self.open_below else "from"
            parts.append(f"{word} {self.least:,}")
        if self.most is not None:
            word = "up to" if self.open_below else "to"
            if self.open_above:
                word = "below"
            parts.append(f"{word} {self.most:,}")
        return " ".join(parts)


def whole(default: int | None, least: int, most: int) -> Any:
    """A field that is a whole number from `least` to `most`."""
    return field(default=default, metadata={KEY: Bound(whole=True, least=least, most=most)})


def number(
    default: float | None,
    least: float | None = None,
    most: float | None = None,
    *,
    open_below: bool = False,
    open_above: bool = False,
) -> Any:
    """A field that is a finite number."""
    bound = Bound(least=least, most=most, open_below=open_below, open_above=open_above)
    return field(default=default, metadata={KEY: bound})


def choice(default: str, choices: Sequence[str]) -> Any:
    """A field that is one of a few words."""
    return field(default=default, metadata={KEY: Bound(choices=tuple(choices))})


def check(options: Any) -> None:
    """Raise BoundsError for the first field of a dataclass that lies outside its bound; None where
    that is the default passes.
    """
    for option in fields(options):
        bound: Bound | None = option.metadata.get(KEY)
        value = getattr(options, option.name)
        if bound is None or (value is None and option.default is None):
            continue
        if not bound.holds(value):
            raise BoundsError(f"{option.name} is {shown(value)}; it is {bound}")


def path(option: str, text: str) -> Path:
    """The path of an option, with ~ for the home; raises BoundsError where that is nobody's."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BoundsError(
            f"{option} is {shown(text)}, whose home is not known; write the whole path"
        ) from None


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message, on one short line."""
    if isinstance(value, int) and abs(value) >= 10**limit:
        # Python refuses to write out the longest ones
        return f"a whole number of more than {limit} digits"
    return one_line(repr(value), limit)
