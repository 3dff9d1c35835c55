"""Uniform: keep a regular 2-D grid of tokens; the control for methods that look at the content."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunebench import Keep, Pruner, Stage, VisualTokens, register, windows


@register()
@dataclass(frozen=True)
class Uniform(Pruner):
    """Cut every tile into equal windows, as many as its share of the budget; keep the token in each
    one's middle.
    """

    work_by_shape = True

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        middles = []
        for window in windows(tokens, stage.keep):  # [h, w] places
            height, width = window.shape
            middles.append(window[height // 2, width // 2])
        return Keep(torch.stack(middles))
