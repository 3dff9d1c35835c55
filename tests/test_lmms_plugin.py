"""Inside lmms-eval: the model that its own command finds answers as a sweep does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, Server
from hub.hub import LMMS_EVAL, PRUNEBENCH
from pyarrow import parquet
from test_benchmarks import write_task

from prunebench.benchmarks.quiet import quiet
from prunebench.lmms_plugin.answering import Answers, Unanswered
from prunebench.lmms_plugin.arguments import asking_of
from prunebench.run import grid
from prunebench.run.keys import GridError
from prunebench.run.runner import sweep

TINY = "tiny-qwen2.5-vl"
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
POPE = "lmms-lab-encoder/POPE"


def arguments(**more: Any) -> dict[str, Any]:
    return {"pretrained": TINY, "method": "fastv", "budget": 0.5, **more}


def test_arguments_are_a_grid_of_one_method() -> None:
    # lmms-eval makes a float of "-1" and of "3.0", and an int of a revision that has digits alone
    asking = asking_of(
        arguments(method_layer=1.0, method_positions="compact", revision=123, seed=3, batch_size=4)
    )
    assert asking.grid.models == [TINY]
    assert asking.variant.settings() == {"layer": 1, "positions": "compact"}
    assert (asking.grid.budgets, asking.grid.revision, asking.grid.seed) == (["0.5"], "123", 3)
    assert asking.batch == 4
    assert asking_of(arguments(budget=1.0)).grid.budgets == ["1.0"]  # a share, and not one token
    assert asking_of({"pretrained": TINY, "method": "none"}).variant.name == "none"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metod": "fastv"}, "unknown argument metod; did you mean 'method'"),
        ({"dtyp": "float32"}, "unknown argument dtyp; did you mean 'dtype'"),
        ({"tasks": "pope"}, "lmms-eval's own option is --tasks"),
        ({"method": "fastw"}, "unknown method 'fastw'; did you mean 'fastv'"),
        ({"method_layr": 2}, "did you mean 'layer'"),
        ({"method_layer": "two"}, "layer is 'two'"),
        ({"method": None}, "method is null; write --model_args pretrained=MODEL"),
        ({"budget": None}, "budget is null; write budget=0.25"),
        ({"budget": "most"}, "budget"),
        ({"dtype": "int8"}, "dtype is 'int8'; it is"),
        ({"batch_size": "auto"}, "batch_size is 'auto'; it is a number from 1"),
        ({"device": "tpu"}, "device is 'tpu'; it is"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(more: dict[str, Any], words: str) -> None:
    with pytest.raises(GridError) as refusal:
        asking_of(arguments(**more))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_answers_that_were_made_are_there_when_one_cannot_be_had() -> None:
    def texts() -> Iterator[str]:
        yield from ("a", "b")
        raise Unanswered("sample 2: broken")

    def refused(error: Unanswered) -> None:
        raise SystemExit(str(error))

    answers = Answers(texts(), 3, refused)  # type: ignore[arg-type]  # it never comes back
    stored = []
    with pytest.raises(SystemExit, match="sample 2"):
        for answer in answers:
            stored.append(answer)
    assert stored == answers[:2] == ["a", "b"]
    assert len(answers) == 3


def test_the_evaluator_gets_the_answers_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_task(tmp_path / "task")
    monkeypatch.chdir(file.parent)  # its data are named beside it
    with quiet():
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager

        report = simple_evaluate(
            model="prunebench",
            model_args=f"pretrained={TINY},method=random,budget=0.5,method_positions=compact",
            tasks=["mine"],
            task_manager=TaskManager("ERROR", str(file.parent), include_defaults=False),
            batch_size=4,
            device="cpu",
            bootstrap_iters=0,
            process_docs_parallel=1,
        )
    words = ["methods=random", "random.positions=compact", f"models={TINY}", f"tasks={file}"]
    words += ["budgets=0.5", "controls=false", "cost=false", "batch=4", "out=study"]
    outcome = sweep(grid.load(None, words))
    (cell,) = (outcome.folder / "cells").iterdir()
    rows = parquet.read_table(cell / "samples.parquet").to_pylist()
    logged = {one["doc_id"]: one["resps"][0][0] for one in report["samples"]["mine"]}
    assert logged == {row["doc_id"]: row["prediction"] for row in rows}
    metrics = {
        one["metric"]: one["value"]
        for one in json.loads((cell / "cell.json").read_text())["metrics"]
    }
    assert report["results"]["mine"]["accuracy,last"] == pytest.approx(metrics["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "task", "data"),
    # the second task has a prompt of its own for the family
    [(QWEN, "pope", POPE), ("Qwen/Qwen3-VL-8B-Instruct", "mmstar", "Lin-Chen/MMStar")],
)
def test_lmms_evals_own_command(
    hub: Hub, server: Server, tmp_path: Path, model: str, task: str, data: str
) -> None:
    hub.provide(model, data)
    given = f"pretrained={model},method=divprune,budget=0.25"
    words = ["--model", "prunebench", "--model_args", given, "--tasks", task, "--limit", "6"]
    words += ["--batch_size", "3", "--log_samples", "--output_path", "logs"]
    words += ["--use_cache", str(tmp_path / "responses")]
    process = hub.run([*LMMS_EVAL, *words], tmp_path, server)
    assert process.returncode == 0, process.stderr
    (log,) = tmp_path.rglob(f"*samples_{task}.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    sweep_words = [
        f"models={model}",
        "methods=divprune",
        f"tasks={task}",
        "budgets=0.25",
        "limit=6",
    ]
    sweep_words += ["controls=false", "cost=false", "batch=3", "out=study"]
    own = hub.run([*PRUNEBENCH, "sweep", *sweep_words], tmp_path, server)
    assert own.returncode == 0, own.stderr
    (table,) = (tmp_path / "study").glob("cells/*/samples.parquet")
    rows = parquet.read_table(table).to_pylist()
    answers = {row["doc_id"]: row["prediction"] for row in rows}
    assert {line["doc_id"]: line["filtered_resps"] for line in lines} == answers
    assert len(set(answers.values())) > 1
    again = hub.run([*LMMS_EVAL, *words], tmp_path, server)
    assert again.returncode == 0, again.stderr
    # lmms-eval's cache takes no empty answers
    hits = sum(answer != "" for answer in answers.values())
    assert f"ResponseCache stats: {hits} hits" in again.stdout + again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (f"pretrained={QWEN},metod=divprune", "unknown argument metod; did you mean 'method'"),
        ("pretrained=no/model,method=none", "model no/model"),
        (f"pretrained={QWEN},method=fastv,budget=1", "sample 0 of pope with fastv: budget 1"),
    ],
)
def test_the_command_ends_in_one_line(
    hub: Hub, server: Server, tmp_path: Path, given: str, words: str
) -> None:
    hub.provide(QWEN, POPE)
    command = [*LMMS_EVAL, "--model", "prunebench", "--model_args", given]
    process = hub.run([*command, "--tasks", "pope", "--limit", "2"], tmp_path, server)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("prunebench: error: ")
    assert words in last
