"""Clips and pairs: true films, questions whose answers follow from them, training that equals the
stock forward, and evidence in time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from prunebench.benchmarks import Request, TaskError, load_task
from prunebench.border.videos import Clip as VideoClip
from prunebench.border.videos import Stretch
from prunebench.models import load
from prunebench.run.samples import Samples, read
from prunebench.testbed import model_path
from prunebench.testbed.batches import SceneBatch
from prunebench.testbed.clip_questions import (
    CLIP_ANSWERS,
    CLIP_KINDS,
    PAIR_ANSWERS,
    PAIR_KINDS,
    FilmQuestion,
    ask_clip,
    ask_pair,
    film_words,
    sample_clip,
    sample_pair,
)
from prunebench.testbed.clips import (
    CLIP_SIZES,
    FRAMES,
    FRAMES_A_MOMENT,
    MOMENTS,
    PAIR_SIZES,
    Clip,
    Pair,
    clip,
    pair,
)
from prunebench.testbed.evaluate_films import film_inputs, measure
from prunebench.testbed.film_batches import ALL_KINDS, MARKS, ClipBatch, FilmBatches, PairBatch
from prunebench.testbed.film_dataset import write_films
from prunebench.testbed.miniatures import miniature
from prunebench.testbed.questions import words
from prunebench.testbed.recipe import FilmRecipe
from prunebench.testbed.scenes import SceneObject
from prunebench.testbed.tiny_qwen import TinyQwenConfig
from prunebench.tokens import Layout, Tile

NAME = "tiny-qwen2.5-vl-video"
SMALL = TinyQwenConfig(
    vision_depth=2, vision_width=32, full_attention=(1,), layers=4, width=40, heads=2, kv_heads=1
)
ANSWERS = CLIP_ANSWERS | PAIR_ANSWERS
STRETCH = Stretch(0, 4, 4.0, 20, 10)


# Films


def test_a_film_is_a_function_of_seed_and_index() -> None:
    for index in range(12):
        for sample in (sample_clip, sample_pair):
            (first, question), (second, again) = sample(5, index), sample(5, index)
            assert (first, question) == (second, again)
            assert np.array_equal(first.render(), second.render())
    assert clip(5, 0) != clip(6, 0)
    assert pair(5, 0) != pair(5, 1)


def test_a_clip_has_moments_of_equal_frames_and_a_background_that_stays() -> None:
    for index in range(20):
        about = clip(1, index)
        frames = about.render().astype(int)
        assert len(frames) == FRAMES
        assert (frames[::FRAMES_A_MOMENT] == frames[1::FRAMES_A_MOMENT]).all()
        moments = frames[::FRAMES_A_MOMENT]
        nothing = np.ones(moments.shape[1:3], bool)
        for actor in about.actors:
            for thing in actor:
                if thing is not None:
                    x0, y0, x1, y1 = thing.box
                    nothing[y0:y1, x0:x1] = False
        # what is left is noise of some 3 of 255
        assert 0 < np.std((moments[1] - moments[0])[nothing]) < 6
        for picture in about.pictures:
            assert len({thing.box for thing in picture.objects}) == len(picture.objects)


def test_objects_of_a_clip_never_share_a_place() -> None:
    for index in range(100):
        for picture in clip(2, index).pictures:
            for one in picture.objects:
                for other in picture.objects:
                    a, b = one.box, other.box
                    apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                    assert one is other or apart


def test_a_related_pair_differs_in_one_object() -> None:
    changes = set()
    for index in range(60):
        about = pair(3, index, related=True)
        first, second = (set(picture.objects) for picture in about.pictures)
        changes.add(about.change)
        assert len(second - first) == 1
        assert len(first - second) == (about.change == "changed")
    assert changes == {"new", "changed"}
    assert pair(3, 0, related=False).change is None


# Questions


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_answers_about_clips_follow_from_what_is_where_and_when(kind: str) -> None:
    answers = set()
    for index in range(300):
        about = clip(3, index)
        question = ask_clip(about, kind, np.random.default_rng(index))
        if question is None:
            continue
        assert question.answer == _clip_answer(about, question)
        _check_words(question)
        _check_evidence(question, about.pictures)
        answers.add(question.answer)
    assert len(answers) >= 0.8 * len(ANSWERS[kind])


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_answers_about_pairs_follow_from_both_pictures(kind: str) -> None:
    answers = set()
    for index in range(300):
        about = pair(3, index)
        question = ask_pair(about, kind, np.random.default_rng(index))
        if question is None:
            continue
        assert question.answer == _pair_answer(about, question)
        _check_words(question)
        _check_evidence(question, about.pictures)
        answers.add(question.answer)
    assert len(answers) >= 0.8 * len(ANSWERS[kind])


def _check_words(question: FilmQuestion) -> None:
    assert set(f"{question.text} {question.answer}".split()) <= {*words(), *film_words()}


def _check_evidence(question: FilmQuestion, pictures: Sequence[Any]) -> None:
    """Something lies at every place."""
    assert question.evidence
    for sightings in question.evidence:
        for number, box in sightings:
            assert box in {thing.box for thing in pictures[number].objects}


def _by_moment(about: Clip, key: str) -> list[list[SceneObject]]:
    """At each moment what has the key's trait."""
    return [
        [thing for thing in picture.objects if key in (thing.colour, thing.shape)]
        for picture in about.pictures
    ]


