"""A trace says in words, in a table and in a picture what a session kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from test_equivalence import PROMPTS, run

from prunebench import INPUT, Layout, Stage, Tile, llm, prune
from prunebench import build as method
from prunebench.display import mask
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.models import load
from prunebench.run import show
from prunebench.testbed import MODELS


def sample(layout: Layout, kept: dict[Any, list[int]]) -> SampleTrace:
    """A record of a model of two layers, pruned at the input or before the second one."""
    count = len(layout)
    entering = [count, count]
    stages = []
    for site, tokens in kept.items():
        stages.append(Stage(site, len(tokens)))
        first = 0 if site == INPUT else site.layer
        entering[first:] = [len(tokens)] * (2 - first)
    return SampleTrace(
        layout,
        count,
        5,
        tuple(stages),
        {site: torch.tensor(tokens) for site, tokens in kept.items()},
        entering,
        list(entering),
    )


def test_a_sample_says_in_a_line_what_each_stage_kept_and_what_was_spent() -> None:
    record = sample(Layout((Tile(2, 2),)), {INPUT: [0, 1, 3], llm(before=1): [3]})
    assert repr(record) == (
        "SampleTrace(4 visual and 5 text tokens; input keeps 3 (75 %), llm:1 keeps 1 (25 %); "
        "2.0 in a layer and 2.0 in a cache on average)"
    )


def test_a_sample_that_was_not_pruned_says_so() -> None:
    record = sample(Layout((Tile(2, 2),)), {})
    assert repr(record) == "SampleTrace(4 visual and 5 text tokens, nothing pruned)"
    frame = record.to_frame()
    assert frame[["site", "available", "entered", "kept", "share"]].values.tolist() == [
        ["", 4, 4, 4, 1.0]
    ]


def test_notes_are_told() -> None:
    record = sample(Layout((Tile(2, 2),)), {INPUT: [0]})
    record.notes.append("the question was cut off")
    assert "the question was cut off" in repr(record)


def test_a_trace_lists_its_samples() -> None:
    trace = Trace()
    assert repr(trace) == "Trace(nothing has run yet)"
    assert "nothing has run yet" in trace._repr_html_()
    trace.reset([sample(Layout((Tile(1, 2),)), {INPUT: [1]}), sample(Layout((Tile(2, 2),)), {})])
    first, *others = repr(trace).splitlines()
    assert first == "Trace of 2 samples, 0.0 ms in the method:"
    assert others[0].startswith("  0: SampleTrace(2 visual")
    assert "input keeps 1 (50 %)" in others[0]
    assert others[1].startswith("  1: SampleTrace(4 visual")


def test_a_table_has_a_row_a_stage_of_every_sample() -> None:
    trace = Trace()
    trace.reset(
        [
            sample(Layout((Tile(2, 2),)), {INPUT: [0, 1, 3], llm(before=1): [3]}),
            sample(Layout((Tile(1, 2),)), {INPUT: [1]}),
        ]
    )
    frame = trace.to_frame()
    columns = ["sample", "stage", "site", "available", "entered", "kept", "tokens_mean"]
    assert frame[columns].values.tolist() == [
        [0, 0, "input", 4, 4, 3, 2.0],
        [0, 1, "llm:1", 4, 3, 1, 2.0],
        [1, 0, "input", 2, 2, 1, 1.0],
    ]
    assert Trace().to_frame().columns.tolist() == frame.columns.tolist()


def test_a_mask_stitches_crops_and_leaves_newlines_and_the_thumbnail_out() -> None:
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    layout = Layout(
        (
            Tile(1, 1, "thumbnail"),
            Tile(2, 1, "crop", newlines=True, region=left),
            Tile(2, 1, "crop", newlines=True, region=right),
            Tile(1, 2, "image", image=1),
        )
    )
    # the thumbnail, then token and newline by turns
    stitched = mask(layout, torch.tensor([0, 1, 4, 7, 10]))
    assert stitched.cells.tolist() == [[True, False], [False, True]]
    assert stitched.region == (0.0, 0.0, 1.0, 1.0)
    assert mask(layout, torch.tensor([0, 10]), number=1).cells.tolist() == [[False, True]]
    with pytest.raises(ValueError, match="no picture 2; this sample has 2, from 0"):
        mask(layout, torch.tensor([0]), number=2)


def test_crops_without_a_place_are_refused() -> None:
    layout = Layout((Tile(1, 1, "crop", region=None), Tile(1, 1, "crop", region=None)))
    with pytest.raises(ValueError, match="where in the image a crop lies is not known"):
        mask(layout, torch.tensor([0]))
    # a notebook asks unasked, and gets the table alone
    assert "<img" not in sample(layout, {INPUT: [0]})._repr_html_()


def pixels_of(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB")).astype(int)


def test_a_drawing_darkens_what_was_dropped_and_shows_what_the_model_saw() -> None:
    # the model saw the right half of an image that is black on its left
    half = Layout((Tile(1, 2, region=(0.5, 0.0, 1.0, 1.0)),))
    image = Image.new("RGB", (400, 200))
    image.paste((200, 180, 160), (200, 0, 400, 200))
    record = sample(half, {INPUT: [0]})
    sheet = pixels_of(record.show(image))
    bright = (sheet == (200, 180, 160)).all(axis=2).sum()
    side = 600  # three times the part of the image that the model saw
    # the original whole, and half of the panel
    assert 1.35 * side * side < bright <= 1.5 * side * side
    unknown = sample(Layout((Tile(1, 2, region=None),)), {INPUT: [0]})
    with pytest.raises(ValueError, match="which part of the image the tokens cover is not known"):
        unknown.show(image)
    assert unknown.show().width > 0
    with pytest.raises(ValueError, match="there is no sample 0; the latest prefill had 0"):
        Trace().show(image)


def test_a_real_session_is_shown(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    _, _, trace = run(model, inputs, method("fastv"), budget=0.75)
    frame = trace.to_frame()
    assert frame["site"].tolist() == ["llm:2"]
    assert frame["kept"].tolist() == [len(trace.samples[0].kept[llm(before=2)])]
    assert "llm:2 keeps" in repr(trace)
    assert trace._repr_html_().count("<img") == 1


def test_a_trained_model_is_shown_on_an_image() -> None:
    loaded = load("tiny-llava-next")
    image = picture(128, 128)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is there?"}]
    inputs = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with prune(loaded.model, "divprune", budget=0.5) as trace, torch.inference_mode():
        loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert trace.show(image).height >= 448


def test_show_draws_the_part_of_an_image_that_a_model_sees(tmp_path: Path) -> None:
    """A processor that crops to the middle leaves the sides unseen; tokens lie on the middle."""
    folder = tmp_path / "cropping"
    shutil.copytree(MODELS["tiny-llava-1.5"], folder)
    config = folder / "processor_config.json"
    settings = json.loads(config.read_text())
    side = settings["image_processor"]["size"]["height"]
    settings["image_processor"] |= {
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
    }
    config.write_text(json.dumps(settings))
    picture(224, 112).save(tmp_path / "wide.png")
    unpruned, pruned = show.picture(
        [f"model={folder}", f"image={tmp_path / 'wide.png'}", "question=digit"]
    ).strips
    middle = np.asarray(picture(224, 112).crop((56, 0, 168, 112)))
    for one in (unpruned, pruned):
        assert one.masks[0].shape == (side // 14, side // 14)
        assert np.array_equal(np.asarray(one.image), middle)
    # of an image of one's own nobody says what is right
    assert (unpruned.right, pruned.right) == (None, None)


def test_show_sets_methods_beside_the_unpruned_model_stage_by_stage() -> None:
    words = ["model=tiny-qwen3-vl", "sample=7", "budget=0.5", "method=none,divprune,pyramiddrop"]
    view = show.picture(words)
    assert [one.name for one in view.strips] == [
        "none: the unpruned model",
        "divprune at 0.5",
        "pyramiddrop at 0.5",
    ]
    assert [len(one.masks) for one in view.strips] == [1, 1, 3]
    unpruned, divprune, stages = view.strips
    assert unpruned.masks[0].all()
    assert divprune.masks[0].sum() == divprune.masks[0].size // 2
    counts = [int(mask.sum()) for mask in stages.masks]
    assert counts == sorted(counts, reverse=True)
    right = view.title.rpartition("(right: ")[2].rstrip(")")
    for one in view.strips:
        assert one.right == (one.answer == right), one
    assert unpruned.right


def test_show_marks_what_is_wrong() -> None:
    """Without its images the model can only guess."""
    shown = []
    for number in range(4):
        shown.append(show.picture(["method=blind", f"sample={number}"]).strips)
    assert not all(blind.right for _, blind in shown)
    assert not any(blind.masks[0].any() for _, blind in shown)
