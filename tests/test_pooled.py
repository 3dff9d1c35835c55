"""Helpers of `prunebench.select` that bring maps to tokens and budgets to tiles, against slow ones
that are plainly right.
"""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

from prunebench import Layout, Tile, VisualTokens, fill, pooled, tile_places, top_of_each

PADDED = (-0.25, -0.5, 1.25, 1.5)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def overlap(low: float, high: float, pixel: int, size: int) -> float:
    """How much of a pixel, in pixels, lies between two shares of the image's side."""
    return max(0.0, min(high * size, pixel + 1) - max(low * size, pixel))


def averages(shown: Tensor, tile: Tile) -> Tensor:
    """[rows, columns] the same as `pooled`, pixel by pixel."""
    assert tile.region is not None
    left, top, right, bottom = tile.region
    height, width = shown.shape
    found = torch.zeros(tile.rows, tile.columns, dtype=torch.float64)
    for row in range(tile.rows):
        high, low = (top + (bottom - top) * (row + step) / tile.rows for step in (0, 1))
        for column in range(tile.columns):
            start, end = (left + (right - left) * (column + step) / tile.columns for step in (0, 1))
            weight = torch.tensor(
                [
                    [
                        overlap(high, low, y, height) * overlap(start, end, x, width)
                        for x in range(width)
                    ]
                    for y in range(height)
                ]
            ).double()
            found[row, column] = (
                (shown.double() * weight).sum() / weight.sum() if weight.sum() > 0 else 0.0
            )
    return found.float()


@pytest.mark.parametrize(
    "region",
    [
        (0.0, 0.0, 1.0, 1.0),
        (0.1, 0.2, 0.85, 0.5),
        (0.5, 0.0, 1.0, 0.5),
        PADDED,
        (0.9, 0.9, 2.0, 3.0),
    ],
)
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (3, 2), (1, 1), (24, 16)])
def test_pooled_is_the_average_over_a_cells_pixels(
    size: tuple[int, int], region: tuple[float, float, float, float]
) -> None:
    tile, shown = Tile(3, 4, region=region), drawn(1, *size)
    torch.testing.assert_close(
        pooled(Layout((tile,)), [shown]).view(3, 4), averages(shown[0], tile), atol=1e-6, rtol=1e-6
    )


def test_pooled_by_hand() -> None:
    shown = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]])
    assert pooled(Layout((Tile(1, 2),)), [shown]).tolist() == [3.5, 5.5]
    assert pooled(Layout((Tile(2, 1, region=(0.25, 0.0, 0.75, 1.0)),)), [shown]).tolist() == [
        2.5,
        6.5,
    ]
    # three columns of four thirds of a pixel, which average 3, 4, 5 and 6
    thirds = pooled(Layout((Tile(1, 3),)), [shown]).tolist()
    assert thirds == pytest.approx([(3 + 4 / 3) * 3 / 4, 4.5, (5 / 3 + 6) * 3 / 4])


def test_pooled_keeps_the_sum_of_a_map() -> None:
    shown = drawn(1, 37, 53)
    found = pooled(Layout((Tile(5, 9),)), [shown]).double().mean()
    assert float(found) == pytest.approx(float(shown.double().mean()), rel=1e-6)


def test_padding_is_zero_and_does_not_dilute_its_neighbours() -> None:
    # half a cell of padding on every side, and a border of nothing else above and below
    found = pooled(Layout((Tile(4, 3, region=PADDED),)), [torch.ones(1, 9, 9)]).view(4, 3)
    assert found.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_newlines_are_zero_and_stitched_crops_keep_their_places() -> None:
    # two crops of 2 x 1, read across, each row closed by a newline that belongs to the right one
    tiles = (
        Tile(2, 1, "crop", region=(0.0, 0.0, 0.5, 1.0)),
        Tile(2, 1, "crop", newlines=True, region=(0.5, 0.0, 1.0, 1.0)),
    )
    places = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1]])
    shown = torch.tensor([[[1.0, 2], [3, 4]]])
    assert pooled(Layout(tiles, places), [shown]).tolist() == [1, 2, 0, 3, 4, 0]
    assert pooled(Layout((Tile(2, 2, newlines=True),)), [shown]).tolist() == [1, 2, 0, 3, 4, 0]


