"""STDMMF: what moves ranks first, what stands out next; pictures reach it through a real model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import picture
from PIL import Image
from prunebench.methods.stdmmf import contrast, gated, opponent, shrunk
from torch import Tensor

from prunebench import (
    INPUT,
    Layout,
    Signal,
    Stage,
    Tile,
    Unsupported,
    VisualTokens,
    prune,
    registry,
)
from prunebench.testing import check_pruner

CELL, SIDE = 16, 8
RED, BLUE, GREY = (200, 40, 40), (40, 60, 190), (110, 110, 110)
Place = tuple[int, int]

build = cache(families.build)


def image(things: dict[Place, tuple[int, int, int]]) -> Tensor:
    """[H, W, 3] squares of a token's size on grey, by row and column."""
    canvas = torch.tensor(GREY, dtype=torch.uint8).repeat(SIDE * CELL, SIDE * CELL, 1)
    for (row, column), colour in things.items():
        canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = torch.tensor(
            colour, dtype=torch.uint8
        )
    return canvas


def film(frames: int, still: dict[Place, tuple[int, int, int]]) -> tuple[Tensor, list[int]]:
    """Still squares and a red one that moves a token a frame; the tokens that show it."""
    places = [(4, 1 + frame) for frame in range(frames)]
    shown = torch.stack([image({**still, place: RED}) for place in places])
    return shown, [
        frame * SIDE**2 + row * SIDE + column for frame, (row, column) in enumerate(places)
    ]


def sample(picture: Tensor, *tiles: Tile) -> VisualTokens:
    layout = Layout(
        tiles or tuple(Tile(SIDE, SIDE, "frame", frame=frame) for frame in range(len(picture)))
    )
    signals = {Signal.PICTURES: (picture,)}
    return VisualTokens(
        torch.zeros(len(layout), 1), layout, torch.arange(len(layout)), signals=signals
    )


def best(shown: VisualTokens, keep: int, **settings: Any) -> list[int]:
    return sorted(
        registry.build("stdmmf", settings).prune(shown, Stage(INPUT, keep)).index.tolist()
    )


def test_what_stands_out_of_an_image_ranks_first() -> None:
    shown = sample(image({(1, 1): RED, (6, 3): BLUE})[None], Tile(SIDE, SIDE))
    assert best(shown, 2) == [1 * SIDE + 1, 6 * SIDE + 3]


@pytest.mark.parametrize("frames", [2, 3, 4, 5])
def test_what_moves_ranks_before_what_stands_out(frames: int) -> None:
    shown, moving = film(frames, still={(1, 1): RED, (1, 6): BLUE, (6, 2): (250, 220, 30)})
    assert best(sample(shown), frames) == moving


def test_a_faint_thing_that_moves_ranks_before_a_bright_one_that_does_not() -> None:
    faint = (140, 140, 140)
    shown = torch.stack(
        [image({(1, 1): RED, (6, 6): BLUE, (4, 1 + frame): faint}) for frame in range(4)]
    )
    assert best(sample(shown), 4) == [frame * SIDE**2 + 4 * SIDE + 1 + frame for frame in range(4)]


def test_where_a_thing_was_is_not_where_it_is() -> None:
    """A difference of two frames shows both; the smaller of two differences leaves one."""
    shown, moving = film(4, still={})
    scores = registry.build("stdmmf").score(sample(shown))  # type: ignore[attr-defined]
    left = scores[
        [0 * 64 + 4 * SIDE + 2, 1 * 64 + 4 * SIDE + 1, 2 * 64 + 4 * SIDE + 2, 3 * 64 + 4 * SIDE + 3]
    ]
    assert scores[moving].min() > 4 * left.max()


def test_a_video_that_stands_still_is_its_image() -> None:
    still = image({(1, 1): RED, (6, 3): BLUE})
    pruner: Any = registry.build("stdmmf")
    one, many = (
        pruner.score(sample(still[None], Tile(SIDE, SIDE))),
        pruner.score(sample(still.expand(3, -1, -1, -1))),
    )
    torch.testing.assert_close(many.view(3, -1), one.expand(3, -1))


