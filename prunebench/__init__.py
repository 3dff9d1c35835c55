"""prunebench: the comparative benchmark for visual-token pruning in vision-language models."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunebench.absorb import absorbed, nearest
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
    from prunebench.cluster import density_peaks, distances, joined, leaders, means
    from prunebench.composition import AddOn
    from prunebench.course import Course
    from prunebench.depth import late_layer
    from prunebench.engine.session import prune
    from prunebench.greedy import (
        greedy_apart,
        greedy_cover,
        greedy_map,
        greedy_marginal,
        greedy_span,
    )
    from prunebench.matching import Pairs, Rows
    from prunebench.models import Loaded, LoadError, load
    from prunebench.products import ProductRows, cosines, gram
    from prunebench.pruner import Facts, Pruner, ScorePruner, Unsupported
    from prunebench.reads import Reads
    from prunebench.recycling import cluster_count, melted, recycled_count, unmerged_count
    from prunebench.regions import REGIONS_PORT, in_regions
    from prunebench.registry import build, register
    from prunebench.relevance import RELEVANCE_STAND_INS, question_cosines, scaled
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
    from prunebench.sites import INPUT, PIXELS, Part, Site, llm, llm_at, vision
    from prunebench.staircase import Staircase, nearest_row, powers, scaled_layer
    from prunebench.steps import DecodingStep
    from prunebench.tilewise import (
        padding,
        pick_groups,
        pick_tiles,
        quotas,
        view_places,
        views,
        with_newlines,
    )
    from prunebench.tokens import Keep, Layout, Tile, VisualTokens
    from prunebench.trained import Example, Trained
    from prunebench.videos import Choice, Clip, VideoPruner, evenly, exactly, staged
    from prunebench.words import FUNCTION_WORDS

# where each public name lives; looked up when used, so that `prunebench --help` does not wait for
# torch
_HOMES = {
    "absorb": ("absorbed", "nearest"),
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
    "cluster": ("density_peaks", "distances", "joined", "leaders", "means"),
    "composition": ("AddOn",),
    "course": ("Course",),
    "depth": ("late_layer",),
    "engine.session": ("prune",),
    "greedy": (
        "greedy_apart",
        "greedy_cover",
        "greedy_map",
        "greedy_marginal",
        "greedy_span",
    ),
    "matching": ("Pairs", "Rows"),
    "models": ("LoadError", "Loaded", "load"),
    "products": ("ProductRows", "cosines", "gram"),
    "pruner": ("Facts", "Pruner", "ScorePruner", "Unsupported"),
    "reads": ("Reads",),
    "recycling": ("cluster_count", "melted", "recycled_count", "unmerged_count"),
    "regions": ("REGIONS_PORT", "in_regions"),
    "registry": ("build", "register"),
    "relevance": ("RELEVANCE_STAND_INS", "question_cosines", "scaled"),
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
    "sites": ("INPUT", "PIXELS", "Part", "Site", "llm", "llm_at", "vision"),
    "staircase": ("Staircase", "nearest_row", "powers", "scaled_layer"),
    "tilewise": (
        "padding",
        "pick_groups",
        "pick_tiles",
        "quotas",
        "view_places",
        "views",
        "with_newlines",
    ),
    "steps": ("DecodingStep",),
    "tokens": ("Keep", "Layout", "Tile", "VisualTokens"),
    "trained": ("Example", "Trained"),
    "videos": ("Choice", "Clip", "VideoPruner", "evenly", "exactly", "staged"),
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
    "RELEVANCE_STAND_INS",
    "AddOn",
    "Budget",
    "BudgetError",
    "Choice",
    "Clip",
    "Course",
    "DecodingStep",
    "Example",
    "Facts",
    "Keep",
    "Layout",
    "LoadError",
    "Loaded",
    "Pairs",
    "Part",
    "ProductRows",
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
    "absorbed",
    "alive",
    "attention_reads",
    "attention_stand_ins",
    "build",
    "cached",
    "check_attention",
    "cluster_count",
    "cosines",
    "density_peaks",
    "distances",
    "encoder_attention",
    "evenly",
    "exactly",
    "fill",
    "gram",
    "greedy_apart",
    "greedy_cover",
    "greedy_map",
    "greedy_marginal",
    "greedy_span",
    "in_regions",
    "joined",
    "late_layer",
    "leaders",
    "llm",
    "llm_at",
    "load",
    "means",
    "melted",
    "nearest",
    "nearest_row",
    "padding",
    "pick_groups",
    "pick_tiles",
    "pooled",
    "powers",
    "prune",
    "question_cosines",
    "quotas",
    "recycled_count",
    "register",
    "require_finite",
    "scaled",
    "scaled_layer",
    "share",
    "solve",
    "staged",
    "summary_reads",
    "tile_places",
    "tile_summaries",
    "top",
    "top_of_each",
    "unmerged_count",
    "view_places",
    "views",
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
