"""Parity: without pruning, a study says what lmms-eval's own command says of the same model and
task: the same answers, and the same numbers.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, Server
from hub.hub import LMMS_EVAL, PRUNEBENCH
from pyarrow import parquet

from prunebench.benchmarks.quiet import quiet

IMAGES = (
    "ai2d",
    "chartqa",
    "docvqa_val",
    "gqa",
    "infovqa_val",
    "mme",
    "mmmu_val",
    "mmstar",
    "ocrbench",
    "pope",
    "realworldqa",
    "scienceqa_img",
    "seedbench",
    "textvqa_val",
    "vizwiz_vqa_val",
)
"""All but those that are asked only where a judge is configured."""

VIDEOS = ("mvbench_action_count", "videomme")
LIMIT = 4
FRAMES = 24
"""Of the hub's films. The wrapper of Qwen3-VL cannot be asked about films with fewer frames than it
shows.
"""

FAMILIES = {
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", (*IMAGES, *VIDEOS)),
    "Qwen/Qwen3-VL-8B-Instruct": ("qwen3_vl", (*IMAGES, *VIDEOS)),
    "llava-hf/llava-1.5-7b-hf": ("llava_hf", IMAGES),
}
"""By model its wrapper, and what it is asked."""

DTYPES = {"qwen2_5_vl": "bfloat16", "qwen3_vl": "bfloat16", "llava_hf": "float16"}
"""What wrappers compute with; that of LLaVA takes what the checkpoint is stored in."""

GUESSING = ("mmmu_val",)
"""Tasks that score an answer without a letter by a letter at random."""


@cache
def data_of(task: str) -> str:
    """The data set of a task of lmms-eval."""
    with quiet():
        from prunebench.benchmarks import lmms

        file = lmms.file_of(task, [])
        assert file is not None
        return str(lmms.definition(task, file)["dataset_path"])


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """A hub whose models say several words, so that answers differ."""
    hub = Hub(tmp_path_factory.mktemp("talkative"), layers=4)
    hub.provide(*FAMILIES, *{data_of(task) for task in (*IMAGES, *VIDEOS)})
    for file in hub.root.glob("models/*/*/generation_config.json"):
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({**settings, "min_new_tokens": 6}))
    return hub


Said = Mapping[str, tuple[dict[int, str], dict[str, float]]]
"""By task the answers by sample, and the numbers by name."""


def theirs(hub: Hub, server: Server, folder: Path, model: str) -> Said:
    """What lmms-eval's command says."""
    wrapper, tasks = FAMILIES[model]
    arguments = f"pretrained={model},device_map=cpu,attn_implementation=sdpa"
    if wrapper.startswith("qwen"):
        arguments += f",max_num_frames={FRAMES}"
    words = ["--model", wrapper, "--model_args", arguments, "--tasks", ",".join(tasks)]
    words += ["--device", "cpu", "--batch_size", "1", "--limit", str(LIMIT)]
    words += ["--log_samples", "--output_path", "theirs"]
    # the reader that qwen-vl-utils would take is installed, but what it stands on may not be
    process = hub.run(
        [*LMMS_EVAL, *words], folder, server, seconds=3000, FORCE_QWENVL_VIDEO_READER="decord"
    )
    assert process.returncode == 0, process.stderr[-3000:]
    (results,) = folder.glob("theirs/**/*results.json")
    numbers = json.loads(results.read_text())["results"]
    by_task = {}
    for task in tasks:
        (samples,) = folder.glob(f"theirs/**/*_samples_{task}.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        # as they were said, before the task's own filters take a letter out; the log leaves that
        # away where both are the same
        answers = {}
        for row in rows:
            raw = row["resps"] if "resps" in row else row["filtered_resps"]
            # a list of one answer, in a list where the log has left nothing away
            while isinstance(raw, list):
                raw = raw[0]
            answers[row["doc_id"]] = str(raw)
        by_task[task] = answers, _numbers(numbers[task])
    return by_task


def _numbers(entries: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a task by name: those of its first filter that are numbers."""
    numbers: dict[str, float] = {}
    for name, value in entries.items():
        metric = name.partition(",")[0]
        if isinstance(value, int | float) and not metric.endswith(("_stderr", "_clt", "samples")):
            numbers.setdefault(metric, float(value))
    return numbers


def ours(hub: Hub, server: Server, folder: Path, model: str) -> Said:
    """What a study says."""
    wrapper, tasks = FAMILIES[model]
    # as lmms-eval is asked: in half precision the padding of a batch changes answers
    words = [f"model={model}", "methods=none", "controls=false", "cost=false", "batch=1"]
    words += [f"tasks={','.join(tasks)}", f"limit={LIMIT}", "out=ours"]
    words.append(f"dtype={DTYPES[wrapper]}")
    if wrapper.startswith("qwen"):
        words.append(f"max_frames={FRAMES}")
    process = hub.run([*PRUNEBENCH, "sweep", *words], folder, server, seconds=3000)
    assert process.returncode == 0, process.stderr[-3000:]
    by_task = {}
    for cell in (folder / "ours" / "cells").iterdir():
        record = json.loads((cell / "cell.json").read_text())
        assert record["status"] == "ok", record["reason"]
        assert record["provenance"]["manner"]["wrapper"] == wrapper
        rows = parquet.read_table(cell / "samples.parquet").to_pylist()
        numbers = {one["metric"]: one["value"] for one in record["metrics"]}
        by_task[record["task"]] = {row["doc_id"]: row["prediction"] for row in rows}, numbers
    return by_task


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="lmms-eval's wrappers import decord"
)
@pytest.mark.parametrize("model", FAMILIES)
def test_none_is_lmms_evals_own_wrapper(talkative: Hub, tmp_path: Path, model: str) -> None:
    with Server(talkative.root) as server:
        expected = theirs(talkative, server, tmp_path, model)
        own = ours(talkative, server, tmp_path, model)
    assert own.keys() == expected.keys()
    different: dict[tuple[str, str], Any] = {}
    for task, (answers, numbers) in expected.items():
        own_answers, own_numbers = own[task]
        if own_answers != answers:
            different[task, "answers"] = own_answers, answers
        if task in GUESSING:
            continue
        for name in own_numbers.keys() & numbers.keys():
            if own_numbers[name] != pytest.approx(numbers[name], abs=1e-9):
                different[task, name] = own_numbers[name], numbers[name]
    assert not different
    # a model that says the same whatever it is asked would show nothing
    texts: set[str] = set()
    for answers, _ in expected.values():
        texts |= set(answers.values())
    assert len(texts) > 5
