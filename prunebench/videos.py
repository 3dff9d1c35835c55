"""Videos: the base of methods that prune frame by frame, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunebench.budget import Stage
from prunebench.pruner import Pruner
from prunebench.select import share, top
from prunebench.tokens import Keep, VisualTokens


@dataclass(frozen=True)
class Clip:
    """The patches of one video, frame by frame; an image is a video of one frame.

    `places` [F, n] are where they stand among `tokens`, on the device of the features.
    """

    tokens: VisualTokens
    places: Tensor

    @property
    def features(self) -> Tensor:
        """[F, n, D] their features, in float32."""
        return self.tokens.features[self.places].float()

    @property
    def received(self) -> Tensor:
        """[F, n] the attention they receive in the encoder, averaged over blocks and heads."""
        values = self.tokens.received_attention.float().mean(dim=(0, 1))
        return values[self.places]


@dataclass(frozen=True)
class Choice:
    """What a method keeps of one clip.

    `index` [k] are numbers frame x n + position, in the order of choice; `features` [k, D] what the
    tokens are from here on, None where nothing merges. `values` are what led there, by name.
    """

    index: Tensor
    features: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoPruner(Pruner):
    """A method that looks at one video at a time.

    Every video and every image, which is a video of one frame, gets its share of the budget by its
    size. Newline tokens belong to no frame; they stay only where all patches do, unless `patches`
    says otherwise.
    """

    def patches(self, tokens: VisualTokens, count: int) -> int:
        """How many of `count` survivors are patches: all of them, as long as there are any."""
        return min(count, int((~tokens.newline).sum()))

    @abstractmethod
    def choose(self, clip: Clip, count: int) -> Choice:
        """`count` of a clip's patches, at least one, and all of them only where it is dynamic."""

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The choice of every video, behind one another."""
        index, features = [], []
        merges = False
        for clip, choice in self._choices(tokens, stage):
            places = clip.places.flatten()[choice.index]
            index.append(places)
            merges |= choice.features is not None
            rows = tokens.features[places] if choice.features is None else choice.features
            features.append(rows.to(tokens.features.dtype))
        newlines = tokens.newline.nonzero()[:, 0].to(tokens.features.device)
        room = stage.keep - sum(map(len, index))
        index.append(newlines[:room])
        features.append(tokens.features[newlines[:room]])
        return Keep(torch.cat(index), torch.cat(features) if merges else None)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """The values of every video's choice, behind one another; `output_index` are the places of
        its rows in their order.
        """
        parts: dict[str, list[Tensor]] = {}
        for clip, choice in self._choices(tokens, stage):
            rows = tokens.index[clip.places.flatten()[choice.index].cpu()]
            for name, value in {"output_index": rows, **choice.values}.items():
                parts.setdefault(name, []).append(value)
        return {name: torch.cat(values) for name, values in parts.items()}

    def _choices(self, tokens: VisualTokens, stage: Stage) -> Iterator[tuple[Clip, Choice]]:
        """Every video that gets something, with what is kept of it."""
        videos = clips(tokens)
        sizes = torch.tensor([clip.places.numel() for clip in videos])
        total = self.patches(tokens, stage.keep)
        counts = share(total, sizes) if total else []
        for clip, size, count in zip(videos, sizes.tolist(), counts, strict=False):
            if count == size and not self.dynamic:
                # nothing to choose, and nothing to merge
                yield clip, Choice(torch.arange(size, device=clip.places.device))
            elif count > 0:
                yield clip, self.choose(clip, count)


def clips(tokens: VisualTokens) -> list[Clip]:
    """The videos and images of a sample, in order; raises ValueError where frames of a video differ
    in size, because tokens have been dropped before.
    """
    device = tokens.features.device
    image = torch.tensor([tile.image for tile in tokens.tiles], dtype=torch.int64)[tokens.tile]
    frame = torch.tensor([tile.frame for tile in tokens.tiles], dtype=torch.int64)[tokens.tile]
    videos = []
    for number in image.unique().tolist():
        is_own = (image == number) & ~tokens.newline
        places = is_own.nonzero()[:, 0]
        if len(places) == 0:
            continue
        places = places[frame[places].argsort(stable=True)]
        _, sizes = frame[places].unique_consecutive(return_counts=True)
        if (sizes != sizes[0]).any():
            raise ValueError(
                f"frames need to be whole, but those of video {number} have {sizes.min()} to "
                f"{sizes.max()} of their tokens"
            )
        videos.append(Clip(tokens, places.view(len(sizes), -1).to(device)))
    return videos


def staged(share_inside: float) -> Callable[[float], tuple[float, float]]:
    """What `solve` asks of a method with a second stage inside the language model that keeps
    `share_inside` of what the first left: the shares alive behind both.

    Once the first keeps all, the second keeps more, up to all.
    """

    def shares(t: float) -> tuple[float, float]:
        if t <= 0.5:
            return 2 * t, 2 * t * share_inside
        return 1.0, share_inside + (1 - share_inside) * (2 * t - 1)

    return shares


def evenly(size: int, count: int) -> Tensor:
    """[count] of `size` places, spread as evenly as whole numbers allow: where nothing tells tokens
    apart.
    """
    return (2 * torch.arange(count) + 1) * size // (2 * count)


def exactly(index: Tensor, scores: Tensor, count: int) -> Tensor:
    """[count] places: of `index` those with the highest `scores` [N], or all of them, in their
    order, and the highest of the others.
    """
    surplus = len(index) - count
    if surplus > 0:
        best = top(scores[index], count)
        return index[best.sort().values]
    others = torch.ones_like(scores, dtype=torch.bool)
    others[index] = False
    rest = others.nonzero()[:, 0]
    return torch.cat([index, rest[top(scores[rest], -surplus)]])
