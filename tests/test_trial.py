"""A trial: what a task needs and gives is said before any answer, one line a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.cli import main
from prunebench.run.grid import load
from prunebench.run.trial import tried

UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]


def blank(doc):
    raise KeyError("no such column")


def pairs(doc, answers):
    return {"f1": {"said": answers[0], "right": doc["answer"]}}


def f1(values):
    return 2 * sum(one["said"] == one["right"] for one in values) / (len(values) + 1)


def fails(values):
    raise ZeroDivisionError("by the task")
"""

TASK = """
task: mine
dataset_path: parquet
output_type: generate_until
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {scenes: {samples: 20, seed: 3}}
"""


@pytest.fixture(autouse=True)
def utils(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text(UTILS)


def trial(file: Path, text: str = TASK, *words: str) -> str:
    """The line of the one task."""
    file.write_text(text)
    grid = load(None, [f"tasks={file}", "methods=fastv", "budgets=0.5,0.25", *words])
    model, task = tried(grid)
    assert model.ok
    assert task.ok == (not task.fault)
    return task.line.removeprefix(f"{file}: ")


def test_a_line_says_what_a_task_needs(tmp_path: Path) -> None:
    line = trial(tmp_path / "mine.yaml", TASK, "limit=5")
    assert line == (
        "5 samples; 1 image of 280x280; exact_match; paired statistics; 11 cells, 55 calls"
    )


def test_the_blind_control_counts(tmp_path: Path) -> None:
    blind = TASK.replace("metadata: {", "metadata: {blind: true, ")
    assert "12 cells, 240 calls" in trial(tmp_path / "mine.yaml", blind)


def test_scores_that_come_in_pairs_are_no_paired_statistics(tmp_path: Path) -> None:
    text = TASK.replace("doc_to_target", "process_results: !function utils.pairs\ndoc_to_target")
    metric = "metric_list: [{metric: f1, aggregation: !function utils.f1}]"
    text = text.replace(
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]", metric
    )
    assert "f1; no paired statistics" in trial(tmp_path / "mine.yaml", text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("utils.visual", "utils.blank"), "none of the first 4 samples can be read: .*no such"),
        (("generate_until", "loglikelihood"), "is of kind loglikelihood"),
        (("samples: 20", "samples: -1"), "samples is -1"),
        (("doc_to_text: question", "doc_to_text: tusk_{{nothing}}"), "cannot be asked|nothing"),
    ],
)
def test_what_cannot_be_served_says_why(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    import re

    line = trial(tmp_path / "mine.yaml", TASK.replace(*change))
    assert re.search(reason, line), line
    assert "\n" not in line


def test_one_task_does_not_take_others_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(TASK)
    aggregation = "aggregation: !function utils.fails"
    bad.write_text(
        TASK.replace("task: mine", "task: bad").replace("aggregation: mean", aggregation)
    )
    assert main(["check", f"tasks={bad},{good}", "methods=fastv"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["ok  ", "FAIL", "ok  "]
    assert main(["check", f"tasks={good}", "methods=fastv"]) == 0


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(TASK)
    assert main(["check", f"tasks={file}", f"model={tmp_path / 'nowhere'}"]) == 1
    assert "FAIL model" in capsys.readouterr().out


def test_a_methods_file_is_checked_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "nothing.py")]) != 0
    assert "nothing.py" in capsys.readouterr().err + capsys.readouterr().out
