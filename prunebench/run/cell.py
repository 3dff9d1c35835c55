"""Cell: one point of a grid, its readable id, and the method variant in it."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from prunebench import registry
from prunebench.budget import Budget
from prunebench.pruner import Pruner

BASELINE = "none"
"""The method that prunes nothing; what others are relative to."""

Status = Literal["ok", "failed", "oom", "unsupported", "infeasible"]


@dataclass(frozen=True)
class Variant:
    """A method with its settings under the label that tables show; `name` is what the registry knows (a name or a file)."""

    label: str
    name: str
    pruner: Pruner
    positions: Literal["original", "compact"] | None = None

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        own = registry.settings(self.pruner)
        return own if self.positions is None else {**own, "positions": self.positions}

    def entry(self) -> dict[str, Any]:
        """The mapping that stands for it in a grid."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.settings().items()}
        return {"name": self.name, "label": self.label, **plain}

    def source(self) -> str:
        """A hash of the method's file: an edited method is another method."""
        return sha256(Path(inspect.getfile(type(self.pruner))).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One model, method, budget, task and seed; `kind` says whether answers or costs are measured. No budget: the baseline's."""

    kind: str
    model: str
    variant: Variant
    budget: Budget | None
    task: str
    seed: int

    @property
    def amount(self) -> str:
        """The budget without its kind."""
        return "1.0" if self.budget is None else str(self.budget.amount)

    @property
    def budget_kind(self) -> str:
        """What the budget counts; empty for the baseline."""
        return "" if self.budget is None else self.budget.kind

    @property
    def id(self) -> str:
        """Readable, and safe as a folder's name."""
        kind = f"{self.budget_kind}-" if self.budget_kind not in ("", "mean") else ""
        parts = [slug(self.model), self.variant.label, kind + self.amount, slug(self.task), f"s{self.seed}"]
        return "__".join([*parts, "cost"] if self.kind == "cost" else parts)


def shown(name: str) -> str:
    """A model's or task's name as tables have it: of a path only the last part, for the rest is one machine's."""
    path = Path(name)
    if not path.exists() and not name.startswith((".", "/", "~")):
        return name
    return path.resolve().stem if path.suffix in (".yaml", ".yml") else path.resolve().name


def slug(name: str) -> str:
    """The same as part of a file name: hub ids with -- for the slash."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", shown(name).replace("/", "--"))
