"""Training of methods: what is learnt from is what is seen at work, runs go on where they stopped,
data are read or refused.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prunebench import Budget, Keep, Stage, VisualTokens, models, prune, registry
from prunebench.cli import main
from prunebench.engine.lora import tuned
from prunebench.learning.folder import RunError
from prunebench.learning.log import Log
from prunebench.learning.run import open_run
from prunebench.models.base import Originals, Unsupported
from prunebench.testbed import Scene, scene
from prunebench.training import (
    DataError,
    Pace,
    Start,
    TrainSchedule,
    loop,
    open_data,
    train,
)
from prunebench.training.batch import inputs_of, target
from prunebench.training.examples import examples
from prunebench.training.lesson import Lesson
from prunebench.training.reinforce import Tuning, exact_match, reinforce

MODELS = ("tiny-qwen2.5-vl", "tiny-llava-next")


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest) -> models.Loaded:
    return models.load(request.param)


def lessons(count: int = 3) -> list[Lesson]:
    return open_data("scenes", 5).batch(0, count)


def test_what_is_learnt_from_is_what_is_seen_at_work(loaded: models.Loaded) -> None:
    """The training pass, with the answer behind the glimpse, shows the method what a session shows
    it.
    """
    ready: Any = registry.build("glimpseprune", {"weights": "random"}).prepared(
        loaded.family.facts(loaded.model)
    )
    views: list[VisualTokens] = []

    def watch(tokens: VisualTokens, _: Stage) -> Keep:
        views.append(tokens)
        return Keep(torch.arange(len(tokens)))

    watcher = replace(ready)
    object.__setattr__(watcher, "prune", watch)
    batch = lessons()
    with torch.no_grad():
        with prune(loaded.model, watcher):
            loaded.model(**inputs_of(loaded, batch))
        lesson_examples = examples(loaded, ready, batch)
    for work, example in zip(views, lesson_examples, strict=True):
        assert work.signals.keys() <= example.tokens.signals.keys()
        for name, value in work.signals.items():
            torch.testing.assert_close(value, example.tokens.signals[name], atol=1e-4, rtol=1e-4)
        assert example.answer_loss is not None
        assert 0 < float(example.answer_loss) < 20


@pytest.mark.parametrize(
    ("method", "asks"),
    [("gswa", {}), ("igva", {"clip": "tiny-clip"}), ("maskclip", {"clip": "tiny-clip"})],
)
def test_whatever_stands_in_is_learnt_from(
    loaded: models.Loaded, method: str, asks: dict[str, str]
) -> None:
    """Also on an encoder without a CLS token, crops or a CLIP."""
    facts = loaded.family.facts(loaded.model)
    ready: Any = registry.build(method, {"weights": "random", **asks}).prepared(facts)
    student = replace(ready, module=ready.module.train().requires_grad_(True))
    losses = [student.loss(example)[0] for example in examples(loaded, student, lessons())]
    total = torch.stack(losses).sum()
    total.backward()
    assert float(total.detach()) > 0
    assert any(weight.grad.abs().sum() > 0 for weight in student.module.parameters())


def test_gradients_reach_the_glimpse_and_the_predictor_and_not_the_model(
    loaded: models.Loaded,
) -> None:
    loaded.model.requires_grad_(False)
    ready: Any = registry.build("glimpseprune", {"weights": "random"}).prepared(
        loaded.family.facts(loaded.model)
    )
    student = replace(ready, module=ready.module.train().requires_grad_(True))
    loss, figures = student.loss(examples(loaded, student, lessons(1))[0])
    loss.backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for weight in student.module.parameters()
    )
    assert all(weight.grad is None for weight in loaded.model.parameters())
    assert set(figures) == {"location_loss", "answer_loss", "iou", "retention"}
    ready.module.zero_grad(set_to_none=True)
    ready.module.eval().requires_grad_(False)


def test_a_target_is_every_token_the_box_touches() -> None:
    loaded = models.load("tiny-qwen2.5-vl")
    about: Scene = scene(1, 1, size=(224, 224))
    lesson = Lesson(
        "a", Image.fromarray(about.render()), "color of 5", "red", ((28.0, 56.0, 57.0, 84.0),)
    )
    inputs = inputs_of(loaded, [lesson])
    (layout,) = loaded.family.layouts(
        loaded.model, inputs, Originals([[(224, 224)]], loaded.processor)
    )
    assert target(layout, lesson).view(8, 8).nonzero().tolist() == [[2, 1], [2, 2]]


# ---- runs ----------------------------------------------------------------------------------------

SHORT = TrainSchedule(steps=4, batch=1, held_out=1)
LLAVA = "tiny-llava-1.5"


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing costs more than a short training; one test here draws."""
    monkeypatch.setattr(loop, "_curves", lambda rows: b"")


