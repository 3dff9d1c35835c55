"""prunebench: the comparative benchmark for visual-token pruning in vision-language models."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunebench.attention_kinds import (
        attention_reads,
        attention_stand_ins,
        check_attention,
        encoder_attention,
        summary_reads,
        tile_summaries,
        whole_summary,
    )
    from prunebench.budget import Budget, BudgetError, Stage, alive, cached, solve
    from prunebench.cluster import density_peaks, distances, joined, means
    from prunebench.depth import late_layer
    from prunebench.engine.session import prune
    from prunebench.greedy import greedy_cover, greedy_map, greedy_marginal
    from prunebench.matching import Pairs, Rows
    from prunebench.models import Loaded, LoadError, load
    from prunebench.pruner import Facts, Pruner, ScorePruner, Unsupported
    from prunebench.reads import Reads
    from prunebench.regions import REGIONS_PORT, in_regions
    from prunebench.registry import build, register
    from prunebench.select import (
        fill,
        pooled,
        require_finite,
        share,
        tile_places,
        top,
        top_of_each,
        windows,
    )
    from prunebench.signals import Signal
    from prunebench.sites import INPUT, PIXELS, Site, llm, vision
    from prunebench.staircase import Staircase, nearest_row, scaled_layer
    from prunebench.tilewise import (
        pick_groups,
        pick_tiles,
        quotas,
        view_places,
        views,
        visible,
        with_newlines,
    )
    from prunebench.tokens import Keep, Layout, Tile, VisualTokens
    from prunebench.trained import Example, Trained
    from prunebench.videos import Choice, Clip, VideoPruner, evenly, exactly
    from prunebench.words import FUNCTION_WORDS

# where each public name lives; looked up when used, so that `prunebench --help` does not wait for
# torch
_HOMES = {
    "attention_kinds": (
        "attention_reads",
        "attention_stand_ins",
        "check_attention",
        "encoder_attention",
        "summary_reads",
        "tile_summaries",
        "whole_summary",
    ),
    "budget": ("Budget", "BudgetError", "Stage", "alive", "cached", "solve"),
    "cluster": ("density_peaks", "distances", "joined", "means"),
    "depth": ("late_layer",),
    "engine.session": ("prune",),
    "greedy": ("greedy_cover", "greedy_map", "greedy_marginal"),
    "matching": ("Pairs", "Rows"),
    "models": ("LoadError", "Loaded", "load"),
    "pruner": ("Facts", "Pruner", "ScorePruner", "Unsupported"),
    "reads": ("Reads",),
    "regions": ("REGIONS_PORT", "in_regions"),
    "registry": ("build", "register"),
    "select": (
        "fill",
        "pooled",
        "require_finite",
        "share",
        "tile_places",
        "top",
        "top_of_each",
        "windows",
    ),
    "signals": ("Signal",),
    "sites": ("INPUT", "PIXELS", "Site", "llm", "vision"),
    "staircase": ("Staircase", "nearest_row", "scaled_layer"),
    "tilewise": (
        "pick_groups",
        "pick_tiles",
        "quotas",
        "view_places",
        "views",
        "visible",
        "with_newlines",
    ),
    "tokens": ("Keep", "Layout", "Tile", "VisualTokens"),
    "trained": ("Example", "Trained"),
    "videos": ("Choice", "Clip", "VideoPruner", "evenly", "exactly"),
    "words": ("FUNCTION_WORDS",),
}
_HOME: dict[str, str] = {}
for _home, _names in _HOMES.items():
    _HOME |= dict.fromkeys(_names, _home)

__all__ = [
    "FUNCTION_WORDS",
    "INPUT",
    "PIXELS",
    "REGIONS_PORT",
    "Budget",
    "BudgetError",
    "Choice",
    "Clip",
    "Example",
    "Facts",
    "Keep",
    "Layout",
    "LoadError",
    "Loaded",
    "Pairs",
    "Pruner",
    "Reads",
    "Rows",
    "ScorePruner",
    "Signal",
    "Site",
    "Stage",
    "Staircase",
    "Tile",
    "Trained",
    "Unsupported",
    "VideoPruner",
    "VisualTokens",
    "alive",
    "attention_reads",
    "attention_stand_ins",
    "build",
    "cached",
    "check_attention",
    "density_peaks",
    "distances",
    "encoder_attention",
    "evenly",
    "exactly",
    "fill",
    "greedy_cover",
    "greedy_map",
    "greedy_marginal",
    "in_regions",
    "joined",
    "late_layer",
    "llm",
    "load",
    "means",
    "nearest_row",
    "pick_groups",
    "pick_tiles",
    "pooled",
    "prune",
    "quotas",
    "register",
    "require_finite",
    "scaled_layer",
    "share",
    "solve",
    "summary_reads",
    "tile_places",
    "tile_summaries",
    "top",
    "top_of_each",
    "view_places",
    "views",
    "visible",
    "vision",
    "whole_summary",
    "windows",
    "with_newlines",
]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'prunebench' has no attribute {name!r}")
    return getattr(import_module(f"prunebench.{_HOME[name]}"), name)
