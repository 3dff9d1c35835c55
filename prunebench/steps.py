"""Steps: what a method is shown at a step of an answer, where it says what is attended to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunebench.sites import Site


@dataclass(frozen=True)
class DecodingStep:
    """One step of an answer of one sample: the visual entries of a cache, to choose from.

    `index` [N] are the visual tokens that are in the cache of the layer before `site`, among the
    sample's `available` original ones, in the order of their entries (CPU, int64); `attention`
    [H, N] is what the step's last query pays them there, post-softmax over all keys that it sees.
    `number` counts the steps of the answer from 0, the first token behind the prompt. `memo` is the
    dict that the sample's stages had, and stays with its row of the batch.
    """

    index: Tensor
    attention: Tensor
    available: int
    site: Site
    number: int
    memo: dict[str, Any]

    def __len__(self) -> int:
        return len(self.index)
