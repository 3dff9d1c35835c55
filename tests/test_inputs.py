"""Inputs: conversations become what a model takes, and what it writes becomes a text again."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

import prunebench
from prunebench.border.images import ImageError
from prunebench.models import DEFAULT, Loaded, aliases, loading
from prunebench.models.inputs import user_message
from prunebench.testbed import MODELS, Embedded, sample


@pytest.fixture(scope="module", params=["tiny-qwen2.5-vl", "tiny-llava-next"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return prunebench.load(request.param)


def drawn(index: int = 1) -> tuple[Image.Image, str, str]:
    """A scene, a question about it and the right answer."""
    scene, question = sample(seed=7, index=index)
    return Image.fromarray(scene.render()), question.text, question.answer


def visual(loaded: Loaded, inputs: dict[str, Any]) -> list[int]:
    """Visual tokens of every row."""
    return loaded.family.visual(loaded.model, inputs["input_ids"]).sum(1).tolist()


def test_the_example_of_load_runs() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(loading.load, "load", module=loading)
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0
    assert result.attempted >= 6


def test_every_embedded_name_is_one_that_an_editor_completes() -> None:
    assert set(get_args(Embedded)) == set(MODELS)
    assert DEFAULT in MODELS
    assert set(MODELS) <= set(aliases())


def test_a_question_becomes_what_the_processor_makes_of_it(loaded: Loaded) -> None:
    image, question, _ = drawn()
    inputs = loaded.inputs(image, question)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    due = loaded.processor(text=[text], images=[[image]], padding=True, return_tensors="pt")
    assert inputs.keys() == due.keys()
    for name, value in due.items():
        assert torch.equal(inputs[name], value), name


def test_an_image_may_be_a_file(loaded: Loaded, tmp_path: Path) -> None:
    image, question, _ = drawn()
    image.save(tmp_path / "scene.png")
    from_file = loaded.inputs(tmp_path / "scene.png", question)
    assert torch.equal(from_file["pixel_values"], loaded.inputs(image, question)["pixel_values"])
    with pytest.raises(ImageError, match=r"nothing\.png"):
        loaded.inputs(tmp_path / "nothing.png", question)


def test_the_answer_is_read_without_the_prompt(loaded: Loaded) -> None:
    image, question, answer = drawn()
    inputs = loaded.inputs(image, question)
    options = {"max_new_tokens": 4, "do_sample": False}
    tensor = loaded.model.generate(**inputs, **options)
    assert loaded.text(tensor, inputs) == answer
    output = loaded.model.generate(**inputs, **options, return_dict_in_generate=True)
    assert loaded.text(output, inputs) == answer
    with pytest.raises(ValueError, match="holds 2 answers"):
        loaded.text(torch.cat([tensor, tensor]), inputs)


def test_conversations_are_padded_on_the_left_and_hold_all_their_images(loaded: Loaded) -> None:
    image, question, _ = drawn()
    two_turns = [
        *user_message(image, question),
        {"role": "assistant", "content": [{"type": "text", "text": "diamond"}]},
        *user_message(image, question),
    ]
    inputs = loaded.process([user_message(image, question), two_turns])
    one, two = visual(loaded, inputs)
    assert two == 2 * one > 0
    assert inputs["attention_mask"][0, 0] == 0
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    (alone,) = visual(loaded, loaded.inputs(image, question))
    assert alone == one


def test_frames_of_a_video_become_tokens_too() -> None:
    loaded = prunebench.load("tiny-qwen2.5-vl")
    frames = [Image.new("RGB", (112, 84), (40 * number, 0, 0)) for number in range(4)]
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "count objects"}]
    inputs = loaded.process([[{"role": "user", "content": content}]])
    assert "pixel_values" not in inputs
    # 112 x 84 pixels are 4 x 3 tokens, and two frames share theirs
    assert visual(loaded, inputs) == [2 * 4 * 3]


def test_a_conversation_without_an_image_has_no_pixels(loaded: Loaded) -> None:
    question = [{"role": "user", "content": [{"type": "text", "text": "count objects"}]}]
    inputs = loaded.process([question])
    assert "pixel_values" not in inputs
    assert visual(loaded, inputs) == [0]


def test_a_turn_may_be_a_text_instead_of_parts() -> None:
    """With a template that takes such turns, as those of most public models do."""
    loaded = prunebench.load("tiny-llava-1.5")
    loaded.processor.chat_template = (
        "{% for turn in messages %}{% if turn.content is string %}{{ turn.content }} {% else %}"
        "{% for part in turn.content %}{{ part.text if part.type == 'text' else '<image>' }} "
        "{% endfor %}{% endif %}{% endfor %}"
    )
    image, question, _ = drawn()
    system = {"role": "system", "content": "count objects"}
    inputs = loaded.process([[system, *user_message(image, question)]])
    assert visual(loaded, inputs) == visual(loaded, loaded.inputs(image, question))
    text = loaded.processor.batch_decode(inputs["input_ids"], skip_special_tokens=True)[0]
    assert text.split() == ["count", "objects", *question.split()]


def test_a_loaded_model_says_what_it_is(loaded: Loaded) -> None:
    text = repr(loaded)
    for part in (loaded.name, loaded.family.name, "M parameters", "float32 on cpu", "sha256:"):
        assert part in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("size", [(3, 300), (300, 3), (9, 200)], ids=str)
def test_an_image_thinner_than_a_patch_is_pruned_as_any_other(
    loaded: Loaded, size: tuple[int, int]
) -> None:
    """A model that stitches crops may cut every patch of them off as padding, and leave newlines
    alone.
    """
    image = Image.new("RGB", size, "teal")
    inputs = loaded.inputs(image, "color of 1")
    options = {"max_new_tokens": 3, "do_sample": False}
    plain = loaded.model.generate(**inputs, **options)
    with prunebench.prune(loaded.model, "none"):
        assert torch.equal(loaded.model.generate(**inputs, **options), plain)
    (count,) = visual(loaded, inputs)
    with prunebench.prune(loaded.model, "random", budget=0.5) as trace:
        loaded.model.generate(**inputs, **options)
    assert len(trace.samples[0].survivors()) == count // 2
    assert trace.show(image).size
