"""The embedded default: true scenes, a stock processor, training that equals the stock forward, a
model that sees.
"""

import csv
import itertools
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from prunebench.learning.folder import RunError
from prunebench.learning.loop import Pace
from prunebench.testbed import (
    KINDS,
    MODELS,
    TOWERS,
    Question,
    Scene,
    SceneObject,
    ask,
    model_path,
    sample,
    scene,
)
from prunebench.testbed.batches import SceneBatch, box_tokens, cells, token_labels
from prunebench.testbed.dataset import write_parquet
from prunebench.testbed.drawing import PALETTE, SHAPES
from prunebench.testbed.evaluate import evaluate
from prunebench.testbed.miniatures import MINIATURES, miniature
from prunebench.testbed.objectives import evidence_losses
from prunebench.testbed.options import MiniatureOptions
from prunebench.testbed.processor import build_processor, build_tokenizer
from prunebench.testbed.questions import ANSWERS, words
from prunebench.testbed.recipe import LEVELS, LLAVA, LvlmRecipe
from prunebench.testbed.scenes import LARGEST, RESOLUTIONS, SMALLEST, Box
from prunebench.testbed.tiny_qwen import TinyQwenConfig, build_model
from prunebench.testbed.tiny_qwen3 import TinyQwen3Config
from prunebench.testbed.train import train_miniature