def _clip_answer(about: Clip, question: FilmQuestion) -> str:
    """Read off the moments, by what is seen alone."""
    text = question.text.split()
    key = text[-1]
    there = [bool(things) for things in _by_moment(about, key)]
    if question.kind in ("moment", "glimpse"):
        (moment,) = (number for number, seen in enumerate(there) if seen)
        (thing,) = _by_moment(about, key)[moment]
        return str(moment + 1) if question.kind == "moment" else _trait(thing, text[0])
    if question.kind == "sight":
        (thing,) = about.pictures[int(key) - 1].objects
        return _trait(thing, text[0])
    if question.kind == "snapshot":
        (thing,) = _by_moment(about, key)[int(text[2]) - 1]
        return thing.colour
    if question.kind == "order":
        firsts = [
            [bool(seen) for seen in _by_moment(about, word)].index(True) for word in (text[0], key)
        ]
        assert 0 not in firsts
        return "yes" if firsts[0] < firsts[1] else "no"
    first, last = about.pictures[0].objects, about.pictures[-1].objects
    if question.kind == "start":
        looks = [(thing.shape, thing.number) for thing in first]
        (new,) = (
            thing
            for thing in last
            if (thing.shape, thing.number) not in looks or not _was_there(about, thing)
        )
        return _trait(new, text[0])
    (actor,) = (actor for actor in about.actors if len({t.box for t in actor if t}) > 1)
    places = [thing for thing in actor if thing is not None]
    if question.kind == "motion":
        return _trait(places[0], text[0])
    across, down = np.subtract(places[-1].centre, places[0].centre)
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def _was_there(about: Clip, thing: SceneObject) -> bool:
    """Whether the object of that number and place was there at first."""
    return any(actor[0] is not None for actor in about.actors if actor[-1] == thing)


def _pair_answer(about: Pair, question: FilmQuestion) -> str:
    text = question.text.split()
    first, second = (picture.objects for picture in about.pictures)
    ordinals = ("first", "second")
    if question.kind == "more":
        return ordinals[len(second) > len(first)]
    if question.kind in ("addition", "alteration"):
        (thing,) = set(second) - set(first)
        return _trait(thing, text[0])
    key = set(text[2 if question.kind == "picture" else -1 :])
    match = [
        [thing for thing in things if key <= {thing.colour, thing.shape}]
        for things in (first, second)
    ]
    if question.kind == "inside":
        (thing,) = match[ordinals.index(text[2])]
        return _trait(thing, text[0])
    if question.kind == "bigger":
        (one,), (other,) = match
        return ordinals[other.side > one.side]
    assert sum(map(len, match)) == 1
    return ordinals[len(match[1])]


def _trait(thing: SceneObject, name: str) -> str:
    return {"color": thing.colour, "shape": thing.shape}[name]


@pytest.mark.parametrize("kind", [*CLIP_KINDS, *PAIR_KINDS])
def test_answers_to_a_task_are_balanced(kind: str) -> None:
    sample: Callable[..., Any] = sample_clip if kind in CLIP_KINDS else sample_pair
    counts = Counter(sample(1, index, [kind])[1].answer for index in range(140))
    even = 140 / len(ANSWERS[kind])
    assert set(counts) == set(ANSWERS[kind])
    assert max(counts.values()) < 2 * even + 8


def test_unknown_kinds_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"weather.*moment"):
        ask_clip(clip(0, 0), "weather", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"moment.*picture"):
        ask_pair(pair(0, 0), "moment", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"picture.*moment"):
        sample_clip(0, 0, ["picture"])


# Training


def _learner() -> tuple[Any, Any]:
    kind = miniature(NAME)
    assert isinstance(kind.recipe, FilmRecipe)
    levels = dict.fromkeys(kind.recipe.levels, 1)
    recipe = replace(kind.recipe, levels=levels, tokens=260, questions=3, film_questions=3)
    return kind.objective(kind.build(SMALL, 3).eval(), recipe, 0), kind.processor()


