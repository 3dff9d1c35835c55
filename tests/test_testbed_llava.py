"""The CLIP and LLaVA miniatures: views as the stock processors make them, training that equals the
stock forward, captions that are true, and shipped models that see.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel

from prunebench.testbed import TOWERS, model_path, sample, scene
from prunebench.testbed.batches import coverage
from prunebench.testbed.captions import (
    Caption,
    Captions,
    ViewBatches,
    caption,
    object_words,
)
from prunebench.testbed.evaluate import fine
from prunebench.testbed.evaluate_clip import evaluate_clip
from prunebench.testbed.miniatures import miniature
from prunebench.testbed.objectives import Answering
from prunebench.testbed.questions import words
from prunebench.testbed.recipe import LEVELS, LvlmRecipe
from prunebench.testbed.scenes import FINE_SIZE, RESOLUTIONS
from prunebench.testbed.tiny_clip import (
    TinyClipConfig,
    build_clip,
    build_clip_tokenizer,
    patch_features,
    pooled,
    whiten,
)
from prunebench.testbed.tiny_llava import TinyLlavaConfig
from prunebench.testbed.views import normal, thumbnail_boxes, thumbnails, tile_boxes, tiles, tiling

LLAVAS = ("tiny-llava-1.5", "tiny-llava-next")
SIZES = [*RESOLUTIONS, FINE_SIZE]
SMALL_TOWER = TinyClipConfig(
    vision_depth=3, vision_width=32, vision_heads=2, text_depth=1, text_width=32, projection=16
)
SMALL = TinyLlavaConfig(
    layers=4, width=40, heads=2, kv_heads=1, vision_depth=3, vision_width=32, vision_heads=2
)


def _pixels(size: tuple[int, int], count: int = 2) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([scene(4, index, size=size).render() for index in range(count)])
    )


def _inputs(processor: Any, pixels: torch.Tensor, text: str) -> Any:
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    return processor(text=[prompt], images=[[Image.fromarray(pixels.numpy())]], return_tensors="pt")


def _objective(name: str) -> Answering:
    kind = miniature(name)
    assert isinstance(kind.recipe, LvlmRecipe)
    recipe = replace(kind.recipe, levels=dict.fromkeys(LEVELS, 1), tokens=600, questions=4)
    objective: Any = kind.objective(kind.build(SMALL, 3).eval(), recipe, 0)
    return objective  # type: ignore[no-any-return]


# Views


@pytest.mark.parametrize("size", SIZES)
def test_views_are_the_pixels_of_the_stock_processors(size: tuple[int, int]) -> None:
    pixels = _pixels(size)
    images = [Image.fromarray(image.numpy()) for image in pixels]
    clip = miniature("tiny-clip").processor()
    stock_thumbnails = clip(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normal(thumbnails(pixels)), stock_thumbnails)
    stock_views = (
        miniature("tiny-llava-next")
        .processor()
        .image_processor(images, return_tensors="pt")["pixel_values"]
    )
    views = torch.cat([thumbnails(pixels)[:, None], tiles(pixels)], dim=1)
    torch.testing.assert_close(normal(views), stock_views)


@pytest.mark.parametrize("size", SIZES)
def test_patches_see_what_their_boxes_say(size: tuple[int, int]) -> None:
    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    box = (width // 3, height // 2, width // 3 + 40, height // 2 + 30)
    canvas[box[1] : box[3], box[0] : box[2]] = 255
    pixels = torch.from_numpy(canvas)[None]
    views = torch.cat([thumbnails(pixels)[:, None], tiles(pixels)], dim=1)[0, :, 0].float() / 255
    bright = views.view(-1, 12, 14, 12, 14).mean((2, 4)).flatten(1)
    for view, boxes in zip(bright, [thumbnail_boxes(*size), *tile_boxes(*size)], strict=True):
        assert np.abs(view.numpy() - coverage(box, boxes)).max() < 0.12


def test_a_wide_image_is_padded_above_and_below_and_loses_that_again() -> None:
    cut = tiling(336, 224)
    assert (cut.rows, cut.columns, cut.left, cut.scaled_width, cut.scaled_height) == (
        2,
        2,
        0,
        336,
        224,
    )
    rows, columns = cut.kept()
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 24)


# The tower


def test_the_training_pass_of_the_tower_equals_the_stock_forward() -> None:
    model = build_clip(SMALL_TOWER, seed=1).eval()
    views = normal(thumbnails(_pixels((224, 224))))
    with torch.inference_mode():
        hidden = patch_features(model.vision_model, views)
        stock = model.vision_model(views, output_hidden_states=True)
        torch.testing.assert_close(hidden, stock.hidden_states[-2])
        torch.testing.assert_close(pooled(model.vision_model, hidden), stock.pooler_output)


def test_whitened_patches_pass_on_details_as_strongly_as_the_mean_colour() -> None:
    plain, model = build_clip(SMALL_TOWER, seed=1), build_clip(SMALL_TOWER, seed=1)
    views = thumbnails(_pixels((224, 224), 20))
    whiten(model, views)
    spectra = []
    for each in (plain, model):
        with torch.inference_mode():
            out = (
                each.vision_model.embeddings.patch_embedding(normal(views))
                .flatten(2)
                .mT.flatten(0, 1)
            )
        spectra.append(torch.linalg.svdvals(out - out.mean(0)))
    assert spectra[0][10] / spectra[0][0] < 0.3 < spectra[1][10] / spectra[1][0]


def test_text_is_pooled_at_its_end_mark_whatever_it_is_padded_to() -> None:
    tokenizer, model = build_clip_tokenizer(), build_clip(SMALL_TOWER, seed=1).eval()
    alone = tokenizer(["any red"], return_tensors="pt")
    padded = tokenizer(["any red", "number on blue square"], padding=True, return_tensors="pt")
    assert alone["input_ids"][0, -1] == tokenizer.eos_token_id != 2
    with torch.inference_mode():
        one, two = (model.get_text_features(**texts).pooler_output[0] for texts in (alone, padded))
    torch.testing.assert_close(one, two)


# Captions


def test_captions_are_true_of_their_view() -> None:
    rng = np.random.default_rng(0)
    for index in range(100):
        things = list(scene(6, index).objects)
        text = caption(things, rng)
        assert text.true_of([object_words(thing) for thing in things])
        assert set(text.text.split()) <= set(words())
    red = frozenset({"red", "square", "5"})
    assert Caption("any red", (frozenset({"red"}),)).true_of([red])
    assert not Caption("red 4", (frozenset({"red", "4"}),)).true_of([red])
    assert Caption("no objects", ()).true_of([])
    assert not Caption("no objects", ()).true_of([red])


@pytest.mark.parametrize("crowded", [0, 1, 5])
def test_a_batch_of_views_is_a_function_of_seed_and_step(crowded: int) -> None:
    batches = ViewBatches(5, 8, 0.5, crowded, Captions(build_clip_tokenizer()))
    for step in range(4):
        first, again = batches(step), batches(step)
        assert all(
            torch.equal(getattr(first, name), getattr(again, name))
            for name in ("views", "labels", "words", "true")
        )
        assert first.views.shape == (8, 3, 168, 168)
        assert first.labels.shape == (8, 6, 144)
        assert first.true.diagonal().all()


# LLaVA


@pytest.mark.parametrize("name", LLAVAS)
def test_prompts_hold_as_many_image_tokens_as_the_learner_has_boxes(
    name: str, tmp_path: Path
) -> None:
    objective, processor = _objective(name), miniature(name).processor()
    model: Any = objective.learner.module
    processor.save_pretrained(tmp_path)
    loaded: Any = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    counts = {}
    for size in SIZES:
        inputs = _inputs(loaded, _pixels(size, 1)[0], "color of 5")
        counts[size] = int((inputs["input_ids"] == model.config.image_token_id).sum())
        assert counts[size] == len(objective.learner.boxes(*size))
        assert loaded.tokenizer.decode(inputs["input_ids"][0, -3:]) == "color of 5"
        assert inputs["input_ids"][0, 0] == loaded.tokenizer.bos_token_id
    assert counts[224, 224] == {"tiny-llava-1.5": 144, "tiny-llava-next": 744}[name]


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("name", LLAVAS)
def test_the_training_pass_equals_the_stock_forward(name: str, step: int) -> None:
    objective, processor = _objective(name), miniature(name).processor()
    model: Any = objective.learner.module
    data = objective.batch(step)
    with torch.inference_mode():
        features = objective.learner.see(data.pixels[:2])
        everything = objective.learner.see(data.pixels)
        logits = objective.learner.answer(everything, data, objective.levels).logits
        for number in range(4):
            places = (data.owner[0] == number).nonzero()[:, 0]
            places = places[places <= data.ends[0, number, 0]]
            text = processor.tokenizer.decode(data.words[0, places])
            inputs = _inputs(processor, data.pixels[0], text)
            torch.testing.assert_close(
                logits[0, places],
                model(**inputs).logits[0, -len(places) :],
                atol=1e-5,
                rtol=1e-4,
            )
        pictures = {
            key: value for key, value in inputs.items() if key in ("pixel_values", "image_sizes")
        }
        torch.testing.assert_close(
            features[0], model.get_image_features(**pictures).pooler_output[0], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("name", LLAVAS)
def test_evidence_lies_in_every_view_that_shows_it(name: str) -> None:
    objective = _objective(name)
    about, question = sample(3, 2)
    (box,) = question.evidence
    boxes = objective.learner.boxes(about.width, about.height)
    share = coverage(box, boxes)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    x0, y0, x1, y1 = box
    for part in (slice(0, 144), slice(144, None)):
        if len(boxes[part]):
            assert (share * area)[part].sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-6)


@pytest.mark.parametrize("name", LLAVAS)
def test_the_tower_stays_as_it_is(name: str) -> None:
    objective = _objective(name)
    loss, _ = objective.loss(objective.batch(0), 0)
    loss.backward()
    model: Any = objective.learner.module
    without = {
        part.split(".")[1] for part, weight in model.named_parameters() if weight.grad is None
    }
    assert without == {"vision_tower"}


# The shipped models


def test_the_shipped_clip_matches_scenes_and_captions() -> None:
    folder = TOWERS["tiny-clip"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6
    figures = evaluate_clip(folder, samples=150, seed=2)
    assert min(figures["caption"], figures["image"]) >= 0.9
    named = figures["named"]
    assert named["colour"] >= 0.9
    assert named["shape"] >= 0.8
    # of numbers nothing is asked: the contrastive loss has little use for them


@pytest.mark.parametrize("name", LLAVAS)
def test_the_tower_of_the_shipped_models_is_the_clip(name: str) -> None:
    tower = CLIPModel.from_pretrained(model_path("tiny-clip")).vision_model.state_dict()
    model: Any = AutoModelForImageTextToText.from_pretrained(model_path(name))
    own = model.model.vision_tower.state_dict()
    assert own.keys() == tower.keys()
    assert all(torch.equal(own[part], tower[part]) for part in tower)


def test_fine_scenes_need_the_tiles() -> None:
    folder = model_path("tiny-llava-next")
    whole, thumbnail = (
        fine(folder, samples=40, seed=2, first_tokens=count)["accuracy"] for count in (None, 144)
    )
    assert whole >= 0.45  # the card says of which kinds
    assert thumbnail <= whole - 0.2
