"""A CLIP beside encoders that are no CLIP's: what it sees of pictures, and where its patches go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from families import build
from PIL import Image
from torch import Tensor

from prunebench import (
    INPUT,
    Keep,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    prune,
    registry,
    vision,
)
from prunebench.engine.clip import load_clip
from prunebench.engine.counter import counter
from prunebench.testbed import model_path

CLIP = "tiny-clip"
SIDE = 12
"""Patches of a side that the CLIP sees."""
qwen = cache(lambda: build("qwen2_5_vl"))


@dataclass(frozen=True)
class Look(Pruner):
    """Keeps whatever it may and notes what it is shown of a CLIP."""

    regions: int = 1
    clip: str = CLIP
    sites: tuple[Site, ...] = (INPUT,)
    shows: list[VisualTokens] = field(default_factory=list, compare=False)

    @property
    def reads(self) -> Reads:
        both = frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TILES})
        return Reads(both, clip=self.clip, regions=self.regions)

    def site(self) -> Site:
        return self.sites[0]

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.shows.append(tokens)
        return Keep(torch.arange(stage.keep))


def pixels(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(one)) for one in images])


def run(look: Pruner, prompt: Any, pictures: Any, keeps: Sequence[int] = (5,), **more: Any) -> Any:
    sites = getattr(look, "sites", (INPUT,))
    plan = tuple(Stage(site, keep) for site, keep in zip(sites, keeps, strict=True))
    model = qwen().model
    with prune(model, look, plan=plan, pictures=[pictures], **more) as trace, torch.no_grad():
        model(**prompt)
    return trace


@cache
def stock() -> tuple[Any, Any]:
    """The CLIP and its processor as transformers has them."""
    from transformers import CLIPImageProcessor, CLIPModel

    folder = model_path(CLIP)
    return CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessor.from_pretrained(folder)


def states(images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """What stock CLIP makes of whole images: their embeddings [C, P], and its patches
    [C, side, side, P].
    """
    model, processor = stock()
    # squares of CLIP's own size, of which nothing is cut off
    square = {"height": 168, "width": 168}
    inputs = processor(images=list(images), size=square, crop_size=square, return_tensors="pt")
    with torch.no_grad():
        embeddings = model.get_image_features(**inputs).pooler_output
        hidden = model.vision_model(**inputs).last_hidden_state[:, 1:]
        patches = model.visual_projection(model.vision_model.post_layernorm(hidden))
    return embeddings, patches.unflatten(1, (SIDE, SIDE))


def test_patches_go_where_they_lie_and_tiles_are_pictures() -> None:
    size = qwen().sizes[0]
    image = picture(*size)
    look = Look()
    run(look, qwen().inputs(([image], "color of 5")), [pixels([image])])
    (tokens,) = look.shows
    (tile,) = tokens.tiles
    embeddings, patches = states([image])
    torch.testing.assert_close(tokens.clip_tiles, embeddings, atol=1e-4, rtol=1e-3)
    # a cell's average over a grid of another size: every patch repeated until both divide
    fine = patches[0].repeat_interleave(tile.rows, 0).repeat_interleave(tile.columns, 1)
    cells = fine.unflatten(0, (tile.rows, SIDE)).unflatten(2, (tile.columns, SIDE)).mean((1, 3))
    torch.testing.assert_close(tokens.clip_patches, cells.flatten(0, 1), atol=1e-4, rtol=1e-3)


def test_tiles_of_regions_are_parts_of_the_picture() -> None:
    width, height = size = qwen().sizes[0]
    image = picture(*size)
    look = Look(regions=2)
    run(look, qwen().inputs(([image], "color of 5")), [pixels([image])])
    (tokens,) = look.shows
    (tile,) = tokens.tiles
    middle = round(tile.columns // 2 / tile.columns * width)
    line = round(tile.rows // 2 / tile.rows * height)
    boxes = [
        (0, 0, middle, line),
        (middle, 0, width, line),
        (0, line, middle, height),
        (middle, line, width, height),
    ]
    embeddings, _ = states([image.crop(box) for box in boxes])
    torch.testing.assert_close(tokens.clip_tiles, embeddings, atol=1e-4, rtol=1e-3)


def test_a_frame_of_the_model_is_the_mean_of_those_it_stands_for() -> None:
    frames = [picture(112, 84, number) for number in range(4)]
    look = Look()
    run(look, qwen().inputs(([], "color of 5"), video=frames), [pixels(frames)])
    (tokens,) = look.shows
    embeddings, patches = states(frames)
    assert [tile.frame for tile in tokens.tiles] == [0, 1]
    pairs = embeddings.unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(tokens.clip_tiles, pairs, atol=1e-4, rtol=1e-3)
    first = tokens.clip_patches[tokens.tile == 0].mean(0)
    torch.testing.assert_close(first, patches[:2].mean((0, 1, 2)), atol=1e-3, rtol=1e-2)


def test_images_have_their_own_pictures_and_stages_show_what_lives() -> None:
    images = [picture(*qwen().sizes[0]), picture(*qwen().sizes[1], 1)]
    prompt = qwen().inputs((images, "color of 5"))
    look = Look(sites=(vision(1), INPUT))
    pictures = [pixels([image]) for image in images]
    trace = run(look, prompt, pictures, (9, 5), count_flops=True)
    early, late = look.shows
    embeddings, _ = states(images)
    torch.testing.assert_close(early.clip_tiles, embeddings, atol=1e-4, rtol=1e-3)
    assert torch.equal(early.clip_tiles, late.clip_tiles)
    assert torch.equal(early.clip_patches[:9], late.clip_patches)
    # CLIP looks at each picture, and at each tile: four images; once for what
    # lies inside the encoder, and once for the rest
    clip = load_clip(CLIP, torch.device("cpu"), torch.float32)
    with torch.no_grad(), counter() as flops:
        clip.rows(torch.zeros(4, 3, 168, 168))
    counted = flops.get_total_flops()
    assert trace.samples[0].selector_flops == 2 * counted


def test_what_it_cannot_do_without_is_said() -> None:
    model, image = qwen().model, picture(*qwen().sizes[0])
    maskclip = {"weights": "none"}
    with (
        pytest.raises(Unsupported, match=r"is no CLIP's; name one .* with clip="),
        prune(model, registry.build("maskclip", maskclip), 0.5),
    ):
        pass
    named = registry.build("maskclip", {**maskclip, "clip": CLIP})
    masks = [[torch.ones(1, 4, 4, dtype=torch.bool)]]
    with (
        pytest.raises(Unsupported, match="needs the pictures of the samples"),
        prune(model, named, 0.5, questions=["color of 5"], masks=masks),
    ):
        pass
    prompt = qwen().inputs(([image, image], "color of 5"))
    with pytest.raises(Exception, match="1 pictures for image 1"):
        run(Look(), prompt, [pixels([image])])


def test_an_encoder_of_its_own_goes_on_showing_its_crops() -> None:
    """Nobody is asked for pictures there, unless regions are."""
    family = build("llava")
    prompt = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    look = Look(clip="")
    with prune(family.model, look, plan=(Stage(INPUT, 5),)), torch.no_grad():
        family.model(**prompt)
    assert look.shows[0].clip_tiles.shape[0] == 1
    with (
        pytest.raises(Unsupported, match="needs the pictures"),
        prune(family.model, Look(clip="", regions=2), 0.5),
    ):
        pass


def test_two_methods_see_the_same_parts() -> None:
    tiles = frozenset({Signal.CLIP_TILES})
    with pytest.raises(ValueError, match="clip_tiles cannot be read in 1 and 2 parts"):
        _ = Reads(tiles) | Reads(tiles, regions=2)
    assert (Reads(frozenset()) | Reads(tiles, regions=2)).regions == 2