@pytest.mark.parametrize("pairs", [False, True])
def test_the_training_pass_over_films_equals_the_stock_forward(pairs: bool) -> None:
    objective, processor = _learner()
    data = _batch(objective, ClipBatch if not pairs else PairBatch)
    learner, stock = objective.learner, objective.learner.module
    with torch.inference_mode():
        features = learner.see(data.pixels)
        logits = learner.answer(features, data, objective.levels).logits
        for number in range(3):
            places = (data.owner[1] == number).nonzero()[:, 0]
            places = places[places <= data.ends[1, number, 0]]
            text = processor.tokenizer.decode(data.words[1, places])
            question = FilmQuestion("", text, "", ())
            shown = _Shown(data.pixels[1].numpy(), pairs)
            inputs = film_inputs(processor, [(shown.film, question)])
            expected = stock(**inputs).logits[0, -len(places) :]
            torch.testing.assert_close(logits[1, places], expected, atol=1e-5, rtol=1e-4)


class _Shown:
    """A film of pixels that were drawn already."""

    def __init__(self, pixels: Any, pairs: bool) -> None:
        films: Any = (pair if pairs else clip)(0, 0)
        frames = pixels if pairs else pixels.repeat(FRAMES_A_MOMENT, axis=0)

        class Film(type(films)):  # type: ignore[misc]
            def render(self) -> Any:
                return frames

        self.film = Film(*(getattr(films, name) for name in films.__dataclass_fields__))


def _batch(objective: Any, kind: type[SceneBatch]) -> Any:
    """The first batch of that kind with two films at least."""
    batches = (objective.batch(step) for step in range(100))
    return next(batch for batch in batches if type(batch) is kind and len(batch.pixels) > 1)


def test_the_evidence_of_a_packed_question_lies_at_its_moment() -> None:
    objective, _ = _learner()
    batches: FilmBatches = objective.batch.parts[1]
    only = replace(batches, shares={"glimpse": 1.0})
    data = only(0)
    tokens = data.evidence.shape[-1] // MOMENTS
    by_moment = data.evidence.view(*data.evidence.shape[:2], MOMENTS, tokens).any(-1)
    assert (by_moment.sum(-1) == 1).all()
    pairs = objective.batch.parts[2]
    marked = replace(pairs, shares={"bigger": 1.0})(0)
    half = (marked.evidence.shape[-1] - MARKS) // 2
    assert marked.evidence[..., :half].any(-1).all()
    assert not marked.evidence[..., half : half + MARKS].any()
    assert marked.evidence[..., half + MARKS :].any(-1).all()
    kinds = {ALL_KINDS[number] for number in marked.kinds.flatten().tolist()}
    assert kinds == {"bigger"}


def test_it_begins_with_all_that_the_model_of_scenes_knows() -> None:
    kind = miniature(NAME)
    assert isinstance(kind.recipe, FilmRecipe)
    model = kind.build(kind.recipe.sizes, 0)
    assert kind.begin is not None
    kind.begin(model, None)
    old: Any = AutoModelForImageTextToText.from_pretrained(model_path("tiny-qwen2.5-vl"))
    ids = torch.tensor([[10, 20, 30]])
    with torch.inference_mode():
        ours, theirs = (one.eval()(input_ids=ids).logits for one in (model, old))
    assert ours.shape[-1] == theirs.shape[-1] + len(film_words())
    assert torch.equal(ours[..., : theirs.shape[-1]], theirs)


# Tasks