def test_noise_is_no_motion() -> None:
    still = image({(1, 1): RED, (6, 3): BLUE, (3, 5): RED}).expand(4, -1, -1, -1)
    noise = torch.randn(still.shape, generator=torch.Generator().manual_seed(0)) * 3
    shown = sample((still + noise).round().clamp(0, 255).byte())
    assert best(shown, 12) == sorted(
        frame * 64 + place for frame in range(4) for place in (9, 29, 51)
    )


def test_flicker_is_no_motion() -> None:
    """The largest change of a still video is as small as noise, and is not blown up to be the
    largest there is.
    """
    still = {(1, 1): RED, (6, 6): RED}
    shown = torch.stack(
        [image({**still, (3, 4): (110 + 2 * (frame % 2),) * 3}) for frame in range(4)]
    )
    assert best(sample(shown), 8) == sorted(
        frame * 64 + place for frame in range(4) for place in (9, 54)
    )


def test_tokens_of_several_frames_get_their_average() -> None:
    shown, _ = film(6, still={(1, 1): BLUE})
    halves = tuple(Tile(SIDE, SIDE, "frame", frame=frame) for frame in range(3))
    expected = [frame // 2 * SIDE**2 + 4 * SIDE + 1 + frame for frame in range(6)]
    assert best(sample(shown, *halves), 6) == expected


def test_thumbnail_and_crops_show_the_same() -> None:
    thing = sample(
        image({(1, 6): RED})[None],
        Tile(4, 4, "thumbnail"),
        Tile(SIDE, 4, "crop", region=(0.0, 0.0, 0.5, 1.0)),
        Tile(SIDE, 4, "crop", region=(0.5, 0.0, 1.0, 1.0), newlines=True),
    )
    assert best(thing, 1) == [16 + 32 + 5 + 2]
    assert 3 in best(thing, 4)
    assert not thing.layout.newline[best(thing, 72)].any()


def test_every_picture_has_its_own_scale() -> None:
    tiles = (Tile(SIDE, SIDE), Tile(SIDE, SIDE, image=1))
    bright, faint = image({(1, 1): RED})[None], image({(2, 2): (125, 110, 110)})[None]
    both = replace(sample(bright, *tiles), signals={Signal.PICTURES: (bright, faint)})
    assert best(both, 2) == [9, 64 + 18]


def test_each_stream_is_raised_where_the_other_stands_out() -> None:
    """By hand: both streams are 0 and 1, half and half, so that a gate is sigmoid(-1) or
    sigmoid(1).
    """
    low, high = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert gated(low, low).flatten().tolist() == pytest.approx([0, 1 + 0.7311], abs=1e-4)
    assert gated(low, high).flatten().tolist() == pytest.approx([(1 + 0.2689) / 2] * 2, abs=1e-4)
    assert gated(low, torch.zeros(1, 1, 2)).flatten().tolist() == [0, 0.75]


def test_levels_are_averaged_by_the_softmax_of_their_means() -> None:
    shown = torch.randint(
        256, (1, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    colours = opponent(shrunk(shown, 256))
    torch.testing.assert_close(colours[0, 1], (shown[0, ..., 0].float() - shown[0, ..., 1]) / 255)
    fine, coarse = contrast(colours), contrast(torch.nn.functional.avg_pool2d(colours, 2))
    fine, coarse = (level / max(fine.max(), coarse.max()) * 0.75 for level in (fine, coarse))
    first, second = torch.stack([fine.mean(), coarse.mean()]).softmax(0)
    expected = (
        first * fine
        + second * torch.nn.functional.interpolate(coarse[None], (48, 64), mode="bilinear")[0]
    )
    torch.testing.assert_close(registry.build("stdmmf", {"levels": 2}).saliency(shown), expected)  # type: ignore[attr-defined]


def test_what_was_dropped_before_is_not_offered_again() -> None:
    shown = sample(image({(1, 1): RED, (6, 3): BLUE})[None], Tile(SIDE, SIDE))
    alive = torch.arange(1, SIDE**2, 2)
    assert best(replace(shown, features=shown.features[alive], index=alive), 2) == [9 // 2, 51 // 2]


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_any_number_of_levels(levels: int) -> None:
    shown, moving = film(4, still={(1, 1): RED})
    assert best(sample(shown), 4, levels=levels) == moving


def test_flow_follows_the_camera() -> None:
    """The camera pans over things that stand; one moves by itself."""
    pytest.importorskip("cv2")
    draw, width = torch.Generator().manual_seed(0), SIDE * CELL
    coarse = torch.rand(1, 3, width // 4, 2 * width // 4, generator=draw)
    world = torch.nn.functional.interpolate(coarse, (width, 2 * width), mode="bilinear")[0].movedim(
        0, -1
    )
    world = (world * 120 + 60).byte()
    frames = []
    for frame in range(4):
        picture = world.clone()
        for x, y, colour in ((40, 16, RED), (100, 96, BLUE), (48 + 8 * frame, 64, RED)):
            picture[y : y + CELL, x : x + CELL] = torch.tensor(colour, dtype=torch.uint8)
        frames.append(picture[:, 4 * frame : 4 * frame + width])
    shown = sample(torch.stack(frames))
    # it stands 4 pixels further right in every frame: in columns 3 and 3 to 4
    moving = {frame * 64 + 4 * SIDE + column for frame in range(4) for column in (3, 4)}
    assert set(best(shown, 4, motion="flow")) <= moving
    assert not set(best(shown, 4)) <= moving


def test_flow_in_a_still_image_is_none() -> None:
    pytest.importorskip("cv2")
    shown = sample(image({(1, 1): RED, (6, 3): BLUE})[None], Tile(SIDE, SIDE))
    assert best(shown, 2, motion="flow") == best(shown, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"motion": "fast"}, "motion is 'fast'"),
        ({"levels": 0}, "levels is 0"),
        ({"side": 8}, "side 8; they start at 1 and 16"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(registry.RegistryError, match=said):
        registry.build("stdmmf", settings)


def test_an_unknown_place_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="where in it this model's tokens lie"):
        best(sample(image({})[None], Tile(SIDE, SIDE, "crop", region=None)), 3)


def test_conforms_with_flow() -> None:
    pytest.importorskip("cv2")
    assert [
        check
        for check in check_pruner(registry.build("stdmmf", {"motion": "flow"}))
        if not check.ok
    ] == []


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl", "llava_onevision", "smolvlm"])
def test_a_real_model_keeps_what_moves(name: str) -> None:
    """Through `prune`, with the frames that its processor was given."""
    family = build(name)
    shown, _ = film(4, still={(1, 1): RED, (6, 5): BLUE})
    shown = shown.repeat_interleave(2, dim=0)  # models that merge pairs of frames see it move too
    inputs = family.inputs(
        ([], "color of 5"), video=[Image.fromarray(frame.numpy()) for frame in shown]
    )
    with prune(family.model, "stdmmf", 0.25, pictures=[[shown]]) as trace:
        family.model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    (row,) = trace.samples
    kept = row.kept[INPUT]
    assert len(kept) == round(0.25 * row.available)
    for number, tile in enumerate(row.layout.tiles):
        if tile.rows * tile.columns == 0:
            continue
        second = tile.frame * 4 // (1 + max(other.frame for other in row.layout.tiles))
        centre = row.layout.grid(number)[
            int(4.5 / SIDE * tile.rows), int((1.5 + second) / SIDE * tile.columns)
        ]
        assert int(centre) in kept.tolist()


def test_a_real_model_with_images_and_without_pictures() -> None:
    family = build("llava_next")
    images = [picture(112, 84), picture(84, 112, 1)]
    given = [
        torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).view(
            1, one.height, one.width, 3
        )
        for one in images
    ]
    with prune(family.model, "stdmmf", 0.5, pictures=[given]) as trace:
        family.model.generate(**family.inputs((images, "color of 5")), max_new_tokens=2)
    (row,) = trace.samples
    assert len(row.kept[INPUT]) == round(0.5 * row.available)
    with (
        pytest.raises(Unsupported, match="needs the pictures of the samples"),
        prune(family.model, "stdmmf", 0.5),
    ):
        pass