def run(
    out: Path,
    schedule: TrainSchedule = SHORT,
    *,
    seed: int = 0,
    data: str = "scenes",
    start: Start | None = None,
) -> Path:
    """A short run of glimpseprune that saves after every step."""
    method: Any = registry.build("glimpseprune")
    pace = Pace(checkpoint_seconds=0.0)
    return train(method, frozen(), open_data(data, seed), out, schedule, start=start, pace=pace)


@lru_cache
def frozen() -> models.Loaded:
    """The model that all of these runs share, for none changes it."""
    return models.load(LLAVA)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below, but for the seconds that were measured."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {
        name: re.sub(rb'"seconds": \d+|(?m:^(\d+),[\d.]+,)', rb"\1", text)
        for name, text in files.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_curves", lambda rows: b"")
        run(out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.mark.parametrize(
    "moment",
    [
        ("checkpoint.pt", 2, "written"),
        ("checkpoint.pt", 3, "renamed"),
        ("log.csv", 1, "written"),
        ("held_out.json", 1, "renamed"),
        ("weights", 1, "renamed"),
    ],
    ids=lambda moment: " ".join(map(str, moment)),
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    whole: Path, tmp_path: Path, moment: tuple[str, int, str]
) -> None:
    """Killed as the n-th file of that name is about to get its name, or just has; nothing is left
    of what lay half written.
    """
    child = os.fork()
    if child == 0:
        killing(*moment)
        run(tmp_path / "run")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    run(tmp_path / "run")
    expected, ends = content(whole), content(tmp_path / "run")
    expected.pop("checkpoint.pt"), ends.pop("checkpoint.pt")  # holds seconds, too
    assert ends == expected


def killing(name: str, number: int, when: str) -> None:
    """Let this process die at a rename."""
    replace_file, rename, count = os.replace, Path.rename, itertools.count(1)

    def die(at: str, target: Any) -> None:
        if when == at and Path(target).name == name and (at == "renamed" or next(count) == number):
            if at == "renamed" and next(count) < number:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    def replacing(source: Any, target: Any) -> None:
        die("written", target)
        replace_file(source, target)
        die("renamed", target)

    def renaming(self: Path, target: Any) -> Path:
        moved = rename(self, target)
        die("renamed", target)
        return moved

    os.replace, Path.rename = replacing, renaming  # type: ignore[assignment,method-assign]


def test_a_finished_run_says_how_it_was_made_and_draws_its_curves(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run(copy)
    assert (copy / "curves.png").stat().st_size > 1000
    about = json.loads((copy / "weights" / "config.json").read_text())["trained"]
    assert about["held_out"]["lessons"] == 1
    assert about["data"]["seed"] == 0
    assert about["schedule"]["steps"] == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": "scenes+fine"}, "data.fine 0.0, not 0.25"),
        ({"seed": 1}, "data.seed 0, not 1"),
        ({"schedule": replace(SHORT, learning_rate=1e-3)}, "learning_rate 0.0001, not 0.001"),
        ({"schedule": replace(SHORT, steps=5)}, "schedule.steps 4, not 5"),
        ({"start": Start({"stream": 32})}, "sizes.stream 64, not 32"),
        ({"start": Start(folder=Path("weights"))}, "start drawn from the seed, not"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_with_another_run_is_refused_and_stays_as_it_was(
    copy: Path, change: dict[str, Any], named: str
) -> None:
    before = content(copy)
    start = change.get("start")
    if start is not None and start.folder is not None:
        change = {"start": Start(folder=copy / start.folder)}
    with pytest.raises(RunError, match=re.escape(named)) as refused:
        run(copy, **change)
    assert "choose another folder" in str(refused.value)
    assert content(copy) == before


def test_data_that_changed_in_place_are_other_data(tmp_path: Path) -> None:
    folder = visual_cot(tmp_path / "cot", 4)
    first = open_data(str(folder), 0).identity()
    Image.new("RGB", (56, 84), "red").save(folder / "images" / "2.jpg")
    assert open_data(str(folder), 0).identity() != first


def test_weights_of_another_model_are_another_run(copy: Path) -> None:
    method: Any = registry.build("glimpseprune")
    with torch.no_grad():
        other = models.load(LLAVA, weights="random")
    with pytest.raises(RunError, match="model_weights"):
        train(method, other, open_data("scenes", 0), copy, SHORT)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, {}, writes=(), folders=(), way_out="x"),
        pytest.raises(RunError, match="another run is writing"),
    ):
        run(tmp_path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Save a checkpoint anew, changed."""
    state = torch.load(path, weights_only=True)
    changed = change(state)
    torch.save(state if changed is None else changed, path)


def flip_a_bit(path: Path) -> None:
    """Of the largest weight: between the records of the archive lies padding, which is not read."""
    data = path.read_bytes()
    weights = torch.load(path, weights_only=True)["weights"]
    largest = max(weights.values(), key=torch.Tensor.numel)
    place = data.index(largest.numpy().tobytes()) + 100
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def edit_a_weight(state: dict[str, Any]) -> None:
    next(iter(state["weights"].values()))[0] = float("nan")


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_link(path: Path) -> None:
    path.rename(path.with_name("real.pt"))
    path.symlink_to("real.pt")


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a bit flipped": flip_a_bit,
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "empty": lambda path: path.write_bytes(b""),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"weights": Path("x")})),
    "a folder": make_a_folder,
    "a link": make_a_link,
    "a pipe": make_a_pipe,
    "weights edited": lambda path: rewrite(path, edit_a_weight),
    "a later step": lambda path: rewrite(path, lambda state: state.update(step=99)),
    "another seal": lambda path: rewrite(path, lambda state: state.update(seal="0" * 64)),
    "no seal": lambda path: rewrite(path, lambda state: state.pop("seal") and None),
    "a key more": lambda path: rewrite(path, lambda state: state.update(more=1)),
    "a key less": lambda path: rewrite(path, lambda state: state.pop("optimizer") and None),
    "a list": lambda path: rewrite(path, lambda state: [state]),
}
"""What may happen to a checkpoint."""


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_nothing_is_written(copy: Path, kind: str) -> None:
    DAMAGE[kind](copy / "checkpoint.pt")
    weights = content(copy / "weights")
    with pytest.raises(
        RunError, match=r"checkpoint\.pt.*remove it, or choose another folder \(out=\)"
    ) as refused:
        run(copy)
    assert len(str(refused.value)) <= 280
    assert content(copy / "weights") == weights


@pytest.mark.parametrize(
    "log", [None, b"", b"step\nnope\n", b"\xff\x00", b"step,seconds\n1,2\n1,2\n"]
)
def test_a_damaged_log_is_written_anew_from_the_checkpoint(
    whole: Path, copy: Path, log: bytes | None
) -> None:
    (copy / "log.csv").unlink()
    if log is not None:
        (copy / "log.csv").write_bytes(log)
    run(copy)
    assert (copy / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()


def test_columns_that_come_later_do_not_shift_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv")
    log.restore([{"step": 1, "loss": 0.5}])
    log.add({"step": 2, "hit": 1.0, "loss": float("nan")})
    log.add({"step": 3, "loss": 0.25})
    assert (tmp_path / "log.csv").read_text().split() == [
        "step,loss,hit",
        "1,0.5,",
        "2,,1",
        "3,0.25,",
    ]


def test_links_and_full_disks_cost_nothing_that_was_saved(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = copy.with_name("outside.csv")
    outside.write_text("mine")
    (copy / "log.csv").unlink()
    (copy / "log.csv").symlink_to(outside)
    with pytest.raises(RunError, match=r"log\.csv is a link"):
        run(copy)
    assert outside.read_text() == "mine"
    (copy / "log.csv").unlink()
    before = content(copy)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        run(copy)
    assert content(copy) == before


# ---- what is no number ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e38, 1e30])
def test_weights_that_are_no_numbers_stop_the_run_before_anything_is_written(
    copy: Path, rate: float
) -> None:
    (copy / "checkpoint.pt").unlink()
    before = content(copy / "weights")
    with pytest.raises(RunError, match=r"step \d: .* is (nan|inf) at a learning rate of"):
        run(copy, replace(SHORT, learning_rate=rate))
    assert content(copy / "weights") == before
    saved = copy / "checkpoint.pt"
    assert not saved.exists() or all(
        w.isfinite().all() for w in torch.load(saved, weights_only=True)["weights"].values()
    )


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_is_named_with_its_step(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = registry.get("glimpseprune")
    loss = method.loss
    count = itertools.count(1)

    def broken(self: Any, example: Any) -> Any:
        value, figures = loss(self, example)
        if next(count) < 3:
            return value, figures
        # the root of 0 is a number, its slope is none
        return (
            (value * float("nan"), figures)
            if where == "loss"
            else (value + (0 * value).sqrt(), figures)
        )

    monkeypatch.setattr(method, "loss", broken)
    with pytest.raises(RunError, match=f"step 3: the {where}.* is (nan|inf)"):
        run(tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.parametrize("error", [SystemExit(0), RuntimeError("oh\nno"), AssertionError()])
def test_whatever_a_method_raises_is_one_line_that_says_where(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(registry.get("glimpseprune"), "loss", broken)
    with pytest.raises(
        RunError, match=rf"step 1 on .* failed with {type(error).__name__}"
    ) as refused:
        run(tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


# ---- options -------------------------------------------------------------------------------------

REFUSED = [
    ("train fastv", "fastv has no weights to train"),
    ("train glimpseprune steps=0", "steps is 0; it is a whole number from 1 to 1,000,000"),
    ("train glimpseprune steps=1000000000", "steps is 1000000000; it is"),
    ("train glimpseprune batch=0", "batch is 0; it is"),
    ("train glimpseprune held_out=-1", "held_out is -1; it is"),
    ("train glimpseprune seed=-1", "seed is -1; it is"),
    ("train glimpseprune seed=1000000000000", "seed is 1000000000000; it is"),
    ("train glimpseprune learning_rate=nan", "learning_rate is nan; it is a number above 0"),
    ("train glimpseprune learning_rate=inf", "learning_rate is inf; it is"),
    ("train glimpseprune learning_rate=0", "learning_rate is 0.0; it is"),
    ("train glimpseprune warmup=2", "warmup is 2.0; it is a number from 0 to 1"),
    ("train glimpseprune device=nope", "device is 'nope'; it is cpu, cuda"),
    ("train glimpseprune device=meta", "device is 'meta'; it is cpu, cuda"),
    ("train glimpseprune dtype=nope", "dtype is 'nope'; it is one of float32"),
    ("train glimpseprune data=/nowhere", "data is '/nowhere'; it is 'scenes'"),
    ("train glimpseprune start=/nowhere", "start /nowhere is no folder"),
    ("train glimpseprune sizes=5", "sizes is 5"),
    ("train glimpseprune sizes.streem=1", "unknown size 'streem'; did you mean 'stream'?"),
    ("train glimpseprune sizes.stream=-1", "sizes.stream is -1"),
    ("train glimpseprune sizes.stream=true", "sizes.stream is True"),
    (
        "train glimpseprune sizes.width=32",
        "glimpseprune's width is 32, but that of tiny-qwen2.5-vl is 160",
    ),
    (
        "train glimpseprune sizes.stream=200000",
        "at most 500,000,000 in 5,000 tensors can be trained",
    ),
    ("train glimpseprune sizes.fuser_heads=3", "failed with"),
    ("train gswa model=tiny-llava-next sizes.blocks=1000000", "tensors; at most"),
    (
        "train glimpseprune glimpseprune.layer=11",
        "glimpseprune prunes at llm:12, but tiny-qwen2.5-vl has layers 0..11",
    ),
    ("train glimpseprune glimpseprune.weights=random", "begin with others by start=FOLDER"),
    ("train glimpseprune out=/dev/null", "folder /dev/null cannot be"),
    ("train glimpseprune out=~nobody-of-that-name/x", "whose home is not known"),
    ("reinforce group=1", "group is 1; it is a whole number from 2"),
    ("reinforce rank=0", "rank is 0; it is"),
    ("reinforce rank=4096", "rank is 4096; the smallest matrix"),
    (
        "reinforce layer=99",
        "layer is 99; of the 12 layers of tiny-qwen2.5-vl it is one from 0 to 10",
    ),
    ("reinforce temperature=0", "temperature is 0.0; it is"),
    ("reinforce dropout=1", "dropout is 1.0; it is"),
    ("testbed train OUT model=nope", "model is 'nope'; it is one of tiny-qwen2.5-vl"),
    ("testbed train OUT vision_steps=-1", "vision_steps is -1; it is"),
    (
        "testbed train OUT vision_steps=0 place_steps=0 joint_steps=0 finish_steps=0",
        "there must be at least one",
    ),
    ("testbed train OUT model=tiny-clip joint_steps=1", "but the recipe of tiny-clip has"),
    ("testbed train OUT model=tiny-llava-next start=/nowhere", "start /nowhere is no folder"),
    ("testbed train OUT seed=10000000", "seed is 10000000; it is"),
    ("testbed train OUT held_out=0", "held_out is 0; it is"),
]


@pytest.mark.parametrize(("command", "message"), REFUSED, ids=[command for command, _ in REFUSED])
def test_an_option_that_cannot_be_is_one_line_with_its_bounds(
    tmp_path: Path,
    command: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.replace("OUT", "run").split()) == 2
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("prunebench: error: ")
    ]
    assert message in line
    assert len(line) <= 300
    assert list(tmp_path.iterdir()) == []


def test_home_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = f"train glimpseprune model={LLAVA} steps=1 batch=1 held_out=0 out=~/run"
    assert main(options.split()) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "weights").is_dir()
    assert not (tmp_path / "~").exists()


def test_a_method_that_holds_another_one_is_trained_with_it_made_ready(tmp_path: Path) -> None:
    """hero's blocks are shares of a depth until it knows the model."""
    method: Any = registry.build("gswa", {"scorer": "hero"})
    train(
        method,
        models.load("tiny-llava-next"),
        open_data("scenes", 0),
        tmp_path,
        TrainSchedule(steps=1, batch=1, held_out=1),
    )
    assert (tmp_path / "weights" / "model.safetensors").is_file()


def test_weights_to_begin_with_bring_their_sizes(copy: Path, tmp_path: Path) -> None:
    short = replace(SHORT, steps=1)
    small = run(tmp_path / "small", short, start=Start({"stream": 32}))
    folder = run(tmp_path / "next", short, start=Start(folder=small))
    assert json.loads((folder / "config.json").read_text())["attn_fuse_size"] == 32
    with pytest.raises(RunError, match=r"sizes\.stream is 64, but start .* has 32"):
        run(tmp_path / "third", start=Start({"stream": 64}, small))
    gswa: Any = registry.build("gswa")
    with pytest.raises(RunError, match="gswa: reading start"):
        train(
            gswa,
            models.load("tiny-llava-next"),
            open_data("scenes", 0),
            tmp_path / "x",
            SHORT,
            start=Start(folder=copy / "weights"),
        )


# ---- data ----------------------------------------------------------------------------------------


def visual_cot(folder: Path, count: int = 3, **changes: Any) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        Image.new("RGB", (56, 84)).save(folder / "images" / f"{number}.jpg")
        row = {
            "image": f"{number}.jpg",
            "question": "what?",
            "answer": "it",
            "bboxs": [[1, 2, 30, 40]],
            "dataset": "gqa",
        }
        lines.append(json.dumps({**row, **changes}))
    (folder / "gqa.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_visual_cot_is_read_from_disk(tmp_path: Path) -> None:
    data = open_data(str(visual_cot(tmp_path, 45)), 0)
    held_out = [lesson.name for lesson in data.held_out(10)]
    assert held_out == ["gqa.jsonl:1", "gqa.jsonl:21", "gqa.jsonl:41"]
    epoch = [lesson.name for lesson in data.batch(0, 42)]
    assert len({*epoch}) == 42
    assert not {*epoch} & {*held_out}
    assert [lesson.name for lesson in data.batch(1, 42)] == epoch
    lesson = data.batch(0, 1)[0]
    assert (lesson.question, lesson.answer, lesson.boxes, lesson.image.size) == (
        "what?",
        "it",
        ((1, 2, 30, 40),),
        (56, 84),
    )


BAD_LINES = [
    ({"bboxs": [[30, 2, 1, 40]]}, "are no boxes"),
    ({"bboxs": []}, "are no boxes"),
    ({"bboxs": None}, "are no boxes"),
    ({"bboxs": [[1, 2, 3]]}, "are no boxes"),
    ({"bboxs": [["1", "2", "30", "40"]]}, "are no boxes"),
    ({"bboxs": [[float("nan"), 2, 30, 40]]}, "are no boxes"),
    ({"bboxs": [[1, 2, float("inf"), 40]]}, "are no boxes"),
    ({"bboxs": [[-40, -40, -3, -2]]}, "lies outside its image, which has 56 x 84 pixels"),
    ({"bboxs": [[500, 2, 530, 40]]}, "lies outside its image"),
    ({"bboxs": [[1, 2, 300, 400]]}, "lies outside its image"),
    ({"image": None}, "its image is None, which is no text"),
    ({"image": []}, "its image is"),
    ({"image": "a\0.jpg"}, "lies nowhere below"),
    ({"image": "x" * 5000}, "lies nowhere below"),
    ({"question": {"a": 1}}, "its question is"),
    ({"question": " "}, "its question is"),
    ({"question": "\ud800"}, "has half a character"),
    ({"answer": True}, "its answer is True"),
]


@pytest.mark.parametrize(
    ("changes", "message"), BAD_LINES, ids=[str(changes)[:40] for changes, _ in BAD_LINES]
)
def test_a_line_that_is_no_question_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        open_data(str(visual_cot(tmp_path, **changes)), 0)
    assert str(refused.value).startswith("gqa.jsonl:1")
    assert len(str(refused.value)) <= 280


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"image": "0.jpg"}', b"9" * 5000, b"nul"]
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: bytes) -> None:
    file = visual_cot(tmp_path) / "gqa.jsonl"
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(DataError, match=r"^gqa\.jsonl:4 is no Visual-CoT question"):
        open_data(str(tmp_path), 0)


def test_lines_end_at_line_feeds_alone_and_images_of_one_name_are_not_confused(
    tmp_path: Path,
) -> None:
    folder = visual_cot(tmp_path, 4, question="what\u2028now?")
    text = (folder / "gqa.jsonl").read_text()
    (folder / "gqa.jsonl").write_text(text.replace("\\u2028", "\u2028"), encoding="utf-8")
    assert {lesson.question for lesson in open_data(str(folder), 0).batch(0, 3)} == {
        "what\u2028now?"
    }
    (folder / "more").mkdir()
    shutil.copy(folder / "images" / "0.jpg", folder / "more" / "0.jpg")
    with pytest.raises(DataError, match=r"image 0\.jpg may be any of 2 files"):
        open_data(str(folder), 0)
    (folder / "gqa.jsonl").write_text(text.replace('"0.jpg"', '"images/0.jpg"'))
    assert len(open_data(str(folder), 0).batch(0, 3)) == 3


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \*\.jsonl"):
        open_data(str(tmp_path), 0)
    with pytest.raises(DataError, match="it is 'scenes'"):
        open_data("visual-cot", 0)
    image = visual_cot(tmp_path / "cot") / "images" / "1.jpg"
    whole = image.read_bytes()
    for bad in (b"", b"no image", whole[:100]):
        image.write_bytes(bad)
        with pytest.raises(DataError, match=r"gqa\.jsonl:2.*image .*1\.jpg.* cannot be read"):
            open_data(str(tmp_path / "cot"), 0)
    image.unlink()
    with pytest.raises(DataError, match=r"gqa\.jsonl:2: image 1\.jpg lies nowhere below"):
        open_data(str(tmp_path / "cot"), 0)
    Image.effect_noise((56, 84), 50).convert("RGB").save(image)
    image.write_bytes(image.read_bytes()[:-1000])  # the head is whole
    with pytest.raises(DataError, match=r"image .*1\.jpg of gqa\.jsonl:2 cannot be read"):
        open_data(str(tmp_path / "cot"), 0).batch(0, 3)


def test_it_learns_from_visual_cot(tmp_path: Path) -> None:
    folder = tmp_path / "cot"
    folder.mkdir()
    lines = []
    for number in range(6):
        about = scene(9, number, size=(224, 224))
        Image.fromarray(about.render()).save(folder / f"{number}.png")
        box = list(map(float, about.objects[0].box))
        lines.append(
            json.dumps(
                {
                    "image": f"{number}.png",
                    "question": "color of 5",
                    "answer": "red",
                    "bboxs": [box],
                }
            )
        )
    (folder / "scenes.jsonl").write_text("\n".join(lines))
    method: Any = registry.build("glimpseprune")
    schedule = TrainSchedule(steps=2, batch=2, held_out=1)
    data = open_data(str(folder), 0)
    weights = train(method, models.load("tiny-llava-1.5"), data, tmp_path / "run", schedule)
    learned = registry.build("glimpseprune", {"weights": str(weights)})
    assert learned.plan(Budget(0.1, "kv"), 64, 6)[0].keep == 6


# ---- tuning with an adapter ----------------------------------------------------------------------


def test_tuning_gives_an_adapter_that_sessions_wear(tmp_path: Path) -> None:
    settings = Tuning(
        layer=3, steps=3, batch=2, rank=2, alpha=4, learning_rate=1e-2, max_new_tokens=3, held_out=4
    )
    fresh = models.load("tiny-llava-1.5")
    turn = itertools.count()
    folder = reinforce(
        fresh,
        open_data("scenes", 0),
        tmp_path / "run",
        settings,
        reward=lambda *_: float(next(turn) % 2),
    )
    figures = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert set(figures) == {"lessons", "untuned", "tuned"}
    plain = models.load("tiny-llava-1.5")
    inputs = inputs_of(plain, lessons(1))
    with torch.no_grad():
        before = plain.model(**inputs).logits
        weights = [weight.data_ptr() for weight in plain.model.parameters()]
        with tuned(plain.model, folder):
            worn = plain.model(**inputs).logits
        tuned_logits = fresh.model(**inputs).logits  # still wears peft's own layers
        after = plain.model(**inputs).logits
    torch.testing.assert_close(worn, tuned_logits, atol=1e-4, rtol=1e-4)
    assert (worn - before).abs().max() > 1e-3
    assert torch.equal(before, after)
    assert weights == [weight.data_ptr() for weight in plain.model.parameters()]
    plus = registry.build(
        "glimpseprune_plus", {"weights": "random", "lora": str(folder), "threshold": 0.0}
    )
    with torch.no_grad(), prune(plain.model, plus):
        torch.testing.assert_close(plain.model(**inputs).logits, worn)
    with pytest.raises(DataError, match="other settings"):
        reinforce(
            models.load("tiny-llava-1.5"),
            open_data("scenes", 0),
            tmp_path / "run",
            replace(settings, seed=1),
        )


def test_folders_without_an_adapter_are_refused(tmp_path: Path) -> None:
    model = models.load("tiny-llava-1.5").model
    with pytest.raises(Unsupported, match="holds no adapter"), tuned(model, tmp_path):
        pass


def test_exact_match_ignores_case() -> None:
    lesson = Lesson("a", None, "what?", "Red", ())
    assert [exact_match(lesson, text) for text in ("red", " RED ", "reddish", "")] == [
        1.0,
        1.0,
        0.0,
        0.0,
    ]


def test_clocks_are_not_needed() -> None:
    """A step's lessons are a function of seed and step."""
    first, second = (open_data("scenes+fine", 3).batch(7, 4) for _ in range(2))
    assert [one.question for one in first] == [one.question for one in second]
    assert [one.image.tobytes() for one in first] == [one.image.tobytes() for one in second]
