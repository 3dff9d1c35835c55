"""Torch's FLOP counter, 2 per multiply-add, made to see attention on the CPU; and a tally of what
it need not count again.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from prunebench.engine.stream import EngineError

CONFIRMED_EVERY = 64
"""Uses of a number that was counted once before it is counted again."""


def counter() -> FlopCounterMode:
    """A context manager; after it `get_total_flops()` gives the FLOPs of every matrix product
    inside.

    Torch versions differ in what they see: scaled dot product attention on the CPU and the grouped
    product of experts are added here. Attention counts in full, causal or not.
    """
    unseen: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops
    }
    if hasattr(torch.ops.aten, "_grouped_mm"):
        unseen[torch.ops.aten._grouped_mm] = _grouped_flops
    return FlopCounterMode(display=False, custom_mapping=unseen)


@dataclass(frozen=True, eq=False)
class Tally:
    """FLOPs of work that takes as many wherever the same things decide it, by these things.

    Counting sees every operation, which makes small work ten times as slow, so that each of these
    numbers is counted once. It is confirmed at its first use and at every so many later ones.
    """

    _flops: dict[Hashable, int] = field(default_factory=dict)
    _uses: dict[Hashable, int] = field(default_factory=dict)

    def known(self, work: Hashable | None) -> int | None:
        """The FLOPs of that work; None where they are to be counted, now or always."""
        if work not in self._flops:
            return None
        uses = self._uses[work]
        self._uses[work] = uses + 1
        return self._flops[work] if uses % CONFIRMED_EVERY else None

    def note(self, work: Hashable | None, flops: int) -> None:
        """Take what was counted; raises EngineError where it was another number before."""
        if work is None:
            return
        earlier = self._flops.setdefault(work, flops)
        self._uses.setdefault(work, 0)
        if earlier != flops:
            raise EngineError(
                f"the method took {earlier} FLOPs, and then {flops} on tokens of the same shapes: "
                "its work depends on more; take work_by_shape out of its class"
            )


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_args: Any, **_kwargs: Any
) -> int:
    """Both products, from shapes [batch, heads, length, head dimension]; grouped keys are read once
    per query head.
    """
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


def _grouped_flops(rows: torch.Size, weights: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    """Every one of [tokens, inputs] rows meets the one of [experts, inputs, outputs] weights that
    it is sorted to.
    """
    return 2 * rows[0] * rows[1] * weights[-1]
