"""VidCom2 (EMNLP 2025): the more a frame stands out of its video, the more of its tokens stay, and
of these the least typical.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Choice,
    Clip,
    VideoPruner,
    VisualTokens,
    exactly,
    fill,
    register,
    top,
    top_of_each,
)

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Of the Gaussian kernels whose sum is the likeness."""


@register(
    paper="https://arxiv.org/abs/2505.14454",
    code="https://github.com/xuyang-liu16/VidCom2",
    variant="meets the budget exactly: what rounding and clipping leave over or lack goes to the "
    "frames by their shares (official: as many as it comes to); newline tokens leave first "
    "(official: stay, behind their frame's tokens)",
)
@dataclass(frozen=True)
class VidCom2(VideoPruner):
    """A token's likeness is k(x, mean of the video) + k(x, mean of its frame), k a sum of Gaussian
    kernels; the least alike stay.

    On the half of the channels that vary least, normalised. A frame keeps the share R (1 + p_f -
    mean p) of its tokens, p the softmax of minus its mean likeness to the video at a temperature of
    0.01. R is the budget's share unless `ratio` gives it.

    `repair` says where a token more or less comes from: "frames" changes the frames' counts by
    their shares; "tokens" lets the most alike of all leave or the least alike enter, as vLLM does
    behind `--video-retention-ratio`, so that a frame may lose all. With `newlines` "stay" those
    tokens stay and count; they leave first otherwise.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.25
    ratio: float | None = None
    repair: str = "frames"
    temperature: float = 0.01
    newlines: str = "leave"

    def __post_init__(self) -> None:
        if self.repair not in ("frames", "tokens"):
            raise ValueError(f"repair is {self.repair!r}; it is 'frames' or 'tokens'")
        if self.newlines not in ("leave", "stay"):
            raise ValueError(f"newlines is {self.newlines!r}; it is 'leave' or 'stay'")

    def patches(self, tokens: VisualTokens, count: int) -> int:
        """What the newlines leave, where they stay."""
        if self.newlines == "leave":
            return super().patches(tokens, count)
        return max(0, min(count, len(tokens)) - int(tokens.newline.sum()))

    def choose(self, clip: Clip, count: int) -> Choice:
        likeness, weights = self.likeness(clip.features)
        frames, size = likeness.shape
        ratio = count / likeness.numel() if self.ratio is None else self.ratio
        exact = (ratio * (1 + weights - weights.mean())).clamp(max=1) * size
        budgets = exact.round().clamp(1, size).long().cpu()
        scores = -likeness.flatten()
        places = torch.arange(frames * size, device=scores.device)
        if self.repair == "frames":
            counts = repaired(budgets, exact.cpu(), size, count)
            index = top_of_each(scores, list(places.view(frames, size)), counts)
        else:
            index = top_of_each(scores, list(places.view(frames, size)), budgets.tolist())
            index = exactly(index, scores, count)
        kept = torch.bincount(index // size, minlength=frames)
        values = {"scores": -scores, "budgets": budgets, "tokens_per_frame": kept}
        return Choice(index, values=values)

    def likeness(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[F, n] the likeness of tokens, and [F] how much of the extra budget a frame gets."""
        width = features.shape[-1]
        variance = features.flatten(0, 1).var(dim=0, correction=0)
        channels = top(-variance, max(1, width // 2))
        x = normalize(features[..., channels], dim=-1)
        of_video = kernels(x, x.mean(dim=(0, 1)))
        of_frame = kernels(x, x.mean(dim=1, keepdim=True))
        weights = (-of_video.mean(dim=1) / self.temperature).softmax(dim=0)
        return of_video + of_frame, weights


def kernels(x: Tensor, centre: Tensor) -> Tensor:
    """[...] the sum of Gaussian kernels of x [..., D] around a centre."""
    squares = (x - centre).square().sum(dim=-1)
    return torch.stack([(-squares / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)


def repaired(budgets: Tensor, shares: Tensor, size: int, count: int) -> list[int]:
    """[F] the budgets, moved so that they sum to `count`, by the frames' shares; a frame keeps a
    token as long as there are enough.
    """
    missing = count - int(budgets.sum())
    if missing >= 0:
        extra = fill(missing, shares, size - budgets)
        return (budgets + torch.tensor(extra)).tolist()
    least = 1 if count >= len(budgets) else 0
    surplus = fill(-missing, shares, budgets - least)
    return (budgets - torch.tensor(surplus)).tolist()
