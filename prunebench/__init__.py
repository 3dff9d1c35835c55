"""prunebench: the comparative benchmark for visual-token pruning in large vision-language models."""

from typing import TYPE_CHECKING

from prunebench.budget import Budget, BudgetError, Stage, alive, cached, solve
from prunebench.pruner import Pruner, ScorePruner
from prunebench.registry import register
from prunebench.select import share, top, windows
from prunebench.sites import INPUT, PIXELS, Site, llm, vision
from prunebench.tokens import Keep, Layout, Signal, Tile, VisualTokens

if TYPE_CHECKING:
    from prunebench.engine.session import prune

__all__ = [
    "INPUT",
    "PIXELS",
    "Budget",
    "BudgetError",
    "Keep",
    "Layout",
    "Pruner",
    "ScorePruner",
    "Signal",
    "Site",
    "Stage",
    "Tile",
    "VisualTokens",
    "alive",
    "cached",
    "llm",
    "prune",
    "register",
    "share",
    "solve",
    "top",
    "vision",
    "windows",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # late: the engine imports transformers, which a method file does not need
    if name == "prune":
        from prunebench.engine.session import prune

        return prune
    raise AttributeError(f"module 'prunebench' has no attribute {name!r}")
