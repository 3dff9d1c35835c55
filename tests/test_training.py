"""Training of methods: what is learnt from is what is seen at work, runs go on where they stopped, data are read or refused."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prunebench import Budget, Keep, Stage, VisualTokens, models, prune, registry
from prunebench.engine.lora import tuned
from prunebench.models.base import Originals, Unsupported
from prunebench.testbed import Scene, scene
from prunebench.training import DataError, Plan, open_data, train
from prunebench.training.data import Lesson
from prunebench.training.examples import examples, inputs_of, target
from prunebench.training.reinforce import Tuning, exact_match, reinforce

MODELS = ("tiny-qwen2.5-vl", "tiny-llava-next")


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest) -> models.Loaded:
    return models.load(request.param)


def lessons(count: int = 3) -> list[Lesson]:
    return open_data("scenes", 5).batch(0, count)


def test_what_is_learnt_from_is_what_is_seen_at_work(loaded: models.Loaded) -> None:
    """The training pass, with the answer behind the glimpse, shows the method what a session shows it."""
    ready: Any = registry.build("glimpseprune", {"weights": "random"}).prepared(loaded.adapter.facts(loaded.model))
    seen: list[VisualTokens] = []

    def watch(tokens: VisualTokens, _: Stage) -> Keep:
        seen.append(tokens)
        return Keep(torch.arange(len(tokens)))

    watched = replace(ready)
    object.__setattr__(watched, "prune", watch)
    batch = lessons()
    with torch.no_grad():
        with prune(loaded.model, watched):
            loaded.model(**inputs_of(loaded, batch))
        shown = examples(loaded, ready, batch)
    for work, example in zip(seen, shown, strict=True):
        assert work.signals.keys() <= example.tokens.signals.keys()
        for name, value in work.signals.items():
            torch.testing.assert_close(value, example.tokens.signals[name], atol=1e-4, rtol=1e-4)
        assert example.answer_loss is not None
        assert 0 < float(example.answer_loss) < 20


def test_gradients_reach_the_glimpse_and_the_predictor_and_not_the_model(loaded: models.Loaded) -> None:
    loaded.model.requires_grad_(False)
    ready: Any = registry.build("glimpseprune", {"weights": "random"}).prepared(loaded.adapter.facts(loaded.model))
    student = replace(ready, module=ready.module.train().requires_grad_(True))
    loss, figures = student.loss(examples(loaded, student, lessons(1))[0])
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.module.parameters())
    assert all(weight.grad is None for weight in loaded.model.parameters())
    assert set(figures) == {"location_loss", "answer_loss", "iou", "retention"}
    ready.module.zero_grad(set_to_none=True)
    ready.module.eval().requires_grad_(False)


def test_a_target_is_every_token_the_box_touches() -> None:
    loaded = models.load("tiny-qwen2.5-vl")
    about: Scene = scene(1, 1, size=(224, 224))
    lesson = Lesson("a", Image.fromarray(about.render()), "color of 5", "red", ((28.0, 56.0, 57.0, 84.0),))
    inputs = inputs_of(loaded, [lesson])
    (layout,) = loaded.adapter.layouts(loaded.model, inputs, Originals([[(224, 224)]], loaded.processor))
    assert target(layout, lesson).view(8, 8).nonzero().tolist() == [[2, 1], [2, 2]]


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prunebench.cli", "train", "glimpseprune", "steps=6", "batch=2", "held_out=2"]
    whole = subprocess.run([*command, f"out={tmp_path}/whole"], capture_output=True, text=True, timeout=240)
    assert whole.returncode == 0, whole.stderr
    code = (
        "import prunebench.training.loop as loop, os, sys\n"
        "from prunebench.cli import main\n"
        "save = loop.save\n"
        "def stop(out, identity, weights, optimizer, step, seconds):\n"
        "    save(out, identity, weights, optimizer, step, seconds)\n"
        "    if step == 3: os.kill(os.getpid(), 9)\n"
        "loop.save = stop\n"
        "train = loop.train\n"
        "import prunebench.training as t\n"
        "t.train = lambda *a, **k: train(*a, checkpoint_seconds=0.0, **k)\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, *command[3:], f"out={tmp_path}/killed"], capture_output=True, text=True, timeout=240
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = subprocess.run([*command, f"out={tmp_path}/killed"], capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    first, second = (torch.load(tmp_path / run / "weights" / "new_modules_gp.pt") for run in ("whole", "killed"))
    assert torch.equal(first["learnable_embeddings"], second["learnable_embeddings"])
    assert all(torch.equal(first["attn_fuser"][name], second["attn_fuser"][name]) for name in first["attn_fuser"])
    assert (tmp_path / "whole" / "curves.png").stat().st_size > 1000
    told = json.loads((tmp_path / "whole" / "weights" / "config.json").read_text())["trained"]
    assert told["held_out"]["lessons"] == 2
    other = subprocess.run([*command, "seed=1", f"out={tmp_path}/whole"], capture_output=True, text=True, timeout=240)
    assert other.returncode == 2
    assert "choose another folder" in other.stderr


def test_a_method_without_weights_is_not_trained() -> None:
    made = subprocess.run([sys.executable, "-m", "prunebench.cli", "train", "fastv"], capture_output=True, text=True, timeout=240)
    assert made.returncode == 2
    assert "fastv has no weights to train" in made.stderr


# ---- data ---------------------------------------------------------------------------------------------------------


def visual_cot(folder: Path, count: int = 3, **changes: Any) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        Image.new("RGB", (56, 84)).save(folder / "images" / f"{number}.jpg")
        row = {"image": f"{number}.jpg", "question": "what?", "answer": "it", "bboxs": [[1, 2, 30, 40]], "dataset": "gqa"}
        lines.append(json.dumps({**row, **changes}))
    (folder / "gqa.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_visual_cot_is_read_from_disk(tmp_path: Path) -> None:
    data = open_data(str(visual_cot(tmp_path, 45)), 0)
    held = [lesson.name for lesson in data.held_out(10)]
    assert held == ["gqa.jsonl:1", "gqa.jsonl:21", "gqa.jsonl:41"]
    epoch = [lesson.name for lesson in data.batch(0, 42)]
    assert len({*epoch}) == 42
    assert not {*epoch} & {*held}
    assert [lesson.name for lesson in data.batch(1, 42)] == epoch
    lesson = data.batch(0, 1)[0]
    assert (lesson.question, lesson.answer, lesson.boxes, lesson.image.size) == ("what?", "it", ((1, 2, 30, 40),), (56, 84))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bboxs": [[30, 2, 1, 40]]}, "are no boxes"),
        ({"bboxs": []}, "are no boxes"),
        ({"bboxs": None}, "line 1, is no Visual-CoT question"),
        ({"image": None}, "line 1, is no Visual-CoT question"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(str(visual_cot(tmp_path, **changes)), 0)


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \*\.jsonl"):
        open_data(str(tmp_path), 0)
    with pytest.raises(DataError, match="it is 'scenes'"):
        open_data("visual-cot", 0)
    data = open_data(str(visual_cot(tmp_path / "cot")), 0)
    os.remove(tmp_path / "cot" / "images" / "1.jpg")
    with pytest.raises(DataError, match=r"image 1\.jpg of gqa\.jsonl:2 cannot be read"):
        data.batch(0, 3)


def test_it_learns_from_visual_cot(tmp_path: Path) -> None:
    folder = tmp_path / "cot"
    folder.mkdir()
    lines = []
    for number in range(6):
        about = scene(9, number, size=(224, 224))
        Image.fromarray(about.render()).save(folder / f"{number}.png")
        box = list(map(float, about.objects[0].box))
        lines.append(json.dumps({"image": f"{number}.png", "question": "color of 5", "answer": "red", "bboxs": [box]}))
    (folder / "scenes.jsonl").write_text("\n".join(lines))
    method: Any = registry.build("glimpseprune")
    plan = Plan(steps=2, batch=2, held_out=1)
    weights = train(method, models.load("tiny-llava-1.5"), open_data(str(folder), 0), tmp_path / "run", plan)
    assert registry.build("glimpseprune", {"weights": str(weights)}).plan(Budget(0.1, "kv"), 64, 6)[0].keep == 6


# ---- tuning with an adapter ---------------------------------------------------------------------------------------


def test_tuning_gives_an_adapter_that_sessions_wear(tmp_path: Path) -> None:
    settings = Tuning(layer=3, steps=3, batch=2, rank=2, alpha=4, learning_rate=1e-2, max_new_tokens=3, held_out=4)
    fresh = models.load("tiny-llava-1.5")
    turn = itertools.count()
    folder = reinforce(fresh, open_data("scenes", 0), tmp_path / "run", settings, reward=lambda *_: float(next(turn) % 2))
    figures = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert set(figures) == {"lessons", "untuned", "tuned"}
    plain = models.load("tiny-llava-1.5")
    inputs = inputs_of(plain, lessons(1))
    with torch.no_grad():
        before = plain.model(**inputs).logits
        weights = [weight.data_ptr() for weight in plain.model.parameters()]
        with tuned(plain.model, folder):
            worn = plain.model(**inputs).logits
        wanted = fresh.model(**inputs).logits  # still wears peft's own layers
        after = plain.model(**inputs).logits
    torch.testing.assert_close(worn, wanted, atol=1e-4, rtol=1e-4)
    assert (worn - before).abs().max() > 1e-3
    assert torch.equal(before, after)
    assert weights == [weight.data_ptr() for weight in plain.model.parameters()]
    plus = registry.build("glimpseprune_plus", {"weights": "random", "lora": str(folder), "threshold": 0.0})
    with torch.no_grad(), prune(plain.model, plus):
        torch.testing.assert_close(plain.model(**inputs).logits, worn)
    with pytest.raises(DataError, match="other settings"):
        reinforce(models.load("tiny-llava-1.5"), open_data("scenes", 0), tmp_path / "run", replace(settings, seed=1))


def test_folders_without_an_adapter_are_refused(tmp_path: Path) -> None:
    model = models.load("tiny-llava-1.5").model
    with pytest.raises(Unsupported, match="holds no adapter"), tuned(model, tmp_path):
        pass


def test_exact_match_ignores_case() -> None:
    lesson = Lesson("a", None, "what?", "Red", ())
    assert [exact_match(lesson, text) for text in ("red", " RED ", "reddish", "")] == [1.0, 1.0, 0.0, 0.0]


def test_clocks_are_not_needed() -> None:
    """A step's lessons are a function of seed and step."""
    first, second = (open_data("scenes+fine", 3).batch(7, 4) for _ in range(2))
    assert [one.question for one in first] == [one.question for one in second]
    assert [one.image.tobytes() for one in first] == [one.image.tobytes() for one in second]