def test_tiles_without_a_patch_need_no_place() -> None:
    tiles = (Tile(1, 2), Tile(0, 0, "crop", region=None), Tile(1, 0, newlines=True, region=None))
    assert pooled(Layout(tiles), [torch.ones(1, 4, 4)]).tolist() == [1, 1, 0]
    assert pooled(Layout(()), []).tolist() == []


@pytest.mark.parametrize(
    ("count", "tiles", "groups"),
    [
        (3, 3, [[0], [1], [2]]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 3, [[0, 1], [2, 3], [4]]),  # pairs, the last frame paired with itself
        (1, 1, [[0]]),
        (1, 3, [[0], [0], [0]]),
        (7, 2, [[0, 1, 2], [3, 4, 5, 6]]),
        (10, 4, [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]),
    ],
)
def test_a_token_of_a_video_gets_the_average_of_its_frames(
    count: int, tiles: int, groups: list[list[int]]
) -> None:
    layout = Layout(tuple(Tile(1, 1, "frame", frame=frame) for frame in range(tiles)))
    shown = 2.0 ** torch.arange(count).view(-1, 1, 1).expand(-1, 2, 2)
    expected = [sum(2.0**frame for frame in group) / len(group) for group in groups]
    assert pooled(layout, [shown]).tolist() == pytest.approx(expected)


def test_every_image_has_its_own_map() -> None:
    tiles = (
        Tile(1, 1),
        Tile(1, 1, "frame", image=1, frame=0),
        Tile(1, 1, "frame", image=1, frame=1),
        Tile(1, 1, image=2),
    )
    maps = [
        torch.full((1, 2, 3), 5.0),
        torch.tensor([[[1.0]], [[2.0]]]),
        torch.full((1, 9, 1), True),
    ]
    assert pooled(Layout(tiles), maps).tolist() == [5, 1, 2, 1]


def test_pooled_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        pooled(Layout((Tile(1, 1), Tile(1, 1, image=1))), [torch.ones(1, 2, 2)])
    with pytest.raises(ValueError, match="place of tile 0, a crop, in its image is unknown"):
        pooled(Layout((Tile(1, 1, "crop", region=None),)), [torch.ones(1, 2, 2)])


def level(total: int, weights: list[float], limits: list[int]) -> list[float]:
    """Water-filling in small drops: every drop goes where the least is, measured by weight, of what
    is not full.
    """
    found, drop = [0.0] * len(weights), 1 / 64
    for positive in (True, False):
        while sum(found) < min(total, sum(limits)) - drop / 2:
            open_ = [
                i
                for i, w in enumerate(weights)
                if (w > 0) is positive and found[i] < limits[i] - drop / 2
            ]
            if not open_:
                break
            lowest = min(
                open_, key=lambda i: (found[i] + drop / 2) / (weights[i] if positive else 1)
            )
            found[lowest] += drop
    return found


def test_fill_by_hand() -> None:
    assert fill(10, torch.tensor([5.0, 3, 2]), torch.tensor([20, 20, 20])) == [5, 3, 2]
    # 3 overflow from the first and go to the others as 3 to 2
    assert fill(10, torch.tensor([5.0, 3, 2]), torch.tensor([2, 20, 20])) == [2, 5, 3]
    # the second overflows only because the first does
    assert fill(10, torch.tensor([5.0, 3, 2]), torch.tensor([2, 4, 20])) == [2, 4, 4]
    # 16 overflow from the first: 14.5, 0.7 and 0.7 for the others, whatever the rounding was before
    assert fill(18, torch.tensor([40.0, 40, 2, 2]), torch.tensor([2, 20, 2, 3])) == [2, 14, 1, 1]
    assert fill(99, torch.tensor([5.0, 3, 2]), torch.tensor([2, 4, 20])) == [2, 4, 20]
    assert fill(0, torch.tensor([5.0, 3]), torch.tensor([2, 4])) == [0, 0]
    assert fill(3, torch.tensor([]), torch.tensor([])) == []