def test_films_are_read_by_datasets_and_have_the_same_bytes_twice(tmp_path: Path) -> None:
    from datasets import load_dataset

    def write(name: str) -> Path:
        return write_films(tmp_path / name, 6, seed=1, kinds=CLIP_KINDS[:2], pairs=False)

    assert write("a.parquet").read_bytes() == write("b.parquet").read_bytes()
    rows = load_dataset(
        "parquet",
        data_files=str(tmp_path / "a.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    for index, row in enumerate(rows):
        about, question = sample_clip(1, index, CLIP_KINDS[:2])
        frames = np.stack([np.asarray(picture) for picture in row["pictures"]])
        assert np.array_equal(frames, about.render())
        assert (row["question"], row["answer"]) == (question.text, question.answer)
        boxes = [list(box) for sightings in question.evidence for _, box in sightings]
        assert row["evidence_boxes"] == boxes
        assert len(row["evidence_pictures"]) == len(row["evidence_objects"]) == len(boxes)


@pytest.fixture(scope="module")
def model() -> Any:
    return load(NAME)


def test_a_clip_is_shown_with_all_frames_and_evidence_at_its_moment(model: Any) -> None:
    benchmark = load_task("scenes_video", 12)
    for row, request in enumerate(benchmark.requests):
        samples = read(model, benchmark, [request])
        frames, fps = samples.shown(0)
        assert (frames, fps) == (list(range(FRAMES)), 8.0)
        layout = samples.layouts[0]
        tokens = len(layout)
        assert {tile.frame for tile in layout.tiles} == set(range(MOMENTS))
        assert tokens in {MOMENTS * w * h // 784 for w, h in CLIP_SIZES}
        masks = samples.evidence(0)
        assert masks is not None
        kinds = tuple(dict.fromkeys(one.question_type for one in benchmark.requests))
        _, question = sample_clip(1, row, [str(kind) for kind in kinds])
        assert len(masks) == len(question.evidence)
        for mask, sightings in zip(masks, question.evidence, strict=True):
            moments = layout.tile[mask].unique().tolist()
            assert moments == sorted({moment for moment, _ in sightings})
        # a moment is one step of time in the model's positions
        inputs = samples.inputs
        assert float(inputs["second_per_grid_ts"][0]) * 4 == 1.0


def test_both_pictures_of_a_pair_have_evidence_of_their_own(model: Any) -> None:
    benchmark = load_task("scenes_pairs", 12)
    sizes = {2 * w * h // 784 for w, h in PAIR_SIZES}
    for request in benchmark.requests:
        samples = read(model, benchmark, [request])
        layout = samples.layouts[0]
        assert len(layout) in sizes
        masks = samples.evidence(0)
        assert masks is not None
        pictures = [set(layout.tile[mask].tolist()) for mask in masks]
        assert all(len(numbers) == 1 for numbers in pictures)
        assert set().union(*pictures) == set(request.evidence_pictures)


@pytest.mark.parametrize("task", ["scenes_video", "scenes_pairs"])
def test_the_shipped_checkpoint_answers_what_the_task_asks(task: str) -> None:
    kinds = {str(one.question_type) for one in load_task(task, 24).requests}
    sample: Callable[..., Any] = sample_clip if kinds <= set(CLIP_KINDS) else sample_pair
    samples = [sample(2, index, sorted(kinds)) for index in range(30 * len(kinds))]
    figures = measure(model_path(NAME), samples)
    assert figures["accuracy"] >= 0.8
    assert min(figures["by_type"].values()) >= 0.7  # of thirty questions
    assert figures["blank"]["accuracy"] <= figures["guess"]["accuracy"] + 0.1


PLACES = {
    "boxes of two objects": ((0, 1), (), [[0], [2]]),
    "boxes of one object": ((0, 1), (5, 5), [[0, 2]]),
    "no such picture": ((0, 2), (), None),
    "nobody knows in which picture": ((), (), None),
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("is_clip", [False, True])
def test_evidence_lies_in_the_picture_that_the_data_name(case: str, is_clip: bool) -> None:
    """Two pictures of two tokens each; the box covers the left one of either."""
    pictures, objects, expected = PLACES[case]
    box = (0.0, 0.0, 10.0, 10.0)
    request = Request("a", 0, "", "", {}, (), (box, box), None, None, pictures, objects)
    if is_clip:
        # of four frames each two are one tile
        frames = np.zeros((4, 10, 20, 3), np.uint8)
        request = replace(request, evidence_pictures=tuple(2 * number for number in pictures))
        parts = [{"type": "video", "video": VideoClip(frames, (0, 1, 2, 3), STRETCH)}]
        layout = Layout((Tile(1, 2, "frame"), Tile(1, 2, "frame", frame=1)))
        sizes: tuple[tuple[int, int], ...] = ()
    else:
        image = Image.new("RGB", (20, 10))
        parts = [{"type": "image", "url": image}] * 2
        layout, sizes = Layout((Tile(1, 2), Tile(1, 2, image=1))), ((20, 10), (20, 10))
    chat = [{"role": "user", "content": parts}]
    masks = Samples((request,), (chat,), {}, (layout,), (sizes,)).evidence(0)
    tokens = None if masks is None else [mask.nonzero()[:, 0].tolist() for mask in masks]
    assert tokens == expected


def test_films_of_both_sorts_in_one_task_are_refused(tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text(
        "task: mine\ndataset_path: parquet\ntest_split: test\n"
        "metadata: {films: {question_types: [moment, picture]}}\n"
    )
    with pytest.raises(TaskError, match=r"question_types is .*picture.*; it is a list of some of"):
        load_task(str(task))
