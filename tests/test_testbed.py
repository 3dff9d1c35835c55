"""The embedded default: true scenes, a stock processor, training that equals the stock forward, a
model that sees.
"""

import csv
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
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
    ask,
    model_path,
    sample,
    scene,
)
from prunebench.testbed.batches import SceneBatch, WordIds, batch, box_tokens, cells, token_labels
from prunebench.testbed.dataset import write_parquet
from prunebench.testbed.drawing import PALETTE, SHAPES
from prunebench.testbed.evaluate import evaluate
from prunebench.testbed.miniatures import MINIATURES, miniature
from prunebench.testbed.options import MiniatureOptions
from prunebench.testbed.processor import build_processor, build_tokenizer
from prunebench.testbed.recipe import LLAVA, LvlmRecipe
from prunebench.testbed.scenes import RESOLUTIONS, words
from prunebench.testbed.tiny_qwen import FastQwen, TinyQwenConfig, build_model
from prunebench.testbed.train import train_miniature

SMALL = TinyQwenConfig(
    vision_depth=2, vision_width=32, full_attention=(1,), layers=4, width=40, heads=2, kv_heads=1
)
SHORT = LvlmRecipe(vision_steps=4, joint_steps=8, tokens=128, questions=2, warmup=2, sizes=SMALL)
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
    for index in range(20):
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
            assert inside > 0.15, (index, thing)
            for other in about.objects:
                a, b = thing.box, other.box
                assert (
                    thing is other or a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                )


