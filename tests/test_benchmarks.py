"""Benchmarks: scores are lmms-eval's own, and a task that cannot be asked says why in one line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunebench import benchmarks
from prunebench.benchmarks import Benchmark, MediaError, TaskError
from prunebench.benchmarks.quiet import quiet

UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]


def results(doc, answers):
    said, right = answers[0].lower(), doc["answer"]
    pair = {"said": said, "right": right, "score": float(said == right)}
    return {"accuracy": float(said == right), "f1": pair, "submission": pair}


def f1(pairs):
    hits = sum(pair["said"] == pair["right"] == "yes" for pair in pairs)
    said = sum(pair["said"] == "yes" for pair in pairs)
    right = sum(pair["right"] == "yes" for pair in pairs)
    return 2 * hits / (said + right or 1)


def submit(pairs, args):
    with open(args.output_path + "/answers.json", "w") as file:
        file.write(str(len(pairs)))
"""

TASK = """
task: mine
dataset_path: parquet
dataset_kwargs: {data_files: {test: data.parquet}}
output_type: generate_until
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, temperature: 0, until: ["."]}
process_results: !function utils.results
filter_list:
  - name: last
    filter: [{function: regex, regex_pattern: "([a-z]+)$"}, {function: take_first}]
metric_list:
  - {metric: accuracy, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: !function utils.f1, higher_is_better: true}
"""
SUBMISSION = (
    "  - {metric: submission, aggregation: !function utils.submit, higher_is_better: false}\n"
)

ANSWERS = ["yes", "well, yes", "no", "I say no", "maybe", ""]
TRUTH = ["yes", "no", "no", "no", "yes", "yes"]