def test_parts_of_no_weight_come_last() -> None:
    assert fill(5, torch.tensor([0.0, 1, 0]), torch.tensor([9, 5, 9])) == [0, 5, 0]
    assert fill(9, torch.tensor([0.0, 1, 0]), torch.tensor([9, 5, 9])) == [2, 5, 2]
    assert fill(9, torch.tensor([0.0, 1, 0]), torch.tensor([1, 5, 9])) == [1, 5, 3]
    assert fill(4, torch.zeros(2), torch.tensor([9, 9])) == [2, 2]
    assert fill(4, torch.tensor([1.0, 1e-300]), torch.tensor([1, 9])) == [1, 3]


def test_fill_is_water_filling_rounded_once() -> None:
    """Limits and sum hold exactly; no part is a whole token away from where the water stands."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(150):
        tiles = int(torch.randint(1, 10, (1,), generator=draw))
        weights = torch.rand(tiles, generator=draw) ** 4 * (torch.rand(tiles, generator=draw) > 0.2)
        limits = torch.randint(0, 20, (tiles,), generator=draw)
        total = int(torch.randint(0, int(limits.sum()) + 3, (1,), generator=draw))
        parts = fill(total, weights, limits)
        assert sum(parts) == min(total, int(limits.sum()))
        assert all(0 <= part <= most for part, most in zip(parts, limits.tolist(), strict=True))
        for part, exact in zip(parts, level(total, weights.tolist(), limits.tolist()), strict=True):
            assert abs(part - exact) < 1 + 1 / 8


@pytest.mark.parametrize("weights", [[-1.0, 0.0], [1.0, nan], [inf, 1.0]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        fill(3, torch.tensor(weights), torch.tensor([2, 2]))


# ---- places and the highest of them --------------------------------------------------------------


def two_tiles() -> VisualTokens:
    """Rows of 2, each with a newline; then a tile of 1 x 3, of which the first token is gone."""
    layout = Layout((Tile(2, 2, newlines=True), Tile(1, 3, image=1)))
    index = torch.tensor([0, 1, 2, 4, 5, 7, 8])
    return VisualTokens(torch.zeros(len(index), 4), layout, index)


def test_live_tokens_know_where_they_lie() -> None:
    tokens = two_tiles()
    assert tokens.tile.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert tokens.row.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert tokens.column.tolist() == [0, 1, 2, 1, 2, 1, 2]
    assert tokens.newline.tolist() == [False, False, True, False, True, False, False]


def test_places_of_tiles_with_and_without_newlines() -> None:
    tokens = two_tiles()
    assert [place.tolist() for place in tile_places(tokens)] == [[0, 1, 2, 3, 4], [5, 6]]
    patches = tile_places(tokens, newlines=False)
    assert [place.tolist() for place in patches] == [[0, 1, 3], [5, 6]]


def test_the_highest_of_each_group_best_first() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9, 0.2, 0.8, 0.3])
    groups = [torch.tensor([0, 1, 2, 3]), torch.tensor([6, 5, 4])]
    assert top_of_each(scores, groups, [2, 1]).tolist() == [1, 3, 5]
    assert top_of_each(scores, groups, [0, 3]).tolist() == [5, 6, 4]
    with pytest.raises(ValueError, match="shorter"):
        top_of_each(scores, groups, [2])


@pytest.mark.parametrize("size", [(140, 224), (113, 97), (50, 31)])
def test_an_average_of_a_mask_is_a_share(size: tuple[int, int]) -> None:
    """Never a hair below zero, whose logarithm is no number, or above one."""
    layout = Layout((Tile(10, 10, region=(0.0, 0.0, 1.0, 1.0)),))
    for seed in range(40):
        mask = (drawn(*size, seed=seed) < 0.02).float()
        mask[: size[0] // 2] = 0.0
        shares = pooled(layout, [mask[None]])
        assert float(shares.min()) >= 0
        assert float(shares.max()) <= 1
