"""What video methods share: clips of a sample, exact counts, density peaks by hand."""

from __future__ import annotations

import pytest
import torch

from prunebench import (
    INPUT,
    Choice,
    Clip,
    Keep,
    Layout,
    Stage,
    Tile,
    VideoPruner,
    VisualTokens,
    density_peaks,
    distances,
    evenly,
    exactly,
    joined,
    means,
)
from prunebench.cluster import log_density, separation
from prunebench.videos import clips


class First(VideoPruner):
    """Keeps a clip's first tokens, doubled."""

    def choose(self, clip: Clip, count: int) -> Choice:
        index = torch.arange(count)
        return Choice(index, 2 * clip.features.flatten(0, 1)[index])


def sample(*tiles: Tile) -> VisualTokens:
    """Token i has the features [i]."""
    layout = Layout(tiles)
    return VisualTokens(
        torch.arange(float(len(layout)))[:, None], layout, torch.arange(len(layout))
    )


def prompt() -> VisualTokens:
    """An image with a newline a row, a video of two frames, and a newline alone."""
    return sample(
        Tile(2, 2, newlines=True),
        Tile(1, 3, "frame", image=1, frame=0),
        Tile(1, 3, "frame", image=1, frame=1),
        Tile(1, 0, "frame", image=1, frame=1, newlines=True),
    )


def test_clips_are_images_and_videos_without_newlines() -> None:
    places = [clip.places.tolist() for clip in clips(prompt())]
    assert places == [[[0, 1, 3, 4]], [[6, 7, 8], [9, 10, 11]]]


def test_crops_of_an_image_are_one_frame() -> None:
    tokens = sample(Tile(1, 2, "thumbnail"), Tile(1, 1, "crop"), Tile(1, 1, "crop"))
    assert [clip.places.tolist() for clip in clips(tokens)] == [[[0, 1, 2, 3]]]


def test_frames_with_holes_are_refused() -> None:
    whole = prompt()
    place = torch.tensor([0, 1, 6, 7, 8, 9])
    with pytest.raises(ValueError, match="those of video 1 have 1 to 3 of their tokens"):
        clips(VisualTokens(whole.features[place], whole.layout, whole.index[place]))


def keep(count: int) -> Keep:
    return First().prune(prompt(), Stage(INPUT, count)).ascending()


def test_every_video_gets_its_share_and_newlines_leave_first() -> None:
    five = keep(5)
    assert five.index.tolist() == [0, 1, 6, 7, 8]
    assert five.features is not None
    assert five.features[:, 0].tolist() == [0, 2, 12, 14, 16]
    eleven = keep(11)
    assert eleven.index.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    # whole clips have nothing to merge
    assert eleven.features is None
    assert keep(0).index.tolist() == []


def test_exactly_drops_the_lowest_or_adds_the_highest() -> None:
    scores = torch.tensor([0.1, 0.5, 0.3, 0.4])
    index = torch.tensor([3, 0, 2])
    assert exactly(index, scores, 2).tolist() == [3, 2]
    assert exactly(index, scores, 3).tolist() == [3, 0, 2]
    assert exactly(index, scores, 4).tolist() == [3, 0, 2, 1]


def test_evenly_takes_the_middles() -> None:
    assert evenly(6, 3).tolist() == [1, 3, 5]
    assert evenly(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert evenly(4, 0).tolist() == []


def test_density_peaks_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [1.5], [9.0], [10.0]])
    between = distances(points)
    assert torch.allclose(between, (points - points.T).abs())
    density = log_density(between, 2)
    assert torch.allclose(-density, torch.tensor([0.5, 0.125, 0.125, 0.5, 0.5]))
    # of the two densest the lower place is the denser
    assert torch.allclose(separation(between, density), torch.tensor([1, 10, 0.5, 7.5, 1]))
    centres = density_peaks(between, 2, neighbours=2)
    assert centres.tolist() == [1, 3]
    labels = joined(between, centres)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.allclose(means(points, labels, 3), torch.tensor([[2.5 / 3], [9.5], [0.0]]))


def test_far_points_still_have_an_order_of_density() -> None:
    """At distances whose exponential underflows the centres are those of the same points nearer."""
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    near = density_peaks(distances(points), 5, neighbours=3)
    assert (-distances(1000 * points).square()).exp().fill_diagonal_(0).sum() == 0
    far = density_peaks(distances(1000 * points), 20, neighbours=3)
    assert sorted(far.tolist()) == list(range(20))
    assert len(near) == 5


def test_equal_points_are_clustered_by_place() -> None:
    centres = density_peaks(distances(torch.zeros(4, 2)), 3, neighbours=7)
    assert centres.tolist() == [0, 1, 2]
    assert joined(distances(torch.zeros(4, 2)), centres).tolist() == [0, 1, 2, 0]