def png(broken: bool = False) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((56, 56), 50).convert("RGB").save(file, "PNG")
    whole = file.getvalue()
    return whole[: len(whole) // 2] if broken else whole


def write_task(folder: Path, broken: int | None = None, text: str = TASK) -> Path:
    """A task of a user's own: YAML, functions and data; image number `broken` is cut off."""
    from datasets import Dataset, Features, Image, Value

    folder.mkdir(exist_ok=True)
    (folder / "utils.py").write_text(UTILS)
    (folder / "mine.yaml").write_text(text)
    columns = {
        "question_id": [f"q{i}" for i in range(len(TRUTH))],
        "image": [{"bytes": png(i == broken), "path": None} for i in range(len(TRUTH))],
        "question": [f"is it {i}" for i in range(len(TRUTH))],
        "answer": TRUTH,
    }
    features = Features({name: Image() if name == "image" else Value("string") for name in columns})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data.parquet")
    return folder / "mine.yaml"


class Parrot:
    """What lmms-eval takes for a model: says the answers in order."""

    rank, world_size, is_simple = 0, 1, False
    task_dict: dict[str, Any] = {}

    def generate_until(self, requests: list[Any]) -> list[str]:
        return ANSWERS[: len(requests)]

    def clean(self) -> None: ...


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What lmms-eval's own evaluator reports for the answers, from its own loading of the same
    YAML.
    """
    file = write_task(tmp_path_factory.mktemp("task"))
    with quiet():
        from lmms_eval.evaluator import evaluate
        from lmms_eval.tasks import TaskManager, get_task_dict

        manager = TaskManager("ERROR", include_path=[str(file.parent)], include_defaults=False)
        tasks = get_task_dict(["mine"], manager, "chat")
        found = evaluate(
            Parrot(), tasks, bootstrap_iters=0, log_samples=False, process_docs_parallel=1
        )
    return file, found["results"]["mine"]


def test_scores_are_what_lmms_eval_reports(reported: tuple[Path, dict[str, Any]]) -> None:
    file, theirs = reported
    benchmark = benchmarks.load_task(str(file))
    scores = benchmark.score(dict(enumerate(ANSWERS)))
    ours = {m: benchmark.aggregate(m, [scores[i][m] for i in scores]) for m in ("accuracy", "f1")}
    assert ours == {metric: theirs[f"{metric},last"] for metric in ours}
    assert ours["accuracy"] == 0.5
    assert [benchmark.value(scores[i], "accuracy") for i in range(6)] == [
        1.0,
        0.0,
        1.0,
        1.0,
        0.0,
        0.0,
    ]


def test_a_built_in_task() -> None:
    benchmark = benchmarks.load_task("scenes", 6)
    assert [request.question_type for request in benchmark.requests] == [
        "color",
        "shape",
        "number",
        "exist",
        "count",
        "count_by",
    ]
    assert benchmark.primary == "exact_match"
    assert benchmark.higher_is_better("exact_match")
    first = benchmark.requests[0]
    assert len(first.evidence_boxes or ()) == 1
    assert first.generation["max_new_tokens"] == 4
    turn = benchmark.messages(first)[0]["content"]
    assert turn[0]["url"].size == (448, 448)
    assert turn[1] == {"type": "text", "text": first.question}
    right = {
        request.doc_id: request.reference.upper() + "." for request in benchmark.requests[:5]
    } | {5: "?"}
    scores = benchmark.score(right)
    values = [scores[doc_id]["exact_match"] for doc_id in right]
    assert values == [1, 1, 1, 1, 1, 0]
    assert benchmark.aggregate("exact_match", values) == pytest.approx(5 / 6)


def test_what_a_task_logs_stays_out_of_the_terminal(tmp_path: Path) -> None:
    import logging

    from loguru import logger

    file = write_task(tmp_path)
    talk = 'logger.warning("by loguru"); logging.getLogger("lmms-eval").warning("by logging")'
    loud = UTILS.replace("    return [doc", f"    {talk}\n    return [doc")
    loud = loud.replace("    hits =", f"    {talk}\n    hits =")
    (tmp_path / "utils.py").write_text(f"import logging\nfrom loguru import logger\n{loud}")
    lines: list[str] = []
    sink = logger.add(lines.append)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        benchmark = benchmarks.load_task(str(file))
        benchmark.messages(benchmark.requests[0])
        scores = benchmark.score(dict(enumerate(ANSWERS)))
        assert benchmark.aggregate("f1", [scores[i]["f1"] for i in scores]) is not None
    finally:
        logging.getLogger().removeHandler(handler)
        logger.remove(sink)
    assert lines == []


def test_other_questions_are_another_task() -> None:
    prints = {benchmarks.load_task("scenes", limit).fingerprint for limit in (3, 4, 3)}
    assert len(prints) == 2


def test_the_first_image_may_be_the_broken_one(tmp_path: Path) -> None:
    benchmark = benchmarks.load_task(str(write_task(tmp_path, broken=0)))
    with pytest.raises(MediaError, match=r"sample q0 of .* cannot be read"):
        benchmark.messages(benchmark.requests[0])
    assert benchmark.messages(benchmark.requests[1])


def test_a_submission_is_no_metric(tmp_path: Path) -> None:
    benchmark: Benchmark = benchmarks.load_task(
        str(write_task(tmp_path, text=TASK + SUBMISSION)), 2
    )
    scores = benchmark.score({0: "yes", 1: "no"})
    assert benchmark.primary == "accuracy"
    assert benchmark.aggregate("submission", [scores[0]["submission"]]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("task: mine", "tusk: mine"), "names no task"),
        (("utils.visual", "utils.vishual"), "cannot be read"),
        (("output_type: generate_until", "output_type: loglikelihood"), "loglikelihood"),
    ],
)
def test_a_task_file_that_cannot_be_used(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    file = write_task(tmp_path, text=TASK.replace(*change))
    with pytest.raises(TaskError, match=said) as caught:
        benchmarks.load_task(str(file))
    assert "\n" not in str(caught.value)


def test_what_is_listed_is_there() -> None:
    listed = benchmarks.listed()
    names = {entry.name for entry in listed}
    assert {"scenes", "scenes_all", "reading"} <= names
    for entry in listed:
        assert benchmarks.expand(entry.name)
        assert entry.description
    assert benchmarks.expand("scenes_all")[:2] == ["scenes", "scenes_text"]
    assert benchmarks.expand("gqa") == ["gqa"]


def test_one_sample_is_had_without_those_before_it(tmp_path: Path) -> None:
    file = str(write_task(tmp_path))
    benchmark = benchmarks.load_task(file, 1, start=3)
    assert [request.doc_id for request in benchmark.requests] == [3]
    assert benchmark.messages(benchmark.requests[0])
    with pytest.raises(TaskError, match=r"sample is 6, but .* has samples 0..5"):
        benchmarks.load_task(file, 1, start=6)


def test_a_limit_above_what_there_is_means_all(tmp_path: Path) -> None:
    assert len(benchmarks.load_task(str(write_task(tmp_path)), 10**9).requests) == len(TRUTH)


def test_built_in_tasks_make_no_more_than_they_can_soon() -> None:
    with pytest.raises(
        TaskError,
        match="limit is 1000000, and scenes makes 2000 questions at most; use limit=2000",
    ):
        benchmarks.load_task("scenes", 10**6)


@pytest.mark.parametrize(
    ("scenes", "said"),
    [
        ("5", "holds question_types, samples and seed"),
        ("{kind: color}", "holds question_types, samples and seed"),
        ("{question_types: [smell]}", r"question_types is \['smell'\]; it is a list of some of"),
        ("{samples: 1000000000}", "samples is 1000000000; it is a whole number from 1 to 2000"),
        ("{samples: true}", "samples is True"),
        ("{seed: -1}", "seed is -1"),
    ],
)
def test_scenes_that_cannot_be_made(tmp_path: Path, scenes: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ntest_split: test\nmetadata:\n  scenes: {scenes}\n"
    )
    with pytest.raises(TaskError, match=said):
        benchmarks.load_task(str(tmp_path / "mine.yaml"))


# ---- what can be served, read off files ----------------------------------------------------------


TREE = {
    "plain/plain.yaml": "include: _base_yaml\ntask: plain\ntest_split: test\n",
    "plain/_base_yaml": "dataset_path: a/b\ndataset_kwargs: {token: True}\n"
    "doc_to_visual: !function utils.visual\nprocess_results: !function utils.plain\n"
    "metric_list: [{metric: acc, aggregation: mean}]\n",
    "plain/judged.yaml": "include: _base_yaml\ntask: judged\n"
    "process_results: !function utils.judged\n",
    "plain/sent.yaml": "include: _base_yaml\ntask: sent\n"
    "metric_list: [{metric: file, aggregation: !function utils.send}]\n",
    "plain/summed.yaml": "include: _base_yaml\ntask: summed\n"
    "metric_list: [{metric: sum, aggregation: !function utils.add}]\n",
    "plain/likely.yaml": "include: _base_yaml\ntask: likely\noutput_type: loglikelihood\n",
    "plain/lacking.yaml": "include: _base_yaml\ntask: lacking\n"
    "process_results: !function other.plain\n",
    "plain/all.yaml": "group: all\ntask: [plain, {task: judged}]\n",
    "plain/utils.py": "import json\nfrom lmms_eval.tasks.shared import ask\nimport utils\n"
    "def visual(doc):\n    return [doc['image']]\n"
    "def plain(doc, results):\n    return {'acc': 1}\n"
    "def judged(doc, results):\n    return {'acc': _through(doc)}\n"
    "def _through(doc):\n    return ask(doc)\n"
    "def send(results, args):\n    open(args.output_path)\n    return None\n"
    "def add(results, args):\n    return sum(results)\n",
    "plain/other.py": "import no_such_package_anywhere\ndef plain(doc, results):\n    return {}\n",
    "speech/heard.yaml": "task: heard_speech\ndataset_path: c/d\n",
    "shared.py": "import requests\ndef ask(doc):\n    return requests.post('http://judge')\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Task files in lmms-eval's layout, none of which can be imported."""
    from prunebench.benchmarks import served

    for name, text in TREE.items():
        file = tmp_path / "lmms_eval" / "tasks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(served, "_site", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    served.public_tasks.cache_clear()
    yield tmp_path
    served.public_tasks.cache_clear()


@pytest.mark.usefixtures("tree")
def test_what_a_task_asks_for_is_read_off_its_files() -> None:
    from prunebench.benchmarks import served

    tasks = served.public_tasks()
    refusals = {name: task.why_not("OPENAI_API_KEY") for name, task in tasks.items()}
    assert refusals == {
        "all": "a group of 2; name the tasks: plain, judged",
        "heard_speech": "it plays audio",
        "judged": "scored by a judge, and none is configured: set OPENAI_API_KEY",
        "lacking": "needs the package no_such_package_anywhere",
        "likely": "of kind loglikelihood; only generate_until is run",
        "plain": "",
        "sent": "",
        "summed": "",
    }
    assert tasks["judged"].why_not("") == ""
    assert tasks["plain"].notes == "its file asks for a login"
    assert tasks["plain"].media == "image"
    assert "only a file to submit" in tasks["sent"].notes
    assert "only a file to submit" not in tasks["summed"].notes


def test_what_was_read_is_kept_until_a_file_changes(tree: Path) -> None:
    from prunebench.benchmarks import served

    first = served.public_tasks()
    served.public_tasks.cache_clear()
    (kept,) = (tree / "cache" / "prunebench").iterdir()
    assert served.public_tasks() == first
    file = tree / "lmms_eval" / "tasks" / "plain" / "plain.yaml"
    file.write_text(file.read_text() + "output_type: loglikelihood\n")
    served.public_tasks.cache_clear()
    assert "loglikelihood" in served.public_tasks()["plain"].refusal
    kept.write_text("damaged")
    file.write_text(TREE["plain/plain.yaml"])
    served.public_tasks.cache_clear()
    assert served.public_tasks()["plain"].refusal == ""


def test_the_suites_name_tasks_that_can_be_served() -> None:
    """Of the installed lmms-eval, whatever judges."""
    public = benchmarks.public_tasks()
    own = {entry.name for entry in benchmarks.listed() if entry.kind == "task"}
    for suite in benchmarks.listed():
        for name in set(suite.tasks) - own:
            assert public[name].why_not("") == "", f"{suite.name}: {name}"
    # as its scoring has it, which knows that its class asks nobody here
    assert not public["mmbench_en_dev_static"].judge
    assert public["mmbench_en_dev"].judge


def test_tasks_of_other_kinds_say_why_they_are_not_run() -> None:
    """Of the installed lmms-eval: every kind that its tasks have is known, and those with several
    turns say what becomes of a pruned cache, before their data are fetched.
    """
    public = benchmarks.public_tasks()
    kinds = {task.kind for task in public.values()} - {"generate_until", "group"}
    for task in public.values():
        if task.kind in kinds:
            reason = task.refusal.partition("only generate_until is run: ")[2]
            assert reason, task
    rounds = {name for name, task in public.items() if task.kind == "generate_until_multi_round"}
    assert rounds == {"ovo_forward", "mmsearch_end2end"}
    assert "no round goes on from another" in public["ovo_forward"].refusal
    assert "searches the web" in public["mmsearch_end2end"].refusal
    with pytest.raises(TaskError, match="task ovo_forward is of kind generate_until_multi_round"):
        benchmarks.check_access("ovo_forward")


def test_what_needs_its_blind_value(tmp_path: Path) -> None:
    for name in ("scienceqa_img", "mmmu_val", "vizwiz_vqa_val"):
        assert benchmarks.needs_blind(name)
    for name in ("gqa", "pope", "scenes", "docvqa_val"):
        assert not benchmarks.needs_blind(name)
    file = write_task(tmp_path, text=TASK + "metadata: {blind: true}\n")
    assert benchmarks.needs_blind(str(file))
    assert not benchmarks.needs_blind(str(write_task(tmp_path / "other")))
