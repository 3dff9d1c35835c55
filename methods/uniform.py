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

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(
            torch.stack([w[w.shape[0] // 2, w.shape[1] // 2] for w in windows(tokens, stage.keep)])
        )
