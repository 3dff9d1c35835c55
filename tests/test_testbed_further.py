"""A miniature that is trained further: what it begins with, and what its card then says."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prunebench.learning.folder import RunError
from prunebench.testbed import DEFAULT, model_path
from prunebench.testbed.options import MiniatureOptions
from prunebench.testbed.recipe import LvlmRecipe
from prunebench.testbed.tiny_qwen import TinyQwenConfig
from prunebench.testbed.train import train_miniature

SMALL = TinyQwenConfig(
    vision_depth=2, vision_width=32, full_attention=(1,), layers=4, width=40, heads=2, kv_heads=1
)
FIRST = LvlmRecipe(
    vision_steps=1,
    place_steps=0,
    joint_steps=2,
    tokens=64,
    questions=2,
    levels={"color": 1, "side": 2},
    precision="float32",
    sizes=SMALL,
)
AGAIN = replace(FIRST, vision_steps=0, joint_steps=0, finish_steps=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small miniature, exported."""
    options = MiniatureOptions(held_out=2)
    return train_miniature(tmp_path_factory.mktemp("first"), options, recipe=FIRST)


def test_a_miniature_is_trained_further(tmp_path: Path, first: Path) -> None:
    options = MiniatureOptions(held_out=2, seed=1, start=str(first))
    model = train_miniature(tmp_path / "run", options, recipe=AGAIN)
    before, after = (load_file(folder / "model.safetensors") for folder in (first, model))
    eyes = [name for name in before if "visual." in name]
    words = [name for name in before if name not in eyes]
    assert eyes
    assert all(torch.equal(before[name], after[name]) for name in eyes)
    # a step moves a weight by about the learning rate, which is small beside the weights
    moved = torch.cat([(before[name] - after[name]).abs().flatten() for name in words])
    assert 0 < float(moved.max()) < 0.02
    card = (model / "README.md").read_text()
    earlier = (first / "README.md").read_text().partition("## Training\n")[2]
    assert f"## Training\n{earlier.strip()}\n\n## Trained further\n" in card
    assert "2 steps from the weights of that run" in card.replace("\n", " ")
    assert "start=EARLIER seed=1" in card.replace("\n", " ")
    curves = [(model / name).read_text() for name in ("training.csv", "training_further.csv")]
    assert curves[0] == (first / "training.csv").read_text()
    assert next(csv.reader(curves[1].splitlines()))[0] == "step"


def test_a_miniature_without_its_card_is_refused_before_it_is_trained(
    tmp_path: Path, first: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(first, start)
    (start / "README.md").unlink()
    options = MiniatureOptions(start=str(start))
    with pytest.raises(RunError, match=r"cannot begin with start .*: it has no README\.md"):
        train_miniature(tmp_path / "run", options, recipe=AGAIN)
    assert not (tmp_path / "run").exists()


def test_a_start_of_another_kind_is_refused_where_nothing_can_be_taken_from_it(
    tmp_path: Path,
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    options = MiniatureOptions(start=str(start))
    with pytest.raises(RunError, match="the model cannot begin with start"):
        train_miniature(tmp_path / "run", options, recipe=AGAIN)


def test_the_learning_rate_is_an_option() -> None:
    assert MiniatureOptions(learning_rate=1e-4).recipe.learning_rate == 1e-4
    with pytest.raises(ValueError, match="learning_rate"):
        MiniatureOptions(learning_rate=0.0)


def test_the_command_trains_further_and_keeps_what_libraries_say_to_itself(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [f"start={model_path(DEFAULT)}", "held_out=1", "tokens=25", "finish_steps=1"]
    steps = ["vision_steps=0", "place_steps=0", "joint_steps=0"]
    command = [sys.executable, "-m", "prunebench.cli", "testbed", "train", str(out)]
    process = subprocess.run([*command, *words, *steps], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == str(out / "model")
    assert "step 1/1" in process.stderr
    assert "Loading weights" not in process.stderr
    assert "## Trained further" in (out / "model" / "README.md").read_text()