SMALL = TinyQwenConfig(
    vision_depth=2, vision_width=32, full_attention=(1,), layers=4, width=40, heads=2, kv_heads=1
)
SMALL_3 = TinyQwen3Config(
    vision_depth=2, vision_width=32, deepstack=(0, 1), layers=4, width=60, heads=2, kv_heads=1
)
QWENS: dict[str, Any] = {"tiny-qwen2.5-vl": SMALL, "tiny-qwen3-vl": SMALL_3}
LOW = dict.fromkeys(LEVELS, 1) | {"color": 2}
SHORT = LvlmRecipe(
    vision_steps=4,
    place_steps=0,
    joint_steps=8,
    tokens=128,
    questions=2,
    warmup=2,
    fine=0.0,
    levels=LOW,
    precision="float32",
    sizes=SMALL,
)
QUICK = MiniatureOptions(held_out=5)
OFTEN = Pace(log_every=2, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def stock() -> Any:
    model: Any = build_model(SMALL, seed=3)
    return model.eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


# Scenes


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    for index in range(24):
        (first, question), (second, again) = sample(5, index), sample(5, index)
        assert (first, question) == (second, again)
        assert np.array_equal(first.render(), second.render())
    assert scene(5, 0) != scene(6, 0)
    assert scene(5, 0) != scene(5, 1)


def test_boxes_lie_in_the_image_apart_from_each_other_and_hold_their_object() -> None:
    for index in range(60):
        about = scene(1, index)
        pixels = about.render().astype(int)
        for thing in about.objects:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= about.width
            assert 0 <= y0 < y1 <= about.height
            inside = (abs(pixels[y0:y1, x0:x1] - PALETTE[thing.colour]).max(-1) < 20).mean()
            assert inside > 0.1, (index, thing)
            for other in about.objects:
                a, b = thing.box, other.box
                assert (
                    thing is other or a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                )


def test_scenes_vary_in_resolution_number_and_complexity() -> None:
    scenes = [scene(2, index) for index in range(400)]
    assert {(about.width, about.height) for about in scenes} == set(RESOLUTIONS)
    tokens = {about.width * about.height // 784 for about in scenes}
    assert (min(tokens), max(tokens)) == (25, 256)
    assert {len(about.objects) for about in scenes} == {1, 2, 3, 4, 5, 6}
    assert {about.complexity for about in scenes} == {1, 2, 3}
    things = list(itertools.chain.from_iterable(about.objects for about in scenes))
    sides = [thing.side for thing in things]
    assert min(sides) == SMALLEST
    assert 90 < max(sides) <= LARGEST
    assert {len(thing.number or "") for thing in things} == {0, 1, 2}


def test_the_size_of_objects_says_nothing_of_their_number() -> None:
    """Where there is room: how many there are must not follow from what is seen of one."""
    few: list[int] = []
    many: list[int] = []
    for index in range(400):
        sides = [thing.side for thing in scene(2, index, size=(448, 448), odd=False).objects]
        (few if len(sides) < 4 else many).extend(sides)
    assert abs(np.mean(few) - np.mean(many)) < 4


def test_the_smallest_objects_lie_within_one_token() -> None:
    things = itertools.chain.from_iterable(scene(7, index).objects for index in range(200))
    boxes = [thing.box for thing in things if thing.side == SMALLEST]
    assert len(boxes) > 50
    for x0, y0, x1, y1 in boxes:
        assert (x0 // 28, y0 // 28) == ((x1 - 1) // 28, (y1 - 1) // 28)


def test_in_odd_scenes_one_object_is_the_odd_one() -> None:
    for index in range(100):
        about = scene(6, index, odd=True)
        question = ask(about, "odd", np.random.default_rng(index))
        assert question is not None
        (box,) = question.evidence
        assert len(about.objects) >= 3
        (thing,) = (one for one in about.objects if one.box == box)
        others = [one for one in about.objects if one is not thing]
        same_colour = {one.colour for one in others}
        same_shape = {one.shape for one in others}
        by_colour = len(same_colour) == 1 and thing.colour not in same_colour
        assert by_colour or (len(same_shape) == 1 and thing.shape not in same_shape)


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_follow_from_the_scene(kind: str) -> None:
    answers = set()
    for index in range(300):
        about = scene(3, index)
        question = ask(about, kind, np.random.default_rng(index))
        if question is None:
            continue
        assert (question.answer, set(question.evidence)) == _solve(about, question)
        assert set(f"{question.text} {question.answer}".split()) <= set(words())
        answers.add(question.answer)
    least = {"number": 60, "count": 6, "count_by": 4, "largest": 14, "odd": 14}
    assert len(answers) >= least.get(kind, len(ANSWERS[kind]))


def _solve(about: Scene, question: Question) -> tuple[str, set[Box]]:
    """The answer and its evidence read off the scene's objects; fails where the question does not
    single one out.
    """
    things, text = about.objects, question.text.split()
    if question.kind == "count":
        return str(len(things)), {thing.box for thing in things}
    if question.kind == "count_by":
        match = _matching(things, text[1:])
        return str(len(match)), {thing.box for thing in match}
    if question.kind == "exist":
        match = _matching(things, text[1:])
        return ("yes", {match[0].box}) if match else ("no", set())
    if question.kind in ("compare", "side"):
        one, other = _pair(things, question)
        return _related(one, other, question.kind), {one.box, other.box}
    if question.kind == "largest":
        thing = max(things, key=lambda thing: thing.side)
    elif question.kind == "odd":
        thing = _odd(things)
    else:
        (thing,) = _matching(things, text[2:])
    if question.kind == "cell":
        return _cell(about, thing), {thing.box}
    trait = question.kind if question.kind in ("color", "shape", "number") else text[0]
    values = {"color": thing.colour, "shape": thing.shape, "number": " ".join(thing.number or "")}
    return values[trait], {thing.box}


def _matching(things: Sequence[SceneObject], words: Sequence[str]) -> list[SceneObject]:
    """The objects that have all the words; digits are one number."""
    number = "".join(word for word in words if word.isdigit())
    looks = {word for word in words if not word.isdigit()}
    match = [thing for thing in things if looks <= {thing.colour, thing.shape}]
    return [thing for thing in match if not number or thing.number == number]


def _pair(things: Sequence[SceneObject], question: Question) -> tuple[SceneObject, SceneObject]:
    if question.kind == "compare":
        keys = question.text.removeprefix("larger ").split(" than ")
    else:
        keys = question.text.removeprefix("side of ").split(" from ")
    (one,), (other,) = (_matching(things, key.split()) for key in keys)
    return one, other


def _related(one: SceneObject, other: SceneObject, kind: str) -> str:
    if kind == "compare":
        return "yes" if one.side > other.side else "no"
    across, down = (a - b for a, b in zip(one.centre, other.centre, strict=True))
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def _odd(things: Sequence[SceneObject]) -> SceneObject:
    lone = []
    for trait in ("colour", "shape"):
        values = [getattr(thing, trait) for thing in things]
        if len(set(values)) == 2:
            lone += [thing for thing in things if values.count(getattr(thing, trait)) == 1]
    (thing,) = lone
    return thing


def _cell(about: Scene, thing: SceneObject) -> str:
    x, y = thing.centre
    row = ("top", "middle", "bottom")[int(3 * y / about.height)]
    return f"{row} {('left', 'center', 'right')[int(3 * x / about.width)]}"


def test_a_second_turn_is_about_another_object() -> None:
    for index in range(100):
        about, question = sample(4, index, "turn")
        first, second = question.prompt.split("<|im_end|>")
        assert second.strip() == question.text
        assert first == question.before
        answers = {*itertools.chain.from_iterable(ANSWERS.values()), *"0123456789"}
        assert first.split()[-1] in answers
        assert set(question.evidence) <= {thing.box for thing in about.objects}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_to_a_task_are_balanced(kind: str) -> None:
    answers = [sample(1, index, kind)[1].answer for index in range(300)]
    if kind == "number":
        assert 0.4 < np.mean([" " in answer for answer in answers]) < 0.6
        return
    counts = Counter(answers)
    assert set(counts) == set(ANSWERS[kind])
    even = len(answers) / len(ANSWERS[kind])
    assert max(counts.values()) < 2 * even + 10


def test_bad_requests_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="200x224"):
        scene(0, 0, size=(200, 224))
    with pytest.raises(ValueError, match="complexity 9"):
        scene(0, 0, complexity=9)
    with pytest.raises(ValueError, match="7 objects: there are 1 to 6"):
        scene(0, 0, count=7)
    with pytest.raises(ValueError, match=r"weather.*color"):
        ask(scene(0, 0), "weather", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"tiny-qwen2\.5-vl"):
        model_path("huge")
    with pytest.raises(ValueError, match=r"huge.*tiny-clip"):
        miniature("huge")


def test_every_miniature_has_a_recipe_and_a_folder() -> None:
    """What the command line offers is read without the recipes, which bring torch."""
    assert set(MINIATURES) == {*MODELS, *TOWERS}


def test_tokens_are_labelled_with_what_lies_there() -> None:
    about = scene(4, 0, size=(224, 224))
    colour, shape, tens, ones, side, centre = token_labels(about, cells(224, 224))
    assert centre.sum() == len(about.objects)
    for thing in about.objects:
        covered = box_tokens(thing.box, cells(224, 224), share=0.99)
        assert (colour[covered] == 1 + list(PALETTE).index(thing.colour)).all()
        assert (shape[covered] == 1 + SHAPES.index(thing.shape)).all()
        digits = [0, 0, *(int(digit) + 1 for digit in thing.number or "")][-2:]
        assert (tens[covered] == digits[0]).all()
        assert (ones[covered] == digits[1]).all()
        assert (side[covered] > 0).all()


def test_fine_scenes_are_large_and_their_objects_small_and_numbered() -> None:
    for index in range(40):
        about, question = sample(1, index, "fine")
        assert (about.width, about.height) == (560, 560)
        assert {thing.side for thing in about.objects} == {44}
        assert question.kind == ("number", "shape")[index % 2]
        assert (question.answer, set(question.evidence)) == _solve(about, question)
        assert all(thing.number for thing in about.objects)


# Parquet


def test_parquet_is_read_by_datasets_and_has_the_same_bytes_twice(tmp_path: Path) -> None:
    from datasets import load_dataset

    first, second = (
        write_parquet(tmp_path / "a" / "mixed.parquet", 12),
        write_parquet(tmp_path / "b.parquet", 12),
    )
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["mixed.parquet"]
    rows = load_dataset(
        "parquet", data_files=str(first), split="train", cache_dir=str(tmp_path / "cache")
    )
    for index, row in enumerate(rows):
        about, question = sample(1, index)
        assert np.array_equal(np.asarray(row["image"]), about.render())
        assert (row["question"], row["answer"], row["question_type"]) == (
            question.prompt,
            question.answer,
            question.kind,
        )
        assert row["evidence_boxes"] == [list(box) for box in question.evidence]
        assert (row["complexity"], row["width"], row["height"], row["scene_index"]) == (
            about.complexity,
            about.width,
            about.height,
            about.index,
        )


# Processor


def test_words_are_tokens_whatever_their_case_and_punctuation() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer("Any RED square?")["input_ids"] == tokenizer("any red square")["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(words()))["input_ids"]
    assert tokenizer("weather")["input_ids"] == [tokenizer.unk_token_id]


def test_prompts_hold_as_many_image_tokens_as_cells_and_pad_on_the_left(
    processor: Any, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    loaded: Any = AutoProcessor.from_pretrained(tmp_path)
    sizes = [[(224, 224)], [(336, 224), (448, 448)]]
    text = loaded.apply_chat_template(
        [_ask("color of 5", len(images)) for images in sizes], add_generation_prompt=True
    )
    first, second = (Image.new("RGB", size) for size in sizes[1])
    images = [[Image.new("RGB", sizes[0][0])], [first, second]]
    inputs = loaded(text=text, images=images, padding=True, return_tensors="pt")
    image_tokens = (
        inputs["input_ids"] == loaded.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ).sum(1)
    assert image_tokens.tolist() == [64, 96 + 256]
    assert inputs["attention_mask"][0, :-1].sum() < inputs["attention_mask"].shape[1] - 1
    assert loaded.tokenizer.decode(inputs["input_ids"][0, -3:]) == "color of 5"


def _ask(text: str, images: int = 1) -> list[dict[str, Any]]:
    content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def test_a_padded_batch_answers_like_its_rows_alone(stock: Any, processor: Any) -> None:
    pairs = [sample(8, index) for index in range(3)]
    text = processor.apply_chat_template(
        [_ask(question.text) for _, question in pairs], add_generation_prompt=True
    )
    images = [[Image.fromarray(about.render())] for about, _ in pairs]
    with torch.inference_mode():
        together = stock(
            **processor(text=text, images=images, padding=True, return_tensors="pt")
        ).logits[:, -1]
        for row, (prompt, image) in enumerate(zip(text, images, strict=True)):
            alone = stock(**processor(text=[prompt], images=[image], return_tensors="pt")).logits[
                0, -1
            ]
            torch.testing.assert_close(together[row], alone, atol=2e-5, rtol=1e-4)


def test_a_video_goes_through_generate(stock: Any, processor: Any) -> None:
    frames = np.stack([scene(9, 0, size=(224, 224)).render()] * 4)
    messages = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "count objects"}]}
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], videos=[frames], do_sample_frames=False, return_tensors="pt")
    assert (
        (inputs["input_ids"] == processor.video_token_id).sum()
        == inputs["video_grid_thw"].prod() // 4
        == 2 * 64
    )
    assert stock.generate(**inputs, max_new_tokens=1).shape[1] == inputs["input_ids"].shape[1] + 1


