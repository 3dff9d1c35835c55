"""Several models in one study: each is asked as it would be alone, and one that does not load takes
no other with it.
"""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_benchmarks import TASK, write_task
from torch import nn

from prunebench.models import LoadError, manners
from prunebench.run import runner
from prunebench.run.backend import ModelSetup
from prunebench.run.grid import load
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.testbed import MODELS

MODELS_OF_STUDY = ("tiny-qwen2.5-vl", "tiny-llava-1.5")
OPTIONS = ["methods=random", "budgets=0.5", "limit=2", "controls=false", "cost=false"]


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)

    def __getattr__(self, name: str) -> Any:
        return lambda *values: None


def sweep(models: str, out: Path, watcher: Any = None) -> runner.Outcome:
    return runner.sweep(load(None, [*OPTIONS, f"models={models}", f"out={out}"]), watcher)


def answers(study: Path) -> dict[str, pd.DataFrame]:
    return {
        path.parent.name: pd.read_parquet(path).drop(columns="seconds")
        for path in sorted(study.glob("cells/*/samples.parquet"))
    }


def broken_copy(folder: Path) -> Path:
    """A model whose configuration is whole and whose weights are not there."""
    shutil.copytree(MODELS["tiny-qwen2.5-vl"], folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


def test_each_model_is_asked_as_it_would_be_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []
    load_one = TransformersBackend.load

    def watched(setup: ModelSetup) -> TransformersBackend:
        gc.collect()
        alive.append(sum(module() is not None for module in modules))
        backend = load_one(setup)
        modules.append(weakref.ref(backend.module))
        return backend

    monkeypatch.setattr(TransformersBackend, "load", watched)
    outcome = sweep(",".join(MODELS_OF_STUDY), tmp_path / "both")
    assert set(outcome.statuses.values()) == {"ok"}
    assert alive == [0, 0], "a model is still there when the next is loaded"
    monkeypatch.undo()
    alone: dict[str, pd.DataFrame] = {}
    for model in MODELS_OF_STUDY:
        alone |= answers(sweep(model, tmp_path / model).folder)
    together = answers(outcome.folder)
    assert together.keys() == alone.keys()
    for cell, table in together.items():
        pd.testing.assert_frame_equal(table, alone[cell])


def test_a_further_model_that_is_none_ends_the_sweep_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"unknown model 'tiny-lava-1\.5'"):
        sweep("tiny-qwen2.5-vl,tiny-lava-1.5", tmp_path / "study")
    assert not (tmp_path / "study" / "grid.yaml").exists()


def test_a_further_model_that_does_not_load_takes_no_other_with_it(tmp_path: Path) -> None:
    broken = broken_copy(tmp_path / "broken")
    notes = Notes()
    outcome = sweep(f"tiny-llava-1.5,{broken},tiny-qwen2.5-vl", tmp_path / "study", notes)
    (failed,) = outcome.failed
    assert failed == "broken__random__0.5__scenes__s0"
    assert sorted(outcome.statuses.values()) == ["failed", "ok", "ok"]
    (note,) = notes.texts
    assert note.startswith(f"model {str(broken)[:10]}")
    assert note.endswith("its 1 cell is not asked")
    # mended, the same study goes on
    shutil.copy(MODELS["tiny-qwen2.5-vl"] / "model.safetensors", broken)
    again = sweep(f"tiny-llava-1.5,{broken},tiny-qwen2.5-vl", tmp_path / "study")
    assert again.failed == []


PROMPTS = """
lmms_eval_specific_kwargs:
  default: &usual {post_prompt: ""}
  llava_hf: {}
"""
TEXT = """

def text(doc, kwargs):
    return doc["question"] + kwargs["post_prompt"]
"""


def partial_task(folder: Path) -> Path:
    """A task whose prompt for LLaVA-1.5 lacks what its function reads."""
    text = TASK.replace("doc_to_text: question", "doc_to_text: !function utils.text")
    file = write_task(folder, text=text + PROMPTS)
    (folder / "utils.py").write_text((folder / "utils.py").read_text() + TEXT)
    return file


def test_a_task_that_does_not_load_for_a_further_model_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the miniatures are asked as lmms-eval asks their families, by whose names tasks have prompts
    monkeypatch.setattr(manners, "WORDS", 1)
    task = partial_task(tmp_path / "task")
    models = "models=tiny-qwen2.5-vl,tiny-llava-1.5"
    words = [*OPTIONS, "limit=1", models, f"tasks={task},scenes_text"]
    notes = Notes()
    outcome = runner.sweep(load(None, [*words, f"out={tmp_path / 'study'}"]), notes)
    statuses = {tuple(cell.split("__")[::3]): status for cell, status in outcome.statuses.items()}
    assert statuses == {
        ("tiny-qwen2.5-vl", "mine"): "ok",
        ("tiny-qwen2.5-vl", "scenes_text"): "ok",
        ("tiny-llava-1.5", "mine"): "failed",
        ("tiny-llava-1.5", "scenes_text"): "ok",
    }
    (note,) = [text for text in notes.texts if "post_prompt" in text]
    assert "mine.yaml: its definition does not load (KeyError" in note
    assert note.endswith("its 1 cell is not asked")
    # mended, the same study goes on
    (tmp_path / "task" / "mine.yaml").write_text(task.read_text().replace("hf: {}", "hf: *usual"))
    again = runner.sweep(load(None, [*words, f"out={tmp_path / 'study'}"]))
    assert set(again.statuses.values()) == {"ok"}
