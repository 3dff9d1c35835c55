"""EVS (2025): keep the video tokens that changed most since the frame before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from prunebench import Choice, Clip, VideoPruner, evenly, register, top

FIRST = 255.0
"""The score of the first frame's tokens, above that of all others."""


@register(
    paper="https://arxiv.org/abs/2510.14624",
    code="https://github.com/vllm-project/vllm",
    variant="budgets below one frame and images, of which vLLM keeps all, keep tokens that are "
    "spread evenly over the first frame",
)
@dataclass(frozen=True)
class EVS(VideoPruner):
    """Rank by 1 - cosine to the same place in the frame before, as vLLM does; the first frame stays
    whole.

    The paper compares pixels; vLLM, followed here, the projector's output. Kept tokens keep their
    position ids.
    """

    work_by_shape = True

    def choose(self, clip: Clip, count: int) -> Choice:
        scores = changes(clip.features).flatten()
        size = clip.places.shape[1]
        # nothing tells the first frame's tokens apart
        index = evenly(size, count).to(scores.device) if count < size else top(scores, count)
        return Choice(index, values={"scores": scores})


def changes(features: Tensor) -> Tensor:
    """[F, n] 1 - cosine to the same place of the frame before."""
    scores = torch.full_like(features[..., 0], FIRST)
    scores[1:] = 1 - cosine_similarity(features[1:], features[:-1], dim=-1)
    return scores