def test_scenes_vary_in_resolution_number_and_complexity() -> None:
    scenes = [scene(2, index) for index in range(300)]
    assert {(about.width, about.height) for about in scenes} == set(RESOLUTIONS)
    assert all(64 <= about.width * about.height // 784 <= 256 for about in scenes)
    assert {len(about.objects) for about in scenes} == {1, 2, 3, 4, 5, 6}
    assert all((len(about.objects) + 1) // 2 == about.complexity for about in scenes)
    things = itertools.chain.from_iterable(about.objects for about in scenes)
    assert {thing.box[2] - thing.box[0] for thing in things} == {26, 44, 56, 72}


@pytest.mark.parametrize("kind", KINDS)
def test_every_scene_answers_every_type_and_the_answer_follows_from_the_scene(kind: str) -> None:
    answers = set()
    for index in range(300):
        about = scene(3, index)
        question = ask(about, kind, np.random.default_rng(index))
        assert question.answer == _solve(about, question)
        assert set(f"{question.text} {question.answer}".split()) <= set(words())
        assert question.evidence is None or question.evidence in [
            thing.box for thing in about.objects
        ]
        answers.add(question.answer)
    assert len(answers) == {"color": 8, "shape": 6, "digit": 10, "count": 6, "exist": 2}[kind]


def _solve(about: Scene, question: Question) -> str:
    """The answer read off the scene's objects; fails where the question does not single one out."""
    keys = set(question.text.split()[1 if question.kind == "exist" else 2 :])
    match = [thing for thing in about.objects if keys <= {thing.colour, thing.shape, thing.digit}]
    if question.kind == "count":
        return str(len(about.objects))
    if question.kind == "exist":
        return "yes" if match else "no"
    (thing,) = match
    assert question.evidence == thing.box
    return {"color": thing.colour, "shape": thing.shape, "digit": thing.digit or ""}[question.kind]


def test_bad_requests_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="200x224"):
        scene(0, 0, size=(200, 224))
    with pytest.raises(ValueError, match="complexity 9"):
        scene(0, 0, complexity=9)
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
    labels = token_labels(about, cells(224, 224))
    assert labels[3].sum() == len(about.objects)
    for thing in about.objects:
        covered = labels[:, box_tokens(thing.box, cells(224, 224), share=0.99)]
        assert (covered[0] == 1 + list(PALETTE).index(thing.colour)).all()
        assert (covered[1] == 1 + SHAPES.index(thing.shape)).all()


def test_fine_scenes_are_large_and_their_objects_small_and_numbered() -> None:
    for index in range(40):
        about, question = sample(1, index, "fine")
        assert (about.width, about.height) == (448, 448)
        assert {thing.box[2] - thing.box[0] for thing in about.objects} == {44}
        assert question.kind == ("digit", "shape")[index % 2]
        assert question.answer == _solve(about, question)
        assert all(thing.digit for thing in about.objects)


# Parquet


def test_parquet_is_read_by_datasets_and_has_the_same_bytes_twice(tmp_path: Path) -> None:
    from datasets import load_dataset

    first, second = (
        write_parquet(tmp_path / "a" / "mixed.parquet", 10),
        write_parquet(tmp_path / "b.parquet", 10),
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
            question.text,
            question.answer,
            question.kind,
        )
        assert row["evidence_box"] == (
            None if question.evidence is None else list(question.evidence)
        )
        assert (row["complexity"], row["width"], row["height"], row["scene_index"]) == (
            about.complexity,
            about.width,
            about.height,
            index,
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


def _batch(step: int) -> SceneBatch:
    tokenizer = build_tokenizer()
    return batch(
        0,
        step,
        boxes=cells,
        tokens=200,
        questions=7,
        colour_keyed=2,
        ids=WordIds(
            lambda text: tokenizer(text)["input_ids"],
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        ),
    )


@pytest.mark.parametrize("step", [0, 1, 2, 5, 9])
def test_the_training_pass_equals_the_stock_forward(stock: Any, processor: Any, step: int) -> None:
    data, fast = _batch(step), FastQwen(stock)
    images = [Image.fromarray(pixels.numpy()) for pixels in data.pixels]
    with torch.inference_mode():
        features = fast.see(data.pixels)
        logits = fast.answer(features, data).logits
        pictures = processor.image_processor(images=images, return_tensors="pt")
        stock_features = stock.model.visual(
            pictures["pixel_values"], pictures["image_grid_thw"]
        ).pooler_output
        torch.testing.assert_close(features.flatten(0, 1), stock_features, atol=1e-6, rtol=1e-5)
        for number in range(7):
            length = int(data.last[0, number]) + 1
            text = processor.tokenizer.decode(data.words[0, number, :length])
            prompt = processor.apply_chat_template(_ask(text), add_generation_prompt=True)
            expected = stock(
                **processor(text=[prompt], images=[images[0]], return_tensors="pt")
            ).logits[0, -length:]
            torch.testing.assert_close(logits[0, number, :length], expected, atol=1e-5, rtol=1e-4)


def test_evidence_attention_is_that_of_the_model(stock: Any, processor: Any) -> None:
    data, fast = _batch(1), FastQwen(stock)
    prompt = processor.apply_chat_template(
        _ask(processor.tokenizer.decode(data.words[0, 2, : int(data.last[0, 2]) + 1])),
        add_generation_prompt=True,
    )
    inputs = processor(
        text=[prompt], images=[Image.fromarray(data.pixels[0].numpy())], return_tensors="pt"
    )
    eager: Any = build_model(SMALL, seed=3)
    eager.eval()
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        ours = fast.answer(fast.see(data.pixels), data).attention[0, 2]
        theirs = eager(**inputs, output_attentions=True).attentions[fast.evidence_layer][0, :, -1]
    torch.testing.assert_close(
        ours, theirs[:, (inputs["input_ids"][0] == processor.image_token_id)], atol=1e-6, rtol=1e-4
    )


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
    recipe = replace(LLAVA, joint_steps=1, tokens=64, questions=1)
    llava = MiniatureOptions("tiny-llava-1.5")
    train_miniature(tmp_path / "run", llava, recipe=recipe)
    other = Path(shutil.copytree(model_path("tiny-clip"), tmp_path / "clip"))
    state = load_file(other / "model.safetensors")
    save_file(
        {name: weight * 1.01 for name, weight in state.items()},
        other / "model.safetensors",
        {"format": "pt"},
    )
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match=r"start .*, not .*: choose another folder, or resume=False"):
        train_miniature(tmp_path / "run", replace(llava, start=str(other)), recipe=recipe)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    (other / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match="the model cannot begin with start"):
        train_miniature(tmp_path / "new", replace(llava, start=str(other)), recipe=recipe)
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
    # the largest, whose test of fine scenes is fast
    [pytest.param(name, marks=[pytest.mark.slow] * ("next" in name)) for name in MODELS],
)
def test_the_shipped_checkpoint_sees(name: str) -> None:
    folder = model_path(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6
    figures = evaluate(folder, samples=150, seed=1)  # the first of those that the model card counts
    assert figures["accuracy"] >= 0.9
    assert min(figures["by_type"].values()) >= 0.8
    assert figures["blank"]["accuracy"] <= figures["guess"]["accuracy"] + 0.1
