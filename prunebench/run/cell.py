"""Cell: one point of a grid, its readable id, and the method variant in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prunebench import registry
from prunebench.budget import Budget
from prunebench.identity import Unhashable, code_digest, plain
from prunebench.pruner import Pruner, has_own
from prunebench.study.record import BASELINE, BLIND, OWN, Kind

WITHOUT_BUDGET = {BASELINE: "1.0", BLIND: "0"}
"""What stands in the place of the budget of what ignores it."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A method with its settings under the label that tables show; `name` is what the registry
    knows (a name or a file).
    """

    label: str
    name: str
    pruner: Pruner
    positions: Literal["original", "compact"] | None = None

    @cached_property
    def has_own(self) -> bool:
        """Whether it has an operating point of its own, and needs no budget."""
        return has_own(self.pruner)

    def settings(self) -> dict[str, Any]:
        """All settings as plain data, defaults included; one that is none stands as the name of its
        type.
        """
        settings = {}
        for name, value in registry.settings(self.pruner).items():
            settings[name] = _plain(value, name)
        if self.positions is not None:
            settings["positions"] = self.positions
        return settings

    def entry(self) -> dict[str, Any]:
        """The mapping that stands for it in a grid: what can be written there, which the method's
        own code makes whole.
        """
        entry: dict[str, Any] = {"name": self.name, "label": self.label}
        for name, value in registry.settings(self.pruner).items():
            if _can_be_written(value):
                entry[name] = list(value) if isinstance(value, tuple) else value
        if self.positions is not None:
            entry["positions"] = self.positions
        return entry

    def __eq__(self, other: object) -> bool:
        """Whether both are one method with the same settings, code included."""
        if not isinstance(other, Variant):
            return NotImplemented
        return self._all() == other._all()

    def __hash__(self) -> int:
        return hash((self.label, self.name, json.dumps(self.settings(), sort_keys=True)))

    def _all(self) -> tuple[Any, ...]:
        """Everything that makes it this variant."""
        return self.label, self.name, self.settings(), self.source()

    def source(self) -> str:
        """A hash of the method's code as it was loaded: an edited method is another method."""
        return code_digest(self.pruner)


def _plain(value: Any, name: str) -> Any:
    """A setting as plain data, or the name of its type."""
    try:
        return plain(value, name)
    except Unhashable:
        return f"<{type(value).__name__}>"


def _can_be_written(value: Any) -> bool:
    """Whether a setting can be written into a grid and read back equal."""
    if isinstance(value, tuple | list):
        return all(map(_can_be_written, value))
    if isinstance(value, float):
        return value == value  # a NaN would not read back equal
    return value is None or type(value) in (bool, int, str)


@dataclass(frozen=True)
class Cell:
    """One model, method, budget, task and seed; `kind` says whether answers or costs are measured.
    No budget have the baseline, which keeps all, the blind control, which keeps nothing, and a
    method at an operating point of its own.
    """

    kind: Kind
    model: str
    variant: Variant
    budget: Budget | None
    task: str
    seed: int

    @property
    def amount(self) -> str:
        """The budget without its kind."""
        if self.budget is not None:
            return str(self.budget.amount)
        return WITHOUT_BUDGET.get(self.variant.name, OWN)

    @property
    def budget_kind(self) -> str:
        """What the budget counts; empty where there is none."""
        return "" if self.budget is None else self.budget.kind

    @property
    def id(self) -> str:
        """Readable, and safe as a folder's name."""
        kind = f"{self.budget_kind}-" if self.budget_kind not in ("", "mean") else ""
        parts = [
            slug(self.model),
            # a label was checked to be a file name where the grid was read
            self.variant.label,
            kind + self.amount,
            slug(self.task),
            f"s{self.seed}",
        ]
        return "__".join([*parts, "cost"] if self.kind == "cost" else parts)


def shown(name: str) -> str:
    """A model's or task's name as tables have it: of a path only the last part, for the rest is one
    machine's.
    """
    path = Path(name)
    if not path.exists() and not name.startswith((".", "/", "~")):
        return name
    return path.resolve().stem if path.suffix in (".yaml", ".yml") else path.resolve().name


def slug(name: str) -> str:
    """The same as part of a file name: hub ids with -- for the slash."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", shown(name).replace("/", "--"))
