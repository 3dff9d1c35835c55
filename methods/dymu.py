"""DyMU (NeurIPS 2025): in every block of the vision encoder the pairs of patches merge that are
more alike than a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.methods.tome import ToMe

from prunebench import INPUT, Budget, Rows, Stage, register, solve


@register(
    paper="https://arxiv.org/abs/2504.17040",
    code="https://github.com/MikeWangWZHL/dymu",
    variant=(
        "merges behind a block and not between its attention and its MLP; the virtual un-merging "
        "in the language model is left out; thresholds are a setting, not learned"
    ),
)
@dataclass(frozen=True)
class DyMU(ToMe):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """ToMe's matching with a threshold in place of a number, so that plain pictures take fewer
    tokens; at most half of the rows merge in a block. A budget is a ceiling: behind the last block
    the most similar pairs merge until it is met.

    `thresholds` are cosines, one a block, the last one for all later blocks. Official code learns
    them for an encoder, as means over many pictures; 0.9 is ours. The other settings are ToMe's.
    """

    dynamic = True
    thresholds: tuple[float, ...] = (0.9,)

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError("thresholds are none; give one at least, such as 0.9")

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Every block may keep all, the last one what the budget allows."""
        sites, keep = self.sites(), available
        if budget is not None:
            (last,) = solve(budget, [INPUT], available, layers)
            keep = last.keep
        return (*(Stage(site, available) for site in sites[:-1]), Stage(sites[-1], keep))

    def merging(self, rows: Rows, quota: int, layer: int) -> int:
        """How many pairs are more alike than the block's threshold."""
        return rows.above(self.thresholds[min(layer, len(self.thresholds)) - 1])