# Training


def _objective(name: str, sizes: Any, **changes: Any) -> Any:
    kind = miniature(name)
    assert isinstance(kind.recipe, LvlmRecipe)
    recipe = replace(
        kind.recipe,
        levels=LOW,
        vision_steps=0,
        place_steps=0,
        tokens=150,
        questions=12,
        fine=0.2,
        **changes,
    )
    return kind.objective(kind.build(sizes, 3).eval(), recipe, 0)


def _asked(data: SceneBatch, number: int, tokenizer: Any) -> tuple[torch.Tensor, str]:
    """Where the words of a question of the first scene stand, up to its answer, and the text."""
    places = (data.owner[0] == number).nonzero()[:, 0]
    places = places[places <= data.ends[0, number, 0]]
    return places, tokenizer.decode(data.words[0, places])


@pytest.mark.parametrize("step", [0, 1, 2, 4])
@pytest.mark.parametrize("name", QWENS)
def test_the_training_pass_equals_the_stock_forward(name: str, step: int) -> None:
    objective, processor = _objective(name, QWENS[name]), miniature(name).processor()
    data, fast = objective.batch(step), objective.learner
    stock: Any = fast.module
    image = Image.fromarray(data.pixels[0].numpy())
    with torch.inference_mode():
        features = fast.see(data.pixels)
        logits = fast.answer(features, data, objective.levels).logits
        for number in range(12):
            places, text = _asked(data, number, processor.tokenizer)
            prompt = processor.apply_chat_template(_ask(text), add_generation_prompt=True)
            inputs = processor(text=[prompt], images=[[image]], return_tensors="pt")
            expected = stock(**inputs).logits[0, -len(places) :]
            torch.testing.assert_close(logits[0, places], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", QWENS)
def test_evidence_attention_is_that_of_the_model(name: str) -> None:
    objective, processor = _objective(name, QWENS[name]), miniature(name).processor()
    data, layers = objective.batch(1), (1, 3)
    _, text = _asked(data, 2, processor.tokenizer)
    prompt = processor.apply_chat_template(_ask(text), add_generation_prompt=True)
    image = Image.fromarray(data.pixels[0].numpy())
    inputs = processor(text=[prompt], images=[[image]], return_tensors="pt")
    eager: Any = miniature(name).build(QWENS[name], 3).eval()
    eager.set_attn_implementation("eager")
    fast = objective.learner
    with torch.inference_mode():
        ours = fast.answer(fast.see(data.pixels), data, layers).attention[:, 0, 2, 0]
        theirs = eager(**inputs, output_attentions=True).attentions
    on_image = inputs["input_ids"][0] == processor.image_token_id
    for layer, attention in zip(layers, ours, strict=True):
        expected = theirs[layer][0, :, -1][:, on_image]
        torch.testing.assert_close(attention, expected, atol=1e-6, rtol=1e-4)


def test_a_packed_question_has_its_answer_its_end_and_its_evidence() -> None:
    objective = _objective("tiny-qwen2.5-vl", SMALL)
    data, tokenizer = objective.batch(1), build_tokenizer()
    assert set(data.kinds.flatten().tolist()) <= set(range(len(KINDS)))
    for number in range(12):
        places = (data.owner[0] == number).nonzero()[:, 0]
        kind = KINDS[data.kinds[0, number]]
        targets = data.targets[0, places]
        answer = targets[targets >= 0].tolist()
        assert answer[-1] == tokenizer.eos_token_id
        first, last = data.ends[0, number].tolist()
        assert data.targets[0, first : last + 1].tolist() == answer[:-1]
        words = tokenizer.decode(answer[:-1])
        if kind in ANSWERS and kind != "number":
            assert words in {*ANSWERS[kind], *map(str, range(7))}
        assert bool(data.evidence[0, number].any()) or words in ("no", "0")
        assert data.order[0, places].tolist() == list(range(len(places)))


def test_attention_on_evidence_counts_in_the_layer_of_its_question_alone() -> None:
    """Known values: two levels, one head, two tokens of which the first is evidence."""
    attention = torch.tensor([[0.5, 0.25], [0.8, 0.1]]).view(2, 1, 1, 1, 1, 2)
    attention = attention.expand(2, 1, 3, 2, 1, 2)
    evidence = torch.tensor([[[True, False], [True, False], [False, False]]])
    level = torch.tensor([[1, -1, 1]])  # of the second nowhere; the third has no evidence
    reading, waiting, mass = evidence_losses(attention, evidence, level)
    assert float(mass) == pytest.approx(0.8)
    assert float(reading) == pytest.approx(-math.log(0.8), abs=1e-3)
    assert float(waiting) == pytest.approx(-math.log(0.5), abs=1e-3)


@pytest.mark.usefixtures("no_export")
def test_a_run_stops_where_places_are_not_learnt(tmp_path: Path) -> None:
    recipe = replace(SHORT, gates={"cell": 0.6}, place_steps=2)
    with pytest.raises(RunError, match=r"after 2 place_steps cell is 0\.\d\d, below 0\.6: .* more"):
        train_miniature(tmp_path, recipe=recipe)


@pytest.mark.usefixtures("no_export")
def test_a_run_ends_when_its_time_is_over_with_its_rate_at_the_end(tmp_path: Path) -> None:
    recipe = replace(SHORT, joint_steps=100_000)
    pace = Pace(log_every=1, seconds=3.0)
    train_miniature(tmp_path, recipe=recipe, pace=pace)
    rows = _log(tmp_path)
    assert 3 < len(rows) < 10_000
    assert float(rows[-1]["rate"]) < 0.5 * max(float(row["rate"]) for row in rows)


@pytest.mark.usefixtures("no_export")
def test_processes_that_make_batches_change_nothing(tmp_path: Path) -> None:
    for name, workers in (("alone", 0), ("helped", 2)):
        options = MiniatureOptions(workers=workers)
        train_miniature(tmp_path / name, options, recipe=SHORT)
    assert _log(tmp_path / "alone") == _log(tmp_path / "helped")


@pytest.mark.slow
def test_a_killed_run_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_miniature(whole, QUICK, recipe=SHORT, pace=OFTEN)
    program = (
        "import sys; from pathlib import Path\n"
        "from test_testbed import OFTEN, QUICK, SHORT, train_miniature\n"
        "train_miniature(Path(sys.argv[1]), QUICK, recipe=SHORT, pace=OFTEN)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(cut)],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 300
    while not (cut / "checkpoint.pt").exists():
        assert time.monotonic() < until, "no checkpoint"
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (cut / "log.csv").open("a") as file:
        file.write("11,1.0,0.001\n")  # logged after the last checkpoint: must not stay
    train_miniature(cut, QUICK, recipe=SHORT, pace=OFTEN)
    assert _log(cut) == _log(whole)
    first, second = (
        torch.load(run / "checkpoint.pt", weights_only=True)["weights"] for run in (whole, cut)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="seed 0, not 1"):
        train_miniature(cut, MiniatureOptions(seed=1), recipe=SHORT)
    model = train_miniature(cut, QUICK, recipe=replace(SHORT, joint_steps=10), pace=OFTEN)
    assert (
        "Until step 12, what was then changed: joint_steps 8." in (model / "README.md").read_text()
    )


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a model's figures costs more than training it shortly."""
    monkeypatch.setattr("prunebench.testbed.export.export", lambda *_, **__: None)


@pytest.mark.usefixtures("no_export")
def test_a_run_begins_with_one_model_and_goes_on_with_no_other(tmp_path: Path) -> None:
    recipe = replace(LLAVA, joint_steps=1, tokens=144, questions=1, precision="float32")
    llava = MiniatureOptions("tiny-llava-1.5")
    train_miniature(tmp_path / "run", llava, recipe=recipe)
    start = tmp_path / "start"
    with pytest.raises(RunError, match=r"start .*: it has no folder tiny-clip"):
        start.mkdir()
        train_miniature(tmp_path / "none", replace(llava, start=str(start)), recipe=recipe)
    for name in ("tiny-clip", "tiny-qwen2.5-vl"):
        shutil.copytree(model_path(name), start / name)
    other = start / "tiny-clip"
    state = load_file(other / "model.safetensors")
    save_file(
        {name: weight * 1.01 for name, weight in state.items()},
        other / "model.safetensors",
        {"format": "pt"},
    )
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match=r"start .*, not .*: choose another folder, or resume=False"):
        train_miniature(tmp_path / "run", replace(llava, start=str(start)), recipe=recipe)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    (other / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match="the model cannot begin with start"):
        train_miniature(tmp_path / "new", replace(llava, start=str(start)), recipe=recipe)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_export")
def test_a_damaged_run_starts_over_only_where_that_is_asked_for(tmp_path: Path) -> None:
    train_miniature(tmp_path, recipe=SHORT)
    whole = _log(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged .*resume=False to start over"):
        train_miniature(tmp_path, recipe=SHORT)
    train_miniature(tmp_path, MiniatureOptions(resume=False), recipe=SHORT)
    assert _log(tmp_path) == whole
    with pytest.raises(RunError, match="stands at step 12, and this run has 8"):
        train_miniature(tmp_path, recipe=replace(SHORT, joint_steps=4))


@pytest.mark.usefixtures("no_export")
def test_values_that_are_no_numbers_stop_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step \d: .* is (nan|inf) at a learning rate"):
        train_miniature(tmp_path, recipe=replace(SHORT, learning_rate=1e30))
    assert not (tmp_path / "checkpoint.pt").exists()


def _log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("seconds")
    return rows


# The shipped checkpoint


@pytest.mark.parametrize(
    "name",
    # the largest, whose test of fine scenes is fast, and the one asked about clips and pairs
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("next", "video")))
        for name in MODELS
    ],
)
def test_the_shipped_checkpoint_sees_as_its_card_says(name: str) -> None:
    folder = model_path(name)
    card = (folder / "README.md").read_text()
    match = re.search(r"^\| all \| (\d\.\d+) \|", card, re.MULTILINE)
    assert match is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
    figures = evaluate(folder, samples=144, seed=1)  # the first of those that the model card counts
    # of 144 questions, where the card has 240
    assert figures["accuracy"] >= float(match[1]) - 0.06
    assert figures["blank"]["accuracy"] <= figures["guess"]["accuracy"] + 0.1
