"""VidCom2: the frame that stands out keeps more, and the total is met in two ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Stage, Tile, VisualTokens, registry

FRAMES, SIZE = 4, 10


def video() -> VisualTokens:
    """Three frames of one scene, and one that shows something else; half of the channels is noise,
    which does not count.
    """
    generator = torch.Generator().manual_seed(0)
    features = 0.1 * torch.randn(FRAMES, SIZE, 8, generator=generator)
    features[..., 4:] *= 30
    features[..., 0] += 1
    features[2, :, 1] += 1
    layout = Layout(tuple(Tile(2, 5, "frame", frame=frame) for frame in range(FRAMES)))
    return VisualTokens(features.flatten(0, 1), layout, torch.arange(len(layout)))


def counts(count: int, **settings: Any) -> list[int]:
    keep = registry.build("vidcom2", settings).prune(video(), Stage(INPUT, count))
    assert len(keep.index) == count
    return torch.bincount(keep.index // SIZE, minlength=FRAMES).tolist()


def test_the_odd_frame_keeps_more() -> None:
    # p is about 1 for it: 10 x 0.3 x 1.75 of its tokens, and 10 x 0.3 x 0.75 of the others
    assert counts(12, ratio=0.3) == [2, 2, 6, 2]


@pytest.mark.parametrize("repair", ["frames", "tokens"])
@pytest.mark.parametrize("count", [1, 3, 4, 11, 27, 36, 39])
def test_meets_every_budget(repair: str, count: int) -> None:
    assert sum(counts(count, repair=repair)) == count


def test_a_frame_keeps_a_token_while_there_are_enough() -> None:
    assert min(counts(FRAMES)) == 1


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="repair is 'all'; it is 'frames' or 'tokens'"):
        registry.build("vidcom2", {"repair": "all"})
    with pytest.raises(ValueError, match="newlines is 'go'; it is 'leave' or 'stay'"):
        registry.build("vidcom2", {"newlines": "go"})
